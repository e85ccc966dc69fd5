//! The test driver.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::ManualClock;
use crate::config::StreamsConfig;
use crate::log::embedded::EmbeddedLog;
use crate::log::{
    Consumer, ConsumerConfig, Header, Log, NewTopic, Polled, Producer, ProducerConfig,
    ProducerRecord, Timestamp, TopicPartition,
};
use crate::partitioner::partition_for;
use crate::record::Record;
use crate::runtime::{Streams, StreamsError};
use crate::serde::{Serde, SharedSerde, deserialize_nullable, serialize_nullable};
use crate::topology::Topology;

/// Runs a topology record by record: whatever is piped in is processed to its end, through all internal topics, and
/// committed, before the call returns.
///
/// The clock starts at 0 and moves only with [`advance_wall_clock`](Self::advance_wall_clock).
pub struct TopologyTestDriver {
    log: EmbeddedLog,
    clock: ManualClock,
    topology: Topology,
    config: StreamsConfig,
    /// There but for the moment of a restart.
    streams: Option<Streams>,
    producer: Box<dyn Producer>,
    readers: HashMap<String, Box<dyn Consumer>>,
    partitions: i32,
}

impl TopologyTestDriver {
    /// A driver with one partition for every topic.
    ///
    /// # Errors
    /// When the topology cannot be started.
    pub fn new(topology: Topology) -> Result<Self, StreamsError> {
        Self::with(topology, StreamsConfig::new("test"), 1)
    }

    /// A driver with a configuration of the caller's and `partitions` partitions for every topic of the user, the one for
    /// dead letters included.
    ///
    /// # Errors
    /// When the topology cannot be started.
    pub fn with(
        topology: Topology,
        mut config: StreamsConfig,
        partitions: i32,
    ) -> Result<Self, StreamsError> {
        // A name of its own, so that a restart settles what a crash left open.
        config.instance.get_or_insert_with(|| "driver".to_owned());
        let clock = ManualClock::default();
        let log = EmbeddedLog::in_memory_with(Arc::new(clock.clone()));
        let producer = log.producer(ProducerConfig::default())?;
        let mut driver = Self {
            log,
            clock,
            topology,
            config,
            streams: None,
            producer,
            readers: HashMap::new(),
            partitions,
        };
        driver.make_topics()?;
        driver.start()?;
        Ok(driver)
    }

    /// Stops the application in good order and starts it again. State in memory comes back from its changelogs.
    ///
    /// # Errors
    /// When it cannot be stopped or started.
    pub fn restart(&mut self) -> Result<(), StreamsError> {
        if let Some(streams) = self.streams.take() {
            streams.close()?;
        }
        self.start()
    }

    /// Drops the application where it stands, as if its process were killed, and starts it again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn crash(&mut self) -> Result<(), StreamsError> {
        self.streams = None;
        self.start()
    }

    /// Stops the application in good order, unless it is stopped already, and starts `topology` over its state: what an
    /// upgrade does. Topics of the user that are not there yet are made. After an error the driver can be restarted with
    /// another topology.
    ///
    /// # Errors
    /// When it cannot be stopped or started; [`StreamsError::UnsafeChanges`] when the topology does not fit the state.
    pub fn restart_with(&mut self, topology: Topology) -> Result<(), StreamsError> {
        if let Some(streams) = self.streams.take() {
            streams.close()?;
        }
        self.topology = topology;
        self.make_topics()?;
        self.start()
    }

    /// The configuration, for the next start.
    pub fn config(&mut self) -> &mut StreamsConfig {
        &mut self.config
    }

    fn make_topics(&self) -> Result<(), StreamsError> {
        let topology = &self.topology;
        let topics: Vec<NewTopic> = topology
            .input_topics()
            .into_iter()
            .chain(topology.output_topics())
            .chain(self.config.dead_letter_topic.clone())
            .map(|topic| topology.new_topic(topic, self.partitions))
            .collect();
        Ok(self.log.create_topics(&topics)?)
    }

    fn start(&mut self) -> Result<(), StreamsError> {
        let (topology, config) = (self.topology.clone(), self.config.clone());
        let (log, clock) = (Arc::new(self.log.clone()), Arc::new(self.clock.clone()));
        let streams = Streams::with_clock(topology, config, log, clock)?;
        self.streams.insert(streams).drain()
    }

    fn streams(&mut self) -> &mut Streams {
        self.streams
            .as_mut()
            .expect("the application failed to start again; make a new driver")
    }

    /// Makes a topic that the topology does not name, for records that choose where they go.
    ///
    /// # Errors
    /// When the log refuses.
    pub fn create_topic(&self, name: &str) -> Result<(), StreamsError> {
        Ok(self
            .log
            .create_topics(&[NewTopic::new(name, self.partitions)])?)
    }

    /// Names of all topics, internal ones included, sorted.
    ///
    /// # Panics
    /// When the log does not answer.
    #[must_use]
    pub fn topics(&self) -> Vec<String> {
        self.log
            .topics()
            .unwrap_or_else(|error| panic!("the log failed: {error}"))
    }

    /// A typed handle to an input topic.
    pub fn input<K, V>(
        &self,
        topic: &str,
        key: impl Serde<K> + 'static,
        value: impl Serde<V> + 'static,
    ) -> TestInput<K, V> {
        TestInput {
            topic: topic.to_owned(),
            key: Arc::new(key),
            value: Arc::new(value),
        }
    }

    /// A typed handle to an output topic, internal ones included.
    pub fn output<K, V>(
        &self,
        topic: &str,
        key: impl Serde<K> + 'static,
        value: impl Serde<V> + 'static,
    ) -> TestOutput<K, V> {
        TestOutput {
            topic: topic.to_owned(),
            key: Arc::new(key),
            value: Arc::new(value),
        }
    }

    /// Moves the wall clock and fires what is due.
    ///
    /// # Panics
    /// When the topology fails.
    pub fn advance_wall_clock(&mut self, by: Duration) {
        self.clock.advance(by);
        self.settle();
    }

    /// Tells the topology that there is no more input, as a bounded run does at its end.
    ///
    /// # Panics
    /// When the topology fails.
    pub fn end_of_input(&mut self) {
        self.streams()
            .run_to_end()
            .unwrap_or_else(|error| panic!("the topology failed: {error}"));
    }

    /// The topology under test.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Bytes that the key-value store `store` holds for `key`, with their timestamp.
    ///
    /// # Panics
    /// When there is no such store or it fails.
    pub fn store_get(&mut self, store: &str, key: &[u8]) -> Option<(Vec<u8>, Timestamp)> {
        let specs = &self.topology.plan.stores;
        let id = specs.iter().position(|spec| spec.name == store);
        let id = crate::topology::StoreId(id.unwrap_or_else(|| panic!("no store '{store}'")));
        let partition = partition_for(key, self.partitions);
        let thread = self
            .streams()
            .inline()
            .unwrap_or_else(|error| panic!("{error}"));
        match thread.store(id, partition) {
            Some(crate::processor::StoreCell::KeyValue(store)) => store
                .borrow()
                .get(key)
                .unwrap_or_else(|error| panic!("{error}"))
                .map(|stamped| (stamped.value.to_vec(), stamped.timestamp)),
            _ => panic!("'{store}' is not a key-value store"),
        }
    }

    fn settle(&mut self) {
        self.streams()
            .drain()
            .unwrap_or_else(|error| panic!("the topology failed: {error}"));
    }

    fn pipe(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: Timestamp,
        headers: &[Header],
    ) -> Result<(), StreamsError> {
        self.producer.send(ProducerRecord {
            topic,
            partition,
            timestamp,
            key,
            value,
            headers,
        })?;
        self.producer.flush(Duration::from_secs(1))?;
        self.streams().drain()
    }

    fn read(&mut self, topic: &str) -> Vec<crate::log::ConsumerRecord> {
        if !self.readers.contains_key(topic) {
            let partitions = self.log.partitions(topic).ok().flatten().unwrap_or(0);
            let all: Vec<i32> = (0..partitions).collect();
            let reader = self.reader(topic, &all);
            self.readers.insert(topic.to_owned(), reader);
        }
        let reader = self.readers.get_mut(topic).expect("made above");
        read_on(&mut **reader)
    }

    /// A reader of these partitions of `topic`, from their first records.
    fn reader(&self, topic: &str, partitions: &[i32]) -> Box<dyn Consumer> {
        let mut reader = self
            .log
            .consumer(ConsumerConfig::default())
            .expect("the embedded log is there");
        let starts: Vec<_> = partitions
            .iter()
            .map(|partition| (TopicPartition::new(topic, *partition), Some(0)))
            .collect();
        reader
            .assign(&starts)
            .unwrap_or_else(|error| panic!("{error}"));
        reader
    }
}

/// What a reader finds now.
fn read_on(reader: &mut dyn Consumer) -> Vec<crate::log::ConsumerRecord> {
    let mut records = Vec::new();
    while let Polled::Records(batches) = reader
        .poll(Duration::ZERO)
        .unwrap_or_else(|error| panic!("{error}"))
    {
        records.extend(batches.into_iter().flat_map(|batch| batch.records));
    }
    records
}

/// An input topic of a [`TopologyTestDriver`].
pub struct TestInput<K, V> {
    topic: String,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
}

impl<K, V> TestInput<K, V> {
    /// Pipes one record in and processes it to its end.
    ///
    /// # Panics
    /// When the topology fails; see [`try_pipe`](Self::try_pipe).
    #[expect(
        clippy::needless_pass_by_value,
        reason = "tests read better with literals"
    )]
    pub fn pipe(&self, driver: &mut TopologyTestDriver, key: K, value: V, timestamp: Timestamp) {
        self.try_pipe(driver, &key, &value, timestamp)
            .unwrap_or_else(|error| panic!("the topology failed: {error}"));
    }

    /// Pipes one record in and processes it to its end.
    ///
    /// # Errors
    /// What the topology failed with.
    pub fn try_pipe(
        &self,
        driver: &mut TopologyTestDriver,
        key: &K,
        value: &V,
        timestamp: Timestamp,
    ) -> Result<(), StreamsError> {
        self.send(driver, key, value, timestamp, &[])
    }

    /// Pipes one record in with its headers and processes it to its end.
    ///
    /// # Panics
    /// When the topology fails.
    pub fn pipe_record(&self, driver: &mut TopologyTestDriver, record: &Record<K, V>) {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        self.send(driver, key, value, *timestamp, headers)
            .unwrap_or_else(|error| panic!("the topology failed: {error}"));
    }

    fn send(
        &self,
        driver: &mut TopologyTestDriver,
        key: &K,
        value: &V,
        timestamp: Timestamp,
        headers: &[Header],
    ) -> Result<(), StreamsError> {
        let (mut key_buffer, mut value_buffer) = (Vec::new(), Vec::new());
        let unfit = |error| crate::error::Fault::serde("a piped record", error);
        let key = serialize_nullable(&*self.key, key, &mut key_buffer).map_err(unfit)?;
        let value = serialize_nullable(&*self.value, value, &mut value_buffer).map_err(unfit)?;
        let partition = key.map_or(0, |key| partition_for(key, driver.partitions));
        driver.pipe(&self.topic, partition, key, value, timestamp, headers)
    }
}

/// An output topic of a [`TopologyTestDriver`].
pub struct TestOutput<K, V> {
    topic: String,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
}

impl<K, V> TestOutput<K, V> {
    /// All committed records since the last read.
    ///
    /// # Panics
    /// When bytes do not decode.
    pub fn read(&self, driver: &mut TopologyTestDriver) -> Vec<Record<K, V>> {
        let records = driver.read(&self.topic).into_iter();
        records.map(|record| self.decode(record)).collect()
    }

    /// All committed records of one partition, from the first.
    ///
    /// # Panics
    /// When bytes do not decode.
    pub fn read_partition(
        &self,
        driver: &mut TopologyTestDriver,
        partition: i32,
    ) -> Vec<Record<K, V>> {
        let mut reader = driver.reader(&self.topic, &[partition]);
        let records = read_on(&mut *reader).into_iter();
        records.map(|record| self.decode(record)).collect()
    }

    fn decode(&self, record: crate::log::ConsumerRecord) -> Record<K, V> {
        let key = deserialize_nullable(&*self.key, record.key.as_deref());
        let value = deserialize_nullable(&*self.value, record.value.as_deref());
        let unfit = |error| -> ! { panic!("a record of {}: {error}", self.topic) };
        Record {
            key: key.unwrap_or_else(|error| unfit(error)),
            value: value.unwrap_or_else(|error| unfit(error)),
            timestamp: record.timestamp,
            headers: record.headers,
        }
    }

    /// Keys and values of all committed records since the last read.
    ///
    /// # Panics
    /// When bytes do not decode.
    pub fn read_key_values(&self, driver: &mut TopologyTestDriver) -> Vec<(K, V)> {
        self.read(driver)
            .into_iter()
            .map(|record| (record.key, record.value))
            .collect()
    }
}
