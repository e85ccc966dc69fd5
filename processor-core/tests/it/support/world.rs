//! An embedded log with an application's topics, written and read from the outside.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use processor_core::clock::ManualClock;
use processor_core::log::embedded::{EmbeddedLog, Options};
use processor_core::log::{
    ConsumerConfig, ConsumerRecord, Log, NewTopic, Polled, ProducerConfig, ProducerRecord,
    TopicPartition,
};
use processor_core::{Streams, StreamsConfig, Topology};

pub struct World {
    pub log: EmbeddedLog,
    pub clock: ManualClock,
}

impl World {
    /// A log in memory with these topics.
    pub fn new(topics: &[(&str, i32)]) -> Self {
        let clock = ManualClock::default();
        let log = EmbeddedLog::in_memory_with(Arc::new(clock.clone()));
        Self::of(log, clock, topics)
    }

    /// The log in `directory` with these topics.
    pub fn in_files(directory: &Path, topics: &[(&str, i32)]) -> Self {
        let clock = ManualClock::default();
        let options = Options {
            clock: Arc::new(clock.clone()),
            ..Options::default()
        };
        let log = EmbeddedLog::open_with(directory, options).unwrap();
        Self::of(log, clock, topics)
    }

    fn of(log: EmbeddedLog, clock: ManualClock, topics: &[(&str, i32)]) -> Self {
        let topics: Vec<NewTopic> = topics
            .iter()
            .map(|(name, partitions)| NewTopic::new(*name, *partitions))
            .collect();
        log.create_topics(&topics).unwrap();
        Self { log, clock }
    }

    pub fn write(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&str>,
        value: Option<&str>,
        timestamp: i64,
    ) {
        let mut producer = self.log.producer(ProducerConfig::default()).unwrap();
        let record = ProducerRecord {
            topic,
            partition,
            timestamp,
            key: key.map(str::as_bytes),
            value: value.map(str::as_bytes),
            headers: &[],
        };
        producer.send(record).unwrap();
        producer.flush(Duration::from_secs(1)).unwrap();
    }

    /// An application on this log and by this clock.
    pub fn streams(&self, topology: &Topology, config: StreamsConfig) -> Streams {
        self.streams_on(Arc::new(self.log.clone()), topology, config)
    }

    /// An application on `log`, which is this one in disguise.
    pub fn streams_on(
        &self,
        log: Arc<dyn Log>,
        topology: &Topology,
        config: StreamsConfig,
    ) -> Streams {
        let clock = Arc::new(self.clock.clone());
        Streams::with_clock(topology.clone(), config, log, clock).unwrap()
    }

    /// The committed records of `topic`, partition by partition.
    pub fn read(&self, topic: &str) -> Vec<ConsumerRecord> {
        let partitions = self.log.partitions(topic).unwrap().unwrap_or(0);
        let read = |partition| self.read_partition(topic, partition);
        (0..partitions).flat_map(read).collect()
    }

    /// The committed records of one partition.
    pub fn read_partition(&self, topic: &str, partition: i32) -> Vec<ConsumerRecord> {
        let mut consumer = self.log.consumer(ConsumerConfig::default()).unwrap();
        let start = (TopicPartition::new(topic, partition), Some(0));
        consumer.assign(&[start]).unwrap();
        let mut records = Vec::new();
        while let Polled::Records(batches) = consumer.poll(Duration::ZERO).unwrap() {
            records.extend(batches.into_iter().flat_map(|batch| batch.records));
        }
        records
    }

    /// The values of `topic` as text.
    pub fn read_values(&self, topic: &str) -> Vec<String> {
        let records = self.read(topic).into_iter();
        records
            .map(|record| plain(record.value.as_deref()))
            .collect()
    }

    /// `key=value` of every record of `topic`, sorted.
    pub fn read_sorted(&self, topic: &str) -> Vec<String> {
        let records = self.read(topic).into_iter();
        let mut rows: Vec<String> = records
            .map(|r| format!("{}={}", plain(r.key.as_deref()), plain(r.value.as_deref())))
            .collect();
        rows.sort();
        rows
    }
}

fn plain(bytes: Option<&[u8]>) -> String {
    bytes.map_or_else(
        || "null".to_owned(),
        |bytes| String::from_utf8_lossy(bytes).into_owned(),
    )
}
