//! A value per key and window start, with exact expiry.
//!
//! Expiry is logical and exact: below the horizon nothing is seen and nothing is taken, in every
//! backend. Rows are deleted later, by whole segments, while the store is applied; the changelog gets
//! no tombstones for them, its retention does that.
//!
//! Locally a segment is the first part of a row's key (`keys.rs`), so [`WindowStore::fetch_all`] reads
//! whole segments: choose `segment_ms` near the window size when windows are scanned as they close.

use crate::delegate::delegate_store;
use crate::keys::{Kind, Slot};
use crate::store::{VisitWindow, VisitWindows};
use crate::timed::Timed;
use crate::{Stamped, StateError, Tree};

/// How a window store keeps its windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowStoreOptions {
    /// How long the owner means to keep a window; for the changelog's retention. The store itself
    /// expires only by [`WindowStore::expire_before`].
    pub retention_ms: i64,
    /// Span of the unit of physical deletion. Must not change while rows exist: make it part of the
    /// marker's format hash.
    pub segment_ms: i64,
}

impl WindowStoreOptions {
    /// Kafka Streams' choice: a segment is half the retention, at least a minute.
    pub fn for_retention(retention_ms: i64) -> Self {
        Self {
            retention_ms,
            segment_ms: (retention_ms / 2).max(60_000),
        }
    }
}

/// A window store.
pub struct WindowStore {
    timed: Timed,
    options: WindowStoreOptions,
}

impl WindowStore {
    /// A store over what `tree` holds.
    ///
    /// # Errors
    /// Whatever the backend reports while the segments are looked up.
    pub fn open(
        name: &str,
        tree: Box<dyn Tree>,
        options: WindowStoreOptions,
    ) -> Result<Self, StateError> {
        let timed = Timed::open(name, Kind::Window, tree, options.segment_ms)?;
        Ok(Self { timed, options })
    }

    /// What it was opened with.
    pub fn options(&self) -> &WindowStoreOptions {
        &self.options
    }

    /// The value of a key's window.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn get(&self, key: &[u8], start: i64) -> Result<Option<Stamped>, StateError> {
        self.timed.get(
            key,
            Slot {
                major: start,
                minor: 0,
            },
        )
    }

    /// Sets the value of a key's window; ignored below the horizon.
    ///
    /// # Errors
    /// None today; a bounded overlay may refuse.
    pub fn put(
        &mut self,
        key: &[u8],
        start: i64,
        value: &[u8],
        timestamp: i64,
    ) -> Result<(), StateError> {
        self.timed.write(
            key,
            Slot {
                major: start,
                minor: 0,
            },
            Some(value),
            timestamp,
        );
        Ok(())
    }

    /// Removes a key's window; ignored below the horizon.
    ///
    /// # Errors
    /// None today; a bounded overlay may refuse.
    pub fn delete(&mut self, key: &[u8], start: i64, timestamp: i64) -> Result<(), StateError> {
        self.timed.write(
            key,
            Slot {
                major: start,
                minor: 0,
            },
            None,
            timestamp,
        );
        Ok(())
    }

    /// Visits the windows of a key with `from <= start <= to`, by start.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn fetch(
        &self,
        key: &[u8],
        from: i64,
        to: i64,
        visit: VisitWindow<'_>,
    ) -> Result<(), StateError> {
        self.timed
            .fetch(key, from, to, &mut |slot, value| visit(slot.major, value))
    }

    /// Visits the windows of all keys with `from <= start <= to`, by start, then key.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn fetch_all(&self, from: i64, to: i64, visit: VisitWindows<'_>) -> Result<(), StateError> {
        self.timed.fetch_all(from, to, &mut |key, slot, value| {
            visit(key, slot.major, value)
        })
    }

    /// Hides the windows that start before `start`, for good; an abort takes it back, as it does writes.
    pub fn expire_before(&mut self, start: i64) {
        self.timed.horizon.raise(start);
    }

    /// Says how far expiry had been committed, after the store was opened and before it is restored: the
    /// horizon is not stored, its owner derives it from the committed stream time. No abort takes it back.
    pub fn restore_horizon(&mut self, start: i64) {
        self.timed.horizon.restore(start);
    }

    /// The least start that is visible.
    pub fn horizon(&self) -> i64 {
        self.timed.horizon.open
    }
}

delegate_store!(WindowStore, timed);
