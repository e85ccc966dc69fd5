//! Random transactional histories against a simple model, over files, with kills and reopening.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const PRODUCERS: usize = 3;
const PARTITIONS: i32 = 2;

/// What may happen. Impossible steps (a commit without a transaction) are skipped by model and log alike.
#[derive(Debug, Clone)]
enum Action {
    Send {
        producer: usize,
        partition: i32,
    },
    Flush {
        producer: usize,
    },
    Offsets {
        producer: usize,
        offset: i64,
    },
    Commit {
        producer: usize,
    },
    Abort {
        producer: usize,
    },
    /// A successor takes the transactional id over.
    Replace {
        producer: usize,
    },
    /// A producer without transactions.
    Plain {
        partition: i32,
    },
    /// The process is killed and started again.
    Reopen,
    Read,
}

fn action() -> impl Strategy<Value = Action> {
    let producer = 0..PRODUCERS;
    let partition = 0..PARTITIONS;
    prop_oneof![
        6 => (producer.clone(), partition.clone())
            .prop_map(|(producer, partition)| Action::Send { producer, partition }),
        2 => producer.clone().prop_map(|producer| Action::Flush { producer }),
        1 => (producer.clone(), 0..100_i64)
            .prop_map(|(producer, offset)| Action::Offsets { producer, offset }),
        3 => producer.clone().prop_map(|producer| Action::Commit { producer }),
        2 => producer.clone().prop_map(|producer| Action::Abort { producer }),
        1 => producer.prop_map(|producer| Action::Replace { producer }),
        1 => partition.prop_map(|partition| Action::Plain { partition }),
        1 => Just(Action::Reopen),
        2 => Just(Action::Read),
    ]
}

/// A record of the model: its value, the transaction it is in, and that one's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open(u64),
    Committed,
    Aborted,
}

#[derive(Debug, Default)]
struct Model {
    partitions: BTreeMap<i32, Vec<(String, Fate)>>,
    committed_offset: Option<i64>,
}

impl Model {
    fn decide(&mut self, transaction: u64, fate: Fate) {
        for (_, known) in self.partitions.values_mut().flatten() {
            if *known == Fate::Open(transaction) {
                *known = fate;
            }
        }
    }

    /// What a reader of committed records sees of `partition`.
    fn visible(&self, partition: i32) -> Vec<&str> {
        let all = self.partitions.get(&partition).into_iter().flatten();
        all.take_while(|(_, fate)| !matches!(fate, Fate::Open(_)))
            .filter(|(_, fate)| *fate == Fate::Committed)
            .map(|(value, _)| value.as_str())
            .collect()
    }
}

/// A transactional producer as the model sees it.
struct Running {
    producer: Box<dyn Producer>,
    id: String,
    transaction: Option<u64>,
    /// Sent but not flushed.
    buffered: Vec<(i32, String)>,
    offset: Option<i64>,
}

struct World {
    dir: tempfile::TempDir,
    log: Option<EmbeddedLog>,
    producers: Vec<Running>,
    model: Model,
    next: u64,
}

fn options() -> Options {
    Options {
        segment_bytes: 600,
        tail_bytes: 300,
        ..Options::default()
    }
}

fn start(log: &EmbeddedLog, id: &str) -> Running {
    Running {
        producer: producer(log, id),
        id: id.to_owned(),
        transaction: None,
        buffered: Vec::new(),
        offset: None,
    }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open_with(dir.path(), options()).unwrap();
        topic(&log, "t", PARTITIONS);
        let producers = (0..PRODUCERS)
            .map(|n| start(&log, &format!("p{n}")))
            .collect();
        Self {
            dir,
            log: Some(log),
            producers,
            model: Model::default(),
            next: 0,
        }
    }

    fn log(&self) -> &EmbeddedLog {
        self.log.as_ref().unwrap()
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn record<'a>(partition: i32, value: &'a str) -> ProducerRecord<'a> {
        ProducerRecord {
            partition,
            ..record("t", value.as_bytes())
        }
    }

    /// The model's log gets what the producer has buffered, partition by partition.
    fn append_buffered(&mut self, n: usize) {
        let running = &mut self.producers[n];
        let transaction = running.transaction.unwrap_or_default();
        for (partition, value) in running.buffered.drain(..) {
            let records = self.model.partitions.entry(partition).or_default();
            records.push((value, Fate::Open(transaction)));
        }
    }

    fn begin(&mut self, n: usize) {
        if self.producers[n].transaction.is_none() {
            let transaction = self.fresh();
            self.producers[n].producer.begin_transaction().unwrap();
            self.producers[n].transaction = Some(transaction);
        }
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Send {
                producer,
                partition,
            } => {
                self.begin(producer);
                let value = self.fresh().to_string();
                let running = &mut self.producers[producer];
                running
                    .producer
                    .send(Self::record(partition, &value))
                    .unwrap();
                running.buffered.push((partition, value));
            }
            Action::Flush { producer } => {
                self.producers[producer]
                    .producer
                    .flush(Duration::ZERO)
                    .unwrap();
                self.append_buffered(producer);
            }
            Action::Offsets { producer, offset } => {
                self.begin(producer);
                self.producers[producer].offset = Some(offset);
            }
            Action::Commit { producer } => self.commit(producer),
            Action::Abort { producer } => {
                let running = &mut self.producers[producer];
                if let Some(transaction) = running.transaction.take() {
                    running.producer.abort_transaction(Duration::ZERO).unwrap();
                    running.buffered.clear();
                    running.offset = None;
                    self.model.decide(transaction, Fate::Aborted);
                }
            }
            Action::Replace { producer } => {
                let id = self.producers[producer].id.clone();
                let transaction = self.producers[producer].transaction;
                let fresh = start(self.log(), &id);
                let mut older = std::mem::replace(&mut self.producers[producer], fresh);
                let refused = match transaction {
                    Some(_) => older.producer.begin_commit(Vec::new(), None),
                    None => older.producer.begin_transaction(),
                };
                assert_eq!(refused.unwrap_err().class, ErrorClass::Fenced);
                self.model
                    .decide(transaction.unwrap_or_default(), Fate::Aborted);
            }
            Action::Plain { partition } => {
                let value = self.fresh().to_string();
                let mut plain = self.log().producer(ProducerConfig::default()).unwrap();
                plain.send(Self::record(partition, &value)).unwrap();
                drop(plain);
                let records = self.model.partitions.entry(partition).or_default();
                records.push((value, Fate::Committed));
            }
            Action::Reopen => self.reopen(),
            Action::Read => self.check(),
        }
    }

    fn commit(&mut self, n: usize) {
        let Some(transaction) = self.producers[n].transaction.take() else {
            return;
        };
        self.producers[n].transaction = Some(transaction);
        self.append_buffered(n);
        let group = self.group();
        let running = &mut self.producers[n];
        running.transaction = None;
        let offset = running.offset.take();
        let offsets = offset.map(|offset| {
            let metadata = format!("m{offset}");
            (
                TopicPartition::new("t", 0),
                CommittedOffset { offset, metadata },
            )
        });
        let metadata = group.group_metadata().unwrap();
        let offsets = Vec::from_iter(offsets);
        running
            .producer
            .begin_commit(offsets, Some(metadata))
            .unwrap();
        running
            .producer
            .poll_commit(Duration::ZERO)
            .unwrap()
            .unwrap();
        self.model.decide(transaction, Fate::Committed);
        self.model.committed_offset = offset.or(self.model.committed_offset);
    }

    fn group(&self) -> Box<dyn Consumer> {
        let config = ConsumerConfig {
            group: Some("g".into()),
            ..ConsumerConfig::default()
        };
        self.log().consumer(config).unwrap()
    }

    fn reopen(&mut self) {
        let open: Vec<u64> = self
            .producers
            .iter()
            .filter_map(|p| p.transaction)
            .collect();
        self.producers.clear();
        self.log = None;
        for transaction in open {
            self.model.decide(transaction, Fate::Aborted);
        }
        let log = EmbeddedLog::open_with(self.dir.path(), options()).unwrap();
        self.producers = (0..PRODUCERS)
            .map(|n| start(&log, &format!("p{n}")))
            .collect();
        self.log = Some(log);
    }

    fn check(&self) {
        for partition in 0..PARTITIONS {
            let mut reader = self.log().consumer(ConsumerConfig::default()).unwrap();
            let t = TopicPartition::new("t", partition);
            reader.assign(&[(t.clone(), None)]).unwrap();
            let mut seen = Vec::new();
            while let Polled::Records(batches) = reader.poll(Duration::ZERO).unwrap() {
                let records = batches.iter().flat_map(|b| &b.records);
                seen.extend(records.map(|r| r.value.clone().unwrap()));
            }
            assert_eq!(seen, self.model.visible(partition), "{t}");
            let end = reader.end_offset(&t, Isolation::ReadCommitted, Duration::ZERO);
            assert_eq!(reader.position(&t).unwrap(), Some(end.unwrap()), "{t}");
        }
        let t = [TopicPartition::new("t", 0)];
        let committed = self.group().committed(&t, Duration::ZERO).unwrap();
        assert_eq!(
            committed[0]
                .as_ref()
                .map(|c| (c.offset, c.metadata.clone())),
            self.model.committed_offset.map(|o| (o, format!("m{o}")))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_equal_the_model(actions in vec(action(), 1..120)) {
        let mut world = World::new();
        for action in &actions {
            world.act(action);
        }
        world.check();
        world.reopen();
        world.check();
    }
}
