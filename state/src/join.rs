//! The buffer of one side of a stream join: append-only, a key and timestamp may repeat.
//!
//! An append is a push onto the key's list in memory. Applied, the entries of a key in a segment are
//! packed into blocks (`block.rs`): the backend sees one write per key and segment for each round of
//! applying, however many records came. Replaying a changelog over what is there changes nothing, since
//! a sequence number says which entry a record is.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::arena::Arena;
use crate::block::{self, BLOCK_BYTES, Packed, Tail};
use crate::keys::{Kind, Slot, write_row_prefix};
use crate::overlay::{Entry, Generations, Horizon, Layers, Table};
use crate::segments::Segments;
use crate::store::{MAX_BATCH, VisitJoin};
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
    tree: Box<dyn Tree>,
    generations: Generations<Timeline>,
    horizon: Horizon,
    segments: Segments,
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
        let segments = Segments::load(name, &*tree, options.segment_ms)?;
        Ok(Self {
            name: name.to_owned(),
            tree,
            generations: Generations::default(),
            horizon: Horizon::default(),
            segments,
            written: BTreeMap::new(),
            round: Vec::new(),
            arena: Arena::default(),
            scratch: Cell::default(),
        })
    }

    /// Adds an entry and returns its sequence number: `seq_hint`, or the next one that is free for this
    /// key and timestamp. Below the horizon nothing is added.
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
        let segment = self.segments.of(timestamp);
        // Ahead of all that was written to the segment: no need to ask the backend.
        let ahead = !self.segments.holds(segment)
            || self
                .written
                .get(&segment)
                .is_some_and(|last| *last < timestamp);
        let stored = match ahead {
            true => Vec::new(),
            false => self.stored(key, segment, timestamp, timestamp)?,
        };
        let taken = |sequence: u32| {
            let slot = Slot {
                major: timestamp,
                minor: i64::from(sequence),
            };
            self.generations
                .newest_first()
                .iter()
                .any(|layer| layer.get(key, slot).is_some())
                || stored.binary_search_by_key(&slot, |entry| entry.0).is_ok()
        };
        let mut sequence = hint;
        while taken(sequence) {
            sequence = sequence.wrapping_add(1);
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
            for segment in self.segments.between(from, to) {
                let stored = match self.stored(key, segment, from, to) {
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

    /// What the backend has of a key in a segment between two timestamps, sorted.
    fn stored(
        &self,
        key: &[u8],
        segment: i64,
        from: i64,
        to: i64,
    ) -> Result<Vec<Packed>, StateError> {
        let Some(tail) = self.read_block(segment, key, 0)? else {
            return Ok(Vec::new());
        };
        let (spans, at) = block::read_spans(&tail).ok_or_else(|| self.corrupt())?;
        let mut entries = Vec::new();
        for (number, (first, last)) in (1..).zip(spans) {
            if first <= to && from <= last {
                entries.extend(self.read_full(segment, key, number, from, to)?);
            }
        }
        let tail = block::decode_entries(&tail.slice(at..), from, to);
        entries.extend(tail.ok_or_else(|| self.corrupt())?);
        // Nearly always sorted already, which costs one comparison per entry.
        entries.sort_by_key(|entry| entry.0);
        Ok(entries)
    }

    fn read_full(
        &self,
        segment: i64,
        key: &[u8],
        number: u32,
        from: i64,
        to: i64,
    ) -> Result<Vec<Packed>, StateError> {
        let bytes = self.read_block(segment, key, number)?;
        let entries = bytes.and_then(|bytes| block::decode_entries(&bytes, from, to));
        entries.ok_or_else(|| self.corrupt())
    }

    fn read_block(
        &self,
        segment: i64,
        key: &[u8],
        number: u32,
    ) -> Result<Option<Bytes>, StateError> {
        let mut buffer = self.scratch.take();
        write_row_prefix(&mut buffer, segment, key);
        buffer.extend_from_slice(&number.to_be_bytes());
        let found = self.tree.get(&buffer);
        self.scratch.set(buffer);
        found
    }

    fn corrupt(&self) -> StateError {
        StateError::corrupt(&self.name, "a block is not in this store's format")
    }

    /// Adds to `batch` the blocks of a key in a segment that change with its settled writes.
    fn pack(
        &self,
        segment: i64,
        key: &[u8],
        batch: &mut Vec<(Bytes, Option<Bytes>)>,
    ) -> Result<(), StateError> {
        let (from, to) = slots(&self.segments, segment);
        let line = self.generations.settled.range(key, from, to);
        // What expired while it waited is never written.
        let line = &line[line.partition_point(|row| row.0.major < self.horizon.settled)..];
        if line.is_empty() {
            return Ok(());
        }
        let mut tail = match self.segments.holds(segment) {
            false => Tail::default(),
            true => match self.read_block(segment, key, 0)? {
                Some(bytes) => Tail::decode(&bytes).ok_or_else(|| self.corrupt())?,
                None => Tail::default(),
            },
        };
        let mut full: BTreeMap<usize, Vec<Packed>> = BTreeMap::new();
        for (slot, entry) in line {
            match self.covering(segment, key, *slot, &tail, &mut full)? {
                Some(number) => {
                    let entries = full.get_mut(&number).expect("covering has read the block");
                    block::set(entries, *slot, entry.value.clone());
                }
                None => block::set(&mut tail.entries, *slot, entry.value.clone()),
            }
        }
        cut(&mut tail, &mut full);
        let mut row_key = Vec::with_capacity(key.len() + 16);
        write_row_prefix(&mut row_key, segment, key);
        let mut put = |number: usize, value: Bytes| {
            let mut row_key = row_key.clone();
            row_key.extend_from_slice(&(number as u32).to_be_bytes());
            batch.push((row_key.into(), Some(value)));
        };
        put(0, tail.encode());
        for (number, entries) in full {
            put(number, block::encode_entries(&entries));
        }
        Ok(())
    }

    /// The full block a slot belongs to, read into `full`: the one that holds it, else the first whose
    /// span covers it.
    fn covering(
        &self,
        segment: i64,
        key: &[u8],
        slot: Slot,
        tail: &Tail,
        full: &mut BTreeMap<usize, Vec<Packed>>,
    ) -> Result<Option<usize>, StateError> {
        let mut first = None;
        for (number, span) in (1..).zip(&tail.spans) {
            if (span.0..=span.1).contains(&slot.major) {
                let entries = match full.entry(number) {
                    std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                    std::collections::btree_map::Entry::Vacant(unknown) => {
                        let number = number as u32;
                        let all = self.read_full(segment, key, number, i64::MIN, i64::MAX)?;
                        unknown.insert(all)
                    }
                };
                if entries.binary_search_by_key(&slot, |entry| entry.0).is_ok() {
                    return Ok(Some(number));
                }
                first = first.or(Some(number));
            }
        }
        let in_tail = tail
            .entries
            .binary_search_by_key(&slot, |entry| entry.0)
            .is_ok();
        Ok(first.filter(|_| !in_tail))
    }
}

/// Cuts an overfull tail, and full blocks that late entries made too large, into full blocks.
fn cut(tail: &mut Tail, full: &mut BTreeMap<usize, Vec<Packed>>) {
    let mut cut = Vec::new();
    while block::size(&tail.entries) > BLOCK_BYTES && tail.entries.len() > 1 {
        let rest = tail.entries.split_off(block::fitting(&tail.entries));
        cut.push(std::mem::replace(&mut tail.entries, rest));
    }
    for entries in full.values_mut() {
        while block::size(entries) > 2 * BLOCK_BYTES && entries.len() > 1 {
            let rest = entries.split_off(block::fitting(entries));
            cut.push(std::mem::replace(entries, rest));
        }
    }
    for entries in cut {
        tail.spans.push((0, 0));
        full.insert(tail.spans.len(), entries);
    }
    for (number, entries) in full {
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            tail.spans[number - 1] = (first.0.major, last.0.major);
        }
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
            StateError::corrupt(&self.name, "a changelog key is not one of a join's store")
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
            self.round = round(&self.generations.settled, &self.segments);
        }
        let mut batch = Vec::new();
        let mut at = self.round.len();
        while at > 0 && batch.len() < limit {
            at -= 1;
            let (segment, key) = &self.round[at];
            self.pack(*segment, key, &mut batch)?;
        }
        if !batch.is_empty() {
            self.tree.apply(&batch)?;
        }
        for (segment, key) in self.round.drain(at..) {
            let (from, to) = slots(&self.segments, segment);
            let settled = &mut self.generations.settled;
            if let Some((slot, _)) = settled.range(&key, from, to).last() {
                // A segment found at opening is one whose latest timestamp is unknown.
                if !self.segments.holds(segment) {
                    self.written.insert(segment, slot.major);
                } else if let Some(last) = self.written.get_mut(&segment) {
                    *last = slot.major.max(*last);
                }
            }
            settled.remove(&key, from, to, usize::MAX);
            self.segments.add(segment);
        }
        self.segments
            .sweep(&mut *self.tree, self.horizon.settled, limit)?;
        let live: BTreeSet<i64> = self.written.keys().copied().collect();
        for gone in live
            .into_iter()
            .filter(|segment| !self.segments.holds(*segment))
        {
            self.written.remove(&gone);
        }
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
        self.segments.clear();
        self.written.clear();
        self.tree.clear()
    }
}
