//! Partition counts of topics that records choose, which are not known when the application starts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::log::{ErrorClass, Log, LogError};

/// Asks the log about each topic once and remembers the answer, for all threads. A topic that does not exist is asked
/// for again: it may be made meanwhile.
pub(crate) struct TopicLookup {
    log: Arc<dyn Log>,
    partitions: Mutex<HashMap<String, i32>>,
}

impl TopicLookup {
    pub(crate) fn new(log: Arc<dyn Log>) -> Self {
        Self {
            log,
            partitions: Mutex::default(),
        }
    }

    /// Partitions of `topic`.
    ///
    /// # Errors
    /// Of the class `Rejected` when there is no such topic, so that the handler for production errors decides; and what
    /// the log fails with.
    pub(crate) fn partitions(&self, topic: &str) -> Result<i32> {
        if let Some(partitions) = self.known().get(topic) {
            return Ok(*partitions);
        }
        // Without the lock: other threads send to topics that are known.
        let Some(partitions) = self.log.partitions(topic)? else {
            let message = format!(
                "topic '{topic}', which a record chose, does not exist; create it, or choose one of those that exist"
            );
            return Err(LogError::new(ErrorClass::Rejected, message).into());
        };
        self.known().insert(topic.to_owned(), partitions);
        Ok(partitions)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, i32>> {
        let known = self.partitions.lock();
        known.unwrap_or_else(PoisonError::into_inner)
    }
}
