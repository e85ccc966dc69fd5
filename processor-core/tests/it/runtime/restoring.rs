//! What a restore does while it is under way: others run beside it, and what it meets does not lead it astray.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use processor_core::clock::Deadline;
use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
use processor_core::log::{Log, NewTopic, ProducerConfig, ProducerRecord};
use processor_core::serde::utf8;
use processor_core::{Streams, StreamsConfig, Topology};

use super::int64_as_text;
use crate::support::restore_log::{RestoreLog, Script};
use crate::support::world::World;

const CHANGELOG: &str = "app-count-changelog";

/// Counts words, and passes on what needs no store.
fn topology() -> Topology {
    let builder = StreamsBuilder::new("words");
    let texts = || Consumed::new(utf8(), utf8());
    builder
        .stream("words", texts())
        .group_by_key()
        .count("count")
        .to_stream()
        .map_values(|_, count| count.unwrap_or(0))
        .to_with("counts", Produced::new(utf8(), int64_as_text()));
    builder.stream("plain", texts()).to("plain-out");
    builder.build().unwrap()
}

fn world() -> World {
    World::new(&[("words", 1), ("counts", 1), ("plain", 1), ("plain-out", 1)])
}

fn config() -> StreamsConfig {
    StreamsConfig {
        instance: Some("one".to_owned()),
        commit_interval: Duration::ZERO,
        ..StreamsConfig::new("app")
    }
}

fn write_words(world: &World, words: &[&str]) {
    for word in words {
        world.write("words", 0, Some(word), Some(""), 0);
    }
}

/// Counts `words`, each in a transaction of its own, and ends in good order.
fn count(world: &World, words: &[&str], config: StreamsConfig) {
    let mut streams = world.streams(&topology(), config);
    streams.run_to_end().unwrap();
    for word in words {
        write_words(world, &[word]);
        streams.run_to_end().unwrap();
    }
    streams.close().unwrap();
}

/// An application whose restores follow `script`.
fn restoring(world: &World, script: &Arc<Script>, config: StreamsConfig) -> Streams {
    let log = RestoreLog {
        inner: world.log.clone(),
        script: Arc::clone(script),
    };
    world.streams_on(Arc::new(log), &topology(), config)
}

/// The last of `counts` are these.
fn assert_ends_with(world: &World, counts: &[&str]) {
    let records = world.read("counts").into_iter();
    let shown: Vec<String> = records
        .map(|record| {
            let text = |bytes: Option<bytes::Bytes>| {
                String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap()
            };
            format!("{}={}", text(record.key), text(record.value))
        })
        .collect();
    assert!(
        shown.ends_with(&counts.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>()),
        "{shown:?} does not end with {counts:?}"
    );
}

const WORDS: [&str; 20] = [
    "a0", "a1", "a2", "a3", "a4", "a0", "a1", "a2", "a3", "a4", "b0", "b1", "b2", "b3", "b4", "b0",
    "b1", "b2", "b3", "b4",
];

#[test]
fn other_tasks_run_while_a_store_is_restored_and_its_own_task_does_not() {
    let world = world();
    count(&world, &WORDS, config());
    let script = Arc::new(Script::default());
    script.held.store(true, Ordering::SeqCst);
    let log = RestoreLog {
        inner: world.log.clone(),
        script: Arc::clone(&script),
    };
    // Real threads, so everything is waited for; how long that may take is no part of the test.
    let mut streams = Streams::new(topology(), config(), Arc::new(log)).unwrap();
    write_words(&world, &["a0"]);
    world.write("plain", 0, Some("k"), Some("passed on"), 0);
    streams.start();
    let deadline = Deadline::after(Duration::from_secs(60));
    let wait = |what: &str, streams: &Streams, done: &dyn Fn() -> bool| {
        while !done() {
            assert!(!deadline.passed() && !streams.stopped(), "{what}");
            std::thread::yield_now();
        }
    };
    wait("nothing is passed on", &streams, &|| {
        world.read("plain-out").len() == 1 && !streams.restores().is_empty()
    });
    assert_eq!(world.read("counts").len(), WORDS.len());
    let [progress] = &streams.restores()[..] else {
        panic!("{:?}", streams.restores());
    };
    assert_eq!(progress.store, "count");
    assert_eq!(&*progress.changelog.topic, CHANGELOG);
    assert_eq!((progress.from, progress.position), (0, 0));
    assert!(progress.to >= 20, "{progress:?}");

    // A restore that fails is begun again, by the thread that it belongs to.
    script.failures.store(3, Ordering::SeqCst);
    script.held.store(false, Ordering::SeqCst);
    wait("the word is not counted", &streams, &|| {
        world.read("counts").len() == WORDS.len() + 1
    });
    assert!(streams.restores().is_empty());
    assert_eq!(streams.records_restored(), 20);
    streams.close().unwrap();
    assert_ends_with(&world, &["a0=3"]);
}

#[test]
fn a_restore_that_fails_for_good_stops_the_application_with_the_reason() {
    let world = world();
    count(&world, &WORDS, config());
    // The changelog is gone, and its topic with it, when the restore looks for it.
    world.log.delete_topics(&[CHANGELOG]).unwrap();
    let deleting = Deleting(world.log.clone());
    let mut streams = Streams::new(topology(), config(), Arc::new(deleting)).unwrap();
    streams.start();
    let deadline = Deadline::after(Duration::from_secs(60));
    while !streams.stopped() {
        assert!(!deadline.passed(), "it goes on without its changelog");
        std::thread::yield_now();
    }
    let error = streams.close().unwrap_err().to_string();
    assert!(error.contains(CHANGELOG), "{error}");
}

/// A log that makes no topics, as one where the application may not.
struct Deleting(processor_core::log::embedded::EmbeddedLog);

impl Log for Deleting {
    fn consumer(
        &self,
        config: processor_core::log::ConsumerConfig,
    ) -> Result<Box<dyn processor_core::log::Consumer>, processor_core::log::LogError> {
        self.0.consumer(config)
    }

    fn producer(
        &self,
        config: ProducerConfig,
    ) -> Result<Box<dyn processor_core::log::Producer>, processor_core::log::LogError> {
        self.0.producer(config)
    }

    fn create_topics(&self, _: &[NewTopic]) -> Result<(), processor_core::log::LogError> {
        Ok(())
    }

    fn delete_topics(&self, topics: &[&str]) -> Result<(), processor_core::log::LogError> {
        self.0.delete_topics(topics)
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, processor_core::log::LogError> {
        self.0.partitions(topic)
    }

    fn topics(&self) -> Result<Vec<String>, processor_core::log::LogError> {
        self.0.topics()
    }

    fn settings(
        &self,
        topics: &[&str],
    ) -> Result<
        std::collections::BTreeMap<String, processor_core::log::TopicSettings>,
        processor_core::log::LogError,
    > {
        self.0.settings(topics)
    }
}

/// Restores over a changelog that loses its head, at these polls, before its records with these numbers.
fn restored_over_cuts(cuts: &[(usize, usize)]) -> World {
    let world = world();
    count(&world, &WORDS, config());
    let changes = world.read(CHANGELOG);
    assert_eq!(changes.len(), 20);
    let offset_of = |(poll, number): &(usize, usize)| (*poll, changes[*number].offset);
    let script = Script::cutting(cuts.iter().map(offset_of).collect());
    let script = Arc::new(script);
    let mut streams = restoring(&world, &script, config());
    write_words(&world, &["a0", "b0"]);
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    world
}

#[test]
fn a_changelog_that_loses_its_head_while_it_is_read_leaves_nothing_of_what_was_read_before() {
    // Five rows have been read, and some of those that delete or replace them are gone.
    assert_ends_with(&restored_over_cuts(&[(7, 11)]), &["a0=1", "b0=3"]);
}

#[test]
fn a_changelog_that_loses_its_head_again_and_again_is_restored_in_the_end() {
    let world = restored_over_cuts(&[(3, 4), (24, 8), (40, 11), (52, 16)]);
    assert_ends_with(&world, &["a0=1", "b0=1"]);
}

#[test]
fn a_changelog_of_aborted_transactions_alone_is_restored_to_its_end() {
    let world = world();
    count(&world, &[], config());
    let mut producer = world
        .log
        .producer(ProducerConfig {
            transactional_id: Some("another".to_owned()),
            ..ProducerConfig::default()
        })
        .unwrap();
    producer.init_transactions(Duration::ZERO).unwrap();
    producer.begin_transaction().unwrap();
    let record = ProducerRecord {
        topic: CHANGELOG,
        partition: 0,
        timestamp: 0,
        key: Some(b"a0"),
        value: Some(b"not a count"),
        headers: &[],
    };
    producer.send(record).unwrap();
    producer.flush(Duration::ZERO).unwrap();
    producer.abort_transaction(Duration::ZERO).unwrap();

    write_words(&world, &["a0"]);
    let mut streams = world.streams(&topology(), config());
    streams.run_to_end().unwrap();
    assert_eq!(streams.records_restored(), 0);
    assert_ends_with(&world, &["a0=1"]);
}

fn on_disk(directory: &Path) -> StreamsConfig {
    config().state_dir(directory)
}

#[test]
fn a_store_that_is_ahead_of_a_changelog_that_was_made_anew_is_emptied() {
    let directory = tempfile::tempdir().unwrap();
    let world = world();
    count(&world, &WORDS, on_disk(directory.path()));
    world.log.delete_topics(&[CHANGELOG]).unwrap();
    count(&world, &["a0"], on_disk(directory.path()));
    assert_ends_with(&world, &["a0=1"]);
}

#[test]
fn a_restore_that_is_broken_off_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let world = world();
    count(&world, &WORDS, config());
    let script = Arc::new(Script::default());
    let mut streams = restoring(&world, &script, on_disk(directory.path()));
    let mut rounds = 0;
    streams
        .run_to_end_with(&mut |_| {
            rounds += 1;
            rounds < 12
        })
        .unwrap();
    let first = streams.records_restored();
    assert!(first > 3 && first < 20, "{first}");
    streams.close().unwrap();

    write_words(&world, &["a0", "b4"]);
    let mut streams = world.streams(&topology(), on_disk(directory.path()));
    streams.run_to_end().unwrap();
    assert_eq!(streams.records_restored(), 20 - first);
    assert_ends_with(&world, &["a0=3", "b4=3"]);
}

#[test]
fn two_applications_do_not_share_a_state_directory() {
    let directory = tempfile::tempdir().unwrap();
    let world = world();
    let first = world.streams(&topology(), on_disk(directory.path()));
    let log = Arc::new(world.log.clone());
    let second = Streams::new(topology(), on_disk(directory.path()), log);
    let error = second.err().expect("it is refused").to_string();
    let path = directory.path().display().to_string();
    assert!(
        error.contains(&path) && error.contains(&std::process::id().to_string()),
        "{error}"
    );
    drop(first);
    world.streams(&topology(), on_disk(directory.path()));
}
