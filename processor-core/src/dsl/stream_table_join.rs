//! Joins of a stream with a table, as it is now or as it was at the record's time, and with a global table.
//!
//! A record looks up the row of its key and is joined with it, at once and with its own timestamp and headers. What the
//! table says later changes nothing. Source of the semantics: Kafka Streams' `KStreamKTableJoinProcessor`.

use std::rc::Rc;
use std::sync::Arc;

use crate::error::Result;
use crate::log::Timestamp;
use crate::processor::{Context, Fanout, Instantiation, Process};
use crate::record::{Data, Record};
use crate::serde::SharedSerde;
use crate::topology::{NodeKind, StoreId};

use super::grouped::is_null;
use super::lineage::{Lineage, Partitioned};
use super::outlet::Outlet;
use super::view::View;
use super::{GlobalTable, KStream, KTable, VersionedTable};

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    /// Joins each record with the table's value of its key at this moment; records without a match, or with a null
    /// key or value, are dropped. The result has the record's timestamp and headers. Updates of the table emit nothing,
    /// and nothing is late; see [`join_table_as_of`](Self::join_table_as_of) for the value at the record's time.
    ///
    /// Stream and table must be co-partitioned, else the application does not start; a stream whose key may have changed
    /// is sent through `<application id>-<name>-repartition` first, and then needs its serdes. No store is made. Source
    /// of the semantics: Kafka Streams' `KStream#join(KTable)`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// let prices = builder.table("prices", "prices", Consumed::new(utf8(), int64()));
    /// builder
    ///     .stream("sales", Consumed::new(utf8(), int64()))
    ///     .join_table("revenue", &prices, |_, pieces, price| pieces * price)
    ///     .to_with("revenue", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), int64());
    /// # let sales = driver.input("sales", utf8(), int64());
    /// // No price yet.
    /// sales.pipe(&mut driver, "pen".to_owned(), 10, 0);
    /// prices.pipe(&mut driver, "pen".to_owned(), 2, 5);
    /// sales.pipe(&mut driver, "pen".to_owned(), 10, 1);
    /// let revenue = driver.output("revenue", utf8(), int64());
    /// assert_eq!(revenue.read_key_values(&mut driver), [("pen".to_owned(), 20)]);
    /// ```
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
    ///
    /// Records with a null value are dropped. Topic, errors and time are as there. Source of the semantics: Kafka
    /// Streams' `KStream#leftJoin(KTable)`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// # let prices = builder.table("prices", "prices", Consumed::new(utf8(), int64()));
    /// builder
    ///     .stream("sales", Consumed::new(utf8(), int64()))
    ///     .left_join_table("revenue", &prices, |_, pieces, price| pieces * price.unwrap_or(1))
    ///     .to_with("revenue", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let sales = driver.input("sales", utf8(), int64());
    /// sales.pipe(&mut driver, "pen".to_owned(), 10, 0);
    /// let revenue = driver.output("revenue", utf8(), int64());
    /// assert_eq!(revenue.read_key_values(&mut driver), [("pen".to_owned(), 10)]);
    /// ```
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

    /// Joins each record with the table's value of its key *at the record's time*; records without a match, or with a
    /// null key or value, are dropped. The result has the record's timestamp. Updates of the table emit nothing.
    ///
    /// A version that comes after the record does not change its result, even if it is older: see
    /// [`join_table_as_of_with_grace`](Self::join_table_as_of_with_grace). Before the table's history begins there is
    /// only the latest version of a key. Stream and table must be co-partitioned; a stream whose key may have changed is
    /// sent through `<application id>-<name>-repartition` first. No store is made. Source of the semantics: KIP-914.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// let a_day = Duration::from_secs(24 * 60 * 60);
    /// let prices = builder.versioned_table("prices", "prices", a_day, Consumed::new(utf8(), int64()));
    /// builder
    ///     .stream("sales", Consumed::new(utf8(), int64()))
    ///     .join_table_as_of("revenue", &prices, |_, pieces, price| pieces * price)
    ///     .to_with("revenue", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), int64());
    /// # let sales = driver.input("sales", utf8(), int64());
    /// prices.pipe(&mut driver, "pen".to_owned(), 2, 0);
    /// prices.pipe(&mut driver, "pen".to_owned(), 3, 100);
    /// // Sold before the price went up.
    /// sales.pipe(&mut driver, "pen".to_owned(), 10, 99);
    /// let revenue = driver.output("revenue", utf8(), int64());
    /// assert_eq!(revenue.read_key_values(&mut driver), [("pen".to_owned(), 20)]);
    /// ```
    pub fn join_table_as_of<W: Data, R: Data>(
        &self,
        name: &str,
        table: &VersionedTable<K, W>,
        join: impl Fn(&K, V, W) -> R + Send + Sync + 'static,
    ) -> KStream<K, R, Partitioned> {
        self.look_up_as_of(name, table, move |key, value, found| {
            found.map(|w| join(key, value, w))
        })
    }

    /// Like [`join_table_as_of`](Self::join_table_as_of), but a record without a match, or with a null key, is joined
    /// with `None`.
    ///
    /// Records with a null value are dropped. Topic, errors and time are as there.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// # let a_day = Duration::from_secs(24 * 60 * 60);
    /// # let prices = builder.versioned_table("prices", "prices", a_day, Consumed::new(utf8(), int64()));
    /// builder
    ///     .stream("sales", Consumed::new(utf8(), int64()))
    ///     .left_join_table_as_of("revenue", &prices, |_, pieces, price| pieces * price.unwrap_or(1))
    ///     .to_with("revenue", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), int64());
    /// # let sales = driver.input("sales", utf8(), int64());
    /// prices.pipe(&mut driver, "pen".to_owned(), 2, 100);
    /// // Sold before there was a price.
    /// sales.pipe(&mut driver, "pen".to_owned(), 10, 99);
    /// let revenue = driver.output("revenue", utf8(), int64());
    /// assert_eq!(revenue.read_key_values(&mut driver), [("pen".to_owned(), 10)]);
    /// ```
    pub fn left_join_table_as_of<W: Data, R: Data>(
        &self,
        name: &str,
        table: &VersionedTable<K, W>,
        join: impl Fn(&K, V, Option<W>) -> R + Send + Sync + 'static,
    ) -> KStream<K, R, Partitioned> {
        self.look_up_as_of(name, table, move |key, value, found| {
            Some(join(key, value, found))
        })
    }

    fn look_up<W: Data, R: Data>(
        &self,
        name: &str,
        table: &KTable<K, W>,
        join: impl Fn(&K, V, Option<W>) -> Option<R> + Send + Sync + 'static,
    ) -> KStream<K, R, Partitioned> {
        let stores = table.view.iter().flat_map(|view| view.stores.clone());
        let stores = stores.collect();
        let find = table.view.clone().map(|view| {
            move |instantiation: &Instantiation<'_>| {
                let mut rows = view.open(instantiation)?;
                Ok(move |key: &K, _| Ok(rows.get(key)?.map(|(row, _)| row)))
            }
        });
        self.looked_up(name, table, stores, find, join)
    }

    fn look_up_as_of<W: Data, R: Data>(
        &self,
        name: &str,
        table: &VersionedTable<K, W>,
        join: impl Fn(&K, V, Option<W>) -> Option<R> + Send + Sync + 'static,
    ) -> KStream<K, R, Partitioned> {
        let history = table.history.clone();
        let stores = history.stores.clone();
        let find = move |instantiation: &Instantiation<'_>| {
            let mut rows = history.open(instantiation)?;
            Ok(move |key: &K, time| rows.get_as_of(key, time))
        };
        self.looked_up(name, &table.latest, stores, Some(find), join)
    }

    /// `find` makes what finds the table's row of a key, at a time where the table knows its history.
    fn looked_up<W: Data, R: Data, F>(
        &self,
        name: &str,
        table: &KTable<K, W>,
        stores: Vec<StoreId>,
        find: Option<impl Fn(&Instantiation<'_>) -> Result<F> + Send + Sync + 'static>,
        join: impl Fn(&K, V, Option<W>) -> Option<R> + Send + Sync + 'static,
    ) -> KStream<K, R, Partitioned>
    where
        F: FnMut(&K, Timestamp) -> Result<Option<W>> + 'static,
    {
        let stream = self.partitioned(name);
        let outlet = Outlet::<K, R>::new();
        let node = {
            let mut plan = self.plan.borrow_mut();
            let kind = NodeKind::Operator("stream-table join");
            let node = plan.add_node(name.to_owned(), kind, vec![stream.node], stores);
            plan.copartitioned
                .push((name.to_owned(), vec![stream.node, table.node]));
            node
        };
        if let Some(find) = find {
            let below = Arc::clone(&outlet);
            let stream_value = stream.value.clone();
            let join = Arc::new(join);
            stream.outlet.attach(move |instantiation| {
                let join = Arc::clone(&join);
                Ok(Box::new(LookUp {
                    stream_value: stream_value.clone(),
                    find: find(instantiation)?,
                    select: |key: &K, _: &V| key.clone(),
                    join: move |key: &K, _: &K, value, found| join(key, value, found),
                    children: below.instantiate(instantiation)?,
                }))
            });
        }
        KStream::new(Rc::clone(&self.plan), node, outlet, table.key.clone(), None)
    }

    /// Joins each record with a global table's value of the key that `select` takes from it; records without a
    /// match, with a null selected key or with a null value are dropped. Key, partition, timestamp and headers stay.
    ///
    /// Emits with each record; updates of the table emit nothing, and nothing is late. The stream need not be partitioned
    /// by anything; no store and no topic is made. Source of the semantics: Kafka Streams'
    /// `KStream#join(GlobalKTable)`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::utf8;
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// let cities = builder.global_table("cities", "cities", Consumed::new(utf8(), utf8()));
    /// // Orders by number, with the code of their city.
    /// builder
    ///     .stream("orders", Consumed::new(utf8(), utf8()))
    ///     .join_global("named", &cities, |_, code| code.clone(), |_, code, _, city| format!("{code} {city}"))
    ///     .to_with("named", Produced::new(utf8(), utf8()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let cities = driver.input("cities", utf8(), utf8());
    /// # let orders = driver.input("orders", utf8(), utf8());
    /// cities.pipe(&mut driver, "RM".to_owned(), "Rome".to_owned(), 0);
    /// orders.pipe(&mut driver, "1".to_owned(), "RM".to_owned(), 0);
    /// orders.pipe(&mut driver, "2".to_owned(), "OS".to_owned(), 0);
    /// let named = driver.output("named", utf8(), utf8()).read_key_values(&mut driver);
    /// assert_eq!(named, [("1".to_owned(), "RM Rome".to_owned())]);
    /// ```
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
    ///
    /// Records with a null value are dropped; no store and no topic is made. Source of the semantics: Kafka Streams'
    /// `KStream#leftJoin(GlobalKTable)`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::utf8;
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// let cities = builder.global_table("cities", "cities", Consumed::new(utf8(), utf8()));
    /// // Orders by number, with the code of their city.
    /// builder
    ///     .stream("orders", Consumed::new(utf8(), utf8()))
    ///     .left_join_global("named", &cities, |_, code| code.clone(), |_, code, _, city| {
    ///         format!("{code} {}", city.unwrap_or_else(|| "?".to_owned()))
    ///     })
    ///     .to_with("named", Produced::new(utf8(), utf8()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let cities = driver.input("cities", utf8(), utf8());
    /// # let orders = driver.input("orders", utf8(), utf8());
    /// cities.pipe(&mut driver, "RM".to_owned(), "Rome".to_owned(), 0);
    /// orders.pipe(&mut driver, "1".to_owned(), "RM".to_owned(), 0);
    /// orders.pipe(&mut driver, "2".to_owned(), "OS".to_owned(), 0);
    /// let named = driver.output("named", utf8(), utf8()).read_key_values(&mut driver);
    /// assert_eq!(named, [("1".to_owned(), "RM Rome".to_owned()), ("2".to_owned(), "OS ?".to_owned())]);
    /// ```
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
        let (key, value) = (Arc::clone(&table.key), Arc::clone(&table.value));
        let view = View::of_store(table.store, &format!("joined by {name}"), key, value);
        let (select, join) = (Arc::new(select), Arc::new(join));
        self.outlet.attach(move |instantiation| {
            let (select, join) = (Arc::clone(&select), Arc::clone(&join));
            let mut rows = view.open(instantiation)?;
            Ok(Box::new(LookUp {
                stream_value: stream_value.clone(),
                find: move |key: &GK, _| Ok(rows.get(key)?.map(|(row, _)| row)),
                select: move |key: &K, value: &V| select(key, value),
                join: move |key: &K, looked_up: &GK, value, found| {
                    join(key, looked_up, value, found)
                },
                children: below.instantiate(instantiation)?,
            }))
        });
        KStream::new(Rc::clone(&self.plan), node, outlet, self.key.clone(), None)
    }
}

/// Joins a record with what a table holds for a key taken from it.
struct LookUp<K, V, R, F, S, J> {
    /// Tells a null value; without a serde the type has none.
    stream_value: Option<SharedSerde<V>>,
    /// The row of a key, at the record's time where the table knows its history.
    find: F,
    select: S,
    join: J,
    children: Fanout<K, R>,
}

impl<K, V, TK, TV, R, F, S, J> Process<K, V> for LookUp<K, V, R, F, S, J>
where
    K: Data,
    R: Data,
    F: FnMut(&TK, Timestamp) -> Result<Option<TV>>,
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
        let selected = (self.select)(&key, &value);
        let found = (self.find)(&selected, timestamp)?;
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
