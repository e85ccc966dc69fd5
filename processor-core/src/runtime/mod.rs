//! Running a topology: threads, tasks and commits.

mod collector;
mod executor;
mod globals;
pub(crate) mod kept_plan;
mod memory;
mod patience;
mod replay;
mod restore;
mod restore_thread;
mod restores;
mod standby;
mod stores;
mod stream_thread;
mod streams;
mod streams_error;
mod tailer;
mod task_owners;
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
pub use standby::{Standby, StandbyStores};
pub(crate) use stream_thread::{END_OFFSET_FRESH_MS, Pace, Round};
pub use streams::{RunSummary, Streams};
pub use streams_error::StreamsError;
pub(crate) use topic_lookup::TopicLookup;
pub(crate) use topics::{TopicPartitions, changelog, changelog_of, changelog_settings};
