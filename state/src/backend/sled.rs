//! Trees in sled 0.34, one database per process.
//!
//! - sled writes its log in one order, so after a kill a tree holds a prefix of the applied batches,
//!   over all trees: a marker is never there without the entries before it.
//! - `flush_every_ms` is off; [`Database::sync`] is the only flush we ask for.
//! - A directory that sled cannot open, or panics on, is renamed to `…quarantine-N` and replaced by an
//!   empty one: the changelog has everything. A lock held by another handle is not such a case: sled
//!   lets go of it a moment after the last handle is dropped, so opening tries again for about two
//!   seconds. Keep the database open for the life of the process.
//! - Never `len()`: it reads the whole tree.

use std::io::ErrorKind;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use sled::IVec;

use super::failure::failed;
use super::{Database, DatabaseOptions, Direction, Tree, VisitBytes, is_empty_range, panic_text};
use crate::{StateError, aside};

const LOCK_ATTEMPTS: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// sled does not open without any; applications without stores give it none.
const LEAST_CACHE_BYTES: u64 = 1 << 20;

/// A sled database. Clones share it.
#[derive(Debug, Clone)]
pub struct SledDatabase {
    db: sled::Db,
    path: Arc<Path>,
    quarantined: Option<PathBuf>,
}

impl SledDatabase {
    /// Opens or creates the database in `path`. sled takes `cache_bytes` as a hint for its page cache, and may hold a small
    /// multiple. A database that cannot be read is set aside and replaced by an
    /// empty one, which [`quarantined`](Self::quarantined) and a warning in the log report.
    ///
    /// # Errors
    /// The directory cannot be created, read or renamed, or another handle holds it.
    pub fn open(path: &Path, options: &DatabaseOptions) -> Result<Self, StateError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(options.cache_bytes.max(LEAST_CACHE_BYTES))
            .flush_every_ms(None);
        let (db, quarantined) = match open_or_blame(&config, path)? {
            Ok(db) => (db, None),
            Err(reason) => {
                let aside = aside::set_aside(path, &reason)?;
                let db = open_or_blame(&config, path)?.map_err(|reason| StateError::Backend {
                    store: path.display().to_string(),
                    action: "open an empty database",
                    source: reason.into(),
                })?;
                (db, Some(aside))
            }
        };
        Ok(Self {
            db,
            path: path.into(),
            quarantined,
        })
    }

    /// Where the directory found at opening was moved to, when it could not be read.
    pub fn quarantined(&self) -> Option<&Path> {
        self.quarantined.as_deref()
    }
}

/// The database, or why its files are unusable; an error when the files are not to blame.
fn open_or_blame(
    config: &sled::Config,
    path: &Path,
) -> Result<Result<sled::Db, String>, StateError> {
    for attempt in 1.. {
        let error = match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(Ok(db)),
            Ok(Err(error)) => error,
            Err(panic) => return Ok(Err(format!("sled panicked: {}", panic_text(&*panic)))),
        };
        match error {
            sled::Error::Io(source) if is_lock(&source) => {
                if attempt == LOCK_ATTEMPTS {
                    let by = "another handle of this database".to_owned();
                    return Err(StateError::Locked {
                        path: path.to_owned(),
                        by,
                    });
                }
                pause();
            }
            sled::Error::Io(source) if !aside::is_damage(&source) => {
                return Err(StateError::Io {
                    action: "open",
                    path: path.to_owned(),
                    source,
                });
            }
            other => return Ok(Err(other.to_string())),
        }
    }
    unreachable!("the loop ends by returning")
}

fn is_lock(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

/// Waits on a channel nobody writes to.
fn pause() {
    let (_keep, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(LOCK_PAUSE);
}

impl Database for SledDatabase {
    fn tree(&self, name: &str) -> Result<Box<dyn Tree>, StateError> {
        let tree = self.db.open_tree(name).map_err(self.failed(name, "open"))?;
        Ok(Box::new(SledTree {
            name: name.to_owned(),
            database: self.clone(),
            tree,
        }))
    }

    fn drop_tree(&self, name: &str) -> Result<(), StateError> {
        self.db
            .drop_tree(name)
            .map_err(self.failed(name, "drop"))
            .map(|_| ())
    }

    fn tree_names(&self) -> Result<Vec<String>, StateError> {
        let text = |name: IVec| String::from_utf8_lossy(&name).into_owned();
        let mut names: Vec<String> = self.db.tree_names().into_iter().map(text).collect();
        names.retain(|name| name != "__sled__default");
        names.sort();
        Ok(names)
    }

    fn sync(&self) -> Result<(), StateError> {
        self.db
            .flush()
            .map_err(self.failed("database", "sync"))
            .map(|_| ())
    }
}

impl SledDatabase {
    fn failed(&self, store: &str, action: &'static str) -> impl FnOnce(sled::Error) -> StateError {
        move |error| {
            let cause = match error {
                sled::Error::Io(refusal) => Ok(refusal),
                other => Err(other),
            };
            failed(&self.path, store, action, cause)
        }
    }
}

struct SledTree {
    name: String,
    database: SledDatabase,
    tree: sled::Tree,
}

impl Tree for SledTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let found = self
            .tree
            .get(key)
            .map_err(self.database.failed(&self.name, "read"))?;
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
        let mut rows = self.tree.range::<&[u8], _>((from, to));
        loop {
            let row = match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.next_back(),
            };
            let Some(row) = row else { return Ok(()) };
            let (key, value) = row.map_err(self.database.failed(&self.name, "scan"))?;
            if visit(&key, &value).is_break() {
                return Ok(());
            }
        }
    }

    fn apply(&mut self, batch: &[(Bytes, Option<Bytes>)]) -> Result<(), StateError> {
        let mut sled_batch = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => sled_batch.insert(&key[..], &value[..]),
                None => sled_batch.remove(&key[..]),
            }
        }
        self.tree
            .apply_batch(sled_batch)
            .map_err(self.database.failed(&self.name, "write"))
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8], limit: usize) -> Result<usize, StateError> {
        if from >= to {
            return Ok(0);
        }
        let mut batch = sled::Batch::default();
        let mut removed = 0;
        for key in self.tree.range(from..to).keys().take(limit) {
            batch.remove(key.map_err(self.database.failed(&self.name, "scan"))?);
            removed += 1;
        }
        if removed > 0 {
            self.tree
                .apply_batch(batch)
                .map_err(self.database.failed(&self.name, "expire"))?;
        }
        Ok(removed)
    }

    fn clear(&mut self) -> Result<(), StateError> {
        self.tree
            .clear()
            .map_err(self.database.failed(&self.name, "clear"))
    }
}
