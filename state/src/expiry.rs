//! What a key-value store keeps beside its rows so that old entries are found: its puts in order of time.
//!
//! ```text
//!  timestamp (8, sign bit flipped) ‖ key  →  nothing
//! ```
//!
//! The order has a row for each put, and so for entries that were put again or deleted since; such a row is noticed when
//! its time comes. It has no changelog: the changes of the store itself bring it back.

use std::ops::{Bound, ControlFlow};

use crate::keys::{from_ordered, ordered};
use crate::overlay::Horizon;
use crate::{Change, Direction, KeyValueStore, StateError, Store};

pub(crate) struct Expiry {
    order: Box<KeyValueStore>,
    pub(crate) horizon: Horizon,
    /// Every row up to this one is gone, and none will come there.
    swept: Option<Vec<u8>>,
    /// No row that is left has a smaller timestamp.
    earliest: i64,
    pub(crate) puts: u64,
    row: Vec<u8>,
}

impl Expiry {
    pub(crate) fn new(order: KeyValueStore) -> Self {
        Self {
            order: Box::new(order),
            horizon: Horizon::default(),
            swept: None,
            earliest: i64::MIN,
            puts: 0,
            row: Vec::new(),
        }
    }

    pub(crate) fn shows(&self, timestamp: i64) -> bool {
        timestamp >= self.horizon.open
    }

    pub(crate) fn put(&mut self, key: &[u8], timestamp: i64) -> Result<(), StateError> {
        write_row(&mut self.row, key, timestamp);
        self.earliest = self.earliest.min(timestamp);
        self.puts += 1;
        self.order.put(&self.row, &[], timestamp)
    }

    pub(crate) fn restore(&mut self, key: &[u8], timestamp: i64) -> Result<(), StateError> {
        write_row(&mut self.row, key, timestamp);
        self.start_again();
        self.order.restore(Change {
            key: &self.row,
            value: Some(&[]),
            timestamp,
        })
    }

    /// Takes up to `limit` puts that lie below the horizon out of the order, oldest first.
    pub(crate) fn take_expired(&mut self, limit: usize) -> Result<Vec<(i64, Vec<u8>)>, StateError> {
        let mut expired = Vec::new();
        if self.shows(self.earliest) {
            return Ok(expired);
        }
        let from = match &self.swept {
            Some(swept) => Bound::Excluded(&swept[..]),
            None => Bound::Unbounded,
        };
        let horizon = self.horizon.open;
        let mut next = i64::MAX;
        let forward = Direction::Forward;
        let mut visit = |row: &[u8], _| {
            let Some((timestamp, key)) = row.split_first_chunk::<8>() else {
                return ControlFlow::Continue(());
            };
            let timestamp = from_ordered(*timestamp);
            if timestamp >= horizon || expired.len() == limit {
                next = timestamp;
                return ControlFlow::Break(());
            }
            expired.push((timestamp, key.to_vec()));
            ControlFlow::Continue(())
        };
        self.order
            .scan(from, Bound::Unbounded, forward, &mut visit)?;
        self.earliest = next;
        for (timestamp, key) in &expired {
            write_row(&mut self.row, key, *timestamp);
            self.order.delete(&self.row, *timestamp)?;
        }
        if !expired.is_empty() {
            self.swept = Some(self.row.clone());
        }
        Ok(expired)
    }

    /// Nothing is known of what was swept.
    fn start_again(&mut self) {
        self.swept = None;
        self.earliest = i64::MIN;
    }

    pub(crate) fn seal(&mut self) -> Result<(), StateError> {
        self.horizon.seal();
        self.order.seal(&mut |_| {})
    }

    pub(crate) fn settle(&mut self) {
        self.horizon.settle();
        self.order.settle();
    }

    pub(crate) fn discard(&mut self) {
        self.horizon.discard();
        self.order.discard();
        self.start_again();
    }

    pub(crate) fn apply(&mut self, max_entries: usize) -> Result<bool, StateError> {
        self.order.apply(max_entries)
    }

    pub(crate) fn settled_bytes(&self) -> usize {
        self.order.settled_bytes()
    }

    pub(crate) fn dirty_bytes(&self) -> usize {
        self.order.dirty_bytes()
    }

    pub(crate) fn clear(&mut self) -> Result<(), StateError> {
        self.horizon = Horizon::default();
        self.start_again();
        self.order.clear()
    }
}

fn write_row(row: &mut Vec<u8>, key: &[u8], timestamp: i64) {
    row.clear();
    row.extend_from_slice(&ordered(timestamp));
    row.extend_from_slice(key);
}
