//! A table that keeps the history of its rows.
//!
//! A record is the value of its key from its timestamp on. Where a plain table takes records as they come, this one takes
//! them by their time: one that is older than the key's latest enters the history and leaves the latest row as it is.
//!
//! | what comes | latest row | joins of streams as of a time | tables below, by [`latest`](VersionedTable::latest) | [`to_stream`](VersionedTable::to_stream) |
//! |---|---|---|---|---|
//! | the newest version of a key, or one at the same time | changes | see it from its time on | see the change | shows it |
//! | an older one | stays | see it from its time on, until the next version's | see nothing | shows it |
//! | one below the history | stays | see nothing | see nothing | shows nothing; it is counted in `dropped-records` |
//!
//! History ends at the largest timestamp that came here less its length, exactly: at that time and later everything is
//! known, before it only the latest version of each key. Source of the semantics: Kafka Streams' `KTableSource`,
//! `RocksDBVersionedStore`, KIP-889 and KIP-914.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use state::{Put, Stamped, VersionedStore};

use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::{Context, Fanout, OperatorTime, Process};
use crate::record::{Change, Data, Record};
use crate::serde::{Serde, SerdeError, SharedSerde, nullable, serialize_nullable};
use crate::topology::{NodeKind, StoreKind};

use super::lineage::Partitioned;
use super::old_values::OldValues;
use super::outlet::Outlet;
use super::table_values::Refusals;
use super::view::{History, Look, LookAsOf, View};
use super::{KStream, KTable};

/// A table whose rows can be looked up as they were at a time: see
/// [`StreamsBuilder::versioned_table`](super::StreamsBuilder::versioned_table).
///
/// ```
/// # use std::time::Duration;
/// # use processor_core::dsl::{Consumed, StreamsBuilder};
/// # use processor_core::serde::{int64, nullable, utf8};
/// # use processor_core::testing::TopologyTestDriver;
/// # let builder = StreamsBuilder::new("prices");
/// let an_hour = Duration::from_secs(60 * 60);
/// let prices = builder.versioned_table("prices", "prices", an_hour, Consumed::new(utf8(), int64()));
/// prices.to_stream().to("versions");
/// prices.latest().to_stream().to("latest");
/// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
/// # let prices = driver.input("prices", utf8(), int64());
/// prices.pipe(&mut driver, "pen".to_owned(), 3, 100);
/// // Older than the latest: a version, but not the latest row.
/// prices.pipe(&mut driver, "pen".to_owned(), 2, 50);
/// let versions = driver.output("versions", utf8(), nullable(int64()));
/// assert_eq!(versions.read(&mut driver).len(), 2);
/// let latest = driver.output("latest", utf8(), nullable(int64()));
/// assert_eq!(latest.read_key_values(&mut driver), [("pen".to_owned(), Some(3))]);
/// ```
pub struct VersionedTable<K, V> {
    pub(super) latest: KTable<K, V>,
    /// Versions that came after a later one of their key.
    superseded: KStream<K, Option<V>, Partitioned>,
    pub(super) history: History<K, V>,
    pub(super) history_ms: i64,
}

impl<K, V> Clone for VersionedTable<K, V> {
    fn clone(&self) -> Self {
        Self {
            latest: self.latest.clone(),
            superseded: self.superseded.clone(),
            history: self.history.clone(),
            history_ms: self.history_ms,
        }
    }
}

impl<K: Data, V: Data> VersionedTable<K, V> {
    /// Keeps `stream` in the versioned store `name`.
    pub(crate) fn of(
        stream: &KStream<K, Option<V>, Partitioned>,
        name: &str,
        history_ms: i64,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Self {
        let changes = Outlet::<K, Change<V>>::new();
        let late = Outlet::<K, Option<V>>::new();
        let old_values = OldValues::default();
        let (node, store) = {
            let mut plan = stream.plan.borrow_mut();
            let store = plan.add_store(name, StoreKind::Versioned { history_ms });
            let kind = NodeKind::Operator("versioned table");
            let node = plan.add_node(name.to_owned(), kind, vec![stream.node], vec![store]);
            plan.describe_store(store, &*key, &*value);
            plan.describe_node(node, &[("history_ms", history_ms)]);
            (node, store)
        };
        let rows = {
            let (name, key, value) = (name.to_owned(), Arc::clone(&key), Arc::clone(&value));
            move |store| Rows {
                name: name.clone(),
                store,
                key: Arc::clone(&key),
                value: Arc::clone(&value),
                buffer: Vec::new(),
            }
        };
        let (below, superseded, asked) =
            (Arc::clone(&changes), Arc::clone(&late), old_values.clone());
        let (make_rows, operator) = (rows.clone(), name.to_owned());
        stream.outlet.attach(move |instantiation| {
            let time = OperatorTime::new(instantiation.times, &operator);
            let store = instantiation.versioned(store)?;
            let known_from = time.now().saturating_sub(history_ms);
            store.borrow_mut().restore_horizon(known_from);
            Ok(Box::new(VersionedNode {
                rows: make_rows(store),
                time,
                history_ms,
                old_values: asked.asked(),
                value_buffer: Vec::new(),
                children: below.instantiate(instantiation)?,
                superseded: superseded.instantiate(instantiation)?,
            }))
        });
        let make_rows = rows.clone();
        let view = View::new(vec![store], move |instantiation| {
            Ok(make_rows(instantiation.versioned(store)?))
        });
        let history = History::new(vec![store], move |instantiation| {
            Ok(rows(instantiation.versioned(store)?))
        });
        let optional: SharedSerde<Option<V>> = Arc::new(nullable(Arc::clone(&value)));
        let plan = &stream.plan;
        Self {
            latest: KTable {
                plan: Rc::clone(plan),
                node,
                outlet: changes,
                view: Some(view),
                key: Some(Arc::clone(&key)),
                value: Some(value),
                old_values,
                closes_after_ms: None,
            },
            superseded: KStream::new(Rc::clone(plan), node, late, Some(key), Some(optional)),
            history,
            history_ms,
        }
    }

    /// The latest row of each key by its time, as a plain table: for joins with tables, regrouping and suppression. It
    /// says nothing of versions that come after a later one.
    ///
    /// A null value deletes its row. It makes no store and no topic. Source of the semantics: KIP-914.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("prices");
    /// # let a_day = Duration::from_secs(24 * 60 * 60);
    /// let prices = builder.versioned_table("prices", "prices", a_day, Consumed::new(utf8(), int64()));
    /// prices.latest().to_stream().to("latest");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), nullable(int64()));
    /// // The second is older than the first.
    /// for (price, time) in [(Some(2), 20), (Some(1), 10), (None, 30)] {
    ///     prices.pipe(&mut driver, "pen".to_owned(), price, time);
    /// }
    /// let latest = driver.output("latest", utf8(), nullable(int64())).read_key_values(&mut driver);
    /// assert_eq!(latest, [Some(2), None].map(|price| ("pen".to_owned(), price)));
    /// ```
    #[must_use]
    pub fn latest(&self) -> KTable<K, V> {
        self.latest.clone()
    }

    /// Every version as it comes, also one that is not the latest: `Some` for a value, `None` for a deletion.
    ///
    /// Each has its own timestamp and headers. One below the history is late: it is dropped and counted. It makes no
    /// store and no topic. Source of the semantics: KIP-914.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("prices");
    /// let history = Duration::from_millis(10);
    /// let prices = builder.versioned_table("prices", "prices", history, Consumed::new(utf8(), int64()));
    /// prices.to_stream().to("versions");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), nullable(int64()));
    /// // The second is older than the first; the third is below the history.
    /// for (price, time) in [(2, 20), (1, 10), (3, 9)] {
    ///     prices.pipe(&mut driver, "pen".to_owned(), Some(price), time);
    /// }
    /// let versions = driver.output("versions", utf8(), nullable(int64())).read(&mut driver);
    /// let versions: Vec<_> = versions.into_iter().map(|r| (r.value, r.timestamp)).collect();
    /// assert_eq!(versions, [(Some(2), 20), (Some(1), 10)]);
    /// ```
    #[must_use]
    pub fn to_stream(&self) -> KStream<K, Option<V>, Partitioned> {
        self.latest.to_stream().merge(&self.superseded)
    }

    /// The rows for which `keep` holds, at each time; stored nowhere. A refused version is a deletion from its time on.
    ///
    /// Emits with every version, with its timestamp. `keep` never sees a deletion.
    ///
    /// Tables have no null keys. Source of the semantics: Kafka Streams' `KTableFilter` over a versioned table
    /// (KIP-914).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// # let a_day = Duration::from_secs(24 * 60 * 60);
    /// let prices = builder.versioned_table("prices", "prices", a_day, Consumed::new(utf8(), int64()));
    /// let known = prices.filter(|_, price| *price >= 0);
    /// builder
    ///     .stream("sales", Consumed::new(utf8(), int64()))
    ///     .left_join_table_as_of("priced", &known, |_, pieces, price| pieces * price.unwrap_or(0))
    ///     .to_with("priced", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), int64());
    /// # let sales = driver.input("sales", utf8(), int64());
    /// prices.pipe(&mut driver, "pen".to_owned(), -1, 10);
    /// prices.pipe(&mut driver, "pen".to_owned(), 2, 20);
    /// sales.pipe(&mut driver, "pen".to_owned(), 5, 15);
    /// sales.pipe(&mut driver, "pen".to_owned(), 5, 25);
    /// let priced = driver.output("priced", utf8(), int64()).read(&mut driver);
    /// let priced: Vec<_> = priced.into_iter().map(|record| record.value).collect();
    /// assert_eq!(priced, [0, 10]);
    /// ```
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        let keep = Arc::new(keep);
        let (kept, late, past) = (Arc::clone(&keep), Arc::clone(&keep), keep);
        let superseded = self
            .superseded
            .map_values(move |key, value: Option<V>| value.filter(|value| late(key, value)));
        Self {
            latest: self
                .latest
                .filtered(Refusals::Told, move |key, value| kept(key, value)),
            superseded: typed(
                &superseded,
                self.superseded.key.clone(),
                self.superseded.value.clone(),
            ),
            history: self
                .history
                .map(move |key, value| past(key, &value).then_some(value)),
            history_ms: self.history_ms,
        }
    }

    /// The rows for which `drop` does not hold: see [`filter`](Self::filter).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("prices");
    /// # let a_day = Duration::from_secs(24 * 60 * 60);
    /// let prices = builder.versioned_table("prices", "prices", a_day, Consumed::new(utf8(), int64()));
    /// prices.filter_not(|_, price| *price < 0).to_stream().to("known");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), int64());
    /// for (price, time) in [(2, 10), (-1, 20)] {
    ///     prices.pipe(&mut driver, "pen".to_owned(), price, time);
    /// }
    /// let known = driver.output("known", utf8(), nullable(int64())).read_key_values(&mut driver);
    /// assert_eq!(known, [Some(2), None].map(|price| ("pen".to_owned(), price)));
    /// ```
    #[must_use]
    pub fn filter_not(&self, drop: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.filter(move |key, value| !drop(key, value))
    }

    /// Replaces the value of each version; stored nowhere.
    ///
    /// Emits with every version, with its timestamp; a deletion stays one, and `map` does not see it. `map` must give the
    /// same for the same row, since it is called again where a join asks for the row. The new type has no serde yet: see
    /// [`with_serdes`](Self::with_serdes).
    ///
    /// Tables have no null keys. Source of the semantics: Kafka Streams' `KTableMapValues` over a versioned table
    /// (KIP-914).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// # let a_day = Duration::from_secs(24 * 60 * 60);
    /// let prices = builder.versioned_table("prices", "prices", a_day, Consumed::new(utf8(), int64()));
    /// let doubled = prices.map_values(|_, price| price * 2);
    /// builder
    ///     .stream("sales", Consumed::new(utf8(), int64()))
    ///     .left_join_table_as_of("priced", &doubled, |_, pieces, price| pieces * price.unwrap_or(0))
    ///     .to_with("priced", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), int64());
    /// # let sales = driver.input("sales", utf8(), int64());
    /// prices.pipe(&mut driver, "pen".to_owned(), -1, 10);
    /// prices.pipe(&mut driver, "pen".to_owned(), 2, 20);
    /// sales.pipe(&mut driver, "pen".to_owned(), 5, 15);
    /// sales.pipe(&mut driver, "pen".to_owned(), 5, 25);
    /// let priced = driver.output("priced", utf8(), int64()).read(&mut driver);
    /// let priced: Vec<_> = priced.into_iter().map(|record| record.value).collect();
    /// assert_eq!(priced, [-10, 20]);
    /// ```
    #[must_use]
    pub fn map_values<V2: Data>(
        &self,
        map: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
    ) -> VersionedTable<K, V2> {
        let map = Arc::new(map);
        let (mapped, late, past) = (Arc::clone(&map), Arc::clone(&map), map);
        VersionedTable {
            latest: self.latest.map_values(move |key, value| mapped(key, value)),
            superseded: self
                .superseded
                .map_values(move |key, value: Option<V>| value.map(|value| late(key, value))),
            history: self.history.map(move |key, value| Some(past(key, value))),
            history_ms: self.history_ms,
        }
    }

    /// The same table with these serdes: what operators below need once an operator changed a type.
    #[must_use]
    pub fn with_serdes(
        &self,
        key: impl Serde<K> + 'static,
        value: impl Serde<V> + 'static,
    ) -> Self {
        let (key, value): (SharedSerde<K>, SharedSerde<V>) = (Arc::new(key), Arc::new(value));
        let optional: SharedSerde<Option<V>> = Arc::new(nullable(Arc::clone(&value)));
        Self {
            latest: KTable {
                key: Some(Arc::clone(&key)),
                value: Some(value),
                ..self.latest.clone()
            },
            superseded: typed(&self.superseded, Some(key), Some(optional)),
            ..self.clone()
        }
    }
}

/// The stream with these serdes.
fn typed<K: Data, V: Data>(
    stream: &KStream<K, V, Partitioned>,
    key: Option<SharedSerde<K>>,
    value: Option<SharedSerde<V>>,
) -> KStream<K, V, Partitioned> {
    let (plan, outlet) = (Rc::clone(&stream.plan), Arc::clone(&stream.outlet));
    KStream::new(plan, stream.node, outlet, key, value)
}

/// The rows of a versioned store.
struct Rows<K, V> {
    name: String,
    store: Rc<RefCell<VersionedStore>>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    buffer: Vec<u8>,
}

impl<K, V> Rows<K, V> {
    fn fault(&self, part: &str, error: SerdeError) -> Fault {
        let what = format_args!("a {part} of table {}", self.name);
        Fault::serde(what, error)
    }

    /// Puts the bytes of a key into the buffer; whether there are any.
    fn encode(&mut self, key: &K) -> Result<bool> {
        let bytes = serialize_nullable(&*self.key, key, &mut self.buffer).map(|key| key.is_some());
        bytes.map_err(|error| self.fault("key", error))
    }

    fn decode(&self, row: &Stamped) -> Result<V> {
        let value = self.value.deserialize(&row.value);
        value.map_err(|error| self.fault("value", error))
    }
}

impl<K, V> Look<K, V> for Rows<K, V> {
    fn get(&mut self, key: &K) -> Result<Option<(V, Timestamp)>> {
        if !self.encode(key)? {
            return Ok(None);
        }
        let row = self.store.borrow().latest(&self.buffer)?;
        row.map(|row| Ok((self.decode(&row)?, row.timestamp)))
            .transpose()
    }
}

impl<K, V> LookAsOf<K, V> for Rows<K, V> {
    fn get_as_of(&mut self, key: &K, time: Timestamp) -> Result<Option<V>> {
        if !self.encode(key)? {
            return Ok(None);
        }
        let row = self.store.borrow().as_of(&self.buffer, time)?;
        row.map(|row| self.decode(&row)).transpose()
    }
}

/// Keeps the versions of each key.
struct VersionedNode<K, V> {
    rows: Rows<K, V>,
    time: OperatorTime,
    history_ms: i64,
    /// Somebody below reads them.
    old_values: bool,
    value_buffer: Vec<u8>,
    children: Fanout<K, Change<V>>,
    superseded: Fanout<K, Option<V>>,
}

impl<K: Data, V: Data> Process<K, Option<V>> for VersionedNode<K, V> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, Option<V>>) -> Result {
        if self.rows.key.is_null(&record.key) || !self.rows.encode(&record.key)? {
            metrics::counter!("dropped-records", "reason" => "null key").increment(1);
            return Ok(());
        }
        let bytes = match &record.value {
            Some(value) => {
                self.value_buffer.clear();
                self.rows
                    .value
                    .serialize(value, &mut self.value_buffer)
                    .map_err(|error| self.rows.fault("value", error))?;
                Some(&self.value_buffer[..])
            }
            None => None,
        };
        self.time.observe(record.timestamp, context);
        let put = {
            let mut store = self.rows.store.borrow_mut();
            store.expire_before(self.time.now().saturating_sub(self.history_ms));
            store.put(&self.rows.buffer, bytes, record.timestamp)?
        };
        match put {
            Put::Expired => {
                metrics::counter!("dropped-records", "reason" => "older than the history")
                    .increment(1);
                Ok(())
            }
            Put::Superseded => self.superseded.forward(context, record),
            Put::Latest(before) => {
                let old = before
                    .filter(|_| self.old_values)
                    .map(|row| self.rows.decode(&row))
                    .transpose()?;
                let Record {
                    key,
                    value: new,
                    timestamp,
                    headers,
                } = record;
                self.children.forward(
                    context,
                    Record {
                        key,
                        value: Change { new, old },
                        timestamp,
                        headers,
                    },
                )
            }
        }
    }
}
