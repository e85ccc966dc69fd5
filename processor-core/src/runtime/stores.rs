//! Opening the stores of a task where its marker left them.

use std::collections::HashMap;

use state::{
    Database, JoinStore, JoinStoreOptions, KeyValueStore, Marker, SessionStore,
    SessionStoreOptions, StateError, WindowStore, WindowStoreOptions, read_marker, remove_marker,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Result;
use crate::log::TopicPartition;
use crate::processor::StoreCell;
use crate::record::TaskId;
use crate::task::StoreSlot;
use crate::topology::{StoreId, StoreKind, Topology};

use super::topics::changelog;

/// The stores of a task, each at the changelog offset its contents reflect.
pub(crate) struct OpenedStores {
    pub slots: Vec<StoreSlot>,
    /// What the marker knows, for times that the committed offsets do not carry.
    pub marker: Option<Marker>,
    pub format_hash: u64,
}

impl OpenedStores {
    /// Cells by store, for the nodes.
    pub(crate) fn cells(&self) -> HashMap<StoreId, StoreCell> {
        self.slots
            .iter()
            .map(|slot| (slot.id, slot.cell.clone()))
            .collect()
    }
}

/// Opens the stores of `task`. What another layout wrote, or a torn marker vouches for, is wiped: the changelog has it.
pub(crate) fn open_stores(
    topology: &Topology,
    application_id: &str,
    task: TaskId,
    database: &dyn Database,
) -> Result<OpenedStores> {
    let subtopology = &topology.subtopologies[task.subtopology];
    let specs = subtopology
        .stores
        .iter()
        .map(|id| (*id, &topology.plan.stores[id.0]));
    let layout: Vec<String> = specs
        .clone()
        .map(|(_, spec)| format!("{}:{:?}", spec.name, spec.kind))
        .collect();
    let format_hash = xxh3_64(layout.join(",").as_bytes());

    let task_name = task.to_string();
    let marker = match read_marker(database, &task_name) {
        Ok(marker) => marker.filter(|marker| marker.format_hash == format_hash),
        Err(StateError::Corrupt { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    if marker.is_none() {
        // IMPORTANT: the marker first, so that a crash in between leaves nothing that it vouches for.
        remove_marker(database, &task_name)?;
    }
    let mut slots = Vec::new();
    for (id, spec) in specs {
        let cell = open_store(
            database,
            &format!("{task_name}/{}", spec.name),
            &spec.name,
            spec.kind,
        )?;
        let position = marker
            .as_ref()
            .and_then(|m| m.changelog_offsets.get(&spec.name))
            .copied();
        if position.is_none() {
            cell.with(|store| store.clear())?;
        }
        let changelog = TopicPartition::new(changelog(application_id, &spec.name), task.partition);
        slots.push(StoreSlot {
            id,
            cell,
            changelog,
            position: position.unwrap_or(0),
        });
    }
    Ok(OpenedStores {
        slots,
        marker,
        format_hash,
    })
}

/// Opens one store over `tree`.
pub(crate) fn open_store(
    database: &dyn Database,
    tree: &str,
    name: &str,
    kind: StoreKind,
) -> Result<StoreCell> {
    use std::cell::RefCell;
    use std::rc::Rc;

    let tree = database.tree(tree)?;
    Ok(match kind {
        StoreKind::KeyValue => {
            StoreCell::KeyValue(Rc::new(RefCell::new(KeyValueStore::open(name, tree))))
        }
        StoreKind::Window { retention_ms } => {
            let options = WindowStoreOptions::for_retention(retention_ms);
            StoreCell::Window(Rc::new(RefCell::new(WindowStore::open(
                name, tree, options,
            )?)))
        }
        StoreKind::Session { retention_ms } => {
            // As for windows: a segment is half the retention, at least a minute.
            let options = SessionStoreOptions {
                segment_ms: (retention_ms / 2).max(60_000),
            };
            StoreCell::Session(Rc::new(RefCell::new(SessionStore::open(
                name, tree, options,
            )?)))
        }
        StoreKind::Join { retention_ms } => {
            let options = JoinStoreOptions {
                segment_ms: retention_ms.max(60_000),
            };
            StoreCell::Join(Rc::new(RefCell::new(JoinStore::open(name, tree, options)?)))
        }
    })
}
