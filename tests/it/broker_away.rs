//! A broker that is away for longer than every single wait of the client: the instance stays, and goes on when it is back.

use std::fs;
use std::path::Path;
use std::time::Duration;

use e2e::group::Group;
use e2e::instance::{Instance, Run};
use events::Feed;
use events::generator::{GeneratorConfig, generate};
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use xtask::broker::{Broker, Options};
use xtask::stopwatch::wait_for;

const PATIENCE: Duration = Duration::from_secs(600);
/// Longer than a commit, an abort and the start of a producer may take.
const AWAY: Duration = Duration::from_secs(65);

fn land(staging: &Path, landing: &Path, half: usize) {
    let listing = events::landing::list(staging).unwrap();
    for feed in Feed::ALL {
        fs::create_dir_all(landing.join(feed.name())).unwrap();
        let files: Vec<_> = listing.files.iter().filter(|f| f.feed == feed).collect();
        let (first, second) = files.split_at(files.len() / 2);
        for file in [first, second][half] {
            fs::copy(staging.join(&file.path), landing.join(&file.path)).unwrap();
        }
    }
}

#[test]
fn an_instance_outlives_a_minute_without_a_broker() {
    let directory = tempfile::tempdir().unwrap();
    let (staging, landing) = (
        directory.path().join("staging"),
        directory.path().join("landing"),
    );
    let config = GeneratorConfig {
        impressions: 4_000,
        ..GeneratorConfig::default()
    };
    generate(&staging, &config).unwrap();
    fs::create_dir_all(landing.join("dims")).unwrap();
    for file in ["creatives.csv", "campaigns.csv"] {
        fs::copy(
            staging.join("dims").join(file),
            landing.join("dims").join(file),
        )
        .unwrap();
    }
    land(&staging, &landing, 0);

    let mut broker = Broker::start(directory.path().join("kafka"), &Options::default()).unwrap();
    let log = KafkaLog::new(KafkaOptions::new(broker.bootstrap())).unwrap();
    let state = directory.path().join("state");
    let run = Run {
        bootstrap: broker.bootstrap(),
        landing: &landing,
        state: &state,
        more: &["--look-interval", "1s"],
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_advertisex-e2e"));
    let instance = Instance::run(binary, &run, &directory.path().join("stderr")).unwrap();
    let group = Group::new(&log, &landing).unwrap();
    // In the middle of its work, so that there is a transaction to lose.
    let working = wait_for(PATIENCE, || {
        let standings = group.standings(PATIENCE).unwrap()?;
        let begun = |standing: &e2e::group::Standing| standing.committed > 0;
        (standings.values().filter(|it| begun(it)).count() > 2).then_some(())
    });
    assert!(
        working.is_some(),
        "nothing is committed:\n{}",
        instance.said()
    );
    broker.kill().unwrap();
    land(&staging, &landing, 1);
    wait_for(AWAY, || (!instance.runs()).then_some(()));
    instance.check_runs().unwrap();
    broker.restart().unwrap();
    group
        .wait_until_done(PATIENCE, || instance.check_runs())
        .unwrap();
    instance.stop().unwrap();
}
