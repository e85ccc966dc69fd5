//! The storage engine: ordered trees of bytes.
//!
//! A [`Database`] is open once per process and shared; a [`Tree`] belongs to one store of one task.
//! A batch is atomic in its tree; batches of one database reach the disk in the order they were
//! applied, so that what is written last (the marker) is never there without what was written before.
//! Nothing is durable against power loss before [`Database::sync`].

mod engine;
mod failure;
#[cfg(feature = "fjall")]
mod fjall;
mod memory;
#[cfg(any(feature = "fjall", feature = "redb"))]
mod opening;
#[cfg(feature = "redb")]
mod redb;
mod sled;

#[cfg(feature = "fjall")]
pub use self::fjall::FjallDatabase;
#[cfg(feature = "redb")]
pub use self::redb::RedbDatabase;
pub use self::sled::SledDatabase;
pub use engine::{Backend, UnknownBackend};
pub use memory::MemoryDatabase;

use std::cmp::Ordering;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use crate::StateError;

/// How to open a database on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseOptions {
    /// Memory for the engine's caches, in bytes. Each of them holds something beside it: see its own page.
    pub cache_bytes: u64,
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
        }
    }
}

/// Which way a scan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Backward,
}

impl Direction {
    /// `Less` when `a` comes before `b` in this direction.
    pub(crate) fn order<T: Ord + ?Sized>(self, a: &T, b: &T) -> Ordering {
        match self {
            Self::Forward => a.cmp(b),
            Self::Backward => b.cmp(a),
        }
    }
}

/// A visitor of a tree's `(key, value)`.
pub type VisitBytes<'v> = &'v mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A set of named trees.
pub trait Database: Send + Sync {
    /// Opens a tree, creating it when it is not there.
    ///
    /// # Errors
    /// Whatever the engine reports.
    fn tree(&self, name: &str) -> Result<Box<dyn Tree>, StateError>;

    /// Removes a tree and what is in it; nothing when it is not there.
    ///
    /// # Errors
    /// Whatever the engine reports.
    fn drop_tree(&self, name: &str) -> Result<(), StateError>;

    /// The trees there are, sorted.
    ///
    /// # Errors
    /// Whatever the engine reports.
    fn tree_names(&self) -> Result<Vec<String>, StateError>;

    /// Makes everything applied so far durable.
    ///
    /// # Errors
    /// Whatever the engine reports.
    fn sync(&self) -> Result<(), StateError>;
}

/// One ordered map of bytes.
pub trait Tree: Send {
    /// The value of a key.
    ///
    /// # Errors
    /// Whatever the engine reports.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError>;

    /// Visits the entries between two bounds until `visit` breaks.
    ///
    /// # Errors
    /// Whatever the engine reports.
    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: VisitBytes<'_>,
    ) -> Result<(), StateError>;

    /// Writes a batch atomically; no value deletes. Ascending keys are fastest.
    ///
    /// # Errors
    /// Whatever the engine reports; then nothing of the batch is written.
    fn apply(&mut self, batch: &[(Bytes, Option<Bytes>)]) -> Result<(), StateError>;

    /// Deletes up to `limit` entries with `from <= key < to`, lowest first, and says how many.
    ///
    /// # Errors
    /// Whatever the engine reports.
    fn remove_range(&mut self, from: &[u8], to: &[u8], limit: usize) -> Result<usize, StateError>;

    /// Deletes everything.
    ///
    /// # Errors
    /// Whatever the engine reports.
    fn clear(&mut self) -> Result<(), StateError>;
}

/// True when no key can lie between the bounds; ordered maps panic on some such ranges.
pub(crate) fn is_empty_range(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Excluded(b))
        | (Bound::Excluded(a), Bound::Included(b)) => a >= b,
        _ => false,
    }
}

/// What an engine said when it panicked.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_the_contract() {
        crate::contract::check(&MemoryDatabase::default());
    }

    #[test]
    fn every_engine_keeps_the_contract() {
        for backend in Backend::ALL.into_iter().filter(|it| it.is_built_in()) {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let database = backend.open(directory.path(), &DatabaseOptions::default());
            crate::contract::check(&*database.expect("opened"));
        }
    }
}
