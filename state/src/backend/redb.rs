//! Trees in redb 4, one file per process: a copy-on-write B-tree with one writer.
//!
//! - A batch is a transaction without durability; [`Database::sync`] is a durable one. After a kill, as after a power
//!   loss, the file is as it was at the last sync: later batches are gone, all of them and over all trees.
//! - A sync also writes down which pages are free (redb's quick repair), since redb would otherwise read the whole file
//!   when it opens one that was not closed.
//! - Pages that the last sync refers to are not reused before the next one, so the file grows with what is written between
//!   two of them.

use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{
    DatabaseError, Durability, ReadableDatabase, StorageError, TableDefinition, TableError,
    TableHandle, WriteTransaction,
};

use super::failure::{failed, refused_before};
use super::opening::{Opening, opened};
use super::{Database, DatabaseOptions, Direction, Tree, VisitBytes, is_empty_range};
use crate::StateError;

const FILE: &str = "stores.redb";
type Rows<'n> = TableDefinition<'n, &'static [u8], &'static [u8]>;

/// A redb database. Clones share it.
#[derive(Debug, Clone)]
pub struct RedbDatabase {
    db: Arc<redb::Database>,
    path: Arc<Path>,
}

impl RedbDatabase {
    /// Opens or creates the database in `path`. Its cache of pages, read and not yet written, holds up to `cache_bytes`.
    ///
    /// # Errors
    /// As for [`Backend::open`](crate::Backend::open).
    pub fn open(path: &Path, options: &DatabaseOptions) -> Result<Self, StateError> {
        std::fs::create_dir_all(path).map_err(StateError::io("create", path))?;
        let db = opened("redb", path, || {
            redb::Database::builder()
                .set_cache_size(usize::try_from(options.cache_bytes).unwrap_or(usize::MAX))
                .create(path.join(FILE))
                .map_err(|error| match error {
                    DatabaseError::DatabaseAlreadyOpen => Opening::Locked,
                    DatabaseError::Storage(StorageError::Io(source)) => Opening::Io(source),
                    other => Opening::Damaged(other.to_string()),
                })
        })?;
        Ok(Self {
            db: Arc::new(db),
            path: path.into(),
        })
    }

    fn write<T>(
        &self,
        store: &str,
        action: &'static str,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StateError> {
        write(&self.db, durability, work).map_err(self.failed(store, action))
    }

    fn failed(&self, store: &str, action: &'static str) -> impl FnOnce(redb::Error) -> StateError {
        move |error| failed(&self.path, store, action, cause(error))
    }
}

/// The refusal of the operating system, if that is what it was: `redb::Error` names no source.
fn cause(error: redb::Error) -> Result<io::Error, redb::Error> {
    match error {
        redb::Error::Io(refusal) => Ok(refusal),
        redb::Error::PreviousIo => Ok(refused_before()),
        other => Err(other),
    }
}

/// Carries out `work` in one transaction.
fn write<T>(
    db: &redb::Database,
    durability: Durability,
    work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
) -> Result<T, redb::Error> {
    let mut transaction = db.begin_write()?;
    transaction.set_durability(durability)?;
    transaction.set_quick_repair(matches!(durability, Durability::Immediate));
    let done = work(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

impl Database for RedbDatabase {
    fn tree(&self, name: &str) -> Result<Box<dyn Tree>, StateError> {
        let is_there = || -> Result<bool, redb::Error> {
            match self.db.begin_read()?.open_table(Rows::new(name)) {
                Ok(_) => Ok(true),
                Err(TableError::TableDoesNotExist(_)) => Ok(false),
                Err(error) => Err(error.into()),
            }
        };
        if !is_there().map_err(self.failed(name, "open"))? {
            self.write(name, "open", Durability::None, |transaction| {
                Ok(transaction.open_table(Rows::new(name)).map(drop)?)
            })?;
        }
        Ok(Box::new(RedbTree {
            name: name.to_owned(),
            database: self.clone(),
        }))
    }

    fn drop_tree(&self, name: &str) -> Result<(), StateError> {
        self.write(name, "drop", Durability::None, |transaction| {
            Ok(transaction.delete_table(Rows::new(name)).map(drop)?)
        })
    }

    fn tree_names(&self) -> Result<Vec<String>, StateError> {
        let names = || -> Result<Vec<String>, redb::Error> {
            let transaction = self.db.begin_read()?;
            let tables = transaction.list_tables()?;
            Ok(tables.map(|table| table.name().to_owned()).collect())
        };
        let mut names = names().map_err(self.failed("database", "list"))?;
        names.sort();
        Ok(names)
    }

    fn sync(&self) -> Result<(), StateError> {
        self.write("database", "sync", Durability::Immediate, |_| Ok(()))
    }
}

struct RedbTree {
    name: String,
    database: RedbDatabase,
}

impl RedbTree {
    fn rows(&self) -> Rows<'_> {
        Rows::new(&self.name)
    }

    fn write<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StateError> {
        self.database
            .write(&self.name, action, Durability::None, work)
    }
}

impl Tree for RedbTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let get = || -> Result<Option<Bytes>, redb::Error> {
            let table = self.database.db.begin_read()?.open_table(self.rows())?;
            let found = table.get(key)?;
            Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
        };
        get().map_err(self.database.failed(&self.name, "read"))
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
        let mut scan = || -> Result<(), redb::Error> {
            let table = self.database.db.begin_read()?.open_table(self.rows())?;
            let mut rows = table.range::<&[u8]>((from, to))?;
            loop {
                let row = match direction {
                    Direction::Forward => rows.next(),
                    Direction::Backward => rows.next_back(),
                };
                let Some(row) = row else { return Ok(()) };
                let (key, value) = row?;
                if visit(key.value(), value.value()).is_break() {
                    return Ok(());
                }
            }
        };
        scan().map_err(self.database.failed(&self.name, "scan"))
    }

    fn apply(&mut self, batch: &[(Bytes, Option<Bytes>)]) -> Result<(), StateError> {
        self.write("write", |transaction| {
            let mut table = transaction.open_table(self.rows())?;
            for (key, value) in batch {
                match value {
                    Some(value) => table.insert(&key[..], &value[..])?,
                    None => table.remove(&key[..])?,
                };
            }
            Ok(())
        })
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8], limit: usize) -> Result<usize, StateError> {
        if from >= to {
            return Ok(0);
        }
        self.write("expire", |transaction| {
            let mut table = transaction.open_table(self.rows())?;
            let mut removed = 0;
            let rows = table.extract_from_if::<&[u8], _>(from..to, |_, _| true)?;
            for row in rows.take(limit) {
                row?;
                removed += 1;
            }
            Ok(removed)
        })
    }

    fn clear(&mut self) -> Result<(), StateError> {
        self.write("clear", |transaction| {
            transaction.delete_table(self.rows())?;
            Ok(transaction.open_table(self.rows()).map(drop)?)
        })
    }
}
