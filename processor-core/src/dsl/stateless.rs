//! Operators that look at one record at a time and keep nothing.
//!
//! For a record that comes in, none, one or several leave, at once, with its timestamp and its headers. Null keys and
//! values are passed to the user's function like any others. There is no late record here, no store and no topic.
//!
//! Source of the semantics: `filter`, `map`, `flatMap`, `selectKey`, `peek` and `foreach` of Kafka Streams' `KStream`.

use std::rc::Rc;
use std::sync::Arc;

use crate::error::Result;
use crate::processor::{Context, Fanout, Process};
use crate::record::{Data, Record};
use crate::serde::SharedSerde;
use crate::topology::NodeKind;

use super::outlet::Outlet;
use super::{KStream, Lineage, Rekeyed};

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    /// Keeps the records for which `keep` holds.
    ///
    /// What is left out moves the time of no operator below.
    ///
    /// Null keys and values are shown to `keep` like any others. Timestamp and headers stay, nothing is late, and no
    /// store or topic is made. Source of the semantics: Kafka Streams' `KStream#filter`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// bids.filter(|_, price| *price >= 100).to("high-bids");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 0);
    /// bids.pipe(&mut driver, "vase".to_owned(), 120, 1);
    /// let high = driver.output("high-bids", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(high, [("vase".to_owned(), 120)]);
    /// ```
    pub fn filter(&self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        let (key, value) = (self.key.clone(), self.value.clone());
        self.each("KSTREAM-FILTER", key, value, move |record, next| {
            if keep(&record.key, &record.value) {
                next.forward(record)?;
            }
            Ok(())
        })
    }

    /// Keeps the records for which `drop` does not hold: the rest of what [`filter`](Self::filter) keeps.
    ///
    /// Nulls, stores and topics are as there. Source of the semantics: Kafka Streams' `KStream#filterNot`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// bids.filter_not(|_, price| *price <= 0).to("valid-bids");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// bids.pipe(&mut driver, "vase".to_owned(), -1, 0);
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 1);
    /// let valid = driver.output("valid-bids", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(valid, [("vase".to_owned(), 70)]);
    /// ```
    pub fn filter_not(&self, drop: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.filter(move |key, value| !drop(key, value))
    }

    /// Replaces each value; the key and its partition stay. A serde of the new type has to be given below, with
    /// [`with_serdes`](Self::with_serdes) or where it is needed.
    ///
    /// Nulls are given to `map` like any others; otherwise as [`filter`](Self::filter). Source of the semantics: Kafka
    /// Streams' `KStream#mapValues`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("words");
    /// # let words = builder.stream("words", Consumed::new(utf8(), utf8()));
    /// let lengths = words.map_values(|_, word| word.len() as i64);
    /// lengths.to_with("lengths", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let words = driver.input("words", utf8(), utf8());
    /// words.pipe(&mut driver, "page-1".to_owned(), "hello".to_owned(), 0);
    /// let lengths = driver.output("lengths", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(lengths, [("page-1".to_owned(), 5)]);
    /// ```
    pub fn map_values<V2: Data>(
        &self,
        map: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
    ) -> KStream<K, V2, L> {
        let key = self.key.clone();
        self.each("KSTREAM-MAPVALUES", key, None, move |record, next| {
            next.forward(record.map_value(&map))
        })
    }

    /// Replaces each value by any number of values, which leave in the order given; the key and its partition stay.
    ///
    /// Each has the timestamp and headers of the record. Nulls are given to `map` like any others; otherwise as
    /// [`filter`](Self::filter). Source of the semantics: Kafka Streams' `KStream#flatMapValues`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::utf8;
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("lines");
    /// # let lines = builder.stream("lines", Consumed::new(utf8(), utf8()));
    /// lines
    ///     .flat_map_values(|_, line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    ///     .to_with("words", Produced::new(utf8(), utf8()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let lines = driver.input("lines", utf8(), utf8());
    /// lines.pipe(&mut driver, "page-1".to_owned(), "to be".to_owned(), 0);
    /// let words = driver.output("words", utf8(), utf8()).read(&mut driver);
    /// let words: Vec<String> = words.into_iter().map(|record| record.value).collect();
    /// assert_eq!(words, ["to", "be"]);
    /// ```
    pub fn flat_map_values<V2: Data, I: IntoIterator<Item = V2>>(
        &self,
        map: impl Fn(&K, V) -> I + Send + Sync + 'static,
    ) -> KStream<K, V2, L> {
        let key = self.key.clone();
        self.each("KSTREAM-FLATMAPVALUES", key, None, move |record, next| {
            let (record, values) = record.map_value(&map).take_value();
            for value in values {
                next.forward(record.clone().with_value(value))?;
            }
            Ok(())
        })
    }

    /// Replaces key and value. The stream has to be repartitioned before its next stateful operator, which then does
    /// so by itself; where the key stays, [`map_values`](Self::map_values) spares that.
    ///
    /// Nulls are given to `map` like any others; otherwise as [`filter`](Self::filter). Source of the semantics: Kafka
    /// Streams' `KStream#map`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// # let visits = builder.stream("visits", Consumed::new(utf8(), utf8()));
    /// let by_page = visits.map(|user, page| (page, user.len() as i64));
    /// by_page.to_with("by-page", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let visits = driver.input("visits", utf8(), utf8());
    /// visits.pipe(&mut driver, "ann".to_owned(), "home".to_owned(), 0);
    /// let by_page = driver.output("by-page", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(by_page, [("home".to_owned(), 3)]);
    /// ```
    pub fn map<K2: Data, V2: Data>(
        &self,
        map: impl Fn(K, V) -> (K2, V2) + Send + Sync + 'static,
    ) -> KStream<K2, V2, Rekeyed> {
        self.each("KSTREAM-MAP", None, None, move |record, next| {
            let (rest, (key, value)) = record.take_both();
            let (key, value) = map(key, value);
            next.forward(rest.with_key(key).with_value(value))
        })
    }

    /// Replaces each record by any number of records with other keys, which leave in the order given. As for
    /// [`map`](Self::map), the next stateful operator repartitions.
    ///
    /// Each has the timestamp and headers of the record. Nulls are given to `map` like any others; otherwise as
    /// [`filter`](Self::filter). Source of the semantics: Kafka Streams' `KStream#flatMap`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("transfers");
    /// # let transfers = builder.stream("transfers", Consumed::new(utf8(), int64()));
    /// // Both sides of `from>to`.
    /// let sides = transfers.flat_map(|pair, amount| {
    ///     let sides = pair.split_once('>').map(|(from, to)| {
    ///         [(from.to_owned(), -amount), (to.to_owned(), amount)]
    ///     });
    ///     sides.into_iter().flatten()
    /// });
    /// sides.to_with("bookings", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let transfers = driver.input("transfers", utf8(), int64());
    /// transfers.pipe(&mut driver, "ann>bob".to_owned(), 5, 0);
    /// transfers.pipe(&mut driver, "nobody".to_owned(), 7, 1);
    /// let bookings = driver.output("bookings", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(bookings, [("ann".to_owned(), -5), ("bob".to_owned(), 5)]);
    /// ```
    pub fn flat_map<K2: Data, V2: Data, I: IntoIterator<Item = (K2, V2)>>(
        &self,
        map: impl Fn(K, V) -> I + Send + Sync + 'static,
    ) -> KStream<K2, V2, Rekeyed> {
        self.each("KSTREAM-FLATMAP", None, None, move |record, next| {
            let (rest, (key, value)) = record.take_both();
            for (key, value) in map(key, value) {
                next.forward(rest.clone().with_key(key).with_value(value))?;
            }
            Ok(())
        })
    }

    /// Replaces each key; the value stays. As for [`map`](Self::map), the next stateful operator repartitions.
    ///
    /// Nulls are shown to `select` like any others; otherwise as [`filter`](Self::filter). Source of the semantics:
    /// Kafka Streams' `KStream#selectKey`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::utf8;
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// # let visits = builder.stream("visits", Consumed::new(utf8(), utf8()));
    /// let by_page = visits.select_key(|_, page| page.clone());
    /// by_page.to_with("by-page", Produced::new(utf8(), utf8()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let visits = driver.input("visits", utf8(), utf8());
    /// visits.pipe(&mut driver, "ann".to_owned(), "home".to_owned(), 0);
    /// let by_page = driver.output("by-page", utf8(), utf8()).read_key_values(&mut driver);
    /// assert_eq!(by_page, [("home".to_owned(), "home".to_owned())]);
    /// ```
    pub fn select_key<K2: Data>(
        &self,
        select: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
    ) -> KStream<K2, V, Rekeyed> {
        let value = self.value.clone();
        self.each("KSTREAM-KEY-SELECT", None, value, move |record, next| {
            let key = select(&record.key, &record.value);
            next.forward(record.with_key(key))
        })
    }

    /// Shows each record to `look` on its way.
    ///
    /// After a failure records are processed again, so `look` may see one twice, and others that are undone later:
    /// what it does to the outside is not part of the transaction.
    ///
    /// Nulls are shown like any others; otherwise as [`filter`](Self::filter). Source of the semantics: Kafka Streams'
    /// `KStream#peek`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::sync::atomic::{AtomicI64, Ordering};
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// # let highest = Arc::new(AtomicI64::new(0));
    /// let seen = Arc::clone(&highest);
    /// bids.peek(move |_, price| { seen.fetch_max(*price, Ordering::Relaxed); }).to("all-bids");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 0);
    /// assert_eq!(highest.load(Ordering::Relaxed), 70);
    /// ```
    pub fn peek(&self, look: impl Fn(&K, &V) + Send + Sync + 'static) -> Self {
        let (key, value) = (self.key.clone(), self.value.clone());
        self.each("KSTREAM-PEEK", key, value, move |record, next| {
            look(&record.key, &record.value);
            next.forward(record)
        })
    }

    /// Ends the stream with `act`, which is called with each record. As for [`peek`](Self::peek), it may be called
    /// twice with one.
    ///
    /// Nulls are shown like any others; no store or topic is made. Source of the semantics: Kafka Streams'
    /// `KStream#foreach`.
    ///
    /// ```
    /// # use std::sync::{Arc, Mutex};
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// # let prices = Arc::new(Mutex::new(Vec::new()));
    /// let seen = Arc::clone(&prices);
    /// bids.foreach(move |_, price| seen.lock().unwrap().push(*price));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 0);
    /// assert_eq!(*prices.lock().unwrap(), [70]);
    /// ```
    pub fn foreach(&self, act: impl Fn(&K, &V) + Send + Sync + 'static) {
        self.end("KSTREAM-FOREACH", move |record| {
            act(&record.key, &record.value);
            Ok(())
        });
    }

    /// Adds a stateless operator.
    pub(crate) fn each<K2: Data, V2: Data, L2: Lineage>(
        &self,
        operator: &'static str,
        key: Option<SharedSerde<K2>>,
        value: Option<SharedSerde<V2>>,
        step: impl Fn(Record<K, V>, &mut Next<'_, '_, K2, V2>) -> Result + Send + Sync + 'static,
    ) -> KStream<K2, V2, L2> {
        let outlet = Outlet::<K2, V2>::new();
        let node = self.add_operator(operator);
        let (below, step) = (Arc::clone(&outlet), Arc::new(step));
        self.outlet.attach(move |instantiation| {
            let children = below.instantiate(instantiation)?;
            Ok(Box::new(Each {
                step: Arc::clone(&step),
                children,
            }))
        });
        KStream::new(Rc::clone(&self.plan), node, outlet, key, value)
    }

    /// Adds a stateless operator that nothing comes out of.
    pub(crate) fn end(
        &self,
        operator: &'static str,
        step: impl Fn(&Record<K, V>) -> Result + Send + Sync + 'static,
    ) {
        self.add_operator(operator);
        let step = Arc::new(step);
        self.outlet.attach(move |_| {
            Ok(Box::new(End {
                step: Arc::clone(&step),
            }))
        });
    }

    fn add_operator(&self, operator: &'static str) -> crate::topology::NodeId {
        let mut plan = self.plan.borrow_mut();
        let name = plan.generated_name(operator);
        plan.add_node(name, NodeKind::Operator(operator), vec![self.node], vec![])
    }
}

/// A stateless operator in a task.
struct Each<F, K2, V2> {
    step: Arc<F>,
    children: Fanout<K2, V2>,
}

/// Where a stateless operator sends its results.
pub(crate) struct Next<'a, 'c, K, V> {
    context: &'a mut Context<'c>,
    children: &'a mut Fanout<K, V>,
}

impl<K: Data, V: Data> Next<'_, '_, K, V> {
    pub(crate) fn forward(&mut self, record: Record<K, V>) -> Result {
        self.children.forward(self.context, record)
    }
}

impl<K, V, K2, V2, F> Process<K, V> for Each<F, K2, V2>
where
    F: Fn(Record<K, V>, &mut Next<'_, '_, K2, V2>) -> Result,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        let children = &mut self.children;
        (self.step)(record, &mut Next { context, children })
    }
}

/// A stateless operator at the end of a stream.
struct End<F> {
    step: Arc<F>,
}

impl<K, V, F: Fn(&Record<K, V>) -> Result> Process<K, V> for End<F> {
    fn process(&mut self, _: &mut Context<'_>, record: Record<K, V>) -> Result {
        (self.step)(&record)
    }
}
