//! Timestamps far ahead of their feed: strays move no time, and a feed that jumps goes on.

use std::time::Duration;

use processor_core::dsl::{FutureBound, Produced, StreamsBuilder, TimeWindows};
use processor_core::serde::{int64, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{OnBadRecord, StreamsConfig, Topology};
use proptest::prelude::*;

use crate::support::driver::{numbers, text, topology};
use crate::support::world::World;

const AHEAD_MS: i64 = 100;

fn bound(confirmed_by: usize) -> FutureBound {
    FutureBound {
        ahead: Duration::from_millis(AHEAD_MS.unsigned_abs()),
        confirmed_by,
    }
}

fn config(on_bad_record: OnBadRecord) -> StreamsConfig {
    StreamsConfig {
        on_bad_record,
        instance: Some("one".to_owned()),
        dead_letter_topic: Some(text("dead")),
        // A record that is held must not keep those that decide about it from being read.
        buffered_records_per_partition: 1,
        ..StreamsConfig::new("app")
    }
}

fn driver(topology: Topology) -> TopologyTestDriver {
    TopologyTestDriver::with(topology, config(OnBadRecord::DeadLetter), 1).unwrap()
}

/// Sends what it reads on as it is.
fn passing(confirmed_by: usize) -> Topology {
    topology(|builder| {
        let bounded = numbers().future_bound(bound(confirmed_by));
        builder.stream("in", bounded).to("out");
    })
}

fn pipe(driver: &mut TopologyTestDriver, topic: &str, times: &[i64]) {
    let input = driver.input(topic, utf8(), int64());
    for &time in times {
        input.pipe(driver, text("a"), time, time);
    }
}

/// The values of what is in `topic` and was not read yet: in these tests mostly their times.
fn read(driver: &mut TopologyTestDriver, topic: &str) -> Vec<i64> {
    let output = driver.output(topic, utf8(), int64());
    let records = output.read_key_values(driver).into_iter();
    records.map(|(_, value)| value).collect()
}

#[test]
fn a_stray_closes_no_window_and_is_a_dead_letter_with_a_reason() {
    let mut driver = driver(topology(|builder| {
        let windows = TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::ZERO);
        let counts = builder
            .stream("in", numbers().future_bound(bound(2)))
            .group_by_key()
            .windowed_by(windows)
            .count("counts");
        counts
            .to_stream()
            .map(|window, _| (window.key, window.start))
            .to_with("out", Produced::new(utf8(), int64()));
        let late = counts.late().map_values(|_, late| late.window_start);
        late.to_with("late", Produced::new(utf8(), int64()));
    }));
    pipe(&mut driver, "in", &[1, 12, 13, 9_000, 14, 15, 25]);
    assert_eq!(read(&mut driver, "out"), [0, 10, 10, 10, 10, 20]);
    assert_eq!(read(&mut driver, "late"), [] as [i64; 0]);
    let dead = driver.output("dead", utf8(), int64()).read(&mut driver);
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].value, dead[0].timestamp), (9_000, 9_000));
    let message = dead[0].headers[1].value.as_deref().unwrap();
    assert_eq!(
        String::from_utf8_lossy(message),
        "future bound: the timestamp 9000 is more than 100 ms ahead of its feed, which was at 13, and the records behind it \
         do not confirm it"
    );
}

#[test]
fn a_stray_stops_the_application_or_is_skipped_as_the_handler_says() {
    let mut stopped = TopologyTestDriver::with(passing(1), config(OnBadRecord::Fail), 1).unwrap();
    pipe(&mut stopped, "in", &[1, 2, 9_000]);
    let input = stopped.input("in", utf8(), int64());
    let error = input.try_pipe(&mut stopped, &text("a"), &3, 3).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("in-0 at offset 2"), "{message}");
    let mut skipping = TopologyTestDriver::with(passing(1), config(OnBadRecord::Skip), 1).unwrap();
    pipe(&mut skipping, "in", &[1, 2, 9_000, 3]);
    assert_eq!(read(&mut skipping, "out"), [1, 2, 3]);
    assert_eq!(read(&mut skipping, "dead"), [] as [i64; 0]);
}

#[test]
fn up_to_the_bound_a_record_is_taken_at_once_and_beyond_it_waits() {
    let mut driver = driver(passing(1));
    pipe(&mut driver, "in", &[0, 10, 110]);
    assert_eq!(read(&mut driver, "out"), [0, 10, 110]);
    pipe(&mut driver, "in", &[211]);
    assert_eq!(read(&mut driver, "out"), [] as [i64; 0]);
    pipe(&mut driver, "in", &[111]);
    assert_eq!(read(&mut driver, "out"), [211, 111]);
}

#[test]
fn what_lies_before_a_held_record_is_committed_and_the_rest_survives_stops() {
    let mut driver = driver(passing(3));
    pipe(&mut driver, "in", &[0, 10, 20, 30]);
    pipe(&mut driver, "in", &[9_000, 40]);
    driver.crash().unwrap();
    assert_eq!(read(&mut driver, "out"), [0, 10, 20, 30]);
    pipe(&mut driver, "in", &[50]);
    driver.restart().unwrap();
    pipe(&mut driver, "in", &[60]);
    assert_eq!(read(&mut driver, "out"), [40, 50, 60]);
    assert_eq!(read(&mut driver, "dead"), [9_000]);
    // The time of the partition came back as well: else the next one would wait.
    driver.crash().unwrap();
    pipe(&mut driver, "in", &[160]);
    assert_eq!(read(&mut driver, "out"), [160]);
}

#[test]
fn other_inputs_of_the_task_go_on_while_a_record_is_held() {
    let mut driver = driver(topology(|builder: &StreamsBuilder| {
        let bounded = builder.stream("in", numbers().future_bound(bound(1)));
        bounded.merge(&builder.stream("other", numbers())).to("out");
    }));
    pipe(&mut driver, "in", &[0, 10, 9_000]);
    pipe(&mut driver, "other", &[20, 30]);
    assert_eq!(read(&mut driver, "out"), [0, 10, 20, 30]);
    pipe(&mut driver, "in", &[9_001]);
    assert_eq!(read(&mut driver, "out"), [9_000, 9_001]);
}

#[test]
fn the_end_of_a_bounded_run_decides_with_what_is_there() {
    let run = |times: &[i64]| {
        let mut driver = driver(passing(3));
        pipe(&mut driver, "in", times);
        driver.end_of_input();
        let outcome = (read(&mut driver, "out"), read(&mut driver, "dead"));
        // Nothing is left to decide.
        driver.end_of_input();
        assert_eq!(read(&mut driver, "out"), [] as [i64; 0]);
        outcome
    };
    assert_eq!(run(&[5]), (vec![5], vec![]));
    assert_eq!(run(&[1, 2, 3, 9_000]), (vec![1, 2, 3], vec![9_000]));
    assert_eq!(run(&[9_000, 1, 2]), (vec![1, 2], vec![9_000]));
    let jumped = [1, 2, 3, 9_000, 9_001];
    assert_eq!(run(&jumped), (vec![1, 2, 3, 9_000, 9_001], vec![]));
}

#[test]
fn an_input_may_be_idle_while_its_last_record_is_held() {
    let mut driver = driver(topology(|builder| {
        let second = Duration::from_secs(1);
        let bounded = numbers().future_bound(bound(1)).advance_when_idle(second);
        let windows = TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::ZERO);
        builder
            .stream("in", bounded)
            .group_by_key()
            .windowed_by(windows)
            .emit_final()
            .count("counts")
            .to_stream()
            .map(|window, _| (window.key, window.start))
            .to_with("out", Produced::new(utf8(), int64()));
    }));
    pipe(&mut driver, "in", &[1, 2, 1_900]);
    assert_eq!(read(&mut driver, "out"), [] as [i64; 0]);
    driver.advance_wall_clock(Duration::from_secs(1));
    assert_eq!(read(&mut driver, "out"), [0]);
}

/// Which records are taken, and which are strays, of a feed that ends.
fn model(times: &[i64], votes: usize) -> (Vec<i64>, Vec<i64>) {
    let (mut taken, mut strays) = (Vec::new(), Vec::new());
    for (i, &time) in times.iter().enumerate() {
        let so_far = taken.iter().copied().max();
        if so_far.is_some_and(|so_far| time - so_far <= AHEAD_MS) {
            taken.push(time);
            continue;
        }
        // The first of both sides to have its votes wins; else the larger one.
        let behind = times.iter().skip(i + 1).take(2 * votes - 1);
        let mut balance = [0_usize; 2];
        for &next in behind {
            if balance.iter().all(|count| *count < votes) {
                balance[usize::from(time - next <= AHEAD_MS)] += 1;
            }
        }
        let [against, for_it] = balance;
        let is_taken = for_it > against || so_far.is_none() && for_it == against;
        if is_taken { &mut taken } else { &mut strays }.push(time);
    }
    (taken, strays)
}

fn feed() -> impl Strategy<Value = Vec<i64>> {
    // Around three times that lie far apart, so that there are jumps as well as strays.
    let time = prop_oneof![
        8 => 0..150_i64,
        3 => 1_000..1_200_i64,
        1 => 9_000..9_300_i64,
    ];
    prop::collection::vec(time, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_taken_is_what_the_model_says_through_restarts_and_crashes(
        times in feed(),
        votes in 1..4_usize,
        stops in prop::collection::btree_map(0..25_usize, any::<bool>(), 0..4),
    ) {
        let mut driver = driver(passing(votes));
        for (i, time) in times.iter().enumerate() {
            pipe(&mut driver, "in", &[*time]);
            match stops.get(&i) {
                Some(true) => driver.crash().unwrap(),
                Some(false) => driver.restart().unwrap(),
                None => {}
            }
        }
        driver.end_of_input();
        let outcome = (read(&mut driver, "out"), read(&mut driver, "dead"));
        prop_assert_eq!(outcome, model(&times, votes));
    }

    #[test]
    fn nor_does_it_matter_how_much_of_the_feed_is_there_at_once(
        times in feed(),
        votes in 1..4_usize,
        buffered in 1..5_usize,
    ) {
        let world = World::new(&[("in", 1), ("out", 1), ("dead", 1)]);
        for time in &times {
            let value = format!("{time:08}");
            world.write("in", 0, Some("a"), Some(&value), *time);
        }
        let config = StreamsConfig {
            buffered_records_per_partition: buffered,
            ..config(OnBadRecord::DeadLetter)
        };
        let mut streams = world.streams(&passing(votes), config);
        streams.run_to_end().unwrap();
        streams.close().unwrap();
        let read = |topic| -> Vec<i64> {
            world.read(topic).iter().map(|record| record.timestamp).collect()
        };
        prop_assert_eq!((read("out"), read("dead")), model(&times, votes));
    }
}
