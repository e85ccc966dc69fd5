//! A stream of records: the handle, and the way to operators that have pages of their own.

use std::any::TypeId;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use crate::processor::{Processor, ProcessorNode, SharedNode, StoreSet};
use crate::record::Data;
use crate::serde::{Serde, SharedSerde};
use crate::topology::{NodeId, NodeKind, Plan};

use super::Grouped;
use super::grouped::KGroupedStream;
use super::lineage::{Lineage, Partitioned, Rekeyed};
use super::outlet::Outlet;
use super::repartition::{Keyless, repartition};
use super::split::Split;

/// An unbounded stream of records.
///
/// Streams are handles: an operator adds a node below this one and leaves it usable, so one stream can feed many.
/// Records reach the operators in the order in which those were added. `L` says whether the key still fits the
/// partition: see [`Lineage`].
///
/// Null keys and values appear only where the serde of the source is [`nullable`](crate::serde::nullable); stateless
/// operators pass them to the user's function like any other value.
pub struct KStream<K, V, L = Partitioned> {
    pub(crate) plan: Rc<RefCell<Plan>>,
    pub(crate) node: NodeId,
    pub(crate) outlet: Arc<Outlet<K, V>>,
    pub(crate) key: Option<SharedSerde<K>>,
    pub(crate) value: Option<SharedSerde<V>>,
    lineage: PhantomData<fn() -> L>,
}

impl<K, V, L> Clone for KStream<K, V, L> {
    fn clone(&self) -> Self {
        Self {
            plan: Rc::clone(&self.plan),
            node: self.node,
            outlet: Arc::clone(&self.outlet),
            key: self.key.clone(),
            value: self.value.clone(),
            lineage: PhantomData,
        }
    }
}

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    pub(crate) fn new(
        plan: Rc<RefCell<Plan>>,
        node: NodeId,
        outlet: Arc<Outlet<K, V>>,
        key: Option<SharedSerde<K>>,
        value: Option<SharedSerde<V>>,
    ) -> Self {
        Self {
            plan,
            node,
            outlet,
            key,
            value,
            lineage: PhantomData,
        }
    }

    /// The same stream with these serdes: what operators below need once an operator changed a type.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("lengths");
    /// # let words = builder.stream("words", Consumed::new(utf8(), utf8()));
    /// let lengths = words.map_values(|_, word| word.len() as i64);
    /// lengths.with_serdes(utf8(), int64()).to("lengths");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let words = driver.input("words", utf8(), utf8());
    /// words.pipe(&mut driver, "page-1".to_owned(), "hello".to_owned(), 0);
    /// let lengths = driver.output("lengths", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(lengths, [("page-1".to_owned(), 5)]);
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

    /// Splits the stream: each record goes to the first branch whose predicate holds, and to that one alone. What no
    /// branch takes ends here, unless there is a [default branch](Split::default_branch).
    ///
    /// Predicates see null keys and values like any others. Each branch keeps the order of its records, their timestamps
    /// and headers. It stores nothing, and no record is late.
    ///
    /// Source of the semantics: Kafka Streams' `KStream.split`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("split");
    /// # let numbers = builder.stream("numbers", Consumed::new(utf8(), int64()));
    /// let split = numbers.split();
    /// split.branch(|_, number| *number < 10).to("small");
    /// split.branch(|_, number| number % 2 == 0).to("even");
    /// split.default_branch().to("rest");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let numbers = driver.input("numbers", utf8(), int64());
    /// for number in [4, 12, 13] {
    ///     numbers.pipe(&mut driver, "a".to_owned(), number, 0);
    /// }
    /// let mut branch = |topic: &str| {
    ///     let records = driver.output(topic, utf8(), int64()).read(&mut driver);
    ///     records.into_iter().map(|record| record.value).collect::<Vec<_>>()
    /// };
    /// assert_eq!((branch("small"), branch("even"), branch("rest")), (vec![4], vec![12], vec![13]));
    /// ```
    pub fn split(&self) -> Split<K, V, L> {
        Split::of(self)
    }

    /// Sends the stream through the topic `<application id>-<name>-repartition`, so that equal keys are in one partition.
    ///
    /// Operators with state do so by themselves where the key may have changed; this is for the moment, the name or the
    /// number of partitions to be the user's. `partitions` fixes that number; otherwise the topic takes as many as the
    /// streams it is joined with, or as the tasks that write it. The application makes the topic and owns it.
    ///
    /// Records with a null key are dropped and counted; null values pass. Timestamps and headers stay. No record is late
    /// here, but the tasks that write the topic are mixed in it, so operators below go by the time of the slowest of
    /// them: a header of the engine's own, `__time`, carries it, and is gone when the record is read.
    ///
    /// Source of the semantics: Kafka Streams' `KStream.repartition` (KIP-221); time behind it is our own.
    ///
    /// # Errors
    /// [`build`](crate::dsl::StreamsBuilder::build) refuses a name that is used twice; the start refuses a number of
    /// partitions that does not fit the streams it is joined with.
    ///
    /// ```
    /// # use processor_core::StreamsConfig;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// # let visits = builder.stream("visits", Consumed::new(utf8(), int64()));
    /// visits
    ///     .select_key(|user, _| user.chars().take(1).collect())
    ///     .repartition("by-initial", utf8(), int64(), Some(2))
    ///     .to("by-initial");
    /// # let config = StreamsConfig::new("app");
    /// # let mut driver = TopologyTestDriver::with(builder.build().unwrap(), config, 1).unwrap();
    /// # let visits = driver.input("visits", utf8(), int64());
    /// visits.pipe(&mut driver, "ann".to_owned(), 1, 0);
    /// let visits = driver.output("by-initial", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(visits, [("a".to_owned(), 1)]);
    /// assert!(driver.topics().contains(&"app-by-initial-repartition".to_owned()));
    /// ```
    pub fn repartition(
        &self,
        name: &str,
        key: impl Serde<K> + 'static,
        value: impl Serde<V> + 'static,
        partitions: Option<i32>,
    ) -> KStream<K, V, Partitioned> {
        repartition(
            self,
            name,
            Arc::new(key),
            Arc::new(value),
            partitions,
            Keyless::Dropped,
        )
    }

    /// The same stream, with your word that equal keys are in one partition although an operator may have changed them: no
    /// operator below sends it through a repartition topic.
    ///
    /// That holds where all records of a new key had one and the same old key, or where what partitions the topic looks at
    /// a part of the key that stays. Nobody checks it: where it does not hold, equal keys do not meet, and each partition
    /// has results of its own. For a join, the other side must have its keys in the same partitions, which a topic that is
    /// partitioned by the new key hardly ever has. Kafka Streams plans it as KIP-759.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # let builder = StreamsBuilder::new("sums");
    /// let readings = builder.stream("readings", Consumed::new(utf8(), int64()));
    /// // Each sensor is the only one of its room, so a room is in the partition of its sensor.
    /// let by_room = readings.select_key(|sensor, _| format!("room of {sensor}"));
    /// let by_room = by_room.with_serdes(utf8(), int64()).assume_partitioned();
    /// by_room.group_by_key().count("readings-per-room");
    /// let plan = builder.build().unwrap().plan();
    /// assert!(plan.topics.iter().all(|topic| !topic.internal));
    /// ```
    #[must_use]
    pub fn assume_partitioned(&self) -> KStream<K, V, Partitioned> {
        KStream {
            plan: Rc::clone(&self.plan),
            node: self.node,
            outlet: Arc::clone(&self.outlet),
            key: self.key.clone(),
            value: self.value.clone(),
            lineage: PhantomData,
        }
    }

    /// Groups by the key the stream has. The name of the aggregation names the repartition topic, if one is needed.
    ///
    /// By itself it emits nothing and makes nothing; nulls, late records, stores and topics are those of the
    /// aggregation. Source of the semantics: Kafka Streams' `KStream#groupByKey`.
    ///
    /// # Errors
    /// An aggregation of a group without the serdes that it needs does not [build](crate::dsl::StreamsBuilder::build).
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// # let visits = builder.stream("visits", Consumed::new(utf8(), utf8()));
    /// visits.group_by_key().count("visits-per-user").to_stream().to("counts");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let visits = driver.input("visits", utf8(), utf8());
    /// visits.pipe(&mut driver, "ann".to_owned(), "home".to_owned(), 0);
    /// visits.pipe(&mut driver, "ann".to_owned(), "shop".to_owned(), 1);
    /// let counts = driver.output("counts", utf8(), nullable(int64())).read_key_values(&mut driver);
    /// assert_eq!(counts, [("ann".to_owned(), Some(1)), ("ann".to_owned(), Some(2))]);
    /// // The key is that of the topic, so nothing has to be repartitioned.
    /// assert!(!driver.topics().iter().any(|topic| topic.ends_with("-repartition")));
    /// ```
    pub fn group_by_key(&self) -> KGroupedStream<K, V> {
        KGroupedStream::of(self, self.key.clone(), self.value.clone())
    }

    /// Groups by another key, through a repartition topic named after the aggregation.
    ///
    /// By itself it emits nothing. The topic is `<application id>-<name of the aggregation>-repartition`; a record
    /// whose new key is null is not written to it, and counted as dropped. `select` sees nulls like any others. Late
    /// records and stores are those of the aggregation. Source of the semantics: Kafka Streams' `KStream#groupBy`.
    ///
    /// # Errors
    /// A group without a serde of its values, which go through the topic, does not
    /// [build](crate::dsl::StreamsBuilder::build): see [`Grouped::value`].
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Grouped, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// # let visits = builder.stream("visits", Consumed::new(utf8(), utf8()));
    /// let by_page = visits.group_by(|_, page| page.clone(), Grouped::by(utf8()));
    /// by_page.count("visits-per-page").to_stream().to("counts");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let visits = driver.input("visits", utf8(), utf8());
    /// visits.pipe(&mut driver, "ann".to_owned(), "home".to_owned(), 0);
    /// visits.pipe(&mut driver, "bob".to_owned(), "home".to_owned(), 1);
    /// let counts = driver.output("counts", utf8(), nullable(int64())).read_key_values(&mut driver);
    /// assert_eq!(counts, [("home".to_owned(), Some(1)), ("home".to_owned(), Some(2))]);
    /// assert!(driver.topics().iter().any(|topic| topic.ends_with("-visits-per-page-repartition")));
    /// ```
    pub fn group_by<K2: Data>(
        &self,
        select: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
        grouped: Grouped<K2, V>,
    ) -> KGroupedStream<K2, V> {
        let rekeyed = self.select_key(select);
        KGroupedStream::of(
            &rekeyed,
            Some(grouped.key),
            grouped.value.or_else(|| self.value.clone()),
        )
    }

    /// Runs user code, a [`Processor`], on each record: with stores, [punctuations](crate::processor::Punctuation),
    /// [timers](crate::processor::Timers) of keys, and whatever it forwards.
    ///
    /// `make` is called once for each task, with the stores opened in the order they are given. Null keys and values and
    /// late records are the processor's to deal with. What it forwards may have other keys, so the next stateful operator
    /// repartitions; see [`process_values`](Self::process_values). Each store has the changelog
    /// `<application id>-<store>-changelog`.
    ///
    /// Source of the semantics: Kafka Streams' `KStream.process` (KIP-820).
    ///
    /// # Errors
    /// [`build`](crate::dsl::StreamsBuilder::build) refuses a name that is used twice. An error of the processor is a
    /// matter for [`on_processing_error`](crate::StreamsConfig::on_processing_error).
    ///
    /// ```
    /// # use processor_core::Record;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::error::Result;
    /// # use processor_core::processor::{KeyValue, Processor, ProcessorContext};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// /// Forwards a price that is higher than all before it, under the bidder's name.
    /// struct Highest(KeyValue<String, i64>);
    ///
    /// impl Processor<String, (String, i64)> for Highest {
    ///     type KOut = String;
    ///     type VOut = i64;
    ///     fn process(
    ///         &mut self,
    ///         record: Record<String, (String, i64)>,
    ///         context: &mut ProcessorContext<'_, '_, String, i64>,
    ///     ) -> Result {
    ///         let (bidder, price) = record.value.clone();
    ///         if self.0.get(&record.key)?.is_some_and(|highest| highest >= price) {
    ///             return Ok(());
    ///         }
    ///         self.0.put(&record.key, &price, record.timestamp)?;
    ///         context.forward(record.with_key(bidder).with_value(price))
    ///     }
    /// }
    ///
    /// # let builder = StreamsBuilder::new("auction");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), utf8())).map_values(|_, bid| {
    /// #     let (bidder, price) = bid.split_once(' ').unwrap();
    /// #     (bidder.to_owned(), price.parse().unwrap())
    /// # });
    /// let highest = builder.key_value_store("highest", utf8(), int64());
    /// bids.process("auction", highest, Highest).to_with("leaders", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), utf8());
    /// for bid in ["ann 70", "bob 50", "bob 90"] {
    ///     bids.pipe(&mut driver, "vase".to_owned(), bid.to_owned(), 0);
    /// }
    /// let leaders = driver.output("leaders", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(leaders, [("ann".to_owned(), 70), ("bob".to_owned(), 90)]);
    /// ```
    pub fn process<S, P>(
        &self,
        name: &str,
        stores: S,
        make: impl Fn(S::Opened) -> P + Send + Sync + 'static,
    ) -> KStream<P::KOut, P::VOut, Rekeyed>
    where
        S: StoreSet,
        P: Processor<K, V>,
    {
        self.processed(name, stores, make)
    }

    /// Like [`process`](Self::process), for a processor that forwards each key it is given and no other: key and
    /// partition stay, so no stateful operator below has to repartition. Nobody checks that it does.
    ///
    /// Source of the semantics: Kafka Streams' `KStream.processValues`, where the compiler sees to the key.
    ///
    /// Nulls, late records, stores and errors are as there.
    ///
    /// ```
    /// # use processor_core::Record;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::error::Result;
    /// # use processor_core::processor::{KeyValue, Processor, ProcessorContext};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// /// Replaces each value by the sum of its key so far.
    /// struct RunningSum(KeyValue<String, i64>);
    ///
    /// impl Processor<String, i64> for RunningSum {
    ///     type KOut = String;
    ///     type VOut = i64;
    ///     fn process(
    ///         &mut self,
    ///         record: Record<String, i64>,
    ///         context: &mut ProcessorContext<'_, '_, String, i64>,
    ///     ) -> Result {
    ///         let sum = self.0.get(&record.key)?.unwrap_or(0) + record.value;
    ///         self.0.put(&record.key, &sum, record.timestamp)?;
    ///         context.forward(record.with_value(sum))
    ///     }
    /// }
    ///
    /// # let builder = StreamsBuilder::new("sums");
    /// # let payments = builder.stream("payments", Consumed::new(utf8(), int64()));
    /// let sums = builder.key_value_store("sums", utf8(), int64());
    /// let sums = payments.process_values("running-sum", sums, RunningSum);
    /// sums.to_with("sums", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let payments = driver.input("payments", utf8(), int64());
    /// payments.pipe(&mut driver, "ann".to_owned(), 5, 0);
    /// payments.pipe(&mut driver, "ann".to_owned(), 7, 1);
    /// let sums = driver.output("sums", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(sums, [("ann".to_owned(), 5), ("ann".to_owned(), 12)]);
    /// ```
    pub fn process_values<S, P>(
        &self,
        name: &str,
        stores: S,
        make: impl Fn(S::Opened) -> P + Send + Sync + 'static,
    ) -> KStream<K, P::VOut, L>
    where
        S: StoreSet,
        P: Processor<K, V, KOut = K>,
    {
        let processed = self.processed(name, stores, make);
        KStream {
            key: self.key.clone(),
            ..processed
        }
    }

    fn processed<S, P, L2: Lineage>(
        &self,
        name: &str,
        stores: S,
        make: impl Fn(S::Opened) -> P + Send + Sync + 'static,
    ) -> KStream<P::KOut, P::VOut, L2>
    where
        S: StoreSet,
        P: Processor<K, V>,
    {
        let outlet = Outlet::<P::KOut, P::VOut>::new();
        let node = {
            let mut plan = self.plan.borrow_mut();
            check_timers::<K>(name, &stores.timer_keys(), &mut plan.problems);
            for (store, ttl) in stores.ttls() {
                plan.expire(store, ttl);
            }
            let kind = NodeKind::Operator("process");
            plan.add_node(name.to_owned(), kind, vec![self.node], stores.ids())
        };
        let (below, name) = (Arc::clone(&outlet), name.to_owned());
        self.outlet.attach(move |instantiation| {
            let opened = stores.open(instantiation)?;
            let attached = instantiation.attached.take();
            let children = below.instantiate(instantiation)?;
            let processor = make(opened);
            let node = ProcessorNode::create(&name, processor, attached, children, instantiation)?;
            Ok(Box::new(SharedNode(node)))
        });
        KStream::new(Rc::clone(&self.plan), node, outlet, None, None)
    }
}

/// Timers call back with keys of the type that the processor takes.
fn check_timers<K: 'static>(name: &str, keys: &[TypeId], problems: &mut Vec<String>) {
    if keys.len() > 1 {
        problems.push(format!(
            "processor '{name}' has several sets of timers; one holds those of both clocks"
        ));
    }
    if keys.iter().any(|key| *key != TypeId::of::<K>()) {
        problems.push(format!(
            "the timers of processor '{name}' have keys of another type than its records"
        ));
    }
}
