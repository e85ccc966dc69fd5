//! How records move through a task: typed nodes that push to their children.
//!
//! A node is a value that owns its children, so a record moves by plain calls: one virtual call per hop, no allocation,
//! no lock, no await. Where a stream forks the record is cloned for all children but the last.

use std::cell::RefCell;
use std::rc::Rc;

mod api;
mod context;
mod event_buffer;
mod expiring;
mod instantiation;
mod node;
mod schedule;
mod store;
pub(crate) mod time_metadata;
pub(crate) mod timers;
pub(crate) mod times;
mod wakes;

pub(crate) use api::Wake;
pub use api::{Processor, ProcessorContext, Setup, Work};
pub(crate) use context::Context;
pub use event_buffer::{EventBuffer, EventBufferHandle};
pub use expiring::Ttl;
pub(crate) use expiring::{Expiring, ExpiringStore};
pub(crate) use instantiation::{Instantiation, OwnedStore, StoreCell};
pub(crate) use node::ProcessorNode;
pub use schedule::{Punctuated, Punctuation, ScheduleId};
pub use store::{KeyValue, ReadOnlyKeyValue, StoreHandle, StoreSet};
pub use timers::{Fired, Timer, Timers, TimersHandle};
pub use times::ObservedTime;
pub(crate) use times::{NO_TIME, OperatorTime, TaskTimes};
pub(crate) use wakes::{Wakes, Woken};

use crate::error::Result;
use crate::record::Record;

/// A node of a task: takes records of its input type.
pub(crate) trait Process<K, V> {
    /// Takes one record, and pushes what comes of it to the children.
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result;
}

/// A node as its parent sees it.
pub(crate) type Child<K, V> = Box<dyn Process<K, V>>;

/// The children of a node.
pub(crate) struct Fanout<K, V> {
    children: Vec<Child<K, V>>,
}

impl<K, V> Fanout<K, V> {
    pub(crate) fn new(children: Vec<Child<K, V>>) -> Self {
        Self { children }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.children.is_empty()
    }
}

impl<K: Clone, V: Clone> Fanout<K, V> {
    /// Pushes `record` to every child, in the order they were attached.
    #[inline]
    pub(crate) fn forward(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        let Some((last, others)) = self.children.split_last_mut() else {
            return Ok(());
        };
        for child in others {
            child.process(context, record.clone())?;
        }
        last.process(context, record)
    }
}

/// A node with several parents. Topologies have no cycles, so it is never entered twice.
pub(crate) struct SharedNode<N>(pub(crate) Rc<RefCell<N>>);

impl<K, V, N: Process<K, V>> Process<K, V> for SharedNode<N> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        self.0.borrow_mut().process(context, record)
    }
}

impl<K: Clone, V: Clone> Process<K, V> for Fanout<K, V> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        self.forward(context, record)
    }
}
