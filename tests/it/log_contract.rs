//! The suite that every log passes, on a real broker.

use std::panic::AssertUnwindSafe;

use processor_core::log::contract;
use processor_core::log::kafka::{KafkaLog, KafkaOptions};

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
