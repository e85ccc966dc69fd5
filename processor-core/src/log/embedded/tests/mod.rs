//! Tests of what only the embedded log promises; what every log promises is in `contract`.

mod cleaning;
mod copying;
mod membership;
mod model;
mod recovery;
mod speed;

use super::*;
use crate::clock::ManualClock;
use crate::log::*;

fn topic(log: &EmbeddedLog, name: &str, partitions: i32) {
    log.create_topics(&[NewTopic::new(name, partitions)])
        .unwrap();
}

fn record<'a>(topic: &'a str, value: &'a [u8]) -> ProducerRecord<'a> {
    ProducerRecord {
        topic,
        partition: 0,
        timestamp: 7,
        key: Some(b"k"),
        value: Some(value),
        headers: &[],
    }
}

fn producer(log: &EmbeddedLog, id: &str) -> Box<dyn Producer> {
    let mut producer = log
        .producer(ProducerConfig {
            transactional_id: Some(id.into()),
            ..ProducerConfig::default()
        })
        .unwrap();
    producer.init_transactions(Duration::ZERO).unwrap();
    producer
}

fn commit(producer: &mut dyn Producer) -> Committed {
    producer.begin_commit(Vec::new(), None).unwrap();
    producer.poll_commit(Duration::ZERO).unwrap().unwrap()
}

fn reader(log: &EmbeddedLog, topic: &str) -> Box<dyn Consumer> {
    let mut consumer = log.consumer(ConsumerConfig::default()).unwrap();
    consumer
        .assign(&[(TopicPartition::new(topic, 0), None)])
        .unwrap();
    consumer
}

fn offsets(polled: Polled) -> Vec<Offset> {
    match polled {
        Polled::Records(batches) => batches
            .iter()
            .flat_map(|b| b.records.iter().map(|r| r.offset))
            .collect(),
        Polled::Nothing => Vec::new(),
        other => panic!("{other:?}"),
    }
}

fn position(consumer: &dyn Consumer, topic: &str) -> Offset {
    let position = consumer.position(&TopicPartition::new(topic, 0));
    position.unwrap().unwrap()
}

/// Everything a reader sees, as text.
fn read_all(log: &EmbeddedLog, topic: &str, isolation: Isolation) -> Vec<String> {
    let config = ConsumerConfig {
        isolation,
        ..ConsumerConfig::default()
    };
    let mut consumer = log.consumer(config).unwrap();
    consumer
        .assign(&[(TopicPartition::new(topic, 0), None)])
        .unwrap();
    let mut all = Vec::new();
    while let Polled::Records(batches) = consumer.poll(Duration::ZERO).unwrap() {
        for record in batches.iter().flat_map(|b| &b.records) {
            let value = record.value.as_deref().unwrap_or(b"(null)");
            all.push(String::from_utf8(value.to_vec()).unwrap());
        }
    }
    all
}

#[test]
fn markers_take_offsets_and_aborted_records_are_stepped_over() {
    let log = EmbeddedLog::in_memory();
    topic(&log, "t", 1);
    let mut producer = producer(&log, "p");
    for round in 0..4 {
        producer.begin_transaction().unwrap();
        for _ in 0..3 {
            producer.send(record("t", b"v")).unwrap();
        }
        if round % 2 == 0 {
            commit(&mut *producer);
        } else {
            producer.flush(Duration::ZERO).unwrap();
            producer.abort_transaction(Duration::ZERO).unwrap();
        }
    }
    let mut reader = reader(&log, "t");
    let seen = offsets(reader.poll(Duration::ZERO).unwrap());
    assert_eq!(seen, [0, 1, 2, 8, 9, 10]);
    let position = reader.position(&TopicPartition::new("t", 0)).unwrap();
    assert_eq!(position, Some(16));
}

#[test]
fn a_late_transaction_is_aborted_and_its_producer_fenced() {
    let clock = ManualClock::at(0);
    let log = EmbeddedLog::in_memory_with(Arc::new(clock.clone()));
    topic(&log, "t", 1);
    let mut producer = producer(&log, "p");
    producer.begin_transaction().unwrap();
    producer.send(record("t", b"v")).unwrap();
    producer.flush(Duration::ZERO).unwrap();
    clock.advance(Duration::from_secs(61));
    let mut reader = reader(&log, "t");
    assert!(offsets(reader.poll(Duration::ZERO).unwrap()).is_empty());
    let end = reader.position(&TopicPartition::new("t", 0)).unwrap();
    assert_eq!(end, Some(2), "record and abort marker");
    let refused = producer.begin_commit(Vec::new(), None).unwrap_err();
    assert_eq!(refused.class, ErrorClass::Fenced);
}

#[test]
fn nothing_of_a_commit_shows_before_it_is_polled() {
    let log = EmbeddedLog::in_memory();
    topic(&log, "t", 1);
    let group = || {
        log.consumer(ConsumerConfig {
            group: Some("g".into()),
            ..ConsumerConfig::default()
        })
        .unwrap()
    };
    let owner = group();
    let t = [TopicPartition::new("t", 0)];
    let offset = CommittedOffset {
        offset: 1,
        metadata: "m".into(),
    };
    let mut producer = producer(&log, "p");
    let begin = |producer: &mut dyn Producer| {
        producer.begin_transaction().unwrap();
        producer.send(record("t", b"v")).unwrap();
        let offsets = vec![(t[0].clone(), offset.clone())];
        let metadata = owner.group_metadata().unwrap();
        producer.begin_commit(offsets, Some(metadata)).unwrap();
    };
    begin(&mut *producer);
    let pending = owner.committed(&t, Duration::ZERO).unwrap_err();
    assert_eq!(pending.class, ErrorClass::Retriable);
    assert!(read_all(&log, "t", Isolation::ReadCommitted).is_empty());
    producer.abort_transaction(Duration::ZERO).unwrap();
    assert_eq!(owner.committed(&t, Duration::ZERO).unwrap(), [None]);
    begin(&mut *producer);
    producer.poll_commit(Duration::ZERO).unwrap().unwrap();
    assert_eq!(owner.committed(&t, Duration::ZERO).unwrap(), [Some(offset)]);
    assert_eq!(read_all(&log, "t", Isolation::ReadCommitted), ["v"]);
}

#[test]
fn every_call_of_a_fenced_producer_says_so() {
    let log = EmbeddedLog::in_memory();
    topic(&log, "t", 1);
    let mut idle = producer(&log, "p");
    let mut running = producer(&log, "q");
    running.begin_transaction().unwrap();
    running.send(record("t", b"v")).unwrap();
    let _newer = (producer(&log, "p"), producer(&log, "q"));
    let classes = [
        idle.begin_transaction().unwrap_err().class,
        running.send(record("t", b"v")).unwrap_err().class,
        running.begin_commit(Vec::new(), None).unwrap_err().class,
        running.abort_transaction(Duration::ZERO).unwrap_err().class,
    ];
    assert_eq!(classes, [ErrorClass::Fenced; 4]);
}

#[test]
fn an_offset_out_of_range_starts_where_the_policy_says() {
    let log = EmbeddedLog::in_memory();
    topic(&log, "t", 1);
    let mut producer = log.producer(ProducerConfig::default()).unwrap();
    producer.send(record("t", b"v")).unwrap();
    producer.flush(Duration::ZERO).unwrap();
    for (reset, seen, end) in [(OffsetReset::Earliest, 1, 1), (OffsetReset::Latest, 0, 1)] {
        let config = ConsumerConfig {
            reset,
            ..ConsumerConfig::default()
        };
        let mut consumer = log.consumer(config).unwrap();
        let t = TopicPartition::new("t", 0);
        consumer.assign(&[(t, Some(100))]).unwrap();
        assert_eq!(offsets(consumer.poll(Duration::ZERO).unwrap()).len(), seen);
        assert_eq!(position(&*consumer, "t"), end);
    }
}
