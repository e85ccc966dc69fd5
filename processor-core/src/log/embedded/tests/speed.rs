//! A measurement, not a test: `cargo test --release -- --ignored --nocapture speed`.

use super::*;
use crate::clock::Deadline;

const RECORDS: usize = 2_000_000;
const HOUR: Duration = Duration::from_secs(3_600);

fn rate(since: Deadline, records: usize) -> f64 {
    records as f64 / (HOUR - since.remaining()).as_secs_f64()
}

fn measure(name: &str, log: &EmbeddedLog) {
    topic(log, "t", 4);
    let mut producer = producer(log, "p");
    let start = Deadline::after(HOUR);
    for n in 0..RECORDS {
        if n % 10_000 == 0 {
            producer.begin_transaction().unwrap();
        }
        producer
            .send(ProducerRecord {
                topic: "t",
                partition: (n % 4) as i32,
                timestamp: n as i64,
                key: Some(&n.to_le_bytes()),
                value: Some(&[b'v'; 92]),
                headers: &[],
            })
            .unwrap();
        if n % 10_000 == 9_999 {
            commit(&mut *producer);
        }
    }
    let append = rate(start, RECORDS);
    let start = Deadline::after(HOUR);
    let mut reader = log.consumer(ConsumerConfig::default()).unwrap();
    let all: Vec<_> = (0..4)
        .map(|p| (TopicPartition::new("t", p), None))
        .collect();
    reader.assign(&all).unwrap();
    let mut seen = 0;
    while let Polled::Records(batches) = reader.poll(Duration::ZERO).unwrap() {
        seen += batches.iter().map(|b| b.records.len()).sum::<usize>();
    }
    assert_eq!(seen, RECORDS);
    let read = rate(start, seen);
    tracing::info!(name, append, read, "records per second");
    eprintln!(
        "{name}: append {append:.0}/s, read {read:.0}/s (100-byte records, commits of 10,000)"
    );
}

#[test]
#[ignore = "a measurement; run it in release, alone"]
fn speed() {
    measure("memory", &EmbeddedLog::in_memory());
    let dir = tempfile::tempdir().unwrap();
    measure("files", &EmbeddedLog::open(dir.path()).unwrap());
    let start = Deadline::after(HOUR);
    EmbeddedLog::open(dir.path()).unwrap();
    eprintln!("reopened in {:?}", HOUR - start.remaining());
}
