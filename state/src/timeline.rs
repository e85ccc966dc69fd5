//! One generation of a store whose keys have a time line: a hash map from key to its sorted slots.
//!
//! Events come roughly in time order, so a write nearly always lands at the end of its key's list.

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::arena::Arena;
use crate::keys::Slot;
use crate::overlay::{ENTRY_OVERHEAD, Entry, Table};

type Line = Vec<(Slot, Entry)>;

#[derive(Debug, Default)]
pub(crate) struct Timeline {
    lines: FxHashMap<Bytes, Line>,
    bytes: usize,
}

impl Timeline {
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(crate) fn get(&self, key: &[u8], slot: Slot) -> Option<&Entry> {
        let line = self.line(key);
        // The newest slots are asked for most.
        match line.last()? {
            (last, entry) if *last == slot => Some(entry),
            (last, _) if *last < slot => None,
            _ => Some(&line[line.binary_search_by_key(&slot, |row| row.0).ok()?].1),
        }
    }

    /// The writes of a key between two slots, both included.
    pub(crate) fn range(&self, key: &[u8], from: Slot, to: Slot) -> &[(Slot, Entry)] {
        let line = self.line(key);
        &line[span(line, from, to)]
    }

    fn line(&self, key: &[u8]) -> &[(Slot, Entry)] {
        if self.lines.is_empty() {
            &[]
        } else {
            self.lines.get(key).map_or(&[], Vec::as_slice)
        }
    }

    pub(crate) fn put(&mut self, key: &[u8], slot: Slot, entry: Entry, arena: &mut Arena) {
        self.bytes += entry.value.as_ref().map_or(0, Bytes::len) + ENTRY_OVERHEAD;
        match self.lines.get_mut(key) {
            Some(line) => insert(line, slot, entry),
            None => self.insert_line(arena.copy(key), vec![(slot, entry)]),
        }
    }

    fn insert_line(&mut self, key: Bytes, line: Line) {
        self.bytes += key.len() + ENTRY_OVERHEAD;
        self.lines.insert(key, line);
    }

    /// All keys in byte order, with their slots in order.
    pub(crate) fn sorted(&self) -> Vec<(&Bytes, &[(Slot, Entry)])> {
        let mut lines: Vec<_> = self.iter().collect();
        lines.sort_unstable_by(|a, b| a.0.cmp(b.0));
        lines
    }

    /// All keys, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, &[(Slot, Entry)])> {
        self.lines.iter().map(|(key, line)| (key, &line[..]))
    }

    /// Forgets up to `limit` writes of a key from the first slot between `from` and `to` on.
    pub(crate) fn remove(&mut self, key: &[u8], from: Slot, to: Slot, limit: usize) {
        let Some(line) = self.lines.get_mut(key) else {
            return;
        };
        let mut gone = span(line, from, to);
        gone.end = gone.end.min(gone.start.saturating_add(limit));
        let held = |row: (Slot, Entry)| ENTRY_OVERHEAD + row.1.value.map_or(0, |value| value.len());
        let mut freed: usize = line.drain(gone).map(held).sum();
        if line.is_empty() {
            self.lines.remove(key);
            freed += key.len() + ENTRY_OVERHEAD;
        }
        self.bytes = if self.lines.is_empty() {
            0
        } else {
            self.bytes.saturating_sub(freed)
        };
    }
}

impl Table for Timeline {
    fn merge(&mut self, newer: Self) {
        if self.lines.is_empty() {
            *self = newer;
            return;
        }
        for (key, newer_line) in newer.lines {
            let held =
                |row: &(Slot, Entry)| ENTRY_OVERHEAD + row.1.value.as_ref().map_or(0, Bytes::len);
            self.bytes += newer_line.iter().map(held).sum::<usize>();
            match self.lines.get_mut(&key) {
                Some(line) => merge_lines(line, newer_line),
                None => self.insert_line(key, newer_line),
            }
        }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

fn span(line: &[(Slot, Entry)], from: Slot, to: Slot) -> std::ops::Range<usize> {
    let start = line.partition_point(|row| row.0 < from);
    let end = start + line[start..].partition_point(|row| row.0 <= to);
    start..end
}

fn insert(line: &mut Line, slot: Slot, entry: Entry) {
    if line.last().is_some_and(|last| last.0 < slot) {
        line.push((slot, entry));
        return;
    }
    match line.binary_search_by_key(&slot, |row| row.0) {
        Ok(at) => line[at].1 = entry,
        Err(at) => line.insert(at, (slot, entry)),
    }
}

/// Linear in the two lines together, constant per write when they do not overlap.
fn merge_lines(line: &mut Line, newer: Line) {
    let (Some(last), Some(first)) = (line.last(), newer.first()) else {
        return line.extend(newer);
    };
    if last.0 < first.0 {
        return line.extend(newer);
    }
    let overlap = line.partition_point(|row| row.0 < first.0);
    let older = line.split_off(overlap);
    let (mut older, mut newer) = (older.into_iter().peekable(), newer.into_iter().peekable());
    loop {
        let row = match (older.peek(), newer.peek()) {
            (Some(old), Some(new)) if old.0 < new.0 => older.next(),
            (Some(old), Some(new)) => {
                if old.0 == new.0 {
                    older.next();
                }
                newer.next()
            }
            (Some(_), None) => older.next(),
            (None, _) => newer.next(),
        };
        match row {
            Some(row) => line.push(row),
            None => return,
        }
    }
}
