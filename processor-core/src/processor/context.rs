//! What a node sees of its task while it processes.

use std::sync::Arc;

use crate::error::Result;
use crate::log::Timestamp;
use crate::record::{RecordMetadata, TaskId};
use crate::runtime::Collector;
use crate::task::LateLetter;

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
    /// The record at hand as it was read, where one that comes too late is to be kept as a dead letter.
    pub as_read: Option<&'a LateLetter>,
    /// Where results go.
    pub out: &'a mut Collector,
}

impl Context<'_> {
    /// An operator has found the record at hand too late, and nobody reads its late branch: it is kept as a dead letter,
    /// once for all operators, if the application asks for that. Whether it was.
    pub(crate) fn keep_late(&mut self, why: impl FnOnce() -> String) -> Result<bool> {
        let (Some(letter), Some(at)) = (self.as_read, self.metadata()) else {
            return Ok(false);
        };
        letter.send_once(&at, why, self.out)
    }

    /// Where the record at hand was read.
    pub(crate) fn metadata(&self) -> Option<RecordMetadata> {
        self.topic.map(|topic| RecordMetadata {
            topic: Arc::clone(topic),
            partition: self.task.partition,
            offset: self.offset,
        })
    }
}
