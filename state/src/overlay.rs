//! The generations of a store's uncommitted and not yet applied writes.
//!
//! A table that never scans is a hash map and nothing else; `store.rs` has the life of a generation.

use std::iter::Peekable;

use bytes::Bytes;

use crate::{Direction, StateError};

/// A write: a value or a tombstone, and its event time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) timestamp: i64,
    pub(crate) value: Option<Bytes>,
}

/// What one write costs in memory beside its bytes: hash slot, reference counts, slack.
pub(crate) const ENTRY_OVERHEAD: usize = 96;

/// The writes of one generation.
pub(crate) trait Table: Default {
    /// Adds the writes of a newer generation.
    fn merge(&mut self, newer: Self);
    /// Memory held.
    fn bytes(&self) -> usize;
}

#[derive(Debug, Default)]
pub(crate) struct Generations<T> {
    pub(crate) open: T,
    pub(crate) sealed: T,
    pub(crate) settled: T,
    in_flight: bool,
}

impl<T: Table> Generations<T> {
    pub(crate) fn seal(&mut self, store: &str) -> Result<&T, StateError> {
        if self.in_flight {
            return Err(StateError::InFlight {
                store: store.to_owned(),
            });
        }
        self.in_flight = true;
        self.sealed = std::mem::take(&mut self.open);
        Ok(&self.sealed)
    }

    pub(crate) fn settle(&mut self) {
        self.in_flight = false;
        self.settled.merge(std::mem::take(&mut self.sealed));
    }

    pub(crate) fn discard(&mut self) {
        self.in_flight = false;
        self.open = T::default();
        self.sealed = T::default();
    }

    pub(crate) fn clear(&mut self) {
        self.discard();
        self.settled = T::default();
    }

    /// Newest first: the first that knows a key is right about it.
    pub(crate) fn newest_first(&self) -> [&T; 3] {
        [&self.open, &self.sealed, &self.settled]
    }

    pub(crate) fn dirty_bytes(&self) -> usize {
        self.open.bytes() + self.sealed.bytes()
    }
}

/// The lowest time a store shows, per generation, since an abort takes back what it moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Horizon {
    pub(crate) open: i64,
    sealed: i64,
    pub(crate) settled: i64,
}

impl Default for Horizon {
    fn default() -> Self {
        Self {
            open: i64::MIN,
            sealed: i64::MIN,
            settled: i64::MIN,
        }
    }
}

impl Horizon {
    pub(crate) fn raise(&mut self, to: i64) {
        self.open = self.open.max(to);
    }

    /// Raises what was committed, and with it the rest.
    pub(crate) fn restore(&mut self, to: i64) {
        for horizon in [&mut self.open, &mut self.sealed, &mut self.settled] {
            *horizon = to.max(*horizon);
        }
    }

    pub(crate) fn seal(&mut self) {
        self.sealed = self.open;
    }

    pub(crate) fn settle(&mut self) {
        self.settled = self.settled.max(self.sealed);
    }

    pub(crate) fn discard(&mut self) {
        self.open = self.settled;
        self.sealed = self.settled;
    }
}

/// Merges the sorted writes of the generations; of equal keys the newest is right.
pub(crate) struct Layers<I: Iterator> {
    newest_first: [Peekable<I>; 3],
    direction: Direction,
}

impl<'a, K, I> Layers<I>
where
    K: Ord + Copy,
    I: Iterator<Item = (K, &'a Entry)>,
{
    pub(crate) fn new(newest_first: [I; 3], direction: Direction) -> Self {
        Self {
            newest_first: newest_first.map(Iterator::peekable),
            direction,
        }
    }

    /// The key that comes next.
    pub(crate) fn peek(&mut self) -> Option<K> {
        let direction = self.direction;
        let keys = self
            .newest_first
            .iter_mut()
            .filter_map(|layer| layer.peek().map(|head| head.0));
        keys.min_by(|a, b| direction.order(a, b))
    }
}

impl<'a, K, I> Iterator for Layers<I>
where
    K: Ord + Copy,
    I: Iterator<Item = (K, &'a Entry)>,
{
    type Item = (K, &'a Entry);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.peek()?;
        let mut newest = None;
        for layer in &mut self.newest_first {
            let item = layer.next_if(|head| head.0 == key);
            newest = newest.or(item);
        }
        newest
    }
}
