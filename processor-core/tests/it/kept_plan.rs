//! A start with another topology over the state of the last run.

use std::time::Duration;

use processor_core::dsl::{Grouped, StreamsBuilder, TimeWindows};
use processor_core::log::{Log, NewTopic};
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{StreamsConfig, StreamsError, Topology};

use crate::support::driver::{numbers, topology};
use crate::support::world::World;

fn counting() -> Topology {
    topology(|builder| {
        let counts = builder
            .stream("in", numbers())
            .group_by_key()
            .count("counts");
        counts.to_stream().to("out");
    })
}

fn windowed() -> Topology {
    topology(|builder| {
        let windows = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::ZERO);
        let grouped = builder.stream("in", numbers()).group_by_key();
        grouped.windowed_by(windows).count("counts");
    })
}

/// The counting one as `counts`, and sums in a store of their own.
fn with_sums(counts: impl FnOnce(&StreamsBuilder)) -> Topology {
    topology(|builder| {
        counts(builder);
        let sums = builder.stream("more", numbers()).group_by_key();
        sums.reduce("sums", |a, b| a + b).to_stream().to("out-sums");
    })
}

fn counted(builder: &StreamsBuilder) {
    let counts = builder
        .stream("in", numbers())
        .group_by_key()
        .count("counts");
    counts.to_stream().to("out");
}

fn latest(builder: &StreamsBuilder) {
    let rows = builder.table("in", "counts", numbers());
    rows.to_stream().to("out");
}

fn pipe(driver: &mut TopologyTestDriver, topic: &str, value: i64, time: i64) {
    let input = driver.input(topic, utf8(), int64());
    input.pipe(driver, "a".to_owned(), value, time);
}

fn values(driver: &mut TopologyTestDriver, topic: &str) -> Vec<Option<i64>> {
    let output = driver.output(topic, utf8(), nullable(int64()));
    let pairs = output.read_key_values(driver);
    pairs.into_iter().map(|(_, value)| value).collect()
}

fn refused(result: Result<impl Sized, StreamsError>) -> Vec<String> {
    match result {
        Err(StreamsError::UnsafeChanges { changes, .. }) => changes,
        Err(error) => panic!("it was refused for another reason: {error}"),
        Ok(_) => panic!("it was not refused"),
    }
}

#[test]
fn a_topology_with_a_stateless_operator_more_goes_on_with_the_state() {
    let mut driver = TopologyTestDriver::new(counting()).unwrap();
    pipe(&mut driver, "in", 1, 0);
    let filtered = topology(|builder| {
        let stream = builder.stream("in", numbers()).filter(|_, v| *v > 0);
        stream.group_by_key().count("counts").to_stream().to("out");
    });
    driver.restart_with(filtered).unwrap();
    pipe(&mut driver, "in", 1, 1);
    assert_eq!(values(&mut driver, "out"), [Some(1), Some(2)]);
}

#[test]
fn an_unsafe_change_is_refused_in_one_sentence_and_the_old_topology_starts_again() {
    let mut driver = TopologyTestDriver::new(counting()).unwrap();
    pipe(&mut driver, "in", 1, 0);
    let changes = refused(driver.restart_with(windowed()));
    assert_eq!(
        changes,
        [
            "store 'counts' becomes a window store and was a key-value store: rows of one kind are not rows of the other, \
             and their changelogs are kept differently; give the operator another name and keep 'counts' for a way back, \
             or accept that its rows go: `accept_reset(\"counts\")`"
        ]
    );
    driver.restart_with(counting()).unwrap();
    pipe(&mut driver, "in", 1, 1);
    assert_eq!(values(&mut driver, "out"), [Some(1), Some(2)]);
}

#[test]
fn an_accepted_reset_empties_that_store_and_no_other() {
    let mut driver = TopologyTestDriver::new(with_sums(counted)).unwrap();
    pipe(&mut driver, "in", 5, 0);
    pipe(&mut driver, "more", 5, 0);
    refused(driver.restart_with(with_sums(latest)));
    driver.config().accept_reset.push("counts".to_owned());
    driver.restart_with(with_sums(latest)).unwrap();
    assert_eq!(driver.store_get("counts", b"a"), None);
    pipe(&mut driver, "in", 7, 1);
    pipe(&mut driver, "more", 7, 1);
    assert_eq!(values(&mut driver, "out"), [Some(1), Some(7)]);
    assert_eq!(values(&mut driver, "out-sums"), [Some(5), Some(12)]);
    // What was accepted stands in the configuration still, and does nothing more.
    driver.restart().unwrap();
    assert!(driver.store_get("counts", b"a").is_some());
    driver.crash().unwrap();
    assert!(driver.store_get("counts", b"a").is_some());
}

#[test]
fn a_plan_binds_from_its_first_commit_on() {
    let world = World::new(&[("in", 1), ("out", 1)]);
    let config = || StreamsConfig::new("app");
    drop(world.streams(&counting(), config()));
    assert!(world.read("app-plan").is_empty());
    let mut streams = world.streams(&windowed(), config());
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    assert_eq!(world.read("app-plan").len(), 1);
    let log = std::sync::Arc::new(world.log.clone());
    refused(processor_core::Streams::new(counting(), config(), log));
    // The same plan is not written again.
    let mut streams = world.streams(&windowed(), config());
    world.write("in", 0, Some("a"), Some(ONE), 0);
    streams.run_to_end().unwrap();
    assert_eq!(world.read("app-plan").len(), 1);
}

#[test]
fn a_store_that_comes_back_is_not_taken_for_what_it_would_be() {
    let mut driver = TopologyTestDriver::new(with_sums(counted)).unwrap();
    pipe(&mut driver, "in", 1, 0);
    let without = || {
        topology(|builder| {
            let sums = builder.stream("more", numbers()).group_by_key();
            sums.reduce("sums", |a, b| a + b).to_stream().to("out-sums");
        })
    };
    driver.restart_with(without()).unwrap();
    pipe(&mut driver, "more", 1, 1);
    let changes = refused(driver.restart_with(with_sums(counted)));
    assert!(
        changes[0].starts_with("store 'counts' is back: "),
        "{changes:?}"
    );
}

fn regrouped() -> Topology {
    topology(|builder| {
        let grouped = builder
            .stream("in", numbers())
            .group_by(|key, _| key.clone(), Grouped::by(utf8()));
        let windows = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::ZERO);
        grouped.windowed_by(windows).count("counts");
        builder.stream("more", numbers()).to("out");
    })
}

fn without_regrouping() -> Topology {
    topology(|builder| {
        let stream = builder.stream("in", numbers());
        let again = stream.repartition("again", utf8(), int64(), None);
        let windows = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::ZERO);
        again.group_by_key().windowed_by(windows).count("counts");
        builder.stream("more", numbers()).to("out");
    })
}

#[test]
fn a_repartition_topic_may_go_once_it_was_read_to_its_end() {
    let world = World::new(&[("in", 2), ("more", 1), ("out", 1)]);
    let config = || StreamsConfig::new("app");
    world.write("in", 0, Some("a"), None, 0);
    world.write("in", 1, Some("b"), Some("\0\0\0\0\0\0\0\u{1}"), 0);
    let mut config_skipping = config();
    config_skipping.on_bad_record = processor_core::OnBadRecord::Skip;
    let mut streams = world.streams(&regrouped(), config_skipping);
    streams.run_to_end().unwrap();
    streams.close().unwrap();

    // Something is under way that nobody has read.
    world.write(
        "app-counts-repartition",
        0,
        Some("c"),
        Some("\0\0\0\0\0\0\0\u{1}"),
        1,
    );
    let log = std::sync::Arc::new(world.log.clone());
    let start = |topology: Topology| processor_core::Streams::new(topology, config(), log.clone());
    let changes = refused(start(without_regrouping()));
    assert_eq!(changes.len(), 1, "{changes:?}");
    let expected = "topic 'app-counts-repartition' is gone, and 'counts' behind it is not: ";
    assert!(changes[0].starts_with(expected), "{changes:?}");

    let mut streams = world.streams(&regrouped(), config());
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    start(without_regrouping()).unwrap();
}

#[test]
fn a_pinned_number_of_partitions_does_not_change_under_its_records() {
    let world = World::new(&[("in", 2)]);
    let pinned = |partitions| {
        topology(|builder| {
            let wide =
                builder
                    .stream("in", numbers())
                    .repartition("wide", utf8(), int64(), partitions);
            wide.group_by_key().count("counts");
        })
    };
    world.write("in", 0, Some("a"), Some("\0\0\0\0\0\0\0\u{1}"), 0);
    let mut streams = world.streams(&pinned(None), StreamsConfig::new("app"));
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    let log = std::sync::Arc::new(world.log.clone());
    let start = |partitions| {
        let config = StreamsConfig::new("app");
        processor_core::Streams::new(pinned(partitions), config, log.clone())
    };
    let changes = refused(start(Some(4)));
    let expected = "topic 'app-wide-repartition' is to have 4 partitions and has 2: ";
    assert!(
        changes.iter().any(|change| change.starts_with(expected)),
        "{changes:?}"
    );
    start(Some(2)).unwrap();
}

#[test]
fn a_repartition_topic_that_is_there_keeps_its_number_of_partitions() {
    let world = World::new(&[("in", 2), ("app-counts-repartition", 5)]);
    let streams = world.streams(&regrouped_only(), StreamsConfig::new("app"));
    assert_eq!(
        world.log.partitions("app-counts-changelog").unwrap(),
        Some(5)
    );
    drop(streams);
}

fn regrouped_only() -> Topology {
    topology(|builder| {
        let by_key = |key: &String, _: &i64| key.clone();
        let grouped = builder
            .stream("in", numbers())
            .group_by(by_key, Grouped::by(utf8()));
        grouped.count("counts");
    })
}

const ONE: &str = "\0\0\0\0\0\0\0\u{1}";

#[test]
fn a_sub_topology_that_comes_before_costs_no_restore() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(&[("in", 1), ("more", 1), ("out", 1), ("out-sums", 1)]);
    let config = || StreamsConfig::new("app").state_dir(directory.path());
    world.write("in", 0, Some("a"), Some(ONE), 0);
    let mut streams = world.streams(&counting(), config());
    streams.run_to_end().unwrap();
    streams.close().unwrap();

    let shifted = topology(|builder| {
        let sums = builder.stream("more", numbers()).group_by_key();
        sums.reduce("sums", |a, b| a + b).to_stream().to("out-sums");
        counted(builder);
    });
    world.write("in", 0, Some("a"), Some(ONE), 1);
    let mut streams = world.streams(&shifted, config());
    streams.run_to_end().unwrap();
    assert_eq!(streams.records_restored(), 0);
    streams.close().unwrap();
    let counts: Vec<Option<bytes::Bytes>> =
        world.read("out").into_iter().map(|r| r.value).collect();
    assert_eq!(
        counts.last().unwrap().as_deref(),
        Some(&2_i64.to_be_bytes()[..])
    );
}

#[test]
fn rows_that_another_instance_kept_from_before_a_reset_are_not_taken_for_new_ones() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let world = World::new(&[("in", 1), ("out", 1)]);
    let config =
        |directory: &tempfile::TempDir| StreamsConfig::new("app").state_dir(directory.path());
    let latest = || topology(latest);
    let run = |topology: &Topology, config: StreamsConfig| {
        let mut streams = world.streams(topology, config);
        streams.run_to_end().unwrap();
        streams.close().unwrap();
    };
    world.write("in", 0, Some("old"), Some(ONE), 0);
    run(&counting(), config(&second));
    // The first resets, and its changelog grows past where the second's rows were.
    let accepting = config(&first).accept_reset("counts");
    for key in ["a", "b", "c", "d", "e", "f"] {
        world.write("in", 0, Some(key), Some(ONE), 1);
    }
    run(&latest(), accepting);
    world.write("in", 0, Some("g"), Some(ONE), 2);
    let mut streams = world.streams(&latest(), config(&second));
    streams.run_to_end().unwrap();
    assert!(
        streams.records_restored() >= 6,
        "the second instance went on with its own rows"
    );
    streams.close().unwrap();
}

#[test]
fn a_log_that_lost_the_plan_is_helped_by_the_state_directory() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(&[("in", 1), ("out", 1)]);
    world.write("in", 0, Some("a"), Some(ONE), 0);
    let config = || StreamsConfig::new("app").state_dir(directory.path());
    let mut streams = world.streams(&counting(), config());
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    world.log.delete_topics(&["app-plan"]).unwrap();
    let log = std::sync::Arc::new(world.log.clone());
    refused(processor_core::Streams::new(
        windowed(),
        config(),
        log.clone(),
    ));
    let elsewhere = StreamsConfig::new("app");
    processor_core::Streams::new(counting(), elsewhere, log).unwrap();
    assert_eq!(world.log.partitions("app-plan").unwrap(), Some(1));
}

#[test]
fn what_stands_on_the_plan_topic_and_is_no_plan_is_named() {
    let world = World::new(&[("in", 1), ("out", 1)]);
    world
        .log
        .create_topics(&[NewTopic::new("app-plan", 1)])
        .unwrap();
    world.write("app-plan", 0, Some("plan"), Some("nonsense"), 0);
    let log = std::sync::Arc::new(world.log.clone());
    match processor_core::Streams::new(counting(), StreamsConfig::new("app"), log) {
        Err(error) => assert!(
            error.to_string().starts_with("app-plan holds no plan"),
            "{error}"
        ),
        Ok(_) => panic!("it started"),
    };
}
