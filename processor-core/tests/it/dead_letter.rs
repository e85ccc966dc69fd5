//! Records that fail: skipped, or kept as dead letters, exactly once and without a trace in the results.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use processor_core::clock::ManualClock;
use processor_core::dsl::{Produced, StreamsBuilder, TimeWindows};
use processor_core::error::{Fault, Result};
use processor_core::log::embedded::{EmbeddedLog, Options};
use processor_core::log::{ConsumerRecord, ErrorClass, Header, Headers, Log, NewTopic};
use processor_core::processor::{KeyValue, Processor, ProcessorContext};
use processor_core::serde::{bytes, int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{
    Guarantee, OnBadRecord, OnLateRecord, Record, Retries, Streams, StreamsConfig, StreamsError,
    Topology,
};

use crate::support::driver::{numbers, pairs, text, topology};
use crate::support::faulty_log::{Call, Fault as LogFault, FaultyLog, Script};
use crate::support::world::World;

const DEAD: &str = "dead";

/// Every handler does the same.
fn all(handling: OnBadRecord) -> StreamsConfig {
    StreamsConfig {
        instance: Some("one".to_owned()),
        on_bad_record: handling,
        on_processing_error: handling,
        on_production_error: handling,
        dead_letter_topic: Some(DEAD.to_owned()),
        ..StreamsConfig::new("app")
    }
}

fn driver(topology: Topology, handling: OnBadRecord) -> TopologyTestDriver {
    TopologyTestDriver::with(topology, all(handling), 1).unwrap()
}

/// Counts the values of each key, sends `value#count`, and refuses values that begin with "bad": after it has counted
/// and sent them.
struct Tally(KeyValue<String, i64>);

impl Processor<String, String> for Tally {
    type KOut = String;
    type VOut = String;

    fn process(
        &mut self,
        record: Record<String, String>,
        context: &mut ProcessorContext<'_, '_, String, String>,
    ) -> Result {
        let count = self.0.get(&record.key)?.unwrap_or(0) + 1;
        self.0.put(&record.key, &count, record.timestamp)?;
        let value = record.value.clone();
        let size = value.strip_prefix("big").map_or(0, |_| 10_000);
        let result = format!("{value}#{count}{}", "x".repeat(size));
        context.forward(record.with_value(result))?;
        if value.starts_with("bad") {
            return Err(Fault::user("tally", format!("'{value}' is refused")));
        }
        Ok(())
    }
}

/// Tallies "in" to "out".
fn tally() -> Topology {
    topology(|builder| {
        let counts = builder.key_value_store("counts", utf8(), int64());
        texts(builder)
            .process("tally", counts, Tally)
            .to_with("out", Produced::new(utf8(), utf8()));
    })
}

/// The same behind a repartition topic.
fn tally_behind_repartition() -> Topology {
    topology(|builder| {
        let counts = builder.key_value_store("counts", utf8(), int64());
        texts(builder)
            .repartition("by-key", utf8(), utf8(), None)
            .process("tally", counts, Tally)
            .to_with("out", Produced::new(utf8(), utf8()));
    })
}

fn texts(builder: &StreamsBuilder) -> processor_core::dsl::KStream<String, String> {
    builder.stream("in", processor_core::dsl::Consumed::new(utf8(), utf8()))
}

fn header(name: &str, value: Option<&'static [u8]>) -> Header {
    Header {
        name: Arc::from(name),
        value: value.map(Into::into),
    }
}

/// Headers as `name=value`.
fn told(headers: &[Header]) -> Vec<String> {
    let value = |header: &Header| {
        let value = header.value.as_deref();
        value
            .map_or("null".into(), String::from_utf8_lossy)
            .into_owned()
    };
    let tell = |header: &Header| format!("{}={}", header.name, value(header));
    headers.iter().map(tell).collect()
}

/// What a dead letter says about where it comes from.
fn origin(headers: &[Header]) -> String {
    let get = |name: &str| {
        let name = format!("__streams.errors.{name}=");
        let told = told(headers);
        let value = told.iter().find_map(|header| header.strip_prefix(&name));
        value.unwrap_or("?").to_owned()
    };
    format!("{}-{}@{}", get("topic"), get("partition"), get("offset"))
}

type Raw = Record<Option<Vec<u8>>, Option<Vec<u8>>>;

fn read_raw(driver: &mut TopologyTestDriver, topic: &str) -> Vec<Raw> {
    let output = driver.output(topic, nullable(bytes()), nullable(bytes()));
    output.read(driver)
}

fn pipe_raw(driver: &mut TopologyTestDriver, record: &Raw) {
    let input = driver.input("in", nullable(bytes()), nullable(bytes()));
    input.pipe_record(driver, record);
}

fn raw(key: Option<&[u8]>, value: Option<&[u8]>, timestamp: i64, headers: Headers) -> Raw {
    Record {
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        timestamp,
        headers,
    }
}

// --- records that cannot be decoded ---

#[test]
fn a_record_that_cannot_be_decoded_is_kept_with_its_bytes_and_headers_and_says_where_it_was() {
    let topology = topology(|builder| builder.stream("in", numbers()).to("out"));
    let mut driver = driver(topology, OnBadRecord::DeadLetter);
    let own = vec![
        header("trace", Some(b"\xff\x00")),
        header("trace", Some(b"7")),
        header("nothing", None),
    ];
    let bad = [
        raw(Some(b"a"), Some(b"short"), 17, own.clone()),
        raw(Some(b"\xff\xfe"), Some(&[0; 8]), 18, vec![]),
        raw(None, None, 19, vec![]),
    ];
    let numbers_in = driver.input("in", utf8(), int64());
    for (record, number) in bad.iter().zip(1..) {
        pipe_raw(&mut driver, record);
        numbers_in.pipe(&mut driver, text("k"), number, 20);
    }
    driver.restart().unwrap();
    let out = driver.output("out", utf8(), int64());
    assert_eq!(
        out.read_key_values(&mut driver),
        pairs(&[("k", 1), ("k", 2), ("k", 3)])
    );

    let dead = read_raw(&mut driver, DEAD);
    assert_eq!(dead.len(), bad.len());
    for ((dead, bad), offset) in dead.iter().zip(&bad).zip([0, 2, 4]) {
        assert_eq!((&dead.key, &dead.value), (&bad.key, &bad.value));
        assert_eq!(dead.timestamp, bad.timestamp);
        let (own, added) = dead.headers.split_at(bad.headers.len());
        assert_eq!(own, bad.headers);
        assert_eq!(origin(added), format!("in-0@{offset}"));
    }
    assert_eq!(
        told(&dead[0].headers[own.len()..]),
        [
            "__streams.errors.exception=Serde",
            "__streams.errors.message=the value cannot be decoded: a 64-bit integer has 8 bytes, these are 5",
            "__streams.errors.topic=in",
            "__streams.errors.partition=0",
            "__streams.errors.offset=0",
        ]
    );
}

#[test]
fn a_record_without_a_valid_time_is_kept_with_its_headers() {
    let topology = topology(|builder| {
        let timed = numbers().timestamp(|record| record.value);
        builder.stream("in", timed).to("out");
    });
    let mut driver = driver(topology, OnBadRecord::DeadLetter);
    let bad = raw(
        Some(b"a"),
        Some(&(-5_i64).to_be_bytes()),
        3,
        vec![header("trace", Some(b"7"))],
    );
    pipe_raw(&mut driver, &bad);
    let dead = read_raw(&mut driver, DEAD);
    assert_eq!(dead[0].value, bad.value);
    let told = told(&dead[0].headers);
    assert_eq!(told[..2], ["trace=7", "__streams.errors.exception=User"]);
    assert!(told[2].contains("the timestamp -5 is negative"), "{told:?}");
}

#[test]
fn a_bad_row_of_a_global_table_is_skipped_and_no_dead_letter() {
    let topology = topology(|builder| {
        let table = builder.global_table("rows", "table", numbers());
        texts(builder)
            .join_global("join", &table, |k, _| k.clone(), |_, _, _, row| row)
            .to_with("out", Produced::new(utf8(), int64()));
    });
    let mut driver = driver(topology, OnBadRecord::DeadLetter);
    let rows = driver.input("rows", utf8(), utf8());
    rows.pipe(&mut driver, text("a"), text("short"), 0);
    rows.pipe(&mut driver, text("a"), text("\0\0\0\0\0\0\0\u{7}"), 1);
    let input = driver.input("in", utf8(), utf8());
    input.pipe(&mut driver, text("a"), text("x"), 2);
    let out = driver.output("out", utf8(), int64());
    assert_eq!(out.read_key_values(&mut driver), pairs(&[("a", 7)]));
    assert_eq!(read_raw(&mut driver, DEAD), []);
}

// --- records that fail in the middle ---

const INPUT: [(&str, &str); 8] = [
    ("a", "1"),
    ("b", "bad 2"),
    ("a", "3"),
    ("a", "bad 4"),
    ("a", "bad 5"),
    ("b", "6"),
    ("b", "7"),
    ("a", "bad 8"),
];
const RESULTS: [&str; 4] = ["1#1", "3#2", "6#1", "7#2"];
const FAILED: [&str; 4] = ["bad 2", "bad 4", "bad 5", "bad 8"];

/// A log with these topics, one partition each, that takes records of up to 1,000 bytes.
fn world_with(topics: &[&str]) -> World {
    let clock = ManualClock::default();
    let log = EmbeddedLog::in_memory_with_options(Options {
        clock: Arc::new(clock.clone()),
        max_record_bytes: 4_000,
        ..Options::default()
    });
    let topics: Vec<_> = topics.iter().map(|name| NewTopic::new(*name, 1)).collect();
    log.create_topics(&topics).unwrap();
    World { log, clock }
}

fn world() -> World {
    world_with(&["in", "out", DEAD])
}

fn feed(world: &World, input: &[(&str, &str)]) {
    for ((key, value), timestamp) in input.iter().zip(0..) {
        world.write("in", 0, Some(key), Some(value), timestamp);
    }
}

fn origins(records: &[ConsumerRecord]) -> Vec<String> {
    records.iter().map(|dead| origin(&dead.headers)).collect()
}

#[test]
fn a_record_that_fails_half_way_leaves_nothing_but_its_dead_letter() {
    let mut driver = driver(tally(), OnBadRecord::DeadLetter);
    let input = driver.input("in", utf8(), utf8());
    for ((key, value), timestamp) in INPUT.iter().zip(0..) {
        let mut record = Record::new(text(key), text(value), timestamp);
        record.headers = vec![header("trace", Some(b"7"))];
        input.pipe_record(&mut driver, &record);
    }
    let out = driver.output("out", utf8(), utf8());
    let values: Vec<_> = out.read(&mut driver).into_iter().map(|r| r.value).collect();
    assert_eq!(values, RESULTS);
    for key in [b"a", b"b"] {
        let (count, _) = driver.store_get("counts", key).unwrap();
        assert_eq!(count, 2_i64.to_be_bytes());
    }
    let dead = driver.output(DEAD, utf8(), utf8()).read(&mut driver);
    let values: Vec<_> = dead.iter().map(|dead| dead.value.as_str()).collect();
    assert_eq!(values, FAILED);
    assert_eq!(
        told(&dead[0].headers),
        [
            "trace=7",
            "__streams.errors.exception=User",
            "__streams.errors.message=tally: 'bad 2' is refused",
            "__streams.errors.topic=in",
            "__streams.errors.partition=0",
            "__streams.errors.offset=1",
        ]
    );
}

#[test]
fn among_many_records_of_one_transaction_those_that_fail_are_passed_over_and_the_order_stays() {
    for handling in [OnBadRecord::DeadLetter, OnBadRecord::Skip] {
        let world = world();
        feed(&world, &INPUT);
        let config = StreamsConfig {
            commit_interval: Duration::from_secs(1_000),
            ..all(handling)
        };
        let mut streams = world.streams(&tally(), config.clone());
        streams.run_to_end().unwrap();
        assert_eq!(world.read_values("out"), RESULTS);
        let dead = world.read(DEAD);
        if handling == OnBadRecord::Skip {
            assert_eq!(dead, []);
        } else {
            assert_eq!(world.read_values(DEAD), FAILED);
            assert_eq!(origins(&dead), ["in-0@1", "in-0@3", "in-0@4", "in-0@7"]);
        }
        // Nothing is read again: the commit is behind the last record, which failed.
        drop(streams);
        let mut streams = world.streams(&tally(), config);
        assert_eq!(streams.run_to_end().unwrap().records, 0);
        assert_eq!(world.read(DEAD), dead);
    }
}

#[test]
fn a_record_that_fails_stops_the_application_where_no_handler_is_set_and_its_effects_are_undone() {
    let world = world();
    feed(&world, &[("a", "1"), ("a", "bad")]);
    let config = StreamsConfig {
        on_bad_record: OnBadRecord::DeadLetter,
        on_processing_error: OnBadRecord::Fail,
        ..all(OnBadRecord::Skip)
    };
    let mut streams = world.streams(&tally(), config);
    for _ in 0..2 {
        let error = streams.run_to_end().unwrap_err().to_string();
        assert_eq!(
            error,
            "processing in-0 at offset 1: tally: 'bad' is refused"
        );
        assert!(world.read_values("out").len() < 2, "the half is not undone");
    }
    assert_eq!(world.read(DEAD), []);
}

#[test]
fn a_handler_of_processing_errors_does_not_take_records_that_cannot_be_decoded() {
    let topology = topology(|builder| builder.stream("in", numbers()).to("out"));
    let world = world();
    feed(&world, &[("a", "short")]);
    let config = StreamsConfig {
        on_bad_record: OnBadRecord::Fail,
        ..all(OnBadRecord::Skip)
    };
    let error = world.streams(&topology, config).run_to_end().unwrap_err();
    let error = error.to_string();
    assert!(error.contains("in-0 at offset 0: the value"), "{error}");
}

#[test]
fn when_every_second_record_fails_the_others_are_read_twice_and_not_again_for_each() {
    let world = world();
    let values: Vec<String> = (0..100).map(|i| format!("bad {i}")).collect();
    let pairs = values
        .iter()
        .flat_map(|bad| [("a", "1"), ("a", bad.as_str())]);
    feed(&world, &pairs.collect::<Vec<_>>());
    let config = StreamsConfig {
        commit_interval: Duration::from_secs(1_000),
        ..all(OnBadRecord::DeadLetter)
    };
    let mut streams = world.streams(&tally(), config);
    // Those that fail are not counted, and each takes the one before it back.
    let taken = streams.run_to_end().unwrap().records;
    assert!(taken <= 200, "{taken} records taken");
    assert_eq!(world.read_values(DEAD), values);
    assert_eq!(world.read_values("out").last(), Some(&text("1#100")));
    assert_eq!(world.read("out").len(), 100);
}

#[test]
fn the_time_of_a_record_that_fails_closes_no_window() {
    let topology = topology(|builder| {
        let texts = texts(builder);
        // Takes the record first, and has its time.
        texts
            .group_by_key()
            .windowed_by(TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::ZERO))
            .count("windows")
            .to_stream()
            .map(|window, count| (window.key, count))
            .to_with("windowed", Produced::new(utf8(), int64()));
        let counts = builder.key_value_store("counts", utf8(), int64());
        texts
            .process("tally", counts, Tally)
            .to_with("out", Produced::new(utf8(), utf8()));
    });
    let mut driver = driver(topology, OnBadRecord::DeadLetter);
    let input = driver.input("in", utf8(), utf8());
    for (value, timestamp) in [("1", 3), ("bad", 1_000_000), ("2", 4)] {
        input.pipe(&mut driver, text("a"), text(value), timestamp);
    }
    let windowed = driver.output("windowed", utf8(), int64());
    assert_eq!(
        windowed.read_key_values(&mut driver),
        pairs(&[("a", 1), ("a", 2)])
    );
}

#[test]
fn a_record_that_fails_behind_a_repartition_topic_is_kept_as_it_came_from_there() {
    let mut driver = driver(tally_behind_repartition(), OnBadRecord::DeadLetter);
    let input = driver.input("in", utf8(), utf8());
    for ((key, value), timestamp) in INPUT.iter().zip(0..) {
        let mut record = Record::new(text(key), text(value), timestamp);
        record.headers = vec![header("trace", Some(b"7"))];
        input.pipe_record(&mut driver, &record);
    }
    driver.crash().unwrap();
    let out = driver.output("out", utf8(), utf8());
    let values: Vec<_> = out.read(&mut driver).into_iter().map(|r| r.value).collect();
    assert_eq!(values, RESULTS);
    let dead = driver.output(DEAD, utf8(), utf8()).read(&mut driver);
    let values: Vec<_> = dead.iter().map(|dead| dead.value.as_str()).collect();
    assert_eq!(values, FAILED);
    for dead in &dead {
        let told = told(&dead.headers);
        assert_eq!(told[0], "trace=7");
        assert_eq!(told[3], "__streams.errors.topic=app-by-key-repartition");
        assert_eq!(told.len(), 6, "{told:?}");
    }
}

// --- exactly once ---

/// Runs with a fault of the log at call number `at`, restarting as an orchestrator would. Whether the fault struck.
fn run_with(topology: &Topology, fault: LogFault, at: usize) -> (bool, World) {
    let world = world();
    let script = Script::new(fault, at);
    let start = || {
        let log = FaultyLog {
            inner: world.log.clone(),
            script: Arc::clone(&script),
            max_poll_records: 3,
        };
        world.streams_on(Arc::new(log), topology, all(OnBadRecord::DeadLetter))
    };
    feed(&world, &INPUT);
    let mut streams = start();
    let mut restarts = 0;
    while let Err(error) = streams.run_to_end() {
        restarts += 1;
        assert!(restarts < 3, "call {at} of {fault:?}: {error}");
        assert_eq!(fault.class, ErrorClass::Fatal, "{error}");
        drop(streams);
        streams = start();
    }
    drop(streams);
    (script.struck(), world)
}

#[test]
fn dead_letters_and_results_come_once_whatever_call_of_the_log_fails() {
    let everything = &[
        Call::MakeClient,
        Call::Poll,
        Call::Assign,
        Call::Committed,
        Call::Init,
        Call::Begin,
        Call::Send,
        Call::BeginCommit,
        Call::PollCommit,
        Call::Abort,
    ];
    let commit = &[Call::PollCommit];
    let ends = &[Call::Send, Call::BeginCommit, Call::Abort];
    for topology in [tally(), tally_behind_repartition()] {
        for (class, calls, done) in [
            (ErrorClass::Fatal, &everything[..], false),
            (ErrorClass::Fatal, commit, true),
            (ErrorClass::Uncertain, commit, false),
            (ErrorClass::Uncertain, commit, true),
            (ErrorClass::Abortable, ends, false),
        ] {
            let fault = LogFault { class, calls, done };
            for at in 0.. {
                let (struck, world) = run_with(&topology, fault, at);
                let dead = world.read_values(DEAD);
                assert_eq!(dead, FAILED, "call {at} of {fault:?}");
                let results = world.read_values("out");
                assert_eq!(results, RESULTS, "call {at} of {fault:?}");
                if !struck {
                    assert!(at >= 5, "{fault:?} struck at {at} calls only");
                    break;
                }
            }
        }
    }
}

#[test]
fn at_least_once_keeps_each_dead_letter_and_the_state_without_them() {
    let world = world();
    feed(&world, &INPUT);
    let config = StreamsConfig {
        guarantee: Guarantee::AtLeastOnce,
        ..all(OnBadRecord::DeadLetter)
    };
    let mut streams = world.streams(&tally(), config);
    streams.run_to_end().unwrap();
    let dead = world.read_values(DEAD);
    for failed in FAILED {
        assert!(dead.contains(&text(failed)), "{dead:?}");
    }
    // The counts go on as if the failed ones had not been there, though what they had sent may be.
    let results = world.read_values("out");
    for result in RESULTS {
        assert!(results.contains(&text(result)), "{results:?}");
    }
}

#[test]
fn a_record_that_fails_while_a_commit_is_in_flight_does_not_undo_that_commit() {
    for polls in [1, 2, 5] {
        let world = world();
        feed(&world, &INPUT);
        let log = FaultyLog {
            inner: world.log.clone(),
            script: Script::slow_commits(polls),
            max_poll_records: 2,
        };
        let config = StreamsConfig {
            commit_interval: Duration::ZERO,
            ..all(OnBadRecord::DeadLetter)
        };
        let mut streams = world.streams_on(Arc::new(log), &tally(), config);
        let taken = streams.run_to_end().unwrap().records;
        assert_eq!(world.read_values("out"), RESULTS);
        assert_eq!(world.read_values(DEAD), FAILED);
        assert!(taken <= 9, "with {polls} polls {taken} records taken");
    }
}

// --- results that the log refuses ---

const WITH_BIG: [(&str, &str); 5] = [
    ("a", "1"),
    ("a", "big 2"),
    ("a", "3"),
    ("b", "big 4"),
    ("a", "5"),
];

#[test]
fn a_record_whose_result_is_too_large_leaves_nothing_but_its_dead_letter() {
    // Sent on the spot, or when the commit in flight is through: then nobody knows at first where it came from.
    for polls in [0, 1, 2, 5] {
        let world = world();
        feed(&world, &WITH_BIG);
        let log = FaultyLog {
            inner: world.log.clone(),
            script: Script::slow_commits(polls),
            max_poll_records: 1,
        };
        let config = StreamsConfig {
            commit_interval: Duration::ZERO,
            ..all(OnBadRecord::DeadLetter)
        };
        let mut streams = world.streams_on(Arc::new(log), &tally(), config);
        streams.run_to_end().unwrap();
        assert_eq!(world.read_values("out"), ["1#1", "3#2", "5#3"]);
        assert_eq!(world.read_values(DEAD), ["big 2", "big 4"]);
        let dead = world.read(DEAD);
        assert_eq!(origins(&dead), ["in-0@1", "in-0@3"]);
        let told = told(&dead[0].headers);
        assert_eq!(told[0], "__streams.errors.exception=Log");
        assert!(
            told[1].contains("is larger than the 4000 bytes"),
            "{told:?}"
        );
    }
}

#[test]
fn a_result_that_is_too_large_stops_the_application_where_no_handler_is_set() {
    let world = world();
    feed(&world, &WITH_BIG);
    let config = StreamsConfig {
        on_production_error: OnBadRecord::Fail,
        ..all(OnBadRecord::DeadLetter)
    };
    let error = world.streams(&tally(), config).run_to_end().unwrap_err();
    let error = error.to_string();
    assert!(
        error.starts_with("processing in-0 at offset 1: record of"),
        "{error}"
    );
}

#[test]
fn a_dead_letter_that_is_too_large_itself_stops_the_application_or_is_skipped() {
    let long = format!("bad {}", "x".repeat(3_900));
    let input = [("a", "1"), ("a", long.as_str()), ("a", "3")];
    for handling in [OnBadRecord::DeadLetter, OnBadRecord::Skip] {
        let world = world();
        feed(&world, &input);
        let config = StreamsConfig {
            on_production_error: handling,
            ..all(OnBadRecord::DeadLetter)
        };
        // It tells what was refused, which has that text twice.
        let result = world.streams(&tally(), config).run_to_end();
        assert_eq!(world.read(DEAD), []);
        if handling == OnBadRecord::Skip {
            result.unwrap();
            assert_eq!(world.read_values("out"), ["1#1", "3#2"]);
        } else {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("in-0 at offset 1: record of"), "{error}");
        }
    }
}

#[test]
fn an_undecodable_record_whose_dead_letter_is_too_large_is_judged_as_a_rejected_one() {
    let topology = topology(|builder| builder.stream("in", numbers()).to("out"));
    let long = "x".repeat(3_900);
    for handling in [OnBadRecord::DeadLetter, OnBadRecord::Skip] {
        let world = world();
        feed(&world, &[("a", &long), ("a", "12345678")]);
        let config = StreamsConfig {
            on_production_error: handling,
            ..all(OnBadRecord::DeadLetter)
        };
        let result = world.streams(&topology, config).run_to_end();
        assert_eq!(world.read(DEAD), []);
        if handling == OnBadRecord::Skip {
            result.unwrap();
            assert_eq!(world.read_values("out"), ["12345678"]);
        } else {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("in-0 at offset 0: record of"), "{error}");
        }
    }
}

// --- the topic ---

fn start(world: &World, config: StreamsConfig) -> std::result::Result<(), StreamsError> {
    let (log, clock) = (Arc::new(world.log.clone()), Arc::new(world.clock.clone()));
    Streams::with_clock(tally(), config, log, clock).map(|_| ())
}

#[test]
fn a_handler_that_wants_a_dead_letter_topic_does_not_start_without_one() {
    let world = world_with(&["in", "out"]);
    let quiet = StreamsConfig::new("app");
    let wanting = [
        StreamsConfig {
            on_bad_record: OnBadRecord::DeadLetter,
            ..quiet.clone()
        },
        StreamsConfig {
            on_processing_error: OnBadRecord::DeadLetter,
            ..quiet.clone()
        },
        StreamsConfig {
            on_production_error: OnBadRecord::DeadLetter,
            ..quiet.clone()
        },
    ];
    for config in wanting {
        let with_topic = |topic: &str| StreamsConfig {
            dead_letter_topic: Some(topic.to_owned()),
            ..config.clone()
        };
        let refusal = |config| start(&world, config).unwrap_err().to_string();
        assert_eq!(
            refusal(config.clone()),
            "a handler sends records to the dead letter topic, and there is none; set `dead_letter_topic` to the name \
             of a topic"
        );
        assert_eq!(
            refusal(with_topic(DEAD)),
            "topic 'dead' does not exist; create it before the application starts"
        );
        let looping = refusal(with_topic("in"));
        assert!(
            looping.starts_with("the dead letter topic 'in' is an input"),
            "{looping}"
        );
        start(&world, with_topic("out")).unwrap();
    }
    // A topic that no handler wants is not asked for.
    let unused = StreamsConfig {
        dead_letter_topic: Some(DEAD.to_owned()),
        ..quiet
    };
    start(&world, unused).unwrap();
}

#[test]
fn dead_letters_of_one_partition_go_to_one_partition() {
    let world = World::new(&[("in", 3), ("out", 3), (DEAD, 2)]);
    for i in 0..12 {
        let value = format!("bad {i}");
        world.write("in", i % 3, Some("k"), Some(&value), i64::from(i));
    }
    let mut streams = world.streams(&tally(), all(OnBadRecord::DeadLetter));
    streams.run_to_end().unwrap();
    let mut seen = 0;
    for partition in 0..2 {
        let dead = world.read_partition(DEAD, partition);
        for from in 0..3 {
            let from = format!("in-{from}@");
            let offsets: Vec<String> = origins(&dead)
                .into_iter()
                .filter(|origin| origin.starts_with(&from))
                .collect();
            let expected: Vec<String> = (0..offsets.len()).map(|i| format!("{from}{i}")).collect();
            assert_eq!(offsets, expected);
            assert!(offsets.is_empty() || offsets.len() == 4, "{offsets:?}");
        }
        seen += dead.len();
    }
    assert_eq!(seen, 12);
}

/// Fails at values that begin with "flaky" for as long as there are failures left.
struct Flaky {
    tally: Tally,
    failures: Arc<AtomicU32>,
}

impl Processor<String, String> for Flaky {
    type KOut = String;
    type VOut = String;

    fn process(
        &mut self,
        record: Record<String, String>,
        context: &mut ProcessorContext<'_, '_, String, String>,
    ) -> Result {
        let flaky = record.value.starts_with("flaky");
        self.tally.process(record, context)?;
        let left = |failures: u32| failures.checked_sub(1);
        let fails = flaky && self.failures.fetch_update(SeqCst, SeqCst, left).is_ok();
        match fails {
            true => Err(Fault::user("tally", "not now")),
            false => Ok(()),
        }
    }
}

#[test]
fn a_record_is_tried_again_before_its_handler_decides_and_counts_once() {
    let failures = Arc::new(AtomicU32::new(0));
    let shared = Arc::clone(&failures);
    let topology = topology(move |builder| {
        let counts = builder.key_value_store("counts", utf8(), int64());
        let failures = Arc::clone(&shared);
        texts(builder)
            .process("tally", counts, move |counts| Flaky {
                tally: Tally(counts),
                failures: Arc::clone(&failures),
            })
            .to_with("out", Produced::new(utf8(), utf8()));
    });
    let config = StreamsConfig {
        processing_retries: Retries {
            times: 3,
            pause: Duration::from_millis(10),
        },
        ..all(OnBadRecord::DeadLetter)
    };
    let mut driver = TopologyTestDriver::with(topology, config, 1).unwrap();
    let input = driver.input("in", utf8(), utf8());
    let out = driver.output("out", utf8(), utf8());
    let dead = driver.output(DEAD, utf8(), utf8());
    let mut after = |fails: u32, value: &str| {
        failures.store(fails, SeqCst);
        input.pipe(&mut driver, "k".to_owned(), value.to_owned(), 0);
        let values = |records: Vec<(String, String)>| -> Vec<String> {
            records.into_iter().map(|(_, value)| value).collect()
        };
        (
            values(out.read_key_values(&mut driver)),
            values(dead.read_key_values(&mut driver)),
        )
    };
    let one = |value: &str| vec![value.to_owned()];
    assert_eq!(after(3, "flaky a"), (one("flaky a#1"), vec![]));
    assert_eq!(after(4, "flaky b"), (vec![], one("flaky b")));
    assert_eq!(after(0, "flaky c"), (one("flaky c#2"), vec![]));
}

/// Counts "in" in windows of ten and of five; of the former the late branch may be read.
fn counted_in_windows(read_late: bool) -> Topology {
    topology(|builder| {
        let texts = texts(builder).group_by_key();
        let windows =
            |size| TimeWindows::tumbling(Duration::from_millis(size)).grace(Duration::ZERO);
        let tens = texts.windowed_by(windows(10)).count("tens");
        texts
            .windowed_by(windows(5))
            .count("fives")
            .to_stream()
            .to("fives");
        if read_late {
            let late = tens.late().map_values(|_, late| late.value);
            late.to_with("late", Produced::new(utf8(), utf8()));
        }
    })
}

#[test]
fn a_late_record_is_kept_once_for_all_operators_of_which_nobody_reads_the_late_branch() {
    for read_late in [false, true] {
        let config = StreamsConfig {
            on_late_record: OnLateRecord::DeadLetter,
            ..all(OnBadRecord::Fail)
        };
        let mut driver =
            TopologyTestDriver::with(counted_in_windows(read_late), config, 1).unwrap();
        let input = driver.input("in", utf8(), utf8());
        // The second is late for the window of five, the fourth for both.
        for (value, time) in [("a", 17), ("b", 13), ("c", 25), ("d", 7), ("e", 26)] {
            input.pipe(&mut driver, "k".to_owned(), value.to_owned(), time);
        }
        driver.crash().unwrap();
        let dead = driver.output(DEAD, utf8(), utf8()).read(&mut driver);
        let kept: Vec<&str> = dead.iter().map(|record| record.value.as_str()).collect();
        assert_eq!(kept, ["b", "d"]);
        let told = told(&dead[1].headers);
        assert_eq!(told[0], "__streams.errors.exception=Late");
        let first = if read_late { "fives" } else { "tens" };
        assert!(
            told[1].contains(&format!("too late for operator '{first}'")),
            "{}",
            told[1]
        );
    }
}
