//! Options of sources and sinks.

use std::sync::Arc;

use crate::log::{OffsetReset, Timestamp};
use crate::record::Record;
use crate::serde::{Serde, SharedSerde};

/// Chooses the event time of a record; it is given the record with the timestamp the log has for it.
pub type TimestampExtractor<K, V> = Arc<dyn Fn(&Record<K, V>) -> Timestamp + Send + Sync>;

/// How a topic is read.
pub struct Consumed<K, V> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) timestamp: Option<TimestampExtractor<K, V>>,
    pub(crate) reset: OffsetReset,
}

impl<K, V> Consumed<K, V> {
    /// Reads with these serdes, takes the record's own timestamp and starts at the earliest offset.
    pub fn new(key: impl Serde<K> + 'static, value: impl Serde<V> + 'static) -> Self {
        Self {
            key: Arc::new(key),
            value: Arc::new(value),
            timestamp: None,
            reset: OffsetReset::Earliest,
        }
    }

    /// Takes the event time, in epoch milliseconds, from the record. A negative time fails the record.
    #[must_use]
    pub fn timestamp(
        mut self,
        extract: impl Fn(&Record<K, V>) -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        self.timestamp = Some(Arc::new(extract));
        self
    }

    /// Where to start without a committed offset.
    #[must_use]
    pub fn reset(mut self, reset: OffsetReset) -> Self {
        self.reset = reset;
        self
    }
}

/// How a stream is written where its own serdes do not fit or are not known.
pub struct Produced<K, V> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
}

impl<K, V> Produced<K, V> {
    /// Writes with these serdes.
    pub fn new(key: impl Serde<K> + 'static, value: impl Serde<V> + 'static) -> Self {
        Self {
            key: Arc::new(key),
            value: Arc::new(value),
        }
    }
}
