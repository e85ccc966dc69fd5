//! The start of every topology.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::millis;
use crate::error::Fault;
use crate::processor::{EventBufferHandle, StoreHandle, TimersHandle};
use crate::record::Data;
use crate::serde::{Serde, deserialize_nullable};
use crate::task::TopicQueue;
use crate::topology::{
    GlobalTableSpec, MakeSource, NodeId, NodeKind, Plan, Source, StoreKind, Topic, Topology,
    TopologyError,
};

use super::merge::merge;
use super::outlet::Outlet;
use super::read_back::read_back;
use super::table::TableSource;
use super::{Consumed, GlobalTable, KStream, KTable, Partitioned, VersionedTable};

/// Collects the parts of a topology; [`build`](Self::build) checks them.
///
/// ```
/// use processor_core::dsl::{Consumed, StreamsBuilder};
/// use processor_core::serde::{int64, utf8};
///
/// let builder = StreamsBuilder::new("evens");
/// builder
///     .stream("numbers", Consumed::new(utf8(), int64()))
///     .filter(|_, number| number % 2 == 0)
///     .to("evens");
/// let topology = builder.build().unwrap();
/// assert_eq!(topology.output_topics(), ["evens"]);
/// ```
#[derive(Clone)]
pub struct StreamsBuilder {
    pub(crate) plan: Rc<RefCell<Plan>>,
}

impl StreamsBuilder {
    /// An empty topology called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        let plan = Plan {
            name: name.into(),
            ..Plan::default()
        };
        Self {
            plan: Rc::new(RefCell::new(plan)),
        }
    }

    /// The same builder, with topics and stores saved where results stay the same. Comes before the first operator.
    ///
    /// - Operators below one stream whose key may have changed share **one repartition topic**, that of the first of
    ///   them, where each would make its own. Their serdes must have the same [format](Serde::format), or be the same.
    /// - An inner **join of a stream with itself** keeps its records in one store, `<name>-this`.
    /// - A [`table`](Self::table) has **no changelog**: it is rebuilt from the topic that it reads, up to the committed offset
    ///   of its input. That topic must be compacted and nothing else. One whose rows do not follow from the topic alone keeps
    ///   its changelog: with a timestamp extractor, [`future_bound`](Consumed::future_bound) or
    ///   [`reset`](Consumed::reset) to the latest, with a serde that [may wait](Serde::may_wait), and
    ///   [`versioned_table`](Self::versioned_table)s, whose history compaction would take. So does
    ///   [`to_table_with_deletes`](KStream::to_table_with_deletes), for whoever does not want this for one table.
    ///
    /// Topics and stores change with it, so it stands in the [plan](crate::plan) and its hash, and a running application
    /// that switches it on has to drain the repartition topics that go; its tables are rebuilt. Switched off again, tables
    /// would begin empty, so a start refuses that until their reset is accepted.
    ///
    /// NOTE: Compaction keeps the latest record of a key, also where the table has only come to an earlier one. A table that
    /// is rebuilt from nothing then lacks that row until its input gets there, and what is joined or subtracted meanwhile
    /// lacks it as well. Let the topic's `min.compaction.lag.ms` be longer than the application may lag behind. In Kafka
    /// Streams it is the same.
    ///
    /// Source of the semantics: Kafka Streams' `topology.optimization`, which also moves repartition topics above operators on
    /// values.
    ///
    /// # Errors
    /// [`build`](Self::build) refuses a builder that was asked after its first operator; the start refuses tables whose topic
    /// is not [compacted, or whose rows a handler may pass over](crate::StreamsError::TableNotInTopic).
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// let builder = StreamsBuilder::new("words").optimize();
    /// let words = builder.stream("words", Consumed::new(utf8(), utf8()));
    /// let by_word = words.select_key(|_, word| word.clone()).with_serdes(utf8(), utf8());
    /// by_word.group_by_key().count("counts");
    /// by_word.to_table("latest");
    /// let plan = builder.build().unwrap().plan();
    /// let internal: Vec<_> = plan.topics.iter().filter(|topic| topic.internal).map(|topic| &topic.name).collect();
    /// assert_eq!(internal, ["<application>-counts-repartition"]);
    /// ```
    #[must_use]
    pub fn optimize(self) -> Self {
        let mut plan = self.plan.borrow_mut();
        if !plan.nodes.is_empty() || !plan.stores.is_empty() {
            let problem =
                "it is optimised after its first operator; call `optimize` right after `new`";
            plan.problems.push(problem.to_owned());
        }
        plan.optimized = true;
        drop(plan);
        self
    }

    /// A stream of the records of `topic`.
    ///
    /// The record's key decides its partition: the stream is [`Partitioned`] by it. Null keys and values come in where the
    /// serdes are [`nullable`](crate::serde::nullable), else the record cannot be decoded, which
    /// [`on_bad_record`](crate::StreamsConfig::on_bad_record) decides about. Timestamps and headers are those of the log,
    /// unless `consumed` says otherwise. It makes no store and no topic.
    ///
    /// # Errors
    /// [`build`](Self::build) refuses a topic that is read twice; the start refuses one that does not exist.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("copies");
    /// let numbers = builder.stream("numbers", Consumed::new(utf8(), int64()));
    /// numbers.to("copies");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let numbers = driver.input("numbers", utf8(), int64());
    /// numbers.pipe(&mut driver, "a".to_owned(), 7, 5);
    /// let copies = driver.output("copies", utf8(), int64()).read(&mut driver);
    /// assert_eq!((copies[0].value, copies[0].timestamp), (7, 5));
    /// ```
    pub fn stream<K: Data, V: Data>(
        &self,
        topic: &str,
        consumed: Consumed<K, V>,
    ) -> KStream<K, V, Partitioned> {
        self.source(Topic::External(topic.to_owned()), consumed)
    }

    /// A stream of the records of several topics, in the order of their timestamps as far as they have been read.
    ///
    /// The topics need the same number of partitions; task n reads partition n of each. At equal timestamps the topic
    /// named first comes first. Null keys and values, serdes, timestamps and headers are as in [`stream`](Self::stream).
    /// It makes no store and no topic.
    ///
    /// Source of the semantics: `StreamsBuilder.stream(Collection)` of Kafka Streams, where the order between topics is
    /// the same.
    ///
    /// # Errors
    /// [`build`](Self::build) refuses a list without topics, and a topic that is read twice; the start refuses topics
    /// with unequal partition counts.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("clicks");
    /// let clicks = builder.stream_of(["web", "app"], Consumed::new(utf8(), int64()));
    /// clicks.to("clicks");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let (web, app) = (driver.input("web", utf8(), int64()), driver.input("app", utf8(), int64()));
    /// web.pipe(&mut driver, "ann".to_owned(), 1, 0);
    /// app.pipe(&mut driver, "bob".to_owned(), 2, 1);
    /// let clicks = driver.output("clicks", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(clicks, [("ann".to_owned(), 1), ("bob".to_owned(), 2)]);
    /// ```
    pub fn stream_of<K: Data, V: Data, T: AsRef<str>>(
        &self,
        topics: impl IntoIterator<Item = T>,
        consumed: Consumed<K, V>,
    ) -> KStream<K, V, Partitioned> {
        let sources: Vec<_> = topics
            .into_iter()
            .map(|topic| self.stream(topic.as_ref(), consumed.clone()))
            .map(|stream| (stream.node, stream.outlet))
            .collect();
        if sources.is_empty() {
            let problem = "a stream of several topics has none; name at least one".to_owned();
            self.plan.borrow_mut().problems.push(problem);
        }
        let (node, outlet) = merge(&self.plan, &sources);
        let (key, value) = (Some(consumed.key), Some(consumed.value));
        KStream::new(Rc::clone(&self.plan), node, outlet, key, value)
    }

    /// The latest value of each key of `topic`, kept in the key-value store `store`, in the order in which records come.
    ///
    /// Emits with every record, also one whose timestamp is older than the row's: tables know no late records. A null
    /// value deletes its key; a record with a null key, where the serde has one, is dropped and counted. The store's
    /// changelog is `<application id>-<store>-changelog`, and there is none where the topology is
    /// [optimised](Self::optimize). Source of the semantics: Kafka Streams' `KTableSource`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("prices");
    /// let prices = builder.table("prices", "latest-prices", Consumed::new(utf8(), int64()));
    /// # prices.to_stream().to("changes");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), nullable(int64()));
    /// prices.pipe(&mut driver, "pen".to_owned(), Some(2), 0);
    /// prices.pipe(&mut driver, "ink".to_owned(), Some(9), 1);
    /// prices.pipe(&mut driver, "ink".to_owned(), None, 2);
    /// assert_eq!(driver.store_get("latest-prices", b"pen"), Some((2_i64.to_be_bytes().to_vec(), 0)));
    /// assert_eq!(driver.store_get("latest-prices", b"ink"), None);
    /// ```
    pub fn table<K: Data, V: Data>(
        &self,
        topic: &str,
        store: &str,
        consumed: Consumed<K, V>,
    ) -> KTable<K, V> {
        let (key, value) = (Arc::clone(&consumed.key), Arc::clone(&consumed.value));
        let consumed = consumed.nullable();
        let optimized = self.plan.borrow().optimized;
        let read_back = optimized.then(|| read_back(topic, &consumed)).flatten();
        let stream = self.source(Topic::External(topic.to_owned()), consumed);
        let table = TableSource {
            store,
            key,
            value,
            read_back,
        };
        table.attach(&stream, |value| value)
    }

    /// The values of each key of `topic` over time, kept for `history` of event time in the versioned store `store`: a
    /// record is the key's value from its timestamp on, until that of the key's next record.
    ///
    /// A null value says that the key has no value from then on. A record with a null key is dropped and counted, and so is
    /// one older than the largest timestamp of the table less `history`. For what such a table can do, see
    /// [`VersionedTable`].
    ///
    /// The store's changelog is `<application id>-<store>-changelog`; compaction leaves its records alone for `history`
    /// and a day. Source of the semantics: KIP-889 and KIP-914.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("prices");
    /// let history = Duration::from_secs(60);
    /// let prices = builder.versioned_table("prices", "price-history", history, Consumed::new(utf8(), int64()));
    /// // A version that comes late is one of the past: it does not take the place of the latest one.
    /// prices.latest().to_stream().to("latest-prices");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), nullable(int64()));
    /// for (price, time) in [(2, 10), (3, 20), (1, 15)] {
    ///     prices.pipe(&mut driver, "pen".to_owned(), Some(price), time);
    /// }
    /// let latest = driver.output("latest-prices", utf8(), nullable(int64())).read_key_values(&mut driver);
    /// assert_eq!(latest, [("pen".to_owned(), Some(2)), ("pen".to_owned(), Some(3))]);
    /// ```
    pub fn versioned_table<K: Data, V: Data>(
        &self,
        topic: &str,
        store: &str,
        history: Duration,
        consumed: Consumed<K, V>,
    ) -> VersionedTable<K, V> {
        let (key, value) = (Arc::clone(&consumed.key), Arc::clone(&consumed.value));
        let stream = self.source(Topic::External(topic.to_owned()), consumed.nullable());
        VersionedTable::of(&stream, store, millis(history), key, value)
    }

    /// The latest value of each key of `topic`, held in full by every thread, whatever partitions it has.
    ///
    /// It is read to its end before the first record is processed and goes on unsynchronised with stream time. It needs
    /// no co-partitioning, so it suits small dimensions. A null value deletes its key, and a record with a null key is
    /// ignored. It emits nothing: streams look rows up with [`join_global`](KStream::join_global). The rows are in
    /// memory; there is no changelog, since the topic is one. Source of the semantics: Kafka Streams'
    /// `StreamsBuilder#globalTable`.
    ///
    /// Nothing is late: the latest record of a key is its row, whatever its timestamp. What cannot be decoded is a
    /// matter for [`on_bad_record`](crate::StreamsConfig::on_bad_record).
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// let cities = builder.global_table("cities", "cities", Consumed::new(utf8(), utf8()));
    /// // Orders by number, with the code of their city.
    /// let orders = builder.stream("orders", Consumed::new(utf8(), utf8()));
    /// orders
    ///     .join_global("named", &cities, |_, code| code.clone(), |_, _, _, city| city)
    ///     .to_with("named", Produced::new(utf8(), utf8()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let cities = driver.input("cities", utf8(), nullable(utf8()));
    /// # let orders = driver.input("orders", utf8(), utf8());
    /// cities.pipe(&mut driver, "RM".to_owned(), Some("Rome".to_owned()), 0);
    /// orders.pipe(&mut driver, "1".to_owned(), "RM".to_owned(), 0);
    /// cities.pipe(&mut driver, "RM".to_owned(), None, 1);
    /// orders.pipe(&mut driver, "2".to_owned(), "RM".to_owned(), 1);
    /// let named = driver.output("named", utf8(), utf8()).read_key_values(&mut driver);
    /// assert_eq!(named, [("1".to_owned(), "Rome".to_owned())]);
    /// ```
    pub fn global_table<K: Data, V: Data>(
        &self,
        topic: &str,
        store: &str,
        consumed: Consumed<K, V>,
    ) -> GlobalTable<K, V> {
        let mut plan = self.plan.borrow_mut();
        let id = plan.add_store(store, StoreKind::KeyValue);
        plan.stores[id.0].global = Some(topic.to_owned());
        let (key, value) = (Arc::clone(&consumed.key), Arc::clone(&consumed.value));
        let name = topic.to_owned();
        plan.globals.push(GlobalTableSpec {
            topic: topic.to_owned(),
            store: id,
            check: Arc::new(move |key_bytes, value_bytes| {
                let what = |part| format!("the {part} of a record of global table topic {name}");
                deserialize_nullable(&*key, key_bytes)
                    .map_err(|error| Fault::serde(what("key"), error))?;
                if let Some(bytes) = value_bytes {
                    value
                        .deserialize(bytes)
                        .map_err(|error| Fault::serde(what("value"), error))?;
                }
                Ok(())
            }),
        });
        GlobalTable {
            store: id,
            key: consumed.key,
            value: consumed.value,
        }
    }

    /// A key-value store for [`KStream::process`]; its changes go to `<application id>-<name>-changelog`. With
    /// [`ttl`](StoreHandle::ttl) its entries live for some time only.
    ///
    /// By itself it emits nothing; null keys, null values and late records are the processor's to deal with. A value is
    /// kept with the timestamp that it was put with. Source of the semantics: Kafka Streams'
    /// `Stores#timestampedKeyValueStore`.
    ///
    /// # Errors
    /// [`build`](Self::build) refuses a name that is used twice.
    ///
    /// ```
    /// # use processor_core::Record;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::error::Result;
    /// # use processor_core::processor::{KeyValue, Processor, ProcessorContext};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// /// Lets a reading through where it is another than the one before.
    /// struct Changes(KeyValue<String, i64>);
    ///
    /// impl Processor<String, i64> for Changes {
    ///     type KOut = String;
    ///     type VOut = i64;
    ///     fn process(
    ///         &mut self,
    ///         record: Record<String, i64>,
    ///         context: &mut ProcessorContext<'_, '_, String, i64>,
    ///     ) -> Result {
    ///         if self.0.get(&record.key)? == Some(record.value) {
    ///             return Ok(());
    ///         }
    ///         self.0.put(&record.key, &record.value, record.timestamp)?;
    ///         context.forward(record)
    ///     }
    /// }
    ///
    /// # let builder = StreamsBuilder::new("doors");
    /// # let readings = builder.stream("readings", Consumed::new(utf8(), int64()));
    /// let latest = builder.key_value_store("latest", utf8(), int64());
    /// readings.process_values("changes", latest, Changes);
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let readings = driver.input("readings", utf8(), int64());
    /// for (reading, time) in [(3, 0), (3, 1), (4, 2), (4, 3)] {
    ///     readings.pipe(&mut driver, "door".to_owned(), reading, time);
    /// }
    /// assert_eq!(driver.store_get("latest", b"door"), Some((4_i64.to_be_bytes().to_vec(), 2)));
    /// ```
    pub fn key_value_store<K: Data, V: Data>(
        &self,
        name: &str,
        key: impl Serde<K> + 'static,
        value: impl Serde<V> + 'static,
    ) -> StoreHandle<K, V> {
        let mut plan = self.plan.borrow_mut();
        let id = plan.add_store(name, StoreKind::KeyValue);
        plan.describe_store(id, &key, &value);
        StoreHandle::new(id, name, Arc::new(key), Arc::new(value))
    }

    /// Timers of keys for [`KStream::process`], which call [`Processor::on_timer`](crate::processor::Processor::on_timer).
    /// They are kept in the store `name`, whose changes go to `<application id>-<name>-changelog`, and in memory. A
    /// processor has at most one set of timers; their keys have the type of its records' keys.
    ///
    /// What a processor sets, fires and forgets is part of its task's transaction. By itself it emits nothing; nulls
    /// and late records are the processor's to deal with. Kafka Streams has punctuations, but no timers of keys.
    ///
    /// ```
    /// # use processor_core::Record;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::error::Result;
    /// # use processor_core::processor::{Fired, Processor, ProcessorContext, Timer, Timers};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// /// Tells of users who started something and did not end it within 10 ms.
    /// struct Abandoned(Timers<String>);
    ///
    /// impl Processor<String, String> for Abandoned {
    ///     type KOut = String;
    ///     type VOut = i64;
    ///     fn process(
    ///         &mut self,
    ///         record: Record<String, String>,
    ///         _: &mut ProcessorContext<'_, '_, String, i64>,
    ///     ) -> Result {
    ///         match record.value.split_once(' ') {
    ///             Some(("end", started)) => {
    ///                 let started: i64 = started.parse().unwrap();
    ///                 self.0.cancel(&record.key, Timer::EventTime(started + 10)).map(|_| ())
    ///             }
    ///             _ => self.0.set(&record.key, Timer::EventTime(record.timestamp + 10)),
    ///         }
    ///     }
    ///     fn on_timer(
    ///         &mut self,
    ///         timer: Fired<String>,
    ///         context: &mut ProcessorContext<'_, '_, String, i64>,
    ///     ) -> Result {
    ///         context.forward(Record::new(timer.key, timer.now, timer.now))
    ///     }
    /// }
    ///
    /// # let builder = StreamsBuilder::new("carts");
    /// # let steps = builder.stream("steps", Consumed::new(utf8(), utf8()));
    /// let timers = builder.timers("open-carts", utf8());
    /// let abandoned = steps.process("abandoned", timers, Abandoned);
    /// abandoned.to_with("abandoned", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let steps = driver.input("steps", utf8(), utf8());
    /// for (user, step, time) in [("ann", "start", 0), ("bob", "start", 1), ("bob", "end 1", 5), ("cid", "start", 12)] {
    ///     steps.pipe(&mut driver, user.to_owned(), step.to_owned(), time);
    /// }
    /// let abandoned = driver.output("abandoned", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(abandoned, [("ann".to_owned(), 12)]);
    /// ```
    pub fn timers<K: Data>(&self, name: &str, key: impl Serde<K> + 'static) -> TimersHandle<K> {
        let mut plan = self.plan.borrow_mut();
        let id = plan.add_store(name, StoreKind::KeyValue);
        plan.describe_store(id, &key, &crate::serde::bytes());
        TimersHandle::new(id, name, Arc::new(key))
    }

    /// A buffer of timestamped values for [`KStream::process`], several for each key: what came within some time. It
    /// keeps entries at least `retention` of event time; the processor says when they may go.
    ///
    /// It is a join store, whose changes go to `<application id>-<name>-changelog`. By itself it emits nothing; nulls
    /// and late records are the processor's to deal with. Kafka Streams keeps such values in a window store that
    /// retains duplicates.
    ///
    /// # Errors
    /// [`build`](Self::build) refuses a name that is used twice.
    ///
    /// ```
    /// # use std::ops::ControlFlow;
    /// # use std::time::Duration;
    /// # use processor_core::Record;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::error::Result;
    /// # use processor_core::processor::{EventBuffer, Processor, ProcessorContext};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// /// Sums what a key got in the 10 ms up to each record.
    /// struct Recent(EventBuffer<String, i64>);
    ///
    /// impl Processor<String, i64> for Recent {
    ///     type KOut = String;
    ///     type VOut = i64;
    ///     fn process(
    ///         &mut self,
    ///         record: Record<String, i64>,
    ///         context: &mut ProcessorContext<'_, '_, String, i64>,
    ///     ) -> Result {
    ///         let now = record.timestamp;
    ///         let offset = context.metadata().map_or(0, |metadata| metadata.offset);
    ///         self.0.append(&record.key, &record.value, now, offset)?;
    ///         let mut sum = 0;
    ///         self.0.fetch(&record.key, now - 10, now, |_, value| {
    ///             sum += value;
    ///             ControlFlow::Continue(())
    ///         })?;
    ///         self.0.expire_before(now - 10);
    ///         context.forward(record.with_value(sum))
    ///     }
    /// }
    ///
    /// # let builder = StreamsBuilder::new("payments");
    /// # let payments = builder.stream("payments", Consumed::new(utf8(), int64()));
    /// let recent = builder.event_buffer("recent", utf8(), int64(), Duration::from_millis(10));
    /// let sums = payments.process_values("recent-sums", recent, Recent);
    /// sums.to_with("sums", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let payments = driver.input("payments", utf8(), int64());
    /// for (amount, time) in [(1, 0), (2, 0), (4, 10), (8, 11)] {
    ///     payments.pipe(&mut driver, "ann".to_owned(), amount, time);
    /// }
    /// let sums = driver.output("sums", utf8(), int64()).read(&mut driver);
    /// let sums: Vec<_> = sums.into_iter().map(|record| record.value).collect();
    /// assert_eq!(sums, [1, 3, 7, 12]);
    /// ```
    pub fn event_buffer<K: Data, V: Data>(
        &self,
        name: &str,
        key: impl Serde<K> + 'static,
        value: impl Serde<V> + 'static,
        retention: Duration,
    ) -> EventBufferHandle<K, V> {
        let retention_ms = millis(retention);
        let mut plan = self.plan.borrow_mut();
        let id = plan.add_store(name, StoreKind::Join { retention_ms });
        plan.describe_store(id, &key, &value);
        EventBufferHandle::new(id, name, Arc::new(key), Arc::new(value))
    }

    /// Checks the topology.
    ///
    /// # Errors
    /// When names repeat, serdes are missing or nothing is read; the error lists everything that is wrong.
    pub fn build(&self) -> Result<Topology, TopologyError> {
        Topology::build(self.plan.borrow().clone())
    }

    pub(crate) fn source<K: Data, V: Data>(
        &self,
        topic: Topic,
        consumed: Consumed<K, V>,
    ) -> KStream<K, V, Partitioned> {
        add_source(&self.plan, topic, consumed)
    }
}

/// Adds the source of a topic of the user or of a repartition topic.
pub(crate) fn add_source<K: Data, V: Data>(
    plan: &Rc<RefCell<Plan>>,
    topic: Topic,
    consumed: Consumed<K, V>,
) -> KStream<K, V, Partitioned> {
    let Consumed {
        key,
        value,
        reset,
        time,
    } = consumed;
    let outlet = Outlet::<K, V>::new();
    let node = {
        let mut plan = plan.borrow_mut();
        let name = plan.generated_name("KSTREAM-SOURCE");
        let node: NodeId = plan.add_node(name, NodeKind::Source(topic.clone()), vec![], vec![]);
        let make: MakeSource = {
            let (outlet, topic) = (Arc::clone(&outlet), topic.clone());
            let (key, value) = (Arc::clone(&key), Arc::clone(&value));
            Arc::new(move |instantiation| {
                let child = outlet.instantiate(instantiation)?;
                Ok(Box::new(TopicQueue::new(
                    &topic,
                    Arc::clone(&key),
                    Arc::clone(&value),
                    time.clone(),
                    child,
                    instantiation,
                )))
            })
        };
        plan.sources.push(Source {
            node,
            topic,
            reset,
            make,
        });
        node
    };
    KStream::new(Rc::clone(plan), node, outlet, Some(key), Some(value))
}
