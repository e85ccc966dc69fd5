//! What a table holds for a key, as joins read it: from its store, or worked out from the tables it derives from; now,
//! or at a time where it knows its history.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use state::KeyValueStore;

use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::Instantiation;
use crate::record::Data;
use crate::serde::{SharedSerde, serialize_nullable};
use crate::topology::StoreId;

/// The rows of a table in a task.
pub(crate) trait Look<K, V> {
    /// The row of `key` with its timestamp. There is none for a null key.
    fn get(&mut self, key: &K) -> Result<Option<(V, Timestamp)>>;
}

type Open<K, V> = Arc<dyn Fn(&Instantiation<'_>) -> Result<Box<dyn Look<K, V>>> + Send + Sync>;

/// The rows of a table, before there are tasks.
pub(crate) struct View<K, V> {
    /// The stores that a look-up reads: they belong to the task of whoever looks.
    pub stores: Vec<StoreId>,
    open: Open<K, V>,
}

impl<K, V> Clone for View<K, V> {
    fn clone(&self) -> Self {
        Self {
            stores: self.stores.clone(),
            open: Arc::clone(&self.open),
        }
    }
}

impl<K: Data, V: Data> View<K, V> {
    pub(crate) fn new<L: Look<K, V> + 'static>(
        stores: Vec<StoreId>,
        open: impl Fn(&Instantiation<'_>) -> Result<L> + Send + Sync + 'static,
    ) -> Self {
        let open: Open<K, V> = Arc::new(move |instantiation| Ok(Box::new(open(instantiation)?)));
        Self { stores, open }
    }

    /// The rows of a key-value store of the plan, called `name`.
    pub(crate) fn of_store(
        store: StoreId,
        name: &str,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Self {
        let name = name.to_owned();
        Self::new(vec![store], move |instantiation| {
            Ok(StoredRows {
                name: name.clone(),
                store: instantiation.key_value(store)?,
                key: Arc::clone(&key),
                value: Arc::clone(&value),
                buffer: Vec::new(),
            })
        })
    }

    pub(crate) fn open(&self, instantiation: &Instantiation<'_>) -> Result<Box<dyn Look<K, V>>> {
        (self.open)(instantiation)
    }
}

/// The rows of a versioned table in a task, at any time.
pub(crate) trait LookAsOf<K, V> {
    /// The row of `key` at `time`. There is none for a null key.
    fn get_as_of(&mut self, key: &K, time: Timestamp) -> Result<Option<V>>;
}

type OpenHistory<K, V> =
    Arc<dyn Fn(&Instantiation<'_>) -> Result<Box<dyn LookAsOf<K, V>>> + Send + Sync>;

/// The rows of a versioned table at any time, before there are tasks.
pub(crate) struct History<K, V> {
    /// The stores that a look-up reads.
    pub stores: Vec<StoreId>,
    open: OpenHistory<K, V>,
}

impl<K, V> Clone for History<K, V> {
    fn clone(&self) -> Self {
        Self {
            stores: self.stores.clone(),
            open: Arc::clone(&self.open),
        }
    }
}

impl<K: Data, V: Data> History<K, V> {
    pub(crate) fn new<L: LookAsOf<K, V> + 'static>(
        stores: Vec<StoreId>,
        open: impl Fn(&Instantiation<'_>) -> Result<L> + Send + Sync + 'static,
    ) -> Self {
        let open: OpenHistory<K, V> =
            Arc::new(move |instantiation| Ok(Box::new(open(instantiation)?)));
        Self { stores, open }
    }

    pub(crate) fn open(
        &self,
        instantiation: &Instantiation<'_>,
    ) -> Result<Box<dyn LookAsOf<K, V>>> {
        (self.open)(instantiation)
    }

    /// What `map` makes of each row.
    pub(crate) fn map<V2: Data>(
        &self,
        map: impl Fn(&K, V) -> Option<V2> + Send + Sync + 'static,
    ) -> History<K, V2> {
        let (above, map) = (self.clone(), Arc::new(map));
        History::new(above.stores.clone(), move |instantiation| {
            Ok(MappedHistory {
                above: above.open(instantiation)?,
                map: Arc::clone(&map),
            })
        })
    }
}

struct MappedHistory<K, V, F> {
    above: Box<dyn LookAsOf<K, V>>,
    map: Arc<F>,
}

impl<K, V, V2, F: Fn(&K, V) -> Option<V2>> LookAsOf<K, V2> for MappedHistory<K, V, F> {
    fn get_as_of(&mut self, key: &K, time: Timestamp) -> Result<Option<V2>> {
        let row = self.above.get_as_of(key, time)?;
        Ok(row.and_then(|row| (self.map)(key, row)))
    }
}

/// Rows of a key-value store.
struct StoredRows<K, V> {
    name: String,
    store: Rc<RefCell<KeyValueStore>>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    buffer: Vec<u8>,
}

impl<K, V> Look<K, V> for StoredRows<K, V> {
    fn get(&mut self, key: &K) -> Result<Option<(V, Timestamp)>> {
        let fault = |part: &str, error| {
            Fault::serde(format_args!("a {part} of table {}", self.name), error)
        };
        let bytes = serialize_nullable(&*self.key, key, &mut self.buffer)
            .map_err(|error| fault("key", error))?;
        let Some(bytes) = bytes else {
            return Ok(None);
        };
        let Some(row) = self.store.borrow().get(bytes)? else {
            return Ok(None);
        };
        let value = self
            .value
            .deserialize(&row.value)
            .map_err(|error| fault("value", error))?;
        Ok(Some((value, row.timestamp)))
    }
}
