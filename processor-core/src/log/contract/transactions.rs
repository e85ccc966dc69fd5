//! Transactions: all or nothing, hidden until decided, and one owner per transactional id.

use super::clients::{
    PATIENCE, abort, append, begin_with, commit, create, expect_position, expect_silence, finish,
    plain, read, reader, send, tp, transactional, values,
};
use crate::clock::Deadline;
use crate::log::{ErrorClass, Isolation, Log, LogError, Offset, Producer, TopicPartition};

const COMMITTED: Isolation = Isolation::ReadCommitted;
const EVERYTHING: Isolation = Isolation::ReadUncommitted;

fn end(log: &dyn Log, partition: &TopicPartition, isolation: Isolation) -> Offset {
    reader(log, COMMITTED, &[])
        .end_offset(partition, isolation, PATIENCE)
        .expect("end offset")
}

/// Polls until the ends of both isolations are the same: all markers have arrived.
fn settled_end(log: &dyn Log, partition: &TopicPartition) -> Offset {
    let deadline = Deadline::after(PATIENCE);
    loop {
        let stable = end(log, partition, COMMITTED);
        if stable == end(log, partition, EVERYTHING) {
            return stable;
        }
        assert!(
            !deadline.passed(),
            "a transaction on {partition} stays open"
        );
    }
}

pub(super) fn open_transactions_are_hidden_until_they_commit(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    let mut producer = transactional(log, &format!("{prefix}-p"));
    let mut consumer = reader(log, COMMITTED, std::slice::from_ref(&t));
    begin_with(&mut *producer, &t, &["a", "b"]);
    append(log, &t, &["behind an open transaction"]);
    expect_silence(&mut *consumer);
    commit(&mut *producer);
    let seen = values(&read(&mut *consumer, 3));
    assert_eq!(seen, ["a", "b", "behind an open transaction"]);
}

pub(super) fn aborted_records_are_never_seen(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    let mut producer = transactional(log, &format!("{prefix}-p"));
    begin_with(&mut *producer, &t, &["aborted"]);
    abort(&mut *producer);
    begin_with(&mut *producer, &t, &["kept"]);
    send(&mut *producer, &t, "sent right before the commit");
    commit(&mut *producer);
    producer.begin_transaction().expect("begin");
    send(&mut *producer, &t, "aborted before it was flushed");
    abort(&mut *producer);
    let mut consumer = reader(log, COMMITTED, &[t]);
    let seen = values(&read(&mut *consumer, 2));
    assert_eq!(seen, ["kept", "sent right before the commit"]);
    expect_silence(&mut *consumer);
}

pub(super) fn a_tail_of_control_records_leaves_no_lag(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    let mut producer = transactional(log, &format!("{prefix}-p"));
    for round in 0..4 {
        begin_with(&mut *producer, &t, &["x", "y", "z"]);
        match round % 2 {
            0 => drop(commit(&mut *producer)),
            _ => abort(&mut *producer),
        }
    }
    let mut consumer = reader(log, COMMITTED, std::slice::from_ref(&t));
    let offsets: Vec<_> = read(&mut *consumer, 6).iter().map(|r| r.offset).collect();
    assert_eq!(offsets[..3], [0, 1, 2]);
    assert!(
        offsets[3] >= 6,
        "aborted records keep their offsets: {offsets:?}"
    );
    assert_eq!(offsets[3..], [offsets[3], offsets[3] + 1, offsets[3] + 2]);
    let end = settled_end(log, &t);
    assert!(end > offsets[5] + 3, "aborted records and markers follow");
    expect_position(&mut *consumer, &t, end);
}

pub(super) fn uncommitted_readers_see_everything(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    let mut producer = transactional(log, &format!("{prefix}-p"));
    begin_with(&mut *producer, &t, &["aborted"]);
    abort(&mut *producer);
    begin_with(&mut *producer, &t, &["open"]);
    let mut consumer = reader(log, EVERYTHING, &[t]);
    assert_eq!(values(&read(&mut *consumer, 2)), ["aborted", "open"]);
    abort(&mut *producer);
}

pub(super) fn ends_differ_while_a_transaction_is_open(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    append(log, &t, &["a"]);
    let before = settled_end(log, &t);
    let mut producer = transactional(log, &format!("{prefix}-p"));
    begin_with(&mut *producer, &t, &["b", "c"]);
    assert_eq!(
        end(log, &t, COMMITTED),
        before,
        "the open transaction starts here"
    );
    assert_eq!(end(log, &t, EVERYTHING), before + 2);
    commit(&mut *producer);
    assert!(settled_end(log, &t) >= before + 2);
}

/// Uses `producer` for a transaction; one of the calls must say that it is fenced.
fn expect_fenced(producer: &mut dyn Producer, t: &TopicPartition) {
    let mut attempt = || -> Result<(), LogError> {
        producer.begin_transaction()?;
        let record = crate::log::ProducerRecord {
            topic: &t.topic,
            partition: t.partition,
            timestamp: 0,
            key: None,
            value: Some(b"zombie"),
            headers: &[],
        };
        producer.send(record)?;
        producer.flush(PATIENCE)?;
        producer.begin_commit(Vec::new(), None)?;
        finish_or(producer)
    };
    let refused = attempt().expect_err("a fenced producer cannot commit");
    assert_eq!(refused.class, ErrorClass::Fenced, "{refused}");
}

fn finish_or(producer: &mut dyn Producer) -> Result<(), LogError> {
    let deadline = Deadline::after(PATIENCE);
    while producer.poll_commit(deadline.remaining())?.is_none() {
        assert!(!deadline.passed(), "no outcome of the commit");
    }
    Ok(())
}

pub(super) fn a_newer_producer_fences_the_older(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    let id = format!("{prefix}-p");
    let mut older = transactional(log, &id);
    begin_with(&mut *older, &t, &["older"]);
    commit(&mut *older);
    let mut newer = transactional(log, &id);
    expect_fenced(&mut *older, &t);
    begin_with(&mut *newer, &t, &["newer"]);
    commit(&mut *newer);
    let mut consumer = reader(log, COMMITTED, &[t]);
    assert_eq!(values(&read(&mut *consumer, 2)), ["older", "newer"]);
    expect_silence(&mut *consumer);
}

pub(super) fn init_settles_what_the_predecessor_left_open(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    let id = format!("{prefix}-p");
    let mut older = transactional(log, &id);
    begin_with(&mut *older, &t, &["left open"]);
    let mut newer = transactional(log, &id);
    begin_with(&mut *newer, &t, &["new"]);
    commit(&mut *newer);
    let mut consumer = reader(log, COMMITTED, &[t]);
    assert_eq!(values(&read(&mut *consumer, 1)), ["new"]);
    let refused = older.begin_commit(Vec::new(), None);
    let refused = refused.and_then(|()| finish_or(&mut *older));
    let refused = refused.expect_err("the older producer is fenced");
    assert_eq!(refused.class, ErrorClass::Fenced, "{refused}");
    expect_silence(&mut *consumer);
}

pub(super) fn acknowledged_offsets_are_those_read_back(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 3);
    let mut producer = transactional(log, &format!("{prefix}-p"));
    producer.begin_transaction().expect("begin");
    send(&mut *producer, &tp(&topic, 2), "a");
    send(&mut *producer, &tp(&topic, 2), "b");
    send(&mut *producer, &tp(&topic, 0), "c");
    let mut next = commit(&mut *producer).next_offsets;
    next.sort();
    for (partition, number) in [(0, 1), (2, 2)] {
        let mut consumer = reader(log, COMMITTED, &[tp(&topic, partition)]);
        let last = read(&mut *consumer, number)[number - 1].offset;
        assert!(
            next.contains(&(tp(&topic, partition), last + 1)),
            "{next:?}"
        );
    }
    assert_eq!(next.len(), 2, "only what it appended to: {next:?}");
    begin_with(&mut *producer, &tp(&topic, 1), &["d"]);
    let next = commit(&mut *producer).next_offsets;
    assert_eq!(next, [(tp(&topic, 1), 1)], "only this transaction counts");
}

pub(super) fn an_empty_transaction_commits(log: &dyn Log, prefix: &str) {
    let mut producer = transactional(log, &format!("{prefix}-p"));
    for _ in 0..2 {
        producer.begin_transaction().expect("begin");
        assert!(commit(&mut *producer).next_offsets.is_empty());
        producer.begin_transaction().expect("begin");
        abort(&mut *producer);
    }
}

pub(super) fn a_transaction_spans_partitions(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 4);
    let all: Vec<_> = (0..4).map(|p| tp(&topic, p)).collect();
    let mut producer = transactional(log, &format!("{prefix}-p"));
    let mut consumer = reader(log, COMMITTED, &all);
    producer.begin_transaction().expect("begin");
    for (partition, value) in all.iter().zip(["a", "b", "c", "d"]) {
        send(&mut *producer, partition, value);
    }
    producer.flush(PATIENCE).expect("flush");
    expect_silence(&mut *consumer);
    producer
        .begin_commit(Vec::new(), None)
        .expect("begin_commit");
    finish(&mut *producer);
    let mut seen = values(&read(&mut *consumer, 4));
    seen.sort();
    assert_eq!(seen, ["a", "b", "c", "d"]);
}

pub(super) fn a_producer_without_transactions_appends(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    let mut producer = plain(log);
    let many: Vec<String> = (0..2_500).map(|n| n.to_string()).collect();
    for value in &many {
        send(&mut *producer, &t, value);
    }
    producer.flush(PATIENCE).expect("flush");
    let mut consumer = reader(log, COMMITTED, &[t]);
    assert_eq!(values(&read(&mut *consumer, many.len())), many);
}

pub(super) fn a_commit_without_transactions_says_how_far_it_came(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    let mut producer = plain(log);
    send(&mut *producer, &t, "a");
    send(&mut *producer, &t, "b");
    assert_eq!(commit(&mut *producer).next_offsets, [(t.clone(), 2)]);
    assert!(commit(&mut *producer).next_offsets.is_empty());
    send(&mut *producer, &t, "c");
    assert_eq!(commit(&mut *producer).next_offsets, [(t.clone(), 3)]);
    let mut consumer = reader(log, COMMITTED, &[t]);
    assert_eq!(values(&read(&mut *consumer, 3)), ["a", "b", "c"]);
}

pub(super) fn the_wrong_order_of_calls_is_refused(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    let mut without_id = plain(log);
    assert!(without_id.init_transactions(PATIENCE).is_err());
    assert!(without_id.begin_transaction().is_err());
    let mut producer = transactional(log, &format!("{prefix}-p"));
    let refused = producer.begin_commit(Vec::new(), None);
    assert!(refused.is_err(), "a commit without a transaction");
}
