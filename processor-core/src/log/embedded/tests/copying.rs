//! Exactly-once copying by several threads, and by a process that is killed again and again.

use std::process::{Command, Stdio};
use std::thread;

use super::*;

const PARTITIONS: i32 = 4;
const STEP: Duration = Duration::from_millis(20);

fn fill(log: &EmbeddedLog, count: u32) {
    let mut producer = log.producer(ProducerConfig::default()).unwrap();
    for n in 0..count {
        let value = n.to_string();
        let record = ProducerRecord {
            partition: (n % PARTITIONS as u32) as i32,
            ..record("in", value.as_bytes())
        };
        producer.send(record).unwrap();
    }
    producer.flush(Duration::ZERO).unwrap();
}

/// Copies `in` to `out` as one member of the group, until the group has committed everything. A member leaves and
/// joins again every `rejoin` commits.
fn copy(log: &EmbeddedLog, id: &str, rejoin: usize) {
    let mut producer = producer(log, id);
    loop {
        let mut consumer = log
            .consumer(ConsumerConfig {
                group: Some("g".into()),
                max_poll_records: 100,
                ..ConsumerConfig::default()
            })
            .unwrap();
        consumer.subscribe(&["in"]).unwrap();
        let mut commits = 0;
        while commits < rejoin {
            match consumer.poll(STEP).unwrap() {
                Polled::Assigned(partitions) => {
                    let from: Vec<_> = partitions.into_iter().map(|p| (p, None)).collect();
                    consumer.assign(&from).unwrap();
                }
                Polled::Revoked { partitions, .. } => consumer.release(&partitions).unwrap(),
                Polled::Nothing if done(log, &*consumer) => return,
                Polled::Nothing => {}
                Polled::Records(batches) => {
                    copy_batches(&mut *producer, &*consumer, &batches);
                    commits += 1;
                }
            }
        }
    }
}

fn copy_batches(producer: &mut dyn Producer, consumer: &dyn Consumer, batches: &[RecordBatch]) {
    producer.begin_transaction().unwrap();
    let mut offsets = Vec::new();
    for batch in batches {
        for input in &batch.records {
            let output = record("out", input.value.as_deref().unwrap());
            let partition = batch.partition.partition;
            producer
                .send(ProducerRecord {
                    partition,
                    ..output
                })
                .unwrap();
        }
        let offset = consumer.position(&batch.partition).unwrap().unwrap();
        let metadata = String::new();
        offsets.push((
            batch.partition.clone(),
            CommittedOffset { offset, metadata },
        ));
    }
    let group = consumer.group_metadata().unwrap();
    producer.begin_commit(offsets, Some(group)).unwrap();
    producer.poll_commit(Duration::ZERO).unwrap().unwrap();
}

fn done(log: &EmbeddedLog, consumer: &dyn Consumer) -> bool {
    let all: Vec<_> = (0..PARTITIONS)
        .map(|p| TopicPartition::new("in", p))
        .collect();
    let committed = consumer.committed(&all, Duration::from_secs(5)).unwrap();
    let reader = log.consumer(ConsumerConfig::default()).unwrap();
    all.iter().zip(committed).all(|(p, c)| {
        let end = reader.end_offset(p, Isolation::ReadCommitted, Duration::ZERO);
        c.map_or(0, |c| c.offset) == end.unwrap()
    })
}

fn assert_copied(log: &EmbeddedLog, count: u32) {
    let mut reader = log.consumer(ConsumerConfig::default()).unwrap();
    let all: Vec<_> = (0..PARTITIONS)
        .map(|p| (TopicPartition::new("out", p), None))
        .collect();
    reader.assign(&all).unwrap();
    let mut seen = Vec::new();
    while let Polled::Records(batches) = reader.poll(Duration::ZERO).unwrap() {
        for batch in batches {
            let numbers: Vec<u32> = batch
                .records
                .iter()
                .map(|r| {
                    std::str::from_utf8(r.value.as_deref().unwrap())
                        .unwrap()
                        .parse()
                        .unwrap()
                })
                .collect();
            assert!(numbers.is_sorted(), "a partition keeps its order");
            seen.extend(numbers);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..count).collect::<Vec<_>>());
}

#[test]
fn threads_that_come_and_go_copy_each_record_once() {
    let log = EmbeddedLog::in_memory();
    topic(&log, "in", PARTITIONS);
    topic(&log, "out", PARTITIONS);
    fill(&log, 40_000);
    thread::scope(|scope| {
        for (id, rejoin) in [("a", 7), ("b", 11), ("c", usize::MAX)] {
            let log = &log;
            scope.spawn(move || copy(log, id, rejoin));
        }
    });
    assert_copied(&log, 40_000);
}

const KILLED_DIR: &str = "EMBEDDED_LOG_KILL_TEST_DIR";

#[test]
#[ignore = "the child of a_process_killed_again_and_again_copies_each_record_once"]
fn killed_child() {
    let Ok(dir) = std::env::var(KILLED_DIR) else {
        return;
    };
    let options = Options {
        segment_bytes: 200_000,
        tail_bytes: 50_000,
        ..Options::default()
    };
    let log = EmbeddedLog::open_with(Path::new(&dir), options).unwrap();
    thread::scope(|scope| {
        for id in ["a", "b"] {
            let log = &log;
            scope.spawn(move || copy(log, id, 50));
        }
    });
}

#[test]
fn a_process_killed_again_and_again_copies_each_record_once() {
    const COUNT: u32 = 300_000;
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path()).unwrap();
    topic(&log, "in", PARTITIONS);
    topic(&log, "out", PARTITIONS);
    fill(&log, COUNT);
    drop(log);
    let journal = dir.path().join("journal");
    let mut kills = 0;
    for round in 0_u64.. {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "log::embedded::tests::copying::killed_child",
            ])
            .env(KILLED_DIR, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Killed once the journal has grown by an amount that differs from round to round.
        let start = std::fs::metadata(&journal).unwrap().len();
        let limit = 2_000 + round * 7_919 % 20_000;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            let len = std::fs::metadata(&journal).map_or(0, |m| m.len());
            if len.abs_diff(start) > limit {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            thread::yield_now();
        };
        match status {
            Some(status) => {
                assert!(status.success(), "the child failed after {kills} kills");
                break;
            }
            None => kills += 1,
        }
        assert!(kills < 1_000, "it does not get on");
    }
    // About 25 on a quiet machine; a busy one lets the child run on before it is looked at.
    assert!(kills >= 5, "only {kills} kills");
    assert_copied(&EmbeddedLog::open(dir.path()).unwrap(), COUNT);
}
