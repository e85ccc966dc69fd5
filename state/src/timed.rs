//! What window and session stores share: entries at slots of a key's time line, one row each, in
//! segments of time, below a horizon that hides them exactly.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use crate::arena::Arena;
use crate::keys::{Kind, Slot, ordered, stamp, unstamp, write_row_prefix};
use crate::overlay::{Entry, Generations, Horizon, Layers, Table};
use crate::segments::Segments;
use crate::store::{Batch, MAX_BATCH};
use crate::timeline::Timeline;
use crate::{Change, Direction, Stamped, StateError, Tree};

/// Visits a slot and its value.
pub(crate) type VisitSlot<'v> = &'v mut dyn FnMut(Slot, Stamped) -> ControlFlow<()>;

/// Visits a key, a slot and its value.
pub(crate) type VisitRow<'v> = &'v mut dyn FnMut(&[u8], Slot, Stamped) -> ControlFlow<()>;

pub(crate) struct Timed {
    pub(crate) name: String,
    kind: Kind,
    tree: Box<dyn Tree>,
    generations: Generations<Timeline>,
    pub(crate) horizon: Horizon,
    segments: Segments,
    /// Settled `(segment, key)`s still to be applied in this round, descending.
    round: Vec<(i64, Bytes)>,
    arena: Arena,
    scratch: Cell<Vec<u8>>,
}

impl Timed {
    pub(crate) fn open(
        name: &str,
        kind: Kind,
        tree: Box<dyn Tree>,
        segment_ms: i64,
    ) -> Result<Self, StateError> {
        let segments = Segments::load(name, &*tree, segment_ms)?;
        Ok(Self {
            name: name.to_owned(),
            kind,
            tree,
            generations: Generations::default(),
            horizon: Horizon::default(),
            segments,
            round: Vec::new(),
            arena: Arena::default(),
            scratch: Cell::default(),
        })
    }

    pub(crate) fn get(&self, key: &[u8], slot: Slot) -> Result<Option<Stamped>, StateError> {
        if slot.major < self.horizon.open {
            return Ok(None);
        }
        let layers = self.generations.newest_first();
        if let Some(entry) = layers.into_iter().find_map(|layer| layer.get(key, slot)) {
            return Ok(stamped(entry));
        }
        let segment = self.segments.of(slot.major);
        if !self.segments.holds(segment) {
            return Ok(None);
        }
        let mut buffer = self.scratch.take();
        self.kind.write_row_key(&mut buffer, segment, key, slot);
        let row = self.tree.get(&buffer);
        self.scratch.set(buffer);
        row?.map(|row| self.parse(row)).transpose()
    }

    /// Ignored below the horizon.
    pub(crate) fn write(&mut self, key: &[u8], slot: Slot, value: Option<&[u8]>, timestamp: i64) {
        if slot.major >= self.horizon.open {
            let value = value.map(|value| self.arena.copy(value));
            let entry = Entry { timestamp, value };
            self.generations.open.put(key, slot, entry, &mut self.arena);
        }
    }

    /// Visits the entries of a key from one major to another, both included, in slot order.
    pub(crate) fn fetch(
        &self,
        key: &[u8],
        from: i64,
        to: i64,
        visit: VisitSlot<'_>,
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
        let mut flow = ControlFlow::Continue(());
        for segment in self.segments.between(from, to) {
            self.scan_key(key, segment, from, to, &mut |slot, value| {
                flow = (|| {
                    while let Some(head) = layers.peek().filter(|head| *head <= slot) {
                        if let Some((slot, value)) = layers.next().and_then(present) {
                            visit(slot, value)?;
                        }
                        if head == slot {
                            return ControlFlow::Continue(());
                        }
                    }
                    visit(slot, value)
                })();
                flow
            })?;
            if flow.is_break() {
                return Ok(());
            }
        }
        for write in layers {
            if let Some((slot, value)) = present(write)
                && visit(slot, value).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    /// Visits the backend's rows of a key in a segment.
    fn scan_key(
        &self,
        key: &[u8],
        segment: i64,
        from: i64,
        to: i64,
        visit: VisitSlot<'_>,
    ) -> Result<(), StateError> {
        let mut low = self.scratch.take();
        write_row_prefix(&mut low, segment, key);
        let prefix = low.len();
        let mut high = low.clone();
        low.extend_from_slice(&ordered(from));
        high.extend_from_slice(&ordered(to));
        // Above every minor of the last major.
        high.extend_from_slice(&[u8::MAX; 9]);
        let mut corrupt = false;
        let range = (Bound::Included(&low[..]), Bound::Excluded(&high[..]));
        self.tree
            .scan(range.0, range.1, Direction::Forward, &mut |row_key, row| {
                let slot = row_key
                    .get(prefix..)
                    .and_then(|suffix| self.kind.parse_suffix(suffix))
                    .filter(|slot| self.segments.of(slot.major) == segment);
                match slot.zip(unstamp(Bytes::copy_from_slice(row))) {
                    Some((slot, value)) => visit(slot, value),
                    None => {
                        corrupt = true;
                        ControlFlow::Break(())
                    }
                }
            })?;
        self.scratch.set(low);
        if corrupt { Err(self.corrupt()) } else { Ok(()) }
    }

    /// Visits the entries of all keys from one major to another, both included, by major, then key,
    /// then minor. Reads every row of the segments it touches, one segment in memory at a time.
    pub(crate) fn fetch_all(
        &self,
        from: i64,
        to: i64,
        visit: VisitRow<'_>,
    ) -> Result<(), StateError> {
        let from = from.max(self.horizon.open);
        let mut rows: BTreeMap<(i64, Bytes, i64), Option<Stamped>> = BTreeMap::new();
        // Oldest first, so that the newest write of a slot stays.
        for layer in self.generations.newest_first().into_iter().rev() {
            for (key, line) in layer.iter() {
                for (slot, entry) in line.iter().filter(|row| (from..=to).contains(&row.0.major)) {
                    rows.insert((slot.major, key.clone(), slot.minor), stamped(entry));
                }
            }
        }
        let mut emit = |rows: BTreeMap<(i64, Bytes, i64), Option<Stamped>>| {
            for ((major, key, minor), value) in rows {
                if let Some(value) = value {
                    visit(&key, Slot { major, minor }, value)?;
                }
            }
            ControlFlow::Continue(())
        };
        for segment in self.segments.between(from, to) {
            self.scan_segment(segment, &mut |key, slot, row| {
                if (from..=to).contains(&slot.major) {
                    let place = (slot.major, Bytes::copy_from_slice(key), slot.minor);
                    rows.entry(place).or_insert(Some(row));
                }
            })?;
            let (_, end) = self.segments.span(segment);
            let later = match end.checked_add(1) {
                Some(next) => rows.split_off(&(next, Bytes::new(), i64::MIN)),
                None => BTreeMap::new(),
            };
            if emit(std::mem::replace(&mut rows, later)).is_break() {
                return Ok(());
            }
        }
        let _ = emit(rows);
        Ok(())
    }

    fn scan_segment(
        &self,
        segment: i64,
        visit: &mut dyn FnMut(&[u8], Slot, Stamped),
    ) -> Result<(), StateError> {
        let low = ordered(segment);
        let high = segment.checked_add(1).map(ordered);
        let high = high
            .as_ref()
            .map_or(Bound::Unbounded, |high| Bound::Excluded(&high[..]));
        let mut corrupt = false;
        self.tree.scan(
            Bound::Included(&low),
            high,
            Direction::Forward,
            &mut |row_key, row| {
                let parsed = self.kind.parse_row_key(row_key);
                let parsed = parsed.filter(|(_, slot)| self.segments.of(slot.major) == segment);
                match parsed.zip(unstamp(Bytes::copy_from_slice(row))) {
                    Some(((key, slot), value)) => {
                        visit(key, slot, value);
                        ControlFlow::Continue(())
                    }
                    None => {
                        corrupt = true;
                        ControlFlow::Break(())
                    }
                }
            },
        )?;
        if corrupt { Err(self.corrupt()) } else { Ok(()) }
    }

    fn parse(&self, row: Bytes) -> Result<Stamped, StateError> {
        unstamp(row).ok_or_else(|| self.corrupt())
    }

    fn corrupt(&self) -> StateError {
        StateError::corrupt(&self.name, "a row is not in this store's format")
    }

    pub(crate) fn seal(&mut self, changelog: &mut dyn FnMut(Change<'_>)) -> Result<(), StateError> {
        let sealed = self.generations.seal(&self.name)?;
        self.horizon.seal();
        let mut buffer = self.scratch.take();
        for (key, line) in sealed.sorted() {
            for (slot, Entry { timestamp, value }) in line {
                self.kind.write_changelog_key(&mut buffer, key, *slot);
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

    pub(crate) fn settle(&mut self) {
        self.generations.settle();
        self.horizon.settle();
    }

    pub(crate) fn discard(&mut self) {
        self.generations.discard();
        self.horizon.discard();
    }

    pub(crate) fn restore(&mut self, change: Change<'_>) -> Result<(), StateError> {
        let (key, slot) = self.kind.parse_changelog_key(change.key).ok_or_else(|| {
            StateError::foreign_change(&self.name, "a key is not one of this kind of store")
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

    pub(crate) fn apply(&mut self, max_entries: usize) -> Result<bool, StateError> {
        let limit = max_entries.clamp(1, MAX_BATCH);
        if self.round.is_empty() {
            self.round = round(&self.generations.settled, &self.segments);
        }
        let mut batch = Batch::of(limit);
        let mut taken = Vec::new();
        let mut at = self.round.len();
        while at > 0 && !batch.is_full() {
            let (segment, key) = &self.round[at - 1];
            let (from, to) = slots(&self.segments, *segment);
            let line = self.generations.settled.range(key, from, to);
            let mut room = 0;
            for (slot, entry) in line {
                if batch.is_full() {
                    break;
                }
                room += 1;
                // What expired while it waited is never written.
                if slot.major >= self.horizon.settled {
                    let mut row_key = Vec::with_capacity(key.len() + 28);
                    self.kind.write_row_key(&mut row_key, *segment, key, *slot);
                    let row = entry
                        .value
                        .as_ref()
                        .map(|value| stamp(entry.timestamp, value));
                    batch.push(Bytes::from(row_key), row);
                }
            }
            taken.push((at - 1, room));
            if room < line.len() {
                break;
            }
            at -= 1;
        }
        if !batch.is_empty() {
            self.tree.apply(&batch.entries)?;
        }
        for (index, count) in taken {
            let (segment, key) = &self.round[index];
            let (from, to) = slots(&self.segments, *segment);
            self.segments.add(*segment);
            self.generations.settled.remove(key, from, to, count);
        }
        self.round.truncate(at);
        self.segments
            .sweep(&mut *self.tree, self.horizon.settled, limit)?;
        Ok(self.generations.settled.is_empty())
    }

    pub(crate) fn settled_bytes(&self) -> usize {
        self.generations.settled.bytes()
    }

    pub(crate) fn dirty_bytes(&self) -> usize {
        self.generations.dirty_bytes()
    }

    pub(crate) fn clear(&mut self) -> Result<(), StateError> {
        self.generations.clear();
        self.horizon = Horizon::default();
        self.round.clear();
        self.segments.clear();
        self.tree.clear()
    }
}

/// First and last slot of a segment.
pub(crate) fn slots(segments: &Segments, segment: i64) -> (Slot, Slot) {
    let (from, to) = segments.span(segment);
    (Slot::first(from), Slot::last(to))
}

/// What there is to apply, in descending order of its rows.
pub(crate) fn round(settled: &Timeline, segments: &Segments) -> Vec<(i64, Bytes)> {
    let mut round = Vec::new();
    for (key, line) in settled.iter() {
        let mut last = None;
        for (slot, _) in line {
            let segment = segments.of(slot.major);
            if last.replace(segment) != Some(segment) {
                round.push((segment, key.clone()));
            }
        }
    }
    round.sort_unstable_by(|a, b| {
        let ascending: Ordering = (a.0, a.1.len(), &a.1).cmp(&(b.0, b.1.len(), &b.1));
        ascending.reverse()
    });
    round
}

pub(crate) fn stamped(entry: &Entry) -> Option<Stamped> {
    Some(Stamped {
        timestamp: entry.timestamp,
        value: entry.value.clone()?,
    })
}

fn present((slot, entry): (Slot, &Entry)) -> Option<(Slot, Stamped)> {
    Some((slot, stamped(entry)?))
}
