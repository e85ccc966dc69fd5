//! Joins of two tables by a foreign key: inner and left.
//!
//! Each row of the left table points to a row of the right one by a foreign key taken from it; many may point to the
//! same. The two tables need not be co-partitioned, and may have different numbers of partitions.
//!
//! ```text
//!  left table ──▶ registration topic, by foreign key ──▶ subscription store ◀── right table
//!      ▲                                                       │
//!      └────── response topic, back to where it came from ◀────┘
//! ```
//!
//! A change of a left row *registers* with its foreign key. Where the right row lives, the subscription is kept and
//! answered with the right row; a change of the right row answers all its subscriptions, found by the prefix of the
//! foreign key. An answer carries a hash of the left value that it is for, and is dropped when the left row has moved on:
//! a newer answer is on its way. So the result is eventually the join of both tables; on the way there it may skip states
//! that a left row was in for a short time.
//!
//! | left row | inner | left |
//! |---|---|---|
//! | new, or the same foreign key | a result if there is a right row | a result |
//! | another foreign key | a result, or a deletion if there is no right row | a result |
//! | no foreign key any more | a deletion | a result |
//! | no foreign key, before and now | nothing | a result |
//! | deleted | a deletion, if it had a foreign key | a deletion |
//!
//! A deletion may be one too many: nobody knows whether the row that goes had been joined. Foreign keys are compared by
//! their bytes, and values by the hash of theirs, so serdes must be deterministic.
//!
//! Source of the semantics: KIP-213 and the classes of `org.apache.kafka.streams.kstream.internals.foreignkeyjoin`.

use std::rc::Rc;
use std::sync::Arc;

use crate::error::Result;
use crate::processor::Instantiation;
use crate::record::Data;
use crate::serde::{Serde, SharedSerde, nullable};
use crate::topology::{NodeKind, StoreKind, Topic};

use super::lineage::Partitioned;
use super::outlet::Outlet;
use super::repartition::{Hop, Keyless};
use super::table::TableSource;
use super::view::View;
use super::{KStream, KTable};

mod left;
mod messages;
mod right;

use left::{Resolve, Subscribe, ValueHash};
use messages::{Registration, RegistrationSerde, Response, ResponseSerde};
use right::{Changed, Registered, Subscriptions};

impl<K: Data, V: Data> KTable<K, V> {
    /// Joins each row with the row of `right` that its foreign key points to. `foreign_key` takes it from the row; a row
    /// without one, or whose key has no row in `right`, has no result.
    ///
    /// Emits with each change of either table, a deletion included, once both internal topics are passed. There may be a
    /// deletion too many where the foreign key of a row changes or goes, and none of what a row was for a short time
    /// only. A result has the later timestamp of both rows, or the right row's when
    /// that one changed. Nothing is late. Tables have no null keys; a foreign key that is null in `right`'s serde counts
    /// as none and is counted in `dropped-records`, as is an answer that came too late for its left row.
    ///
    /// The result is a table in the key-value store `name`, with `serde`. The subscriptions are in the store
    /// `<name>-subscription-store`, beside `right`. The internal topics are
    /// `<application id>-<name>-subscription-registration-topic`, with as many partitions as `right`, and
    /// `<application id>-<name>-subscription-response-topic`, with as many as this table. Both tables need their serdes.
    ///
    /// Source of the semantics: KIP-213.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// // Orders by number, as "customer/goods"; customers by name, as their city.
    /// let orders = builder.table("orders", "orders", Consumed::new(utf8(), utf8()));
    /// let customers = builder.table("customers", "customers", Consumed::new(utf8(), utf8()));
    /// let customer = |_: &String, order: &String| order.split_once('/').map(|(name, _)| name.to_owned());
    /// orders
    ///     .join_foreign_key("deliveries", &customers, utf8(), customer, |_, order, city| format!("{order} to {city}"))
    ///     .to_stream()
    ///     .to("deliveries");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let orders = driver.input("orders", utf8(), utf8());
    /// # let customers = driver.input("customers", utf8(), utf8());
    /// orders.pipe(&mut driver, "1".to_owned(), "ann/pen".to_owned(), 0);
    /// customers.pipe(&mut driver, "ann".to_owned(), "Rome".to_owned(), 1);
    /// customers.pipe(&mut driver, "ann".to_owned(), "Oslo".to_owned(), 2);
    /// let out = driver.output("deliveries", utf8(), nullable(utf8())).read_key_values(&mut driver);
    /// let delivery = |to: &str| ("1".to_owned(), Some(format!("ann/pen to {to}")));
    /// assert_eq!(out, [delivery("Rome"), delivery("Oslo")]);
    /// ```
    pub fn join_foreign_key<FK: Data, W: Data, R: Data>(
        &self,
        name: &str,
        right: &KTable<FK, W>,
        serde: impl Serde<R> + 'static,
        foreign_key: impl Fn(&K, &V) -> Option<FK> + Send + Sync + 'static,
        join: impl Fn(&K, V, W) -> R + Send + Sync + 'static,
    ) -> KTable<K, R> {
        let pair = move |key: &K, left, right: Option<W>| Some(join(key, left, right?));
        self.join_by(name, right, Arc::new(serde), Kind::Inner, foreign_key, pair)
    }

    /// Like [`join_foreign_key`](Self::join_foreign_key), but a row without a foreign key, or whose foreign key has no
    /// row in `right`, is joined with `None`.
    ///
    /// Nulls, stores and topics are as there. Source of the semantics: KIP-213.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// # let orders = builder.table("orders", "orders", Consumed::new(utf8(), utf8()));
    /// # let customers = builder.table("customers", "customers", Consumed::new(utf8(), utf8()));
    /// let customer = |_: &String, order: &String| order.split_once('/').map(|(name, _)| name.to_owned());
    /// orders
    ///     .left_join_foreign_key("deliveries", &customers, utf8(), customer, |_, order, city| {
    ///         format!("{order} to {}", city.unwrap_or_else(|| "pick up".to_owned()))
    ///     })
    ///     .to_stream()
    ///     .to("deliveries");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let orders = driver.input("orders", utf8(), utf8());
    /// orders.pipe(&mut driver, "1".to_owned(), "ann/pen".to_owned(), 0);
    /// let out = driver.output("deliveries", utf8(), nullable(utf8())).read_key_values(&mut driver);
    /// assert_eq!(out, [("1".to_owned(), Some("ann/pen to pick up".to_owned()))]);
    /// ```
    pub fn left_join_foreign_key<FK: Data, W: Data, R: Data>(
        &self,
        name: &str,
        right: &KTable<FK, W>,
        serde: impl Serde<R> + 'static,
        foreign_key: impl Fn(&K, &V) -> Option<FK> + Send + Sync + 'static,
        join: impl Fn(&K, V, Option<W>) -> R + Send + Sync + 'static,
    ) -> KTable<K, R> {
        let pair = move |key: &K, left, right| Some(join(key, left, right));
        self.join_by(name, right, Arc::new(serde), Kind::Left, foreign_key, pair)
    }

    fn join_by<FK: Data, W: Data, R: Data>(
        &self,
        name: &str,
        right: &KTable<FK, W>,
        serde: SharedSerde<R>,
        kind: Kind,
        foreign_key: impl Fn(&K, &V) -> Option<FK> + Send + Sync + 'static,
        pair: impl Fn(&K, V, Option<W>) -> Option<R> + Send + Sync + 'static,
    ) -> KTable<K, R> {
        let (Some(left), Some(right)) = (Side::of(self, name), Side::of(right, name)) else {
            return KTable::detached_at(&self.plan, self.node);
        };
        let registrations = registrations(name, &left, &right, kind, foreign_key);
        let responses = responses(name, &left, &right, &registrations);
        let results = results(name, &left, &responses, pair);
        let table = TableSource {
            store: name,
            key: left.key,
            value: serde,
            read_back: None,
        };
        KTable {
            closes_after_ms: self.closes_after_ms,
            ..table.attach(&results, |row| row)
        }
    }
}

/// Which left rows have a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Inner,
    Left,
}

/// One of the tables, with all that the join needs of it.
struct Side<K, V> {
    table: KTable<K, V>,
    view: View<K, V>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
}

impl<K: Data, V: Data> Side<K, V> {
    fn of(table: &KTable<K, V>, name: &str) -> Option<Self> {
        // What has no view stands in after another problem.
        let view = table.view.clone()?;
        table.old_values.ask();
        let (Some(key), Some(value)) = (table.key.clone(), table.value.clone()) else {
            table.plan.borrow_mut().problems.push(format!(
                "foreign-key join '{name}' has a table without serdes, since an operator changed a type; use \
                 `with_serdes(key serde, value serde)` before it"
            ));
            return None;
        };
        Some(Self {
            table: table.clone(),
            view,
            key,
            value,
        })
    }
}

/// What changes of the left table ask of the right one, where that reads it.
fn registrations<K: Data, V: Data, FK: Data, W: Data>(
    name: &str,
    left: &Side<K, V>,
    right: &Side<FK, W>,
    kind: Kind,
    foreign_key: impl Fn(&K, &V) -> Option<FK> + Send + Sync + 'static,
) -> KStream<Option<FK>, Registration<K>, Partitioned> {
    let outlet = Outlet::<Option<FK>, Registration<K>>::new();
    let plan = &left.table.plan;
    let node = {
        let (name, above) = (format!("{name}-subscription-send"), left.table.node);
        let operator = NodeKind::Operator("foreign-key subscription");
        plan.borrow_mut()
            .add_node(name, operator, vec![above], vec![])
    };
    let (below, operator) = (Arc::clone(&outlet), name.to_owned());
    let (foreign_key, foreign) = (Arc::new(foreign_key), Arc::clone(&right.key));
    let value = Arc::clone(&left.value);
    left.table.outlet.attach(move |instantiation| {
        Ok(Box::new(Subscribe {
            kind,
            foreign_key: Arc::clone(&foreign_key),
            foreign: Arc::clone(&foreign),
            hash: ValueHash::new(&operator, Arc::clone(&value)),
            children: below.instantiate(instantiation)?,
        }))
    });
    let hop = Hop {
        topic: Topic::Registration(name.to_owned()),
        key: Arc::new(nullable(Arc::clone(&right.key))),
        value: Arc::new(RegistrationSerde(Arc::clone(&left.key))),
        keyless: Keyless::Kept,
        route: None,
    };
    let sink_name = format!("{name}-subscription-registration-sink");
    hop.through(plan, sink_name, node, &outlet)
}

/// What the right table answers, where the left one reads it.
fn responses<K: Data, V: Data, FK: Data, W: Data>(
    name: &str,
    left: &Side<K, V>,
    right: &Side<FK, W>,
    registrations: &KStream<Option<FK>, Registration<K>, Partitioned>,
) -> KStream<K, Response<W>, Partitioned> {
    let outlet = Outlet::<K, Response<W>>::new();
    let plan = &left.table.plan;
    let (node, store) = {
        let mut plan = plan.borrow_mut();
        let store = plan.add_store(&format!("{name}-subscription-store"), StoreKind::KeyValue);
        let stores = [vec![store], right.view.stores.clone()].concat();
        let parents = vec![registrations.node, right.table.node];
        plan.copartitioned.push((name.to_owned(), parents.clone()));
        let operator = NodeKind::Operator("foreign-key join");
        let node = plan.add_node(
            format!("{name}-subscription-join"),
            operator,
            parents,
            stores,
        );
        (node, store)
    };
    let subscriptions = {
        let (operator, foreign, primary) = (
            name.to_owned(),
            Arc::clone(&right.key),
            Arc::clone(&left.key),
        );
        move |instantiation: &Instantiation<'_>| -> Result<_> {
            let (foreign, primary) = (Arc::clone(&foreign), Arc::clone(&primary));
            let store = instantiation.key_value(store)?;
            Ok(Subscriptions::new(&operator, store, foreign, primary))
        }
    };
    let (below, rows, open) = (
        Arc::clone(&outlet),
        right.view.clone(),
        subscriptions.clone(),
    );
    registrations.outlet.attach(move |instantiation| {
        Ok(Box::new(Registered {
            subscriptions: open(instantiation)?,
            rows: rows.open(instantiation)?,
            responses: below.shared_child(node, instantiation)?,
        }))
    });
    let below = Arc::clone(&outlet);
    right.table.outlet.attach(move |instantiation| {
        Ok(Box::new(Changed {
            subscriptions: subscriptions(instantiation)?,
            responses: below.shared_child(node, instantiation)?,
        }))
    });
    let hop = Hop {
        topic: Topic::Response(name.to_owned()),
        key: Arc::clone(&left.key),
        value: Arc::new(ResponseSerde(Arc::clone(&right.value))),
        keyless: Keyless::Dropped,
        route: Some(|response: &Response<W>| response.partition),
    };
    let sink_name = format!("{name}-subscription-response-sink");
    hop.through(plan, sink_name, node, &outlet)
}

/// The results that the answers give, and deletions.
fn results<K: Data, V: Data, W: Data, R: Data>(
    name: &str,
    left: &Side<K, V>,
    responses: &KStream<K, Response<W>, Partitioned>,
    pair: impl Fn(&K, V, Option<W>) -> Option<R> + Send + Sync + 'static,
) -> KStream<K, Option<R>, Partitioned> {
    let outlet = Outlet::<K, Option<R>>::new();
    let plan = &left.table.plan;
    let node = {
        let mut plan = plan.borrow_mut();
        let sides = vec![responses.node, left.table.node];
        plan.copartitioned.push((name.to_owned(), sides));
        let operator = NodeKind::Operator("foreign-key response");
        plan.add_node(
            format!("{name}-subscription-response-resolver"),
            operator,
            vec![responses.node],
            left.view.stores.clone(),
        )
    };
    let (below, pair, operator) = (Arc::clone(&outlet), Arc::new(pair), name.to_owned());
    let (rows, value) = (left.view.clone(), Arc::clone(&left.value));
    responses.outlet.attach(move |instantiation| {
        Ok(Box::new(Resolve {
            rows: rows.open(instantiation)?,
            hash: ValueHash::new(&operator, Arc::clone(&value)),
            pair: Arc::clone(&pair),
            children: below.instantiate(instantiation)?,
        }))
    });
    KStream::new(Rc::clone(plan), node, outlet, None, None)
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &[u8]) {
    messages::check_any(bytes);
    right::check_any(bytes);
}
