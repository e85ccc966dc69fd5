//! A value per key and session, found by overlap in time.
//!
//! A session has an inclusive start and end. Expiry is by end, exact and logical as in
//! [`WindowStore`](crate::WindowStore).

use std::ops::ControlFlow;

use crate::delegate::delegate_store;
use crate::keys::{Kind, Slot};
use crate::store::{VisitSession, VisitSessions};
use crate::timed::Timed;
use crate::{Stamped, StateError, Tree};

/// How a session store keeps its sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStoreOptions {
    /// Span, in session ends, of the unit of physical deletion. Must not change while rows exist.
    pub segment_ms: i64,
}

/// A session store.
pub struct SessionStore {
    timed: Timed,
}

impl SessionStore {
    /// A store over what `tree` holds.
    ///
    /// # Errors
    /// Whatever the backend reports while the segments are looked up.
    pub fn open(
        name: &str,
        tree: Box<dyn Tree>,
        options: SessionStoreOptions,
    ) -> Result<Self, StateError> {
        Ok(Self {
            timed: Timed::open(name, Kind::Session, tree, options.segment_ms)?,
        })
    }

    /// The value of a session.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn get(&self, key: &[u8], start: i64, end: i64) -> Result<Option<Stamped>, StateError> {
        self.timed.get(
            key,
            Slot {
                major: end,
                minor: start,
            },
        )
    }

    /// Sets the value of a session; ignored when it ends below the horizon.
    ///
    /// # Errors
    /// None today; a bounded overlay may refuse.
    pub fn put(
        &mut self,
        key: &[u8],
        start: i64,
        end: i64,
        value: &[u8],
        timestamp: i64,
    ) -> Result<(), StateError> {
        self.timed.write(
            key,
            Slot {
                major: end,
                minor: start,
            },
            Some(value),
            timestamp,
        );
        Ok(())
    }

    /// Removes a session; ignored when it ends below the horizon.
    ///
    /// # Errors
    /// None today; a bounded overlay may refuse.
    pub fn remove(
        &mut self,
        key: &[u8],
        start: i64,
        end: i64,
        timestamp: i64,
    ) -> Result<(), StateError> {
        self.timed.write(
            key,
            Slot {
                major: end,
                minor: start,
            },
            None,
            timestamp,
        );
        Ok(())
    }

    /// Visits the sessions of a key with `end >= earliest_end` and `start <= latest_start`, by end, then
    /// start, as `(start, end, value)`. A session that touches `[a, b]` is found by `find(key, a, b)`.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn find(
        &self,
        key: &[u8],
        earliest_end: i64,
        latest_start: i64,
        visit: VisitSession<'_>,
    ) -> Result<(), StateError> {
        self.timed
            .fetch(key, earliest_end, i64::MAX, &mut |slot, value| {
                if slot.minor <= latest_start {
                    visit(slot.minor, slot.major, value)
                } else {
                    ControlFlow::Continue(())
                }
            })
    }

    /// Visits the sessions of all keys with `earliest_end <= end <= latest_end`, by end, then key, then
    /// start, as `(key, start, end, value)`.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn find_all(
        &self,
        earliest_end: i64,
        latest_end: i64,
        visit: VisitSessions<'_>,
    ) -> Result<(), StateError> {
        self.timed
            .fetch_all(earliest_end, latest_end, &mut |key, slot, value| {
                visit(key, slot.minor, slot.major, value)
            })
    }

    /// Hides the sessions that end before `end`, for good; an abort takes it back, as it does writes.
    pub fn expire_before(&mut self, end: i64) {
        self.timed.horizon.raise(end);
    }

    /// Says how far expiry had been committed, after the store was opened and before it is restored: the
    /// horizon is not stored, its owner derives it from the committed stream time. No abort takes it back.
    pub fn restore_horizon(&mut self, end: i64) {
        self.timed.horizon.restore(end);
    }

    /// The least end that is visible.
    pub fn horizon(&self) -> i64 {
        self.timed.horizon.open
    }
}

delegate_store!(SessionStore, timed);
