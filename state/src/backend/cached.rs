//! A bounded cache of rows, absent ones included, above another backend.
//!
//! A sled lookup costs microseconds, one here a hash. Rows are kept in two generations: a full young
//! one becomes the old one, and an old row that is asked for becomes young again, so what was not used
//! for a whole generation goes. A tree's writes go through its cache; one handle per tree, as always.

use std::cell::RefCell;
use std::ops::Bound;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::{Database, Direction, Tree, VisitBytes};
use crate::StateError;

/// A database whose trees each have a row cache.
#[derive(Debug, Clone)]
pub struct CachedDatabase<D> {
    inner: D,
    bytes_per_tree: usize,
}

impl<D: Database> CachedDatabase<D> {
    /// Caches up to `bytes_per_tree` for each tree that is opened.
    pub fn new(inner: D, bytes_per_tree: usize) -> Self {
        Self {
            inner,
            bytes_per_tree,
        }
    }

    /// The database below.
    pub fn inner(&self) -> &D {
        &self.inner
    }
}

impl<D: Database> Database for CachedDatabase<D> {
    fn tree(&self, name: &str) -> Result<Box<dyn Tree>, StateError> {
        let rows = Rows {
            half: self.bytes_per_tree / 2,
            ..Rows::default()
        };
        Ok(Box::new(CachedTree {
            inner: self.inner.tree(name)?,
            rows: RefCell::new(rows),
        }))
    }

    fn drop_tree(&self, name: &str) -> Result<(), StateError> {
        self.inner.drop_tree(name)
    }

    fn tree_names(&self) -> Result<Vec<String>, StateError> {
        self.inner.tree_names()
    }

    fn sync(&self) -> Result<(), StateError> {
        self.inner.sync()
    }
}

struct CachedTree {
    inner: Box<dyn Tree>,
    rows: RefCell<Rows>,
}

impl Tree for CachedTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        if let Some(known) = self.rows.borrow_mut().get(key) {
            return Ok(known);
        }
        let found = self.inner.get(key)?;
        self.rows.borrow_mut().put(key, found.clone());
        Ok(found)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: VisitBytes<'_>,
    ) -> Result<(), StateError> {
        self.inner.scan(from, to, direction, visit)
    }

    fn apply(&mut self, batch: &[(Bytes, Option<Bytes>)]) -> Result<(), StateError> {
        self.inner.apply(batch)?;
        let rows = self.rows.get_mut();
        for (key, value) in batch {
            rows.put(key, value.clone());
        }
        Ok(())
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8], limit: usize) -> Result<usize, StateError> {
        let removed = self.inner.remove_range(from, to, limit)?;
        // Which rows went is not known; forgetting the whole range is always right.
        self.rows.get_mut().forget(from, to);
        Ok(removed)
    }

    fn clear(&mut self) -> Result<(), StateError> {
        self.rows.get_mut().clear();
        self.inner.clear()
    }
}

/// What a row costs beside its bytes: hash slot, allocations.
const ROW_OVERHEAD: usize = 112;

#[derive(Debug, Default)]
struct Rows {
    young: FxHashMap<Box<[u8]>, Option<Bytes>>,
    old: FxHashMap<Box<[u8]>, Option<Bytes>>,
    young_bytes: usize,
    /// Most a generation may hold.
    half: usize,
}

impl Rows {
    /// The row, which may be known to be absent; none when it is not known.
    fn get(&mut self, key: &[u8]) -> Option<Option<Bytes>> {
        if let Some(row) = self.young.get(key) {
            return Some(row.clone());
        }
        let (key, row) = self.old.remove_entry(key)?;
        self.insert(key, row.clone());
        Some(row)
    }

    fn put(&mut self, key: &[u8], row: Option<Bytes>) {
        if let Some(known) = self.young.get_mut(key) {
            self.young_bytes += row.as_ref().map_or(0, Bytes::len);
            self.young_bytes -= known.as_ref().map_or(0, Bytes::len);
            *known = row;
            return;
        }
        let key = self
            .old
            .remove_entry(key)
            .map_or_else(|| key.into(), |(key, _)| key);
        self.insert(key, row);
    }

    fn insert(&mut self, key: Box<[u8]>, row: Option<Bytes>) {
        self.young_bytes += key.len() + row.as_ref().map_or(0, Bytes::len) + ROW_OVERHEAD;
        self.young.insert(key, row);
        if self.young_bytes > self.half {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }

    fn forget(&mut self, from: &[u8], to: &[u8]) {
        let outside = |key: &[u8]| key < from || key >= to;
        self.old.retain(|key, _| outside(key));
        let freed = &mut self.young_bytes;
        self.young.retain(|key, row| {
            let keep = outside(key);
            if !keep {
                *freed -= key.len() + row.as_ref().map_or(0, Bytes::len) + ROW_OVERHEAD;
            }
            keep
        });
    }

    fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.young_bytes = 0;
    }
}
