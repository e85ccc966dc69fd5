//! The small version of `cargo xtask chaos`: three minutes with every kind of fault at least once.

use std::path::PathBuf;

use e2e::chaos::Chaos;
use e2e::chaos::schedule::Kind;

const TOTAL_MS: u64 = 180_000;
const PACE_MS: u64 = 4_000;
const SEED: u64 = 5;

#[test]
fn three_instances_under_faults_of_every_kind_commit_what_an_undisturbed_one_does() {
    let directory = tempfile::tempdir().unwrap();
    let chaos = Chaos {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_advertisex-e2e")),
        directory: directory.path().to_owned(),
        total_ms: TOTAL_MS,
        pace_ms: PACE_MS,
        rate: 100,
        seed: SEED,
    };
    let report = chaos.run().unwrap();
    assert!(
        report.is_good(),
        "seed {SEED}: {report:?}\n{}\n{}",
        report.table,
        report.violations.join("\n")
    );
    assert!(report.records_out > 0, "seed {SEED}: {report:?}");
    for kind in Kind::ALL {
        assert!(
            report.faults[kind.name()] > 0,
            "seed {SEED}: no {} struck; a busy machine has no time for all, and a seed may have none\n{}",
            kind.name(),
            report.table
        );
    }
}
