//! The suite that every log passes, on a real broker.

use std::panic::AssertUnwindSafe;

use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::log::{
    ConsumerConfig, ErrorClass, Isolation, Log as _, LogError, NewTopic, Offset, TopicPartition,
    contract,
};

#[test]
fn kafka_keeps_the_contract() {
    let log = KafkaLog::new(KafkaOptions::new(e2e::kafka())).unwrap();
    let only = std::env::var("CONTRACT_CASE").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, case) in contract::all() {
        if !name.contains(&only) {
            continue;
        }
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            case(&log, &format!("contract-{name}"));
        }));
        eprintln!("{name}: {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        if outcome.is_err() {
            failed.push(*name);
        }
    }
    assert!(
        failed.is_empty(),
        "the Kafka log breaks the contract in {failed:?}"
    );
}

#[test]
fn the_end_of_a_topic_that_is_being_made_is_waited_for_as_long_as_was_said() {
    let log = KafkaLog::new(KafkaOptions::new(e2e::kafka())).unwrap();
    let end = |patience| -> Result<Offset, LogError> {
        let reader = log.consumer(ConsumerConfig::default())?;
        let partition = TopicPartition::new("being-made", 0);
        reader.end_offset(&partition, Isolation::ReadCommitted, patience)
    };
    let unknown = end(std::time::Duration::from_secs(1)).unwrap_err();
    assert_eq!(unknown.class, ErrorClass::Retriable, "{unknown}");
    assert!(unknown.to_string().contains("being-made-0"), "{unknown}");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| end(contract::PATIENCE));
        log.create_topics(&[NewTopic::new("being-made", 1)])
            .unwrap();
        assert_eq!(asked.join().unwrap().unwrap(), 0);
    });
}

#[test]
fn kafka_resets_a_position_before_the_head_of_a_log() {
    let log = KafkaLog::new(KafkaOptions::new(e2e::kafka())).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("offsets.json");
    let cut = |partition: &TopicPartition| {
        // -1 is the end.
        let cut = serde_json::json!({
            "version": 1,
            "partitions": [{"topic": &*partition.topic, "partition": partition.partition, "offset": -1}],
        });
        std::fs::write(&file, cut.to_string()).unwrap();
        let arguments = ["--offset-json-file", file.to_str().unwrap()];
        e2e::tool("org.apache.kafka.tools.DeleteRecordsCommand", &arguments);
    };
    contract::a_position_before_the_head_goes_where_the_reset_says(&log, "contract-cut", &cut);
}
