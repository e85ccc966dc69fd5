//! What a restart finds: its stores and their marker, or the changelog alone.

use processor_core::{Backend, Guarantee, Streams, StreamsConfig, StreamsError};
use state::StateError;

use super::{PARTS, RECORDS, config, difference, feed, results, topics, topology, undisturbed};
use crate::support::faulty_log::{Call, Fault, FaultyLog, Script};
use crate::support::world::World;

use std::path::Path;
use std::sync::Arc;

use processor_core::log::ErrorClass;

fn on_disk(directory: &Path) -> StreamsConfig {
    config().state_dir(directory)
}

#[test]
fn restarts_and_crashes_with_a_state_directory_change_no_result() {
    let expected = undisturbed();
    for backend in Backend::ALL.into_iter().filter(|it| it.is_built_in()) {
        let directory = tempfile::tempdir().unwrap();
        let (log, state) = (directory.path().join("log"), directory.path().join("state"));
        for part in 0..PARTS {
            // The log itself is closed and opened as well.
            let world = World::in_files(&log, &topics());
            let mut streams = world.streams(&topology(), on_disk(&state).backend(backend));
            feed(&world, part, RECORDS);
            streams.run_to_end().unwrap();
            if part % 2 == 0 {
                streams.close().unwrap();
            }
        }
        let world = World::in_files(&log, &topics());
        assert_eq!(
            difference(&results(&world), &expected),
            [""; 0],
            "{backend}"
        );
    }
}

#[test]
fn another_storage_engine_begins_once_the_stores_are_deleted() {
    let expected = undisturbed();
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let world = World::new(&topics());
    let mut streams = world.streams(&topology(), on_disk(&state));
    feed(&world, 0, RECORDS);
    streams.run_to_end().unwrap();
    streams.close().unwrap();

    let other = Backend::ALL
        .into_iter()
        .find(|backend| *backend != config().backend && backend.is_built_in());
    let other = other.unwrap_or(Backend::Fjall);
    let log = Arc::new(world.log.clone());
    let refused = Streams::new(topology(), on_disk(&state).backend(other), log).err();
    let Some(StreamsError::State(error @ StateError::OtherBackend { .. })) = refused else {
        panic!("{refused:?}");
    };
    let stores = state.join("stores");
    let text = error.to_string();
    assert!(text.contains(&stores.display().to_string()), "{text}");

    std::fs::remove_dir_all(stores).unwrap();
    let next = match other.is_built_in() {
        true => other,
        false => config().backend,
    };
    let mut streams = world.streams(&topology(), on_disk(&state).backend(next));
    for part in 1..PARTS {
        feed(&world, part, RECORDS);
        streams.run_to_end().unwrap();
    }
    assert!(streams.records_restored() > 0);
    assert!(streams.bytes_restored() > streams.records_restored());
    streams.close().unwrap();
    assert_eq!(difference(&results(&world), &expected), [""; 0]);
}

#[test]
fn a_process_that_dies_in_the_middle_finds_its_state_directory_again() {
    let expected = undisturbed();
    let calls = &[Call::Send, Call::BeginCommit, Call::PollCommit];
    for at in (0..).step_by(29) {
        let fault = Fault {
            class: ErrorClass::Fatal,
            calls,
            done: at % 2 == 0,
        };
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let world = World::new(&topics());
        let script = Script::new(fault, at);
        let start = || {
            let log = FaultyLog {
                inner: world.log.clone(),
                script: Arc::clone(&script),
                max_poll_records: 7,
            };
            let config = StreamsConfig {
                // Stores are written at every commit, so the crash finds them in the middle.
                apply_interval: std::time::Duration::ZERO,
                ..on_disk(&state)
            };
            world.streams_on(Arc::new(log), &topology(), config)
        };
        let mut streams = start();
        for part in 0..PARTS {
            feed(&world, part, RECORDS);
            while streams.run_to_end().is_err() {
                drop(streams);
                streams = start();
            }
        }
        streams.close().unwrap();
        let mut results = results(&world);
        // The end of input is told of again when a run died in it.
        results.insert("totals", expected["totals"].clone());
        assert_eq!(
            difference(&results, &expected),
            [""; 0],
            "call {at} of {fault:?}"
        );
        if !script.struck() {
            break;
        }
    }
}

#[test]
fn a_restart_reads_no_changelog_again_whatever_the_guarantee() {
    for guarantee in [Guarantee::ExactlyOnce, Guarantee::AtLeastOnce] {
        let directory = tempfile::tempdir().unwrap();
        let world = World::new(&topics());
        let config = || StreamsConfig {
            guarantee,
            ..on_disk(directory.path())
        };
        let mut streams = world.streams(&topology(), config());
        feed(&world, 0, RECORDS);
        streams.run_to_end().unwrap();
        streams.close().unwrap();
        let mut streams = world.streams(&topology(), config());
        streams.run_to_end().unwrap();
        assert_eq!(streams.records_restored(), 0, "{guarantee:?}");
        streams.close().unwrap();
    }
}

#[test]
fn a_deleted_state_directory_is_rebuilt_from_the_changelogs() {
    let expected = undisturbed();
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(&topics());
    for part in 0..PARTS {
        let state = directory.path().join(part.to_string());
        let mut streams = world.streams(&topology(), on_disk(&state));
        feed(&world, part, RECORDS);
        streams.run_to_end().unwrap();
        streams.close().unwrap();
    }
    assert_eq!(difference(&results(&world), &expected), [""; 0]);
}

#[test]
fn with_its_marker_a_store_restores_nothing_and_without_it_everything() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let world = World::new(&topics());
    let mut streams = world.streams(&topology(), on_disk(&state));
    feed(&world, 0, RECORDS);
    streams.run_to_end().unwrap();
    assert_eq!(streams.records_restored(), 0);
    streams.close().unwrap();

    let mut streams = world.streams(&topology(), on_disk(&state));
    streams.run_to_end().unwrap();
    assert_eq!(streams.records_restored(), 0);
    streams.close().unwrap();

    std::fs::remove_dir_all(&state).unwrap();
    let mut streams = world.streams(&topology(), on_disk(&state));
    streams.run_to_end().unwrap();
    let changes: usize = world_changelogs(&world);
    assert_eq!(streams.records_restored(), changes as u64);
    assert!(changes > 0);
}

#[test]
fn what_came_after_the_marker_is_all_that_is_restored() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let world = World::new(&topics());
    let mut streams = world.streams(&topology(), on_disk(&state));
    feed(&world, 0, RECORDS);
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    let applied = world_changelogs(&world);

    // Stands for a crash: what is committed here is not written to the stores.
    let mut streams = world.streams(&topology(), on_disk(&state));
    feed(&world, 1, RECORDS);
    streams.run_to_end().unwrap();
    drop(streams);
    let all = world_changelogs(&world);

    let mut streams = world.streams(&topology(), on_disk(&state));
    streams.run_to_end().unwrap();
    assert_eq!(streams.records_restored(), (all - applied) as u64);
}

/// Records in all changelogs.
fn world_changelogs(world: &World) -> usize {
    use processor_core::log::Log;
    let topics = world.log.topics().unwrap();
    let changelogs = topics.iter().filter(|topic| topic.ends_with("-changelog"));
    changelogs.map(|topic| world.read(topic).len()).sum()
}
