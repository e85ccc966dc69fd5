//! Aggregations over tumbling windows.

use std::time::Duration;

use processor_core::dsl::{Late, Produced, StreamsBuilder, TimeWindows};
use processor_core::serde::{Serde, SerdeError, int64, nullable, utf8, windowed};
use processor_core::testing::TopologyTestDriver;
use processor_core::{StreamsConfig, Windowed};
use proptest::prelude::*;

use crate::support::driver::{driver, nullable_numbers, numbers, text, topology};
use crate::support::windows::late;

/// A late record as text, since the test only reads it.
pub struct LateText;

impl Serde<Late<i64>> for LateText {
    fn serialize(&self, late: &Late<i64>, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        let Late {
            value,
            window_start,
            window_end,
            stream_time,
        } = late;
        into.extend_from_slice(
            format!("{value} for [{window_start}, {window_end}) at {stream_time}").as_bytes(),
        );
        Ok(())
    }

    fn deserialize(&self, _: &[u8]) -> Result<Late<i64>, SerdeError> {
        Err(SerdeError::new("only written"))
    }
}

const SIZE_MS: i64 = 10;

/// Counts in windows of 10 ms with a grace of 5 ms; late records go to `late`.
fn counts(builder: &StreamsBuilder) {
    let windows = TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::from_millis(5));
    let counts = builder
        .stream("in", numbers())
        .group_by_key()
        .windowed_by(windows)
        .count("counts");
    counts.to_stream().to("out");
    counts
        .late()
        .to_with("late", Produced::new(utf8(), LateText));
}

fn pipe(driver: &mut TopologyTestDriver, input: &[(&str, i64)]) {
    let topic = driver.input("in", utf8(), int64());
    for (value, (key, timestamp)) in (0..).zip(input) {
        topic.pipe(driver, text(key), value, *timestamp);
    }
}

/// `(key, start, end, count, timestamp)`.
type Row = (String, i64, i64, i64, i64);

fn read(driver: &mut TopologyTestDriver) -> Vec<Row> {
    let out = driver.output("out", windowed(utf8(), SIZE_MS), int64());
    let rows = out.read(driver).into_iter().map(|record| {
        let Windowed { key, start, end } = record.key;
        (key, start, end, record.value, record.timestamp)
    });
    rows.collect()
}

fn rows(expected: &[(&str, i64, i64, i64)]) -> Vec<Row> {
    let row = |&(key, start, count, time): &(&str, i64, i64, i64)| {
        (text(key), start, start + SIZE_MS, count, time)
    };
    expected.iter().map(row).collect()
}

#[test]
fn a_window_holds_its_start_and_not_its_end() {
    let mut driver = driver(counts);
    pipe(
        &mut driver,
        &[("a", 0), ("a", 9), ("a", 10), ("a", 19), ("a", 20)],
    );
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("a", 0, 1, 0),
            ("a", 0, 2, 9),
            ("a", 10, 1, 10),
            ("a", 10, 2, 19),
            ("a", 20, 1, 20)
        ])
    );
}

#[test]
fn late_record_within_grace_updates_its_window() {
    let mut driver = driver(counts);
    // Window [0, 10) closes when stream time reaches 15.
    pipe(&mut driver, &[("a", 3), ("b", 14), ("a", 9)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 0, 1, 3), ("b", 10, 1, 14), ("a", 0, 2, 9)])
    );
    assert_eq!(late(&mut driver), Vec::<String>::new());
}

#[test]
fn record_that_comes_exactly_when_its_window_closes_is_late() {
    let mut driver = driver(counts);
    pipe(&mut driver, &[("a", 3), ("b", 15), ("a", 9), ("a", 10)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 0, 1, 3), ("b", 10, 1, 15), ("a", 10, 1, 10)])
    );
    assert_eq!(late(&mut driver), ["2 for [0, 10) at 15"]);
}

#[test]
fn out_of_order_updates_keep_the_largest_timestamp_of_the_window() {
    let mut driver = driver(counts);
    pipe(&mut driver, &[("a", 8), ("a", 2), ("a", 9)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 0, 1, 8), ("a", 0, 2, 8), ("a", 0, 3, 9)])
    );
}

#[test]
fn time_is_that_of_all_keys() {
    let mut driver = driver(counts);
    pipe(&mut driver, &[("a", 0), ("b", 1_000), ("a", 1)]);
    assert_eq!(late(&mut driver), ["2 for [0, 10) at 1000"]);
}

#[test]
fn null_keys_and_values_neither_count_nor_move_time() {
    let mut driver = driver(|builder| {
        let windows =
            TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::from_millis(0));
        let counts = builder
            .stream("in", nullable_numbers())
            .group_by_key()
            .windowed_by(windows)
            .count("counts");
        counts.to_stream().to("out");
    });
    let (key, value) = (nullable(utf8()), nullable(int64()));
    let input = driver.input("in", key, value);
    input.pipe(&mut driver, None, Some(1), 500);
    input.pipe(&mut driver, Some(text("a")), None, 500);
    input.pipe(&mut driver, Some(text("a")), Some(1), 3);
    assert_eq!(read(&mut driver), rows(&[("a", 0, 1, 3)]));
}

#[test]
fn reduce_and_aggregate_fold_each_window_by_itself() {
    let mut driver = driver(|builder| {
        let windows = TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::ZERO);
        let grouped = builder.stream("in", numbers()).group_by_key();
        let windowed = grouped.windowed_by(windows);
        windowed.reduce("sums", |a, b| a + b).to_stream().to("out");
        windowed
            .aggregate("texts", utf8(), || text("="), |_, v, a| format!("{a}{v}"))
            .to_stream()
            .to("texts");
    });
    // The values are 0, 1, 2, 3.
    pipe(&mut driver, &[("a", 1), ("a", 2), ("a", 11), ("a", 12)]);
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("a", 0, 0, 1),
            ("a", 0, 1, 2),
            ("a", 10, 2, 11),
            ("a", 10, 5, 12)
        ])
    );
    let texts = driver.output("texts", windowed(utf8(), SIZE_MS), utf8());
    let texts: Vec<String> = texts
        .read(&mut driver)
        .into_iter()
        .map(|r| r.value)
        .collect();
    assert_eq!(texts, ["=0", "=01", "=2", "=23"]);
}

#[test]
fn a_grace_without_end_never_closes_a_window() {
    let mut driver = driver(|builder| {
        let windows = TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::MAX);
        let counts = builder
            .stream("in", numbers())
            .group_by_key()
            .windowed_by(windows)
            .count("counts");
        counts.to_stream().to("out");
    });
    pipe(&mut driver, &[("a", 1), ("a", 1_000_000), ("a", 2)]);
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("a", 0, 1, 1),
            ("a", 1_000_000, 1, 1_000_000),
            ("a", 0, 2, 2)
        ])
    );
}

#[test]
fn a_restart_remembers_what_time_it_was() {
    let mut driver = driver(counts);
    pipe(&mut driver, &[("a", 3), ("b", 15)]);
    driver.restart().unwrap();
    pipe(&mut driver, &[("a", 9)]);
    driver.crash().unwrap();
    pipe(&mut driver, &[("a", 8)]);
    assert_eq!(
        late(&mut driver),
        ["0 for [0, 10) at 15", "0 for [0, 10) at 15"]
    );
}

/// What a window count must give, worked out record by record.
fn model(input: &[(u8, i64)], grace_ms: i64) -> (Vec<Row>, usize) {
    let mut windows = std::collections::BTreeMap::new();
    let (mut time, mut rows, mut late) = (-1, Vec::new(), 0);
    for &(key, timestamp) in input {
        time = time.max(timestamp);
        let start = timestamp / SIZE_MS * SIZE_MS;
        if start + SIZE_MS + grace_ms <= time {
            late += 1;
            continue;
        }
        let (count, latest) = windows.entry((key, start)).or_insert((0, timestamp));
        *count += 1;
        *latest = timestamp.max(*latest);
        rows.push((key.to_string(), start, start + SIZE_MS, *count, *latest));
    }
    (rows, late)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_update_and_every_late_record_is_as_the_model_says(
        input in prop::collection::vec((0..3_u8, 0..80_i64), 1..60),
        grace_ms in 0..30_i64,
        restarts in prop::collection::vec(0..60_usize, 0..3),
    ) {
        let topology = topology(|builder| {
            let grace = Duration::from_millis(grace_ms.unsigned_abs());
            let windows = TimeWindows::tumbling(Duration::from_millis(10)).grace(grace);
            let counts = builder
                .stream("in", numbers())
                .group_by_key()
                .windowed_by(windows)
                .count("counts");
            counts.to_stream().to("out");
            counts.late().to_with("late", Produced::new(utf8(), LateText));
        });
        let mut driver = TopologyTestDriver::with(topology, StreamsConfig::new("app"), 1).unwrap();
        let topic = driver.input("in", utf8(), int64());
        for (i, (key, timestamp)) in input.iter().enumerate() {
            topic.pipe(&mut driver, key.to_string(), 0, *timestamp);
            if restarts.contains(&i) {
                driver.restart().unwrap();
            }
        }
        let (expected, late_ones) = model(&input, grace_ms);
        prop_assert_eq!(read(&mut driver), expected);
        prop_assert_eq!(late(&mut driver).len(), late_ones);
    }
}
