//! `cargo xtask bench restart` with next to no state, and only ours.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// What the report holds, whoever took part: a contestant that did not has null.
const KEYS: [&str; 17] = [
    "state",
    "state_bytes",
    "backend",
    "ours_ms",
    "kafka_streams_ms",
    "kafka_streams_static_ms",
    "kafka_streams_transactional_ms",
    "ratio",
    "ours_all_partitions_ms",
    "kafka_streams_all_partitions_ms",
    "restored_records",
    "restored_bytes",
    "open_ms",
    "ours_cpu_ms",
    "kafka_streams_cpu_ms",
    "restarts",
    "failures",
];

#[test]
fn a_killed_application_goes_on_with_the_right_counts_after_the_tail_of_its_changelog() {
    let output = Command::new(env!("CARGO_BIN_EXE_restart"))
        .args(["--bytes", "500000", "--contestant", "ours"])
        .args(["--rounds", "1", "--rate", "500", "--work-ms", "500"])
        .args(["--patience", "60", "--json"])
        .output()
        .expect("the bench was built with this test");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let keys: BTreeSet<&str> = result
        .as_object()
        .expect("one JSON object")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, BTreeSet::from(KEYS));
    let number = |name: &str| {
        result[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name} in {result}\n{said}"))
    };
    assert!(number("state_bytes") > 450_000);
    assert!(number("ours_ms") > 0);
    // The fill and what came since, or less of it: the log of a changelog is not the state.
    assert!(number("restored_bytes") >= number("restored_records"));
    assert!(result["ratio"].is_null() && result["kafka_streams_static_ms"].is_null());
}
