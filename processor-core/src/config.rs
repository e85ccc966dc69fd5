//! How an application runs.

use std::path::PathBuf;
use std::time::Duration;

use state::Backend;

use crate::runtime::Standby;
use crate::task::{OnBadRecord, OnLateRecord, Retries};

/// What a failure may do to results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guarantee {
    /// Outputs, state and input offsets change together, in one transaction per commit.
    #[default]
    ExactlyOnce,
    /// After a failure some input is processed again: results may repeat, none is lost.
    AtLeastOnce,
}

/// Settings of an application. [`StreamsConfig::new`] gives defaults; change what you need.
#[derive(Debug, Clone)]
pub struct StreamsConfig {
    /// Consumer group, and prefix of internal topics and transactional ids. Must not change while state is to be kept.
    pub application_id: String,
    /// Name of this instance among those of the application, for instance a StatefulSet ordinal. Transactional ids
    /// contain it, so a restarted instance settles at once what its predecessor left open. Two live instances must not
    /// share it. `None` makes one up, kept in the state directory if there is one.
    pub instance: Option<String>,
    /// Joins the group as a static member under the instance's name: a restart within the session timeout keeps its
    /// tasks without a rebalance, and with the state directory of before reads no more than the tail of its changelogs.
    /// For a StatefulSet with volumes. While such an instance is away its tasks stand still, as long as its session lasts.
    pub static_membership: bool,
    /// Warm copies of stores of tasks that the next instance runs, for the case that it goes. Needs
    /// [`static_membership`](Self::static_membership), an [`instance`](Self::instance) with its ordinal at the end, and a
    /// [`state_dir`](Self::state_dir). See [`Standby`] for when copies help.
    pub standby: Option<Standby>,
    /// Stream threads; tasks are spread over them.
    pub threads: usize,
    /// Exactly once or at least once.
    pub guarantee: Guarantee,
    /// Time between commits.
    pub commit_interval: Duration,
    /// Memory of this process in bytes, over all stream threads: for changes that are not in the stores yet, their page
    /// cache, records that were read and wait, and the queues of the clients. When its share is full, a commit comes
    /// early, changes are written to the stores, a partition is paused, or a thread waits for the log.
    /// [`MemoryPlan`](crate::MemoryPlan) says how it is divided, and what it does not count; at least 32 MiB for each
    /// thread.
    pub memory_bytes: u64,
    /// Of each thread: bytes sent or changed after which a commit comes early; `None` follows from
    /// [`memory_bytes`](Self::memory_bytes).
    pub commit_bytes: Option<usize>,
    /// Where stores live; `None` keeps them in memory, and a restart reads their changelogs in full.
    pub state_dir: Option<PathBuf>,
    /// The storage engine of the stores in the state directory. A directory belongs to the engine that wrote it: to change
    /// it, delete the `stores` in there, which are then rebuilt from their changelogs.
    pub backend: Backend,
    /// Memory for the caches of the storage engine, for all stores together, in bytes; `None` follows from [`memory_bytes`](Self::memory_bytes).
    pub state_cache_bytes: Option<u64>,
    /// Of each thread: bytes of committed changes that may wait in memory before they are written to the stores. A row
    /// that changes again meanwhile, or whose window closes, is not written at all, so more is faster; it is also what a
    /// restart after a kill replays. `None` follows from [`memory_bytes`](Self::memory_bytes).
    pub apply_bytes: Option<usize>,
    /// Longest time committed changes wait in memory before they are written to the stores.
    pub apply_interval: Duration,
    /// Records waiting in one partition above which it is paused while its partners are read. So it is above its part of
    /// [`memory_bytes`](Self::memory_bytes), whichever comes first.
    pub buffered_records_per_partition: usize,
    /// How long a task waits for an empty input that has more to read, so that co-partitioned inputs are processed in
    /// time order.
    pub max_task_idle: Duration,
    /// Copies of internal topics; ignored by the embedded log.
    pub replication: i32,
    /// How long changelogs of windows and joins keep records beyond what the store needs; `None` keeps them for ever.
    /// Kafka deletes by event time, so input from long ago needs `None`.
    pub windowed_changelog_additional_retention: Option<Duration>,
    /// What sources do with records that cannot be decoded or have no valid timestamp, or one that is too far ahead of its
    /// feed ([`future_bound`](crate::dsl::Consumed::future_bound)). Rows of a global table that cannot
    /// be decoded are skipped where this is `DeadLetter`: every thread reads them, and in no transaction.
    pub on_bad_record: OnBadRecord,
    /// What becomes of a record in whose processing a user's function fails, or a serde: one of a result as well as one of
    /// a stored value.
    ///
    /// A record that is passed over leaves no trace but its dead letter: the transaction is aborted, the input since the
    /// last commit is read again, and the record is left out. So stores, results and stream times are as if it had not
    /// been there, and the order of the others stays. This costs a rewind for each such record, so it is meant for few
    /// of them. With [`Guarantee::AtLeastOnce`] stores are as described, but results that were sent stay sent.
    ///
    /// Faults of the log and of stores are never handled, nor are failures that belong to no record: those of
    /// punctuations, of [`resume`](crate::processor::Processor::resume) and of a commit. They stop the thread.
    pub on_processing_error: OnBadRecord,
    /// What becomes of a record one of whose results the log refuses for good, because it is too large. The same holds as
    /// for [`on_processing_error`](Self::on_processing_error).
    ///
    /// Where nobody can say which record it was, the thread stops: for changes of stores, which are sent when they are
    /// committed; for what punctuations send; and when it is the broker that refuses, and not this client.
    pub on_production_error: OnBadRecord,
    /// What becomes of records that come too late, where nobody reads the late branch of the operator that finds it so.
    pub on_late_record: OnLateRecord,
    /// How often a record is tried again before [`on_processing_error`](Self::on_processing_error) or
    /// [`on_production_error`](Self::on_production_error) decides, `Fail` included. Each attempt aborts the transaction and
    /// reads the input since the last commit again, so nothing is done twice.
    pub processing_retries: Retries,
    /// Where dead letters go. The topic must exist when the application starts, and must not be one that it reads. Needed
    /// where one of the handlers above is [`OnBadRecord::DeadLetter`] or [`OnLateRecord::DeadLetter`].
    pub dead_letter_topic: Option<String>,
    /// How long a record waits for what its serde needs to decode it, such as a schema that is being fetched. Its
    /// partition waits with it, the others go on. Then it counts as one that cannot be decoded.
    pub max_decode_wait: Duration,
    /// Stores that may lose their rows because a change of the topology makes them useless: a start that
    /// [refuses](crate::StreamsError::UnsafeChanges) such a change names them. Their changelogs are deleted then, once;
    /// stores whose change is safe are left alone, whatever stands here. Stop all instances first.
    pub accept_reset: Vec<String>,
    /// How long the log may keep a transaction open before it aborts it.
    pub transaction_timeout: Duration,
}

impl StreamsConfig {
    /// Defaults: one thread, exactly once, commits every 100 ms, state in memory, 512 MiB.
    pub fn new(application_id: impl Into<String>) -> Self {
        Self {
            application_id: application_id.into(),
            instance: None,
            static_membership: false,
            standby: None,
            threads: 1,
            guarantee: Guarantee::ExactlyOnce,
            commit_interval: Duration::from_millis(100),
            memory_bytes: 512 << 20,
            commit_bytes: None,
            state_dir: None,
            backend: Backend::default(),
            state_cache_bytes: None,
            apply_bytes: None,
            apply_interval: Duration::from_secs(10),
            buffered_records_per_partition: 10_000,
            max_task_idle: Duration::from_secs(5),
            replication: 1,
            windowed_changelog_additional_retention: Some(Duration::from_secs(24 * 60 * 60)),
            on_bad_record: OnBadRecord::Fail,
            on_processing_error: OnBadRecord::Fail,
            on_production_error: OnBadRecord::Fail,
            on_late_record: OnLateRecord::Drop,
            processing_retries: Retries::default(),
            dead_letter_topic: None,
            max_decode_wait: Duration::from_secs(60),
            accept_reset: Vec::new(),
            transaction_timeout: Duration::from_secs(30),
        }
    }

    /// Whether a handler sends records to the dead letter topic.
    pub(crate) fn wants_dead_letters(&self) -> bool {
        [
            self.on_bad_record,
            self.on_processing_error,
            self.on_production_error,
        ]
        .contains(&OnBadRecord::DeadLetter)
            || self.on_late_record == OnLateRecord::DeadLetter
    }

    /// The handler that passes over records which failed in the middle of processing, if one does.
    pub(crate) fn passes_over_processed(&self) -> Option<&'static str> {
        let handlers = [
            ("on_processing_error", self.on_processing_error),
            ("on_production_error", self.on_production_error),
        ];
        let mut handlers = handlers.into_iter();
        let (name, _) = handlers.find(|(_, handler)| *handler != OnBadRecord::Fail)?;
        Some(name)
    }

    /// Lets the rows of `store` go if a change of the topology makes them useless.
    #[must_use]
    pub fn accept_reset(mut self, store: impl Into<String>) -> Self {
        self.accept_reset.push(store.into());
        self
    }

    /// Keeps the stores of a [state directory](Self::state_dir) with that storage engine.
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Keeps stores in `directory`.
    #[must_use]
    pub fn state_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(directory.into());
        self
    }
}
