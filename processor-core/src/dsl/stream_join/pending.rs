//! The records of an outer side that have met nobody so far.

use std::cell::RefCell;
use std::ops::{Bound, ControlFlow};
use std::rc::Rc;

use state::{Direction, KeyValueStore};

use crate::error::Result;
use crate::log::Timestamp;

use super::Input;

/// Records without a partner so far, in the order in which they close:
/// `timestamp (8) ‖ side (1: 0 right, 1 left) ‖ key ‖ sequence (4)`.
pub(super) struct Pending {
    store: Rc<RefCell<KeyValueStore>>,
    /// No entry is older than this; saves a scan for every record that finds nothing to emit.
    earliest: Timestamp,
    buffer: Vec<u8>,
}

pub(super) struct PendingEntry {
    pub timestamp: Timestamp,
    pub side: Input,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

impl Pending {
    pub(super) fn open(store: Rc<RefCell<KeyValueStore>>) -> Result<Self> {
        let mut pending = Self {
            store,
            earliest: Timestamp::MAX,
            buffer: Vec::new(),
        };
        pending.earliest = pending.first_timestamp()?;
        Ok(pending)
    }

    fn first_timestamp(&self) -> Result<Timestamp> {
        let mut first = Timestamp::MAX;
        let (from, to) = (Bound::Unbounded, Bound::Unbounded);
        self.store
            .borrow()
            .scan(from, to, Direction::Forward, &mut |key, _| {
                first = timestamp_of(key);
                ControlFlow::Break(())
            })?;
        Ok(first)
    }

    fn encode(&mut self, side: Input, timestamp: Timestamp, sequence: u32, key: &[u8]) {
        self.buffer.clear();
        self.buffer.extend_from_slice(&ordered(timestamp));
        self.buffer.push(side as u8);
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(&sequence.to_be_bytes());
    }

    pub(super) fn add(
        &mut self,
        side: Input,
        timestamp: Timestamp,
        sequence: u32,
        key: &[u8],
        value: &[u8],
    ) -> Result {
        self.encode(side, timestamp, sequence, key);
        self.store
            .borrow_mut()
            .put(&self.buffer, value, timestamp)?;
        self.earliest = self.earliest.min(timestamp);
        Ok(())
    }

    /// Asks first, since a blind delete would cost a tombstone in the changelog for every match.
    pub(super) fn remove(
        &mut self,
        side: Input,
        timestamp: Timestamp,
        sequence: u32,
        key: &[u8],
    ) -> Result {
        self.encode(side, timestamp, sequence, key);
        let mut store = self.store.borrow_mut();
        if store.get(&self.buffer)?.is_some() {
            store.delete(&self.buffer, timestamp)?;
        }
        Ok(())
    }

    /// Takes out the left entries before `left_open_from` and the right ones before `right_open_from`.
    pub(super) fn take_closed(
        &mut self,
        left_open_from: Timestamp,
        right_open_from: Timestamp,
    ) -> Result<Vec<PendingEntry>> {
        let bound = left_open_from.max(right_open_from);
        if self.earliest >= bound {
            return Ok(Vec::new());
        }
        let mut closed = Vec::new();
        let mut store_keys = Vec::new();
        let mut earliest = Timestamp::MAX;
        let end = ordered(bound);
        let mut store = self.store.borrow_mut();
        let (from, to) = (Bound::Unbounded, Bound::Excluded(&end[..]));
        store.scan(from, to, Direction::Forward, &mut |bytes, stamped| {
            let timestamp = timestamp_of(bytes);
            let (side, open_from) = match bytes[8] {
                0 => (Input::Right, right_open_from),
                _ => (Input::Left, left_open_from),
            };
            if timestamp < open_from {
                let key = bytes[9..bytes.len() - 4].to_vec();
                closed.push(PendingEntry {
                    timestamp,
                    side,
                    key,
                    value: stamped.value.to_vec(),
                });
                store_keys.push((bytes.to_vec(), timestamp));
            } else {
                earliest = earliest.min(timestamp);
            }
            ControlFlow::Continue(())
        })?;
        for (key, timestamp) in store_keys {
            store.delete(&key, timestamp)?;
        }
        drop(store);
        // Entries at or after the bound were not looked at.
        self.earliest = earliest.min(self.first_timestamp()?);
        Ok(closed)
    }
}

/// A timestamp whose bytes sort like the number, negative ones included.
pub(in crate::dsl) fn ordered(timestamp: Timestamp) -> [u8; 8] {
    (timestamp.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

pub(in crate::dsl) fn timestamp_of(pending_key: &[u8]) -> Timestamp {
    let bytes = pending_key.first_chunk::<8>().copied().unwrap_or_default();
    (u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()
}
