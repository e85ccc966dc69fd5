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
//! Polling, rebalances and commits are sequenced here, by one thread. Before partitions are given up or a restore
//! begins, the commit in flight is waited for and everything open is committed or aborted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use state::Database;

use crate::clock::{Clock, Deadline, SystemClock};
use crate::config::{Guarantee, StreamsConfig};
use crate::error::{Fault, FaultKind, Result};
use crate::log::{
    CommittedOffset, Consumer, ConsumerConfig, ErrorClass, Isolation, Log, LogError, Offset,
    OffsetReset, Polled, ProducerConfig, RecordBatch, Timestamp, TopicPartition,
};
use crate::processor::{Instantiation, StoreCell, TaskTimes, Work, time_metadata};
use crate::record::TaskId;
use crate::task::{FailedRecords, Handlers, Restorer, StreamTask, TaskParts, is_not_ready};
use crate::topology::{StoreId, Topic, Topology};

use super::Collector;
use super::globals::GlobalTables;
use super::stores::{OpenedStores, open_stores};
use super::topics::TopicPartitions;

/// Records a task takes before the next one has its turn.
const RECORDS_PER_TURN: usize = 1_000;
/// How long the answer of the log about the end of an input is good for.
const END_OFFSET_FRESH_MS: i64 = 50;
/// Bytes that may wait for a commit in flight before the thread waits with them.
const WAITING_BYTES: usize = 16 << 20;
/// How often stores are synced to disk.
const SYNC_INTERVAL_MS: i64 = 2_000;
/// How long a thread sleeps that has nothing to do but ask a serde again whether it is ready.
const NOT_READY_PAUSE: Duration = Duration::from_millis(5);
const LOG_TIMEOUT: Duration = Duration::from_secs(30);
/// One budget for everything a commit may wait for; then its outcome counts as uncertain.
const COMMIT_BUDGET: Duration = Duration::from_secs(60);

/// What the threads of an application share.
pub(crate) struct Shared {
    pub topology: Topology,
    pub config: StreamsConfig,
    pub log: Arc<dyn Log>,
    pub clock: Arc<dyn Clock>,
    pub database: Arc<dyn Database>,
    pub partitions: TopicPartitions,
    /// Name of this instance, for transactional ids.
    pub instance: String,
    /// Changelog records read to bring stores up to date.
    pub restored: AtomicU64,
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
    assigned: BTreeSet<TopicPartition>,
    /// What the consumer was told to read: all of `assigned`, but while tasks are being opened.
    reading: BTreeSet<TopicPartition>,
    /// Where a partition without committed offset was started, to rewind to.
    first_offsets: HashMap<TopicPartition, Offset>,
    committing: Option<Vec<(TopicPartition, CommittedOffset)>>,
    ends: HashMap<TopicPartition, (Offset, i64)>,
    /// Since when a task waits for an input that has more to come.
    waiting_since: HashMap<TopicPartition, i64>,
    paused: BTreeSet<TopicPartition>,
    last_commit_ms: i64,
    last_apply_ms: i64,
    last_sync_ms: i64,
    taken: u64,
    rewinds: u64,
    /// The last fault of a serde that was not ready in the middle of processing, and until when it is repaired.
    unready: Option<(String, Deadline)>,
    handlers: Handlers,
    failed: FailedRecords,
    /// Nothing is processed while a commit is in flight, so that nothing waits for its end: else a record that is
    /// rejected then comes from nobody knows where.
    in_step: bool,
}

impl StreamThread {
    /// Makes the clients of thread `index` and joins the group.
    pub(crate) fn start(shared: Arc<Shared>, index: usize) -> Result<Self> {
        let globals = GlobalTables::bootstrap(&shared.topology, &*shared.log, &shared.config)?;
        let out = producer(&shared, index)?;
        let config = &shared.config;
        let mut consumer = shared.log.consumer(ConsumerConfig {
            group: Some(config.application_id.clone()),
            instance_id: config
                .static_membership
                .then(|| format!("{}-{index}", shared.instance)),
            isolation: Isolation::ReadCommitted,
            reset: OffsetReset::Earliest,
            max_poll_records: 0,
        })?;
        let sources = &shared.topology.plan.sources;
        let topics: Vec<String> = sources
            .iter()
            .map(|source| source.topic.resolve(&config.application_id))
            .collect();
        consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
        let now = shared.clock.now_ms();
        let handlers = Handlers::new(config, shared.partitions.dead_letters());
        Ok(Self {
            shared,
            index,
            consumer,
            out,
            globals,
            tasks: BTreeMap::new(),
            assigned: BTreeSet::new(),
            reading: BTreeSet::new(),
            first_offsets: HashMap::new(),
            committing: None,
            ends: HashMap::new(),
            waiting_since: HashMap::new(),
            paused: BTreeSet::new(),
            last_commit_ms: now,
            last_apply_ms: now,
            last_sync_ms: now,
            taken: 0,
            rewinds: 0,
            unready: None,
            handlers,
            failed: FailedRecords::default(),
            in_step: false,
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
        self.ends.clear();
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
            true => wait.min(Duration::from_millis(2)),
            false => wait,
        };
        match self.consumer.poll(wait)? {
            Polled::Nothing => {}
            Polled::Records(batches) => {
                round = Round::Worked;
                self.enqueue(batches)?;
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
        self.globals.poll(Duration::ZERO)?;
        if self.process()? == Round::Worked {
            round = Round::Worked;
        }
        if self.out.waiting_bytes() > WAITING_BYTES {
            self.poll_commit(COMMIT_BUDGET)?;
        }
        if self.commit_due(pace, round) && self.begin_commit()? {
            round = Round::Worked;
        }
        self.apply_if_due()?;
        Ok(round)
    }

    /// Nothing is buffered, in flight, unread or uncommitted.
    pub(crate) fn quiescent(&mut self) -> Result<bool> {
        if self.out.committing() || self.tasks.values().any(|task| task.buffered() > 0) {
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

    /// Store `id` of the task of `partition`, for tests and queries.
    pub(crate) fn store(&self, id: StoreId, partition: i32) -> Option<&StoreCell> {
        let mut tasks = self
            .tasks
            .values()
            .filter(|task| task.id().partition == partition);
        tasks.find_map(|task| task.store(id))
    }

    // --- input ---

    fn enqueue(&mut self, batches: Vec<RecordBatch>) -> Result {
        for RecordBatch { partition, records } in batches {
            let Some(id) = task_of(&self.shared, &partition) else {
                continue;
            };
            let Some(task) = self.tasks.get_mut(&id) else {
                continue;
            };
            let buffered = task.push(&partition.topic, records);
            self.waiting_since.remove(&partition);
            if buffered > self.shared.config.buffered_records_per_partition
                && self.paused.insert(partition.clone())
            {
                self.consumer.pause(&[partition])?;
            }
        }
        Ok(())
    }

    fn process(&mut self) -> Result<Round> {
        let wall_ms = self.shared.clock.now_ms();
        let mut round = Round::Idle;
        let awaited = self.awaited_topics(wall_ms);
        let Self {
            shared,
            consumer,
            out,
            tasks,
            ends,
            waiting_since,
            taken,
            ..
        } = self;
        for task in tasks.values_mut() {
            let mut caught_up = |topic: &Arc<str>, partition: i32| {
                let partition = TopicPartition::new(Arc::clone(topic), partition);
                if !awaited.contains(&**topic) && caught_up(&**consumer, &partition, ends, wall_ms)
                {
                    waiting_since.remove(&partition);
                    return true;
                }
                let limit = shared.config.max_task_idle;
                waited_enough(waiting_since, &partition, wall_ms, limit)
            };
            let n = task.process(RECORDS_PER_TURN, wall_ms, out, &mut caught_up)?;
            *taken += n as u64;
            task.punctuate(wall_ms, out)?;
            // Asked whether or not there were records, or a steady input would starve the rest of the work.
            let left = task.resume(wall_ms, out)?;
            if n > 0 || left == Work::More {
                round = Round::Worked;
            }
        }
        self.resume_drained()?;
        Ok(round)
    }

    /// Repartition topics that this thread will write more to: a task that reads one beside another input waits, though
    /// it has read everything there is. Else a run over old input would take all of the direct input first and find what
    /// has to come through the repartition late. What other threads are about to write is not known.
    fn awaited_topics(&mut self, wall_ms: i64) -> BTreeSet<String> {
        let topology = &self.shared.topology;
        let topic_of = |source: &usize| &topology.plan.sources[*source].topic;
        let is_internal = |source: &usize| matches!(topic_of(source), Topic::Repartition(_));
        let mixed = |sources: &[usize]| sources.len() > 1 && sources.iter().any(is_internal);
        let chooses = |(id, task): (&TaskId, &StreamTask)| {
            task.buffered() > 0 && mixed(&topology.subtopologies[id.subtopology].sources)
        };
        // Most rounds end here: what follows may ask the log.
        if !self.tasks.iter().any(chooses) {
            return BTreeSet::new();
        }
        let mut busy = BTreeSet::new();
        for (id, task) in &self.tasks {
            let mut unread = || {
                inputs_of(&self.shared, *id)
                    .iter()
                    .any(|input| !caught_up(&*self.consumer, input, &mut self.ends, wall_ms))
            };
            if self.out.committing() || task.buffered() > 0 || task.is_dirty() || unread() {
                busy.insert(id.subtopology);
            }
        }
        let mut by_rank: Vec<usize> = (0..topology.subtopologies.len()).collect();
        by_rank.sort_by_key(|&number| topology.subtopologies[number].rank);
        let mut awaited = BTreeSet::new();
        for number in by_rank {
            for source in &topology.subtopologies[number].sources {
                let topic = topic_of(source);
                let writer = topology.writer_of(topic).filter(|_| is_internal(source));
                if writer.is_some_and(|writer| busy.contains(&writer)) {
                    awaited.insert(topic.resolve(&self.shared.config.application_id));
                    busy.insert(number);
                }
            }
        }
        awaited
    }

    /// Reads on where a queue has become short.
    fn resume_drained(&mut self) -> Result {
        let limit = self.shared.config.buffered_records_per_partition / 2;
        let drained: Vec<TopicPartition> = self
            .paused
            .iter()
            .filter(|partition| {
                let task = task_of(&self.shared, partition).and_then(|id| self.tasks.get(&id));
                task.is_some_and(|task| task.buffered_of(&partition.topic) <= limit)
            })
            .cloned()
            .collect();
        if !drained.is_empty() {
            self.consumer.resume(&drained)?;
            self.paused.retain(|partition| !drained.contains(partition));
        }
        Ok(())
    }

    // --- commit ---

    fn commit_due(&self, pace: Pace, round: Round) -> bool {
        if self.out.committing() {
            return false;
        }
        let interval = self.shared.config.commit_interval.as_millis();
        let since = self.shared.clock.now_ms() - self.last_commit_ms;
        let bytes = self.out.bytes()
            + self
                .tasks
                .values()
                .map(StreamTask::dirty_bytes)
                .sum::<usize>();
        u128::try_from(since).is_ok_and(|since| since >= interval)
            || bytes > self.shared.config.commit_bytes
            || (pace == Pace::Eager && round == Round::Idle)
            || self.tasks.values().any(StreamTask::wants_commit)
    }

    fn needs_commit(&self) -> bool {
        let mut position =
            |partition: &TopicPartition| self.consumer.position(partition).ok().flatten();
        self.tasks
            .values()
            .any(|task| task.needs_commit(&mut position))
    }

    /// Seals all tasks and hands their progress to the log. Whether there was anything to commit.
    fn begin_commit(&mut self) -> Result<bool> {
        self.last_commit_ms = self.shared.clock.now_ms();
        if !self.needs_commit() {
            return Ok(false);
        }
        let wall_ms = self.last_commit_ms;
        let mut offsets = Vec::new();
        let Self {
            consumer,
            out,
            tasks,
            ..
        } = self;
        for task in tasks.values_mut() {
            let mut position =
                |partition: &TopicPartition| consumer.position(partition).ok().flatten();
            let (inputs, stream_times) = task.seal(wall_ms, out, &mut position)?;
            let metadata = time_metadata::encode(&stream_times);
            offsets.extend(inputs.into_iter().map(|(partition, offset)| {
                (
                    partition,
                    CommittedOffset {
                        offset,
                        metadata: metadata.clone(),
                    },
                )
            }));
        }
        // IMPORTANT: asked for here, on the polling thread, right before its use: a member that lost its partitions
        // since must not be able to commit them.
        let group = self.consumer.group_metadata()?;
        self.out.begin_commit(offsets.clone(), Some(group))?;
        self.committing = Some(offsets);
        Ok(true)
    }

    fn poll_commit(&mut self, timeout: Duration) -> Result<Round> {
        if !self.out.committing() {
            return Ok(Round::Idle);
        }
        let Some(next_offsets) = self.out.poll_commit(timeout)? else {
            return Ok(Round::Idle);
        };
        // Repartition topics have grown.
        self.ends.clear();
        let offsets = self.committing.take().unwrap_or_default();
        if self.shared.config.guarantee == Guarantee::AtLeastOnce {
            self.consumer.commit(&offsets)?;
        }
        for task in self.tasks.values_mut() {
            task.settle(&next_offsets);
        }
        self.failed.forget_committed(&offsets);
        Ok(Round::Worked)
    }

    /// Commits everything; after a failure that a rewind can repair, what was not committed is read again later.
    pub(crate) fn commit_or_rewind(&mut self) -> Result {
        self.commit_now().or_else(|fault| self.recover(fault))
    }

    /// Commits everything and waits for it.
    fn commit_now(&mut self) -> Result {
        self.await_commit()?;
        if self.begin_commit()? {
            self.await_commit()?;
        }
        Ok(())
    }

    fn await_commit(&mut self) -> Result {
        let deadline = Deadline::after(COMMIT_BUDGET);
        while self.out.committing() {
            if deadline.passed() {
                return Err(LogError::new(
                    ErrorClass::Uncertain,
                    format!(
                        "a commit got no answer within {} s",
                        COMMIT_BUDGET.as_secs()
                    ),
                )
                .into());
            }
            self.poll_commit(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Writes settled changes to the stores when there are many or they are old.
    fn apply_if_due(&mut self) -> Result {
        let now = self.shared.clock.now_ms();
        let config = &self.shared.config;
        let bytes: usize = self.tasks.values().map(StreamTask::settled_bytes).sum();
        let age = u128::try_from(now - self.last_apply_ms).unwrap_or(0);
        if bytes < config.apply_bytes && age < config.apply_interval.as_millis() {
            return Ok(());
        }
        self.last_apply_ms = now;
        for task in self.tasks.values_mut() {
            task.apply(&*self.shared.database)?;
        }
        if now - self.last_sync_ms >= SYNC_INTERVAL_MS {
            self.last_sync_ms = now;
            self.shared.database.sync()?;
        }
        Ok(())
    }

    // --- rebalance ---

    fn assigned(&mut self, partitions: Vec<TopicPartition>) -> Result {
        tracing::info!(thread = self.index, ?partitions, "partitions assigned");
        self.assigned.extend(partitions.iter().cloned());
        if let Err(fault) = self.commit_now() {
            return self.recover(fault);
        }
        let tasks: BTreeSet<TaskId> = partitions
            .iter()
            .filter_map(|partition| task_of(&self.shared, partition))
            .collect();
        self.open_tasks(&tasks)
    }

    fn revoked(&mut self, partitions: &[TopicPartition], lost: bool) -> Result {
        tracing::info!(thread = self.index, ?partitions, lost, "partitions revoked");
        // IMPORTANT: whatever becomes of the commit, the partitions are released: the group waits for that, and asks
        // once only.
        let undone = if lost {
            // They belong to somebody else already, and so would what is open.
            self.committing = None;
            self.abort_open()?;
            true
        } else if let Err(fault) = self.commit_now() {
            self.undo(fault)?;
            true
        } else {
            false
        };
        let revoked: BTreeSet<TaskId> = partitions
            .iter()
            .filter_map(|partition| task_of(&self.shared, partition))
            .collect();
        for id in &revoked {
            if let Some(mut task) = self.tasks.remove(id) {
                task.apply(&*self.shared.database)?;
            }
        }
        for partition in partitions {
            self.assigned.remove(partition);
            self.reading.remove(partition);
            self.paused.remove(partition);
            self.first_offsets.remove(partition);
            self.ends.remove(partition);
            self.waiting_since.remove(partition);
            self.failed.forget(partition);
        }
        self.consumer.release(partitions)?;
        if undone {
            // The abort undid what the remaining tasks had done as well.
            self.reopen_tasks()?;
        }
        Ok(())
    }

    /// Makes tasks, restores their stores, and has their inputs read from where they were committed.
    fn open_tasks(&mut self, ids: &BTreeSet<TaskId>) -> Result {
        let shared = Arc::clone(&self.shared);
        let inputs: Vec<TopicPartition> =
            ids.iter().flat_map(|id| inputs_of(&shared, *id)).collect();
        if let Some(missing) = inputs.iter().find(|input| !self.assigned.contains(*input)) {
            return Err(LogError::fatal(format!(
                "the group gave this member a part of a task only: {missing} is missing; all inputs of a task must \
                 be assigned together, so use the range assignor in every member"
            ))
            .into());
        }
        // IMPORTANT: committed offsets first, then the ends of the changelogs: see `task::restore`.
        let committed = self.stable_committed(&inputs)?;
        let mut starts = Vec::new();
        for (partition, committed) in inputs.iter().zip(&committed) {
            let offset = match committed {
                Some(committed) => committed.offset,
                None => self.first_offset(partition)?,
            };
            starts.push((partition.clone(), offset));
        }
        let mut restorer = None;
        for &id in ids {
            let mut stores = open_stores(
                &shared.topology,
                &shared.config.application_id,
                id,
                &*shared.database,
            )?;
            if !stores.slots.is_empty() {
                let restorer = match &mut restorer {
                    Some(restorer) => restorer,
                    None => {
                        restorer.insert(Restorer::new(shared.log.consumer(ConsumerConfig {
                            reset: OffsetReset::Earliest,
                            ..Default::default()
                        })?))
                    }
                };
                let restored = restorer.restore(&mut stores.slots)?;
                shared.restored.fetch_add(restored, Ordering::Relaxed);
                tracing::info!(task = %id, records = restored, "stores restored");
            }
            let mut restored_times = stores
                .marker
                .as_ref()
                .map(|m| m.stream_times.clone())
                .unwrap_or_default();
            for (input, committed) in inputs.iter().zip(&committed) {
                if task_of(&shared, input) == Some(id)
                    && let Some(committed) = committed
                {
                    for (name, time) in time_metadata::decode(&committed.metadata) {
                        let known = restored_times.entry(name).or_insert(time);
                        *known = time.max(*known);
                    }
                }
            }
            let task = self.make_task(id, stores, TaskTimes::restored(restored_times))?;
            self.tasks.insert(id, task);
        }
        self.read_from(starts)
    }

    /// Has the consumer read on at these offsets, whether or not it reads the partitions already.
    fn read_from(&mut self, starts: Vec<(TopicPartition, Offset)>) -> Result {
        let mut new = Vec::new();
        for (partition, offset) in starts {
            if self.reading.contains(&partition) {
                self.consumer.seek(&partition, offset)?;
            } else {
                new.push((partition, Some(offset)));
            }
        }
        if !new.is_empty() {
            self.consumer.assign(&new)?;
            self.reading.extend(new.into_iter().map(|(name, _)| name));
        }
        Ok(())
    }

    /// Where to start without a committed offset; the same offset again after a rewind.
    fn first_offset(&mut self, partition: &TopicPartition) -> Result<Offset> {
        if let Some(offset) = self.first_offsets.get(partition) {
            return Ok(*offset);
        }
        let topology = &self.shared.topology;
        let application_id = &self.shared.config.application_id;
        let source = topology
            .plan
            .sources
            .iter()
            .find(|source| source.topic.resolve(application_id) == *partition.topic);
        let offset = match source.map(|source| source.reset) {
            Some(OffsetReset::Latest) => {
                self.consumer
                    .end_offset(partition, Isolation::ReadCommitted, LOG_TIMEOUT)?
            }
            _ => self.consumer.beginning_offset(partition, LOG_TIMEOUT)?,
        };
        self.first_offsets.insert(partition.clone(), offset);
        Ok(offset)
    }

    /// Committed offsets once no transaction is pending on them. A predecessor that died keeps one pending until the
    /// log aborts it, so this may take as long as a transaction may.
    fn stable_committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<CommittedOffset>>> {
        let deadline = Deadline::after(self.shared.config.transaction_timeout + LOG_TIMEOUT);
        loop {
            match self.consumer.committed(partitions, Duration::from_secs(5)) {
                Err(error) if error.class == ErrorClass::Retriable && !deadline.passed() => {
                    tracing::debug!(%error, "waiting for stable committed offsets");
                    self.shared.clock.pass(Duration::from_millis(50));
                }
                result => return Ok(result?),
            }
        }
    }

    fn make_task(
        &self,
        id: TaskId,
        stores: OpenedStores,
        mut times: TaskTimes,
    ) -> Result<StreamTask> {
        let mut cells = stores.cells();
        cells.extend(self.globals.cells());
        let mut wakes = Vec::new();
        let mut instantiation = Instantiation {
            task: id,
            times: &mut times,
            stores: &cells,
            partitions: &self.shared.partitions,
            wakes: &mut wakes,
            shared: HashMap::new(),
            application_id: &self.shared.config.application_id,
            handlers: &self.handlers,
            failed: &self.failed,
            max_decode_wait: self.shared.config.max_decode_wait,
        };
        let topology = &self.shared.topology;
        let sources = &topology.subtopologies[id.subtopology].sources;
        let queues: Result<Vec<_>> = sources
            .iter()
            .map(|&source| (topology.plan.sources[source].make)(&mut instantiation))
            .collect();
        let queues = queues?;
        Ok(StreamTask::new(TaskParts {
            id,
            queues,
            wakes,
            stores: stores.slots,
            times,
            format_hash: stores.format_hash,
        }))
    }

    // --- failure ---

    /// Repairs what an abort and a rewind can repair, and passes the rest on. A repair may fail and be repaired in turn.
    fn recover(&mut self, mut fault: Fault) -> Result {
        let deadline = Deadline::after(COMMIT_BUDGET);
        loop {
            self.undo(fault)?;
            match self.reopen_tasks() {
                Ok(()) => return Ok(()),
                Err(again) if deadline.passed() => return Err(again),
                Err(again) => fault = again,
            }
            self.shared.clock.pass(Duration::from_millis(50));
        }
    }

    /// Takes back what is not committed, if `fault` is one after which processing can go on.
    ///
    /// # Errors
    /// `fault` itself if it is not.
    fn undo(&mut self, fault: Fault) -> Result {
        if self.may_become_ready(&fault) {
            tracing::warn!(thread = self.index, %fault, "a serde is not ready; the transaction is aborted and its input read again");
            self.committing = None;
            self.abort_open()?;
            // Real time, whatever the clock is: something outside is being waited for.
            SystemClock.pass(NOT_READY_PAUSE);
            return Ok(());
        }
        if let Some((record, verdict)) = self.handlers.of_failed(&fault)
            && self.failed.add(record, verdict)
        {
            return self.undo_failed(&fault);
        }
        self.committing = None;
        match fault.log_error().map(|error| error.class) {
            Some(ErrorClass::Abortable | ErrorClass::Retriable) => {
                tracing::warn!(thread = self.index, %fault, "the transaction is aborted and its input read again");
                self.abort_open()
            }
            Some(ErrorClass::Uncertain) => {
                tracing::warn!(thread = self.index, %fault, "the outcome of the transaction is uncertain; a new producer settles it");
                self.replace_producer()
            }
            // NOTE: it waited for a commit in flight, so its input is not known. If it is rejected again, it is.
            Some(ErrorClass::Rejected)
                if self.handlers.tolerate_rejection()
                    && !self.in_step
                    && matches!(fault.kind(), FaultKind::Log(_)) =>
            {
                tracing::warn!(thread = self.index, %fault, "the transaction is aborted and its input read again, without overlap");
                self.in_step = true;
                self.abort_open()
            }
            Some(ErrorClass::Fenced | ErrorClass::Fatal | ErrorClass::Rejected) | None => {
                // Give up what is open now instead of making readers wait for the log to time it out.
                let _ = self.out.abort(Duration::from_secs(5));
                Err(fault)
            }
        }
    }

    /// Takes back what is not committed, because of a record that will be passed over when it is read again.
    fn undo_failed(&mut self, fault: &Fault) -> Result {
        tracing::warn!(thread = self.index, %fault, "the transaction is aborted and its input read again without this record");
        // What is in flight is older than the record, and would be lost for nothing: with a record that fails in each
        // interval, there would be no progress.
        if let Err(fault) = self.await_commit() {
            return self.undo(fault);
        }
        self.in_step = false;
        self.abort_open()
    }

    /// Aborts the open transaction; if that does not work, a new producer does it. But not where this one was fenced:
    /// a new one would fence its successor in turn.
    fn abort_open(&mut self) -> Result {
        match self.out.abort(LOG_TIMEOUT) {
            Err(fault) if fault.log_error().map(|e| e.class) != Some(ErrorClass::Fenced) => {
                tracing::warn!(thread = self.index, %fault, "the abort failed; a new producer settles it");
                self.replace_producer()
            }
            result => result,
        }
    }

    /// Whether `fault` is that of a serde that was not ready, and has not been so for too long. Sources wait before they
    /// take a record; this is for stored values and for results, which come up in the middle of one.
    fn may_become_ready(&mut self, fault: &Fault) -> bool {
        if !is_not_ready(fault) {
            return false;
        }
        let message = fault.to_string();
        match &self.unready {
            Some((known, deadline)) if *known == message => !deadline.passed(),
            _ => {
                let deadline = Deadline::after(self.shared.config.max_decode_wait);
                self.unready = Some((message, deadline));
                true
            }
        }
    }

    /// A new producer with the same transactional id settles what the old one left open.
    fn replace_producer(&mut self) -> Result {
        self.out = producer(&self.shared, self.index)?;
        Ok(())
    }

    /// Makes all tasks again from what is committed and reads their input again from there.
    fn reopen_tasks(&mut self) -> Result {
        self.rewinds += 1;
        for (_, mut task) in std::mem::take(&mut self.tasks) {
            task.apply(&*self.shared.database)?;
        }
        self.ends.clear();
        self.waiting_since.clear();
        if !self.paused.is_empty() {
            let paused: Vec<_> = std::mem::take(&mut self.paused).into_iter().collect();
            self.consumer.resume(&paused)?;
        }
        // By what the group gave, since a failure may have come before all tasks were made.
        let ids: BTreeSet<TaskId> = self
            .assigned
            .iter()
            .filter_map(|partition| task_of(&self.shared, partition))
            .collect();
        self.open_tasks(&ids)
    }

    // --- end ---

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
            Topic::Repartition(_) => topic.resolve(application_id) == *partition.topic,
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

/// Whether everything in `partition` has been read. An end that lies ahead of the position settles the question for as
/// long as it does; one that was reached is asked for again after a while.
fn caught_up(
    consumer: &dyn Consumer,
    partition: &TopicPartition,
    ends: &mut HashMap<TopicPartition, (Offset, i64)>,
    now_ms: i64,
) -> bool {
    let Ok(position) = consumer.position(partition) else {
        return false;
    };
    let position = position.unwrap_or(0);
    if let Some((end, asked_ms)) = ends.get(partition)
        && (position < *end || now_ms - asked_ms < END_OFFSET_FRESH_MS)
    {
        return position >= *end;
    }
    match consumer.end_offset(partition, Isolation::ReadCommitted, LOG_TIMEOUT) {
        Ok(end) => {
            ends.insert(partition.clone(), (end, now_ms));
            position >= end
        }
        Err(error) => {
            tracing::debug!(%partition, %error, "the end of an input is unknown; waiting");
            false
        }
    }
}

/// Whether a task has waited long enough for an input that has more to read.
fn waited_enough(
    since: &mut HashMap<TopicPartition, i64>,
    partition: &TopicPartition,
    now_ms: i64,
    limit: Duration,
) -> bool {
    let began = *since.entry(partition.clone()).or_insert(now_ms);
    u128::try_from(now_ms - began).is_ok_and(|waited| waited > limit.as_millis())
}
