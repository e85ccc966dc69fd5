//! A task: one partition of one sub-topology, with its input queues, its nodes and its stores.
//!
//! A task is synchronous and owned by one stream thread. It decides nothing about transactions: the thread tells it when
//! to [`seal`](StreamTask::seal), [`settle`](StreamTask::settle) and [`apply`](StreamTask::apply).

mod backlog;
mod failed;
mod future_bound;
mod idle;
mod queue;
mod stream_task;
pub(crate) mod time_header;
mod upstream_times;

pub(crate) use backlog::Buffered;
pub(crate) use failed::LateLetter;
pub(crate) use failed::{DeadLetterTopic, FailedRecords, Handlers};
pub use failed::{OnBadRecord, OnLateRecord, Retries};
pub use future_bound::FutureBound;
pub(crate) use future_bound::Judgement;
pub(crate) use idle::{IdleRule, Idleness, Meanwhile};
pub(crate) use queue::{Head, SourceQueue, TopicQueue, decode, invalid_time};
pub(crate) use stream_task::{Inputs, StoreSlot, StreamTask, TaskParts};
pub(crate) use time_header::{TimeHeader, TimeKind};
pub(crate) use upstream_times::UpstreamTimes;

use crate::error::{Fault, FaultKind};

/// Whether `fault` only says that a serde is [not ready](crate::serde::SerdeError::not_ready).
pub(crate) fn is_not_ready(fault: &Fault) -> bool {
    match fault.kind() {
        FaultKind::Serde { source, .. } => source.is_not_ready(),
        FaultKind::At { source, .. } => is_not_ready(source),
        _ => false,
    }
}
