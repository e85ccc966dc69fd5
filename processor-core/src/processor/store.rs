//! Typed stores for user code. A processor gets them opened, so there is no look-up by name.

use std::any::{Any, TypeId};
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
use super::expiring::{ExpiringStore, Ttl};

/// A store of the plan: pass it to [`KStream::process`](crate::dsl::KStream::process).
pub struct StoreHandle<K, V> {
    id: StoreId,
    name: String,
    ttl: Option<Ttl>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
}

impl<K, V> Clone for StoreHandle<K, V> {
    fn clone(&self) -> Self {
        Self {
            id: self.id,
            name: self.name.clone(),
            ttl: self.ttl,
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
            ttl: None,
            key,
            value,
        }
    }

    /// Has each entry live for `ttl` after it was put, or put again, and no longer: to the millisecond for who reads the
    /// store, whatever it is kept in and however often it was restarted. See [`Ttl`] for what time it is.
    ///
    /// What has expired is deleted later, from the changelog too, a few entries at each record.
    ///
    /// # Errors
    /// [`build`](crate::dsl::StreamsBuilder::build) refuses two different times for one store.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::Record;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::error::Result;
    /// # use processor_core::processor::{KeyValue, Processor, ProcessorContext, Ttl};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # /// Counts the records of a key.
    /// # struct Count(KeyValue<String, i64>);
    /// # impl Processor<String, i64> for Count {
    /// #     type KOut = String;
    /// #     type VOut = i64;
    /// #     fn process(
    /// #         &mut self,
    /// #         record: Record<String, i64>,
    /// #         context: &mut ProcessorContext<'_, '_, String, i64>,
    /// #     ) -> Result {
    /// #         let count = self.0.get(&record.key)?.unwrap_or(0) + 1;
    /// #         self.0.put(&record.key, &count, record.timestamp)?;
    /// #         context.forward(record.with_value(count))
    /// #     }
    /// # }
    /// # let builder = StreamsBuilder::new("visits");
    /// # let visits = builder.stream("visits", Consumed::new(utf8(), int64()));
    /// let counts = builder
    ///     .key_value_store("counts", utf8(), int64())
    ///     .ttl(Ttl::event_time(Duration::from_millis(10)));
    /// visits.process("count", counts, Count).to_with("counts", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let visits = driver.input("visits", utf8(), int64());
    /// for time in [0, 9, 18, 28] {
    ///     visits.pipe(&mut driver, "ann".to_owned(), 0, time);
    /// }
    /// let counts = driver.output("counts", utf8(), int64()).read(&mut driver);
    /// let counts: Vec<i64> = counts.into_iter().map(|record| record.value).collect();
    /// assert_eq!(counts, [1, 2, 3, 1]);
    /// ```
    #[must_use]
    pub fn ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Name of the store.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// One or several stores, given to a processor at once: a handle, or a tuple of handles and global tables.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no store that a processor can open",
    label = "not a store",
    note = "pass what `key_value_store` or `event_buffer` gave, a global table, `()` for none, or a tuple of them; a table \
            is read by a join"
)]
pub trait StoreSet: Send + Sync + 'static {
    /// What the processor gets.
    type Opened;
    #[doc(hidden)]
    fn ids(&self) -> Vec<StoreId>;
    /// Stores whose entries expire.
    #[doc(hidden)]
    fn ttls(&self) -> Vec<(StoreId, Ttl)> {
        Vec::new()
    }
    /// Types of the keys that timers are set for.
    #[doc(hidden)]
    fn timer_keys(&self) -> Vec<TypeId> {
        Vec::new()
    }
    #[doc(hidden)]
    fn open(&self, instantiation: &Instantiation<'_>) -> Result<Self::Opened>;
}

/// What a store brings with it for the node that uses it.
pub(crate) enum Attachment {
    /// `Timers` of the node's type of keys.
    Timers(Box<dyn Any>),
    /// A store whose entries expire as time goes on.
    Expiring(ExpiringStore),
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

    fn ttls(&self) -> Vec<(StoreId, Ttl)> {
        self.ttl.iter().map(|ttl| (self.id, *ttl)).collect()
    }

    fn open(&self, instantiation: &Instantiation<'_>) -> Result<KeyValue<K, V>> {
        let store = instantiation.key_value(self.id)?;
        let (key, value) = (Arc::clone(&self.key), Arc::clone(&self.value));
        let mut opened = KeyValue::new(&self.name, Rc::clone(&store), key, value);
        if let Some(ttl) = self.ttl {
            let expiring = ExpiringStore::new(&self.name, store, ttl);
            opened.expiring = Some(expiring.clone());
            instantiation.attach(Attachment::Expiring(expiring));
        }
        Ok(opened)
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

            fn ttls(&self) -> Vec<(StoreId, Ttl)> {
                let mut ttls = Vec::new();
                $(ttls.extend(self.$index.ttls());)+
                ttls
            }

            fn timer_keys(&self) -> Vec<TypeId> {
                let mut keys = Vec::new();
                $(keys.extend(self.$index.timer_keys());)+
                keys
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
    expiring: Option<ExpiringStore>,
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
            expiring: None,
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

    /// Sets the value of `key`; `timestamp` goes to the changelog with it. In a store whose entries live for some
    /// [wall-clock time](Ttl::wall_clock), that time takes its place.
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
        let timestamp = match &self.expiring {
            Some(expiring) => expiring.put_at(timestamp),
            None => timestamp,
        };
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
