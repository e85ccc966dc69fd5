//! Short words for what the cases do all the time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Deadline;
use crate::log::{
    Committed, CommittedOffset, Consumer, ConsumerConfig, ConsumerRecord, Isolation, Log, NewTopic,
    Offset, Polled, Producer, ProducerConfig, ProducerRecord, TopicPartition,
};

/// How long an expectation may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long one poll waits; also how long "nothing comes" is watched, several times.
const STEP: Duration = Duration::from_millis(100);

pub(super) fn create(log: &dyn Log, topic: &str, partitions: i32) {
    log.create_topics(&[NewTopic::new(topic, partitions)])
        .unwrap_or_else(|e| panic!("cannot create {topic}: {e}"));
}

pub(super) fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

/// A producer with `id`, ready to begin.
pub(super) fn transactional(log: &dyn Log, id: &str) -> Box<dyn Producer> {
    let config = ProducerConfig {
        transactional_id: Some(id.to_owned()),
        ..ProducerConfig::default()
    };
    let mut producer = log.producer(config).expect("a producer");
    let deadline = Deadline::after(PATIENCE);
    while let Err(error) = producer.init_transactions(deadline.remaining()) {
        let retriable = error.class == crate::log::ErrorClass::Retriable;
        assert!(retriable && !deadline.passed(), "init: {error}");
    }
    producer
}

pub(super) fn plain(log: &dyn Log) -> Box<dyn Producer> {
    log.producer(ProducerConfig::default()).expect("a producer")
}

/// Sends `value` with itself as key.
pub(super) fn send(producer: &mut dyn Producer, to: &TopicPartition, value: &str) {
    producer
        .send(ProducerRecord {
            topic: &to.topic,
            partition: to.partition,
            timestamp: 1_000,
            key: Some(value.as_bytes()),
            value: Some(value.as_bytes()),
            headers: &[],
        })
        .unwrap_or_else(|e| panic!("send of {value} to {to}: {e}"));
}

/// Sends each of `values` without a transaction and waits for the log to have them.
pub(super) fn append(log: &dyn Log, to: &TopicPartition, values: &[&str]) {
    let mut producer = plain(log);
    values.iter().for_each(|v| send(&mut *producer, to, v));
    producer.flush(PATIENCE).expect("flush");
}

/// Begins, sends `values` and waits for the log to have them.
pub(super) fn begin_with(producer: &mut dyn Producer, to: &TopicPartition, values: &[&str]) {
    producer.begin_transaction().expect("begin");
    values.iter().for_each(|v| send(producer, to, v));
    producer.flush(PATIENCE).expect("flush");
}

/// Commits, without offsets.
pub(super) fn commit(producer: &mut dyn Producer) -> Committed {
    producer
        .begin_commit(Vec::new(), None)
        .expect("begin_commit");
    finish(producer)
}

/// Waits for the outcome of a commit.
pub(super) fn finish(producer: &mut dyn Producer) -> Committed {
    let deadline = Deadline::after(PATIENCE);
    loop {
        if let Some(committed) = producer.poll_commit(STEP).expect("poll_commit") {
            return committed;
        }
        assert!(!deadline.passed(), "no outcome of the commit");
    }
}

pub(super) fn abort(producer: &mut dyn Producer) {
    producer.abort_transaction(PATIENCE).expect("abort");
}

pub(super) fn at(offset: Offset, metadata: &str) -> CommittedOffset {
    CommittedOffset {
        offset,
        metadata: metadata.to_owned(),
    }
}

/// A reader outside any group, from the start of `partitions`.
pub(super) fn reader(
    log: &dyn Log,
    isolation: Isolation,
    partitions: &[TopicPartition],
) -> Box<dyn Consumer> {
    let config = ConsumerConfig {
        isolation,
        ..ConsumerConfig::default()
    };
    let mut consumer = log.consumer(config).expect("a consumer");
    let from_start: Vec<_> = partitions.iter().map(|p| (p.clone(), Some(0))).collect();
    consumer.assign(&from_start).expect("assign");
    consumer
}

/// A consumer of `group`.
pub(super) fn in_group(log: &dyn Log, group: &str) -> Box<dyn Consumer> {
    let config = ConsumerConfig {
        group: Some(group.to_owned()),
        ..ConsumerConfig::default()
    };
    log.consumer(config).expect("a consumer")
}

/// A member of `group` that reads `topics`.
pub(super) fn member(log: &dyn Log, group: &str, topics: &[&str]) -> Member {
    let mut consumer = in_group(log, group);
    consumer.subscribe(topics).expect("subscribe");
    Member::new(consumer)
}

pub(super) fn text(bytes: Option<&bytes::Bytes>) -> String {
    let bytes = bytes.expect("not null");
    String::from_utf8(bytes.to_vec()).expect("the cases send text")
}

pub(super) fn values(records: &[ConsumerRecord]) -> Vec<String> {
    records.iter().map(|r| text(r.value.as_ref())).collect()
}

/// Polls until `count` records have come; more at once are a fault of the log or the case.
pub(super) fn read(consumer: &mut dyn Consumer, count: usize) -> Vec<ConsumerRecord> {
    let deadline = Deadline::after(PATIENCE);
    let mut records = Vec::new();
    while records.len() < count {
        assert!(
            !deadline.passed(),
            "{} of {count} records came",
            records.len()
        );
        records.extend(poll_records(consumer));
    }
    assert_eq!(records.len(), count, "records");
    records
}

/// One poll of a consumer without a subscription.
pub(super) fn poll_records(consumer: &mut dyn Consumer) -> Vec<ConsumerRecord> {
    match consumer.poll(STEP).expect("poll") {
        Polled::Nothing => Vec::new(),
        Polled::Records(batches) => batches.into_iter().flat_map(|b| b.records).collect(),
        event => panic!("a consumer without a subscription got {event:?}"),
    }
}

/// Nothing comes for a while.
pub(super) fn expect_silence(consumer: &mut dyn Consumer) {
    for _ in 0..8 {
        let records = poll_records(consumer);
        assert!(
            records.is_empty(),
            "should not be seen: {:?}",
            values(&records)
        );
    }
}

/// Polls until the position of `partition` is `offset`; nothing visible may come.
pub(super) fn expect_position(
    consumer: &mut dyn Consumer,
    partition: &TopicPartition,
    offset: Offset,
) {
    let deadline = Deadline::after(PATIENCE);
    loop {
        let position = consumer.position(partition).expect("position");
        if position == Some(offset) {
            return;
        }
        assert!(
            !deadline.passed(),
            "position of {partition} is {position:?}, not {offset}"
        );
        assert!(
            poll_records(consumer).is_empty(),
            "no more records are left"
        );
    }
}

/// A member that does what the runtime does: assign what it is given, hand back what is taken.
pub(super) struct Member {
    pub(super) consumer: Box<dyn Consumer>,
    pub(super) owned: Vec<TopicPartition>,
    /// Assigned events seen.
    pub(super) assignments: usize,
    /// Records seen, by partition; removed when committed.
    pub(super) seen: BTreeMap<TopicPartition, Vec<String>>,
}

impl Member {
    pub(super) fn new(consumer: Box<dyn Consumer>) -> Self {
        Self {
            consumer,
            owned: Vec::new(),
            assignments: 0,
            seen: BTreeMap::new(),
        }
    }

    /// One poll. On a revoke, `commit` is called before the partitions are released.
    pub(super) fn step(&mut self, commit: impl FnOnce(&mut Self)) {
        match self.consumer.poll(STEP).expect("poll") {
            Polled::Nothing => {}
            Polled::Records(batches) => {
                for batch in batches {
                    assert!(
                        self.owned.contains(&batch.partition),
                        "records of {}, which is not owned",
                        batch.partition
                    );
                    let seen = self.seen.entry(batch.partition).or_default();
                    seen.extend(values(&batch.records));
                }
            }
            Polled::Assigned(partitions) => {
                let assign: Vec<_> = partitions.iter().map(|p| (p.clone(), None)).collect();
                self.consumer.assign(&assign).expect("assign");
                self.owned.extend(partitions);
                self.owned.sort();
                self.assignments += 1;
            }
            Polled::Revoked { partitions, lost } => {
                assert!(!lost, "nobody expired");
                commit(self);
                self.consumer.release(&partitions).expect("release");
                self.owned.retain(|p| !partitions.contains(p));
            }
        }
    }

    /// Polls until it owns `count` partitions.
    pub(super) fn settle(&mut self, count: usize) {
        let deadline = Deadline::after(PATIENCE);
        while self.owned.len() != count {
            assert!(!deadline.passed(), "owns {:?}, not {count}", self.owned);
            self.step(|_| {});
        }
    }

    /// What to commit now: the position of every partition that was read.
    pub(super) fn offsets(&self) -> Vec<(TopicPartition, CommittedOffset)> {
        let position = |p: &TopicPartition| self.consumer.position(p).expect("owned");
        self.owned
            .iter()
            .filter_map(|p| Some((p.clone(), at(position(p)?, ""))))
            .collect()
    }
}

/// Polls all members in turn until `done`.
pub(super) fn settle_all(members: &mut [&mut Member], done: impl Fn(&[&mut Member]) -> bool) {
    let deadline = Deadline::after(PATIENCE);
    while !done(members) {
        assert!(!deadline.passed(), "the group did not settle");
        members.iter_mut().for_each(|m| m.step(|_| {}));
    }
}
