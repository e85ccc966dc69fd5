//! Tasks that the group gave and that do not run yet: they are opened beside those that do, a step a round.
//!
//! ```text
//!  given ─▶ Incomplete ─▶ Offsets ─▶ Restoring ─▶ runs
//!            inputs are     a transaction  stores are being
//!            missing        may be pending  brought up to date
//! ```
//!
//! Nothing of such a task is read or processed. The group may take it back at any point; a rewind of the others leaves it
//! alone, since nothing of it is in a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Deadline;
use crate::error::{Fault, Result};
use crate::log::{CommittedOffset, ErrorClass, LogError, Offset, OffsetReset, TopicPartition};
use crate::processor::{TaskTimes, time_metadata};
use crate::record::TaskId;
use crate::runtime::restore::RestoredTask;

use super::{COMMIT_BUDGET, LOG_TIMEOUT, Round, StreamThread, inputs_of};

/// How long the log may take to say what is committed, at the first time of asking.
const OFFSETS_WAIT: Duration = Duration::from_millis(100);
/// How long it may take at most, later: where nothing else is to be done, and where tasks run meanwhile.
const OFFSETS_WAIT_ALONE: Duration = Duration::from_secs(5);
const OFFSETS_WAIT_BESIDE: Duration = Duration::from_millis(200);
/// Between two questions of which the first found a transaction that is pending.
const OFFSETS_PAUSE: Duration = Duration::from_millis(5);
/// The same in rounds, where tasks run meanwhile.
const OFFSETS_RESTS_BESIDE: u32 = 10;
/// How long a task waits for inputs that the group has not given: as long as another member may take to give them up, and
/// longer.
const INPUTS_PATIENCE_MS: i64 = 10 * 60 * 1_000;

/// How far a task has come towards running.
#[derive(Debug)]
pub(super) enum Opening {
    /// Not all of its inputs are assigned.
    Incomplete { since_ms: i64 },
    /// The log has not said yet what is committed, or somebody else of this process still has the stores open.
    Offsets {
        /// How often it was asked.
        asked: u32,
        /// Rounds until it is asked again.
        rests: u32,
        deadline: Deadline,
    },
    /// Its stores are being brought up to what is committed.
    Restoring(Committed),
}

/// Where a task goes on.
#[derive(Debug)]
pub(super) struct Committed {
    inputs: Vec<(TopicPartition, Offset)>,
    /// Beside the offsets: stream times.
    metadata: Vec<String>,
}

impl StreamThread {
    /// Has these tasks opened from now on.
    pub(super) fn begin_opening(&mut self, ids: &BTreeSet<TaskId>) -> Result {
        let since_ms = self.shared.clock.now_ms();
        for &id in ids {
            let given = |input: &TopicPartition| self.assigned.contains(input);
            let inputs: Vec<_> = inputs_of(&self.shared, id)
                .into_iter()
                .filter(given)
                .collect();
            for input in &inputs {
                if self.reset_of(input) == OffsetReset::Latest {
                    // Its end as of now: what comes while stores are restored is to be read.
                    self.first_offset(input)?;
                }
            }
            // After a rewind they are still being read.
            let read: Vec<_> = inputs
                .into_iter()
                .filter(|input| self.reading.contains(input) && !self.paused.contains(input))
                .collect();
            if !read.is_empty() {
                self.consumer.pause(&read)?;
                self.paused.extend(read);
            }
            self.claims.claim(id);
            self.opening.insert(id, Opening::Incomplete { since_ms });
        }
        Ok(())
    }

    /// Moves on with the tasks that do not run yet, by at most one question that takes time.
    pub(super) fn open_tasks(&mut self) -> Result<Round> {
        if self.opening.is_empty() {
            return Ok(Round::Idle);
        }
        self.look_for_inputs()?;
        self.ask_for_offsets()?;
        self.take_restored()?;
        Ok(Round::Worked)
    }

    fn look_for_inputs(&mut self) -> Result {
        let shared = Arc::clone(&self.shared);
        for (&id, opening) in &mut self.opening {
            let Opening::Incomplete { since_ms } = opening else {
                continue;
            };
            let inputs = inputs_of(&shared, id);
            let missing = inputs.iter().find(|input| !self.assigned.contains(*input));
            let Some(missing) = missing else {
                let patience = shared.config.transaction_timeout + LOG_TIMEOUT;
                *opening = Opening::Offsets {
                    asked: 0,
                    rests: 0,
                    deadline: Deadline::after(patience),
                };
                continue;
            };
            let now_ms = shared.clock.now_ms();
            // A clock that was set back says nothing of how long it was.
            *since_ms = now_ms.min(*since_ms);
            let waited_ms = now_ms - *since_ms;
            if waited_ms == 0 {
                tracing::info!(task = %id, %missing, "a task waits for an input that the group has not given yet");
            }
            if waited_ms >= INPUTS_PATIENCE_MS {
                return Err(LogError::fatal(format!(
                    "the group gave this member a part of task {id} only: {missing} is missing for {} min; all inputs of \
                     a task must be assigned together, so use the range assignor in every member",
                    INPUTS_PATIENCE_MS / 60_000
                ))
                .into());
            }
        }
        Ok(())
    }

    /// Asks for the committed offsets of all tasks together; if a transaction is pending on some, then of one at a time, so
    /// that it does not hold back the others. A predecessor that died keeps one pending until the log aborts it, so this may
    /// take as long as a transaction may; one that hangs, for ever. Tasks that run are held up by a part of that time only.
    fn ask_for_offsets(&mut self) -> Result {
        let (owners, thread) = (&self.shared.owners, self.index);
        let mut waiting = BTreeSet::new();
        for (id, opening) in &mut self.opening {
            let Opening::Offsets { asked, rests, .. } = opening else {
                continue;
            };
            match rests.checked_sub(1) {
                Some(less) if !self.tasks.is_empty() => *rests = less,
                _ if owners.is_free_for(*id, thread) => {
                    waiting.insert((*asked, *id));
                }
                _ => {}
            }
        }
        let Some(&(least, first)) = waiting.first() else {
            return Ok(());
        };
        let together: Vec<TaskId> = match least {
            0 => waiting.iter().filter(|w| w.0 == 0).map(|w| w.1).collect(),
            _ => vec![first],
        };
        let inputs: Vec<TopicPartition> = together
            .iter()
            .flat_map(|id| inputs_of(&self.shared, *id))
            .collect();
        let longest = match self.tasks.is_empty() {
            true => OFFSETS_WAIT_ALONE,
            false => OFFSETS_WAIT_BESIDE,
        };
        let wait = longest.min(OFFSETS_WAIT.saturating_mul(1 + least));
        let committed = match self.consumer.committed(&inputs, wait) {
            Err(error) if error.class == ErrorClass::Retriable => {
                for id in &together {
                    self.offsets_are_pending(*id, &error);
                }
                self.shared.clock.pass(OFFSETS_PAUSE);
                return Ok(());
            }
            committed => committed?,
        };
        let mut committed = inputs.into_iter().zip(committed);
        for id in together {
            let count = inputs_of(&self.shared, id).len();
            let committed = committed.by_ref().take(count).collect();
            self.begin_restore(id, committed)?;
        }
        Ok(())
    }

    fn offsets_are_pending(&mut self, id: TaskId, error: &LogError) {
        if let Some(Opening::Offsets {
            asked,
            rests,
            deadline,
        }) = self.opening.get_mut(&id)
        {
            *asked += 1;
            *rests = OFFSETS_RESTS_BESIDE;
            if deadline.passed() {
                let patience = self.shared.config.transaction_timeout + LOG_TIMEOUT;
                *deadline = Deadline::after(patience);
                tracing::warn!(
                    task = %id, %error,
                    "the committed offsets of a task are pending for longer than a transaction may take; if this goes on, \
                     look for a hanging transaction (kafka-transactions.sh find-hanging)"
                );
            } else {
                tracing::debug!(task = %id, %error, "waiting for stable committed offsets");
            }
        }
    }

    fn begin_restore(
        &mut self,
        id: TaskId,
        committed: Vec<(TopicPartition, Option<CommittedOffset>)>,
    ) -> Result {
        let mut metadata = Vec::new();
        let mut inputs = Vec::new();
        for (input, committed) in committed {
            let offset = match committed {
                None => self.first_offset(&input)?,
                Some(committed) => {
                    metadata.push(committed.metadata);
                    committed.offset
                }
            };
            inputs.push((input, offset));
        }
        let starts = inputs.clone();
        let committed = Committed { inputs, metadata };
        self.opening.insert(id, Opening::Restoring(committed));
        // IMPORTANT: behind the committed offsets, since the ends of the changelogs are asked for now.
        let begun = self.restoration.begin(id, starts);
        begun.map_err(|fault| self.restore_failed(fault))
    }

    fn take_restored(&mut self) -> Result {
        let shared = Arc::clone(&self.shared);
        let restored = self.restoration.poll(&shared);
        let restored = restored.map_err(|fault| self.restore_failed(fault))?;
        // All of them first: if one fails, a rewind must not take the others for still on their way.
        let mut ready = Vec::new();
        for task in restored {
            if let Some(Opening::Restoring(committed)) = self.opening.remove(&task.id) {
                ready.push((task, committed));
            }
        }
        for (task, committed) in ready {
            self.run_task(task, committed)?;
        }
        if self.opening.is_empty() {
            self.restore_patience.renew();
        }
        Ok(())
    }

    /// All restores have to be begun again, unless they have failed for too long.
    fn restore_failed(&mut self, fault: Fault) -> Fault {
        let is_restoring = |opening: &Opening| matches!(opening, Opening::Restoring(_));
        let ids = self.opening.iter().filter(|(_, o)| is_restoring(o));
        let ids: BTreeSet<TaskId> = ids.map(|(id, _)| *id).collect();
        self.restoration.cancel(&ids);
        // A rewind begins with whatever the group gave and is not on its way.
        self.opening.retain(|id, _| !ids.contains(id));
        if self
            .restore_patience
            .is_over(COMMIT_BUDGET, 2 * COMMIT_BUDGET)
        {
            return LogError::fatal(format!(
                "stores could not be restored for {} s: {fault}",
                COMMIT_BUDGET.as_secs()
            ))
            .into();
        }
        tracing::warn!(thread = self.index, %fault, "a restore failed and is begun again");
        fault
    }

    /// Makes the task, and has its inputs read from where they are committed.
    fn run_task(&mut self, restored: RestoredTask, committed: Committed) -> Result {
        let id = restored.id;
        let mut times = restored.times;
        for (name, time) in committed
            .metadata
            .iter()
            .flat_map(|m| time_metadata::decode(m))
        {
            let known = times.entry(name).or_insert(time);
            *known = time.max(*known);
        }
        let stores = restored.stores.into_iter().map(|slot| slot.share());
        let task = self.make_task(id, stores.collect(), TaskTimes::restored(times))?;
        self.tasks.insert(id, task);
        tracing::info!(task = %id, "a task runs");
        self.read_from(committed.inputs)
    }

    /// Gives up the restores of `ids`, so that somebody else may open their stores.
    pub(super) fn stop_opening(&mut self, ids: &BTreeSet<TaskId>) {
        let restoring = |id: &&TaskId| matches!(self.opening.get(id), Some(Opening::Restoring(_)));
        let restoring: BTreeSet<TaskId> = ids.iter().filter(restoring).copied().collect();
        if !restoring.is_empty() {
            self.restoration.cancel(&restoring);
        }
        self.opening.retain(|id, _| !ids.contains(id));
    }
}

/// The tasks that do not run yet.
pub(super) type OpeningTasks = BTreeMap<TaskId, Opening>;
