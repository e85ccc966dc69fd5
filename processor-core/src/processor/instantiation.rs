//! Turning the plan of a sub-topology into the live nodes of one task.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use state::{JoinStore, KeyValueStore, SessionStore, Store, VersionedStore, WindowStore};

use crate::error::{Fault, Result};
use crate::record::TaskId;
use crate::runtime::{LazyExecutor, TopicLookup, TopicPartitions};
use crate::task::{FailedRecords, Handlers};
use crate::topology::{NodeId, StoreId};

use super::store::Attachment;
use super::{Child, Process, SharedNode, TaskTimes, Wake, Wakes};

/// What the factories of the nodes find while a task is made.
pub struct Instantiation<'a> {
    /// The task.
    pub(crate) task: TaskId,
    /// Its times.
    pub(crate) times: &'a mut TaskTimes,
    /// Its stores, and the global ones of its thread.
    pub(crate) stores: &'a HashMap<StoreId, StoreCell>,
    /// Partition counts of all topics it may write.
    pub(crate) partitions: &'a TopicPartitions,
    /// Those of topics that records choose.
    pub(crate) lookup: &'a Arc<TopicLookup>,
    /// Nodes that want to be called besides records.
    pub(crate) wakes: &'a mut Wakes,
    /// Nodes with several parents, made once.
    pub(crate) shared: HashMap<NodeId, Box<dyn Any>>,
    /// What stores brought with them when they were opened, for the node that they are opened for.
    pub(crate) attached: RefCell<Vec<Attachment>>,
    /// Where futures run.
    pub(crate) executor: &'a LazyExecutor,
    /// Whether records come out of an operator that holds them back, so that the task may be ahead of the nodes made now.
    pub(crate) deferred: bool,
    /// Prefix of internal topics: the application id.
    pub(crate) application_id: &'a str,
    /// What sources do with records that fail.
    pub(crate) handlers: &'a Handlers,
    /// Records that failed, which sources pass over.
    pub(crate) failed: &'a FailedRecords,
    /// How long a record may wait for its serde to be ready.
    pub(crate) max_decode_wait: Duration,
}

impl Instantiation<'_> {
    /// The node `id`, made by `make` the first time it is asked for.
    pub(crate) fn shared<N: 'static>(
        &mut self,
        id: NodeId,
        make: impl FnOnce(&mut Self) -> Result<Rc<RefCell<N>>>,
    ) -> Result<Rc<RefCell<N>>> {
        if let Some(node) = self.shared.get(&id) {
            let node = node.downcast_ref::<Rc<RefCell<N>>>();
            self.wakes.reach_shared(id);
            return Ok(Rc::clone(node.expect("a node id has one type")));
        }
        let before = self.wakes.begin_shared();
        let node = make(self)?;
        self.wakes.end_shared(id, before);
        self.shared.insert(id, Box::new(Rc::clone(&node)));
        Ok(node)
    }

    /// `node` as its parent takes it; the task calls it besides records as well.
    pub(crate) fn woken<K, V, N: Process<K, V> + Wake + 'static>(
        &mut self,
        node: N,
    ) -> Child<K, V> {
        let node = Rc::new(RefCell::new(node));
        self.wakes.push(Rc::clone(&node) as Rc<RefCell<dyn Wake>>);
        Box::new(SharedNode(node))
    }

    /// Has the node that stores are being opened for look after `attachment`.
    pub(crate) fn attach(&self, attachment: Attachment) {
        self.attached.borrow_mut().push(attachment);
    }

    fn store(&self, id: StoreId) -> Result<&StoreCell> {
        self.stores.get(&id).ok_or_else(|| {
            Fault::user(
                "topology",
                format!("store {id:?} is not part of task {}", self.task),
            )
        })
    }

    /// A key-value store.
    pub(crate) fn key_value(&self, id: StoreId) -> Result<Rc<RefCell<KeyValueStore>>> {
        match self.store(id)? {
            StoreCell::KeyValue(store) => Ok(Rc::clone(store)),
            _ => Err(wrong_kind(id, "key-value")),
        }
    }

    /// A versioned store.
    pub(crate) fn versioned(&self, id: StoreId) -> Result<Rc<RefCell<VersionedStore>>> {
        match self.store(id)? {
            StoreCell::Versioned(store) => Ok(Rc::clone(store)),
            _ => Err(wrong_kind(id, "versioned")),
        }
    }

    /// A window store.
    pub(crate) fn window(&self, id: StoreId) -> Result<Rc<RefCell<WindowStore>>> {
        match self.store(id)? {
            StoreCell::Window(store) => Ok(Rc::clone(store)),
            _ => Err(wrong_kind(id, "window")),
        }
    }

    /// A session store.
    pub(crate) fn session(&self, id: StoreId) -> Result<Rc<RefCell<SessionStore>>> {
        match self.store(id)? {
            StoreCell::Session(store) => Ok(Rc::clone(store)),
            _ => Err(wrong_kind(id, "session")),
        }
    }

    /// One side of a stream join.
    pub(crate) fn join(&self, id: StoreId) -> Result<Rc<RefCell<JoinStore>>> {
        match self.store(id)? {
            StoreCell::Join(store) => Ok(Rc::clone(store)),
            _ => Err(wrong_kind(id, "join")),
        }
    }
}

fn wrong_kind(id: StoreId, kind: &str) -> Fault {
    Fault::user("topology", format!("store {id:?} is not a {kind} store"))
}

/// A store of a task: shared between its node and the commit.
#[derive(Clone)]
pub(crate) enum StoreCell {
    /// Key to value.
    KeyValue(Rc<RefCell<KeyValueStore>>),
    /// Key and time to value.
    Versioned(Rc<RefCell<VersionedStore>>),
    /// Key and window start to value.
    Window(Rc<RefCell<WindowStore>>),
    /// Key and session to value.
    Session(Rc<RefCell<SessionStore>>),
    /// Key and time to many values.
    Join(Rc<RefCell<JoinStore>>),
}

/// A store that nobody shares yet, so that it can go from one thread to another.
pub(crate) enum OwnedStore {
    /// See [`StoreCell::KeyValue`].
    KeyValue(KeyValueStore),
    /// See [`StoreCell::Versioned`].
    Versioned(VersionedStore),
    /// See [`StoreCell::Window`].
    Window(WindowStore),
    /// See [`StoreCell::Session`].
    Session(SessionStore),
    /// See [`StoreCell::Join`].
    Join(JoinStore),
}

impl OwnedStore {
    /// The side of it that commits and restores.
    pub(crate) fn commit_side(&mut self) -> &mut dyn Store {
        match self {
            Self::KeyValue(store) => store,
            Self::Versioned(store) => store,
            Self::Window(store) => store,
            Self::Session(store) => store,
            Self::Join(store) => store,
        }
    }

    /// The same, to look at.
    pub(crate) fn as_store(&self) -> &dyn Store {
        match self {
            Self::KeyValue(store) => store,
            Self::Versioned(store) => store,
            Self::Window(store) => store,
            Self::Session(store) => store,
            Self::Join(store) => store,
        }
    }

    /// Says that what lies below `time` has expired. A key-value store is told by tombstones.
    pub(crate) fn restore_horizon(&mut self, time: i64) {
        match self {
            Self::KeyValue(_) => {}
            Self::Versioned(store) => store.restore_horizon(time),
            Self::Window(store) => store.restore_horizon(time),
            Self::Session(store) => store.restore_horizon(time),
            Self::Join(store) => store.restore_horizon(time),
        }
    }

    /// The store, for a task.
    pub(crate) fn share(self) -> StoreCell {
        fn cell<S>(store: S) -> Rc<RefCell<S>> {
            Rc::new(RefCell::new(store))
        }
        match self {
            Self::KeyValue(store) => StoreCell::KeyValue(cell(store)),
            Self::Versioned(store) => StoreCell::Versioned(cell(store)),
            Self::Window(store) => StoreCell::Window(cell(store)),
            Self::Session(store) => StoreCell::Session(cell(store)),
            Self::Join(store) => StoreCell::Join(cell(store)),
        }
    }
}

impl StoreCell {
    /// Calls `commit_side` with the store.
    pub(crate) fn with<R>(&self, commit_side: impl FnOnce(&mut dyn Store) -> R) -> R {
        match self {
            Self::KeyValue(store) => commit_side(&mut *store.borrow_mut()),
            Self::Versioned(store) => commit_side(&mut *store.borrow_mut()),
            Self::Window(store) => commit_side(&mut *store.borrow_mut()),
            Self::Session(store) => commit_side(&mut *store.borrow_mut()),
            Self::Join(store) => commit_side(&mut *store.borrow_mut()),
        }
    }
}
