//! Warm copies of another instance's stores: they keep up, and who takes a task over reads what is left.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use processor_core::clock::Deadline;
use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
use processor_core::log::{Log, Producer, ProducerConfig, ProducerRecord};
use processor_core::serde::utf8;
use processor_core::{RestoreProgress, Standby, Streams, StreamsConfig, StreamsError, Topology};

use tempfile::TempDir;

use super::int64_as_text;
use crate::support::restore_log::{RestoreLog, Script};
use crate::support::world::World;

const CHANGELOG: &str = "app-count-changelog";
/// Counts words, in one task for each of two partitions.
fn topology() -> Topology {
    let builder = StreamsBuilder::new("words");
    builder
        .stream("words", Consumed::new(utf8(), utf8()))
        .group_by_key()
        .count("count")
        .to_stream()
        .map_values(|_, count| count.unwrap_or(0))
        .to_with("counts", Produced::new(utf8(), int64_as_text()));
    builder.build().unwrap()
}

fn world() -> World {
    World::new(&[("words", 2), ("counts", 2)])
}

/// Instance `ordinal` of two, with its state below `directory`.
fn config(directory: &Path, ordinal: u32) -> StreamsConfig {
    let config = StreamsConfig {
        instance: Some(format!("app-{ordinal}")),
        static_membership: true,
        commit_interval: Duration::ZERO,
        standby: Some(Standby::among(2)),
        ..StreamsConfig::new("app")
    };
    config.state_dir(directory.join(ordinal.to_string()))
}

/// Writes words to `partition`; each comes `times` times.
fn write(world: &World, partition: i32, words: usize, times: usize) {
    for _ in 0..times {
        for word in 0..words {
            let word = format!("{partition}w{word}");
            world.write("words", partition, Some(&word), Some(""), 0);
        }
    }
}

/// So many rounds of each.
fn rounds(instances: &mut [&mut Streams], rounds: usize) {
    for _ in 0..rounds {
        for streams in instances.iter_mut() {
            streams.run_to_end_with(&mut |_| false).unwrap();
        }
    }
}

/// Both instances have what is theirs, and copies of what is the other one's.
fn settled(one: &mut Streams, two: &mut Streams) {
    for _ in 0..200 {
        rounds(&mut [one, two], 1);
        let partition = |streams: &Streams| match &streams.standbys()[..] {
            [copy] => Some(copy.changelog.partition),
            _ => None,
        };
        if (partition(one), partition(two)) == (Some(1), Some(0)) {
            return;
        }
    }
    panic!("no copies: {:?}, {:?}", one.standbys(), two.standbys());
}

/// Two instances that have what is theirs, and copies of what is the other one's; the first is on `log`.
fn pair(log: impl FnOnce(&World) -> Arc<dyn Log>) -> (World, TempDir, Streams, Streams) {
    let (world, directory) = (world(), tempfile::tempdir().unwrap());
    let mut one = world.streams_on(log(&world), &topology(), config(directory.path(), 0));
    let mut two = world.streams(&topology(), config(directory.path(), 1));
    settled(&mut one, &mut two);
    (world, directory, one, two)
}

fn own_log(world: &World) -> Arc<dyn Log> {
    Arc::new(world.log.clone())
}

/// The world's log, from which changelogs are read as `script` says.
fn scripted(world: &World, script: Arc<Script>) -> Arc<dyn Log> {
    let inner = world.log.clone();
    Arc::new(RestoreLog { inner, script })
}

/// The one copy that an instance keeps.
fn copy(streams: &Streams) -> RestoreProgress {
    match &streams.standbys()[..] {
        [copy] => copy.clone(),
        other => panic!("{other:?}"),
    }
}

/// The session of a member that does not come back ends, and that of this one does not.
fn outlive_session(world: &World, streams: &mut Streams) {
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(25));
        rounds(&mut [streams], 1);
    }
}

/// The other instance is gone for good; this one has all tasks when it returns.
fn take_over(world: &World, streams: &mut Streams) {
    outlive_session(world, streams);
    rounds(&mut [streams], 100);
    assert!(streams.standbys().is_empty(), "{:?}", streams.standbys());
}

/// The last count of each word of `partition` is `count`.
fn assert_counts(world: &World, partition: i32, words: usize, count: usize) {
    for word in 0..words {
        let word = format!("{partition}w{word}");
        assert_eq!(last_count(world, &word), count.to_string(), "{word}");
    }
}

fn last_count(world: &World, word: &str) -> String {
    let records = world.read("counts");
    let mut of_word = records.iter().rev();
    let record = of_word.find(|r| r.key.as_deref() == Some(word.as_bytes()));
    let value = record.and_then(|r| r.value.clone()).unwrap_or_default();
    String::from_utf8_lossy(&value).into_owned()
}

#[test]
fn a_copy_keeps_up_and_a_takeover_reads_what_is_left() {
    let (world, directory, mut one, mut two) = pair(own_log);
    write(&world, 1, 10, 5);
    rounds(&mut [&mut one, &mut two], 100);
    let kept = copy(&one);
    let changes = world.read_partition(CHANGELOG, 1).len() as u64;
    assert!(changes >= 10, "{changes}");
    assert_eq!((kept.store.as_str(), kept.records), ("count", changes));
    assert!(kept.bytes > changes, "{kept:?}");
    world.clock.advance(Duration::from_secs(10));
    rounds(&mut [&mut one], 5);
    assert_eq!(copy(&one).records_behind(), 0);
    assert_eq!(one.records_restored(), 0, "a copy is no restore");

    two.close().unwrap();
    take_over(&world, &mut one);
    assert_eq!(one.records_restored(), 0, "the copy had it all");
    write(&world, 1, 10, 1);
    rounds(&mut [&mut one], 50);
    assert_counts(&world, 1, 10, 6);

    // The same without a copy.
    let mut three = world.streams(
        &topology(),
        StreamsConfig {
            standby: None,
            ..config(&directory.path().join("empty"), 0)
        },
    );
    one.close().unwrap();
    rounds(&mut [&mut three], 100);
    assert!(three.records_restored() > changes);
}

#[test]
fn a_task_that_goes_to_another_instance_is_kept_as_a_copy_and_comes_back_warm() {
    let (world, directory) = (world(), tempfile::tempdir().unwrap());
    let mut one = world.streams(&topology(), config(directory.path(), 0));
    write(&world, 1, 10, 2);
    rounds(&mut [&mut one], 50);
    assert!(one.standbys().is_empty(), "it has all tasks itself");
    let mut two = world.streams(&topology(), config(directory.path(), 1));
    settled(&mut one, &mut two);
    assert!(two.records_restored() >= 10);
    assert_eq!(copy(&one).records, 0, "it had written them itself");
    write(&world, 1, 10, 1);
    rounds(&mut [&mut one, &mut two], 100);
    drop(two);
    take_over(&world, &mut one);
    write(&world, 1, 10, 1);
    rounds(&mut [&mut one], 50);
    assert_eq!(one.records_restored(), 0);
    assert_counts(&world, 1, 10, 4);
}

#[test]
fn a_copy_is_handed_over_in_the_middle_of_what_it_reads() {
    // One record of a changelog a round.
    let (world, _directory, mut one, mut two) = pair(|world| scripted(world, Arc::default()));
    write(&world, 1, 40, 1);
    rounds(&mut [&mut two], 30);
    rounds(&mut [&mut one], 5);
    let changes = world.read_partition(CHANGELOG, 1).len() as u64;
    let read = copy(&one).records;
    assert!(
        changes == 40 && read > 0 && read <= 5,
        "{read} of {changes}"
    );
    two.close().unwrap();
    outlive_session(&world, &mut one);
    let mut before = read;
    while let [copy] = &one.standbys()[..] {
        before = copy.records;
        rounds(&mut [&mut one], 1);
    }
    rounds(&mut [&mut one], 100);
    let restored = one.records_restored();
    // It read one more at most in the round in which it was handed over.
    assert!(
        (1..changes).contains(&restored) && (before..=before + 1).contains(&(changes - restored)),
        "{before} before, {restored} after, of {changes}"
    );
    write(&world, 1, 40, 1);
    rounds(&mut [&mut one], 50);
    assert_counts(&world, 1, 40, 2);
}

#[test]
fn an_instance_that_is_back_goes_on_with_its_copy_where_its_marker_is() {
    let (world, directory, mut one, mut two) = pair(own_log);
    write(&world, 1, 10, 5);
    rounds(&mut [&mut one, &mut two], 100);
    let position = copy(&one).position;
    assert!(position > 0);
    one.close().unwrap();
    write(&world, 1, 3, 1);
    rounds(&mut [&mut two], 30);
    let mut one = world.streams(&topology(), config(directory.path(), 0));
    settled(&mut one, &mut two);
    rounds(&mut [&mut one], 10);
    let again = copy(&one);
    assert_eq!(again.from, position);
    assert_eq!(again.records, 3);
}

/// A transaction on the changelog that is not the application's.
fn strange(world: &World) -> Box<dyn Producer> {
    let config = ProducerConfig {
        transactional_id: Some("another".to_owned()),
        ..ProducerConfig::default()
    };
    let mut producer = world.log.producer(config).unwrap();
    producer.init_transactions(Duration::ZERO).unwrap();
    producer.begin_transaction().unwrap();
    let record = ProducerRecord {
        topic: CHANGELOG,
        partition: 1,
        timestamp: 0,
        key: Some(b"1w0"),
        value: Some(b"not a count"),
        headers: &[],
    };
    producer.send(record).unwrap();
    producer.flush(Duration::ZERO).unwrap();
    producer
}

#[test]
fn what_is_not_committed_never_reaches_a_copy() {
    let (world, _directory, mut one, mut two) = pair(own_log);
    write(&world, 1, 3, 1);
    rounds(&mut [&mut one, &mut two], 50);
    let mut open = strange(&world);
    rounds(&mut [&mut one], 20);
    assert_eq!(copy(&one).records, 3);
    open.abort_transaction(Duration::ZERO).unwrap();
    write(&world, 1, 3, 1);
    rounds(&mut [&mut one, &mut two], 50);
    assert_eq!(copy(&one).records, 6);
    two.close().unwrap();
    take_over(&world, &mut one);
    write(&world, 1, 3, 1);
    rounds(&mut [&mut one], 50);
    assert_eq!(one.records_restored(), 0);
    assert_counts(&world, 1, 3, 3);
}

#[test]
fn a_copy_that_fails_fails_nothing_else_and_goes_on_after_a_while() {
    let script = Arc::new(Script::default());
    let (world, _directory, mut one, mut two) = pair(|world| scripted(world, Arc::clone(&script)));
    write(&world, 1, 5, 1);
    rounds(&mut [&mut two], 30);
    rounds(&mut [&mut one], 2);
    script.failures.store(1, Ordering::SeqCst);
    write(&world, 0, 5, 1);
    rounds(&mut [&mut one], 30);
    assert!(one.standbys().is_empty(), "{:?}", one.standbys());
    assert_counts(&world, 0, 5, 1);
    // It waits for the next look, and begins at its marker, which it had not written.
    world.clock.advance(Duration::from_secs(10));
    rounds(&mut [&mut one], 30);
    assert_eq!((copy(&one).from, copy(&one).records), (0, 5));
}

#[test]
fn a_copy_whose_changelog_lost_its_head_meanwhile_begins_anew() {
    let (world, directory, one, mut two) = pair(own_log);
    write(&world, 1, 20, 1);
    rounds(&mut [&mut two], 30);
    one.close().unwrap();
    let changes = world.read_partition(CHANGELOG, 1);
    let head = changes[10].offset;
    // When it is back, it has read some of what is gone a few polls later.
    let log = scripted(&world, Arc::new(Script::cutting(vec![(8, head)])));
    let mut one = world.streams_on(log, &topology(), config(directory.path(), 0));
    settled(&mut one, &mut two);
    rounds(&mut [&mut one], 20);
    world.clock.advance(Duration::from_secs(10));
    rounds(&mut [&mut one], 40);
    let kept = copy(&one);
    assert_eq!(kept.from, head, "{kept:?}");
    two.close().unwrap();
    take_over(&world, &mut one);
    write(&world, 1, 20, 1);
    rounds(&mut [&mut one], 50);
    let counts = [3, 15].map(|change: usize| {
        let key = changes[change].key.as_deref().unwrap();
        last_count(&world, std::str::from_utf8(key).unwrap())
    });
    assert_eq!(counts, ["1", "2"]);
}

#[test]
fn threads_of_their_own_keep_copies_and_end_with_the_application() {
    let (world, directory) = (world(), tempfile::tempdir().unwrap());
    let start = |ordinal| {
        let log = Arc::new(world.log.clone());
        let mut streams = Streams::new(topology(), config(directory.path(), ordinal), log).unwrap();
        streams.start();
        streams
    };
    let (one, two) = (start(0), start(1));
    write(&world, 0, 10, 3);
    write(&world, 1, 10, 3);
    let deadline = Deadline::after(Duration::from_secs(60));
    let has_all = |streams: &Streams, partition| {
        let kept = streams.standbys();
        let kept = kept
            .iter()
            .find(|copy| copy.changelog.partition == partition);
        kept.is_some_and(|copy| copy.position > 0 && copy.records >= 10)
    };
    while !(has_all(&one, 1) && has_all(&two, 0)) {
        let known = (one.standbys(), two.standbys());
        assert!(
            !deadline.passed() && !one.stopped() && !two.stopped(),
            "{known:?}"
        );
        std::thread::yield_now();
    }
    one.close().unwrap();
    two.close().unwrap();
    // The locks of the directories are free again, and the copies were written down.
    let mut one = world.streams(&topology(), config(directory.path(), 0));
    let mut two = world.streams(&topology(), config(directory.path(), 1));
    settled(&mut one, &mut two);
    assert!(copy(&one).from > 0 && copy(&two).from > 0);
}

#[test]
fn a_standby_that_could_not_work_is_refused_with_what_to_do() {
    let (world, directory) = (world(), tempfile::tempdir().unwrap());
    let refused = |change: &dyn Fn(&mut StreamsConfig)| {
        let mut config = config(directory.path(), 0);
        change(&mut config);
        let log = Arc::new(world.log.clone());
        match Streams::new(topology(), config, log).err() {
            Some(StreamsError::Standby { reason }) => reason,
            other => panic!("{other:?}"),
        }
    };
    let no_directory = refused(&|config| config.state_dir = None);
    assert!(no_directory.contains("`state_dir`"), "{no_directory}");
    let dynamic = refused(&|config| config.static_membership = false);
    assert!(dynamic.contains("`static_membership`"), "{dynamic}");
    for name in ["app", "app-2", "app-01"] {
        let named = refused(&|config| config.instance = Some(name.to_owned()));
        assert!(named.contains(name) && named.contains("below 2"), "{named}");
    }
    let unknown = refused(&|config| config.standby = Some(Standby::among(2).of(["other"])));
    assert!(unknown.contains("'other'"), "{unknown}");
}
