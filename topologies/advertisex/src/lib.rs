//! AdvertiseX: the ad-tech data platform, one binary.
//!
//! Landing files go through [`ingest`] to topics, clicks are credited to impressions by [`attribution`], campaigns are
//! measured per minute by [`campaign_metrics`]. [`topology()`] is all of it in one topology; [`demo`] runs it to the end of a
//! landing directory on the embedded log, `run` goes on for ever on Kafka. Results are topics; [`results`] makes files of
//! them.

pub mod cli;
pub mod demo;
mod duration;
mod plan;
mod progress;
pub mod results;
#[cfg(feature = "kafka")]
pub mod run;
mod size;
pub mod summary;
pub mod topics;
mod topology;
pub mod verify;

pub use topology::{Config, Part, SCHEMAS, topology};
