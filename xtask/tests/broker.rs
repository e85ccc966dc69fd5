//! The broker that other tests build on, with real Kafka.

use anyhow::Result;
use xtask::broker::{Broker, Options};

fn topics(broker: &Broker, args: &[&str]) -> String {
    let output = broker
        .java()
        .args([
            "org.apache.kafka.tools.TopicCommand",
            "--bootstrap-server",
            broker.bootstrap(),
        ])
        .args(args)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn brokers_run_side_by_side_and_come_back_after_kill_with_data_and_address() -> Result<()> {
    let (left_dir, right_dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut left = Broker::start(left_dir.path(), &Options::default())?;
    let right = Broker::start(right_dir.path(), &Options::default())?;
    topics(&left, &["--create", "--topic", "only-left"]);
    assert_eq!(topics(&right, &["--list"]), "");

    let address = left.bootstrap().to_owned();
    left.kill()?;
    assert_eq!(left.pid(), None);
    left.restart()?;
    assert_eq!(left.bootstrap(), address);
    assert_eq!(topics(&left, &["--list"]), "only-left");
    left.stop()
}

#[test]
fn a_broker_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default().set("num.io.threads", "none");
    let error = format!("{:#}", Broker::start(dir.path(), &options).unwrap_err());
    assert!(error.contains("num.io.threads"), "{error}");
}
