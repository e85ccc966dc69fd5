//! Tables that are worked out of another table row by row, and stored nowhere: filter and map values.
//!
//! Each change of the table above becomes one of the table below, at once and with the same timestamp and headers; a
//! deletion stays one. Joins that look such a table up work out the row they need.
//!
//! A row that a filter refuses is forwarded as a deletion, whether or not there had been a row before: the filter keeps
//! no state that would tell. Where an operator below reads old values (an outer join, a regrouping, a suppression), a
//! row that was refused before and is again says nothing. Both are as in Kafka Streams' `KTableFilter`; its
//! `KTableMapValues` is the other source.

use std::rc::Rc;
use std::sync::Arc;

use crate::error::Result;
use crate::log::Timestamp;
use crate::processor::{Context, Fanout, Process};
use crate::record::{Change, Data, Record};
use crate::serde::SharedSerde;
use crate::topology::NodeKind;

use super::KTable;
use super::old_values::OldValues;
use super::outlet::Outlet;
use super::view::{Look, View};

impl<K: Data, V: Data> KTable<K, V> {
    /// The rows for which `keep` holds; stored nowhere.
    ///
    /// Emits with every change of the table, with its timestamp: a refused row as a deletion, even where there was no
    /// row before, unless an operator below needs old values. `keep` never sees a deletion.
    ///
    /// Tables have no null keys; nothing is late. Source of the semantics: Kafka Streams' `KTableFilter`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("stock");
    /// let stock = builder.table("stock", "stock", Consumed::new(utf8(), int64()));
    /// stock.filter(|_, pieces| *pieces > 0).to_stream().to("available");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let stock = driver.input("stock", utf8(), int64());
    /// stock.pipe(&mut driver, "pen".to_owned(), 3, 0);
    /// stock.pipe(&mut driver, "pen".to_owned(), 0, 1);
    /// let available = driver.output("available", utf8(), nullable(int64()));
    /// let pen = "pen".to_owned();
    /// assert_eq!(available.read_key_values(&mut driver), [(pen.clone(), Some(3)), (pen, None)]);
    /// ```
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> KTable<K, V> {
        self.filtered(Refusals::Possible, keep)
    }

    pub(super) fn filtered(
        &self,
        refusals: Refusals,
        keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
    ) -> KTable<K, V> {
        let map = move |key: &K, value: V| keep(key, &value).then_some(value);
        self.derived("KTABLE-FILTER", refusals, self.value.clone(), map)
    }

    /// The rows for which `drop` does not hold; otherwise like [`filter`](Self::filter).
    ///
    /// Source of the semantics: Kafka Streams' `KTable#filterNot`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("stock");
    /// let stock = builder.table("stock", "stock", Consumed::new(utf8(), int64()));
    /// stock.filter_not(|_, pieces| *pieces == 0).to_stream().to("available");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let stock = driver.input("stock", utf8(), int64());
    /// stock.pipe(&mut driver, "pen".to_owned(), 0, 0);
    /// let available = driver.output("available", utf8(), nullable(int64()));
    /// assert_eq!(available.read_key_values(&mut driver), [("pen".to_owned(), None)]);
    /// ```
    #[must_use]
    pub fn filter_not(
        &self,
        drop: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
    ) -> KTable<K, V> {
        self.filter(move |key, value| !drop(key, value))
    }

    /// The same table, which tells old values though nothing below may need them: so a filter says nothing of a row that
    /// it refused before and refuses again.
    ///
    /// Kafka Streams has that where the table above the filter has a named store.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("stock");
    /// # let stock = builder.table("stock", "stock", Consumed::new(utf8(), int64()));
    /// let available = stock.filter(|_, pieces| *pieces > 0).with_old_values();
    /// available.to_stream().to("available");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let stock = driver.input("stock", utf8(), int64());
    /// stock.pipe(&mut driver, "pen".to_owned(), 0, 0);
    /// let available = driver.output("available", utf8(), nullable(int64()));
    /// assert_eq!(available.read_key_values(&mut driver), []);
    /// ```
    #[must_use]
    pub fn with_old_values(&self) -> KTable<K, V> {
        self.old_values.ask();
        self.clone()
    }

    /// Replaces the value of each row; stored nowhere.
    ///
    /// Emits with every change of the table, with its timestamp; a deletion stays one, and `map` does not see it. `map`
    /// must give the same for the same row, since it is called again where a join or an aggregation below asks for the
    /// row.
    ///
    /// The new type has no serde yet: see [`with_serdes`](Self::with_serdes).
    ///
    /// Tables have no null keys; nothing is late. Source of the semantics: Kafka Streams' `KTableMapValues`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("prices");
    /// let cents = builder.table("cents", "cents", Consumed::new(utf8(), int64()));
    /// let texts = cents.map_values(|_, cents| format!("{}.{:02}", cents / 100, cents % 100));
    /// texts.with_serdes(utf8(), utf8()).to_stream().to("prices");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let cents = driver.input("cents", utf8(), int64());
    /// cents.pipe(&mut driver, "pen".to_owned(), 199, 0);
    /// let prices = driver.output("prices", utf8(), utf8());
    /// assert_eq!(prices.read_key_values(&mut driver), [("pen".to_owned(), "1.99".to_owned())]);
    /// ```
    #[must_use]
    pub fn map_values<V2: Data>(
        &self,
        map: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        let map = move |key: &K, value| Some(map(key, value));
        self.derived("KTABLE-MAPVALUES", Refusals::Impossible, None, map)
    }

    fn derived<V2: Data>(
        &self,
        operator: &'static str,
        refusals: Refusals,
        value: Option<SharedSerde<V2>>,
        map: impl Fn(&K, V) -> Option<V2> + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        let outlet = Outlet::<K, Change<V2>>::new();
        let old_values = OldValues::derived(vec![self.old_values.clone()]);
        let node = {
            let mut plan = self.plan.borrow_mut();
            let name = plan.generated_name(operator);
            plan.add_node(name, NodeKind::Operator(operator), vec![self.node], vec![])
        };
        let map = Arc::new(map);
        let (below, step, asked) = (Arc::clone(&outlet), Arc::clone(&map), old_values.clone());
        self.outlet.attach(move |instantiation| {
            Ok(Box::new(Derive {
                map: Arc::clone(&step),
                old_values: asked.asked(),
                refusals,
                children: below.instantiate(instantiation)?,
            }))
        });
        let view = self.view.clone().map(|above| {
            View::new(above.stores.clone(), move |instantiation| {
                Ok(DerivedRows {
                    above: above.open(instantiation)?,
                    map: Arc::clone(&map),
                })
            })
        });
        KTable {
            plan: Rc::clone(&self.plan),
            node,
            outlet,
            view,
            key: self.key.clone(),
            value,
            old_values,
            closes_after_ms: self.closes_after_ms,
        }
    }
}

/// Whether the operator may turn a row into none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusals {
    Possible,
    /// It may, and says so each time, as a version of its own.
    Told,
    Impossible,
}

/// The operator in a task.
struct Derive<F, K, V2> {
    map: Arc<F>,
    /// Somebody below reads them.
    old_values: bool,
    refusals: Refusals,
    children: Fanout<K, Change<V2>>,
}

impl<K, V, V2, F> Process<K, Change<V>> for Derive<F, K, V2>
where
    K: Data,
    V: Data,
    V2: Data,
    F: Fn(&K, V) -> Option<V2>,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, Change<V>>) -> Result {
        let Record {
            key,
            value: Change { new, old },
            timestamp,
            headers,
        } = record;
        let old = old.filter(|_| self.old_values);
        let new = new.and_then(|value| (self.map)(&key, value));
        let old = old.and_then(|value| (self.map)(&key, value));
        if self.refusals == Refusals::Possible && self.old_values && new.is_none() && old.is_none()
        {
            return Ok(());
        }
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

/// Rows worked out when they are asked for.
struct DerivedRows<K, V, F> {
    above: Box<dyn Look<K, V>>,
    map: Arc<F>,
}

impl<K, V, V2, F: Fn(&K, V) -> Option<V2>> Look<K, V2> for DerivedRows<K, V, F> {
    fn get(&mut self, key: &K) -> Result<Option<(V2, Timestamp)>> {
        let row = self.above.get(key)?;
        Ok(row.and_then(|(value, timestamp)| Some(((self.map)(key, value)?, timestamp))))
    }
}
