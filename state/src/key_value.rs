//! A map from bytes to bytes with the time of each value.
//!
//! Locally a row is `key → timestamp (8, big-endian) ‖ value`.
//!
//! Entries of a store that was [opened expiring](KeyValueStore::open_expiring) are gone once their timestamp lies below
//! its horizon: at once and exactly for who reads, in every backend. They are deleted later, in the order of their
//! timestamps, by [`sweep`](KeyValueStore::sweep), which tells the changelog.

use std::cmp::Ordering;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use crate::arena::Arena;
use crate::expiry::Expiry;
use crate::keys::{after_prefix, stamp, unstamp};
use crate::overlay::{Entry, Generations, Layers, Table};
use crate::rows::Rows;
use crate::store::{Batch, VisitKey};
use crate::{Change, Direction, Stamped, StateError, Store, Tree};

/// A key-value store.
pub struct KeyValueStore {
    name: String,
    tree: Box<dyn Tree>,
    generations: Generations<Rows>,
    /// Settled keys still to be applied in this round, descending.
    round: Vec<Bytes>,
    arena: Arena,
    expiry: Option<Expiry>,
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
            expiry: None,
        }
    }

    /// A store over what `tree` holds, whose entries expire by their timestamps. `order` is a tree of its own, for their
    /// order in time.
    pub fn open_expiring(name: &str, tree: Box<dyn Tree>, order: Box<dyn Tree>) -> Self {
        Self {
            expiry: Some(Expiry::new(Self::open(name, order))),
            ..Self::open(name, tree)
        }
    }

    /// Hides the entries whose timestamp is below `timestamp`, for good; an abort takes it back, as it does writes. Only in
    /// a store that was opened expiring.
    pub fn expire_before(&mut self, timestamp: i64) {
        if let Some(expiry) = &mut self.expiry {
            expiry.horizon.raise(timestamp);
        }
    }

    /// Says how far expiry had been committed, after the store was opened: the horizon is not stored, its owner derives it
    /// from the committed time. No abort takes it back.
    pub fn restore_horizon(&mut self, timestamp: i64) {
        if let Some(expiry) = &mut self.expiry {
            expiry.horizon.restore(timestamp);
        }
    }

    /// The least timestamp that is visible.
    pub fn horizon(&self) -> i64 {
        self.expiry
            .as_ref()
            .map_or(i64::MIN, |expiry| expiry.horizon.open)
    }

    /// Puts since the store was opened.
    pub fn puts(&self) -> u64 {
        self.expiry.as_ref().map_or(0, |expiry| expiry.puts)
    }

    /// Deletes up to `limit` of the entries that are hidden, oldest first; how many puts it looked at. An entry that was
    /// put again since is left where it is.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn sweep(&mut self, limit: usize) -> Result<usize, StateError> {
        let Some(expiry) = &mut self.expiry else {
            return Ok(0);
        };
        let expired = expiry.take_expired(limit)?;
        for (timestamp, key) in &expired {
            if self
                .entry(key)?
                .is_some_and(|entry| entry.timestamp == *timestamp)
            {
                self.delete(key, *timestamp)?;
            }
        }
        Ok(expired.len())
    }

    /// The value of a key.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn get(&self, key: &[u8]) -> Result<Option<Stamped>, StateError> {
        let entry = self.entry(key)?;
        Ok(entry.filter(|entry| self.shows(entry.timestamp)))
    }

    fn shows(&self, timestamp: i64) -> bool {
        self.expiry
            .as_ref()
            .is_none_or(|expiry| expiry.shows(timestamp))
    }

    /// The value of a key, expired or not.
    fn entry(&self, key: &[u8]) -> Result<Option<Stamped>, StateError> {
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

    /// Sets the value of a key. Where `timestamp` is hidden already, the key has no value then.
    ///
    /// # Errors
    /// None today; a backend with a bounded overlay may refuse.
    pub fn put(&mut self, key: &[u8], value: &[u8], timestamp: i64) -> Result<(), StateError> {
        if let Some(expiry) = &mut self.expiry {
            if !expiry.shows(timestamp) {
                return self.delete(key, timestamp);
            }
            expiry.put(key, timestamp)?;
        }
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
        self.scan_all(
            from,
            to,
            direction,
            &mut |key, value| match self.shows(value.timestamp) {
                true => visit(key, value),
                false => ControlFlow::Continue(()),
            },
        )
    }

    /// Visits what [`scan`](Self::scan) does, expired entries too.
    fn scan_all(
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
        self.expiry.as_mut().map_or(Ok(()), Expiry::seal)
    }

    fn settle(&mut self) {
        self.generations.settle();
        if let Some(expiry) = &mut self.expiry {
            expiry.settle();
        }
    }

    fn discard(&mut self) {
        self.generations.discard();
        if let Some(expiry) = &mut self.expiry {
            expiry.discard();
        }
    }

    fn restore(&mut self, change: Change<'_>) -> Result<(), StateError> {
        if let (Some(expiry), Some(_)) = (&mut self.expiry, change.value) {
            expiry.restore(change.key, change.timestamp)?;
        }
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
        let mut batch = Batch::of(max_entries);
        let mut left = self.round.len();
        while left > 0 && !batch.is_full() {
            left -= 1;
            let key = &self.round[left];
            if let Some(entry) = settled.get(key) {
                let value = entry.value.as_ref();
                let row = value.map(|value| stamp(entry.timestamp, value));
                batch.push(key.clone(), row);
            }
        }
        if !batch.is_empty() {
            self.tree.apply(&batch.entries)?;
        }
        self.round.truncate(left);
        for (key, _) in &batch.entries {
            settled.remove(key);
        }
        let written = settled.is_empty();
        match &mut self.expiry {
            None => Ok(written),
            Some(expiry) => Ok(expiry.apply(max_entries)? && written),
        }
    }

    fn settled_bytes(&self) -> usize {
        let order = self.expiry.as_ref().map_or(0, Expiry::settled_bytes);
        self.generations.settled.bytes() + order
    }

    fn dirty_bytes(&self) -> usize {
        let order = self.expiry.as_ref().map_or(0, Expiry::dirty_bytes);
        self.generations.dirty_bytes() + order
    }

    fn clear(&mut self) -> Result<(), StateError> {
        self.generations.clear();
        self.round.clear();
        if let Some(expiry) = &mut self.expiry {
            expiry.clear()?;
        }
        self.tree.clear()
    }
}
