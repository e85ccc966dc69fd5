//! A table: the latest value of each key.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use state::KeyValueStore;

use crate::error::{Fault, Result};
use crate::processor::{
    Context, Fanout, Instantiation, KeyValue, Process, ReadOnlyKeyValue, StoreSet,
};
use crate::record::{Change, Data, Record};
use crate::serde::{Serde, SharedSerde};
use crate::topology::{NodeId, NodeKind, Plan, ReadBack, StoreId, StoreKind};

use super::KStream;
use super::lineage::Partitioned;
use super::old_values::OldValues;
use super::outlet::Outlet;
use super::view::View;

/// The latest value of each key. It forwards [`Change`]s.
///
/// A table is a handle: what is added below it leaves it usable.
pub struct KTable<K, V> {
    pub(crate) plan: Rc<RefCell<Plan>>,
    pub(crate) node: NodeId,
    pub(crate) outlet: Arc<Outlet<K, Change<V>>>,
    /// How its rows are looked up; nothing where it stands in after a problem.
    pub(crate) view: Option<View<K, V>>,
    pub(crate) key: Option<SharedSerde<K>>,
    pub(crate) value: Option<SharedSerde<V>>,
    pub(crate) old_values: OldValues,
    /// Where the keys are windows: how long after its end, in stream time, a window is closed.
    pub(crate) closes_after_ms: Option<i64>,
}

impl<K, V> Clone for KTable<K, V> {
    fn clone(&self) -> Self {
        Self {
            plan: Rc::clone(&self.plan),
            node: self.node,
            outlet: Arc::clone(&self.outlet),
            view: self.view.clone(),
            key: self.key.clone(),
            value: self.value.clone(),
            old_values: self.old_values.clone(),
            closes_after_ms: self.closes_after_ms,
        }
    }
}

impl<K: Data, V: Data> KTable<K, V> {
    /// A table whose rows are in a store called `name`.
    pub(crate) fn stored(
        plan: Rc<RefCell<Plan>>,
        node: NodeId,
        outlet: Arc<Outlet<K, Change<V>>>,
        (store, name): (StoreId, &str),
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Self {
        let view = View::of_store(store, name, Arc::clone(&key), Arc::clone(&value));
        Self {
            plan,
            node,
            outlet,
            view: Some(view),
            key: Some(key),
            value: Some(value),
            old_values: OldValues::default(),
            closes_after_ms: None,
        }
    }

    /// Stands in after a problem that `build` reports.
    pub(crate) fn detached<K2, V2, L>(stream: &KStream<K2, V2, L>) -> Self {
        Self::detached_at(&stream.plan, stream.node)
    }

    /// Stands in for a table below `node`, after a problem that `build` reports.
    pub(crate) fn detached_at(plan: &Rc<RefCell<Plan>>, node: NodeId) -> Self {
        Self {
            plan: Rc::clone(plan),
            node,
            outlet: Outlet::new(),
            view: None,
            key: None,
            value: None,
            old_values: OldValues::default(),
            closes_after_ms: None,
        }
    }

    /// The same table with these serdes: what operators below need once an operator changed a type.
    ///
    /// By itself it emits nothing and makes nothing.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("stock");
    /// let stock = builder.table("stock", "stock-store", Consumed::new(utf8(), int64()));
    /// // A `String` now, whose serde nobody knows.
    /// let labels = stock.map_values(|item, count| format!("{count} {item}"));
    /// labels.with_serdes(utf8(), utf8()).to_stream().to("labels");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let stock = driver.input("stock", utf8(), int64());
    /// stock.pipe(&mut driver, "nails".to_owned(), 7, 0);
    /// let labels = driver.output("labels", utf8(), nullable(utf8())).read_key_values(&mut driver);
    /// assert_eq!(labels, [("nails".to_owned(), Some("7 nails".to_owned()))]);
    /// ```
    #[must_use]
    pub fn with_serdes(
        &self,
        key: impl Serde<K> + 'static,
        value: impl Serde<V> + 'static,
    ) -> Self {
        Self {
            key: Some(Arc::new(key)),
            value: Some(Arc::new(value)),
            ..self.clone()
        }
    }

    /// The same table with this serde of its values; the keys keep theirs.
    ///
    /// By itself it emits nothing and makes nothing.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("stock");
    /// let stock = builder.table("stock", "stock-store", Consumed::new(utf8(), int64()));
    /// // A `String` now, whose serde nobody knows.
    /// let labels = stock.map_values(|item, count| format!("{count} {item}"));
    /// labels.with_value_serde(utf8()).to_stream().to("labels");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let stock = driver.input("stock", utf8(), int64());
    /// stock.pipe(&mut driver, "nails".to_owned(), 7, 0);
    /// let labels = driver.output("labels", utf8(), nullable(utf8())).read_key_values(&mut driver);
    /// assert_eq!(labels, [("nails".to_owned(), Some("7 nails".to_owned()))]);
    /// ```
    #[must_use]
    pub fn with_value_serde(&self, value: impl Serde<V> + 'static) -> Self {
        Self {
            value: Some(Arc::new(value)),
            ..self.clone()
        }
    }

    /// Every update of the table as a record: `Some` for a value, `None` for a deletion.
    ///
    /// Emits with each change of the table, with its timestamp and headers; the stream is partitioned as the table is. No
    /// store and no topic is made. Source of the semantics: Kafka Streams' `KTable#toStream`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("prices");
    /// let prices = builder.table("prices", "prices", Consumed::new(utf8(), int64()));
    /// prices.to_stream().to("changes");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), nullable(int64()));
    /// prices.pipe(&mut driver, "pen".to_owned(), Some(2), 0);
    /// prices.pipe(&mut driver, "pen".to_owned(), None, 1);
    /// let changes = driver.output("changes", utf8(), nullable(int64()));
    /// let pen = "pen".to_owned();
    /// assert_eq!(changes.read_key_values(&mut driver), [(pen.clone(), Some(2)), (pen, None)]);
    /// ```
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

/// Turns a stream into a table, whose store gives it its name.
pub(crate) struct TableSource<'a, K, V> {
    pub store: &'a str,
    pub key: SharedSerde<K>,
    pub value: SharedSerde<V>,
    /// How it is rebuilt from the topic that it reads; nothing where it has a changelog.
    pub read_back: Option<ReadBack>,
}

impl<K: Data, V: Data> TableSource<'_, K, V> {
    /// `read` takes the row out of a record's value; none deletes it.
    pub(crate) fn attach<S: Data>(
        self,
        stream: &KStream<K, S, Partitioned>,
        read: impl Fn(S) -> Option<V> + Send + Sync + 'static,
    ) -> KTable<K, V> {
        let Self {
            store: name,
            key,
            value,
            read_back,
        } = self;
        let outlet = Outlet::<K, Change<V>>::new();
        let (node, store) = {
            let mut plan = stream.plan.borrow_mut();
            let store = plan.add_store(name, StoreKind::KeyValue);
            let kind = NodeKind::Operator("table");
            let parents = vec![stream.node];
            let node = plan.add_node(name.to_owned(), kind, parents, vec![store]);
            plan.describe_store(store, &*key, &*value);
            plan.read_back.extend(read_back.map(|how| (store, how)));
            (node, store)
        };
        let (below, table, read) = (Arc::clone(&outlet), name.to_owned(), Arc::new(read));
        let (key_serde, value_serde) = (Arc::clone(&key), Arc::clone(&value));
        stream.outlet.attach(move |instantiation| {
            Ok(Box::new(TableNode {
                name: table.clone(),
                read: Arc::clone(&read),
                store: instantiation.key_value(store)?,
                key: Arc::clone(&key_serde),
                value: Arc::clone(&value_serde),
                key_buffer: Vec::new(),
                value_buffer: Vec::new(),
                children: below.instantiate(instantiation)?,
            }))
        });
        let plan = Rc::clone(&stream.plan);
        KTable::stored(plan, node, outlet, (store, name), key, value)
    }
}

/// Keeps the latest value of each key.
struct TableNode<K, V, F> {
    name: String,
    read: Arc<F>,
    store: Rc<RefCell<KeyValueStore>>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    key_buffer: Vec<u8>,
    value_buffer: Vec<u8>,
    children: Fanout<K, Change<V>>,
}

impl<K, V, S, F> Process<K, S> for TableNode<K, V, F>
where
    K: Data,
    V: Data,
    F: Fn(S) -> Option<V>,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, S>) -> Result {
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
        let value = (self.read)(value);
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
