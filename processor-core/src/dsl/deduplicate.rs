//! Letting each id pass once.
//!
//! | a record whose id | |
//! |---|---|
//! | was not seen, or not within the time to live | passes, and is remembered |
//! | was seen within the time to live | goes to [`duplicates`](Deduplicated::duplicates) |
//!
//! An id is seen at the operator's stream time, the largest timestamp of the records that reached it, the one at hand
//! included; it is forgotten when that time has moved on by the time to live. So a record that comes late is remembered
//! as long as any other, and order in time does not matter: who comes first passes. A repeat does not prolong anything.
//! Behind a repartition topic time is the slowest upstream task's; an id of a record that is ahead of it is seen at the
//! record's timestamp.
//!
//! Ids are bytes, kept in the store `name` with nothing beside them: memory and disk are bounded by the ids of one time to
//! live. They are compared within a partition, so records with equal ids must be in one; repartition by the id first where
//! they are not.
//!
//! Kafka Streams has no such operator.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use state::KeyValueStore;

use crate::error::Result;
use crate::log::Timestamp;
use crate::processor::{Context, Expiring, ExpiringStore, Fanout, Process, Ttl};
use crate::record::{Data, Record};
use crate::serde::bytes;
use crate::topology::{NodeKind, StoreKind};

use super::outlet::Outlet;
use super::{KStream, Lineage};

/// A stream without its repeats: a [`KStream`], and the repeats beside it.
pub struct Deduplicated<K, V, L> {
    firsts: KStream<K, V, L>,
    duplicates: KStream<K, Duplicate<V>, L>,
}

/// A record whose id was seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate<V> {
    /// The record's value.
    pub value: V,
    /// The operator's stream time when the id was seen first, in epoch milliseconds.
    pub first_seen: Timestamp,
}

impl<K: Data, V: Data, L: Lineage> Deduplicated<K, V, L> {
    /// The records whose id was seen before. Without a consumer they are counted in `dropped-records`.
    ///
    /// They keep their key, timestamp and headers. No store and no topic is made.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::utf8;
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("payments");
    /// # let payments = builder.stream("payments", Consumed::new(utf8(), utf8()));
    /// let once = payments.deduplicate("seen-payments", |_, id| id.clone(), Duration::from_millis(10));
    /// once.duplicates()
    ///     .map_values(|_, duplicate| duplicate.value)
    ///     .to_with("repeated-payments", Produced::new(utf8(), utf8()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let payments = driver.input("payments", utf8(), utf8());
    /// for (id, time) in [("p1", 0), ("p2", 3), ("p1", 9)] {
    ///     payments.pipe(&mut driver, "ann".to_owned(), id.to_owned(), time);
    /// }
    /// let repeated = driver.output("repeated-payments", utf8(), utf8()).read_key_values(&mut driver);
    /// assert_eq!(repeated, [("ann".to_owned(), "p1".to_owned())]);
    /// ```
    #[must_use]
    pub fn duplicates(&self) -> KStream<K, Duplicate<V>, L> {
        self.duplicates.clone()
    }
}

impl<K, V, L> Deref for Deduplicated<K, V, L> {
    type Target = KStream<K, V, L>;

    fn deref(&self) -> &KStream<K, V, L> {
        &self.firsts
    }
}

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    /// Lets the first record of each id pass, and sends the repeats that come within `ttl` of event time to
    /// [`duplicates`](Deduplicated::duplicates).
    ///
    /// Which record is the first is a matter of order alone, not of timestamps; null keys and values are given to `id` like
    /// any others, and no record is late. Ids are kept in the store `name`, with the changelog
    /// `<application id>-<name>-changelog`, so they survive restarts. Of a record that is behind stream time by more than
    /// what its repeats may be behind it, nothing is lost: it is remembered from when it came.
    ///
    /// Equal ids must be in one partition: repartition by the id first where they are not.
    ///
    /// Kafka Streams has no such operator.
    ///
    /// # Errors
    /// [`build`](crate::dsl::StreamsBuilder::build) refuses a `ttl` of less than a millisecond.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("payments");
    /// # let payments = builder.stream("payments", Consumed::new(utf8(), utf8()));
    /// let once = payments.deduplicate("seen-payments", |_, id| id.clone(), Duration::from_millis(10));
    /// once.to("new-payments");
    /// once.duplicates()
    ///     .map_values(|_, duplicate| duplicate.first_seen)
    ///     .to_with("repeated-payments", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let payments = driver.input("payments", utf8(), utf8());
    /// for (id, time) in [("p1", 0), ("p1", 9), ("p1", 10)] {
    ///     payments.pipe(&mut driver, "ann".to_owned(), id.to_owned(), time);
    /// }
    /// let new = driver.output("new-payments", utf8(), utf8()).read(&mut driver);
    /// let times: Vec<i64> = new.into_iter().map(|record| record.timestamp).collect();
    /// assert_eq!(times, [0, 10]);
    /// let repeated = driver.output("repeated-payments", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(repeated, [("ann".to_owned(), 0)]);
    /// ```
    pub fn deduplicate<I: AsRef<[u8]>>(
        &self,
        name: &str,
        id: impl Fn(&K, &V) -> I + Send + Sync + 'static,
        ttl: Duration,
    ) -> Deduplicated<K, V, L> {
        let (firsts, duplicates) = (Outlet::<K, V>::new(), Outlet::<K, Duplicate<V>>::new());
        let (node, store) = {
            let mut plan = self.plan.borrow_mut();
            if ttl < Duration::from_millis(1) {
                plan.problems.push(format!(
                    "'{name}' forgets at once; give it a time to live of a millisecond or more"
                ));
            }
            let store = plan.add_store(name, StoreKind::Expiring);
            plan.describe_store(store, &bytes(), &bytes());
            let kind = NodeKind::Operator("deduplicate");
            let node = plan.add_node(name.to_owned(), kind, vec![self.node], vec![store]);
            (node, store)
        };
        let below = (Arc::clone(&firsts), Arc::clone(&duplicates));
        let (name, id, ttl) = (name.to_owned(), Arc::new(id), Ttl::event_time(ttl));
        self.outlet.attach(move |instantiation| {
            let store = instantiation.key_value(store)?;
            let expiring = ExpiringStore::new(&name, Rc::clone(&store), ttl);
            Ok(Box::new(Deduplicate {
                id: Arc::clone(&id),
                store,
                expiring: Expiring::start(expiring, instantiation.times),
                firsts: below.0.instantiate(instantiation)?,
                duplicates: below.1.instantiate(instantiation)?,
            }))
        });
        let plan = || Rc::clone(&self.plan);
        let (key, value) = (self.key.clone(), self.value.clone());
        Deduplicated {
            firsts: KStream::new(plan(), node, firsts, key.clone(), value),
            duplicates: KStream::new(plan(), node, duplicates, key, None),
        }
    }
}

/// A deduplication in a task.
struct Deduplicate<K, V, F> {
    id: Arc<F>,
    store: Rc<RefCell<KeyValueStore>>,
    expiring: Expiring,
    firsts: Fanout<K, V>,
    duplicates: Fanout<K, Duplicate<V>>,
}

impl<K, V, I, F> Process<K, V> for Deduplicate<K, V, F>
where
    K: Data,
    V: Data,
    I: AsRef<[u8]>,
    F: Fn(&K, &V) -> I,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        self.expiring.observe(record.timestamp, context);
        let id = (self.id)(&record.key, &record.value);
        let seen = self.store.borrow().get(id.as_ref())?;
        if seen.is_none() {
            let now = self.expiring.now().max(record.timestamp);
            self.store.borrow_mut().put(id.as_ref(), &[], now)?;
        }
        self.expiring.look_after()?;
        match seen {
            None => self.firsts.forward(context, record),
            Some(_) if self.duplicates.is_empty() => {
                metrics::counter!("dropped-records", "reason" => "duplicate").increment(1);
                Ok(())
            }
            Some(first) => {
                let first_seen = first.timestamp;
                let duplicate = record.map_value(|_, value| Duplicate { value, first_seen });
                self.duplicates.forward(context, duplicate)
            }
        }
    }
}
