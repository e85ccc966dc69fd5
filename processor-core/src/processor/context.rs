//! What a node sees of its task while it processes.

use std::sync::Arc;

use crate::log::Timestamp;
use crate::record::{RecordMetadata, TaskId};
use crate::runtime::Collector;

/// The task at the record at hand.
pub(crate) struct Context<'a> {
    /// The task.
    pub task: TaskId,
    /// Topic the record at hand was read from; `None` in a punctuator.
    pub topic: Option<&'a Arc<str>>,
    /// Offset of the record at hand, 0 in a punctuator.
    pub offset: i64,
    /// Largest timestamp of the records this task has taken so far; −1 before the first.
    pub stream_time: Timestamp,
    /// Wall-clock time in epoch milliseconds.
    pub wall_ms: i64,
    /// Behind a repartition topic: the minimum over the upstream tasks of their times. Operators never take a
    /// record's timestamp for more than this, so a fast upstream partition cannot make a slow one late.
    pub time_bound: Timestamp,
    /// Where results go.
    pub out: &'a mut Collector,
}

impl Context<'_> {
    /// Where the record at hand was read.
    pub(crate) fn metadata(&self) -> Option<RecordMetadata> {
        self.topic.map(|topic| RecordMetadata {
            topic: Arc::clone(topic),
            partition: self.task.partition,
            offset: self.offset,
        })
    }
}
