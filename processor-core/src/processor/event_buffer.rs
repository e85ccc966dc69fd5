//! A store of timestamped values, several for each key, that lets go of old ones all at once.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use state::JoinStore;

use crate::error::{Fault, Result};
use crate::log::{Offset, Timestamp};
use crate::serde::{SerdeError, SharedSerde};
use crate::topology::StoreId;

use super::{Instantiation, StoreSet};

/// An event buffer of the plan: see
/// [`StreamsBuilder::event_buffer`](crate::dsl::StreamsBuilder::event_buffer).
pub struct EventBufferHandle<K, V> {
    id: StoreId,
    name: String,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
}

impl<K, V> EventBufferHandle<K, V> {
    pub(crate) fn new(id: StoreId, name: &str, key: SharedSerde<K>, value: SharedSerde<V>) -> Self {
        Self {
            id,
            name: name.to_owned(),
            key,
            value,
        }
    }
}

impl<K: 'static, V: 'static> StoreSet for EventBufferHandle<K, V> {
    type Opened = EventBuffer<K, V>;

    fn ids(&self) -> Vec<StoreId> {
        vec![self.id]
    }

    fn open(&self, instantiation: &Instantiation<'_>) -> Result<EventBuffer<K, V>> {
        Ok(EventBuffer {
            name: self.name.clone(),
            store: instantiation.join(self.id)?,
            key: Arc::clone(&self.key),
            value: Arc::clone(&self.value),
            key_buffer: RefCell::default(),
            value_buffer: Vec::new(),
        })
    }
}

/// An event buffer in the hands of a processor. It is part of the task's transaction, like every store.
pub struct EventBuffer<K, V> {
    name: String,
    store: Rc<RefCell<JoinStore>>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    key_buffer: RefCell<Vec<u8>>,
    value_buffer: Vec<u8>,
}

impl<K, V> EventBuffer<K, V> {
    fn fault(&self, part: &str, error: SerdeError) -> Fault {
        Fault::serde(format_args!("a {part} of store {}", self.name), error)
    }

    /// Adds a value. `offset`, the input offset of the record at hand, keeps entries of one key and time apart and in
    /// their order.
    ///
    /// # Errors
    /// When the store fails or the value has no bytes.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the low bits are wanted"
    )]
    pub fn append(&mut self, key: &K, value: &V, timestamp: Timestamp, offset: Offset) -> Result {
        self.value_buffer.clear();
        self.value
            .serialize(value, &mut self.value_buffer)
            .map_err(|error| self.fault("value", error))?;
        let mut buffer = self.key_buffer.borrow_mut();
        buffer.clear();
        self.key
            .serialize(key, &mut buffer)
            .map_err(|error| self.fault("key", error))?;
        self.store
            .borrow_mut()
            .append(&buffer, timestamp, offset as u32, &self.value_buffer)?;
        Ok(())
    }

    /// The values of `key` with `from <= timestamp <= to`, by timestamp, then in the order they were added, until
    /// `visit` breaks.
    ///
    /// # Errors
    /// When the store fails or bytes are not a value.
    pub fn fetch(
        &self,
        key: &K,
        from: Timestamp,
        to: Timestamp,
        mut visit: impl FnMut(Timestamp, V) -> ControlFlow<()>,
    ) -> Result {
        let mut buffer = self.key_buffer.borrow_mut();
        buffer.clear();
        self.key
            .serialize(key, &mut buffer)
            .map_err(|error| self.fault("key", error))?;
        let mut failed = None;
        self.store
            .borrow()
            .fetch(
                &buffer,
                from,
                to,
                &mut |timestamp, _, bytes| match self.value.deserialize(bytes) {
                    Ok(value) => visit(timestamp, value),
                    Err(error) => {
                        failed = Some(self.fault("value", error));
                        ControlFlow::Break(())
                    }
                },
            )?;
        failed.map_or(Ok(()), Err)
    }

    /// Lets go of everything before `timestamp`, for good. Not kept over a restart: say it again from an
    /// [observed time](super::ObservedTime).
    pub fn expire_before(&mut self, timestamp: Timestamp) {
        self.store.borrow_mut().expire_before(timestamp);
    }
}
