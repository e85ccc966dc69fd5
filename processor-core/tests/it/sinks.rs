//! Where streams end: topics that records choose, partitioners of the user's own, and ends without a topic.

use std::io::Read;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use processor_core::dsl::{Produced, Route, StreamsBuilder};
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{OnBadRecord, StreamsConfig, Topology};

use crate::support::driver::{driver, nullable_numbers, numbers, pairs, text, topology};
use crate::support::faulty_log::{Call, FaultyLog, Script};
use crate::support::world::World;

fn pipe(driver: &mut TopologyTestDriver, input: &[(&str, i64)]) {
    let topic = driver.input("in", utf8(), int64());
    for (timestamp, (key, value)) in (0..).zip(input) {
        topic.pipe(driver, text(key), *value, timestamp);
    }
}

fn read(driver: &mut TopologyTestDriver, topic: &str) -> Vec<(String, i64)> {
    let output = driver.output(topic, utf8(), int64());
    output.read_key_values(driver)
}

// --- topics that records choose ---

fn by_parity() -> Topology {
    topology(|builder| {
        builder
            .stream("in", numbers())
            .to_dynamic(|record| match record.value % 2 {
                0 => "even",
                _ => "odd",
            });
    })
}

#[test]
fn each_record_goes_to_the_topic_it_chooses() {
    let mut driver = TopologyTestDriver::new(by_parity()).unwrap();
    for topic in ["even", "odd"] {
        driver.create_topic(topic).unwrap();
    }
    pipe(&mut driver, &[("a", 1), ("b", 2), ("a", 4)]);
    assert_eq!(read(&mut driver, "odd"), pairs(&[("a", 1)]));
    assert_eq!(read(&mut driver, "even"), pairs(&[("b", 2), ("a", 4)]));
}

#[test]
fn null_keys_and_values_choose_like_any_others_and_stay_null() {
    let mut driver = driver(|builder| {
        builder
            .stream("in", nullable_numbers())
            .to_dynamic(|record| match (&record.key, record.value) {
                (None, _) => "keyless".to_owned(),
                (_, None) => "deleted".to_owned(),
                (Some(key), Some(_)) => format!("of-{key}"),
            });
    });
    for topic in ["keyless", "deleted", "of-a"] {
        driver.create_topic(topic).unwrap();
    }
    let (key, value) = (nullable(utf8()), nullable(int64()));
    let input = driver.input("in", key, value);
    let records = [
        (None, Some(1)),
        (Some(text("a")), None),
        (Some(text("a")), Some(2)),
    ];
    for (key, value) in records.clone() {
        input.pipe(&mut driver, key, value, 0);
    }
    for (topic, record) in ["keyless", "deleted", "of-a"].into_iter().zip(records) {
        let output = driver.output(topic, key, value);
        assert_eq!(output.read_key_values(&mut driver), [record], "{topic}");
    }
}

#[test]
fn a_chosen_topic_that_does_not_exist_stops_the_application_and_says_so() {
    let mut driver = TopologyTestDriver::new(by_parity()).unwrap();
    let input = driver.input("in", utf8(), int64());
    let error = input.try_pipe(&mut driver, &text("a"), &1, 0).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("in-0 at offset 0"), "{error}");
    let reason = "topic 'odd', which a record chose, does not exist";
    assert!(error.contains(reason), "{error}");
}

#[test]
fn the_handler_of_production_errors_decides_about_a_chosen_topic_that_does_not_exist() {
    let config = StreamsConfig {
        on_production_error: OnBadRecord::DeadLetter,
        dead_letter_topic: Some(text("dead")),
        ..StreamsConfig::new("app")
    };
    let mut driver = TopologyTestDriver::with(by_parity(), config, 1).unwrap();
    driver.create_topic("even").unwrap();
    pipe(&mut driver, &[("a", 1), ("b", 2)]);
    // Who is missing is asked for again: it may have been made.
    driver.create_topic("odd").unwrap();
    pipe(&mut driver, &[("a", 3)]);
    assert_eq!(read(&mut driver, "dead"), pairs(&[("a", 1)]));
    assert_eq!(read(&mut driver, "even"), pairs(&[("b", 2)]));
    assert_eq!(read(&mut driver, "odd"), pairs(&[("a", 3)]));
}

#[test]
fn the_log_is_asked_about_a_chosen_topic_once() {
    let world = World::new(&[("in", 2), ("even", 2), ("odd", 2)]);
    let script = Script::counting(&[Call::Partitions]);
    let log = FaultyLog {
        inner: world.log.clone(),
        script: Arc::clone(&script),
        max_poll_records: 0,
    };
    let topology = by_parity_of_lengths();
    let mut streams = world.streams_on(Arc::new(log), &topology, StreamsConfig::new("app"));
    let asked_by_the_start = script.calls();
    for round in 0..3 {
        for (partition, value) in [(0, "x"), (1, "xx"), (0, "xxx"), (1, "xxxx")] {
            world.write("in", partition, Some("a"), Some(value), round);
        }
        streams.run_to_end().unwrap();
    }
    assert_eq!(script.calls() - asked_by_the_start, 2);
    assert_eq!(world.read("odd").len(), 6);
    assert_eq!(world.read("even").len(), 6);
}

fn by_parity_of_lengths() -> Topology {
    topology(|builder| {
        let texts = processor_core::dsl::Consumed::new(utf8(), utf8());
        builder
            .stream("in", texts)
            .to_dynamic(|record| match record.value.len() % 2 {
                0 => "even",
                _ => "odd",
            });
    })
}

#[test]
fn a_stream_without_serdes_cannot_choose_topics_and_is_told_what_to_do() {
    let builder = StreamsBuilder::new("under-test");
    let stream = builder.stream("in", numbers()).map(|k, v| (k, v));
    stream.to_dynamic(|_| "out");
    let Err(error) = builder.build() else {
        panic!("it was built");
    };
    assert!(error.to_string().contains("to_dynamic_with"), "{error}");
}

#[test]
fn a_sink_that_chooses_topics_says_so_in_the_description() {
    let description = by_parity().describe();
    assert!(
        description.contains("(topic: chosen by the record)"),
        "{description}"
    );
}

// --- partitioners ---

/// `partition=values` of `out` after `route` chose for each of `values`.
fn routed(
    values: &[i64],
    route: impl Fn(i64, i32) -> Route + Send + Sync + 'static,
) -> Vec<(usize, Vec<i64>)> {
    let produced = Produced::new(utf8(), int64())
        .partitioner(move |record, partitions| route(record.value, partitions));
    let topology = topology(|builder| builder.stream("in", numbers()).to_with("out", produced));
    let mut driver = TopologyTestDriver::with(topology, StreamsConfig::new("app"), 3).unwrap();
    for value in values {
        pipe(&mut driver, &[("a", *value)]);
    }
    (0..3)
        .map(|partition| {
            let output = driver.output("out", utf8(), int64());
            let records = output.read_partition(&mut driver, partition);
            let values = records.into_iter().map(|record| record.value).collect();
            (usize::try_from(partition).unwrap(), values)
        })
        .collect()
}

#[test]
fn a_partitioner_chooses_one_several_all_or_no_partitions() {
    let routed = routed(&[0, 1, 2, 3], |value, partitions| match value {
        0 => Route::One(partitions - 1),
        1 => Route::Several(vec![1, 0]),
        2 => Route::All,
        _ => Route::Nowhere,
    });
    assert_eq!(routed, [(0, vec![1, 2]), (1, vec![1, 2]), (2, vec![0, 2])]);
}

#[test]
fn without_a_choice_the_partition_is_that_of_the_key() {
    let by_key = processor_core::partitioner::partition_for(b"a", 3);
    let routed = routed(&[7], |_, _| Route::ByKey);
    let expected = (0..3).map(|partition| match partition == by_key {
        true => vec![7],
        false => vec![],
    });
    let got: Vec<_> = routed.into_iter().map(|(_, values)| values).collect();
    assert_eq!(got, expected.collect::<Vec<_>>());
}

#[test]
fn a_partition_that_does_not_exist_fails_the_record_and_its_handler_decides() {
    let produced = || Produced::new(utf8(), int64()).partitioner(|r, _| Route::One(r.value as i32));
    let topology =
        || topology(|builder| builder.stream("in", numbers()).to_with("out", produced()));
    let mut driver = TopologyTestDriver::new(topology()).unwrap();
    let input = driver.input("in", utf8(), int64());
    let error = input.try_pipe(&mut driver, &text("a"), &1, 0).unwrap_err();
    let reason = "partitioner: it chose partition 1 of out, which has 1, from 0";
    assert!(error.to_string().contains(reason), "{error}");

    let config = StreamsConfig {
        on_processing_error: OnBadRecord::Skip,
        ..StreamsConfig::new("app")
    };
    let mut driver = TopologyTestDriver::with(topology(), config, 1).unwrap();
    pipe(&mut driver, &[("a", -1), ("b", 0)]);
    assert_eq!(read(&mut driver, "out"), pairs(&[("b", 0)]));
}

// --- ends without a topic ---

#[test]
fn foreach_is_given_every_record_and_passes_none_on() {
    let sum = Arc::new(AtomicI64::new(0));
    let add = Arc::clone(&sum);
    let topology = topology(|builder| {
        let stream = builder.stream("in", numbers());
        stream.foreach(move |_, value| {
            add.fetch_add(*value, Ordering::Relaxed);
        });
    });
    assert!(topology.output_topics().is_empty());
    let mut driver = TopologyTestDriver::new(topology).unwrap();
    pipe(&mut driver, &[("a", 1), ("b", 2), ("a", 4)]);
    assert_eq!(sum.load(Ordering::Relaxed), 7);
}

#[test]
fn print_writes_a_labelled_line_for_each_record_in_order() {
    let (mut read, written) = std::io::pipe().unwrap();
    let mut driver = driver(|builder| {
        let stream = builder.stream("in", nullable_numbers());
        stream.print_to("all", written);
    });
    let input = driver.input("in", nullable(utf8()), nullable(int64()));
    input.pipe(&mut driver, Some(text("a")), Some(1), 0);
    input.pipe(&mut driver, None, None, 1);
    drop(driver);
    let mut printed = String::new();
    read.read_to_string(&mut printed).unwrap();
    assert_eq!(printed, "[all]: Some(\"a\"), Some(1)\n[all]: None, None\n");
}

struct Broken;

impl std::io::Write for Broken {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("the disk is full"))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_fails_fails_the_record() {
    let mut driver = driver(|builder| builder.stream("in", numbers()).print_to("all", Broken));
    let input = driver.input("in", utf8(), int64());
    let error = input.try_pipe(&mut driver, &text("a"), &1, 0).unwrap_err();
    let reason = "print of 'all': the disk is full";
    assert!(error.to_string().contains(reason), "{error}");
}

// --- several topics as one stream ---

#[test]
fn topics_read_as_one_stream_are_taken_in_order_of_time_and_the_first_named_at_equal_times() {
    let world = World::new(&[("b", 1), ("a", 1), ("out", 1)]);
    let topology = topology(|builder| {
        let texts = processor_core::dsl::Consumed::new(utf8(), utf8());
        builder.stream_of(["b", "a"], texts).to("out");
    });
    for (topic, value, time) in [
        ("a", "a1", 1),
        ("a", "a5", 5),
        ("b", "b3", 3),
        ("b", "b5", 5),
        ("a", "a7", 7),
    ] {
        world.write(topic, 0, Some("k"), Some(value), time);
    }
    let mut streams = world.streams(&topology, StreamsConfig::new("app"));
    streams.run_to_end().unwrap();
    assert_eq!(world.read_values("out"), ["a1", "b3", "b5", "a5", "a7"]);
}

#[test]
fn topics_read_as_one_stream_are_one_task_for_what_comes_below() {
    let mut driver = driver(|builder| {
        let both = builder.stream_of(["a", "b"], numbers());
        both.group_by_key().count("counts").to_stream().to("out");
    });
    for topic in ["a", "b", "a"] {
        let input = driver.input(topic, utf8(), int64());
        input.pipe(&mut driver, text("k"), 0, 0);
    }
    let counts = pairs(&[("k", 1), ("k", 2), ("k", 3)]);
    assert_eq!(read(&mut driver, "out"), counts);
}

#[test]
fn topics_with_unequal_partitions_cannot_be_one_stream() {
    let world = World::new(&[("a", 1), ("b", 2)]);
    let seen = Arc::new(Mutex::new(0));
    let topology = topology(|builder| {
        let count = Arc::clone(&seen);
        builder
            .stream_of(["a", "b"], numbers())
            .foreach(move |_, _| *count.lock().unwrap() += 1);
    });
    let log = Arc::new(world.log.clone());
    let Err(error) = processor_core::Streams::new(topology, StreamsConfig::new("app"), log) else {
        panic!("it started");
    };
    let reason = "topics with the same number of partitions, but a has 1, b has 2";
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn a_stream_of_no_topic_is_refused() {
    let builder = StreamsBuilder::new("under-test");
    let none: [&str; 0] = [];
    builder.stream_of(none, numbers()).foreach(|_, _| {});
    let Err(error) = builder.build() else {
        panic!("it was built");
    };
    assert!(error.to_string().contains("name at least one"), "{error}");
}
