//! Warm copies on a real broker: the last instance is gone for good, and the other one takes over.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use e2e::topics::send_one;
use processor_core::dsl::{Consumed, StreamsBuilder};
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::log::{
    ConsumerConfig, Isolation, Log, LogError, NewTopic, ProducerConfig, read_to_end,
};
use processor_core::serde::{Serde as _, int64, utf8};
use processor_core::{RestoreProgress, Standby, Streams, StreamsConfig, Topology};
use xtask::stopwatch::wait_for;

const PARTITIONS: i32 = 4;
const KEYS: u64 = 10_000;
const IN: &str = "standby-in";
const OUT: &str = "standby-out";
const CHANGELOG: &str = "standby-application-count-changelog";
const PATIENCE: Duration = Duration::from_secs(120);

fn topology() -> Topology {
    let builder = StreamsBuilder::new("counts");
    builder
        .stream(IN, Consumed::new(utf8(), int64()))
        .group_by_key()
        .count("count")
        .to_stream()
        .to(OUT);
    builder.build().unwrap()
}

/// Starts instance `ordinal` of two, with its state below `directory`.
fn start(log: &Arc<dyn Log>, directory: &Path, ordinal: u32, standby: bool) -> Streams {
    let config = StreamsConfig {
        instance: Some(format!("standby-{ordinal}")),
        static_membership: true,
        standby: standby.then(|| Standby::among(2)),
        ..StreamsConfig::new("standby-application")
    };
    let config = config.state_dir(directory.join(ordinal.to_string()));
    let mut streams = Streams::new(topology(), config, Arc::clone(log)).unwrap();
    streams.start();
    streams
}

/// Writes each key so many times.
fn feed(log: &dyn Log, keys: u64, times: u64) {
    let mut producer = log.producer(ProducerConfig::default()).unwrap();
    for number in 0..keys * times {
        send_one(&mut *producer, IN, PARTITIONS, keys, number);
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

/// The committed records of `topic`, by key: how many, and the last one.
fn committed(log: &dyn Log, topic: &str) -> BTreeMap<String, (u64, i64)> {
    let mut rows = BTreeMap::<String, (u64, i64)>::new();
    read_to_end(log, topic, &mut |record| {
        let key = utf8().deserialize(&record.key.unwrap()).unwrap();
        let value = record
            .value
            .map(|value| int64().deserialize(&value).unwrap());
        let row = rows.entry(key).or_default();
        *row = (row.0 + 1, value.unwrap_or_default());
        Ok::<(), LogError>(())
    })
    .unwrap();
    rows
}

fn await_committed(log: &dyn Log, least: u64) {
    let done = wait_for(PATIENCE, || {
        let rows = committed(log, OUT);
        (rows.values().map(|row| row.0).sum::<u64>() >= least).then_some(())
    });
    assert!(done.is_some(), "not committed within {PATIENCE:?}");
}

fn await_taken(least: u64, running: &[&Streams]) {
    let done = wait_for(PATIENCE, || {
        let taken: u64 = running.iter().map(|streams| streams.records_taken()).sum();
        assert!(!running.iter().any(|s| s.stopped()), "an instance stopped");
        (taken >= least).then_some(())
    });
    assert!(done.is_some(), "not taken within {PATIENCE:?}");
}

/// The copies of `streams` are all there, and end where their changelogs end.
fn await_copies(log: &dyn Log, streams: &Streams) {
    let consumer = log.consumer(ConsumerConfig::default()).unwrap();
    let done = wait_for(PATIENCE, || {
        let copies = streams.standbys();
        let at_end = |copy: &RestoreProgress| {
            let isolation = Isolation::ReadUncommitted;
            let end = consumer.end_offset(&copy.changelog, isolation, PATIENCE);
            copy.position > 0 && copy.position >= end.unwrap()
        };
        (copies.len() == 2 && copies.iter().all(at_end)).then_some(())
    });
    assert!(done.is_some(), "{:?}", streams.standbys());
}

#[test]
fn a_takeover_reads_the_end_of_changelogs_that_it_has_a_copy_of() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = KafkaOptions::new(e2e::kafka());
    let session = ("session.timeout.ms".to_owned(), "6000".to_owned());
    options.properties.extend([session]);
    let log: Arc<dyn Log> = Arc::new(KafkaLog::new(options).unwrap());
    log.create_topics(&[
        NewTopic::new(IN, PARTITIONS),
        NewTopic::new(OUT, PARTITIONS),
    ])
    .unwrap();
    let first = start(&log, directory.path(), 0, true);
    let last = start(&log, directory.path(), 1, true);
    let shared = wait_for(PATIENCE, || {
        (first.standbys().len() == 2 && last.standbys().len() == 2).then_some(())
    });
    assert!(
        shared.is_some(),
        "{:?} {:?}",
        first.standbys(),
        last.standbys()
    );
    feed(&*log, KEYS, 2);
    await_committed(&*log, 2 * KEYS);
    await_copies(&*log, &first);
    let restored = first.records_restored();
    let copied: u64 = first.standbys().iter().map(|copy| copy.records).sum();

    // It does not come back, and what comes meanwhile waits for its session to end.
    let taken = first.records_taken();
    last.close().unwrap();
    feed(&*log, KEYS, 1);
    await_taken(taken + KEYS, &[&first]);
    let warm = first.records_restored() - restored;
    assert!(first.standbys().is_empty(), "{:?}", first.standbys());
    first.close().unwrap();

    // An instance without a copy, after the same loss.
    let cold = start(&log, &directory.path().join("new-volume"), 0, false);
    feed(&*log, KEYS, 1);
    await_taken(KEYS, &[&cold]);
    let all = cold.records_restored();
    cold.close().unwrap();
    eprintln!("restored with copies: {warm} records, {copied} copied before; without: {all}");
    assert!(
        copied >= KEYS / 3,
        "{copied} of {KEYS}: no half of the keys"
    );
    assert!(all >= KEYS, "{all}");
    assert!(warm * 20 < copied, "{warm} with copies of {copied}");

    for (key, (count, last)) in committed(&*log, OUT) {
        assert_eq!((count, last), (4, 4), "{key}");
    }
    assert_eq!(committed(&*log, CHANGELOG).len() as u64, KEYS);
}
