//! Where a stream's consumers are written down, with their types.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::processor::{Child, Fanout, Instantiation, SharedNode};
use crate::record::Data;
use crate::topology::NodeId;

/// Makes one consumer of a stream, with everything below it, for one task.
pub(crate) type Attach<K, V> =
    Arc<dyn Fn(&mut Instantiation<'_>) -> Result<Child<K, V>> + Send + Sync>;

/// The consumers of a stream. The lock is held while a topology is built and a task is made, never per record.
pub(crate) struct Outlet<K, V> {
    consumers: Mutex<Vec<Attach<K, V>>>,
}

impl<K: Data, V: Data> Outlet<K, V> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            consumers: Mutex::new(Vec::new()),
        })
    }

    /// Whether this is `other`, whose types may be called otherwise: what comes out of one comes out of the other.
    pub(crate) fn is<K2, V2>(&self, other: &Outlet<K2, V2>) -> bool {
        std::ptr::addr_eq(self, other)
    }

    /// Adds a consumer; records reach consumers in the order they were added.
    pub(crate) fn attach(
        &self,
        consumer: impl Fn(&mut Instantiation<'_>) -> Result<Child<K, V>> + Send + Sync + 'static,
    ) {
        self.consumers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::new(consumer));
    }

    /// Makes all consumers for one task.
    pub(crate) fn instantiate(
        &self,
        instantiation: &mut Instantiation<'_>,
    ) -> Result<Fanout<K, V>> {
        let consumers = self
            .consumers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let children: Result<Vec<_>> = consumers
            .iter()
            .map(|attach| attach(instantiation))
            .collect();
        Ok(Fanout::new(children?))
    }

    /// Makes all consumers once per task, for a stream with several parents: `node` is the stream's node.
    pub(crate) fn instantiate_shared(
        &self,
        node: NodeId,
        instantiation: &mut Instantiation<'_>,
    ) -> Result<Rc<RefCell<Fanout<K, V>>>> {
        instantiation.shared(node, |instantiation| {
            Ok(Rc::new(RefCell::new(self.instantiate(instantiation)?)))
        })
    }

    /// [`instantiate_shared`](Self::instantiate_shared) as a child.
    pub(crate) fn shared_child(
        &self,
        node: NodeId,
        instantiation: &mut Instantiation<'_>,
    ) -> Result<Child<K, V>> {
        Ok(Box::new(SharedNode(
            self.instantiate_shared(node, instantiation)?,
        )))
    }
}
