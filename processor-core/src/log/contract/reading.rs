//! What is appended is read back, from where the reader wants it.

use std::sync::Arc;

use bytes::Bytes;

use super::clients::{
    PATIENCE, append, create, expect_position, expect_silence, plain, poll_records, read, reader,
    text, tp, values,
};
use crate::clock::Deadline;
use crate::log::{
    ConsumerConfig, ErrorClass, Header, Isolation, Log, OffsetReset, ProducerRecord, TopicPartition,
};

const COMMITTED: Isolation = Isolation::ReadCommitted;

pub(super) fn records_come_back_as_they_were_sent(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 1);
    let header = |name: &str, value: Option<&'static [u8]>| Header {
        name: Arc::from(name),
        value: value.map(Bytes::from_static),
    };
    let headers = [
        header("plain", Some(b"value")),
        header("null", None),
        header("empty", Some(b"")),
        header("plain", Some(b"again")),
    ];
    type Row<'a> = (i64, Option<&'a [u8]>, Option<&'a [u8]>, &'a [Header]);
    let rows: [Row<'_>; 5] = [
        (1, Some(b"key"), Some(b"value"), &headers),
        (1_700_000_000_000, Some(b"tombstone"), None, &[]),
        (1, None, Some(b"no key"), &headers[1..2]),
        (2, None, None, &[]),
        (3, Some(b""), Some(b""), &[]),
    ];
    let mut producer = plain(log);
    for (timestamp, key, value, headers) in rows {
        let record = ProducerRecord {
            topic: &topic,
            partition: 0,
            timestamp,
            key,
            value,
            headers,
        };
        producer.send(record).expect("send");
    }
    producer.flush(PATIENCE).expect("flush");
    let mut reader = reader(log, COMMITTED, &[tp(&topic, 0)]);
    let records = read(&mut *reader, rows.len());
    for (record, (timestamp, key, value, headers)) in records.iter().zip(rows) {
        assert_eq!(record.timestamp, timestamp);
        assert_eq!(record.key.as_deref(), key);
        assert_eq!(record.value.as_deref(), value);
        assert_eq!(record.headers, headers);
    }
    assert!(records.is_sorted_by(|a, b| a.offset < b.offset));
    expect_position(&mut *reader, &tp(&topic, 0), records[4].offset + 1);
}

pub(super) fn partitions_are_kept_apart(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 2);
    append(log, &tp(&topic, 0), &["a", "b"]);
    append(log, &tp(&topic, 1), &["c"]);
    let mut both = reader(log, COMMITTED, &[tp(&topic, 0), tp(&topic, 1)]);
    let mut all = values(&read(&mut *both, 3));
    all.sort();
    assert_eq!(all, ["a", "b", "c"]);
    let mut second = reader(log, COMMITTED, &[tp(&topic, 1)]);
    assert_eq!(values(&read(&mut *second, 1)), ["c"]);
    expect_silence(&mut *second);
}

pub(super) fn a_reader_can_start_anywhere(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 1);
    append(log, &tp(&topic, 0), &["a", "b", "c"]);
    let mut consumer = reader(log, COMMITTED, &[tp(&topic, 0)]);
    let offsets: Vec<_> = read(&mut *consumer, 3).iter().map(|r| r.offset).collect();
    let mut later = log.consumer(ConsumerConfig::default()).expect("consumer");
    later
        .assign(&[(tp(&topic, 0), Some(offsets[1]))])
        .expect("assign");
    assert_eq!(
        later.position(&tp(&topic, 0)).expect("assigned"),
        Some(offsets[1])
    );
    assert_eq!(values(&read(&mut *later, 2)), ["b", "c"]);
    let first = later.beginning_offset(&tp(&topic, 0), PATIENCE);
    assert_eq!(first.expect("beginning"), offsets[0]);
}

pub(super) fn reset_decides_where_a_new_reader_starts(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 1);
    append(log, &tp(&topic, 0), &["old"]);
    let start = |reset| {
        let config = ConsumerConfig {
            reset,
            ..ConsumerConfig::default()
        };
        let mut consumer = log.consumer(config).expect("consumer");
        consumer.assign(&[(tp(&topic, 0), None)]).expect("assign");
        consumer
    };
    let mut latest = start(OffsetReset::Latest);
    let deadline = Deadline::after(PATIENCE);
    while latest.position(&tp(&topic, 0)).expect("assigned").is_none() {
        assert!(!deadline.passed(), "no position after an assign");
        assert!(
            poll_records(&mut *latest).is_empty(),
            "old records are skipped"
        );
    }
    append(log, &tp(&topic, 0), &["new"]);
    assert_eq!(values(&read(&mut *latest, 1)), ["new"]);
    let mut earliest = start(OffsetReset::Earliest);
    assert_eq!(values(&read(&mut *earliest, 2)), ["old", "new"]);
}

/// A case that takes a log which loses records: no [`Log`] can be asked to, so `cut` deletes all that a partition has.
pub fn a_position_before_the_head_goes_where_the_reset_says(
    log: &dyn Log,
    prefix: &str,
    cut: &dyn Fn(&TopicPartition),
) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    append(log, &t, &["a", "b"]);
    let mut reader = reader(log, COMMITTED, std::slice::from_ref(&t));
    let first = read(&mut *reader, 2)[0].offset;
    cut(&t);
    append(log, &t, &["c"]);
    let head = reader.beginning_offset(&t, PATIENCE).expect("beginning");
    assert!(head > first, "nothing was cut");
    let from_first = |reset| {
        let config = ConsumerConfig {
            reset,
            ..ConsumerConfig::default()
        };
        let mut consumer = log.consumer(config).expect("consumer");
        let from = (t.clone(), Some(first));
        consumer.assign(&[from]).expect("assign");
        consumer
    };
    let mut earliest = from_first(OffsetReset::Earliest);
    assert_eq!(values(&read(&mut *earliest, 1)), ["c"]);
    let mut latest = from_first(OffsetReset::Latest);
    let deadline = Deadline::after(PATIENCE);
    // When it has found its new place shows only in what comes.
    loop {
        assert!(!deadline.passed(), "nothing new comes");
        append(log, &t, &["new"]);
        let seen = values(&poll_records(&mut *latest));
        assert!(seen.iter().all(|value| value == "new"), "{seen:?}");
        if !seen.is_empty() {
            return;
        }
    }
}

pub(super) fn seek_reads_again(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 1);
    append(log, &tp(&topic, 0), &["a", "b", "c"]);
    let mut consumer = reader(log, COMMITTED, &[tp(&topic, 0)]);
    let records = read(&mut *consumer, 3);
    consumer
        .seek(&tp(&topic, 0), records[1].offset)
        .expect("seek");
    assert_eq!(values(&read(&mut *consumer, 2)), ["b", "c"]);
    let elsewhere = consumer.seek(&tp(&topic, 7), 0);
    assert!(elsewhere.is_err(), "that partition is not assigned");
}

pub(super) fn paused_partitions_are_silent(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 2);
    let both = [tp(&topic, 0), tp(&topic, 1)];
    let mut consumer = reader(log, COMMITTED, &both);
    consumer.pause(&both[..1]).expect("pause");
    append(log, &both[0], &["paused"]);
    append(log, &both[1], &["running"]);
    assert_eq!(values(&read(&mut *consumer, 1)), ["running"]);
    expect_silence(&mut *consumer);
    consumer.resume(&both[..1]).expect("resume");
    assert_eq!(values(&read(&mut *consumer, 1)), ["paused"]);
    // Pausing in the middle keeps the place.
    append(log, &both[0], &["next"]);
    consumer.pause(&both).expect("pause");
    expect_silence(&mut *consumer);
    consumer.resume(&both).expect("resume");
    assert_eq!(values(&read(&mut *consumer, 1)), ["next"]);
}

pub(super) fn a_pause_ends_where_a_partition_is_released(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    append(log, &t, &["a", "b"]);
    let mut consumer = reader(log, COMMITTED, std::slice::from_ref(&t));
    assert_eq!(values(&read(&mut *consumer, 2)), ["a", "b"]);
    let partitions = std::slice::from_ref(&t);
    consumer.pause(partitions).expect("pause");
    consumer.release(partitions).expect("release");
    consumer.assign(&[(t, Some(1))]).expect("assign");
    assert_eq!(values(&read(&mut *consumer, 1)), ["b"]);
}

pub(super) fn a_partition_that_is_assigned_again_is_read_from_there(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    let [t, other] = [tp(&topic, 0), tp(&topic, 1)];
    create(log, &topic, 2);
    append(log, &t, &["a", "b"]);
    let mut consumer = reader(log, COMMITTED, &[t.clone(), other.clone()]);
    assert_eq!(values(&read(&mut *consumer, 2)), ["a", "b"]);
    consumer.pause(std::slice::from_ref(&t)).expect("pause");
    consumer.assign(&[(t.clone(), Some(1))]).expect("assign");
    assert_eq!(consumer.position(&t).expect("assigned"), Some(1));
    assert_eq!(values(&read(&mut *consumer, 1)), ["b"]);
    assert_eq!(consumer.position(&t).expect("assigned"), Some(2));
    append(log, &other, &["the other one is still read"]);
    read(&mut *consumer, 1);
}

pub(super) fn released_partitions_are_silent(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 2);
    let both = [tp(&topic, 0), tp(&topic, 1)];
    let mut consumer = reader(log, COMMITTED, &both);
    consumer.release(&both[..1]).expect("release");
    append(log, &both[0], &["released"]);
    append(log, &both[1], &["kept"]);
    assert_eq!(values(&read(&mut *consumer, 1)), ["kept"]);
    expect_silence(&mut *consumer);
    assert!(
        consumer.position(&both[0]).is_err(),
        "not assigned any more"
    );
}

pub(super) fn a_poll_returns_no_more_than_asked(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 1);
    append(log, &tp(&topic, 0), &["a", "b", "c", "d", "e"]);
    let config = ConsumerConfig {
        max_poll_records: 2,
        ..ConsumerConfig::default()
    };
    let mut consumer = log.consumer(config).expect("consumer");
    consumer
        .assign(&[(tp(&topic, 0), Some(0))])
        .expect("assign");
    let deadline = Deadline::after(PATIENCE);
    let mut all = Vec::new();
    while all.len() < 5 {
        assert!(!deadline.passed(), "records are missing");
        let records = poll_records(&mut *consumer);
        assert!(records.len() <= 2, "{} records in one poll", records.len());
        if let Some(last) = records.last() {
            let position = consumer.position(&tp(&topic, 0)).expect("assigned");
            assert_eq!(
                position,
                Some(last.offset + 1),
                "position follows what was returned"
            );
        }
        all.extend(records.iter().map(|r| text(r.value.as_ref())));
    }
    assert_eq!(all, ["a", "b", "c", "d", "e"]);
}

pub(super) fn oversized_records_are_rejected(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 1);
    let mut producer = plain(log);
    let huge = vec![0; 64 << 20];
    let record = ProducerRecord {
        topic: &topic,
        partition: 0,
        timestamp: 0,
        key: None,
        value: Some(&huge),
        headers: &[],
    };
    let refused = producer.send(record).expect_err("64 MiB in one record");
    assert_eq!(refused.class, ErrorClass::Rejected, "{refused}");
    super::clients::send(&mut *producer, &tp(&topic, 0), "small");
    producer
        .flush(PATIENCE)
        .expect("the producer is still good");
    let mut consumer = reader(log, COMMITTED, &[tp(&topic, 0)]);
    assert_eq!(values(&read(&mut *consumer, 1)), ["small"]);
}
