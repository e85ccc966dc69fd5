//! Stream time as the operators of a task know it, and how it survives.
//!
//! Every time-aware operator has its own observed time: the largest timestamp of the records that reached it. The task
//! writes them all into the metadata of the offsets it commits and reads them back when it starts, so a window closes
//! at the same record whether or not the task was moved or restarted in between.

use std::cell::{Cell, RefCell};
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
    cells: RefCell<BTreeMap<String, Rc<Cell<Timestamp>>>>,
}

impl TaskTimes {
    /// Times to start from.
    pub(crate) fn restored(restored: BTreeMap<String, Timestamp>) -> Self {
        Self {
            restored,
            cells: RefCell::default(),
        }
    }

    /// The time called `name`, as it was when the task last committed.
    pub(crate) fn cell(&self, name: &str) -> Rc<Cell<Timestamp>> {
        let restored = self.restored.get(name).copied().unwrap_or(NO_TIME);
        let mut cells = self.cells.borrow_mut();
        let cell = cells
            .entry(name.to_owned())
            .or_insert_with(|| Rc::new(Cell::new(restored)));
        Rc::clone(cell)
    }

    /// All times now.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, Timestamp> {
        self.cells
            .borrow()
            .iter()
            .filter(|(_, time)| time.get() != NO_TIME)
            .map(|(name, time)| (name.clone(), time.get()))
            .collect()
    }
}

/// Observed time of one operator: the largest timestamp of the records that reached it, but never more than the bound
/// that the record at hand came with.
pub(crate) struct OperatorTime {
    now: Rc<Cell<Timestamp>>,
    /// The largest timestamp, while the bound keeps the time below it; else nothing.
    ahead: Rc<Cell<Timestamp>>,
}

impl OperatorTime {
    pub(crate) fn new(times: &mut TaskTimes, name: &str) -> Self {
        Self {
            now: times.cell(name),
            ahead: times.cell(&format!("{name}^")),
        }
    }

    /// The same time, as another input of the operator moves it: what the bound of one holds back, the other must not let
    /// go.
    pub(crate) fn by_input(&self, times: &mut TaskTimes, name: &str, input: &str) -> Self {
        Self {
            now: Rc::clone(&self.now),
            ahead: times.cell(&format!("{name}^{input}")),
        }
    }

    /// Takes notice of a record at `timestamp`; whether time moved forward.
    #[inline]
    pub(crate) fn observe(&self, timestamp: Timestamp, context: &Context<'_>) -> bool {
        self.observe_below(timestamp, context.time_bound)
    }

    #[inline]
    fn observe_below(&self, timestamp: Timestamp, bound: Timestamp) -> bool {
        let largest = timestamp.max(self.ahead.get());
        let seen = largest.min(bound);
        let moved = seen > self.now.get();
        if moved {
            self.now.set(seen);
        }
        let is_ahead = largest > self.now.get();
        self.ahead.set(if is_ahead { largest } else { NO_TIME });
        moved
    }

    /// Moves forward to `time`, whatever held it back; whether that was forward.
    pub(crate) fn reach(&self, time: Timestamp) -> bool {
        let moved = time > self.now.get();
        if moved {
            self.now.set(time);
        }
        moved
    }

    /// The time now; −1 before the first record.
    #[inline]
    pub(crate) fn now(&self) -> Timestamp {
        self.now.get()
    }
}

/// A stream time that a processor keeps by itself and that survives with its task: see
/// [`Setup::observed_time`](super::Setup::observed_time).
pub struct ObservedTime(pub(crate) OperatorTime);

impl ObservedTime {
    /// The time in epoch milliseconds; −1 before the first record.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_catches_up_with_the_largest_timestamp_as_the_bound_rises_and_no_further() {
        let mut times = TaskTimes::default();
        let time = OperatorTime::new(&mut times, "count");
        let observe = |timestamp, bound| {
            time.observe_below(timestamp, bound);
            time.now()
        };
        assert_eq!(observe(1_000, NO_TIME), NO_TIME);
        // The slow one has come to 500, then to 2,000; this record itself is an old one.
        assert_eq!(observe(5, 500), 500);
        assert_eq!(observe(5, 2_000), 1_000);
        assert_eq!(observe(1_200, Timestamp::MAX), 1_200);
    }

    #[test]
    fn what_holds_one_input_back_is_not_let_go_by_another() {
        let mut times = TaskTimes::default();
        let left = OperatorTime::new(&mut times, "join");
        let right = left.by_input(&mut times, "join", "right");
        right.observe_below(1_000, 10);
        assert!(left.observe_below(20, Timestamp::MAX));
        assert_eq!((left.now(), right.now()), (20, 20));
        assert!(right.observe_below(30, 1_500));
        assert_eq!(left.now(), 1_000);
    }

    #[test]
    fn what_the_bound_holds_back_is_remembered_with_the_time() {
        let mut times = TaskTimes::default();
        OperatorTime::new(&mut times, "count").observe_below(1_000, 400);
        let mut times = TaskTimes::restored(times.snapshot());
        let time = OperatorTime::new(&mut times, "count");
        assert_eq!(time.now(), 400);
        assert!(time.observe_below(5, 2_000));
        assert_eq!(time.now(), 1_000);
        assert_eq!(
            times.snapshot(),
            BTreeMap::from([("count".to_owned(), 1_000)])
        );
    }
}
