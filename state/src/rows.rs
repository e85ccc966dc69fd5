//! One generation of a key-value store: a hash map, and an order that is built when first asked for.
//!
//! A store that only gets and puts pays for a hash map. The first scan of a generation sorts its keys;
//! from then on new keys are inserted into the order as they come, so scans between puts stay cheap.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ops::Bound;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::Direction;
use crate::arena::Arena;
use crate::backend::is_empty_range;
use crate::overlay::{ENTRY_OVERHEAD, Entry, Table};

#[derive(Debug, Default)]
pub(crate) struct Rows {
    map: FxHashMap<Bytes, Entry>,
    order: OnceCell<BTreeSet<Bytes>>,
    bytes: usize,
}

impl Rows {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry> {
        if self.map.is_empty() {
            None
        } else {
            self.map.get(key)
        }
    }

    pub(crate) fn put(&mut self, key: &[u8], entry: Entry, arena: &mut Arena) {
        self.bytes += entry.value.as_ref().map_or(0, Bytes::len);
        match self.map.get_mut(key) {
            Some(old) => *old = entry,
            None => self.insert_new(arena.copy(key), entry),
        }
    }

    fn insert_new(&mut self, key: Bytes, entry: Entry) {
        self.bytes += key.len() + ENTRY_OVERHEAD;
        if let Some(order) = self.order.get_mut() {
            order.insert(key.clone());
        }
        self.map.insert(key, entry);
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        if let Some((key, entry)) = self.map.remove_entry(key) {
            let held = key.len() + ENTRY_OVERHEAD + entry.value.map_or(0, |value| value.len());
            self.bytes = self.bytes.saturating_sub(held);
            if let Some(order) = self.order.get_mut() {
                order.remove(&key);
            }
        }
        if self.map.is_empty() {
            self.bytes = 0;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// All writes in key order.
    pub(crate) fn sorted(&self) -> Vec<(&Bytes, &Entry)> {
        let mut rows: Vec<_> = self.map.iter().collect();
        rows.sort_unstable_by(|a, b| a.0.cmp(b.0));
        rows
    }

    pub(crate) fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
    ) -> Box<dyn Iterator<Item = (&'a [u8], &'a Entry)> + 'a> {
        if self.map.is_empty() || is_empty_range(from, to) {
            return Box::new(std::iter::empty());
        }
        let order = self
            .order
            .get_or_init(|| self.map.keys().cloned().collect());
        let keys = order.range::<[u8], _>((from, to));
        let row = |key: &'a Bytes| (&key[..], &self.map[key]);
        match direction {
            Direction::Forward => Box::new(keys.map(row)),
            Direction::Backward => Box::new(keys.rev().map(row)),
        }
    }
}

impl Table for Rows {
    fn merge(&mut self, newer: Self) {
        if self.map.is_empty() {
            *self = newer;
            return;
        }
        self.map.reserve(
            newer
                .map
                .len()
                .saturating_sub(self.map.capacity() - self.map.len()),
        );
        for (key, entry) in newer.map {
            self.bytes += entry.value.as_ref().map_or(0, Bytes::len);
            match self.map.get_mut(&key) {
                Some(old) => *old = entry,
                None => self.insert_new(key, entry),
            }
        }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}
