//! Bringing the stores of tasks up to what is committed, step by step.
//!
//! ```text
//!  begin: stores at their markers, ends of their changelogs
//!    │
//!    ▼
//!  step: poll ─▶ replay ─▶ from time to time, and at the end: backend, marker ─▶ restored
//!    ▲                                  │ the changelog lost its head meanwhile
//!    └──── clear, from its beginning ◀──┘
//! ```
//!
//! A store is never ahead of the log, so it is only ever behind: the changelog is replayed from the offset in the marker.
//! The last writer wins, so replaying a record that is already there does no harm.
//!
//! The end of a restore is where the changelog **ended physically** (its read-uncommitted end) after the producer was
//! initialised and the committed offsets were read: [`begin`](Restorer::begin) is called then, and asks. Its last stable
//! offset may still lag those offsets, and the last transaction would be missing (KAFKA-10167). The records themselves
//! are read committed.
//!
//! A table that is [rebuilt from its topic](crate::topology::ReadBack) is one with the input of its task: its restore ends
//! at the offset at which the task goes on, and what lies beyond comes as input. A record that was passed over because it
//! could not be decoded is passed over again, and there is no second dead letter: the handler decides as it did then.
//!
//! A position is vouched for, by a marker or by handing the store over, only after the log was asked once more where it
//! begins: if that is behind the position vouched for before, records in between may have gone before they were read.
//! Then the store is cleared and begun anew. Each time the log begins further on, and the end stays, so this comes to
//! an end.
//!
//! Nothing here knows threads or time: see [`super::restore_thread`] for who calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use state::{Change, MAX_BATCH, Marker, Store, remove_marker, write_marker};

use crate::error::Result;
use crate::log::{
    Consumer, ConsumerConfig, ConsumerRecord, Isolation, Offset, OffsetReset, Polled, RecordBatch,
    Timestamp, TopicPartition,
};
use crate::mutant::{self, Mutant};
use crate::processor::OwnedStore;
use crate::record::{RecordMetadata, TaskId};
use crate::task::{Handlers, StoreSlot, is_not_ready};
use crate::topology;

use super::stores::open_stores;
use super::stream_thread::Shared;

const LOG_TIMEOUT: Duration = Duration::from_secs(30);
/// The part of the memory for committed changes that restores may use beside the tasks that run, which use all of it.
const OF_SETTLED: usize = 4;
/// Steps without a record after which the log is asked whether the end is still there.
const QUIET_STEPS: u32 = 100;

/// A task whose stores are as of the end of their changelogs.
pub(crate) struct RestoredTask {
    pub id: TaskId,
    pub stores: Vec<StoreSlot<OwnedStore>>,
    /// What the markers know, for times that the committed offsets do not carry.
    pub times: BTreeMap<String, Timestamp>,
}

/// What a step brought.
pub(crate) struct Stepped {
    pub restored: Vec<RestoredTask>,
    /// Whether anything was read or restored: else there is something to wait for.
    pub moved: bool,
}

/// See the [module](self).
pub(crate) struct Restorer {
    shared: Arc<Shared>,
    consumer: Option<Box<dyn Consumer>>,
    tasks: BTreeMap<TaskId, Restoring>,
    handlers: Handlers,
}

struct Restoring {
    stores: Vec<Replay>,
    times: BTreeMap<String, Timestamp>,
}

/// A store on its way.
struct Replay {
    slot: StoreSlot<OwnedStore>,
    /// Everything before is in the store, without a hole.
    vouched: Offset,
    end: Offset,
    /// Whether the consumer reads it.
    reading: bool,
    quiet_steps: u32,
}

impl Restorer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            handlers: Handlers::new(&shared.config, shared.partitions.dead_letters()),
            shared,
            consumer: None,
            tasks: BTreeMap::new(),
        }
    }

    /// Whether there is nothing to restore.
    pub(crate) fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Opens the stores of task `id` and asks how far their changelogs go now. So the committed offsets of its inputs have
    /// been read before; `inputs` is where the task goes on.
    pub(crate) fn begin(&mut self, id: TaskId, inputs: &[(TopicPartition, Offset)]) -> Result {
        let shared = Arc::clone(&self.shared);
        let opened = open_stores(
            &shared.topology,
            &shared.config.application_id,
            &shared.resets,
            id,
            &*shared.database,
        )?;
        if self.consumer.is_none() && !opened.slots.is_empty() {
            self.consumer = Some(shared.log.consumer(ConsumerConfig {
                reset: OffsetReset::Earliest,
                fetch_bytes: shared.memory.side_fetch_bytes,
                ..Default::default()
            })?);
        }
        let mut stores = Vec::new();
        for slot in opened.slots {
            let consumer = self.consumer.as_deref_mut().expect("made above");
            stores.push(Replay::begin(slot, inputs, consumer, &shared)?);
        }
        let times = opened.times;
        self.tasks.insert(id, Restoring { stores, times });
        Ok(())
    }

    /// Waits up to `wait` for changes and takes in what comes. Tasks whose stores are all there are handed over.
    pub(crate) fn step(&mut self, wait: Duration) -> Result<Stepped> {
        let mut moved = self.read(wait)?;
        let mut restored = Vec::new();
        let bytes: usize = self.stores().map(Replay::settled_bytes).sum();
        if let Some(consumer) = self.consumer.as_deref_mut() {
            let shared = &*self.shared;
            let is_full = bytes > shared.memory.settled_bytes / OF_SETTLED;
            for task in self.tasks.values_mut() {
                for replay in &mut task.stores {
                    if replay.quiet_steps >= QUIET_STEPS {
                        replay.look_again(consumer, shared)?;
                    }
                    if is_full || replay.is_at_end() {
                        replay.write_down(consumer, shared, &task.times)?;
                    }
                }
            }
        }
        let done = |(_, task): &(&TaskId, &Restoring)| task.stores.iter().all(Replay::is_done);
        let done: Vec<TaskId> = self.tasks.iter().filter(done).map(|(id, _)| *id).collect();
        for id in done {
            let task = self.tasks.remove(&id).expect("listed above");
            moved = true;
            restored.push(RestoredTask {
                id,
                stores: task.stores.into_iter().map(|replay| replay.slot).collect(),
                times: task.times,
            });
        }
        Ok(Stepped { restored, moved })
    }

    /// Gives `ids` up. What was restored of them is kept, as far as that can be vouched for, for whoever opens them next.
    pub(crate) fn cancel(&mut self, ids: &BTreeSet<TaskId>) {
        for id in ids {
            let Some(mut task) = self.tasks.remove(id) else {
                continue;
            };
            for replay in &mut task.stores {
                let Some(consumer) = self.consumer.as_deref_mut() else {
                    continue;
                };
                let kept = replay.write_down(consumer, &self.shared, &task.times);
                if let Err(fault) = kept.and_then(|()| replay.stop(consumer, &self.shared)) {
                    tracing::warn!(changelog = %replay.slot.changelog, %fault, "what was restored is read again next time");
                }
            }
            tracing::info!(task = %id, "the restore was broken off");
            self.shared.restores.broken_off();
        }
    }

    /// After a failure: forgets everything. The markers say how far each store has come.
    pub(crate) fn reset(&mut self) {
        for replay in self.tasks.values().flat_map(|task| &task.stores) {
            self.shared.restores.end(&replay.slot.changelog);
        }
        self.tasks.clear();
        self.consumer = None;
    }

    fn stores(&self) -> impl Iterator<Item = &Replay> {
        self.tasks.values().flat_map(|task| &task.stores)
    }

    /// Whether anything came, be it a marker of a transaction.
    fn read(&mut self, wait: Duration) -> Result<bool> {
        if !self.stores().any(|replay| replay.reading) {
            return Ok(false);
        }
        let consumer = self.consumer.as_deref_mut().expect("it reads");
        let polled = consumer.poll(wait)?;
        let mut replays: BTreeMap<_, &mut Replay> = self
            .tasks
            .values_mut()
            .flat_map(|task| &mut task.stores)
            .filter(|replay| replay.reading)
            .map(|replay| (replay.slot.changelog.clone(), replay))
            .collect();
        if let Polled::Records(batches) = polled {
            for batch in batches {
                if let Some(replay) = replays.get_mut(&batch.partition) {
                    let taken = replay.take(&batch, &self.handlers)?;
                    let restores = &self.shared.restores;
                    restores.read(&batch.partition, &batch.records[..taken]);
                }
            }
        }
        let mut moved = false;
        for (changelog, replay) in replays {
            let position = consumer.position(&changelog)?.unwrap_or(0);
            // What lies beyond the end of an input was read along with it, and not taken.
            let position = match replay.slot.read_back {
                Some(_) => position.min(replay.end),
                None => position,
            };
            if position > replay.slot.position {
                replay.slot.position = position;
                replay.quiet_steps = 0;
                moved = true;
                let now_ms = self.shared.clock.now_ms();
                self.shared.restores.reach(&changelog, position, now_ms);
            } else {
                replay.quiet_steps += 1;
            }
        }
        Ok(moved)
    }
}

impl Replay {
    fn begin(
        slot: StoreSlot<OwnedStore>,
        inputs: &[(TopicPartition, Offset)],
        consumer: &mut dyn Consumer,
        shared: &Shared,
    ) -> Result<Self> {
        let changelog = &slot.changelog;
        let begin = consumer.beginning_offset(changelog, LOG_TIMEOUT)?;
        let of_input = inputs.iter().find(|(input, _)| input == changelog);
        let end = match (&slot.read_back, of_input) {
            (Some(_), Some((_, offset))) if !mutant::is(Mutant::ReadBackToTheEnd) => *offset,
            _ => consumer.end_offset(changelog, Isolation::ReadUncommitted, LOG_TIMEOUT)?,
        };
        let mut replay = Self {
            vouched: slot.position,
            slot,
            end,
            reading: false,
            quiet_steps: 0,
        };
        if replay.slot.position < begin || replay.slot.position > end {
            // What was deleted since, or belongs to another incarnation of the topic, cannot be replayed.
            replay.clear(begin, shared)?;
        }
        replay.read_on(consumer, shared)?;
        Ok(replay)
    }

    fn settled_bytes(&self) -> usize {
        self.slot.store.as_store().settled_bytes()
    }

    fn is_at_end(&self) -> bool {
        self.slot.position >= self.end || mutant::is(Mutant::ProcessedBeforeRestored)
    }

    fn is_done(&self) -> bool {
        self.is_at_end() && !self.reading
    }

    /// Has the consumer read from the position on, if there is something to read.
    fn read_on(&mut self, consumer: &mut dyn Consumer, shared: &Shared) -> Result {
        if self.is_at_end() {
            return Ok(());
        }
        let StoreSlot {
            changelog,
            position,
            ..
        } = &self.slot;
        consumer.assign(&[(changelog.clone(), Some(*position))])?;
        self.reading = true;
        self.quiet_steps = 0;
        let store = self.slot.store.as_store().name().to_owned();
        let now_ms = shared.clock.now_ms();
        shared
            .restores
            .begin(store, changelog, *position..self.end, now_ms);
        Ok(())
    }

    fn stop(&mut self, consumer: &mut dyn Consumer, shared: &Shared) -> Result {
        if self.reading {
            self.reading = false;
            shared.restores.end(&self.slot.changelog);
            consumer.release(std::slice::from_ref(&self.slot.changelog))?;
        }
        Ok(())
    }

    /// Takes records in. Returns how many, from the first on.
    fn take(&mut self, batch: &RecordBatch, handlers: &Handlers) -> Result<usize> {
        match &self.slot.read_back {
            None => self.replay(&batch.records),
            Some(row) => read_back(
                self.slot.store.commit_side(),
                &**row,
                batch,
                self.end,
                handlers,
            ),
        }
    }

    fn replay(&mut self, records: &[ConsumerRecord]) -> Result<usize> {
        let store = self.slot.store.commit_side();
        for record in records {
            if let Some(key) = record.key.as_deref() {
                store.restore(Change {
                    key,
                    value: record.value.as_deref(),
                    timestamp: record.timestamp,
                })?;
            }
        }
        Ok(records.len())
    }

    /// Empties the store, to be restored from `position` on.
    fn clear(&mut self, position: Offset, shared: &Shared) -> Result {
        // IMPORTANT: the marker first, so that a crash in between leaves nothing that it vouches for.
        remove_marker(&*shared.database, &self.slot.name)?;
        self.slot.store.commit_side().clear()?;
        self.slot.position = position;
        self.vouched = position;
        Ok(())
    }

    /// Begins anew where the changelog begins now.
    fn start_over(
        &mut self,
        begin: Offset,
        consumer: &mut dyn Consumer,
        shared: &Shared,
    ) -> Result {
        tracing::warn!(
            changelog = %self.slot.changelog, begin, end = self.end,
            "the changelog was cut while it was read; the store is restored from its beginning"
        );
        self.stop(consumer, shared)?;
        self.clear(begin, shared)?;
        self.read_on(consumer, shared)
    }

    /// Nothing has come for long. There may be a transaction that is still open, or the end is not there any more.
    fn look_again(&mut self, consumer: &mut dyn Consumer, shared: &Shared) -> Result {
        self.quiet_steps = 0;
        let changelog = &self.slot.changelog;
        let begin = consumer.beginning_offset(changelog, LOG_TIMEOUT)?;
        let end = consumer.end_offset(changelog, Isolation::ReadUncommitted, LOG_TIMEOUT)?;
        if end < self.end || begin > self.slot.position {
            self.end = self.end.min(end);
            self.start_over(begin, consumer, shared)?;
        }
        Ok(())
    }

    /// Writes what was replayed to the backend, and then the marker that says so; at the end the changelog is let go.
    fn write_down(
        &mut self,
        consumer: &mut dyn Consumer,
        shared: &Shared,
        times: &BTreeMap<String, Timestamp>,
    ) -> Result {
        if self.slot.position > self.vouched {
            let begin = consumer.beginning_offset(&self.slot.changelog, LOG_TIMEOUT)?;
            if begin > self.vouched {
                return self.start_over(begin, consumer, shared);
            }
            while !self.slot.store.commit_side().apply(MAX_BATCH)? {}
            self.mark(shared, times)?;
            self.vouched = self.slot.position;
        }
        if self.is_at_end() {
            self.stop(consumer, shared)?;
        }
        Ok(())
    }

    fn mark(&self, shared: &Shared, times: &BTreeMap<String, Timestamp>) -> Result {
        let position = match mutant::is(Mutant::RestoreMarkedComplete) {
            true => self.end,
            false => self.slot.position,
        };
        let name = self.slot.store.as_store().name().to_owned();
        let marker = Marker {
            changelog_offsets: BTreeMap::from([(name, position)]),
            stream_times: times.clone(),
            format_hash: self.slot.layout,
            // A changelog does not say which input it came of.
            input_offsets: BTreeMap::new(),
        };
        Ok(write_marker(&*shared.database, &self.slot.name, &marker)?)
    }
}

type Row<'a> = dyn Fn(&ConsumerRecord, &mut Vec<u8>, &mut Vec<u8>) -> Result<topology::Row> + 'a;

/// Takes the records before `end` of the topic that a table reads, as they were taken when they were processed. Returns
/// how many.
fn read_back(
    store: &mut dyn Store,
    row: &Row<'_>,
    batch: &RecordBatch,
    end: Offset,
    handlers: &Handlers,
) -> Result<usize> {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut taken = 0;
    let before_end = |record: &&ConsumerRecord| record.offset < end;
    for record in batch.records.iter().take_while(before_end) {
        key.clear();
        value.clear();
        taken += 1;
        let value = match row(record, &mut key, &mut value) {
            Ok(topology::Row::Put) => Some(&value[..]),
            Ok(topology::Row::Delete) => None,
            Ok(topology::Row::Ignored) => continue,
            Err(fault) if is_not_ready(&fault) => return Err(fault),
            Err(fault) if handlers.of_undecodable(&fault).is_some() => {
                tracing::debug!(topic = %batch.partition, offset = record.offset, %fault, "a record is skipped again");
                continue;
            }
            Err(fault) => {
                let place = RecordMetadata {
                    topic: Arc::clone(&batch.partition.topic),
                    partition: batch.partition.partition,
                    offset: record.offset,
                };
                return Err(fault.undecodable(place));
            }
        };
        store.restore(Change {
            key: &key,
            value,
            timestamp: record.timestamp,
        })?;
    }
    Ok(taken)
}
