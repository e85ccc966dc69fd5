//! Trees in memory: for tests, and for stores that need not outlive the process.
//!
//! A clone shares the trees, so a store dropped and opened again finds what it had applied.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Database, Direction, Tree, VisitBytes, is_empty_range};
use crate::StateError;

type Map = BTreeMap<Bytes, Bytes>;

/// Rows copied out per lock of a scan; the visitor runs unlocked and may read the tree.
const SCAN_CHUNK: usize = 64;

/// A database in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryDatabase {
    trees: Arc<Mutex<BTreeMap<String, Arc<Mutex<Map>>>>>,
}

impl Database for MemoryDatabase {
    fn tree(&self, name: &str) -> Result<Box<dyn Tree>, StateError> {
        let map = Arc::clone(lock(&self.trees).entry(name.to_owned()).or_default());
        Ok(Box::new(MemoryTree { map }))
    }

    fn drop_tree(&self, name: &str) -> Result<(), StateError> {
        if let Some(map) = lock(&self.trees).remove(name) {
            lock(&map).clear();
        }
        Ok(())
    }

    fn tree_names(&self) -> Result<Vec<String>, StateError> {
        Ok(lock(&self.trees).keys().cloned().collect())
    }

    fn sync(&self) -> Result<(), StateError> {
        Ok(())
    }
}

struct MemoryTree {
    map: Arc<Mutex<Map>>,
}

impl Tree for MemoryTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(lock(&self.map).get(key).cloned())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: VisitBytes<'_>,
    ) -> Result<(), StateError> {
        let mut last: Option<Bytes> = None;
        loop {
            let (from, to) = match (&last, direction) {
                (None, _) => (from, to),
                (Some(key), Direction::Forward) => (Bound::Excluded(&key[..]), to),
                (Some(key), Direction::Backward) => (from, Bound::Excluded(&key[..])),
            };
            let chunk = self.chunk(from, to, direction);
            for (key, value) in &chunk {
                if visit(key, value).is_break() {
                    return Ok(());
                }
            }
            match chunk.into_iter().nth(SCAN_CHUNK - 1) {
                Some((key, _)) => last = Some(key),
                None => return Ok(()),
            }
        }
    }

    fn apply(&mut self, batch: &[(Bytes, Option<Bytes>)]) -> Result<(), StateError> {
        let mut map = lock(&self.map);
        for (key, value) in batch {
            match value {
                // Copied, so that a small entry does not keep a large shared buffer alive.
                Some(value) => {
                    map.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                }
                None => {
                    map.remove(key);
                }
            }
        }
        Ok(())
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8], limit: usize) -> Result<usize, StateError> {
        let range = (Bound::Included(from), Bound::Excluded(to));
        if is_empty_range(range.0, range.1) {
            return Ok(0);
        }
        let mut map = lock(&self.map);
        let keys: Vec<Bytes> = map
            .range::<[u8], _>(range)
            .take(limit)
            .map(|(key, _)| key.clone())
            .collect();
        for key in &keys {
            map.remove(key);
        }
        Ok(keys.len())
    }

    fn clear(&mut self) -> Result<(), StateError> {
        lock(&self.map).clear();
        Ok(())
    }
}

impl MemoryTree {
    fn chunk(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
    ) -> Vec<(Bytes, Bytes)> {
        if is_empty_range(from, to) {
            return Vec::new();
        }
        let map = lock(&self.map);
        let range = map.range::<[u8], _>((from, to));
        let owned = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
        match direction {
            Direction::Forward => range.take(SCAN_CHUNK).map(owned).collect(),
            Direction::Backward => range.rev().take(SCAN_CHUNK).map(owned).collect(),
        }
    }
}

/// A panic under one of these locks can only be an allocation failure; the maps stay usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
