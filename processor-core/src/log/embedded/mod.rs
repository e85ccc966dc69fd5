//! The embedded log: real partitions, groups and transactions in this process, over files or memory.
//!
//! **Guarantees.** What Kafka gives a single cluster: records of a partition keep their order; a transaction's
//! records and offsets become visible together or not at all; an older producer with the same transactional id is
//! fenced; a group's partition has one owner at a time.
//!
//! **Not.** One process only: other processes cannot join. There are no threads of its own: sessions and transaction
//! timeouts are judged by the [`Clock`] whenever somebody calls. A producer buffers what it sends until a batch is
//! full, until [`flush`](Producer::flush) or until the commit.
//!
//! **Time and place.** A durable log is locked by its process until the last clone and client of it is dropped. What a
//! killed process leaves behind is described in `recovery` and `journal`, the files in `directory` and `batch`.
//!
//! **Determinism.** In memory, driven by one thread with polls of [`Duration::ZERO`](std::time::Duration::ZERO), the
//! same calls give the same results in the same order.

mod assignor;
mod audit;
mod batch;
mod clean;
mod compaction;
mod consumer;
mod directory;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod group;
mod journal;
mod partition;
mod producer;
mod reading;
mod record;
mod recovery;
mod segment;
mod segment_reader;
mod segments;
mod state;
#[cfg(test)]
mod tests;
mod transactions;

#[cfg(test)]
pub(crate) use assignor::range;
pub(crate) use audit::Audit;
pub(crate) use batch::TransactionNumber;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::{Clock, Deadline, SteadyClock, SystemClock, millis};
use crate::log::{
    CommittedOffset, Consumer, ConsumerConfig, GroupMetadata, Log, LogError, NewTopic, Producer,
    ProducerConfig, TopicPartition, TopicSettings,
};
use state::State;

/// Options of an embedded log.
#[derive(Clone)]
pub struct Options {
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// A group member that has not polled for this long loses its partitions.
    pub session_timeout: Duration,
    /// How long a transaction may stay open when its producer does not say.
    pub transaction_timeout: Duration,
    /// Largest record, with its key and headers.
    pub max_record_bytes: usize,
    /// A partition starts a new file when the last one reaches this size.
    pub segment_bytes: u64,
    /// How much of the end of each partition stays in memory beside its files.
    pub tail_bytes: usize,
    /// How long a compacted topic keeps a tombstone after it was first cleaned.
    pub tombstone_retention: Duration,
    /// Forces every commit to the disk. Without it a killed process loses nothing; a machine without power may, and the
    /// next opening says so when committed records are gone.
    pub sync: bool,
}

impl Options {
    fn session_timeout_ms(&self) -> i64 {
        millis(self.session_timeout)
    }

    fn limits(&self) -> partition::Limits {
        partition::Limits {
            segment_bytes: self.segment_bytes,
            tail_bytes: self.tail_bytes,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            session_timeout: Duration::from_secs(60),
            transaction_timeout: Duration::from_secs(60),
            max_record_bytes: 8 << 20,
            segment_bytes: 64 << 20,
            tail_bytes: 2 << 20,
            tombstone_retention: Duration::from_secs(24 * 3_600),
            sync: false,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("session_timeout", &self.session_timeout)
            .field("transaction_timeout", &self.transaction_timeout)
            .field("max_record_bytes", &self.max_record_bytes)
            .field("segment_bytes", &self.segment_bytes)
            .field("tail_bytes", &self.tail_bytes)
            .field("tombstone_retention", &self.tombstone_retention)
            .field("sync", &self.sync)
            .finish_non_exhaustive()
    }
}

/// A log inside this process. Clones are the same log.
#[derive(Clone)]
pub struct EmbeddedLog(Arc<Shared>);

impl EmbeddedLog {
    /// An empty log in memory, by the system's clock.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::in_memory_with_options(Options::default())
    }

    /// An empty log in memory, by `clock`.
    #[must_use]
    pub fn in_memory_with(clock: Arc<dyn Clock>) -> Self {
        Self::in_memory_with_options(Options {
            clock,
            ..Options::default()
        })
    }

    /// An empty log in memory.
    #[must_use]
    pub fn in_memory_with_options(options: Options) -> Self {
        Self(Arc::new(Shared::new(State::in_memory(options))))
    }

    /// The durable log in `dir`, made if it is missing.
    ///
    /// # Errors
    /// When another process has it open, or its files cannot be read or are damaged.
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        Self::open_with(dir, Options::default())
    }

    /// The durable log in `dir`, made if it is missing.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(dir: &Path, options: Options) -> Result<Self, LogError> {
        Ok(Self(Arc::new(Shared::new(State::open(dir, options)?))))
    }

    /// Applies retention and compaction now, to all that is decided.
    ///
    /// # Errors
    /// When a file is damaged or cannot be replaced.
    pub fn clean(&self) -> Result<(), LogError> {
        self.0.clean_all()
    }
}

/// For the simulator: what a network and slow brokers do to a log.
impl EmbeddedLog {
    /// A request to commit, as the producer that owns `id` at this moment sends it; `None` if there is none.
    pub(crate) fn commit_request(&self, id: &str) -> Option<EndRequest> {
        let claim = self.0.lock().ok()?.transactions.claim_of(id)?;
        let commit = true;
        Some(EndRequest { claim, commit })
    }

    /// The request arrives: whatever transaction its producer has open now is ended, unless it is fenced.
    pub(crate) fn deliver(&self, request: &EndRequest) {
        let EndRequest { claim, commit } = request;
        let done = self.0.change(|state, _| match commit {
            true => state.commit(claim).map(|_| ()),
            false => state.abort(claim),
        });
        if let Err(error) = done {
            tracing::debug!(%error, "a late request came to nothing");
        }
    }

    /// Metadata with which a commit for `group` is not refused now, whoever asks.
    pub(crate) fn anyones_metadata(&self, group: &str) -> Option<GroupMetadata> {
        let mut state = self.0.lock().ok()?;
        let (group, _) = state.group(&group.into());
        Some(GroupMetadata(Box::new(group.anyone())))
    }

    /// What `group` has committed, pending transactions or not.
    pub(crate) fn unstable_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Option<Vec<Option<CommittedOffset>>> {
        let mut state = self.0.lock().ok()?;
        let (group, _) = state.group(&group.into());
        let offset = |partition| group.unstable_offset(partition).cloned();
        Some(partitions.iter().map(offset).collect())
    }

    /// The transaction that the producer of `id` has open now.
    pub(crate) fn open_transaction(&self, id: &str) -> Option<TransactionNumber> {
        self.0.lock().ok()?.transactions.open_of(id)
    }

    /// What transactions have put on a log in memory, and what `group` has committed. No time passes by this call.
    pub(crate) fn audit(&self, group: &str) -> Option<Audit> {
        Some(self.0.lock().ok()?.audit(group))
    }

    /// Markers of decided transactions reach no partition that `held` holds for, until the next call; nor the offsets of
    /// groups, if `offsets` says so.
    pub(crate) fn hold_markers(
        &self,
        offsets: bool,
        held: &mut dyn FnMut(&TopicPartition) -> bool,
    ) {
        if let Ok(mut state) = self.0.lock() {
            state.hold_markers(offsets, held);
        }
    }
}

/// A request to end a transaction that is still on its way.
#[derive(Debug, Clone)]
pub(crate) struct EndRequest {
    claim: transactions::Claim,
    commit: bool,
}

impl EndRequest {
    /// The same producer's request to abort.
    pub(crate) fn turned_into_abort(self) -> Self {
        let commit = false;
        Self { commit, ..self }
    }
}

impl fmt::Display for EndRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.commit { "commit" } else { "abort" };
        write!(
            f,
            "{what} of {} in epoch {}",
            self.claim.id, self.claim.epoch
        )
    }
}

impl fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmbeddedLog")
    }
}

impl Log for EmbeddedLog {
    fn consumer(&self, config: ConsumerConfig) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(consumer::EmbeddedConsumer::new(
            self.0.clone(),
            config,
        )))
    }

    fn producer(&self, config: ProducerConfig) -> Result<Box<dyn Producer>, LogError> {
        Ok(Box::new(producer::EmbeddedProducer::new(
            self.0.clone(),
            config,
        )))
    }

    fn create_topics(&self, topics: &[NewTopic]) -> Result<(), LogError> {
        self.0.change(|state, _| state.create_topics(topics))
    }

    fn delete_topics(&self, topics: &[&str]) -> Result<(), LogError> {
        self.0.change(|state, _| {
            topics
                .iter()
                .try_for_each(|topic| state.delete_topic(topic))
        })
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, LogError> {
        let state = self.0.lock()?;
        Ok(state.topics.get(topic).map(|t| t.config.partitions))
    }

    fn settings(&self, topics: &[&str]) -> Result<BTreeMap<String, TopicSettings>, LogError> {
        let state = self.0.lock()?;
        let known = |name: &&str| {
            let config = &state.topics.get(*name)?.config;
            let settings = TopicSettings {
                cleanup: config.cleanup,
                retention_ms: config.retention_ms,
                retention_bytes: None,
            };
            Some(((*name).to_owned(), settings))
        };
        Ok(topics.iter().filter_map(known).collect())
    }

    fn topics(&self) -> Result<Vec<String>, LogError> {
        let state = self.0.lock()?;
        Ok(state.topics.keys().map(ToString::to_string).collect())
    }
}

/// The state, its lock, and the way to wait for a change of it.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    clock: Arc<dyn Clock>,
    max_record_bytes: usize,
    transaction_timeout: Duration,
    tombstone_ms: i64,
    cleaning: clean::Cleaning,
    /// Batches need checksums.
    durable: bool,
    /// A flush has to reach the disk.
    sync: bool,
}

impl Shared {
    fn new(state: State) -> Self {
        Self {
            clock: Arc::new(SteadyClock::over(state.options.clock.clone())),
            max_record_bytes: state.options.max_record_bytes,
            transaction_timeout: state.options.transaction_timeout,
            tombstone_ms: millis(state.options.tombstone_retention),
            cleaning: clean::Cleaning::default(),
            sync: state.options.sync,
            durable: state.storage.is_some(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// The state, as it is at this moment.
    fn lock(&self) -> Result<MutexGuard<'_, State>, LogError> {
        self.state.lock().map_err(|_| poisoned())
    }

    /// Runs a transition at the time it is now, and wakes who waits.
    fn change<T>(
        &self,
        transition: impl FnOnce(&mut State, i64) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let now_ms = self.clock.now_ms();
        let mut state = self.lock()?;
        state.tick(now_ms);
        let result = transition(&mut state, now_ms);
        self.wake(&state);
        let rolled = !state.rolled.is_empty();
        drop(state);
        if rolled {
            self.clean_rolled();
        }
        result
    }

    fn wake(&self, state: &State) {
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits for a change, at most until `deadline`. Wakes by itself now and then, because time alone (a session
    /// that expires) can be the change.
    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        deadline: Deadline,
    ) -> Result<MutexGuard<'a, State>, LogError> {
        const SLICE: Duration = Duration::from_millis(100);
        state.waiting += 1;
        let (mut state, _) = self
            .changed
            .wait_timeout(state, deadline.remaining().min(SLICE))
            .map_err(|_| poisoned())?;
        state.waiting -= 1;
        Ok(state)
    }
}

fn poisoned() -> LogError {
    LogError::fatal(
        "the embedded log is unusable: a thread panicked inside it; restart the process",
    )
}
