//! The buffer of one side of a stream join: append-only, a key and timestamp may repeat.
//!
//! An append is a push onto the key's list in memory. Applied, the entries of a key in a segment are
//! packed into blocks (`block.rs`): the backend sees one write per key and segment for each round of
//! applying, however many records came. Replaying a changelog over what is there changes nothing, since
//! a sequence number says which entry a record is.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::arena::Arena;
use crate::blocks::Blocks;
use crate::keys::{Kind, Slot};
use crate::overlay::{Entry, Generations, Horizon, Layers, Table};
use crate::store::{Batch, MAX_BATCH, VisitJoin};
use crate::timed::{round, slots};
use crate::timeline::Timeline;
use crate::{Change, Direction, StateError, Store, Tree};

/// How a join buffer keeps its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinStoreOptions {
    /// Span of the unit of packing and of physical deletion. A probe reads one block per key for each
    /// segment it touches: about the width of the join window is good. Must not change while rows exist.
    pub segment_ms: i64,
}

/// The buffer of one side of a join.
pub struct JoinStore {
    name: String,
    blocks: Blocks,
    generations: Generations<Timeline>,
    horizon: Horizon,
    /// The greatest timestamp written to a segment by this handle; a segment found at opening is not in it.
    written: BTreeMap<i64, i64>,
    /// Settled `(segment, key)`s still to be applied in this round, descending.
    round: Vec<(i64, Bytes)>,
    arena: Arena,
    scratch: Cell<Vec<u8>>,
}

impl JoinStore {
    /// A store over what `tree` holds.
    ///
    /// # Errors
    /// Whatever the backend reports while the segments are looked up.
    pub fn open(
        name: &str,
        tree: Box<dyn Tree>,
        options: JoinStoreOptions,
    ) -> Result<Self, StateError> {
        Ok(Self {
            name: name.to_owned(),
            blocks: Blocks::open(name, tree, options.segment_ms)?,
            generations: Generations::default(),
            horizon: Horizon::default(),
            written: BTreeMap::new(),
            round: Vec::new(),
            arena: Arena::default(),
            scratch: Cell::default(),
        })
    }

    /// Adds an entry and returns its sequence number: `seq_hint`, or the one after the greatest of this key and
    /// timestamp if that is not less, so that entries stay in the order in which they came. Below the horizon nothing
    /// is added.
    ///
    /// # Errors
    /// Whatever the backend reports when it has to be asked what is free.
    pub fn append(
        &mut self,
        key: &[u8],
        timestamp: i64,
        seq_hint: u32,
        value: &[u8],
    ) -> Result<u32, StateError> {
        if timestamp < self.horizon.open {
            return Ok(seq_hint);
        }
        let sequence = self.free_sequence(key, timestamp, seq_hint)?;
        let entry = Entry {
            timestamp,
            value: Some(self.arena.copy(value)),
        };
        let slot = Slot {
            major: timestamp,
            minor: i64::from(sequence),
        };
        self.generations.open.put(key, slot, entry, &mut self.arena);
        Ok(sequence)
    }

    fn free_sequence(&self, key: &[u8], timestamp: i64, hint: u32) -> Result<u32, StateError> {
        let segment = self.blocks.segments.of(timestamp);
        // Ahead of all that was written to the segment: no need to ask the backend.
        let ahead = !self.blocks.segments.holds(segment)
            || self
                .written
                .get(&segment)
                .is_some_and(|last| *last < timestamp);
        let stored = match ahead {
            true => Vec::new(),
            false => self.blocks.stored(key, segment, timestamp, timestamp)?,
        };
        let at = |sequence: u32| Slot {
            major: timestamp,
            minor: i64::from(sequence),
        };
        let layers = self.generations.newest_first();
        let in_memory = layers
            .iter()
            .filter_map(|layer| layer.range(key, at(hint), at(u32::MAX)).last())
            .map(|entry| entry.0);
        let greatest = in_memory
            .chain(stored.last().map(|entry| entry.0))
            .filter(|slot| *slot >= at(hint))
            .max();
        let Some(greatest) = greatest else {
            return Ok(hint);
        };
        if let Ok(next) = u32::try_from(greatest.minor + 1) {
            return Ok(next);
        }
        // The hints have gone round: any free number will do.
        let taken = |slot| {
            layers.iter().any(|layer| layer.get(key, slot).is_some())
                || stored.binary_search_by_key(&slot, |entry| entry.0).is_ok()
        };
        let mut sequence = 0;
        while taken(at(sequence)) {
            sequence += 1;
        }
        Ok(sequence)
    }

    /// Visits the entries of a key with `from <= timestamp <= to`, by timestamp, then sequence.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn fetch(
        &self,
        key: &[u8],
        from: i64,
        to: i64,
        visit: VisitJoin<'_>,
    ) -> Result<(), StateError> {
        let from = from.max(self.horizon.open);
        if from > to {
            return Ok(());
        }
        let (first, last) = (Slot::first(from), Slot::last(to));
        let slices = self
            .generations
            .newest_first()
            .map(|layer| layer.range(key, first, last));
        let sorted = slices.map(|slice| slice.iter().map(|(slot, entry)| (*slot, entry)));
        let mut layers = Layers::new(sorted, Direction::Forward);
        let mut visit = |slot: Slot, value: &[u8]| visit(slot.major, slot.minor as u32, value);
        let mut walk = || {
            for segment in self.blocks.segments.between(from, to) {
                let stored = match self.blocks.stored(key, segment, from, to) {
                    Ok(stored) => stored,
                    Err(error) => return ControlFlow::Break(Err(error)),
                };
                for (slot, value) in stored {
                    let mut replaced = false;
                    while let Some(head) = layers.peek().filter(|head| *head <= slot) {
                        if let Some((
                            slot,
                            Entry {
                                value: Some(value), ..
                            },
                        )) = layers.next()
                        {
                            visit(slot, value).map_break(Ok)?;
                        }
                        replaced = head == slot;
                    }
                    if !replaced {
                        visit(slot, &value).map_break(Ok)?;
                    }
                }
            }
            for (slot, entry) in layers.by_ref() {
                if let Some(value) = &entry.value {
                    visit(slot, value).map_break(Ok)?;
                }
            }
            ControlFlow::Continue(())
        };
        match walk() {
            ControlFlow::Break(result) => result,
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    /// Hides the entries before `timestamp`, for good; an abort takes it back, as it does appends.
    pub fn expire_before(&mut self, timestamp: i64) {
        self.horizon.raise(timestamp);
    }

    /// Says how far expiry had been committed, after the store was opened and before it is restored: the
    /// horizon is not stored, its owner derives it from the committed stream time. No abort takes it back.
    pub fn restore_horizon(&mut self, timestamp: i64) {
        self.horizon.restore(timestamp);
    }

    /// The least timestamp that is visible.
    pub fn horizon(&self) -> i64 {
        self.horizon.open
    }
}

impl Store for JoinStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn seal(&mut self, changelog: &mut dyn FnMut(Change<'_>)) -> Result<(), StateError> {
        let sealed = self.generations.seal(&self.name)?;
        self.horizon.seal();
        let mut buffer = self.scratch.take();
        for (key, line) in sealed.sorted() {
            for (slot, Entry { timestamp, value }) in line {
                Kind::Join.write_changelog_key(&mut buffer, key, *slot);
                let value = value.as_deref();
                changelog(Change {
                    key: &buffer,
                    value,
                    timestamp: *timestamp,
                });
            }
        }
        self.scratch.set(buffer);
        Ok(())
    }

    fn settle(&mut self) {
        self.generations.settle();
        self.horizon.settle();
    }

    fn discard(&mut self) {
        self.generations.discard();
        self.horizon.discard();
    }

    fn restore(&mut self, change: Change<'_>) -> Result<(), StateError> {
        let (key, slot) = Kind::Join.parse_changelog_key(change.key).ok_or_else(|| {
            StateError::foreign_change(&self.name, "a key is not one of a join's store")
        })?;
        if slot.major >= self.horizon.settled {
            let value = change.value.map(|value| self.arena.copy(value));
            let entry = Entry {
                timestamp: change.timestamp,
                value,
            };
            self.generations
                .settled
                .put(key, slot, entry, &mut self.arena);
        }
        Ok(())
    }

    fn apply(&mut self, max_entries: usize) -> Result<bool, StateError> {
        let limit = max_entries.clamp(1, MAX_BATCH);
        if self.round.is_empty() {
            self.round = round(&self.generations.settled, &self.blocks.segments);
        }
        let mut batch = Batch::of(limit);
        let mut at = self.round.len();
        while at > 0 && !batch.is_full() {
            at -= 1;
            let (segment, key) = &self.round[at];
            let (from, to) = slots(&self.blocks.segments, *segment);
            // What expired while it waited is never written.
            let from = from.max(Slot::first(self.horizon.settled));
            let line = match from <= to {
                true => self.generations.settled.range(key, from, to),
                false => &[],
            };
            self.blocks.pack(*segment, key, line, &mut batch)?;
        }
        if !batch.is_empty() {
            self.blocks.tree.apply(&batch.entries)?;
        }
        for (segment, key) in self.round.drain(at..) {
            let (from, to) = slots(&self.blocks.segments, segment);
            let settled = &mut self.generations.settled;
            if let Some((slot, _)) = settled.range(&key, from, to).last() {
                // A segment found at opening is one whose latest timestamp is unknown.
                if !self.blocks.segments.holds(segment) {
                    self.written.insert(segment, slot.major);
                } else if let Some(last) = self.written.get_mut(&segment) {
                    *last = slot.major.max(*last);
                }
            }
            settled.remove(&key, from, to, usize::MAX);
            self.blocks.segments.add(segment);
        }
        self.blocks.sweep(self.horizon.settled, limit)?;
        self.written
            .retain(|segment, _| self.blocks.segments.holds(*segment));
        Ok(self.generations.settled.is_empty())
    }

    fn settled_bytes(&self) -> usize {
        self.generations.settled.bytes()
    }

    fn dirty_bytes(&self) -> usize {
        self.generations.dirty_bytes()
    }

    fn clear(&mut self) -> Result<(), StateError> {
        self.generations.clear();
        self.horizon = Horizon::default();
        self.round.clear();
        self.written.clear();
        self.blocks.clear()
    }
}
