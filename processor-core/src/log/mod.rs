//! The one door to a log: topics of partitions, consumer groups and transactions.
//!
//! Small synchronous traits with two real implementations: [`embedded`] (files or memory, no broker) and `kafka`
//! (librdkafka). Both pass the suite in `contract`, so the same topology runs on either.
//!
//! **Rebalances are events, not callbacks.** [`Consumer::poll`] returns [`Polled::Assigned`] or [`Polled::Revoked`] and
//! the caller answers with [`Consumer::assign`] or [`Consumer::release`] once it has committed what it owns. Nothing
//! ever runs inside the client's own threads, so polling, rebalancing and committing are sequenced by one thread.
//!
//! **Commits are split-phase.** [`Producer::begin_commit`] hands the offsets over and returns;
//! [`Producer::poll_commit`] reports the outcome. Between the two the caller may process further records, as long as
//! it sends none.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod embedded;
mod error;
#[cfg(feature = "kafka")]
pub mod kafka;
mod reading;

pub use error::{ErrorClass, LogError};
pub(crate) use reading::stands_still;
pub use reading::{read_partition_to_end, read_to_end};

/// Position of a record in its partition. A *committed* offset is the one to read next.
pub type Offset = i64;

/// Event time in milliseconds since the epoch.
pub type Timestamp = i64;

/// One partition of a topic.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: Arc<str>,
    /// Partition number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A record header. Names repeat from record to record, so they are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Name; need not be unique within a record.
    pub name: Arc<str>,
    /// Value; `None` is Kafka's null.
    pub value: Option<Bytes>,
}

impl Header {
    /// A header of this name and value.
    pub fn new(name: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Self {
            name: name.into(),
            value: Some(value.into()),
        }
    }

    /// The last of `headers` that is called `name`: where a name comes twice, it is the one that counts.
    #[must_use]
    pub fn last<'a>(headers: &'a [Self], name: &str) -> Option<&'a Self> {
        headers.iter().rev().find(|header| *header.name == *name)
    }
}

/// The headers of a record, in order. Empty headers cost no allocation.
pub type Headers = Vec<Header>;

/// A record as read from a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// Its offset.
    pub offset: Offset,
    /// Its event time in epoch milliseconds; negative when the producer set none.
    pub timestamp: Timestamp,
    /// Key bytes; `None` is null.
    pub key: Option<Bytes>,
    /// Value bytes; `None` is null: a tombstone, which is data.
    pub value: Option<Bytes>,
    /// Headers.
    pub headers: Headers,
}

impl ConsumerRecord {
    /// Memory that it holds, in bytes: keys, values, headers, and what a record costs beside them.
    pub(crate) fn held_bytes(&self) -> usize {
        let headers = self
            .headers
            .iter()
            .map(|header| size_of::<Header>() + header.value.as_ref().map_or(0, Bytes::len));
        size_of::<Self>()
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + headers.sum::<usize>()
    }
}

/// A run of records of one partition, in offset order.
#[derive(Debug, Clone)]
pub struct RecordBatch {
    /// Where the records come from.
    pub partition: TopicPartition,
    /// The records; offsets ascend but may have gaps (transaction markers, aborted or compacted records).
    pub records: Vec<ConsumerRecord>,
}

/// A record to append. The partition is always explicit: see `partitioner`.
#[derive(Debug, Clone, Copy)]
pub struct ProducerRecord<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Partition number.
    pub partition: i32,
    /// Event time in epoch milliseconds.
    pub timestamp: Timestamp,
    /// Key bytes.
    pub key: Option<&'a [u8]>,
    /// Value bytes.
    pub value: Option<&'a [u8]>,
    /// Headers.
    pub headers: &'a [Header],
}

/// Which records a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Only records outside transactions and of committed transactions, up to the last stable offset.
    #[default]
    ReadCommitted,
    /// Everything that was appended.
    ReadUncommitted,
}

/// Where to start when a partition has no committed offset, or one that is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OffsetReset {
    /// At the first record.
    #[default]
    Earliest,
    /// After the last record.
    Latest,
}

/// A committed offset with the metadata committed beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The offset to read next.
    pub offset: Offset,
    /// Free text, at most 4,096 bytes on Kafka; ours holds stream times.
    pub metadata: String,
}

/// What [`Consumer::poll`] brought.
#[derive(Debug)]
pub enum Polled {
    /// Nothing arrived within the timeout.
    Nothing,
    /// Records, at least one.
    Records(Vec<RecordBatch>),
    /// The group gave these partitions to this member in addition to what it holds. Answer with
    /// [`Consumer::assign`]; no records of them arrive before.
    Assigned(Vec<TopicPartition>),
    /// The group takes these partitions back. Commit or abort, then answer with [`Consumer::release`].
    Revoked {
        /// The partitions to give up.
        partitions: Vec<TopicPartition>,
        /// They already belong to somebody else (session expired, member fenced): a commit would be refused, so
        /// abort instead, before or after the answer.
        lost: bool,
    },
}

/// Identity of a group member at the moment it was asked for; a transaction carries it so that the log can refuse
/// offsets of a member that has been replaced. Opaque: only the log that made it can read it.
pub struct GroupMetadata(pub(crate) Box<dyn Any + Send>);

impl fmt::Debug for GroupMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupMetadata")
    }
}

/// Options of a consumer.
#[derive(Debug, Clone, Default)]
pub struct ConsumerConfig {
    /// Group to join with [`Consumer::subscribe`] and to keep offsets under; `None` for a reader outside any group.
    pub group: Option<String>,
    /// Identity for static membership (`group.instance.id`); `None` for a dynamic member.
    pub instance_id: Option<String>,
    /// Which records it sees.
    pub isolation: Isolation,
    /// Where it starts without a committed offset.
    pub reset: OffsetReset,
    /// Most records a poll returns; 0 means the log's own default.
    pub max_poll_records: usize,
    /// Memory for records that are fetched ahead, in bytes; 0 means the log's own default. One record larger than that
    /// is fetched all the same.
    pub fetch_bytes: usize,
}

/// Options of a producer.
#[derive(Debug, Clone, Default)]
pub struct ProducerConfig {
    /// Identity that fences an older producer with the same one; `None` for a producer without transactions.
    pub transactional_id: Option<String>,
    /// How long a transaction may stay open, in ms, before the log aborts it; 0 means the log's own default.
    pub transaction_timeout_ms: u64,
    /// Memory for records that are sent and not acknowledged, in bytes; 0 means the log's own default. When it is full,
    /// [`Producer::send`] waits.
    pub send_bytes: usize,
}

/// What happens to old records of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cleanup {
    /// Segments older than the retention go.
    #[default]
    Delete,
    /// The last record of each key stays; a null value removes its key in the end.
    Compact,
    /// Both.
    CompactAndDelete,
}

impl Cleanup {
    /// Its name as Kafka's setting `cleanup.policy` has it.
    #[must_use]
    pub fn policy(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
            Self::CompactAndDelete => "compact,delete",
        }
    }
}

/// How a topic keeps its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicSettings {
    /// Cleanup policy.
    pub cleanup: Cleanup,
    /// How long records are kept, in ms of event time; `None` for ever.
    pub retention_ms: Option<i64>,
    /// Up to how many bytes of a partition are kept; `None` is any number.
    pub retention_bytes: Option<i64>,
}

/// A topic to create.
#[derive(Debug, Clone)]
pub struct NewTopic {
    /// Topic name.
    pub name: String,
    /// Number of partitions, at least 1.
    pub partitions: i32,
    /// Cleanup policy.
    pub cleanup: Cleanup,
    /// How long records are kept, in ms of *event time*; `None` keeps them for ever. Kafka deletes by record
    /// timestamp, so replays of old events need `None`.
    pub retention_ms: Option<i64>,
    /// How long, in ms from its timestamp on, compaction leaves a record alone; `None` is not at all.
    pub min_compaction_lag_ms: Option<i64>,
    /// Copies of each partition; ignored by the embedded log.
    pub replication: i32,
}

impl NewTopic {
    /// A topic with `partitions` partitions that keeps everything.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self {
            name: name.into(),
            partitions,
            cleanup: Cleanup::Delete,
            retention_ms: None,
            min_compaction_lag_ms: None,
            replication: 1,
        }
    }

    /// The same topic with `cleanup`.
    #[must_use]
    pub fn cleanup(mut self, cleanup: Cleanup) -> Self {
        self.cleanup = cleanup;
        self
    }
}

/// A log: makes clients that share its topics.
pub trait Log: Send + Sync {
    /// A new consumer.
    ///
    /// # Errors
    /// When the options are refused or the log cannot be reached at all.
    fn consumer(&self, config: ConsumerConfig) -> Result<Box<dyn Consumer>, LogError>;

    /// A new producer. A transactional one must call [`Producer::init_transactions`] first.
    ///
    /// # Errors
    /// When the options are refused or the log cannot be reached at all.
    fn producer(&self, config: ProducerConfig) -> Result<Box<dyn Producer>, LogError>;

    /// Creates the topics that do not exist. An existing topic with the same partition count is left as it is.
    ///
    /// # Errors
    /// When a topic exists with another partition count, or the log refuses.
    fn create_topics(&self, topics: &[NewTopic]) -> Result<(), LogError>;

    /// Deletes topics and their records; unknown ones are skipped.
    ///
    /// # Errors
    /// When the log refuses.
    fn delete_topics(&self, topics: &[&str]) -> Result<(), LogError>;

    /// Number of partitions of `topic`, `None` when there is no such topic.
    ///
    /// # Errors
    /// When the log does not answer.
    fn partitions(&self, topic: &str) -> Result<Option<i32>, LogError>;

    /// How these topics keep their records; those that are not there are left out, and those of which the log says nothing.
    ///
    /// # Errors
    /// When the log does not answer, or refuses to.
    fn settings(&self, topics: &[&str]) -> Result<BTreeMap<String, TopicSettings>, LogError>;

    /// Names of all topics, sorted, without the log's own internal ones.
    ///
    /// # Errors
    /// When the log does not answer.
    fn topics(&self) -> Result<Vec<String>, LogError>;
}

/// A reader. Used by one thread at a time.
pub trait Consumer: Send {
    /// Joins the group with a subscription to `topics`; assignments arrive as [`Polled`] events. Partitions of each
    /// topic are spread by the `range` assignor, which puts equal partition numbers of co-partitioned topics
    /// together.
    ///
    /// # Errors
    /// When there is no group or a topic name is invalid.
    fn subscribe(&mut self, topics: &[&str]) -> Result<(), LogError>;

    /// Waits up to `timeout` for records or a rebalance event. A static member whose place is taken may take it back once:
    /// what it had is lost ([`Polled::Revoked`]), and an assignment follows.
    ///
    /// # Errors
    /// [`ErrorClass::Fenced`] when another member took its place; fatal when the log is gone; retriable for passing faults.
    fn poll(&mut self, timeout: Duration) -> Result<Polled, LogError>;

    /// Adds partitions to what this consumer reads, each from the given offset, or from its committed offset or the
    /// reset policy when `None`. This is the answer to [`Polled::Assigned`], and how a consumer without a
    /// subscription chooses what to read. The answer may name a part of what the group gave, or nothing; the rest
    /// follows when it is wanted. A partition that is read already goes on from the new offset, and is not paused.
    ///
    /// # Errors
    /// When a partition does not exist.
    fn assign(&mut self, partitions: &[(TopicPartition, Option<Offset>)]) -> Result<(), LogError>;

    /// Gives partitions up: the answer to [`Polled::Revoked`]. Buffered records of them are not returned any more, and none of
    /// them is paused when it comes back.
    ///
    /// # Errors
    /// When the log refuses.
    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError>;

    /// Stops returning records of `partitions`; positions stay.
    ///
    /// # Errors
    /// When one of them is not assigned.
    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError>;

    /// Goes on returning records of `partitions`.
    ///
    /// # Errors
    /// When one of them is not assigned.
    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError>;

    /// The next record of `partition` that poll returns is the first at or after `offset`.
    ///
    /// # Errors
    /// When it is not assigned.
    fn seek(&mut self, partition: &TopicPartition, offset: Offset) -> Result<(), LogError>;

    /// The offset after everything that poll returned so far, control records and aborted records included: a
    /// reader that has seen the last visible record of a partition has the (isolation's) end offset as position, so
    /// committing the position leaves no lag. `None` before the first poll after an assign that gave no offset.
    ///
    /// # Errors
    /// When it is not assigned.
    fn position(&self, partition: &TopicPartition) -> Result<Option<Offset>, LogError>;

    /// The stable committed offsets of the group: waits, up to `timeout`, for pending transactions on them.
    ///
    /// # Errors
    /// Retriable when a transaction is still pending at the end of the timeout.
    fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>, LogError>;

    /// Commits offsets outside a transaction, for at-least-once, and waits for the answer.
    ///
    /// # Errors
    /// Abortable when this member was replaced in its group.
    fn commit(&mut self, offsets: &[(TopicPartition, CommittedOffset)]) -> Result<(), LogError>;

    /// First offset that is still there.
    ///
    /// # Errors
    /// When the partition does not exist or the log does not answer within `timeout`.
    fn beginning_offset(
        &self,
        partition: &TopicPartition,
        timeout: Duration,
    ) -> Result<Offset, LogError>;

    /// End of `partition`: the high watermark for [`Isolation::ReadUncommitted`], the last stable offset (start of
    /// the earliest open transaction) for [`Isolation::ReadCommitted`], whatever this consumer's own isolation is.
    ///
    /// # Errors
    /// When the partition does not exist or the log does not answer within `timeout`.
    fn end_offset(
        &self,
        partition: &TopicPartition,
        isolation: Isolation,
        timeout: Duration,
    ) -> Result<Offset, LogError>;

    /// This member's identity now; take it on the polling thread right before the commit that uses it.
    ///
    /// # Errors
    /// When there is no group.
    fn group_metadata(&self) -> Result<GroupMetadata, LogError>;

    /// Leaves the group and frees everything. Partitions still held are given up without an event.
    fn close(self: Box<Self>);
}

/// The outcome of a commit.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    /// For each partition it appended to: the offset after its last record.
    pub next_offsets: Vec<(TopicPartition, Offset)>,
}

/// A writer. Used by one thread at a time.
///
/// Legal orders: `init_transactions (begin_transaction send* (begin_commit poll_commit+ | abort_transaction))*`, or
/// without a transactional id `(send* (begin_commit poll_commit+ | flush))*`.
pub trait Producer: Send {
    /// Takes over the transactional id: fences every older producer with it and settles what that one left open.
    ///
    /// # Errors
    /// Retriable while the coordinator is busy.
    fn init_transactions(&mut self, timeout: Duration) -> Result<(), LogError>;

    /// Starts a transaction.
    ///
    /// # Errors
    /// [`ErrorClass::Fenced`] when a newer producer took the id over.
    fn begin_transaction(&mut self) -> Result<(), LogError>;

    /// Appends a record; may return before the log has it. A full buffer makes it wait.
    ///
    /// # Errors
    /// [`ErrorClass::Rejected`] when this record can never be taken (too large), abortable when the transaction
    /// already failed.
    fn send(&mut self, record: ProducerRecord<'_>) -> Result<(), LogError>;

    /// Waits until everything sent is acknowledged.
    ///
    /// # Errors
    /// The first delivery error since the last flush.
    fn flush(&mut self, timeout: Duration) -> Result<(), LogError>;

    /// Starts to commit: everything sent, and `offsets` of the group of `group`, become visible together or not at
    /// all. `group` was taken from the consumer right before. No [`send`](Self::send) until
    /// [`poll_commit`](Self::poll_commit) has given the outcome. Without a transactional id this is a flush that does not
    /// wait, and `offsets` are not looked at.
    ///
    /// # Errors
    /// Abortable when a record failed or the member was replaced in its group: abort, then rewind.
    fn begin_commit(
        &mut self,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
        group: Option<GroupMetadata>,
    ) -> Result<(), LogError>;

    /// Waits up to `timeout` for the outcome of the commit; `None` while it is in flight.
    ///
    /// # Errors
    /// As for [`begin_commit`](Self::begin_commit). [`ErrorClass::Uncertain`] when the commit may or may not have
    /// happened: this producer is of no further use.
    fn poll_commit(&mut self, timeout: Duration) -> Result<Option<Committed>, LogError>;

    /// Drops everything sent since [`begin_transaction`](Self::begin_transaction).
    ///
    /// # Errors
    /// [`ErrorClass::Uncertain`] when the log did not confirm in time, or requests of this producer may still be under way:
    /// it is of no further use.
    fn abort_transaction(&mut self, timeout: Duration) -> Result<(), LogError>;
}
