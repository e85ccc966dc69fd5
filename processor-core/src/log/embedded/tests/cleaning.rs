//! Retention and compaction.

use std::collections::BTreeMap;

use super::*;
use crate::clock::ManualClock;

fn keyed<'a>(key: &'a [u8], value: Option<&'a [u8]>, timestamp: i64) -> ProducerRecord<'a> {
    ProducerRecord {
        topic: "t",
        partition: 0,
        timestamp,
        key: Some(key),
        value,
        headers: &[],
    }
}

/// A log over files and one in memory, both small enough that cleaning has something to do.
fn logs(clock: &ManualClock, dir: &Path) -> [EmbeddedLog; 2] {
    let options = Options {
        clock: Arc::new(clock.clone()),
        segment_bytes: 500,
        tail_bytes: 300,
        tombstone_retention: Duration::from_secs(10),
        ..Options::default()
    };
    [
        EmbeddedLog::in_memory_with_options(options.clone()),
        EmbeddedLog::open_with(dir, options).unwrap(),
    ]
}

fn records(log: &EmbeddedLog) -> Vec<ConsumerRecord> {
    let mut reader = reader(log, "t");
    let mut all = Vec::new();
    while let Polled::Records(batches) = reader.poll(Duration::ZERO).unwrap() {
        all.extend(batches.into_iter().flat_map(|b| b.records));
    }
    all
}

#[test]
fn compaction_keeps_the_last_record_of_each_key_and_tombstones_for_a_while() {
    let clock = ManualClock::at(1_000_000);
    let dir = tempfile::tempdir().unwrap();
    for log in logs(&clock, dir.path()) {
        log.create_topics(&[NewTopic::new("t", 1).cleanup(Cleanup::Compact)])
            .unwrap();
        let mut producer = producer(&log, "p");
        let mut last = BTreeMap::new();
        for round in 0..40_u32 {
            producer.begin_transaction().unwrap();
            let key = format!("k{}", round % 7);
            let value = round.to_string();
            let value = (round % 7 != 3).then_some(value.as_bytes());
            producer.send(keyed(key.as_bytes(), value, 0)).unwrap();
            if round % 5 == 4 {
                producer.flush(Duration::ZERO).unwrap();
                producer.abort_transaction(Duration::ZERO).unwrap();
            } else {
                commit(&mut *producer);
                last.insert(key, value.map(<[u8]>::to_vec));
            }
        }
        let before: BTreeMap<_, _> = records(&log).into_iter().map(|r| (r.offset, r)).collect();
        log.clean().unwrap();
        let after = records(&log);
        assert_eq!(after.len(), last.len());
        for record in &after {
            assert_eq!(
                before.get(&record.offset),
                Some(record),
                "unchanged, in its place"
            );
            let key = String::from_utf8(record.key.as_deref().unwrap().to_vec()).unwrap();
            assert_eq!(last[&key].as_deref(), record.value.as_deref(), "{key}");
        }
        assert!(
            after.iter().any(|r| r.value.is_none()),
            "tombstones stay for now"
        );
        log.clean().unwrap();
        assert_eq!(records(&log), after);
        clock.advance(Duration::from_secs(11));
        log.clean().unwrap();
        let live: Vec<_> = after.into_iter().filter(|r| r.value.is_some()).collect();
        assert_eq!(records(&log), live);
        producer.begin_transaction().unwrap();
        producer.send(keyed(b"new", Some(b"v"), 0)).unwrap();
        commit(&mut *producer);
        assert_eq!(records(&log).len(), live.len() + 1);
    }
    let log = EmbeddedLog::open(dir.path()).unwrap();
    assert!(records(&log).iter().all(|r| r.value.is_some()));
    assert_eq!(
        records(&log).last().unwrap().key.as_deref(),
        Some(&b"new"[..])
    );
}

#[test]
fn nothing_undecided_is_cleaned() {
    let clock = ManualClock::at(1_000_000);
    let dir = tempfile::tempdir().unwrap();
    for log in logs(&clock, dir.path()) {
        let mut new = NewTopic::new("t", 1).cleanup(Cleanup::CompactAndDelete);
        new.retention_ms = Some(1);
        log.create_topics(&[new]).unwrap();
        let mut open = producer(&log, "open");
        open.begin_transaction().unwrap();
        open.send(keyed(b"k", Some(b"open"), 0)).unwrap();
        open.flush(Duration::ZERO).unwrap();
        let mut other = producer(&log, "other");
        other.begin_transaction().unwrap();
        other.send(keyed(b"k", Some(b"behind"), 0)).unwrap();
        commit(&mut *other);
        log.clean().unwrap();
        assert_eq!(records(&log).len(), 0);
        commit(&mut *open);
        assert_eq!(records(&log).len(), 2);
    }
}

#[test]
fn retention_goes_by_event_time() {
    let clock = ManualClock::at(1_000_000);
    let dir = tempfile::tempdir().unwrap();
    for log in logs(&clock, dir.path()) {
        let mut new = NewTopic::new("t", 1);
        new.retention_ms = Some(100_000);
        log.create_topics(&[new]).unwrap();
        let mut producer = log.producer(ProducerConfig::default()).unwrap();
        for n in 0..40 {
            let timestamp = 850_000 + n * 10_000;
            producer
                .send(keyed(b"k", Some(&[0; 50]), timestamp))
                .unwrap();
            producer.flush(Duration::ZERO).unwrap();
        }
        log.clean().unwrap();
        let left = records(&log);
        assert!(left.len() < 40 && left.len() >= 35, "{}", left.len());
        assert!(left.iter().filter(|r| r.timestamp < 900_000).count() < 5);
        let reader = reader(&log, "t");
        let t = TopicPartition::new("t", 0);
        let first = reader.beginning_offset(&t, Duration::ZERO).unwrap();
        assert_eq!(left[0].offset, first);
    }
}

/// A topic whose records are too old from the start.
fn expiring(log: &EmbeddedLog) {
    let mut new = NewTopic::new("t", 1);
    new.retention_ms = Some(1);
    log.create_topics(&[new]).unwrap();
}

#[test]
fn the_append_that_starts_a_file_cleans_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let [_, log] = logs(&ManualClock::at(1_000_000), dir.path());
    expiring(&log);
    let mut producer = log.producer(ProducerConfig::default()).unwrap();
    for left in [1, 2, 1] {
        producer.send(keyed(b"k", Some(&[0; 150]), 0)).unwrap();
        producer.flush(Duration::ZERO).unwrap();
        assert_eq!(records(&log).len(), left, "two of them fill a file");
    }
}

#[test]
fn so_does_a_marker_that_starts_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let [_, log] = logs(&ManualClock::at(1_000_000), dir.path());
    expiring(&log);
    let mut producer = producer(&log, "p");
    producer.begin_transaction().unwrap();
    producer.send(keyed(b"k", Some(&[0; 400]), 0)).unwrap();
    commit(&mut *producer);
    let t = TopicPartition::new("t", 0);
    let start = reader(&log, "t").beginning_offset(&t, Duration::ZERO);
    assert_eq!(start.unwrap(), 1, "the marker is alone in its file");
}

#[test]
fn a_compacted_topic_stays_small_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let [_, log] = logs(&ManualClock::at(0), dir.path());
    log.create_topics(&[NewTopic::new("t", 1).cleanup(Cleanup::Compact)])
        .unwrap();
    let mut producer = log.producer(ProducerConfig::default()).unwrap();
    for n in 0..2_000_u32 {
        let key = [u8::try_from(n % 3).unwrap()];
        producer.send(keyed(&key, Some(&[1; 40]), 0)).unwrap();
        producer.flush(Duration::ZERO).unwrap();
    }
    assert!(records(&log).len() < 50, "{}", records(&log).len());
}

#[test]
fn a_record_within_the_lag_does_not_drop_the_one_that_was_in_force_before_it() {
    let hours = |hours: f64| (hours * 3_600_000.0) as i64;
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(hours(30.0));
    let logs = logs(&clock, dir.path());
    for log in &logs {
        let mut new = NewTopic::new("t", 1).cleanup(Cleanup::Compact);
        new.min_compaction_lag_ms = Some(hours(25.0));
        log.create_topics(&[new]).unwrap();
        let mut producer = log.producer(ProducerConfig::default()).unwrap();
        let mut send = |key: &[u8], value: &[u8], at: f64| {
            producer.send(keyed(key, Some(value), hours(at))).unwrap();
            producer.flush(Duration::ZERO).unwrap();
        };
        send(b"k", b"superseded", 0.0);
        send(b"k", b"in force", 1.0);
        send(b"k", b"young", 29.9);
        send(b"k", b"younger", 29.95);
        send(b"other", b"alone", 0.0);
        log.clean().unwrap();
        assert_eq!(values(log), ["in force", "young", "younger", "alone"]);
    }
    clock.advance(Duration::from_secs(25 * 3_600));
    for log in &logs {
        log.clean().unwrap();
        assert_eq!(values(log), ["younger", "alone"], "the lag is over");
    }
}

fn values(log: &EmbeddedLog) -> Vec<String> {
    let value = |record: ConsumerRecord| record.value.unwrap().to_vec();
    let text = |record| String::from_utf8(value(record)).unwrap();
    records(log).into_iter().map(text).collect()
}
