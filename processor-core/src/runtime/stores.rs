//! Opening the stores of a task where its marker left them.

use std::collections::BTreeMap;
use std::sync::Arc;

use state::{
    Database, JoinStore, JoinStoreOptions, KeyValueStore, SessionStore, SessionStoreOptions,
    StateError, VersionedStore, WindowStore, WindowStoreOptions, read_marker, remove_marker,
};

use crate::error::Result;
use crate::log::{Timestamp, TopicPartition};
use crate::processor::OwnedStore;
use crate::record::TaskId;
use crate::task::StoreSlot;
use crate::topology::{StoreId, StoreKind, Topology};

use super::kept_plan::layout;
use super::topics::changelog_of;

/// The stores of a task, each at the changelog offset its contents reflect.
pub(crate) struct OpenedStores {
    pub slots: Vec<StoreSlot<OwnedStore>>,
    /// What the markers know, for times that the committed offsets do not carry.
    pub times: BTreeMap<String, Timestamp>,
}

/// Opens those stores of `task` that are `chosen`. What another layout wrote, or a torn marker vouches for, is wiped: the
/// changelog has it.
///
/// On disk a store is called `<store>/<partition>`, and so is its marker: how the topology is divided into tasks does not
/// matter to rows.
pub(crate) fn open_stores(
    topology: &Topology,
    application_id: &str,
    resets: &BTreeMap<String, u32>,
    task: TaskId,
    chosen: &dyn Fn(StoreId) -> bool,
    database: &dyn Database,
) -> Result<OpenedStores> {
    let subtopology = &topology.subtopologies[task.subtopology];
    let mut opened = OpenedStores {
        slots: Vec::new(),
        times: BTreeMap::new(),
    };
    for &id in subtopology.stores.iter().filter(|id| chosen(**id)) {
        let spec = &topology.plan.stores[id.0];
        let name = format!("{}/{}", spec.name, task.partition);
        let changelog = changelog_of(&topology.plan, application_id, id);
        let resets = resets.get(&spec.name).copied().unwrap_or(0);
        let layout = layout(&spec.name, spec.kind, &changelog, resets);
        let marker = match read_marker(database, &name) {
            Ok(marker) => marker.filter(|marker| marker.format_hash == layout),
            Err(StateError::Corrupt { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if marker.is_none() {
            // IMPORTANT: the marker first, so that a crash in between leaves nothing that it vouches for.
            remove_marker(database, &name)?;
        }
        let mut store = open_store(database, &name, &spec.name, spec.kind)?;
        let offsets = marker.as_ref().map(|marker| &marker.changelog_offsets);
        let position = offsets.and_then(|offsets| offsets.get(&spec.name)).copied();
        if position.is_none() {
            store.commit_side().clear()?;
        }
        for (operator, time) in marker.map(|marker| marker.stream_times).unwrap_or_default() {
            let known = opened.times.entry(operator).or_insert(time);
            *known = time.max(*known);
        }
        opened.slots.push(StoreSlot {
            id,
            store,
            name,
            layout,
            changelog: TopicPartition::new(changelog, task.partition),
            read_back: topology
                .plan
                .read_back
                .get(&id)
                .map(|table| Arc::clone(&table.row)),
            position: position.unwrap_or(0),
        });
    }
    Ok(opened)
}

/// Opens one store over `tree`.
pub(crate) fn open_store(
    database: &dyn Database,
    tree: &str,
    name: &str,
    kind: StoreKind,
) -> Result<OwnedStore> {
    let order = format!("{tree}/order");
    let tree = database.tree(tree)?;
    Ok(match kind {
        StoreKind::Expiring => {
            let order = database.tree(&order)?;
            OwnedStore::KeyValue(KeyValueStore::open_expiring(name, tree, order))
        }
        StoreKind::KeyValue => OwnedStore::KeyValue(KeyValueStore::open(name, tree)),
        // Its owner says how far history goes.
        StoreKind::Versioned { history_ms: _ } => {
            OwnedStore::Versioned(VersionedStore::open(name, tree)?)
        }
        StoreKind::Window { retention_ms } => {
            let options = WindowStoreOptions::for_retention(retention_ms);
            OwnedStore::Window(WindowStore::open(name, tree, options)?)
        }
        StoreKind::Session { retention_ms } => {
            // As for windows: a segment is half the retention, at least a minute.
            let options = SessionStoreOptions {
                segment_ms: (retention_ms / 2).max(60_000),
            };
            OwnedStore::Session(SessionStore::open(name, tree, options)?)
        }
        StoreKind::Join { retention_ms } => {
            let options = JoinStoreOptions {
                segment_ms: retention_ms.max(60_000),
            };
            OwnedStore::Join(JoinStore::open(name, tree, options)?)
        }
    })
}
