//! Running a topology: threads, tasks and commits.

mod collector;
mod executor;
mod globals;
pub(crate) mod kept_plan;
mod memory;
mod restore;
mod restore_thread;
mod restores;
mod stores;
mod stream_thread;
mod streams;
mod topic_checks;
mod topic_lookup;
mod topics;
#[cfg(test)]
mod waiting_tests;

pub(crate) use collector::Collector;
pub(crate) use executor::{Call, Executor, LazyExecutor};
pub(crate) use memory::{Held, HeldByAll, Share};
pub use memory::{MemoryPlan, Stores};
pub use restores::RestoreProgress;
pub(crate) use stream_thread::{Pace, Round};
pub use streams::{RunSummary, Streams, StreamsError};
pub(crate) use topic_lookup::TopicLookup;
pub(crate) use topics::{TopicPartitions, changelog, changelog_of, changelog_settings};
