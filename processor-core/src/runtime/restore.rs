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
//! **Copies.** A restorer may [follow](Restorer::following) changelogs instead: it hands nothing over and has no end, until it
//! is [cancelled](Restorer::cancel). Everything else is the same, so what a copy holds is what a restore would have made.
//!
//! Nothing here knows threads or time: see [`super::restore_thread`] and [`super::tailer`] for who calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::log::{
    Consumer, ConsumerConfig, Offset, OffsetReset, Polled, Timestamp, TopicPartition,
};
use crate::processor::OwnedStore;
use crate::record::TaskId;
use crate::task::{Handlers, StoreSlot};
use crate::topology::StoreId;

use super::replay::{Purpose, Reading, Replay};
use super::stores::open_stores;
use super::stream_thread::Shared;

/// Steps without a record after which the log is asked whether the end is still there.
const QUIET_STEPS: u32 = 100;

/// A task whose stores are as of the end of their changelogs.
pub(crate) struct RestoredTask {
    pub id: TaskId,
    pub stores: Vec<StoreSlot<OwnedStore>>,
    /// What the markers know, for times that the committed offsets do not carry.
    pub times: Times,
}

/// Stream times of a task, by name.
pub(super) type Times = BTreeMap<String, Timestamp>;

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
    purpose: Purpose,
}

struct Restoring {
    stores: Vec<Replay>,
    times: Times,
}

impl Restorer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            handlers: Handlers::new(&shared.config, shared.partitions.dead_letters()),
            shared,
            consumer: None,
            tasks: BTreeMap::new(),
            purpose: Purpose::Restore,
        }
    }

    /// One that follows the changelogs of these stores, of the tasks that it is told to [begin](Self::begin) with.
    pub(crate) fn following(shared: Arc<Shared>, stores: BTreeSet<StoreId>) -> Self {
        Self {
            purpose: Purpose::Follow(stores),
            ..Self::new(shared)
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
            &|store| self.purpose.includes(store),
            &*shared.database,
        )?;
        if self.consumer.is_none() && !opened.slots.is_empty() {
            self.consumer = Some(shared.log.consumer(ConsumerConfig {
                reset: OffsetReset::Earliest,
                fetch_bytes: self.purpose.fetch_bytes(&shared),
                ..Default::default()
            })?);
        }
        let mut stores = Vec::new();
        for slot in opened.slots {
            let mut reading = Reading {
                consumer: self.consumer.as_deref_mut().expect("made above"),
                shared: &shared,
                purpose: &self.purpose,
            };
            stores.push(Replay::begin(slot, inputs, &mut reading)?);
        }
        let times = opened.times;
        self.tasks.insert(id, Restoring { stores, times });
        Ok(())
    }

    /// Waits up to `wait` for changes and takes in what comes. Tasks whose stores are all there are handed over.
    pub(crate) fn step(&mut self, wait: Duration) -> Result<Stepped> {
        let mut moved = self.read(wait)?;
        let mut restored = Vec::new();
        let is_full = self.settled_bytes() > self.purpose.settled_bytes(&self.shared);
        self.each(|replay, times, reading| {
            if replay.quiet_steps >= QUIET_STEPS && reading.purpose.has_end() {
                replay.look_again(reading)?;
            }
            if is_full || replay.is_at_end() {
                replay.write_down(times, reading)?;
            }
            Ok(())
        })?;
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

    /// Asks how far the changelogs go now, and writes down what was read.
    pub(crate) fn look(&mut self) -> Result {
        self.each(|replay, times, reading| {
            replay.look_again(reading)?;
            replay.write_down(times, reading)
        })
    }

    /// Does `work` on each store, with the times of its task.
    fn each(
        &mut self,
        mut work: impl FnMut(&mut Replay, &Times, &mut Reading<'_>) -> Result,
    ) -> Result {
        let Some(consumer) = self.consumer.as_deref_mut() else {
            return Ok(());
        };
        let mut reading = Reading {
            consumer,
            shared: &self.shared,
            purpose: &self.purpose,
        };
        for task in self.tasks.values_mut() {
            for replay in &mut task.stores {
                work(replay, &task.times, &mut reading)?;
            }
        }
        Ok(())
    }

    /// Memory held by what was read and is not written down.
    pub(crate) fn settled_bytes(&self) -> usize {
        self.stores().map(Replay::settled_bytes).sum()
    }

    /// Gives `ids` up. What was restored of them is kept, as far as that can be vouched for, for whoever opens them next:
    /// not where the log does not answer, and then it is not asked for the others either, since somebody waits.
    pub(crate) fn cancel(&mut self, ids: &BTreeSet<TaskId>) {
        let mut answers = true;
        for id in ids {
            let Some(mut task) = self.tasks.remove(id) else {
                continue;
            };
            if let Some(consumer) = self.consumer.as_deref_mut() {
                let mut reading = Reading {
                    consumer,
                    shared: &self.shared,
                    purpose: &self.purpose,
                };
                for replay in &mut task.stores {
                    let kept = match answers {
                        true => replay.write_down(&task.times, &mut reading),
                        false => Ok(()),
                    };
                    answers &= kept.is_ok();
                    // In any case: else it would still be read when the task comes back.
                    let stopped = replay.stop(&mut reading);
                    if let Err(fault) = kept.and(stopped) {
                        tracing::warn!(changelog = %replay.slot.changelog, %fault, "what was restored is read again next time");
                    }
                }
            }
            match self.purpose {
                Purpose::Restore => tracing::info!(task = %id, "the restore was broken off"),
                Purpose::Follow(_) => {
                    tracing::info!(task = %id, "the copy was written down and closed")
                }
            }
            self.purpose.progress(&self.shared).broken_off();
        }
    }

    /// After a failure: forgets everything. The markers say how far each store has come.
    pub(crate) fn reset(&mut self) {
        for replay in self.tasks.values().flat_map(|task| &task.stores) {
            let progress = self.purpose.progress(&self.shared);
            progress.end(&replay.slot.changelog);
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
        let progress = self.purpose.progress(&self.shared);
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
                    progress.read(&batch.partition, &batch.records[..taken]);
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
                progress.reach(&changelog, position, now_ms);
            } else {
                replay.quiet_steps += 1;
            }
        }
        Ok(moved)
    }
}
