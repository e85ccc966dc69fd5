//! What a task needs of every store to commit, abort and restore it.
//!
//! # Generations
//!
//! ```text
//!  put ──▶ open ──seal──▶ sealed ──settle──▶ settled ──apply──▶ backend
//!            │               │                  ▲
//!            └───discard─────┘                  └── restore (committed changelog)
//! ```
//!
//! A read asks open, sealed, settled, then the backend. `seal` hands the changes to the changelog; the
//! Kafka transaction decides between `settle` and `discard`; `apply` writes settled changes down in
//! chunks. What is in the backend was committed: it may lag Kafka, it never leads.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::StateError;

/// Most entries one backend batch may hold: larger sled batches cost gigabytes of memory (measured).
pub const MAX_BATCH: usize = 2_000;

/// A backend batch ends with the entry that takes it past so many bytes of keys and values: a batch is copied more than
/// once on its way down.
pub(crate) const MAX_BATCH_BYTES: usize = 2 << 20;

/// A backend batch in the making.
#[derive(Debug)]
pub(crate) struct Batch {
    limit: usize,
    bytes: usize,
    pub(crate) entries: Vec<(Bytes, Option<Bytes>)>,
}

impl Batch {
    /// One of at most `max_entries` (and [`MAX_BATCH`]) entries.
    pub(crate) fn of(max_entries: usize) -> Self {
        Self {
            limit: max_entries.clamp(1, MAX_BATCH),
            bytes: 0,
            entries: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, key: Bytes, value: Option<Bytes>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.entries.push((key, value));
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= self.limit || self.bytes >= MAX_BATCH_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A value and the time of the event that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped {
    /// Event time in milliseconds.
    pub timestamp: i64,
    /// The value.
    pub value: Bytes,
}

/// One changelog record, in Kafka Streams' format of the store's kind.
///
/// | kind | key | value |
/// |---|---|---|
/// | key-value | key | plain value |
/// | versioned | key | plain value, in force from the record's timestamp on |
/// | window | key ‖ start (8) ‖ 0 (4) | plain value |
/// | join | key ‖ timestamp (8) ‖ sequence (4) | plain value |
/// | session | key ‖ end (8) ‖ start (8) | plain value |
///
/// Numbers are big-endian. No value is a tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// The record's key.
    pub key: &'a [u8],
    /// The record's value; none deletes.
    pub value: Option<&'a [u8]>,
    /// The record's timestamp: the value's, or the one passed to the delete.
    pub timestamp: i64,
}

/// The commit side of a store.
pub trait Store: Send {
    /// The store's name.
    fn name(&self) -> &str;

    /// Closes the open generation and hands each of its changes to `changelog`, once per key, the last
    /// write of a key winning, in the order of the keys. Of a key's versions a versioned store hands each that
    /// was written, the one that follows it, and the latest, in order of time.
    ///
    /// # Errors
    /// [`StateError::InFlight`] when the generation before is neither settled nor discarded.
    fn seal(&mut self, changelog: &mut dyn FnMut(Change<'_>)) -> Result<(), StateError>;

    /// The sealed generation was committed: it becomes part of settled. Nothing if nothing is sealed.
    fn settle(&mut self);

    /// The transaction was aborted: drops the open and the sealed generation, and what they did to the
    /// store's horizon.
    fn discard(&mut self);

    /// Takes a committed change from the changelog into settled. Restoring a change twice, or one that
    /// the backend holds already, changes nothing, as long as the later ones follow.
    ///
    /// # Errors
    /// [`StateError::Corrupt`] when the key is not one of this kind of store.
    fn restore(&mut self, change: Change<'_>) -> Result<(), StateError>;

    /// Writes up to `max_entries` (at most [`MAX_BATCH`]) settled entries to the backend, fewer where they are large, and
    /// deletes about as many expired ones. True when nothing settled is left, which is when a marker may be
    /// written.
    ///
    /// # Errors
    /// Whatever the backend reports; the entries stay settled.
    fn apply(&mut self, max_entries: usize) -> Result<bool, StateError>;

    /// Memory held by settled entries; freed by `apply`.
    fn settled_bytes(&self) -> usize;

    /// Memory held by open and sealed entries; freed by a commit.
    fn dirty_bytes(&self) -> usize;

    /// Wipes the store, backend included, for a rebuild from the changelog.
    ///
    /// # Errors
    /// Whatever the backend reports.
    fn clear(&mut self) -> Result<(), StateError>;
}

/// A visitor of `(key, value)`.
pub type VisitKey<'v> = &'v mut dyn FnMut(&[u8], Stamped) -> ControlFlow<()>;
/// A visitor of `(timestamp, value)`; no value is a deletion.
pub type VisitVersion<'v> = &'v mut dyn FnMut(i64, Option<&[u8]>) -> ControlFlow<()>;
/// A visitor of `(window start, value)`.
pub type VisitWindow<'v> = &'v mut dyn FnMut(i64, Stamped) -> ControlFlow<()>;
/// A visitor of `(key, window start, value)`.
pub type VisitWindows<'v> = &'v mut dyn FnMut(&[u8], i64, Stamped) -> ControlFlow<()>;
/// A visitor of `(timestamp, sequence, value)`.
pub type VisitJoin<'v> = &'v mut dyn FnMut(i64, u32, &[u8]) -> ControlFlow<()>;
/// A visitor of `(session start, session end, value)`.
pub type VisitSession<'v> = &'v mut dyn FnMut(i64, i64, Stamped) -> ControlFlow<()>;
/// A visitor of `(key, session start, session end, value)`.
pub type VisitSessions<'v> = &'v mut dyn FnMut(&[u8], i64, i64, Stamped) -> ControlFlow<()>;
