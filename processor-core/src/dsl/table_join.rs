//! Joins of two tables: inner, left and outer.
//!
//! The result is a table again: for each key what the joiner makes of both rows, or no row. It is stored nowhere; joins
//! that look it up work it out. A change of either side looks the other side up as it is at that moment, and emits the
//! result now and, where somebody below reads it, the one before. Its timestamp is the later one of the change and the
//! row that was found.
//!
//! | | emits nothing when |
//! |---|---|
//! | inner | the other side has no row |
//! | left | the left side has no row: neither now nor, for its own changes, before |
//! | outer | no side has a row, now or before |
//!
//! Where the result ceases to be, a deletion is forwarded; there may be one too many, since no state tells whether there
//! had been a result. Tables have no null keys, and nothing is late. Source of the semantics: Kafka Streams'
//! `KTableKTableInnerJoin`, `KTableKTableLeftJoin`, `KTableKTableRightJoin` and `KTableKTableOuterJoin`.

use std::rc::Rc;
use std::sync::Arc;

use crate::error::Result;
use crate::log::Timestamp;
use crate::processor::{Child, Context, Process};
use crate::record::{Change, Data, Record};
use crate::topology::NodeKind;

use super::KTable;
use super::old_values::OldValues;
use super::outlet::Outlet;
use super::view::{Look, View};

impl<K: Data, V: Data> KTable<K, V> {
    /// Joins the rows of both tables that have the same key.
    ///
    /// Emits with every change of one side while the other has a row, a deletion included. The result has the later
    /// timestamp of both rows. Both tables must be co-partitioned; no topic and no store is made, since joins that look
    /// the result up work it out.
    ///
    /// A null value is a deletion; tables have no null keys, and nothing is late. Source of the semantics: Kafka
    /// Streams' `KTableKTableInnerJoin`.
    ///
    /// # Errors
    /// [`build`](super::StreamsBuilder::build) refuses a name that is used twice; the start refuses tables with unequal
    /// partition counts.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("orders");
    /// let prices = builder.table("prices", "prices", Consumed::new(utf8(), int64()));
    /// let stock = builder.table("stock", "stock", Consumed::new(utf8(), int64()));
    /// let worth = prices.join("worth", &stock, |_, price, pieces| price * pieces);
    /// worth.with_serdes(utf8(), int64()).to_stream().to("worth");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), int64());
    /// # let stock = driver.input("stock", utf8(), int64());
    /// prices.pipe(&mut driver, "pen".to_owned(), 2, 7);
    /// stock.pipe(&mut driver, "pen".to_owned(), 10, 5);
    /// let worth = driver.output("worth", utf8(), nullable(int64()));
    /// assert_eq!(worth.read_key_values(&mut driver), [("pen".to_owned(), Some(20))]);
    /// ```
    pub fn join<W: Data, R: Data>(
        &self,
        name: &str,
        other: &KTable<K, W>,
        join: impl Fn(&K, V, W) -> R + Send + Sync + 'static,
    ) -> KTable<K, R> {
        let pair = move |key: &K, left: Option<V>, right: Option<W>| Some(join(key, left?, right?));
        self.join_as(name, other, Rows::Both, pair)
    }

    /// Joins each row of this table with the other's of the same key, if there is one.
    ///
    /// Like [`join`](Self::join), but a row of this table without a partner has a result as well.
    ///
    /// Emits with every change of this table, and with those of the other while this one has a row. Nulls, timestamps
    /// and errors are as for [`join`](Self::join); no topic and no store is made. Source of the semantics: Kafka
    /// Streams' `KTableKTableLeftJoin`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("orders");
    /// # let prices = builder.table("prices", "prices", Consumed::new(utf8(), int64()));
    /// # let stock = builder.table("stock", "stock", Consumed::new(utf8(), int64()));
    /// let worth = prices.left_join("worth", &stock, |_, price, pieces| price * pieces.unwrap_or(0));
    /// worth.with_serdes(utf8(), int64()).to_stream().to("worth");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), int64());
    /// # let stock = driver.input("stock", utf8(), int64());
    /// prices.pipe(&mut driver, "pen".to_owned(), 2, 0);
    /// stock.pipe(&mut driver, "pen".to_owned(), 10, 1);
    /// let worth = driver.output("worth", utf8(), nullable(int64()));
    /// assert_eq!(worth.read_key_values(&mut driver), [("pen".to_owned(), Some(0)), ("pen".to_owned(), Some(20))]);
    /// ```
    pub fn left_join<W: Data, R: Data>(
        &self,
        name: &str,
        other: &KTable<K, W>,
        join: impl Fn(&K, V, Option<W>) -> R + Send + Sync + 'static,
    ) -> KTable<K, R> {
        self.old_values.ask();
        let pair = move |key: &K, left: Option<V>, right| Some(join(key, left?, right));
        self.join_as(name, other, Rows::Left, pair)
    }

    /// Joins the rows of both tables; where one has no row for a key, the other's alone has a result.
    ///
    /// Like [`join`](Self::join) otherwise. `join` gets at least one row.
    ///
    /// Emits with every change of either side, but for a deletion where no side had a row. Nulls, timestamps and errors
    /// are as there; no topic and no store is made. Source of the semantics: Kafka Streams' `KTableKTableOuterJoin`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("orders");
    /// # let prices = builder.table("prices", "prices", Consumed::new(utf8(), int64()));
    /// # let stock = builder.table("stock", "stock", Consumed::new(utf8(), int64()));
    /// let worth = prices.outer_join("worth", &stock, |_, price, pieces| price.unwrap_or(0) * pieces.unwrap_or(0));
    /// worth.with_serdes(utf8(), int64()).to_stream().to("worth");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), int64());
    /// # let stock = driver.input("stock", utf8(), int64());
    /// prices.pipe(&mut driver, "pen".to_owned(), 2, 0);
    /// stock.pipe(&mut driver, "pen".to_owned(), 10, 1);
    /// let worth = driver.output("worth", utf8(), nullable(int64()));
    /// assert_eq!(worth.read_key_values(&mut driver), [("pen".to_owned(), Some(0)), ("pen".to_owned(), Some(20))]);
    /// ```
    pub fn outer_join<W: Data, R: Data>(
        &self,
        name: &str,
        other: &KTable<K, W>,
        join: impl Fn(&K, Option<V>, Option<W>) -> R + Send + Sync + 'static,
    ) -> KTable<K, R> {
        self.old_values.ask();
        other.old_values.ask();
        let pair = move |key: &K, left: Option<V>, right: Option<W>| {
            (left.is_some() || right.is_some()).then(|| join(key, left, right))
        };
        self.join_as(name, other, Rows::Any, pair)
    }

    fn join_as<W: Data, R: Data>(
        &self,
        name: &str,
        other: &KTable<K, W>,
        needed: Rows,
        pair: impl Fn(&K, Option<V>, Option<W>) -> Option<R> + Send + Sync + 'static,
    ) -> KTable<K, R> {
        let outlet = Outlet::<K, Change<R>>::new();
        let old_values =
            OldValues::derived(vec![self.old_values.clone(), other.old_values.clone()]);
        let views = self.view.clone().zip(other.view.clone());
        let stores = views.as_ref().map_or(Vec::new(), |(left, right)| {
            left.stores.iter().chain(&right.stores).copied().collect()
        });
        let node = {
            let mut plan = self.plan.borrow_mut();
            let kind = NodeKind::Operator("table-table join");
            let parents = vec![self.node, other.node];
            plan.copartitioned.push((name.to_owned(), parents.clone()));
            plan.add_node(name.to_owned(), kind, parents, stores.clone())
        };
        let pair = Arc::new(pair);
        let view = views.map(|(left, right)| {
            let (below, asked, step) = (Arc::clone(&outlet), old_values.clone(), Arc::clone(&pair));
            let other_side = right.clone();
            self.outlet.attach(move |instantiation| {
                let step = Arc::clone(&step);
                Ok(Box::new(Side {
                    other: other_side.open(instantiation)?,
                    needs_other: needed == Rows::Both,
                    pair: move |key: &K, left, right| step(key, left, right),
                    old_values: asked.asked(),
                    results: below.shared_child(node, instantiation)?,
                }))
            });
            let (below, asked, step) = (Arc::clone(&outlet), old_values.clone(), Arc::clone(&pair));
            let other_side = left.clone();
            other.outlet.attach(move |instantiation| {
                let step = Arc::clone(&step);
                Ok(Box::new(Side {
                    other: other_side.open(instantiation)?,
                    needs_other: needed != Rows::Any,
                    pair: move |key: &K, right, left| step(key, left, right),
                    old_values: asked.asked(),
                    results: below.shared_child(node, instantiation)?,
                }))
            });
            View::new(stores, move |instantiation| {
                Ok(JoinedRows {
                    left: left.open(instantiation)?,
                    right: right.open(instantiation)?,
                    pair: Arc::clone(&pair),
                })
            })
        });
        KTable {
            plan: Rc::clone(&self.plan),
            node,
            outlet,
            view,
            key: self.key.clone(),
            value: None,
            old_values,
            closes_after_ms: self.closes_after_ms.max(other.closes_after_ms),
        }
    }
}

/// The rows without which there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    Both,
    Left,
    Any,
}

/// One input of a join in a task.
struct Side<K, W, R, F> {
    other: Box<dyn Look<K, W>>,
    /// A change means nothing where the other side has no row.
    needs_other: bool,
    pair: F,
    /// Somebody below reads them.
    old_values: bool,
    results: Child<K, Change<R>>,
}

impl<K, V, W, R, F> Process<K, Change<V>> for Side<K, W, R, F>
where
    K: Data,
    V: Data,
    W: Data,
    F: Fn(&K, Option<V>, Option<W>) -> Option<R>,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, Change<V>>) -> Result {
        let Record {
            key,
            value: Change { new, old },
            timestamp,
            headers,
        } = record;
        let found = self.other.get(&key)?;
        if found.is_none() && (self.needs_other || (new.is_none() && old.is_none())) {
            return Ok(());
        }
        let timestamp = found.as_ref().map_or(timestamp, |(_, t)| timestamp.max(*t));
        let other = found.map(|(row, _)| row);
        let old = if self.old_values {
            (self.pair)(&key, old, other.clone())
        } else {
            None
        };
        let new = (self.pair)(&key, new, other);
        self.results.process(
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

/// The result for a key, worked out when it is asked for.
struct JoinedRows<K, V, W, F> {
    left: Box<dyn Look<K, V>>,
    right: Box<dyn Look<K, W>>,
    pair: Arc<F>,
}

impl<K, V, W, R, F> Look<K, R> for JoinedRows<K, V, W, F>
where
    F: Fn(&K, Option<V>, Option<W>) -> Option<R>,
{
    fn get(&mut self, key: &K) -> Result<Option<(R, Timestamp)>> {
        let (left, left_time) = self.left.get(key)?.unzip();
        let (right, right_time) = self.right.get(key)?.unzip();
        let result = (self.pair)(key, left, right);
        Ok(result.zip(left_time.max(right_time)))
    }
}
