//! The small version of `cargo xtask kills`: enough input for many commits, a few kills.

use std::path::{Path, PathBuf};

use e2e::kills::Kills;

fn kills(directory: &Path, impressions: u64) -> Kills {
    Kills {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_advertisex-e2e")),
        directory: directory.to_owned(),
        impressions,
        kills: 4,
        seed: 7,
    }
}

#[test]
fn a_platform_killed_on_the_embedded_log_commits_what_an_undisturbed_one_does() {
    let directory = tempfile::tempdir().unwrap();
    let report = kills(directory.path(), 20_000).on_embedded_log().unwrap();
    assert!(report.kills >= 3, "{report:?}");
}

#[test]
fn two_instances_killed_on_kafka_commit_what_undisturbed_ones_do() {
    let directory = tempfile::tempdir().unwrap();
    let report = kills(directory.path(), 20_000).on_kafka().unwrap();
    assert_eq!(report.kills, 4, "{report:?}");
}
