//! Writing a stream to topics: to one, or to the one that each record chooses.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use rustc_hash::FxBuildHasher;

use crate::error::{Fault, Result};
use crate::log::Headers;
use crate::partitioner::partition_for;
use crate::processor::{Context, Process};
use crate::record::{Data, Record};
use crate::runtime::TopicLookup;
use crate::serde::{SharedSerde, serialize_nullable};
use crate::topology::{NodeKind, Topic};

use super::options::{Partitioner, Route};
use super::{KStream, Lineage, Produced};

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    /// Writes the stream to `topic` with the serdes it carries. The topic must exist when the application starts.
    ///
    /// Each record goes to the partition of its key, as the Java client chooses it; one with a null key stays in the
    /// partition number of its task. Timestamp and headers go with it, and so does a null value. Records become visible
    /// to those who read committed when their transaction commits.
    ///
    /// A stream whose type changed since its source carries no serde: use [`to_with`](Self::to_with).
    ///
    /// Source of the semantics: Kafka Streams' `KStream.to`; there a record without a key goes to any partition.
    ///
    /// # Errors
    /// [`build`](crate::dsl::StreamsBuilder::build) refuses a stream without serdes; the start refuses a topic that does
    /// not exist. A record that is too large is a matter for
    /// [`on_production_error`](crate::StreamsConfig::on_production_error).
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// bids.to("all-bids");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 5);
    /// let all = driver.output("all-bids", utf8(), int64()).read(&mut driver);
    /// assert_eq!((all[0].value, all[0].timestamp), (70, 5));
    /// ```
    pub fn to(&self, topic: &str) {
        if let Some(produced) =
            self.produced(&format!("'{topic}'"), &format!("to_with(\"{topic}\""))
        {
            self.to_with(topic, produced);
        }
    }

    /// Writes the stream to `topic` as `produced` says: with its serdes, and where it has one, its
    /// [partitioner](Produced::partitioner). Everything else is as in [`to`](Self::to).
    ///
    /// Nulls, timestamps and errors are as in [`to`](Self::to).
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
    pub fn to_with(&self, topic: &str, produced: Produced<K, V>) {
        self.add_sink(NodeKind::Sink(Topic::External(topic.to_owned())));
        let topic = topic.to_owned();
        self.outlet.attach(move |instantiation| {
            let partitions = instantiation.partitions.of(&topic)?;
            Ok(Box::new(Sink::of(topic.clone(), partitions, &produced)))
        });
    }

    /// Writes each record to the topic that `choose` names, with the serdes that the stream carries.
    ///
    /// The topics must exist. How many partitions one has is asked of the log when the first record chooses it, and
    /// remembered. Everything else is as in [`to`](Self::to).
    ///
    /// Source of the semantics: Kafka Streams' `KStream.to(TopicNameExtractor)`. There a topic that does not exist stops
    /// the application, or is made by the broker.
    ///
    /// # Errors
    /// A topic that does not exist is an error of production of the record that chose it:
    /// [`on_production_error`](crate::StreamsConfig::on_production_error) decides. Since nobody knows before the start
    /// which topics are written, an [end of input](crate::processor::Punctuation::EndOfInput) does not wait for a
    /// sub-topology that reads one of them.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// bids.to_dynamic(|record| match record.value {
    ///     price if price >= 100 => "high-bids",
    ///     _ => "low-bids",
    /// });
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # for topic in ["high-bids", "low-bids"] { driver.create_topic(topic).unwrap(); }
    /// # let bids = driver.input("bids", utf8(), int64());
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 0);
    /// bids.pipe(&mut driver, "vase".to_owned(), 120, 1);
    /// let high = driver.output("high-bids", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(high, [("vase".to_owned(), 120)]);
    /// ```
    pub fn to_dynamic<T: Into<Cow<'static, str>>>(
        &self,
        choose: impl Fn(&Record<K, V>) -> T + Send + Sync + 'static,
    ) {
        if let Some(produced) = self.produced("topics that records choose", "to_dynamic_with(…") {
            self.to_dynamic_with(choose, produced);
        }
    }

    /// Writes each record to the topic that `choose` names, as `produced` says: see [`to_dynamic`](Self::to_dynamic) and
    /// [`to_with`](Self::to_with).
    ///
    /// Nulls, errors and the source of the semantics are as there.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("words");
    /// # let words = builder.stream("words", Consumed::new(utf8(), utf8()));
    /// let lengths = words.map_values(|_, word| word.len() as i64);
    /// let topic = |record: &processor_core::Record<String, i64>| if record.value > 3 { "long" } else { "short" };
    /// lengths.to_dynamic_with(topic, Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # for topic in ["long", "short"] { driver.create_topic(topic).unwrap(); }
    /// # let words = driver.input("words", utf8(), utf8());
    /// words.pipe(&mut driver, "page-1".to_owned(), "be".to_owned(), 0);
    /// words.pipe(&mut driver, "page-1".to_owned(), "hello".to_owned(), 1);
    /// let long = driver.output("long", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(long, [("page-1".to_owned(), 5)]);
    /// ```
    pub fn to_dynamic_with<T: Into<Cow<'static, str>>>(
        &self,
        choose: impl Fn(&Record<K, V>) -> T + Send + Sync + 'static,
        produced: Produced<K, V>,
    ) {
        self.add_sink(NodeKind::DynamicSink);
        let choose: TopicChooser<K, V> = Arc::new(move |record| choose(record).into());
        self.outlet.attach(move |instantiation| {
            let lookup = Arc::clone(instantiation.lookup);
            Ok(Box::new(DynamicSink::new(
                Arc::clone(&choose),
                lookup,
                &produced,
            )))
        });
    }

    fn add_sink(&self, kind: NodeKind) {
        let mut plan = self.plan.borrow_mut();
        let name = plan.generated_name("KSTREAM-SINK");
        plan.add_node(name, kind, vec![self.node], vec![]);
    }

    /// The serdes that the stream carries; a problem that names `instead` where it has not both.
    fn produced(&self, written: &str, instead: &str) -> Option<Produced<K, V>> {
        let missing = match (&self.key, &self.value) {
            (Some(key), Some(value)) => {
                return Some(Produced {
                    key: Arc::clone(key),
                    value: Arc::clone(value),
                    partitioner: None,
                });
            }
            (None, _) => "key",
            _ => "value",
        };
        self.plan.borrow_mut().problems.push(format!(
            "the stream written to {written} has no serde for its {missing}, whose type was changed by an operator; use \
             `{instead}, Produced::new(…))`"
        ));
        None
    }
}

/// Encodes records and hands them to the collector.
pub(crate) struct Sink<K, V> {
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    writer: Writer<K, V>,
}

impl<K, V> Sink<K, V> {
    pub(crate) fn new(
        topic: String,
        partitions: i32,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Self {
        let produced = Produced {
            key,
            value,
            partitioner: None,
        };
        Self::of(topic, partitions, &produced)
    }

    pub(crate) fn of(topic: String, partitions: i32, produced: &Produced<K, V>) -> Self {
        Self {
            topic,
            partitions,
            writer: Writer::new(produced),
        }
    }

    /// Sends `record` with `headers` to the partition of its key; a record without a key stays in the partition
    /// number of its task, so that the same input gives the same output.
    pub(crate) fn send(
        &mut self,
        context: &mut Context<'_>,
        record: &Record<K, V>,
        headers: &Headers,
    ) -> Result<i32> {
        let encoded = self.writer.encode(&self.topic, record)?;
        let partition = encoded.partition_of_key(context, self.partitions);
        encoded.send(context, &self.topic, partition, record.timestamp, headers)?;
        Ok(partition)
    }

    /// Sends `record` with `headers` to `partition`.
    pub(crate) fn send_to(
        &mut self,
        partition: i32,
        context: &mut Context<'_>,
        record: &Record<K, V>,
        headers: &Headers,
    ) -> Result {
        let encoded = self.writer.encode(&self.topic, record)?;
        encoded.send(context, &self.topic, partition, record.timestamp, headers)
    }
}

impl<K, V> Process<K, V> for Sink<K, V> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        self.writer
            .write(context, &self.topic, self.partitions, &record)
    }
}

/// Chooses the topic of a record.
pub(crate) type TopicChooser<K, V> = Arc<dyn Fn(&Record<K, V>) -> Cow<'static, str> + Send + Sync>;

/// Writes each record to the topic that it chooses.
pub(crate) struct DynamicSink<K, V> {
    choose: TopicChooser<K, V>,
    lookup: Arc<TopicLookup>,
    /// Partitions of the topics written so far, so that a look-up with its lock happens once for a topic.
    partitions: HashMap<String, i32, FxBuildHasher>,
    writer: Writer<K, V>,
}

impl<K, V> DynamicSink<K, V> {
    pub(crate) fn new(
        choose: TopicChooser<K, V>,
        lookup: Arc<TopicLookup>,
        produced: &Produced<K, V>,
    ) -> Self {
        Self {
            choose,
            lookup,
            partitions: HashMap::default(),
            writer: Writer::new(produced),
        }
    }
}

impl<K, V> Process<K, V> for DynamicSink<K, V> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        let topic = (self.choose)(&record);
        let partitions = match self.partitions.get(&*topic) {
            Some(partitions) => *partitions,
            None => {
                let partitions = self.lookup.partitions(&topic)?;
                self.partitions
                    .insert(topic.clone().into_owned(), partitions);
                partitions
            }
        };
        self.writer.write(context, &topic, partitions, &record)
    }
}

/// Turns records into bytes, in buffers that are used again, and chooses their partitions.
struct Writer<K, V> {
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    partitioner: Option<Partitioner<K, V>>,
    key_buffer: Vec<u8>,
    value_buffer: Vec<u8>,
}

impl<K, V> Writer<K, V> {
    fn new(produced: &Produced<K, V>) -> Self {
        Self {
            key: Arc::clone(&produced.key),
            value: Arc::clone(&produced.value),
            partitioner: produced.partitioner.clone(),
            key_buffer: Vec::new(),
            value_buffer: Vec::new(),
        }
    }

    fn encode<'a>(&'a mut self, topic: &str, record: &Record<K, V>) -> Result<Encoded<'a>> {
        let unfit = |part: &str, error| {
            Fault::serde(format_args!("the {part} of a record for {topic}"), error)
        };
        let key = serialize_nullable(&*self.key, &record.key, &mut self.key_buffer)
            .map_err(|error| unfit("key", error))?;
        let value = serialize_nullable(&*self.value, &record.value, &mut self.value_buffer)
            .map_err(|error| unfit("value", error))?;
        let partitioned_by = key.map(|key| self.key.partition_bytes(key));
        Ok(Encoded {
            key,
            value,
            partitioned_by,
        })
    }

    /// Sends `record` where the partitioner says.
    fn write(
        &mut self,
        context: &mut Context<'_>,
        topic: &str,
        partitions: i32,
        record: &Record<K, V>,
    ) -> Result {
        let route = match &self.partitioner {
            None => Route::ByKey,
            Some(partitioner) => partitioner(record, partitions),
        };
        let (timestamp, headers) = (record.timestamp, &record.headers);
        let encoded = self.encode(topic, record)?;
        let mut send = |partition: i32| {
            if !(0..partitions).contains(&partition) {
                return Err(no_partition(topic, partition, partitions));
            }
            encoded.send(context, topic, partition, timestamp, headers)
        };
        match route {
            Route::ByKey => {
                let partition = encoded.partition_of_key(context, partitions);
                encoded.send(context, topic, partition, timestamp, headers)
            }
            Route::One(partition) => send(partition),
            Route::Several(chosen) => chosen.into_iter().try_for_each(send),
            Route::All => (0..partitions).try_for_each(send),
            Route::Nowhere => {
                metrics::counter!("dropped-records", "reason" => "partitioner").increment(1);
                Ok(())
            }
        }
    }
}

fn no_partition(topic: &str, partition: i32, partitions: i32) -> Fault {
    Fault::user(
        "partitioner",
        format!("it chose partition {partition} of {topic}, which has {partitions}, from 0"),
    )
}

/// A record as bytes.
struct Encoded<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    /// The part of the key that chooses its partition.
    partitioned_by: Option<&'a [u8]>,
}

impl Encoded<'_> {
    fn partition_of_key(&self, context: &Context<'_>, partitions: i32) -> i32 {
        match self.partitioned_by {
            Some(key) => partition_for(key, partitions),
            None => context.task.partition % partitions,
        }
    }

    fn send(
        &self,
        context: &mut Context<'_>,
        topic: &str,
        partition: i32,
        timestamp: i64,
        headers: &Headers,
    ) -> Result {
        context
            .out
            .send(topic, partition, timestamp, self.key, self.value, headers)
    }
}
