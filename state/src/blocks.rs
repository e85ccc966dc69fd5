//! The blocks of one side of a join in its tree: reading them, and packing new entries into them.

use std::cell::Cell;
use std::collections::{BTreeMap, btree_map};

use bytes::Bytes;

use crate::block::{self, BLOCK_BYTES, Packed, Tail};
use crate::keys::{Slot, write_row_prefix};
use crate::overlay::Entry;
use crate::segments::Segments;
use crate::store::Batch;
use crate::{StateError, Tree};

pub(crate) struct Blocks {
    store: String,
    pub(crate) tree: Box<dyn Tree>,
    pub(crate) segments: Segments,
    scratch: Cell<Vec<u8>>,
}

impl Blocks {
    pub(crate) fn open(
        store: &str,
        tree: Box<dyn Tree>,
        segment_ms: i64,
    ) -> Result<Self, StateError> {
        let segments = Segments::load(store, &*tree, segment_ms)?;
        Ok(Self {
            store: store.to_owned(),
            tree,
            segments,
            scratch: Cell::default(),
        })
    }

    /// Deletes up to `limit` blocks that lie wholly before `horizon`.
    pub(crate) fn sweep(&mut self, horizon: i64, limit: usize) -> Result<(), StateError> {
        self.segments.sweep(&mut *self.tree, horizon, limit)
    }

    pub(crate) fn clear(&mut self) -> Result<(), StateError> {
        self.segments.clear();
        self.tree.clear()
    }

    /// What the backend has of a key in a segment between two timestamps, sorted.
    pub(crate) fn stored(
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
        StateError::corrupt(&self.store, "a block is not in this store's format")
    }

    /// Adds to `batch` the blocks of a key in a segment that change with the sorted writes of `line`.
    pub(crate) fn pack(
        &self,
        segment: i64,
        key: &[u8],
        line: &[(Slot, Entry)],
        batch: &mut Batch,
    ) -> Result<(), StateError> {
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
            batch.push(row_key.into(), Some(value));
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
                    btree_map::Entry::Occupied(known) => known.into_mut(),
                    btree_map::Entry::Vacant(unknown) => {
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
