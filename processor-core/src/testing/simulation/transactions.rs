//! Whether transactions are there as a whole or not at all: records of all topics and the offsets of their input.
//!
//! **Claim**, at any moment, of what the log has decided. What each instance puts into a transaction until it asks for the
//! commit is noted in a [`Ledger`]: how many records of which partitions, and which offsets. Then
//!
//! - a transaction that the log has committed is one whose commit was asked for, has exactly these records in each
//!   partition, and is committed in all of them;
//! - the group's committed offsets are not behind those of a committed transaction;
//! - they are not ahead of all of them: whoever goes on at an offset finds the results of everything before it.
//!
//! An offset is as good as another if there is no record between them: a position may lie before or behind a marker.
//!
//! Markers that are on their way to partitions or groups are taken as if they had come, but that offsets may lag as long as
//! they are kept from the group: what a reader sees meanwhile may be less, never something else. **In the end**, when all
//! markers have come, a reader of committed records sees as many records in each partition as committed transactions and
//! writers without transactions have put there.
//!
//! Not claimed: anything of applications that run at least once, which have no transactions; which records of a transaction
//! with the right number of them there are; and the outcome of a transaction without records, of which the log keeps
//! nothing, so that offsets which are asked for in one count as committed.

use std::collections::BTreeMap;

use crate::log::embedded::{Audit, EmbeddedLog, TransactionNumber};
use crate::log::{
    CommittedOffset, Log as _, LogError, Offset, TopicPartition, read_partition_to_end,
};

/// What an instance has asked to commit.
#[derive(Debug)]
struct Asked {
    records: BTreeMap<TopicPartition, u64>,
    offsets: Vec<(TopicPartition, Offset)>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Ledger(BTreeMap<TransactionNumber, Asked>);

impl Ledger {
    /// An instance asks to commit transaction `number`, into which it has put so many `records`.
    pub(super) fn note(
        &mut self,
        number: TransactionNumber,
        records: BTreeMap<TopicPartition, u64>,
        offsets: &[(TopicPartition, CommittedOffset)],
    ) {
        let offset = |(name, committed): &(TopicPartition, CommittedOffset)| {
            (name.clone(), committed.offset)
        };
        let offsets = offsets.iter().map(offset).collect();
        self.0.insert(number, Asked { records, offsets });
    }

    /// # Errors
    /// The first transaction of which a part is there.
    pub(super) fn check(&self, audit: &Audit) -> Result<(), String> {
        for (number, found) in &audit.transactions {
            if found.committed && found.aborted {
                return Err(format!(
                    "transaction {number} is committed in one partition and aborted in another"
                ));
            }
            if !found.committed {
                continue;
            }
            let Some(asked) = self.0.get(number) else {
                return Err(format!(
                    "transaction {number} is committed, and nobody had asked for that"
                ));
            };
            for partition in found.records.keys().chain(asked.records.keys()) {
                let of = |records: &BTreeMap<_, u64>| records.get(partition).copied().unwrap_or(0);
                let (there, sent) = (of(&found.records), of(&asked.records));
                if there != sent {
                    return Err(format!(
                        "transaction {number} is committed with {there} records in {partition}, not the {sent} that were sent"
                    ));
                }
            }
            for (partition, offset) in asked.offsets.iter().filter(|_| !audit.offsets_lag) {
                let reached = audit.offsets.get(partition);
                let goes_on = reached.map(|reached| audit.next_record(partition, *reached));
                if goes_on < Some(audit.next_record(partition, *offset)) {
                    return Err(format!(
                        "the records of transaction {number} are committed without their offset {offset} of {partition}: \
                         the group has {reached:?}"
                    ));
                }
            }
        }
        self.no_offset_is_ahead(audit)
    }

    fn no_offset_is_ahead(&self, audit: &Audit) -> Result<(), String> {
        let mut reached: BTreeMap<&TopicPartition, Offset> = BTreeMap::new();
        for (number, asked) in &self.0 {
            let found = audit.transactions.get(number);
            if found.is_none_or(|found| found.committed) {
                for (partition, offset) in &asked.offsets {
                    let known = reached.entry(partition).or_insert(*offset);
                    *known = (*known).max(*offset);
                }
            }
        }
        for (partition, offset) in &audit.offsets {
            let next = |offset: &Offset| audit.next_record(partition, *offset);
            let reached = reached.get(partition);
            if reached.map(next) < Some(next(offset)) {
                return Err(format!(
                    "offset {offset} of {partition} is committed, and the transaction with the results of what is before \
                     it is not: those that are committed go to {reached:?}"
                ));
            }
        }
        Ok(())
    }
}

/// # Errors
/// The first partition of which a reader of committed records sees more or less than what is committed there, now that
/// all markers have come.
pub(super) fn check_visible(log: &EmbeddedLog, audit: &Audit) -> Result<(), String> {
    let cannot = |error: LogError| format!("what is committed cannot be read: {error}");
    let mut committed = audit.plain.clone();
    for transaction in audit.transactions.values().filter(|found| found.committed) {
        for (partition, count) in &transaction.records {
            *committed.entry(partition.clone()).or_default() += count;
        }
    }
    for topic in log.topics().map_err(cannot)? {
        for partition in 0..log.partitions(&topic).map_err(cannot)?.unwrap_or(0) {
            let partition = TopicPartition::new(topic.as_str(), partition);
            let mut visible = 0;
            let mut visit = |_| {
                visible += 1;
                Ok(())
            };
            read_partition_to_end(log, &partition, &mut visit).map_err(cannot)?;
            let committed = committed.get(&partition).copied().unwrap_or(0);
            if visible != committed {
                return Err(format!(
                    "a reader of committed records sees {visible} in {partition}, where {committed} are committed"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{ConsumerConfig, NewTopic, Producer, ProducerConfig, ProducerRecord};
    use std::time::Duration;

    /// A log, the producer of its only transaction, and what it was asked to commit: two records, and an offset.
    struct World {
        log: EmbeddedLog,
        producer: Box<dyn Producer>,
        input: TopicPartition,
    }

    const AT_5: CommittedOffset = CommittedOffset {
        offset: 5,
        metadata: String::new(),
    };

    fn feed(log: &EmbeddedLog, records: usize) {
        let config = ProducerConfig::default();
        let mut producer = log.producer(config).expect("a producer");
        for _ in 0..records {
            let record = ProducerRecord {
                topic: "in",
                partition: 0,
                timestamp: 0,
                key: None,
                value: Some(b"v"),
                headers: &[],
            };
            producer.send(record).expect("there is such a topic");
        }
        producer.flush(Duration::ZERO).expect("it is in memory");
    }

    impl World {
        fn new() -> Self {
            let log = EmbeddedLog::in_memory();
            let topics = ["in", "out"].map(|name| NewTopic::new(name, 2));
            log.create_topics(&topics).expect("they are new");
            let config = ProducerConfig {
                transactional_id: Some("one".to_owned()),
                ..ProducerConfig::default()
            };
            let mut producer = log.producer(config).expect("a producer");
            producer
                .init_transactions(Duration::ZERO)
                .expect("its id is free");
            producer.begin_transaction().expect("it is ready");
            for partition in [0, 1] {
                let record = ProducerRecord {
                    topic: "out",
                    partition,
                    timestamp: 0,
                    key: None,
                    value: Some(b"v"),
                    headers: &[],
                };
                producer.send(record).expect("it is in a transaction");
            }
            let input = TopicPartition::new("in", 0);
            feed(&log, 7);
            Self {
                log,
                producer,
                input,
            }
        }

        fn begin_commit(&mut self) {
            let consumer = self.log.consumer(ConsumerConfig {
                group: Some("group".to_owned()),
                ..ConsumerConfig::default()
            });
            let group = consumer
                .and_then(|consumer| consumer.group_metadata())
                .expect("a group");
            let offsets = vec![(self.input.clone(), AT_5)];
            self.producer
                .begin_commit(offsets, Some(group))
                .expect("it is in a transaction");
        }

        fn audit(&self) -> Audit {
            self.log.audit("group").expect("the log is whole")
        }

        /// A ledger of a transaction with so many records in partitions 0 and 1 and that offset.
        fn ledger(&self, records: [u64; 2], offset: Offset) -> Ledger {
            let number = *self
                .audit()
                .transactions
                .keys()
                .next()
                .expect("a transaction");
            let partition = |number| TopicPartition::new("out", number);
            let records = BTreeMap::from([(partition(0), records[0]), (partition(1), records[1])]);
            let mut ledger = Ledger::default();
            let asked = CommittedOffset { offset, ..AT_5 };
            ledger.note(number, records, &[(self.input.clone(), asked)]);
            ledger
        }
    }

    #[test]
    fn a_transaction_is_there_as_a_whole_or_not_at_all() {
        let mut world = World::new();
        world.begin_commit();
        let ledger = world.ledger([1, 1], 5);
        assert_eq!(
            ledger.check(&world.audit()),
            Ok(()),
            "nothing of it is there"
        );
        world
            .log
            .hold_markers(true, &mut |partition| partition.partition == 1);
        world
            .producer
            .poll_commit(Duration::ZERO)
            .expect("it is committed");
        assert_eq!(ledger.check(&world.audit()), Ok(()), "it is on its way");
        assert!(
            check_visible(&world.log, &world.audit()).is_err(),
            "a marker has not come"
        );
        world.log.hold_markers(false, &mut |_| false);
        assert_eq!(ledger.check(&world.audit()), Ok(()), "all of it is there");
        assert_eq!(check_visible(&world.log, &world.audit()), Ok(()));
        let violated = [
            (
                world.ledger([1, 2], 5),
                "with 1 records in out-1, not the 2",
            ),
            (
                world.ledger([0, 1], 5),
                "with 1 records in out-0, not the 0",
            ),
            (world.ledger([1, 1], 6), "without their offset 6"),
            (world.ledger([1, 1], 4), "offset 5 of in-0 is committed"),
            (Ledger::default(), "nobody had asked"),
        ];
        for (ledger, why) in violated {
            let found = ledger.check(&world.audit()).expect_err(why);
            assert!(found.contains(why), "{found}");
        }
    }
}
