//! Tables that are rebuilt from the topic that they read: the same results as with a changelog, which is not there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use processor_core::dsl::{
    Consumed, FutureBound, Grouped, Produced, StreamsBuilder, TimestampExtractor,
};
use processor_core::log::{Cleanup, Log, NewTopic, OffsetReset};
use processor_core::plan::Load;
use processor_core::plan::diff::{Verdict, compare};
use processor_core::serde::{Serde, SerdeError, bytes, int64, json, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{OnBadRecord, Streams, StreamsConfig, StreamsError, Topology};
use proptest::prelude::*;

use crate::support::driver::text;
use crate::support::world::World;

fn built(optimize: bool, describe: impl FnOnce(&StreamsBuilder)) -> Topology {
    let builder = StreamsBuilder::new("under-test");
    let builder = match optimize {
        true => builder.optimize(),
        false => builder,
    };
    describe(&builder);
    builder.build().unwrap()
}

fn rows() -> Consumed<Option<String>, i64> {
    Consumed::new(nullable(utf8()), int64())
}

/// A table whose rows, whose rows before and whose deletions all show.
fn everything(builder: &StreamsBuilder) {
    let table = builder.table("rows", "rows", rows());
    table.to_stream().to("changes");
    let by_parity = Grouped::by(utf8()).value(int64());
    table
        .group_by(
            |_, v| (text(["even", "odd"][usize::from(v % 2 != 0)]), *v),
            by_parity,
        )
        .aggregate(
            "sums",
            int64(),
            || 0,
            |_, v, sum| sum + v,
            |_, v, sum| sum - v,
        )
        .to_stream()
        .to("sums");
    builder
        .stream("events", rows())
        .left_join_table("joined", &table, |_, event, row| {
            format!("{event} of {row:?}")
        })
        .to_with("joined", Produced::new(nullable(utf8()), utf8()));
}

fn changelogs(topology: &Topology) -> BTreeMap<String, String> {
    let stores = topology.plan().stores.into_iter();
    stores
        .map(|store| (store.name, store.changelog.topic))
        .collect()
}

fn changelog_of_rows(describe: impl FnOnce(&StreamsBuilder)) -> String {
    changelogs(&built(true, describe)).remove("rows").unwrap()
}

const OWN: &str = "<application>-rows-changelog";

#[test]
fn an_optimised_table_has_no_changelog_and_its_topic_is_not_written() {
    let plain = built(false, everything);
    assert_eq!(changelogs(&plain)["rows"], OWN);
    let topology = built(true, everything);
    assert_eq!(changelogs(&topology)["rows"], "rows");
    assert_eq!(
        changelogs(&topology)["sums"],
        "<application>-sums-changelog"
    );
    let mut driver = TopologyTestDriver::with(topology, StreamsConfig::new("app"), 1).unwrap();
    let input = driver.input("rows", utf8(), nullable(int64()));
    input.pipe(&mut driver, text("a"), Some(1), 0);
    input.pipe(&mut driver, text("a"), None, 1);
    driver.restart().unwrap();
    let has = |driver: &TopologyTestDriver, topic: &str| driver.topics().contains(&text(topic));
    assert!(has(&driver, "app-sums-changelog"));
    assert!(!has(&driver, "app-rows-changelog"));
    let topic = driver.output("rows", utf8(), nullable(int64()));
    assert_eq!(topic.read(&mut driver).len(), 2);
}

#[test]
fn the_plan_says_what_a_table_is_rebuilt_from_and_what_that_saves() {
    let describe = |builder: &StreamsBuilder| drop(builder.table("rows", "rows", rows()));
    let (plain, optimized) = (built(false, describe).plan(), built(true, describe).plan());
    assert_ne!(plain.hash(), optimized.hash());
    let text = optimized.to_string();
    assert!(
        text.contains("rows (key-value, rebuilt from: rows)"),
        "{text}"
    );
    let load = Load::default();
    let (before, now) = (plain.cost(load), optimized.cost(load));
    assert_eq!(before.operators[0].writes_per_record, 1);
    assert_eq!(now.operators[0].writes_per_record, 0);
    assert_eq!(now.operators[0].written_bytes_per_s, 0);
    assert_eq!(now.operators[0].rows, before.operators[0].rows);
}

/// Text for which there may be no schema yet.
struct Waiting;

impl Serde<String> for Waiting {
    fn serialize(&self, value: &String, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        utf8().serialize(value, into)
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<String, SerdeError> {
        utf8().deserialize(bytes)
    }

    fn may_wait(&self) -> bool {
        true
    }
}

#[test]
fn a_table_whose_rows_do_not_follow_from_its_topic_alone_keeps_its_changelog() {
    let of = |consumed: Consumed<Option<String>, i64>| {
        changelog_of_rows(|builder| drop(builder.table("rows", "rows", consumed)))
    };
    assert_eq!(of(rows()), "rows");
    assert_eq!(of(rows().idle_after(Duration::from_secs(1))), "rows");
    let bound = FutureBound {
        ahead: Duration::from_secs(1),
        confirmed_by: 2,
    };
    let keeping = [
        rows().reset(OffsetReset::Latest),
        rows().future_bound(bound),
        rows().timestamp(|record| record.value),
        rows().timestamp_extractor(TimestampExtractor::wall_clock()),
        rows().timestamp_extractor(TimestampExtractor::log_and_skip_on_invalid()),
        rows().timestamp_extractor(TimestampExtractor::use_partition_time_on_invalid()),
    ];
    assert_eq!(keeping.map(of), [OWN; 6]);
    let waiting = |builder: &StreamsBuilder| {
        builder.table("rows", "rows", Consumed::new(utf8(), Waiting));
    };
    assert_eq!(changelog_of_rows(waiting), OWN);
    let versioned = |builder: &StreamsBuilder| {
        builder.versioned_table("rows", "rows", Duration::from_secs(1), rows());
    };
    assert_eq!(changelog_of_rows(versioned), OWN);
    let of_stream = |builder: &StreamsBuilder| {
        let stream = builder.stream("rows", Consumed::new(utf8(), nullable(int64())));
        stream.to_table_with_deletes("rows");
    };
    assert_eq!(changelog_of_rows(of_stream), OWN);
}

const TOPICS: [(&str, i32); 4] = [("events", 1), ("changes", 1), ("sums", 1), ("joined", 1)];

/// A log with the topics of `everything`, of which that of the table is cleaned like this.
fn world(cleanup: Cleanup) -> World {
    let world = World::new(&TOPICS);
    let rows = NewTopic::new("rows", 1).cleanup(cleanup);
    world.log.create_topics(&[rows]).unwrap();
    world
}

/// What ends in `n`, as bytes of a number that are text as well.
fn number(n: u8) -> String {
    String::from_utf8(vec![0, 0, 0, 0, 0, 0, 0, n]).unwrap()
}

fn put(world: &World, key: &str, n: u8, time: i64) {
    world.write("rows", 0, Some(key), Some(&number(n)), time);
}

fn run(world: &World, topology: &Topology, config: StreamsConfig) -> u64 {
    let mut streams = world.streams(topology, config);
    streams.run_to_end().unwrap();
    let restored = streams.records_restored();
    streams.close().unwrap();
    restored
}

#[test]
fn a_restore_ends_where_the_input_goes_on_and_what_is_beyond_comes_as_input() {
    let world = world(Cleanup::Compact);
    let topology = built(true, everything);
    put(&world, "a", 1, 0);
    put(&world, "b", 3, 1);
    run(&world, &topology, StreamsConfig::new("app"));
    put(&world, "a", 7, 2);
    world.write("rows", 0, Some("b"), None, 3);
    // With nothing in memory the rows before come from the topic: 7 takes the place of 1, and 3 goes.
    assert!(run(&world, &topology, StreamsConfig::new("app")) >= 2);
    let sums: Vec<_> = world.read_values("sums");
    let last = sums.last().unwrap();
    assert_eq!(*last, number(7), "{sums:?}");
    assert_eq!(world.read("changes").len(), 4);
}

#[test]
fn rows_on_disk_are_brought_up_from_where_their_marker_left_them() {
    let world = world(Cleanup::Compact);
    let topology = built(true, |builder| {
        builder
            .table("rows", "rows", rows())
            .to_stream()
            .to("changes");
    });
    let directory = tempfile::tempdir().unwrap();
    let config = || StreamsConfig::new("app").state_dir(directory.path());
    put(&world, "a", 1, 0);
    put(&world, "b", 2, 1);
    run(&world, &topology, config());
    assert_eq!(run(&world, &topology, config()), 0);
    put(&world, "a", 3, 2);
    // Another disk reads on meanwhile.
    assert_eq!(run(&world, &topology, StreamsConfig::new("app")), 2);
    assert_eq!(run(&world, &topology, config()), 1);
}

#[test]
fn a_topic_that_loses_rows_and_handlers_that_pass_over_processed_records_are_refused() {
    let topology = built(true, everything);
    let start = |world: &World, config: StreamsConfig| {
        let log = Arc::new(world.log.clone());
        match Streams::new(topology.clone(), config, log) {
            Err(error @ StreamsError::TableNotInTopic { .. }) => error.to_string(),
            Err(error) => panic!("it was refused for another reason: {error}"),
            Ok(_) => String::new(),
        }
    };
    let config = || StreamsConfig::new("app");
    let compacted = world(Cleanup::Compact);
    assert_eq!(start(&compacted, config()), "");
    for cleanup in [Cleanup::Delete, Cleanup::CompactAndDelete] {
        let refused = start(&world(cleanup), config());
        let policy = format!("its cleanup policy is '{}'", cleanup.policy());
        assert!(refused.contains(&policy), "{refused}");
    }
    let skipping = StreamsConfig {
        on_bad_record: OnBadRecord::Skip,
        ..config()
    };
    assert_eq!(start(&compacted, skipping), "");
    let passing = StreamsConfig {
        on_processing_error: OnBadRecord::Skip,
        ..config()
    };
    assert_eq!(
        start(&compacted, passing),
        "table 'rows' is to be rebuilt from topic 'rows' in place of a changelog, since the topology is optimised, but \
         `on_processing_error` passes over records that fail, which the topic has and the table has not; or read it with \
         `stream(\"rows\", …).to_table_with_deletes(\"rows\")`, which keeps a changelog"
    );
}

#[test]
fn a_record_that_cannot_be_decoded_is_passed_over_again_without_a_second_dead_letter() {
    let world = world(Cleanup::Compact);
    let letters = NewTopic::new("letters", 1);
    world.log.create_topics(&[letters]).unwrap();
    let topology = built(true, everything);
    let config = |on_bad_record| StreamsConfig {
        on_bad_record,
        dead_letter_topic: Some(text("letters")),
        ..StreamsConfig::new("app")
    };
    put(&world, "a", 1, 0);
    world.write("rows", 0, Some("a"), Some("odd"), 1);
    world.write("rows", 0, None, Some(&number(9)), 2);
    run(&world, &topology, config(OnBadRecord::DeadLetter));
    assert_eq!(world.read("letters").len(), 1);
    put(&world, "a", 5, 3);
    run(&world, &topology, config(OnBadRecord::DeadLetter));
    assert_eq!(world.read("letters").len(), 1);
    assert_eq!(*world.read_values("sums").last().unwrap(), number(5));
    // Whoever does not let bad records pass any more is told where the first one is.
    let mut streams = world.streams(&topology, config(OnBadRecord::Fail));
    let error = streams.run_to_end().unwrap_err().to_string();
    assert!(error.contains("rows-0 at offset 1"), "{error}");
}

#[test]
fn rows_are_the_bytes_that_processing_writes_whatever_the_topic_has() {
    let topology = built(true, |builder| {
        let consumed = Consumed::new(json::<Vec<i64>>(), json::<Vec<i64>>());
        builder
            .table("rows", "rows", consumed)
            .to_stream()
            .to("changes");
    });
    let mut driver = TopologyTestDriver::new(topology).unwrap();
    let input = driver.input("rows", utf8(), utf8());
    input.pipe(&mut driver, text("[1, 2]"), text(" [3,  4]"), 0);
    for _ in 0..2 {
        let row = driver.store_get("rows", b"[1,2]");
        assert_eq!(row, Some((b"[3,4]".to_vec(), 0)));
        assert_eq!(driver.store_get("rows", b"[1, 2]"), None);
        driver.crash().unwrap();
    }
}

#[test]
fn switching_it_on_is_safe_and_switching_it_off_needs_a_reset_that_leaves_the_topic_alone() {
    let world = world(Cleanup::Compact);
    let (plain, optimized) = (built(false, everything), built(true, everything));
    put(&world, "a", 1, 0);
    run(&world, &plain, StreamsConfig::new("app"));
    put(&world, "a", 3, 1);
    run(&world, &optimized, StreamsConfig::new("app"));
    assert_eq!(*world.read_values("sums").last().unwrap(), number(3));
    let diff = compare(&optimized.plan(), &plain.plan());
    assert_eq!(diff.verdict(), Verdict::Reset, "{diff}");
    let log = Arc::new(world.log.clone());
    let refused = Streams::new(plain.clone(), StreamsConfig::new("app"), log);
    let Err(StreamsError::UnsafeChanges { changes, .. }) = refused else {
        panic!("it was not refused");
    };
    assert_eq!(
        changes,
        [
            "store 'rows' is rebuilt from 'app-rows-changelog' and was from 'rows': that begins without the rows that were \
             read before, and they are not read again; keep the topology optimised; or accept that its rows go, \
             `accept_reset(\"rows\")`, and have its topic read from the start if they are to come back"
        ]
    );
    run(
        &world,
        &plain,
        StreamsConfig::new("app").accept_reset("rows"),
    );
    assert_eq!(world.read("rows").len(), 2, "the user's topic");
    // What the changelog had from before the switch is gone with the reset, and does not come back.
    put(&world, "b", 5, 2);
    run(&world, &plain, StreamsConfig::new("app"));
    let changelog = world.read("app-rows-changelog");
    assert_eq!(changelog.len(), 1);
}

#[test]
fn a_table_that_is_new_or_comes_back_over_a_topic_that_was_read_has_all_its_rows() {
    let world = world(Cleanup::Compact);
    let reading = built(true, |builder| {
        let stream = builder.stream("rows", Consumed::new(utf8(), nullable(int64())));
        stream.to("changes");
    });
    let table = built(true, everything);
    put(&world, "a", 1, 0);
    run(&world, &reading, StreamsConfig::new("app"));
    let diff = compare(&reading.plan(), &table.plan());
    let reason = "it has the rows of topic 'rows' up to the committed offset of its input";
    assert!(diff.to_string().contains(reason), "{diff}");
    let joined = |world: &World, topology: &Topology| {
        world.write("events", 0, Some("a"), Some(&number(0)), 9);
        run(world, topology, StreamsConfig::new("app"));
        world.read_values("joined").last().cloned()
    };
    assert_eq!(joined(&world, &table).unwrap(), "0 of Some(1)");
    let without = built(true, |builder| {
        let stream = builder.stream("rows", Consumed::new(utf8(), nullable(int64())));
        stream.to("changes");
        let sums = builder.stream("events", rows()).group_by_key();
        sums.reduce("sums", |a, b| a + b);
    });
    let config = || StreamsConfig::new("app").accept_reset("sums");
    put(&world, "a", 3, 10);
    run(&world, &without, config());
    let back = built(true, |builder| {
        let table = builder.table("rows", "rows", rows());
        builder
            .stream("events", rows())
            .left_join_table("joined", &table, |_, event, row| {
                format!("{event} of {row:?}")
            })
            .to_with("joined", Produced::new(nullable(utf8()), utf8()));
    });
    assert_eq!(joined(&world, &back).unwrap(), "0 of Some(3)");
}

/// A record for the table, or an event.
#[derive(Debug, Clone)]
enum Step {
    Row(Option<u8>, Bytes, i64),
    Event(u8, i64),
}

#[derive(Debug, Clone)]
enum Bytes {
    Of(i64),
    Null,
    Bad,
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        6 => (0..9_i64).prop_map(Bytes::Of),
        2 => Just(Bytes::Null),
        1 => Just(Bytes::Bad),
    ];
    let key = prop_oneof![8 => (0..4_u8).prop_map(Some), 1 => Just(None)];
    prop_oneof![
        3 => (key, value, 0..40_i64).prop_map(|(key, value, time)| Step::Row(key, value, time)),
        1 => (0..4_u8, 0..40_i64).prop_map(|(key, time)| Step::Event(key, time)),
    ]
}

/// All that comes out, and how many dead letters.
fn outcome(
    optimize: bool,
    steps: &[Step],
    stops: &BTreeMap<usize, bool>,
    on_disk: bool,
) -> Vec<Vec<String>> {
    let directory = on_disk.then(|| tempfile::tempdir().unwrap());
    let config = StreamsConfig {
        on_bad_record: OnBadRecord::DeadLetter,
        dead_letter_topic: Some(text("letters")),
        state_dir: directory.as_ref().map(|d| d.path().to_owned()),
        ..StreamsConfig::new("app")
    };
    let mut driver = TopologyTestDriver::with(built(optimize, everything), config, 2).unwrap();
    let table = driver.input("rows", nullable(utf8()), nullable(bytes()));
    let events = driver.input("events", utf8(), int64());
    for (i, step) in steps.iter().enumerate() {
        match step {
            Step::Row(key, value, time) => {
                let key = key.map(|key| key.to_string());
                let value = match value {
                    Bytes::Of(n) => Some(n.to_be_bytes().to_vec()),
                    Bytes::Null => None,
                    Bytes::Bad => Some(vec![1]),
                };
                table.pipe(&mut driver, key, value, *time);
            }
            Step::Event(key, time) => events.pipe(&mut driver, key.to_string(), 0, *time),
        }
        match stops.get(&i) {
            Some(true) => driver.crash().unwrap(),
            Some(false) => driver.restart().unwrap(),
            None => {}
        }
    }
    let topics = ["changes", "sums", "joined", "letters"];
    let read = topics.map(|topic| {
        let output = driver.output(topic, nullable(utf8()), nullable(bytes()));
        let records = output.read(&mut driver).into_iter();
        records
            .map(|r| format!("{:?}: {:?} at {}", r.key, r.value, r.timestamp))
            .collect()
    });
    read.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn results_are_those_of_a_table_with_a_changelog_through_restarts_and_crashes(
        steps in prop::collection::vec(step(), 1..40),
        stops in prop::collection::btree_map(0..40_usize, any::<bool>(), 0..5),
        on_disk in prop::bool::weighted(0.1),
    ) {
        let [with, without] = [false, true].map(|optimize| outcome(optimize, &steps, &stops, on_disk));
        prop_assert_eq!(with, without);
    }
}
