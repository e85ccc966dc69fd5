//! Stream time as the operators of a task know it, and how it survives.
//!
//! Every time-aware operator has its own observed time: the largest timestamp of the records that reached it. The task
//! writes them all into the metadata of the offsets it commits and reads them back when it starts, so a window closes
//! at the same record whether or not the task was moved or restarted in between.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::log::Timestamp;

use super::Context;

/// No record has been seen.
pub(crate) const NO_TIME: Timestamp = -1;

/// Name of the time of the task itself.
pub(crate) const TASK_TIME: &str = "task";

/// The times of a task, by operator name.
#[derive(Default)]
pub(crate) struct TaskTimes {
    restored: BTreeMap<String, Timestamp>,
    cells: BTreeMap<String, Rc<Cell<Timestamp>>>,
}

impl TaskTimes {
    /// Times to start from.
    pub(crate) fn restored(restored: BTreeMap<String, Timestamp>) -> Self {
        Self {
            restored,
            cells: BTreeMap::new(),
        }
    }

    /// The time called `name`, as it was when the task last committed.
    pub(crate) fn cell(&mut self, name: &str) -> Rc<Cell<Timestamp>> {
        let restored = self.restored.get(name).copied().unwrap_or(NO_TIME);
        let cell = self
            .cells
            .entry(name.to_owned())
            .or_insert_with(|| Rc::new(Cell::new(restored)));
        Rc::clone(cell)
    }

    /// All times now.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, Timestamp> {
        self.cells
            .iter()
            .filter(|(_, time)| time.get() != NO_TIME)
            .map(|(name, time)| (name.clone(), time.get()))
            .collect()
    }
}

/// Observed time of one operator.
pub(crate) struct OperatorTime(Rc<Cell<Timestamp>>);

impl OperatorTime {
    pub(crate) fn new(cell: Rc<Cell<Timestamp>>) -> Self {
        Self(cell)
    }

    /// Takes notice of a record at `timestamp`; whether time moved forward.
    #[inline]
    pub(crate) fn observe(&self, timestamp: Timestamp, context: &Context<'_>) -> bool {
        let seen = timestamp.min(context.time_bound);
        let moved = seen > self.0.get();
        if moved {
            self.0.set(seen);
        }
        moved
    }

    /// The time now; −1 before the first record.
    #[inline]
    pub(crate) fn now(&self) -> Timestamp {
        self.0.get()
    }
}

/// A stream time that a processor keeps by itself and that survives with its task: see
/// [`Setup::observed_time`](super::Setup::observed_time).
pub struct ObservedTime(pub(crate) Rc<Cell<Timestamp>>);

impl ObservedTime {
    /// The time in epoch milliseconds; −1 before the first record.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.get()
    }
}
