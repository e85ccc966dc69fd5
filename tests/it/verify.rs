//! `advertisex verify` on a broker: a run holds, and a record that is dropped, repeated or altered there is found.

use std::path::Path;
use std::time::Duration;

use e2e::group::Group;
use e2e::instance::{Instance, Run, verify};
use events::generator::{GeneratorConfig, generate};
use ingest::CLICKS;
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::log::{
    ConsumerRecord, Log, NewTopic, ProducerConfig, ProducerRecord, TopicPartition,
    read_partition_to_end,
};
use xtask::stopwatch::wait_for;

const PATIENCE: Duration = Duration::from_secs(300);
const BINARY: &str = env!("CARGO_BIN_EXE_advertisex-e2e");

/// The records of each partition.
type Partitions = Vec<Vec<ConsumerRecord>>;

fn read(log: &KafkaLog, topic: &str) -> Partitions {
    let read = |partition| {
        let mut records = Vec::new();
        let partition = TopicPartition::new(topic, partition);
        read_partition_to_end(log, &partition, &mut |record| {
            records.push(record);
            Ok(())
        })
        .unwrap();
        records
    };
    let partitions = log.partitions(topic).unwrap().unwrap();
    (0..partitions).map(read).collect()
}

/// Makes the topic anew, with these records.
fn rewrite(log: &KafkaLog, topic: &str, partitions: &Partitions) {
    log.delete_topics(&[topic]).unwrap();
    let gone = || log.partitions(topic).unwrap().is_none().then_some(());
    wait_for(PATIENCE, gone).expect("the topic is deleted");
    let count = i32::try_from(partitions.len()).unwrap();
    log.create_topics(&[NewTopic::new(topic, count)]).unwrap();
    let mut producer = log.producer(ProducerConfig::default()).unwrap();
    for (partition, records) in (0..).zip(partitions) {
        for record in records {
            let sent = ProducerRecord {
                topic,
                partition,
                timestamp: record.timestamp,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: &record.headers,
            };
            producer.send(sent).unwrap();
        }
    }
    producer.flush(PATIENCE).unwrap();
}

type Change = fn(Vec<ConsumerRecord>) -> Vec<ConsumerRecord>;

fn dropped(mut records: Vec<ConsumerRecord>) -> Vec<ConsumerRecord> {
    records.remove(records.len() / 2);
    records
}

fn repeated(mut records: Vec<ConsumerRecord>) -> Vec<ConsumerRecord> {
    let record = records[records.len() / 2].clone();
    records.push(record);
    records
}

fn altered(mut records: Vec<ConsumerRecord>) -> Vec<ConsumerRecord> {
    let at = records.len() / 2;
    let value = records[at].value.as_deref().unwrap();
    let mut click: serde_json::Value = serde_json::from_slice(value).unwrap();
    click["user_id"] = "somebody else".into();
    records[at].value = Some(serde_json::to_vec(&click).unwrap().into());
    records
}

#[test]
fn a_run_on_kafka_holds_and_a_record_that_is_changed_there_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (landing, state) = (
        directory.path().join("landing"),
        directory.path().join("state"),
    );
    let config = GeneratorConfig {
        seed: 11,
        impressions: 1_500,
        users: 100,
        click_rate: 0.2,
        duplicate_rate: 0.02,
        malformed_rate: 0.02,
        late_rate: 0.01,
        ..GeneratorConfig::default()
    };
    generate(&landing, &config).unwrap();
    let bootstrap = e2e::kafka();
    let log = KafkaLog::new(KafkaOptions::new(&bootstrap)).unwrap();
    let run = Run {
        bootstrap: &bootstrap,
        landing: &landing,
        state: &state,
        more: &[],
    };
    let said = directory.path().join("stderr");
    let instance = Instance::run(Path::new(BINARY), &run, &said).unwrap();
    let group = Group::new(&log, &landing).unwrap();
    group
        .wait_until_done(PATIENCE, || instance.check_runs())
        .unwrap();
    instance.stop().unwrap();

    let audit = |landing| verify(Path::new(BINARY), &bootstrap, landing).unwrap();
    for landing in [Some(&*landing), None] {
        let verdict = audit(landing);
        assert_eq!(verdict.code, Some(0), "{}", verdict.said);
    }
    let original = read(&log, CLICKS);
    let longest = (0..original.len())
        .max_by_key(|n| original[*n].len())
        .unwrap();
    for (change, says) in [
        (dropped as Change, "1 lost, such as that of clicks/"),
        (repeated, "1 duplicated, such as "),
        (altered, "1 altered, such as "),
    ] {
        let mut changed = original.clone();
        changed[longest] = change(std::mem::take(&mut changed[longest]));
        rewrite(&log, CLICKS, &changed);
        let verdict = audit(Some(&landing));
        assert_eq!(verdict.code, Some(3), "{}", verdict.said);
        assert!(verdict.said.contains(says), "{says}: {}", verdict.said);
    }
    // It was the change, and not the topic that was made anew.
    rewrite(&log, CLICKS, &original);
    let verdict = audit(Some(&landing));
    assert_eq!(verdict.code, Some(0), "{}", verdict.said);
}
