//! A stream thread: one consumer, one producer, its tasks, and the commit protocol.
//!
//! ```text
//!        ┌─────────────── round ───────────────┐
//!   poll ─▶ queues ─▶ process ─▶ outputs, overlay
//!                       │ commit due
//!                       ▼
//!   seal stores ─▶ changelog ─▶ offsets + group metadata ─▶ begin_commit
//!                       │ rounds go on; what they send waits
//!                       ▼
//!   poll_commit ─▶ settle stores ─▶ (from time to time) apply to the backend, marker last
//! ```
//!
//! Polling, rebalances and commits are sequenced here, by one thread. Before partitions are given up, the commit in flight
//! is waited for and everything open is committed; what cannot be, within a budget, is taken back right behind. Stores are
//! restored beside all of this.

mod commit;
mod input;
mod opening;
mod rebalance;
mod recovery;

pub(crate) use input::END_OFFSET_FRESH_MS;
pub(crate) use recovery::{PATIENCE, PAUSE, may_pass};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use state::{Database, StateDirectory, StateError};

use crate::clock::{Clock, Deadline};
use crate::config::{Guarantee, StreamsConfig};
use crate::error::Result;
use crate::log::{
    CommittedOffset, Consumer, ConsumerConfig, ErrorClass, Isolation, Log, Offset, OffsetReset,
    Polled, ProducerConfig, Timestamp, TopicPartition,
};
use crate::processor::StoreCell;
use crate::record::TaskId;
use crate::task::{FailedRecords, Handlers, StreamTask};
use crate::topology::{StoreId, Topic, Topology};

use super::globals::GlobalTables;
use super::patience::Patience;
use super::restore_thread::{Restoration, RestoreBy};
use super::restores::Restores;
use super::standby::Copies;
use super::tailer::Tailer;
use super::task_owners::{Claims, TaskOwners};
use super::topic_lookup::TopicLookup;
use super::topics::TopicPartitions;
use super::{Collector, Held, HeldByAll, LazyExecutor, MemoryPlan, Share};
use input::Ends;
use opening::OpeningTasks;

/// How long a thread sleeps that has nothing to do but ask a serde again whether it is ready.
const NOT_READY_PAUSE: Duration = Duration::from_millis(5);
/// How long a thread waits for input while tasks are being opened.
const OPENING_PAUSE: Duration = Duration::from_millis(10);
const LOG_TIMEOUT: Duration = Duration::from_secs(30);
/// One budget for everything that a commit, or the group because of it, waits for; then its outcome counts as uncertain.
const COMMIT_BUDGET: Duration = Duration::from_secs(60);

/// What the threads of an application share.
pub(crate) struct Shared {
    pub topology: Topology,
    pub config: StreamsConfig,
    pub log: Arc<dyn Log>,
    pub clock: Arc<dyn Clock>,
    pub database: Arc<dyn Database>,
    pub partitions: TopicPartitions,
    pub lookup: Arc<TopicLookup>,
    /// How often stores were reset.
    pub resets: BTreeMap<String, u32>,
    /// The plan to keep with the first commit; nothing if it is kept already.
    pub new_plan: Option<Arc<[u8]>>,
    /// Name of this instance, for transactional ids.
    pub instance: String,
    /// How memory is divided.
    pub memory: MemoryPlan,
    /// What all threads hold of it.
    pub held: Arc<HeldByAll>,
    /// The restores that are under way.
    pub restores: Restores,
    /// What standby copies are to be kept.
    pub copies: Copies,
    /// The copies that are open.
    pub standbys: Restores,
    /// Who has which task.
    pub owners: TaskOwners,
    /// Set when the application is to stop.
    pub stop: Arc<AtomicBool>,
}

impl Shared {
    /// Whether the application is to stop, or a thread of it has.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Has the next start set the stores aside if `error` is that they are damaged.
    pub(crate) fn mark_if_damaged(&self, error: &StateError) {
        if let Some(directory) = &self.config.state_dir {
            state::mark_if_damaged(&StateDirectory::stores_of(directory), error);
        }
    }
}

/// What a round achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// Records were read or taken, or a commit moved on.
    Worked,
    /// There was nothing to do.
    Idle,
}

/// When a commit begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// When the commit interval is over.
    Interval,
    /// As well as soon as there is nothing else to do.
    Eager,
}

/// See the [module](self).
pub(crate) struct StreamThread {
    shared: Arc<Shared>,
    index: usize,
    consumer: Box<dyn Consumer>,
    out: Collector,
    globals: GlobalTables,
    tasks: BTreeMap<TaskId, StreamTask>,
    opening: OpeningTasks,
    restoration: Restoration,
    /// Behind everything that has a store open: they are dropped in this order.
    claims: Claims,
    /// For restores, until all of them are there.
    restore_patience: Patience,
    /// For what is repaired by reading again, until something is committed.
    repair_patience: Patience,
    assigned: BTreeSet<TopicPartition>,
    /// The task whose turn is next, where the last round ended early.
    next_turn: Option<TaskId>,
    /// What the consumer was told to read: of `assigned` what belongs to tasks that run or ran.
    reading: BTreeSet<TopicPartition>,
    /// Where a partition without committed offset was started, to rewind to.
    first_offsets: HashMap<TopicPartition, Offset>,
    committing: Option<Vec<(TopicPartition, CommittedOffset)>>,
    ends: Ends,
    /// Since when a task waits for an input that has more to come.
    waiting_since: HashMap<TopicPartition, i64>,
    paused: BTreeSet<TopicPartition>,
    /// The plan, until a transaction has taken it.
    new_plan: Option<Arc<[u8]>>,
    last_commit_ms: i64,
    last_apply_ms: i64,
    last_sync_ms: i64,
    taken: u64,
    rewinds: u64,
    /// What this thread holds in memory, for those who ask the application.
    share: Share,
    /// The producer is of no further use, and a new one could not be made yet.
    unsettled: bool,
    /// The last fault of a serde that was not ready in the middle of processing, and until when it is repaired.
    unready: Option<(String, Deadline)>,
    executor: LazyExecutor,
    handlers: Handlers,
    failed: FailedRecords,
    /// Nothing is processed while a commit is in flight, so that nothing waits for its end: else a record that is
    /// rejected then comes from nobody knows where.
    in_step: bool,
    /// The standby copies, where it steps them itself.
    tailer: Option<Tailer>,
}

impl StreamThread {
    /// Makes the clients of thread `index` and joins the group.
    pub(crate) fn start(shared: Arc<Shared>, index: usize, by: RestoreBy) -> Result<Self> {
        let globals = GlobalTables::bootstrap(
            &shared.topology,
            &*shared.log,
            &shared.config,
            shared.memory.side_fetch_bytes,
        )?;
        let config = &shared.config;
        let mut consumer = shared.log.consumer(ConsumerConfig {
            group: Some(config.application_id.clone()),
            instance_id: config
                .static_membership
                .then(|| format!("{}-{index}", shared.instance)),
            isolation: Isolation::ReadCommitted,
            reset: OffsetReset::Earliest,
            max_poll_records: 0,
            fetch_bytes: shared.memory.fetch_bytes,
        })?;
        let sources = &shared.topology.plan.sources;
        let topics: Vec<String> = sources
            .iter()
            .map(|source| source.topic.resolve(&config.application_id))
            .collect();
        consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
        // The group forms meanwhile: what a predecessor left open takes a moment to settle.
        let out = producer(&shared, index)?;
        tracing::info!(thread = index, "producer initialised");
        let now = shared.clock.now_ms();
        let new_plan = shared.new_plan.clone();
        let handlers = Handlers::new(config, shared.partitions.dead_letters());
        let share = Share::none(Arc::clone(&shared.held));
        let restoration = Restoration::new(&shared, index, by);
        let tailer = match by {
            RestoreBy::StreamThread => Tailer::new(&shared),
            RestoreBy::OwnThread => None,
        };
        let claims = Claims::of(Arc::clone(&shared), index);
        Ok(Self {
            shared,
            index,
            consumer,
            out,
            globals,
            tasks: BTreeMap::new(),
            opening: OpeningTasks::new(),
            restoration,
            claims,
            restore_patience: Patience::default(),
            repair_patience: Patience::default(),
            assigned: BTreeSet::new(),
            next_turn: None,
            reading: BTreeSet::new(),
            first_offsets: HashMap::new(),
            committing: None,
            ends: Ends::default(),
            waiting_since: HashMap::new(),
            paused: BTreeSet::new(),
            new_plan,
            last_commit_ms: now,
            last_apply_ms: now,
            last_sync_ms: now,
            taken: 0,
            rewinds: 0,
            share,
            unsettled: false,
            unready: None,
            executor: LazyExecutor::default(),
            handlers,
            failed: FailedRecords::default(),
            in_step: false,
            tailer,
        })
    }

    /// Records taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// One round; waits up to `wait` for input if there is nothing else to do. Failures that a rewind can repair are
    /// repaired.
    ///
    /// # Errors
    /// What only a person can repair.
    pub(crate) fn round(&mut self, wait: Duration, pace: Pace) -> Result<Round> {
        match self.try_round(wait, pace) {
            Ok(round) => Ok(round),
            Err(fault) => {
                self.recover(fault)?;
                Ok(Round::Worked)
            }
        }
    }

    /// How often a failure made this thread go back to what is committed.
    pub(crate) fn rewinds(&self) -> u64 {
        self.rewinds
    }

    /// The ends of the inputs are asked for anew: there may be more by now.
    pub(crate) fn forget_ends(&mut self) {
        self.ends.forget_all();
    }

    fn try_round(&mut self, wait: Duration, pace: Pace) -> Result<Round> {
        if self.in_step {
            self.await_commit()?;
        }
        let mut round = self.poll_commit(Duration::ZERO)?;
        let waits = self.tasks.values().any(StreamTask::waits);
        let ready = self
            .tasks
            .values()
            .any(|task| task.buffered() > 0 && !task.waits());
        let wait = match self.out.committing() {
            _ if ready => Duration::ZERO,
            _ if waits => NOT_READY_PAUSE,
            _ if !self.opening.is_empty() => wait.min(OPENING_PAUSE),
            true => wait.min(Duration::from_millis(2)),
            false => wait,
        };
        match self.consumer.poll(wait)? {
            Polled::Nothing => {}
            Polled::Records(batches) => {
                round = Round::Worked;
                self.enqueue(batches)?;
                self.note_held();
            }
            Polled::Assigned(partitions) => {
                round = Round::Worked;
                self.assigned(partitions)?;
            }
            Polled::Revoked { partitions, lost } => {
                round = Round::Worked;
                self.revoked(&partitions, lost)?;
            }
        }
        if let Some(tailer) = &mut self.tailer {
            tailer.step(Duration::ZERO);
        }
        if self.open_tasks()? == Round::Worked {
            round = Round::Worked;
        }
        self.globals.poll(Duration::ZERO)?;
        // Where the order of everything is to follow from the input alone, how long a restore takes must not matter.
        let is_held = pace == Pace::Eager && !self.opening.is_empty();
        if !is_held && self.process(pace)? == Round::Worked {
            round = Round::Worked;
        }
        let held = self.note_held();
        if self.out.committing() && self.shared.memory.room(&held, true).is_none() {
            self.poll_commit(COMMIT_BUDGET)?;
        }
        if self.commit_due(pace, round) && self.begin_commit()? {
            round = Round::Worked;
        }
        self.apply_if_due()?;
        Ok(round)
    }

    /// What this thread holds in memory, of what is counted.
    pub(crate) fn held(&self) -> Held {
        let sum = |of: fn(&StreamTask) -> usize| self.tasks.values().map(of).sum();
        Held {
            dirty: sum(StreamTask::dirty_bytes),
            settled: sum(StreamTask::settled_bytes),
            sent: self.out.bytes(),
            waiting: self.out.waiting_bytes(),
            queued: sum(StreamTask::queued_bytes),
        }
    }

    /// The same, for those who ask the application.
    fn note_held(&mut self) -> Held {
        let held = self.held();
        self.share.set(held.total());
        held
    }

    /// Nothing is buffered, in flight, unread or uncommitted.
    pub(crate) fn quiescent(&mut self) -> Result<bool> {
        if self.out.committing()
            || !self.opening.is_empty()
            || self.tasks.values().any(|task| task.buffered() > 0)
        {
            return Ok(false);
        }
        for partition in &self.assigned {
            let end =
                match self
                    .consumer
                    .end_offset(partition, Isolation::ReadCommitted, LOG_TIMEOUT)
                {
                    Ok(end) => end,
                    // Not known now, so there may be more.
                    Err(error) if error.class == ErrorClass::Retriable => return Ok(false),
                    Err(error) => return Err(error.into()),
                };
            if self.consumer.position(partition)?.unwrap_or(0) < end {
                return Ok(false);
            }
        }
        Ok(!self.needs_commit())
    }

    /// A bounded run has read everything: records that are held until more come are decided about by those that are there.
    /// Whether there are any.
    pub(crate) fn decide_held(&mut self) -> bool {
        let tasks = self.tasks.values_mut().map(StreamTask::decide_held);
        tasks.filter(|held| *held).count() > 0
    }

    /// Tells the tasks of the sub-topologies of `rank` that a bounded run has read everything, each once: `goals` has
    /// how often each will have been told then, and the count is committed with what a task says at the end. So after a
    /// rewind those are told again whose answer is lost, and no others.
    pub(crate) fn end_of_input(
        &mut self,
        rank: usize,
        goals: &mut BTreeMap<TaskId, Timestamp>,
    ) -> Result {
        let now = self.shared.clock.now_ms();
        for (id, task) in &mut self.tasks {
            if self.shared.topology.subtopologies[id.subtopology].rank != rank {
                continue;
            }
            let goal = *goals.entry(*id).or_insert_with(|| task.ends_of_input() + 1);
            if task.ends_of_input() < goal
                && let Err(fault) = task.end_of_input(now, goal, &mut self.out)
            {
                return self.recover(fault);
            }
        }
        Ok(())
    }

    /// Whether the group has given this thread anything yet.
    pub(crate) fn has_tasks(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// How many tasks run.
    pub(crate) fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// Store `id` of the task of `partition`, for tests and queries.
    pub(crate) fn store(&self, id: StoreId, partition: i32) -> Option<&StoreCell> {
        let mut tasks = self
            .tasks
            .values()
            .filter(|task| task.id().partition == partition);
        tasks.find_map(|task| task.store(id))
    }

    /// Commits, writes everything to the stores and leaves the group.
    pub(crate) fn close(mut self) -> Result {
        let committed = self.commit_now();
        if committed.is_err() {
            let _ = self.out.abort(Duration::from_secs(5));
        }
        for task in self.tasks.values_mut() {
            task.apply(&*self.shared.database)?;
        }
        self.tasks.clear();
        self.stop_opening(&self.opening.keys().copied().collect());
        if let Some(tailer) = self.tailer.take() {
            tailer.close();
        }
        self.shared.database.sync()?;
        self.consumer.close();
        committed
    }

    /// Leaves the group and nothing else: after a failure what is not committed is not to be committed any more.
    pub(crate) fn abandon(self) {
        self.consumer.close();
    }
}

/// Makes the producer of thread `index` and settles what its predecessor left open.
fn producer(shared: &Shared, index: usize) -> Result<Collector> {
    let config = &shared.config;
    let transactional = config.guarantee == Guarantee::ExactlyOnce;
    let mut producer = shared.log.producer(ProducerConfig {
        transactional_id: transactional
            .then(|| format!("{}-{}-{index}", config.application_id, shared.instance)),
        send_bytes: shared.memory.send_bytes,
        transaction_timeout_ms: u64::try_from(config.transaction_timeout.as_millis())
            .unwrap_or(u64::MAX),
    })?;
    if transactional {
        let deadline = Deadline::after(config.transaction_timeout + LOG_TIMEOUT);
        loop {
            match producer.init_transactions(LOG_TIMEOUT) {
                Err(error) if error.class == ErrorClass::Retriable && !deadline.passed() => {
                    shared.clock.pass(Duration::from_millis(100));
                }
                result => break result?,
            }
        }
    }
    Ok(Collector::new(producer, transactional))
}

/// The task that reads `partition`.
fn task_of(shared: &Shared, partition: &TopicPartition) -> Option<TaskId> {
    let topology = &shared.topology;
    let application_id = &shared.config.application_id;
    let reads = |source: &usize| {
        let topic: &Topic = &topology.plan.sources[*source].topic;
        match topic {
            Topic::External(name) => **name == *partition.topic,
            _ => topic.resolve(application_id) == *partition.topic,
        }
    };
    let subtopology = topology
        .subtopologies
        .iter()
        .position(|s| s.sources.iter().any(reads))?;
    Some(TaskId {
        subtopology,
        partition: partition.partition,
    })
}

/// The partitions that a task reads.
fn inputs_of(shared: &Shared, id: TaskId) -> Vec<TopicPartition> {
    let topology = &shared.topology;
    topology.subtopologies[id.subtopology]
        .sources
        .iter()
        .map(|&source| {
            let topic = topology.plan.sources[source]
                .topic
                .resolve(&shared.config.application_id);
            TopicPartition::new(topic, id.partition)
        })
        .collect()
}
