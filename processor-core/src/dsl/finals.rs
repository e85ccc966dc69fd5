//! Emission when a window closes: which windows are open, and how far the closed ones have been emitted.
//!
//! Every record that moves an operator's time emits the windows that this closes, after it was itself counted, in order
//! of time, then key. So the order follows from the input alone, and each window is emitted once: how far emission has
//! come is committed with the offsets of the records that caused it, and what has been emitted stays closed even if the
//! grace grows with the next version of a topology.
//!
//! The open windows are held in memory, with their keys, and read back from the store when a task starts.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::log::Timestamp;
use crate::processor::{Instantiation, NO_TIME};

use super::early::EarlyFire;
use super::window_rows::Place;

/// What of a window is emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emit {
    /// Each update.
    Updates,
    /// The last value, when it closes.
    Finals,
    /// Some values before, and the last one when it closes, if ever it does.
    Early(EarlyFire),
}

/// The windows of an operator that are not emitted yet.
pub(crate) struct Finals {
    /// Everything below this time has been emitted.
    emitted: Rc<Cell<Timestamp>>,
    /// In the order of emission, with the bytes of their keys.
    open: BTreeSet<(Place, Vec<u8>)>,
}

impl Finals {
    /// Goes on where `operator` was; without a trace of it, at `open_from`, the least time that is open now.
    pub(crate) fn restore(
        instantiation: &mut Instantiation<'_>,
        operator: &str,
        open_from: Timestamp,
    ) -> Self {
        let emitted = instantiation.times.cell(&format!("{operator}.emitted"));
        if emitted.get() == NO_TIME {
            emitted.set(open_from.max(NO_TIME));
        }
        Self {
            emitted,
            open: BTreeSet::new(),
        }
    }

    /// Everything below this time has been emitted.
    pub(crate) fn emitted(&self) -> Timestamp {
        self.emitted.get()
    }

    pub(crate) fn add(&mut self, place: Place, key: &[u8]) {
        self.open.insert((place, key.to_vec()));
    }

    pub(crate) fn remove(&mut self, place: Place, key: &[u8]) {
        self.open.remove(&(place, key.to_vec()));
    }

    /// The first place at `from` or later.
    pub(crate) fn first_from(&self, from: Timestamp) -> Option<Timestamp> {
        let first = ((from, Timestamp::MIN), Vec::new());
        let ((place, _), _) = self.open.range(first..).next()?;
        Some(*place)
    }

    /// The keys that have a place from `from` to before `to`, some of them several times.
    pub(crate) fn keys_between(
        &self,
        from: Timestamp,
        to: Timestamp,
    ) -> impl Iterator<Item = &[u8]> {
        let bound = |time| ((time, Timestamp::MIN), Vec::new());
        let places = self.open.range(bound(from)..bound(to));
        places.map(|(_, key)| key.as_slice())
    }

    /// Takes out what is closed now that `open_from` is the least time that is open.
    pub(crate) fn take_closed(&mut self, open_from: Timestamp) -> Vec<(Place, Vec<u8>)> {
        if open_from <= self.emitted.get() {
            return Vec::new();
        }
        self.emitted.set(open_from);
        let first_open = ((open_from, Timestamp::MIN), Vec::new());
        let open = self.open.split_off(&first_open);
        std::mem::replace(&mut self.open, open)
            .into_iter()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_windows_come_once_in_order_of_time_then_key() {
        let mut finals = Finals {
            emitted: Rc::new(Cell::new(NO_TIME)),
            open: BTreeSet::new(),
        };
        for (start, key) in [(10, "b"), (0, "b"), (10, "a"), (20, "a"), (0, "ab")] {
            finals.add((start, 0), key.as_bytes());
        }
        finals.remove((0, 0), b"ab");
        let places = |closed: Vec<(Place, Vec<u8>)>| -> Vec<(Timestamp, String)> {
            let place = |((start, _), key)| (start, String::from_utf8(key).unwrap());
            closed.into_iter().map(place).collect()
        };
        let expected = [(0, "b"), (10, "a"), (10, "b")].map(|(s, k)| (s, k.to_owned()));
        assert_eq!(places(finals.take_closed(20)), expected);
        assert_eq!(finals.emitted(), 20);
        assert_eq!(places(finals.take_closed(20)), []);
    }
}
