//! A typed record on its way through a topology, and where it came from.

use std::fmt;
use std::sync::Arc;

use crate::log::{Header, Headers, Offset, Timestamp};

/// What a stream may carry: cheap enough to clone where a stream forks, and owned.
pub trait Data: Clone + 'static {}

impl<T: Clone + 'static> Data for T {}

/// A typed record. Nullable keys and values are `Option`s, see [`crate::serde::nullable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<K, V> {
    /// Key.
    pub key: K,
    /// Value.
    pub value: V,
    /// Event time in epoch milliseconds.
    pub timestamp: Timestamp,
    /// Headers; they travel with the record through stateless operators and into the output topic.
    pub headers: Headers,
}

impl<K, V> Record<K, V> {
    /// A record without headers.
    pub fn new(key: K, value: V, timestamp: Timestamp) -> Self {
        Self {
            key,
            value,
            timestamp,
            headers: Headers::new(),
        }
    }

    /// The same record with another key.
    pub fn with_key<K2>(self, key: K2) -> Record<K2, V> {
        Record {
            key,
            value: self.value,
            timestamp: self.timestamp,
            headers: self.headers,
        }
    }

    /// The last header of this name: where a name comes twice, it is the one that counts.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Header> {
        Header::last(&self.headers, name)
    }

    /// The record without its value, and the value.
    pub(crate) fn take_value(self) -> (Record<K, ()>, V) {
        let Self {
            key,
            value,
            timestamp,
            headers,
        } = self;
        let rest = Record {
            key,
            value: (),
            timestamp,
            headers,
        };
        (rest, value)
    }

    /// What is left of the record without key and value, and these.
    pub(crate) fn take_both(self) -> (Record<(), ()>, (K, V)) {
        let (
            Record {
                key,
                timestamp,
                headers,
                ..
            },
            value,
        ) = self.take_value();
        let rest = Record {
            key: (),
            value: (),
            timestamp,
            headers,
        };
        (rest, (key, value))
    }

    /// The same record with the value that `map` makes of key and value.
    pub(crate) fn map_value<V2>(self, map: impl FnOnce(&K, V) -> V2) -> Record<K, V2> {
        let (rest, value) = self.take_value();
        let value = map(&rest.key, value);
        rest.with_value(value)
    }

    /// The same record with another value.
    pub fn with_value<V2>(self, value: V2) -> Record<K, V2> {
        Record {
            key: self.key,
            value,
            timestamp: self.timestamp,
            headers: self.headers,
        }
    }
}

/// Where the record at hand was read; results of punctuators have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordMetadata {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: Offset,
}

impl fmt::Display for RecordMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-{} at offset {}",
            self.topic, self.partition, self.offset
        )
    }
}

/// A task: one partition of one sub-topology. Written `subtopology_partition`, as Kafka Streams does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// Number of the sub-topology, from 0.
    pub subtopology: usize,
    /// Partition number.
    pub partition: i32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.subtopology, self.partition)
    }
}

/// What a table forwards for one key: the value it has now and the one it had before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<V> {
    /// The value now; `None` when the key was deleted.
    pub new: Option<V>,
    /// The value before; `None` when there was none.
    pub old: Option<V>,
}

/// A key in a window of event time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Windowed<K> {
    /// The key.
    pub key: K,
    /// First millisecond of the window; in windows of so many records, the number of the first one.
    pub start: Timestamp,
    /// End of the window in epoch milliseconds: exclusive for tumbling, hopping and unlimited windows, inclusive for
    /// sliding ones and sessions. In windows of so many records, the number behind the last one.
    pub end: Timestamp,
}
