//! Trees in fjall 3, one database per process: a log-structured merge tree behind a journal.
//!
//! - **One keyspace for all trees**; a tree is a prefix of its keys. fjall flushes and syncs the memtable of each keyspace
//!   on its own, before the journal is synced, so with a keyspace a tree a power loss could leave a marker without the
//!   entries before it. One memtable holds what was applied in one order, so what is left is always a prefix of it.
//! - A batch goes to the operating system before [`Tree::apply`] returns, so a kill loses nothing; [`Database::sync`] is
//!   the only sync of the journal that we ask for.
//! - After a failed write it takes no more, and says so. Known: when the threads in the background have died, say on a full
//!   disk, and four memtables wait for them, a write waits for ever.
//! - Deleting a tree, or clearing it, writes a tombstone a row. Until they are compacted away a scan walks over them, so a
//!   tree remembers where it has removed all rows, and begins behind that next time.
//!
//! ```text
//!  00000000 ‖ name      → id (4)     the trees there are
//!  id (4)   ‖ key       → value      their rows; ids begin at 1 and are big-endian
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fjall::{Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};

use super::failure::{failed, refused_before};
use super::opening::{Opening, opened};
use super::{Database, DatabaseOptions, Direction, Tree, VisitBytes, is_empty_range};
use crate::StateError;

const KEYSPACE: &str = "rows";
const NAMES: u32 = 0;
/// Rows deleted in one batch when a tree is cleared.
const CLEAR_BATCH: usize = 2_000;
const JOURNAL_BYTES: u64 = 128 << 20;

/// A fjall database. Clones share it.
#[derive(Clone)]
pub struct FjallDatabase(Arc<Shared>);

struct Shared {
    db: fjall::Database,
    rows: Keyspace,
    trees: Mutex<BTreeMap<String, u32>>,
    path: PathBuf,
}

impl FjallDatabase {
    /// Opens or creates the database in `path`. It holds up to about `cache_bytes` in its block cache and its memtables,
    /// beside the index and filter blocks of the upper levels, and works with two threads of its own in the background.
    ///
    /// # Errors
    /// As for [`Backend::open`](crate::Backend::open).
    pub fn open(path: &Path, options: &DatabaseOptions) -> Result<Self, StateError> {
        let shared = opened("fjall", path, || {
            remove_unfinished(path).map_err(Opening::Io)?;
            let open = || Shared::open(path, options);
            open().map_err(|error| match error {
                fjall::Error::Locked => Opening::Locked,
                other => match cause(other) {
                    Ok(refusal) => Opening::Io(refusal),
                    Err(other) => Opening::Damaged(other.to_string()),
                },
            })
        })?;
        Ok(Self(Arc::new(shared)))
    }
}

/// The refusal of the operating system, if that is what it was. What poisoned the database is not in the error: a write
/// before this one had it, and for one in the background it stands in the log.
fn cause(error: fjall::Error) -> Result<io::Error, fjall::Error> {
    match error {
        fjall::Error::Io(refusal) | fjall::Error::Storage(fjall::LsmError::Io(refusal)) => {
            Ok(refusal)
        }
        fjall::Error::Poisoned => Ok(refused_before()),
        other => Err(other),
    }
}

/// Removes what a start left behind that was killed before the database was there: fjall would refuse its journal. The
/// file `version` comes last, and nothing can be stored before it.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    let is_empty = |path: &Path| match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    };
    if path.join("version").try_exists()? || !is_empty(&path.join("keyspaces"))? {
        return Ok(());
    }
    match std::fs::remove_file(path.join("0.jnl")) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Shared {
    fn open(path: &Path, options: &DatabaseOptions) -> fjall::Result<Self> {
        // Up to four sealed memtables may wait beside the open one.
        let memtable_bytes = (options.cache_bytes / 8).clamp(256 << 10, 64 << 20);
        let db = fjall::Database::builder(path)
            .cache_size(options.cache_bytes / 2)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(2)
            .open()?;
        let rows = db.keyspace(KEYSPACE, || {
            KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes)
        })?;
        let mut trees = BTreeMap::new();
        for row in rows.prefix(NAMES.to_be_bytes()) {
            let (key, id) = row.into_inner()?;
            let name = String::from_utf8_lossy(&key[4..]).into_owned();
            let id = id.first_chunk().map(|id| u32::from_be_bytes(*id));
            trees.insert(name, id.ok_or(fjall::Error::Unrecoverable)?);
        }
        Ok(Self {
            db,
            rows,
            trees: Mutex::new(trees),
            path: path.to_owned(),
        })
    }

    fn trees(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, store: &str, action: &'static str) -> impl FnOnce(fjall::Error) -> StateError {
        move |error| failed(&self.path, store, action, cause(error))
    }

    /// Deletes the rows of a tree.
    fn clear(&self, name: &str, id: u32) -> Result<(), StateError> {
        let (from, to) = (id.to_be_bytes(), (id + 1).to_be_bytes());
        let mut batch = self.db.batch();
        for row in self.rows.range(from..to) {
            batch.remove(&self.rows, row.key().map_err(self.failed(name, "scan"))?);
            if batch.len() == CLEAR_BATCH {
                let full = std::mem::replace(&mut batch, self.db.batch());
                full.commit().map_err(self.failed(name, "clear"))?;
            }
        }
        batch.commit().map_err(self.failed(name, "clear"))
    }
}

fn name_key(name: &str) -> Vec<u8> {
    let mut key = NAMES.to_be_bytes().to_vec();
    key.extend_from_slice(name.as_bytes());
    key
}

impl Database for FjallDatabase {
    fn tree(&self, name: &str) -> Result<Box<dyn Tree>, StateError> {
        let mut trees = self.0.trees();
        let id = match trees.get(name) {
            Some(id) => *id,
            None => {
                let id = trees.values().max().copied().unwrap_or(NAMES) + 1;
                let mut batch = self.0.db.batch();
                batch.insert(&self.0.rows, name_key(name), id.to_be_bytes());
                batch.commit().map_err(self.0.failed(name, "open"))?;
                trees.insert(name.to_owned(), id);
                id
            }
        };
        Ok(Box::new(FjallTree {
            name: name.to_owned(),
            id,
            shared: Arc::clone(&self.0),
            key: RefCell::default(),
            removed: None,
        }))
    }

    fn drop_tree(&self, name: &str) -> Result<(), StateError> {
        let mut trees = self.0.trees();
        let Some(id) = trees.get(name).copied() else {
            return Ok(());
        };
        // IMPORTANT: the name last, since its id may be given out again.
        self.0.clear(name, id)?;
        let mut batch = self.0.db.batch();
        batch.remove(&self.0.rows, name_key(name));
        batch.commit().map_err(self.0.failed(name, "drop"))?;
        trees.remove(name);
        Ok(())
    }

    fn tree_names(&self) -> Result<Vec<String>, StateError> {
        Ok(self.0.trees().keys().cloned().collect())
    }

    fn sync(&self) -> Result<(), StateError> {
        let synced = self.0.db.persist(PersistMode::SyncData);
        synced.map_err(self.0.failed("database", "sync"))
    }
}

struct FjallTree {
    name: String,
    id: u32,
    shared: Arc<Shared>,
    /// The last key that was looked up, with its prefix.
    key: RefCell<Vec<u8>>,
    /// From one key to another, both included, all rows were removed, and none was written since.
    removed: Option<(Bytes, Bytes)>,
}

impl FjallTree {
    fn prefixed(&self, key: &[u8]) -> Vec<u8> {
        let mut prefixed = Vec::with_capacity(4 + key.len());
        prefixed.extend_from_slice(&self.id.to_be_bytes());
        prefixed.extend_from_slice(key);
        prefixed
    }

    fn bounds(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        let from = match from {
            Bound::Unbounded => Bound::Included(self.prefixed(&[])),
            bound => bound.map(|key| self.prefixed(key)),
        };
        let to = match to {
            Bound::Unbounded => Bound::Excluded((self.id + 1).to_be_bytes().to_vec()),
            bound => bound.map(|key| self.prefixed(key)),
        };
        (from, to)
    }
}

impl Tree for FjallTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let mut prefixed = self.key.borrow_mut();
        prefixed.clear();
        prefixed.extend_from_slice(&self.id.to_be_bytes());
        prefixed.extend_from_slice(key);
        let found = self.shared.rows.get(&prefixed[..]);
        let found = found.map_err(self.shared.failed(&self.name, "read"))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: VisitBytes<'_>,
    ) -> Result<(), StateError> {
        if is_empty_range(from, to) {
            return Ok(());
        }
        let mut rows = self.shared.rows.range(self.bounds(from, to));
        loop {
            let row = match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.next_back(),
            };
            let Some(row) = row else { return Ok(()) };
            let (key, value) = row
                .into_inner()
                .map_err(self.shared.failed(&self.name, "scan"))?;
            if visit(&key[4..], &value).is_break() {
                return Ok(());
            }
        }
    }

    fn apply(&mut self, batch: &[(Bytes, Option<Bytes>)]) -> Result<(), StateError> {
        let rows = &self.shared.rows;
        let mut writes = OwnedWriteBatch::with_capacity(self.shared.db.clone(), batch.len())
            .durability(Some(PersistMode::Buffer));
        for (key, value) in batch {
            let is_back = |(from, to): &(Bytes, Bytes)| from <= key && key <= to;
            if value.is_some() && self.removed.as_ref().is_some_and(is_back) {
                self.removed = None;
            }
            let key = self.prefixed(key);
            match value {
                Some(value) => writes.insert(rows, key, &value[..]),
                None => writes.remove(rows, key),
            }
        }
        writes
            .commit()
            .map_err(self.shared.failed(&self.name, "write"))
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8], limit: usize) -> Result<usize, StateError> {
        if from >= to {
            return Ok(0);
        }
        let behind = |(start, end): &(Bytes, Bytes)| start <= from && from <= end;
        let removed = self.removed.take().filter(behind);
        let start = match &removed {
            Some((_, end)) => Bound::Excluded(&end[..]),
            None => Bound::Included(from),
        };
        if is_empty_range(start, Bound::Excluded(to)) {
            self.removed = removed;
            return Ok(0);
        }
        let mut batch = self.shared.db.batch();
        let mut last = None;
        for row in self
            .shared
            .rows
            .range(self.bounds(start, Bound::Excluded(to)))
            .take(limit)
        {
            let key = row.key().map_err(self.shared.failed(&self.name, "scan"))?;
            last = Some(Bytes::copy_from_slice(&key[4..]));
            batch.remove(&self.shared.rows, key);
        }
        let count = batch.len();
        batch
            .commit()
            .map_err(self.shared.failed(&self.name, "expire"))?;
        self.removed = match last {
            Some(last) => {
                let start = removed.map(|(start, _)| start);
                Some((start.unwrap_or_else(|| Bytes::copy_from_slice(from)), last))
            }
            None => removed,
        };
        Ok(count)
    }

    fn clear(&mut self) -> Result<(), StateError> {
        self.shared.clear(&self.name, self.id)
    }
}
