//! Tests of what only the embedded log promises; what every log promises is in `contract`.

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
fn an_expired_member_loses_its_partitions_and_joins_again() {
    let clock = ManualClock::at(0);
    let log = EmbeddedLog::in_memory_with(Arc::new(clock.clone()));
    topic(&log, "t", 2);
    let member = || {
        let mut consumer = log
            .consumer(ConsumerConfig {
                group: Some("g".into()),
                ..ConsumerConfig::default()
            })
            .unwrap();
        consumer.subscribe(&["t"]).unwrap();
        consumer
    };
    let mut first = member();
    let Polled::Assigned(all) = first.poll(Duration::ZERO).unwrap() else {
        panic!("a lone member is assigned at its first poll");
    };
    assert_eq!(all.len(), 2);
    let mut second = member();
    assert!(matches!(second.poll(Duration::ZERO), Ok(Polled::Nothing)));
    clock.advance(Duration::from_secs(59));
    assert!(matches!(second.poll(Duration::ZERO), Ok(Polled::Nothing)));
    clock.advance(Duration::from_secs(2));
    let Polled::Assigned(taken) = second.poll(Duration::ZERO).unwrap() else {
        panic!("the first member has expired");
    };
    assert_eq!(taken, all);
    let Polled::Revoked { partitions, lost } = first.poll(Duration::ZERO).unwrap() else {
        panic!("it lost its partitions");
    };
    assert!(lost);
    first.release(&partitions).unwrap();
    assert!(matches!(first.poll(Duration::ZERO), Ok(Polled::Nothing)));
    let Polled::Revoked { partitions, lost } = second.poll(Duration::ZERO).unwrap() else {
        panic!("the first member is back");
    };
    assert!(!lost);
    second.release(&partitions).unwrap();
    for member in [&mut first, &mut second] {
        assert!(matches!(member.poll(Duration::ZERO), Ok(Polled::Assigned(p)) if p.len() == 1));
    }
}
