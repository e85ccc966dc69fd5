//! Topics as the tests fill and read them: of one partition each, where nothing else is said.

use std::time::Duration;

use bytes::Bytes;
use processor_core::log::{Log, NewTopic, Producer, ProducerConfig, ProducerRecord, read_to_end};
use processor_core::partitioner::partition_for;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Creates these topics.
///
/// # Panics
/// When the log refuses.
pub fn create(log: &dyn Log, topics: &[&str]) {
    let topics: Vec<_> = topics.iter().map(|name| NewTopic::new(*name, 1)).collect();
    log.create_topics(&topics).expect("topics can be created");
}

/// Writes values with their timestamps, all under one key.
///
/// # Panics
/// When the log refuses.
pub fn produce<V: AsRef<[u8]>>(
    log: &dyn Log,
    topic: &str,
    values: impl IntoIterator<Item = (V, i64)>,
) {
    let producer = log.producer(ProducerConfig::default());
    let mut producer = producer.expect("a producer");
    for (value, timestamp) in values {
        let record = ProducerRecord {
            topic,
            partition: 0,
            timestamp,
            key: Some(b"k"),
            value: Some(value.as_ref()),
            headers: &[],
        };
        producer.send(record).expect("the record is taken");
    }
    producer.flush(TIMEOUT).expect("the records are there");
}

/// Sends a 1 as `int64` under the key `k<number modulo keys>`, with `number` as its timestamp, to the partition of that key.
///
/// # Panics
/// When the log refuses.
pub fn send_one(producer: &mut dyn Producer, topic: &str, partitions: i32, keys: u64, number: u64) {
    let key = format!("k{}", number % keys);
    let record = ProducerRecord {
        topic,
        partition: partition_for(key.as_bytes(), partitions),
        timestamp: i64::try_from(number).expect("it is a time"),
        key: Some(key.as_bytes()),
        value: Some(&1_i64.to_be_bytes()),
        headers: &[],
    };
    producer.send(record).expect("the record is taken");
}

/// The committed values of a topic, those of deletes left out.
///
/// # Panics
/// When the log refuses.
#[must_use]
pub fn values(log: &dyn Log, topic: &str) -> Vec<Bytes> {
    let mut values = Vec::new();
    read_to_end(log, topic, &mut |record| {
        values.extend(record.value);
        Ok(())
    })
    .expect("the topic can be read");
    values
}
