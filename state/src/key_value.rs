//! A map from bytes to bytes with the time of each value.
//!
//! Locally a row is `key → timestamp (8, big-endian) ‖ value`.

use std::cmp::Ordering;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use crate::arena::Arena;
use crate::keys::{after_prefix, stamp, unstamp};
use crate::overlay::{Entry, Generations, Layers, Table};
use crate::rows::Rows;
use crate::store::{MAX_BATCH, VisitKey};
use crate::{Change, Direction, Stamped, StateError, Store, Tree};

/// A key-value store.
pub struct KeyValueStore {
    name: String,
    tree: Box<dyn Tree>,
    generations: Generations<Rows>,
    /// Settled keys still to be applied in this round, descending.
    round: Vec<Bytes>,
    arena: Arena,
}

impl KeyValueStore {
    /// A store over what `tree` holds.
    pub fn open(name: &str, tree: Box<dyn Tree>) -> Self {
        Self {
            name: name.to_owned(),
            tree,
            generations: Generations::default(),
            round: Vec::new(),
            arena: Arena::default(),
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn get(&self, key: &[u8]) -> Result<Option<Stamped>, StateError> {
        let known = self
            .generations
            .newest_first()
            .into_iter()
            .find_map(|rows| rows.get(key));
        match known {
            Some(entry) => Ok(stamped(entry)),
            None => self.tree.get(key)?.map(|row| self.parse(row)).transpose(),
        }
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// None today; a backend with a bounded overlay may refuse.
    pub fn put(&mut self, key: &[u8], value: &[u8], timestamp: i64) -> Result<(), StateError> {
        let entry = Entry {
            timestamp,
            value: Some(self.arena.copy(value)),
        };
        self.generations.open.put(key, entry, &mut self.arena);
        Ok(())
    }

    /// Removes a key; `timestamp` becomes that of the changelog's tombstone.
    ///
    /// # Errors
    /// None today; a backend with a bounded overlay may refuse.
    pub fn delete(&mut self, key: &[u8], timestamp: i64) -> Result<(), StateError> {
        let entry = Entry {
            timestamp,
            value: None,
        };
        self.generations.open.put(key, entry, &mut self.arena);
        Ok(())
    }

    /// Visits the entries between two bounds, in byte order of the keys, until `visit` breaks.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: VisitKey<'_>,
    ) -> Result<(), StateError> {
        let sorted = self
            .generations
            .newest_first()
            .map(|rows| rows.range(from, to, direction));
        let mut layers = Layers::new(sorted, direction);
        let mut flow = ControlFlow::Continue(());
        let mut corrupt = None;
        self.tree.scan(from, to, direction, &mut |key, row| {
            flow = (|| {
                while let Some(head) = layers.peek() {
                    let order = direction.order(head, key);
                    if order == Ordering::Greater {
                        break;
                    }
                    if let Some((key, value)) = layers.next().and_then(present) {
                        visit(key, value)?;
                    }
                    if order == Ordering::Equal {
                        return ControlFlow::Continue(());
                    }
                }
                match self.parse(Bytes::copy_from_slice(row)) {
                    Ok(value) => visit(key, value),
                    Err(error) => {
                        corrupt = Some(error);
                        ControlFlow::Break(())
                    }
                }
            })();
            flow
        })?;
        if let Some(error) = corrupt {
            return Err(error);
        }
        while flow.is_continue() {
            let Some(write) = layers.next() else { break };
            if let Some((key, value)) = present(write) {
                flow = visit(key, value);
            }
        }
        Ok(())
    }

    /// Visits the entries whose keys start with `prefix`.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn prefix_scan(
        &self,
        prefix: &[u8],
        direction: Direction,
        visit: VisitKey<'_>,
    ) -> Result<(), StateError> {
        let end = after_prefix(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.scan(Bound::Included(prefix), to, direction, visit)
    }

    fn parse(&self, row: Bytes) -> Result<Stamped, StateError> {
        unstamp(row).ok_or_else(|| StateError::corrupt(&self.name, "a row without a timestamp"))
    }
}

fn stamped(entry: &Entry) -> Option<Stamped> {
    Some(Stamped {
        timestamp: entry.timestamp,
        value: entry.value.clone()?,
    })
}

fn present<'a>((key, entry): (&'a [u8], &Entry)) -> Option<(&'a [u8], Stamped)> {
    Some((key, stamped(entry)?))
}

impl Store for KeyValueStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn seal(&mut self, changelog: &mut dyn FnMut(Change<'_>)) -> Result<(), StateError> {
        for (key, entry) in self.generations.seal(&self.name)?.sorted() {
            changelog(Change {
                key,
                value: entry.value.as_deref(),
                timestamp: entry.timestamp,
            });
        }
        Ok(())
    }

    fn settle(&mut self) {
        self.generations.settle();
    }

    fn discard(&mut self) {
        self.generations.discard();
    }

    fn restore(&mut self, change: Change<'_>) -> Result<(), StateError> {
        let value = change.value.map(|value| self.arena.copy(value));
        let entry = Entry {
            timestamp: change.timestamp,
            value,
        };
        self.generations
            .settled
            .put(change.key, entry, &mut self.arena);
        Ok(())
    }

    fn apply(&mut self, max_entries: usize) -> Result<bool, StateError> {
        let settled = &mut self.generations.settled;
        if self.round.is_empty() {
            self.round = settled
                .sorted()
                .into_iter()
                .rev()
                .map(|(key, _)| key.clone())
                .collect();
        }
        let chunk = max_entries.clamp(1, MAX_BATCH).min(self.round.len());
        let keys = self.round.len() - chunk..;
        let batch: Vec<(Bytes, Option<Bytes>)> = self.round[keys.clone()]
            .iter()
            .rev()
            .filter_map(|key| {
                let entry = settled.get(key)?;
                let row = entry
                    .value
                    .as_ref()
                    .map(|value| stamp(entry.timestamp, value));
                Some((key.clone(), row))
            })
            .collect();
        if !batch.is_empty() {
            self.tree.apply(&batch)?;
        }
        self.round.truncate(keys.start);
        for (key, _) in &batch {
            settled.remove(key);
        }
        Ok(settled.is_empty())
    }

    fn settled_bytes(&self) -> usize {
        self.generations.settled.bytes()
    }

    fn dirty_bytes(&self) -> usize {
        self.generations.dirty_bytes()
    }

    fn clear(&mut self) -> Result<(), StateError> {
        self.generations.clear();
        self.round.clear();
        self.tree.clear()
    }
}
