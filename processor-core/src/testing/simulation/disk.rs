//! The disk of an instance: it outlives processes, and may lose what was not synced.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use state::{Database, Direction, Marker, MemoryDatabase, StateError, Tree, VisitBytes};

use crate::log::LogError;
use crate::mutant::Mutant;

use super::draw::Draw;
use super::fault::{Call, Side};
use super::world::Place;

/// Tree of the markers.
const MARKERS: &str = "__markers";

type Rows = BTreeMap<Bytes, Bytes>;

/// All rows of a disk, by tree.
pub(super) type Contents = BTreeMap<String, Rows>;

/// A write to a tree. One is there as a whole or not at all, but where [a power loss](Disk::tear_write) tears it.
#[derive(Debug, Clone)]
enum Write {
    Apply(Vec<(Bytes, Option<Bytes>)>),
    RemoveRange(Bytes, Bytes, usize),
    Clear,
    Drop,
}

/// What a disk holds.
#[derive(Debug, Default)]
struct Held {
    database: MemoryDatabase,
    synced: Contents,
    /// Writes since the last sync, in their order.
    unsynced: Vec<(String, Write)>,
}

impl Held {
    /// Of the writes since the last sync the first `kept` are there, then `part` of one, and no more.
    fn keep(&mut self, kept: usize, part: Option<(String, Write)>) {
        let database = database_of(&self.synced);
        for (tree, write) in self.unsynced.drain(..).take(kept).chain(part) {
            carry_out(&database, &tree, &write);
        }
        self.synced = rows_of(&database);
        self.database = database;
    }
}

/// A disk. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<Held>>);

impl Disk {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine died: from some write since the last sync on, all are lost.
    pub(super) fn lose_power(&self, draw: &mut Draw) {
        let mut held = self.lock();
        let kept = draw.index(held.unsynced.len() + 1);
        held.keep(kept, None);
    }

    /// The machine died in the middle of a write to a store: some of its rows are there, and nothing that came later.
    /// Whether there was such a write since the last sync.
    pub(super) fn tear_write(&self, draw: &mut Draw) -> bool {
        let mut held = self.lock();
        let may_tear = |at: &usize| match &held.unsynced[*at] {
            (tree, Write::Apply(batch)) => tree != MARKERS && batch.len() > 1,
            _ => false,
        };
        let choices: Vec<usize> = (0..held.unsynced.len()).filter(may_tear).collect();
        if choices.is_empty() {
            return false;
        }
        let at = *draw.of_these(&choices);
        let (tree, mut write) = held.unsynced[at].clone();
        if let Write::Apply(batch) = &mut write {
            let rows = batch.len();
            batch.rotate_left(draw.index(rows));
            batch.truncate(1 + draw.index(rows - 1));
        }
        held.keep(at, Some((tree, write)));
        true
    }

    /// Everything is gone.
    pub(super) fn wipe(&self) {
        *self.lock() = Held::default();
    }

    /// What is there now, synced or not.
    pub(super) fn contents(&self) -> Contents {
        rows_of(&self.lock().database)
    }

    /// One bit of a marker is wrong. Whether there was a marker.
    pub(super) fn tear_marker(&self, draw: &mut Draw) -> bool {
        let held = self.lock();
        let rows = rows_of(&held.database).remove(MARKERS).unwrap_or_default();
        if rows.is_empty() {
            return false;
        }
        let chosen = draw.index(rows.len());
        let (key, value) = rows.into_iter().nth(chosen).expect("an index of a row");
        let mut torn = value.to_vec();
        let at = draw.index(torn.len());
        torn[at] ^= 1 << draw.below(8);
        let write = Write::Apply(vec![(key, Some(torn.into()))]);
        carry_out(&held.database, MARKERS, &write);
        true
    }
}

/// A database that holds `contents`.
pub(super) fn database_of(contents: &Contents) -> MemoryDatabase {
    let database = MemoryDatabase::default();
    for (name, rows) in contents {
        let row = |(key, value): (&Bytes, &Bytes)| (key.clone(), Some(value.clone()));
        carry_out(
            &database,
            name,
            &Write::Apply(rows.iter().map(row).collect()),
        );
    }
    database
}

/// The markers that are whole, by the names of their stores on disk.
pub(super) fn markers_of(contents: &Contents) -> BTreeMap<String, Marker> {
    let rows = contents.get(MARKERS).into_iter().flatten();
    let whole = rows.filter_map(|(name, marker)| {
        let name = String::from_utf8(name.to_vec()).ok()?;
        Some((name, Marker::decode(marker)?))
    });
    whole.collect()
}

fn rows_of(database: &MemoryDatabase) -> Contents {
    let names = database.tree_names().expect("memory does not fail");
    names
        .into_iter()
        .map(|name| {
            let mut rows = Rows::new();
            database
                .tree(&name)
                .and_then(|tree| {
                    let mut visit = |key: &[u8], value: &[u8]| {
                        rows.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                        ControlFlow::Continue(())
                    };
                    tree.scan(
                        Bound::Unbounded,
                        Bound::Unbounded,
                        Direction::Forward,
                        &mut visit,
                    )
                })
                .expect("memory does not fail");
            (name, rows)
        })
        .collect()
}

fn carry_out(database: &MemoryDatabase, tree: &str, write: &Write) -> usize {
    let open = || database.tree(tree);
    let done = match write {
        Write::Apply(batch) => open().and_then(|mut tree| tree.apply(batch)).map(|()| 0),
        Write::RemoveRange(from, to, limit) => {
            open().and_then(|mut tree| tree.remove_range(from, to, *limit))
        }
        Write::Clear => open().and_then(|mut tree| tree.clear()).map(|()| 0),
        Write::Drop => database.drop_tree(tree).map(|()| 0),
    };
    done.expect("memory does not fail")
}

/// A disk, as the process of one instance reaches it.
pub(super) struct MountedDisk {
    pub(super) disk: Disk,
    pub(super) place: Place,
}

impl MountedDisk {
    fn write(&self, tree: &str, write: Write) -> Result<usize, StateError> {
        let write = self.with_bugs(tree, write);
        let call = match tree {
            MARKERS => Call::MarkerWrite,
            _ => Call::StoreWrite,
        };
        let refused = |error: LogError| StateError::Backend {
            store: tree.to_owned(),
            action: "write",
            source: Box::new(error),
        };
        self.place.arrive(call, Side::Before).map_err(refused)?;
        let done = {
            let mut held = self.disk.lock();
            let done = carry_out(&held.database, tree, &write);
            held.unsynced.push((tree.to_owned(), write));
            done
        };
        self.place.arrive(call, Side::After).map_err(refused)?;
        Ok(done)
    }
}

/// Bugs that lie between an instance and its disk.
impl MountedDisk {
    fn with_bugs(&self, tree: &str, write: Write) -> Write {
        let Write::Apply(mut batch) = write else {
            return write;
        };
        if tree == MARKERS && self.place.has(Mutant::MarkerAhead) {
            for value in batch.iter_mut().filter_map(|(_, value)| value.as_mut()) {
                if let Some(mut marker) = Marker::decode(value) {
                    marker.changelog_offsets.values_mut().for_each(|o| *o += 3);
                    *value = marker.encode().into();
                }
            }
        }
        if tree != MARKERS && self.place.has(Mutant::DeletesForgotten) {
            batch.retain(|(_, value)| value.is_some());
        }
        if tree != MARKERS && self.place.has(Mutant::WritesForgotten) {
            let mut row = 0;
            batch.retain(|_| {
                row += 1;
                row % 7 != 1
            });
        }
        Write::Apply(batch)
    }
}

impl Database for MountedDisk {
    fn tree(&self, name: &str) -> Result<Box<dyn Tree>, StateError> {
        Ok(Box::new(MountedTree {
            name: name.to_owned(),
            read: self.disk.lock().database.tree(name)?,
            disk: Self {
                disk: self.disk.clone(),
                place: self.place.clone(),
            },
        }))
    }

    fn drop_tree(&self, name: &str) -> Result<(), StateError> {
        self.write(name, Write::Drop).map(|_| ())
    }

    fn tree_names(&self) -> Result<Vec<String>, StateError> {
        self.disk.lock().database.tree_names()
    }

    fn sync(&self) -> Result<(), StateError> {
        let refused = |error: LogError| StateError::Backend {
            store: "all stores".to_owned(),
            action: "sync",
            source: Box::new(error),
        };
        self.place
            .arrive(Call::StoreSync, Side::Before)
            .map_err(refused)?;
        {
            let mut held = self.disk.lock();
            held.synced = rows_of(&held.database);
            held.unsynced.clear();
        }
        self.place
            .arrive(Call::StoreSync, Side::After)
            .map_err(refused)
    }
}

struct MountedTree {
    name: String,
    read: Box<dyn Tree>,
    disk: MountedDisk,
}

impl Tree for MountedTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.read.get(key)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: VisitBytes<'_>,
    ) -> Result<(), StateError> {
        self.read.scan(from, to, direction, visit)
    }

    fn apply(&mut self, batch: &[(Bytes, Option<Bytes>)]) -> Result<(), StateError> {
        let write = Write::Apply(batch.to_vec());
        self.disk.write(&self.name, write).map(|_| ())
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8], limit: usize) -> Result<usize, StateError> {
        let bytes = Bytes::copy_from_slice;
        let write = Write::RemoveRange(bytes(from), bytes(to), limit);
        self.disk.write(&self.name, write)
    }

    fn clear(&mut self) -> Result<(), StateError> {
        self.disk.write(&self.name, Write::Clear).map(|_| ())
    }
}
