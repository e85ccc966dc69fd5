//! A table: the latest value of each key, and joins of streams with it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use state::KeyValueStore;

use crate::error::{Fault, Result};
use crate::processor::{
    Context, Fanout, Instantiation, KeyValue, Process, ReadOnlyKeyValue, StoreSet,
};
use crate::record::{Change, Data, Record};
use crate::serde::{SharedSerde, serialize_nullable};
use crate::topology::{NodeId, NodeKind, Plan, StoreId, StoreKind};

use super::grouped::is_null;
use super::lineage::{Lineage, Partitioned};
use super::outlet::Outlet;
use super::{KStream, Rekeyed};

/// The latest value of each key. It forwards [`Change`]s.
pub struct KTable<K, V> {
    plan: Rc<RefCell<Plan>>,
    pub(crate) node: NodeId,
    outlet: Arc<Outlet<K, Change<V>>>,
    pub(crate) store: Option<StoreId>,
    pub(crate) key: Option<SharedSerde<K>>,
    pub(crate) value: Option<SharedSerde<V>>,
}

impl<K: Data, V: Data> KTable<K, V> {
    pub(crate) fn new(
        plan: Rc<RefCell<Plan>>,
        node: NodeId,
        outlet: Arc<Outlet<K, Change<V>>>,
        store: Option<StoreId>,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Self {
        Self {
            plan,
            node,
            outlet,
            store,
            key: Some(key),
            value: Some(value),
        }
    }

    /// Stands in after a problem that `build` reports.
    pub(crate) fn detached<K2, V2>(stream: &KStream<K2, V2, Rekeyed>) -> Self {
        let plan = Rc::clone(&stream.plan);
        Self {
            plan,
            node: stream.node,
            outlet: Outlet::new(),
            store: None,
            key: None,
            value: None,
        }
    }

    /// Every update of the table as a record: `Some` for a value, `None` for a deletion.
    #[must_use]
    pub fn to_stream(&self) -> KStream<K, Option<V>, Partitioned> {
        let outlet = Outlet::<K, Option<V>>::new();
        let node = {
            let mut plan = self.plan.borrow_mut();
            let name = plan.generated_name("KTABLE-TOSTREAM");
            plan.add_node(
                name,
                NodeKind::Operator("to stream"),
                vec![self.node],
                vec![],
            )
        };
        let below = Arc::clone(&outlet);
        self.outlet.attach(move |instantiation| {
            Ok(Box::new(ToStream {
                children: below.instantiate(instantiation)?,
            }))
        });
        let value = self.value.clone().map(|value| {
            let optional: SharedSerde<Option<V>> = Arc::new(crate::serde::nullable(value));
            optional
        });
        KStream::new(Rc::clone(&self.plan), node, outlet, self.key.clone(), value)
    }
}

struct ToStream<K, V> {
    children: Fanout<K, Option<V>>,
}

impl<K: Data, V: Data> Process<K, Change<V>> for ToStream<K, V> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, Change<V>>) -> Result {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        self.children.forward(
            context,
            Record {
                key,
                value: value.new,
                timestamp,
                headers,
            },
        )
    }
}

/// Turns a stream of optional values into a table.
pub(crate) struct TableSource<'a, V> {
    pub store: &'a str,
    pub value: SharedSerde<V>,
}

impl<V: Data> TableSource<'_, V> {
    pub(crate) fn attach<K: Data>(
        self,
        stream: &KStream<K, Option<V>, Partitioned>,
    ) -> KTable<K, V> {
        let key = stream.key.clone().expect("a source has serdes");
        let outlet = Outlet::<K, Change<V>>::new();
        let (node, store) = {
            let mut plan = stream.plan.borrow_mut();
            let store = plan.add_store(self.store, StoreKind::KeyValue);
            let kind = NodeKind::Operator("table");
            let parents = vec![stream.node];
            (
                plan.add_node(self.store.to_owned(), kind, parents, vec![store]),
                store,
            )
        };
        let (below, name) = (Arc::clone(&outlet), self.store.to_owned());
        let (key_serde, value_serde) = (Arc::clone(&key), Arc::clone(&self.value));
        stream.outlet.attach(move |instantiation| {
            Ok(Box::new(TableNode {
                name: name.clone(),
                store: instantiation.key_value(store)?,
                key: Arc::clone(&key_serde),
                value: Arc::clone(&value_serde),
                key_buffer: Vec::new(),
                value_buffer: Vec::new(),
                children: below.instantiate(instantiation)?,
            }))
        });
        KTable::new(
            Rc::clone(&stream.plan),
            node,
            outlet,
            Some(store),
            key,
            self.value,
        )
    }
}

/// Keeps the latest value of each key.
struct TableNode<K, V> {
    name: String,
    store: Rc<RefCell<KeyValueStore>>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    key_buffer: Vec<u8>,
    value_buffer: Vec<u8>,
    children: Fanout<K, Change<V>>,
}

impl<K: Data, V: Data> Process<K, Option<V>> for TableNode<K, V> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, Option<V>>) -> Result {
        let fault = |part: &str, error| {
            Fault::serde(format_args!("a {part} of table {}", self.name), error)
        };
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        if self.key.is_null(&key) {
            metrics::counter!("dropped-records", "reason" => "null key").increment(1);
            return Ok(());
        }
        self.key_buffer.clear();
        self.key
            .serialize(&key, &mut self.key_buffer)
            .map_err(|error| fault("key", error))?;
        let mut store = self.store.borrow_mut();
        let old = store
            .get(&self.key_buffer)?
            .map(|before| self.value.deserialize(&before.value))
            .transpose()
            .map_err(|error| fault("value", error))?;
        match &value {
            Some(value) => {
                self.value_buffer.clear();
                self.value
                    .serialize(value, &mut self.value_buffer)
                    .map_err(|error| fault("value", error))?;
                store.put(&self.key_buffer, &self.value_buffer, timestamp)?;
            }
            None => store.delete(&self.key_buffer, timestamp)?,
        }
        drop(store);
        let change = Change { new: value, old };
        self.children.forward(
            context,
            Record {
                key,
                value: change,
                timestamp,
                headers,
            },
        )
    }
}

/// A table that every thread holds in full: see
/// [`StreamsBuilder::global_table`](super::StreamsBuilder::global_table).
pub struct GlobalTable<K, V> {
    pub(crate) store: StoreId,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
}

impl<K: Data, V: Data> StoreSet for GlobalTable<K, V> {
    type Opened = ReadOnlyKeyValue<K, V>;

    fn ids(&self) -> Vec<StoreId> {
        vec![self.store]
    }

    fn open(&self, instantiation: &Instantiation<'_>) -> Result<ReadOnlyKeyValue<K, V>> {
        let store = instantiation.key_value(self.store)?;
        let (key, value) = (Arc::clone(&self.key), Arc::clone(&self.value));
        Ok(ReadOnlyKeyValue::new(KeyValue::new(
            "of a global table",
            store,
            key,
            value,
        )))
    }
}

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    /// Joins each record with the table's value of its key at this moment; records without a match, or with a null
    /// key or value, are dropped. The result has the record's timestamp. Updates of the table emit nothing.
    ///
    /// Stream and table must be co-partitioned; a stream whose key may have changed is sent through
    /// `<application id>-<name>-repartition` first.
    pub fn join_table<W: Data, R: Data>(
        &self,
        name: &str,
        table: &KTable<K, W>,
        join: impl Fn(&K, V, W) -> R + Send + Sync + 'static,
    ) -> KStream<K, R, Partitioned> {
        self.look_up(name, table, move |key, value, found| {
            found.map(|w| join(key, value, w))
        })
    }

    /// Like [`join_table`](Self::join_table), but a record without a match, or with a null key, is joined with `None`.
    pub fn left_join_table<W: Data, R: Data>(
        &self,
        name: &str,
        table: &KTable<K, W>,
        join: impl Fn(&K, V, Option<W>) -> R + Send + Sync + 'static,
    ) -> KStream<K, R, Partitioned> {
        self.look_up(name, table, move |key, value, found| {
            Some(join(key, value, found))
        })
    }

    fn look_up<W: Data, R: Data>(
        &self,
        name: &str,
        table: &KTable<K, W>,
        join: impl Fn(&K, V, Option<W>) -> Option<R> + Send + Sync + 'static,
    ) -> KStream<K, R, Partitioned> {
        let stream = self.partitioned(name);
        let outlet = Outlet::<K, R>::new();
        let key = table.key.clone();
        let node = {
            let mut plan = self.plan.borrow_mut();
            let stores = table.store.into_iter().collect();
            let kind = NodeKind::Operator("stream-table join");
            let node = plan.add_node(name.to_owned(), kind, vec![stream.node], stores);
            plan.copartitioned
                .push((name.to_owned(), vec![stream.node, table.node]));
            node
        };
        if let (Some(store), Some(key_serde), Some(value_serde)) =
            (table.store, table.key.clone(), table.value.clone())
        {
            let below = Arc::clone(&outlet);
            let stream_value = stream.value.clone();
            let (name, join) = (name.to_owned(), Arc::new(join));
            stream.outlet.attach(move |instantiation| {
                let join = Arc::clone(&join);
                Ok(Box::new(LookUp {
                    name: name.clone(),
                    stream_value: stream_value.clone(),
                    store: instantiation.key_value(store)?,
                    key: Arc::clone(&key_serde),
                    value: Arc::clone(&value_serde),
                    select: |key: &K, _: &V| key.clone(),
                    join: move |key: &K, _: &K, value, found| join(key, value, found),
                    buffer: Vec::new(),
                    children: below.instantiate(instantiation)?,
                }))
            });
        }
        KStream::new(Rc::clone(&self.plan), node, outlet, key, None)
    }

    /// Joins each record with a global table's value of the key that `select` takes from it; records without a
    /// match, with a null selected key or with a null value are dropped. Key, partition and timestamp stay.
    pub fn join_global<GK: Data, GV: Data, R: Data>(
        &self,
        name: &str,
        table: &GlobalTable<GK, GV>,
        select: impl Fn(&K, &V) -> GK + Send + Sync + 'static,
        join: impl Fn(&K, &GK, V, GV) -> R + Send + Sync + 'static,
    ) -> KStream<K, R, L> {
        self.look_up_global(name, table, select, move |key, global_key, value, found| {
            found.map(|found| join(key, global_key, value, found))
        })
    }

    /// Like [`join_global`](Self::join_global), but a record without a match, or with a null selected key, is joined
    /// with `None`.
    pub fn left_join_global<GK: Data, GV: Data, R: Data>(
        &self,
        name: &str,
        table: &GlobalTable<GK, GV>,
        select: impl Fn(&K, &V) -> GK + Send + Sync + 'static,
        join: impl Fn(&K, &GK, V, Option<GV>) -> R + Send + Sync + 'static,
    ) -> KStream<K, R, L> {
        self.look_up_global(name, table, select, move |key, global_key, value, found| {
            Some(join(key, global_key, value, found))
        })
    }

    fn look_up_global<GK: Data, GV: Data, R: Data>(
        &self,
        name: &str,
        table: &GlobalTable<GK, GV>,
        select: impl Fn(&K, &V) -> GK + Send + Sync + 'static,
        join: impl Fn(&K, &GK, V, Option<GV>) -> Option<R> + Send + Sync + 'static,
    ) -> KStream<K, R, L> {
        let outlet = Outlet::<K, R>::new();
        let node = {
            let mut plan = self.plan.borrow_mut();
            let kind = NodeKind::Operator("stream-global-table join");
            plan.add_node(name.to_owned(), kind, vec![self.node], vec![table.store])
        };
        let below = Arc::clone(&outlet);
        let stream_value = self.value.clone();
        let (name, store) = (name.to_owned(), table.store);
        let (key, value) = (Arc::clone(&table.key), Arc::clone(&table.value));
        let (select, join) = (Arc::new(select), Arc::new(join));
        self.outlet.attach(move |instantiation| {
            let (select, join) = (Arc::clone(&select), Arc::clone(&join));
            Ok(Box::new(LookUp {
                name: name.clone(),
                stream_value: stream_value.clone(),
                store: instantiation.key_value(store)?,
                key: Arc::clone(&key),
                value: Arc::clone(&value),
                select: move |key: &K, value: &V| select(key, value),
                join: move |key: &K, looked_up: &GK, value, found| {
                    join(key, looked_up, value, found)
                },
                buffer: Vec::new(),
                children: below.instantiate(instantiation)?,
            }))
        });
        KStream::new(Rc::clone(&self.plan), node, outlet, self.key.clone(), None)
    }
}

/// Joins a record with what a table holds for a key taken from it.
struct LookUp<K, V, TK, TV, R, S, J> {
    name: String,
    /// Tells a null value; without a serde the type has none.
    stream_value: Option<SharedSerde<V>>,
    store: Rc<RefCell<KeyValueStore>>,
    key: SharedSerde<TK>,
    value: SharedSerde<TV>,
    select: S,
    join: J,
    buffer: Vec<u8>,
    children: Fanout<K, R>,
}

impl<K, V, TK, TV, R, S, J> Process<K, V> for LookUp<K, V, TK, TV, R, S, J>
where
    K: Data,
    R: Data,
    S: Fn(&K, &V) -> TK,
    J: Fn(&K, &TK, V, Option<TV>) -> Option<R>,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        if is_null(self.stream_value.as_ref(), &value) {
            metrics::counter!("dropped-records", "reason" => "null value").increment(1);
            return Ok(());
        }
        let fault =
            |part: &str, error| Fault::serde(format_args!("a {part} of join {}", self.name), error);
        let selected = (self.select)(&key, &value);
        let found = match serialize_nullable(&*self.key, &selected, &mut self.buffer)
            .map_err(|error| fault("key", error))?
        {
            Some(bytes) => self.store.borrow().get(bytes)?,
            None => None,
        };
        let found = found
            .map(|found| self.value.deserialize(&found.value))
            .transpose()
            .map_err(|error| fault("value", error))?;
        match (self.join)(&key, &selected, value, found) {
            Some(value) => self.children.forward(
                context,
                Record {
                    key,
                    value,
                    timestamp,
                    headers,
                },
            ),
            None => Ok(()),
        }
    }
}
