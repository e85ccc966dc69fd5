//! What a restart finds: its stores and their marker, or the changelog alone.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::time::Duration;

use processor_core::clock::{Clock, ManualClock};
use processor_core::dsl::{Produced, SessionWindows, StreamsBuilder};
use processor_core::log::embedded::{EmbeddedLog, Options};
use processor_core::log::{Log, NewTopic};
use processor_core::serde::{nullable, utf8};
use processor_core::{Backend, Guarantee, Streams, StreamsConfig, StreamsError, Topology};
use state::{DatabaseOptions, Direction, StateDirectory, StateError};

use super::{
    PARTITIONS, PARTS, RECORDS, config, difference, everything, feed, int64_as_text, results,
    topics, topology, undisturbed,
};
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
            let log = FaultyLog::of(&world, &script);
            let config = StreamsConfig {
                // Stores are written at every commit, so the crash finds them in the middle.
                apply_interval: std::time::Duration::ZERO,
                ..on_disk(&state)
            };
            world.streams_on(log, &topology(), config)
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

/// The topology and sessions.
fn with_sessions() -> Topology {
    let builder = StreamsBuilder::new("everything");
    let sessions = SessionWindows::gap(Duration::from_millis(60)).grace(Duration::MAX);
    everything(&builder)
        .group_by_key()
        .windowed_by_session(sessions)
        .count("count-sessions")
        .to_stream()
        .map(|session, count| {
            let (from, to) = (session.start, session.end);
            (format!("{}@{from}-{to}", session.key), count)
        })
        .to_with("sessions", Produced::new(utf8(), nullable(int64_as_text())));
    builder.build().unwrap()
}

/// A log whose changelogs soon have something to clean.
fn world_of_small_files() -> World {
    let clock = ManualClock::default();
    let log = EmbeddedLog::in_memory_with_options(Options {
        clock: Arc::new(clock.clone()),
        segment_bytes: 500,
        tail_bytes: 300,
        tombstone_retention: Duration::from_millis(1),
        ..Options::default()
    });
    let topics = topics().into_iter().chain([("sessions", PARTITIONS)]);
    let topics: Vec<_> = topics.map(|(name, n)| NewTopic::new(name, n)).collect();
    log.create_topics(&topics).unwrap();
    World { log, clock }
}

/// Compacts the changelogs of `world` until no tombstone is left either.
fn compact(world: &World) {
    world.log.clean().unwrap();
    world.clock.advance(Duration::from_millis(1));
    world.log.clean().unwrap();
}

type Row = (Vec<u8>, Vec<u8>);

/// The rows of these stores in a state directory, by store and task.
fn rows(directory: &Path, stores: &[&str]) -> BTreeMap<String, Vec<Row>> {
    let files = StateDirectory::stores_of(directory);
    let options = DatabaseOptions::default();
    let database = config().backend.open(&files, &options).unwrap();
    let mut all = BTreeMap::new();
    let is_asked_for = |tree: &String| {
        let store = tree.split_once('/').map(|(store, _)| store);
        store.is_some_and(|store| stores.contains(&store))
    };
    let names = database.tree_names().unwrap();
    for name in names.into_iter().filter(is_asked_for) {
        let mut rows = Vec::new();
        let tree = database.tree(&name).unwrap();
        let (from, to) = (Bound::Unbounded, Bound::Unbounded);
        tree.scan(from, to, Direction::Forward, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
        all.insert(name, rows);
    }
    all
}

#[test]
fn compacted_changelogs_restore_the_rows_that_they_are_of() {
    let directory = tempfile::tempdir().unwrap();
    let (before, after) = (
        directory.path().join("before"),
        directory.path().join("after"),
    );
    let world = world_of_small_files();
    let mut streams = world.streams(&with_sessions(), on_disk(&before));
    for part in 0..PARTS {
        feed(&world, part, RECORDS);
        streams.run_to_end().unwrap();
    }
    streams.close().unwrap();

    let stores = [
        "count",
        "count-by-value",
        "count-windows",
        "count-sessions",
        "totals",
        // A join of streams has changelogs that delete, and one that is compacted.
        "join-pending",
    ];
    let changelogs = stores.map(|store| format!("app-{store}-changelog"));
    let lengths = || changelogs.each_ref().map(|name| world.read(name).len());
    let long = lengths();
    compact(&world);
    for (name, (long, short)) in changelogs.iter().zip(long.into_iter().zip(lengths())) {
        assert!(short > 0 && short < long, "{name}: {long}, then {short}");
    }

    let mut streams = world.streams(&with_sessions(), on_disk(&after));
    streams.run_to_end().unwrap();
    assert!(streams.records_restored() > 0);
    streams.close().unwrap();
    let (before, after) = (rows(&before, &stores), rows(&after, &stores));
    assert_eq!(before.len(), 2 * stores.len(), "two tasks have each store");
    assert_eq!(before, after);
}

#[test]
fn changelogs_that_are_compacted_and_lose_their_heads_change_no_result() {
    let config = || StreamsConfig {
        // The clock is the time of the records, and partitions differ by less than that.
        windowed_changelog_additional_retention: Some(Duration::from_millis(30)),
        ..config()
    };
    let run = |clean: bool| {
        let world = world_of_small_files();
        for part in 0..PARTS {
            let mut streams = world.streams(&with_sessions(), config());
            feed(&world, part, RECORDS);
            streams.run_to_end().unwrap();
            streams.close().unwrap();
            if clean {
                let newest = (part + 1) * RECORDS * 6;
                let passed = newest - world.clock.now_ms();
                world
                    .clock
                    .advance(Duration::from_millis(passed.unsigned_abs()));
                compact(&world);
            }
        }
        world
    };
    let (plain, cleaned) = (run(false), run(true));
    assert_eq!(difference(&results(&cleaned), &results(&plain)), [""; 0]);
    let sessions = plain.read_sorted("sessions");
    assert!(
        sessions.iter().any(|row| row.ends_with("=null")),
        "{sessions:?}"
    );
    assert_eq!(cleaned.read_sorted("sessions"), sessions);
    for side in ["this", "other"] {
        let left = cleaned.read(&format!("app-join-{side}-changelog"));
        assert!(
            left.iter().all(|change| change.offset > 0),
            "{side} has its head"
        );
    }
}

/// Records in all changelogs.
fn world_changelogs(world: &World) -> usize {
    let topics = world.log.topics().unwrap();
    let changelogs = topics.iter().filter(|topic| topic.ends_with("-changelog"));
    changelogs.map(|topic| world.read(topic).len()).sum()
}
