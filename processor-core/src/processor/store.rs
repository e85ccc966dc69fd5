//! Typed stores for user code. A processor gets them opened, so there is no look-up by name.

use std::cell::RefCell;
use std::ops::{Bound, ControlFlow};
use std::rc::Rc;
use std::sync::Arc;

use state::{Direction, KeyValueStore};

use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::serde::{Serde, SharedSerde};
use crate::topology::StoreId;

use super::Instantiation;

/// A store of the plan: pass it to [`KStream::process`](crate::dsl::KStream::process).
pub struct StoreHandle<K, V> {
    id: StoreId,
    name: String,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
}

impl<K, V> Clone for StoreHandle<K, V> {
    fn clone(&self) -> Self {
        Self {
            id: self.id,
            name: self.name.clone(),
            key: Arc::clone(&self.key),
            value: Arc::clone(&self.value),
        }
    }
}

impl<K, V> StoreHandle<K, V> {
    pub(crate) fn new(id: StoreId, name: &str, key: SharedSerde<K>, value: SharedSerde<V>) -> Self {
        Self {
            id,
            name: name.to_owned(),
            key,
            value,
        }
    }

    /// Name of the store.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// One or several stores, given to a processor at once: a handle, or a tuple of handles and global tables.
pub trait StoreSet: Send + Sync + 'static {
    /// What the processor gets.
    type Opened;
    #[doc(hidden)]
    fn ids(&self) -> Vec<StoreId>;
    #[doc(hidden)]
    fn open(&self, instantiation: &Instantiation<'_>) -> Result<Self::Opened>;
}

impl StoreSet for () {
    type Opened = ();

    fn ids(&self) -> Vec<StoreId> {
        Vec::new()
    }

    fn open(&self, _: &Instantiation<'_>) -> Result<()> {
        Ok(())
    }
}

impl<K: 'static, V: 'static> StoreSet for StoreHandle<K, V> {
    type Opened = KeyValue<K, V>;

    fn ids(&self) -> Vec<StoreId> {
        vec![self.id]
    }

    fn open(&self, instantiation: &Instantiation<'_>) -> Result<KeyValue<K, V>> {
        let store = instantiation.key_value(self.id)?;
        Ok(KeyValue::new(
            &self.name,
            store,
            Arc::clone(&self.key),
            Arc::clone(&self.value),
        ))
    }
}

macro_rules! tuple_of_stores {
    ($($name:ident $index:tt),+) => {
        impl<$($name: StoreSet),+> StoreSet for ($($name,)+) {
            type Opened = ($($name::Opened,)+);

            fn ids(&self) -> Vec<StoreId> {
                let mut ids = Vec::new();
                $(ids.extend(self.$index.ids());)+
                ids
            }

            fn open(&self, instantiation: &Instantiation<'_>) -> Result<Self::Opened> {
                Ok(($(self.$index.open(instantiation)?,)+))
            }
        }
    };
}

tuple_of_stores!(A 0, B 1);
tuple_of_stores!(A 0, B 1, C 2);
tuple_of_stores!(A 0, B 1, C 2, D 3);
tuple_of_stores!(A 0, B 1, C 2, D 3, E 4);
tuple_of_stores!(A 0, B 1, C 2, D 3, E 4, F 5);

/// A key-value store in the hands of a processor.
///
/// Writes are part of the task's transaction: they are undone when it aborts, and they reach the changelog when it
/// commits.
pub struct KeyValue<K, V> {
    name: String,
    store: Rc<RefCell<KeyValueStore>>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    key_buffer: RefCell<Vec<u8>>,
    value_buffer: Vec<u8>,
}

impl<K, V> KeyValue<K, V> {
    pub(crate) fn new(
        name: &str,
        store: Rc<RefCell<KeyValueStore>>,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            store,
            key,
            value,
            key_buffer: RefCell::default(),
            value_buffer: Vec::new(),
        }
    }

    fn fault(&self, part: &str, error: crate::serde::SerdeError) -> Fault {
        Fault::serde(format_args!("a {part} of store {}", self.name), error)
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// When the store cannot be read or the bytes are not a value.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        Ok(self.get_stamped(key)?.map(|(value, _)| value))
    }

    /// The value of `key` with the timestamp it was put with.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn get_stamped(&self, key: &K) -> Result<Option<(V, Timestamp)>> {
        let mut buffer = self.key_buffer.borrow_mut();
        buffer.clear();
        self.key
            .serialize(key, &mut buffer)
            .map_err(|error| self.fault("key", error))?;
        let Some(found) = self.store.borrow().get(&buffer)? else {
            return Ok(None);
        };
        let value = self
            .value
            .deserialize(&found.value)
            .map_err(|error| self.fault("value", error))?;
        Ok(Some((value, found.timestamp)))
    }

    /// Sets the value of `key`; `timestamp` goes to the changelog with it.
    ///
    /// # Errors
    /// When the store fails or the value has no bytes.
    pub fn put(&mut self, key: &K, value: &V, timestamp: Timestamp) -> Result {
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
            .put(&buffer, &self.value_buffer, timestamp)?;
        Ok(())
    }

    /// Removes `key`.
    ///
    /// # Errors
    /// When the store fails.
    pub fn delete(&mut self, key: &K, timestamp: Timestamp) -> Result {
        let mut buffer = self.key_buffer.borrow_mut();
        buffer.clear();
        self.key
            .serialize(key, &mut buffer)
            .map_err(|error| self.fault("key", error))?;
        self.store.borrow_mut().delete(&buffer, timestamp)?;
        Ok(())
    }

    /// Entries whose key bytes are in `[from, to)`, in byte order, until `visit` breaks. Bounds are keys; a missing
    /// one is open.
    ///
    /// # Errors
    /// When the store fails, bytes do not decode, or `visit` fails.
    pub fn range(
        &self,
        from: Option<&K>,
        to: Option<&K>,
        mut visit: impl FnMut(K, V, Timestamp) -> ControlFlow<()>,
    ) -> Result {
        let encode = |key: Option<&K>| -> Result<Option<Vec<u8>>> {
            let Some(key) = key else { return Ok(None) };
            let mut bytes = Vec::new();
            self.key
                .serialize(key, &mut bytes)
                .map_err(|error| self.fault("key", error))?;
            Ok(Some(bytes))
        };
        let (from, to) = (encode(from)?, encode(to)?);
        let from = from.as_deref().map_or(Bound::Unbounded, Bound::Included);
        let to = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut failed = None;
        self.store
            .borrow()
            .scan(from, to, Direction::Forward, &mut |key, stamped| {
                let entry = self.key.deserialize(key).and_then(|key| {
                    let value = self.value.deserialize(&stamped.value)?;
                    Ok((key, value))
                });
                match entry {
                    Ok((key, value)) => visit(key, value, stamped.timestamp),
                    Err(error) => {
                        failed = Some(self.fault("entry", error));
                        ControlFlow::Break(())
                    }
                }
            })?;
        failed.map_or(Ok(()), Err)
    }
}

/// A store that a processor may read and somebody else writes: what a global table looks like from inside.
pub struct ReadOnlyKeyValue<K, V>(KeyValue<K, V>);

impl<K, V> ReadOnlyKeyValue<K, V> {
    pub(crate) fn new(store: KeyValue<K, V>) -> Self {
        Self(store)
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// As for [`KeyValue::get`].
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        self.0.get(key)
    }

    /// Entries in key order: see [`KeyValue::range`].
    ///
    /// # Errors
    /// As for [`KeyValue::range`].
    pub fn range(
        &self,
        from: Option<&K>,
        to: Option<&K>,
        visit: impl FnMut(K, V, Timestamp) -> ControlFlow<()>,
    ) -> Result {
        self.0.range(from, to, visit)
    }
}
