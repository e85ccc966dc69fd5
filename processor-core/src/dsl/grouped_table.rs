//! A table grouped by another key, and the aggregations over its rows.
//!
//! A row counts in the group that `select` gives it. When the row changes, its old value is subtracted from the group it
//! was in, then the new one is added to the group it is in now; each step emits the group's aggregate, so between the
//! two steps a row that changes its group is in none. A row that stays in its group is subtracted and added in one step.
//! A selected null key or value means that the row is in no group.
//!
//! Both steps go through `<application id>-<name>-repartition`, in Kafka Streams' format for changes. A result has the
//! largest timestamp that went into it, those of rows that are gone included. A group once made stays, also without rows;
//! nothing is late. Source of the semantics: Kafka Streams' `KTableRepartitionMap` and `KTableAggregate`.

use std::rc::Rc;
use std::sync::Arc;

use crate::error::{Fault, Result};
use crate::processor::{Context, Fanout, Process};
use crate::record::{Change, Data, Record};
use crate::serde::{Serde, SharedSerde, int64};
use crate::topology::{NodeKind, StoreKind};

use super::changed::Changed;
use super::encoding::Encoding;
use super::grouped::{PlainAggregate, is_null};
use super::outlet::Outlet;
use super::repartition::{Keyless, repartition};
use super::{Grouped, KStream, KTable, Rekeyed};

/// A table grouped by another key, ready to be aggregated.
pub struct KGroupedTable<K, V> {
    changes: KStream<K, Change<V>, Rekeyed>,
    key: SharedSerde<K>,
    value: Option<SharedSerde<V>>,
}

impl<K: Data, V: Data> KTable<K, V> {
    /// Groups the rows by another key: `select` gives the group and the value that counts in it. It must give the same
    /// for the same row, since it is asked again for the row that goes.
    ///
    /// The aggregation goes through a repartition topic of its name, so `grouped` needs both serdes.
    ///
    /// By itself it emits nothing, and nothing is late. `select` never sees a deletion. A row whose new key or value is
    /// null is in no group. Source of the semantics: Kafka Streams' `KTable#groupBy` and `KTableRepartitionMap`.
    ///
    /// # Errors
    /// An aggregation of a group without a serde of its values does not [build](super::StreamsBuilder::build).
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Grouped, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("users");
    /// let cities = builder.table("users", "users", Consumed::new(utf8(), utf8()));
    /// cities
    ///     .group_by(|user, city| (city.clone(), user.clone()), Grouped::by(utf8()).value(utf8()))
    ///     .count("users-per-city")
    ///     .to_stream()
    ///     .to("cities");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let users = driver.input("users", utf8(), utf8());
    /// users.pipe(&mut driver, "ann".to_owned(), "Rome".to_owned(), 0);
    /// users.pipe(&mut driver, "ann".to_owned(), "Oslo".to_owned(), 1);
    /// let out = driver.output("cities", utf8(), nullable(int64())).read_key_values(&mut driver);
    /// let city = |name: &str, users| (name.to_owned(), Some(users));
    /// assert_eq!(out, [city("Rome", 1), city("Rome", 0), city("Oslo", 1)]);
    /// ```
    pub fn group_by<K2: Data, V2: Data>(
        &self,
        select: impl Fn(&K, &V) -> (K2, V2) + Send + Sync + 'static,
        grouped: Grouped<K2, V2>,
    ) -> KGroupedTable<K2, V2> {
        self.old_values.ask();
        let outlet = Outlet::<K2, Change<V2>>::new();
        let node = {
            let mut plan = self.plan.borrow_mut();
            let name = plan.generated_name("KTABLE-SELECT");
            let kind = NodeKind::Operator("group by");
            plan.add_node(name, kind, vec![self.node], vec![])
        };
        let (below, select) = (Arc::clone(&outlet), Arc::new(select));
        let Grouped { key, value } = grouped;
        let (key_serde, value_serde) = (Arc::clone(&key), value.clone());
        self.outlet.attach(move |instantiation| {
            Ok(Box::new(Regroup {
                select: Arc::clone(&select),
                key: Arc::clone(&key_serde),
                value: value_serde.clone(),
                old_bytes: Vec::new(),
                new_bytes: Vec::new(),
                children: below.instantiate(instantiation)?,
            }))
        });
        KGroupedTable {
            changes: KStream::new(Rc::clone(&self.plan), node, outlet, None, None),
            key,
            value,
        }
    }
}

impl<K: Data, V: Data> KGroupedTable<K, V> {
    /// Counts the rows of each group, in the key-value store `name`.
    ///
    /// Emits with each change of a group, with the largest timestamp that went into it. Goes through
    /// `<application id>-<name>-repartition`; the changelog is `<application id>-<name>-changelog`.
    ///
    /// A row whose new key or value is null counts in no group. A group once made stays, with 0 when it has no rows;
    /// nothing is late. Source of the semantics: Kafka Streams' `KTableAggregate`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Grouped, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("users");
    /// builder
    ///     .table("users", "users", Consumed::new(utf8(), utf8()))
    ///     .group_by(|user, city| (city.clone(), user.clone()), Grouped::by(utf8()).value(utf8()))
    ///     .count("users-per-city")
    ///     .to_stream()
    ///     .to("counts");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let users = driver.input("users", utf8(), nullable(utf8()));
    /// for (user, city) in [("ann", Some("Rome")), ("bob", Some("Rome")), ("ann", None)] {
    ///     users.pipe(&mut driver, user.to_owned(), city.map(str::to_owned), 0);
    /// }
    /// let counts = driver.output("counts", utf8(), nullable(int64())).read_key_values(&mut driver);
    /// assert_eq!(counts, [1, 2, 1].map(|count| ("Rome".to_owned(), Some(count))));
    /// ```
    pub fn count(&self, name: &str) -> KTable<K, i64> {
        self.aggregate(
            name,
            int64(),
            || 0,
            |_, _, count| count + 1,
            |_, _, count| count - 1,
        )
    }

    /// Combines the values of each group, in the key-value store `name`; the first value is taken as it is. `subtract`
    /// takes a value, its second argument, out again.
    ///
    /// Emits with each change of a group. A group without rows keeps what is left after the last is subtracted. Nulls,
    /// topic, changelog and the source of the semantics are those of [`count`](Self::count); nothing is late.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Grouped, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("accounts");
    /// let accounts = builder.table("accounts", "accounts", Consumed::new(utf8(), int64()));
    /// let country = |account: &String, balance: &i64| (account[..2].to_owned(), *balance);
    /// accounts
    ///     .group_by(country, Grouped::by(utf8()).value(int64()))
    ///     .reduce("balances", |a, b| a + b, |a, b| a - b)
    ///     .to_stream()
    ///     .to("balances");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let accounts = driver.input("accounts", utf8(), int64());
    /// for (account, balance) in [("it1", 10), ("it2", 5), ("it1", 7)] {
    ///     accounts.pipe(&mut driver, account.to_owned(), balance, 0);
    /// }
    /// let balances = driver.output("balances", utf8(), nullable(int64())).read(&mut driver);
    /// let balances: Vec<_> = balances.into_iter().filter_map(|record| record.value).collect();
    /// assert_eq!(balances, [10, 15, 12]);
    /// ```
    pub fn reduce(
        &self,
        name: &str,
        add: impl Fn(V, V) -> V + Send + Sync + 'static,
        subtract: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> KTable<K, V> {
        let Some(value) = self.value.clone() else {
            return self.missing_value(name);
        };
        let add = move |_: &K, value: V, before: Option<V>| match before {
            Some(before) => add(before, value),
            None => value,
        };
        self.aggregate_optional(name, value, add, move |_, value, before| {
            subtract(before, value)
        })
    }

    /// Folds the values of each group into an aggregate that starts with `initial`, in the key-value store `name`.
    /// `subtract` takes a value out again.
    ///
    /// Emits with each change of a group. A group without rows keeps what is left after the last is subtracted. Nulls,
    /// topic, changelog and the source of the semantics are those of [`count`](Self::count); nothing is late.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Grouped, StreamsBuilder};
    /// # use processor_core::serde::{int64, json, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("accounts");
    /// # let accounts = builder.table("accounts", "accounts", Consumed::new(utf8(), int64()));
    /// // Accounts and their balance, by country.
    /// accounts
    ///     .group_by(|account, balance| (account[..2].to_owned(), *balance), Grouped::by(utf8()).value(int64()))
    ///     .aggregate(
    ///         "countries",
    ///         json::<(u32, i64)>(),
    ///         || (0, 0),
    ///         |_, balance, (accounts, sum)| (accounts + 1, sum + balance),
    ///         |_, balance, (accounts, sum)| (accounts - 1, sum - balance),
    ///     )
    ///     .to_stream()
    ///     .to("countries");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let accounts = driver.input("accounts", utf8(), nullable(int64()));
    /// for (account, balance) in [("it1", Some(10)), ("it2", Some(5)), ("it1", None)] {
    ///     accounts.pipe(&mut driver, account.to_owned(), balance, 0);
    /// }
    /// let out = driver.output("countries", utf8(), nullable(json::<(u32, i64)>())).read(&mut driver);
    /// let out: Vec<_> = out.into_iter().filter_map(|record| record.value).collect();
    /// assert_eq!(out, [(1, 10), (2, 15), (1, 5)]);
    /// ```
    pub fn aggregate<A: Data>(
        &self,
        name: &str,
        serde: impl Serde<A> + 'static,
        initial: impl Fn() -> A + Send + Sync + 'static,
        add: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
        subtract: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KTable<K, A> {
        let add = move |key: &K, value: V, before: Option<A>| {
            add(key, value, before.unwrap_or_else(&initial))
        };
        self.aggregate_optional(name, Arc::new(serde), add, subtract)
    }

    fn aggregate_optional<A: Data>(
        &self,
        name: &str,
        serde: SharedSerde<A>,
        add: impl Fn(&K, V, Option<A>) -> A + Send + Sync + 'static,
        subtract: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KTable<K, A> {
        let Some(value) = self.value.clone() else {
            return self.missing_value(name);
        };
        let changed: SharedSerde<Change<V>> = Arc::new(Changed(value));
        let key = Arc::clone(&self.key);
        let stream = repartition(&self.changes, name, key, changed, None, Keyless::Dropped);
        let outlet = Outlet::<K, Change<A>>::new();
        let (node, store) = {
            let mut plan = stream.plan.borrow_mut();
            let store = plan.add_store(name, StoreKind::KeyValue);
            let kind = NodeKind::Operator("table aggregate");
            let node = plan.add_node(name.to_owned(), kind, vec![stream.node], vec![store]);
            plan.describe_store(store, &*self.key, &*serde);
            (node, store)
        };
        let (below, add, subtract) = (Arc::clone(&outlet), Arc::new(add), Arc::new(subtract));
        let (key_serde, aggregate_serde) = (Arc::clone(&self.key), Arc::clone(&serde));
        let operator = name.to_owned();
        stream.outlet.attach(move |instantiation| {
            let (key, serde) = (Arc::clone(&key_serde), Arc::clone(&aggregate_serde));
            Ok(Box::new(TableAggregate {
                aggregates: PlainAggregate::new(
                    instantiation.key_value(store)?,
                    Encoding::new(&operator, key, serde),
                    below.instantiate(instantiation)?,
                ),
                add: Arc::clone(&add),
                subtract: Arc::clone(&subtract),
            }))
        });
        let (plan, key) = (Rc::clone(&stream.plan), Arc::clone(&self.key));
        KTable::stored(plan, node, outlet, (store, name), key, serde)
    }

    fn missing_value<A: Data>(&self, name: &str) -> KTable<K, A> {
        self.changes.plan.borrow_mut().problems.push(format!(
            "'{name}' has no serde for the values that go through its repartition topic; use \
             `group_by(…, Grouped::by(key serde).value(value serde))`"
        ));
        KTable::detached(&self.changes)
    }
}

/// Turns the change of a row into the changes of the groups it was and is in.
struct Regroup<K2, V2, F> {
    select: Arc<F>,
    key: SharedSerde<K2>,
    value: Option<SharedSerde<V2>>,
    old_bytes: Vec<u8>,
    new_bytes: Vec<u8>,
    children: Fanout<K2, Change<V2>>,
}

impl<K, V, K2, V2, F> Process<K, Change<V>> for Regroup<K2, V2, F>
where
    K: Data,
    V: Data,
    K2: Data,
    V2: Data,
    F: Fn(&K, &V) -> (K2, V2),
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, Change<V>>) -> Result {
        let Record {
            key,
            value: Change { new, old },
            timestamp,
            headers,
        } = record;
        let old = self.selected(&key, old.as_ref());
        let new = self.selected(&key, new.as_ref());
        let change = |key, new, old| Record {
            key,
            value: Change { new, old },
            timestamp,
            headers: headers.clone(),
        };
        match (old, new) {
            (Some((old_key, old)), Some((new_key, new))) => {
                if self.are_same(&old_key, &new_key)? {
                    let both = change(new_key, Some(new), Some(old));
                    return self.children.forward(context, both);
                }
                let gone = change(old_key, None, Some(old));
                self.children.forward(context, gone)?;
                let come = change(new_key, Some(new), None);
                self.children.forward(context, come)
            }
            (Some((key, old)), None) => {
                let gone = change(key, None, Some(old));
                self.children.forward(context, gone)
            }
            (None, Some((key, new))) => {
                let come = change(key, Some(new), None);
                self.children.forward(context, come)
            }
            (None, None) => Ok(()),
        }
    }
}

impl<K2, V2, F> Regroup<K2, V2, F> {
    /// The group of a row, and what counts there.
    fn selected<K, V>(&self, key: &K, row: Option<&V>) -> Option<(K2, V2)>
    where
        F: Fn(&K, &V) -> (K2, V2),
    {
        let (key, value) = (self.select)(key, row?);
        let counts = !self.key.is_null(&key) && !is_null(self.value.as_ref(), &value);
        counts.then_some((key, value))
    }

    fn are_same(&mut self, old: &K2, new: &K2) -> Result<bool> {
        let fault = |error| Fault::serde("the key of a group", error);
        self.old_bytes.clear();
        self.new_bytes.clear();
        self.key
            .serialize(old, &mut self.old_bytes)
            .map_err(fault)?;
        self.key
            .serialize(new, &mut self.new_bytes)
            .map_err(fault)?;
        Ok(self.old_bytes == self.new_bytes)
    }
}

/// The aggregation in a task.
struct TableAggregate<K, A, F, S> {
    aggregates: PlainAggregate<K, A>,
    add: Arc<F>,
    subtract: Arc<S>,
}

impl<K, V, A, F, S> Process<K, Change<V>> for TableAggregate<K, A, F, S>
where
    K: Data,
    V: Data,
    A: Data,
    F: Fn(&K, V, Option<A>) -> A,
    S: Fn(&K, V, A) -> A,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, Change<V>>) -> Result {
        let (record, Change { new, old }) = record.take_value();
        let (add, subtract) = (&self.add, &self.subtract);
        self.aggregates.update(context, record, |key, aggregate| {
            let left = match (old, aggregate) {
                (Some(gone), Some(aggregate)) => Some(subtract(key, gone, aggregate)),
                (_, aggregate) => aggregate,
            };
            match new {
                Some(come) => Some(add(key, come, left)),
                None => left,
            }
        })
    }
}
