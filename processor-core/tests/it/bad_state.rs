//! What an application finds at its start and cannot work with: it says what is wrong where and what to do, and touches
//! nothing. `docs/bad-input.md` of the repository has the whole list.

use std::fs;
use std::sync::Arc;

use processor_core::dsl::{Consumed, Grouped, StreamsBuilder};
use processor_core::log::{Cleanup, Log, NewTopic};
use processor_core::serde::utf8;
use processor_core::{Streams, StreamsConfig, StreamsError, Topology};

use crate::support::world::World;

/// Counts by key, and by value behind a repartition.
fn counting() -> Topology {
    let builder = StreamsBuilder::new("counting");
    let stream = builder.stream("in", Consumed::new(utf8(), utf8()));
    stream.group_by_key().count("counts");
    stream
        .group_by(|_, value| value.clone(), Grouped::by(utf8()))
        .count("by-value");
    builder.build().unwrap()
}

fn refused(world: &World, config: StreamsConfig) -> StreamsError {
    let log = Arc::new(world.log.clone());
    match Streams::new(counting(), config, log) {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    }
}

fn assert_says(error: &StreamsError, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

#[test]
fn a_changelog_that_deletes_rows_by_age_is_refused_with_the_setting_that_would_do() {
    let changelog = NewTopic {
        retention_ms: Some(86_400_000),
        ..NewTopic::new("app-counts-changelog", 1)
    };
    let world = World::new(&[("in", 1)]);
    world.log.create_topics(&[changelog]).unwrap();
    let error = refused(&world, StreamsConfig::new("app"));
    let words = [
        "'app-counts-changelog'",
        "retention.ms=86400000",
        "set cleanup.policy=compact",
    ];
    assert_says(&error, &words);
    // Nothing was made.
    assert_eq!(world.log.topics().unwrap(), ["app-counts-changelog", "in"]);
}

#[test]
fn a_repartition_topic_that_compacts_is_refused() {
    let world = World::new(&[("in", 1)]);
    let topic = NewTopic::new("app-by-value-repartition", 1).cleanup(Cleanup::Compact);
    world.log.create_topics(&[topic]).unwrap();
    let error = refused(&world, StreamsConfig::new("app"));
    let words = ["'app-by-value-repartition'", "set cleanup.policy=delete"];
    assert_says(&error, &words);
}

#[test]
fn a_changelog_with_another_number_of_partitions_is_refused_with_both_numbers() {
    let world = World::new(&[("in", 2)]);
    let topic = NewTopic::new("app-counts-changelog", 3).cleanup(Cleanup::Compact);
    world.log.create_topics(&[topic]).unwrap();
    let error = refused(&world, StreamsConfig::new("app"));
    assert_says(&error, &["`app-counts-changelog`", "3 partitions", "not 2"]);
}

#[test]
fn a_state_directory_of_a_newer_version_is_refused_and_left_alone() {
    let world = World::new(&[("in", 1)]);
    let directory = tempfile::tempdir().unwrap();
    let config = || StreamsConfig::new("app").state_dir(directory.path());
    let log = Arc::new(world.log.clone());
    Streams::new(counting(), config(), log)
        .unwrap()
        .close()
        .unwrap();
    let identity = directory.path().join("identity");
    let newer: String = fs::read_to_string(&identity)
        .unwrap()
        .lines()
        .map(|line| match line.starts_with("format ") {
            true => "format 4711\n".to_owned(),
            false => format!("{line}\n"),
        })
        .collect();
    fs::write(&identity, &newer).unwrap();
    let error = refused(&world, config());
    let place = directory.path().display().to_string();
    assert_says(&error, &[&place, "newer version", "delete the directory"]);
    assert_eq!(fs::read_to_string(&identity).unwrap(), newer);
}

#[test]
fn a_state_directory_of_another_application_is_refused_by_name() {
    let world = World::new(&[("in", 1)]);
    let directory = tempfile::tempdir().unwrap();
    let config = |id: &str| StreamsConfig::new(id).state_dir(directory.path());
    let log = Arc::new(world.log.clone());
    Streams::new(counting(), config("app"), log)
        .unwrap()
        .close()
        .unwrap();
    let error = refused(&world, config("other"));
    assert_says(&error, &["`app`", "`other`", "choose another directory"]);
}

#[test]
fn a_state_directory_that_cannot_be_made_is_refused_with_its_path() {
    let world = World::new(&[("in", 1)]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let path = file.join("state");
    let error = refused(&world, StreamsConfig::new("app").state_dir(&path));
    let place = path.display().to_string();
    assert_says(&error, &[&place, "writable"]);
}
