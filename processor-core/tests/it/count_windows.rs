//! Aggregations over windows of so many records.

use std::collections::BTreeMap;

use processor_core::dsl::{CountWindows, StreamsBuilder};
use processor_core::log::Header;
use processor_core::serde::{int64, nullable, utf8, windowed};
use processor_core::testing::TopologyTestDriver;
use processor_core::{Record, Windowed};
use proptest::prelude::*;

use crate::support::driver::{driver, nullable_numbers, numbers, text};

/// Tells values apart, and their order.
fn fold(so_far: i64, value: i64) -> i64 {
    so_far.wrapping_mul(31).wrapping_add(value)
}

fn folded(windows: CountWindows, updates: bool) -> impl Fn(&StreamsBuilder) {
    move |builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let windowed = grouped.windowed_by_count(windows);
        let windowed = if updates {
            windowed.emit_updates()
        } else {
            windowed
        };
        windowed
            .aggregate("folded", int64(), || 0, |_, v, a| fold(a, v))
            .to("out");
    }
}

fn pipe(driver: &mut TopologyTestDriver, input: &[(&str, i64, i64)]) {
    let topic = driver.input("in", utf8(), int64());
    for (key, value, timestamp) in input {
        topic.pipe(driver, text(key), *value, *timestamp);
    }
}

/// `(key, start, end, value, timestamp)`.
type Row = (String, i64, i64, i64, i64);

fn read(driver: &mut TopologyTestDriver, size: i64) -> Vec<Row> {
    let out = driver.output("out", windowed(utf8(), size), int64());
    let rows = out.read(driver).into_iter().map(|record| {
        let Windowed { key, start, end } = record.key;
        (key, start, end, record.value, record.timestamp)
    });
    rows.collect()
}

#[test]
fn a_window_is_emitted_by_the_record_that_fills_it_through_restarts_and_crashes() {
    let mut driver = driver(folded(CountWindows::tumbling(3), false));
    // Old timestamps count as any other.
    pipe(&mut driver, &[("a", 1, 50), ("b", 9, 1), ("a", 2, 7)]);
    driver.restart().unwrap();
    assert_eq!(read(&mut driver, 3), []);
    pipe(&mut driver, &[("a", 3, 8), ("a", 4, 1)]);
    driver.crash().unwrap();
    pipe(&mut driver, &[("a", 5, 2), ("a", 6, 0)]);
    assert_eq!(
        read(&mut driver, 3),
        [
            (text("a"), 0, 3, fold(fold(1, 2), 3), 50),
            (text("a"), 3, 6, fold(fold(4, 5), 6), 2)
        ]
    );
}

#[test]
fn hopping_windows_overlap_and_the_earliest_comes_first() {
    let mut driver = driver(folded(CountWindows::hopping(3, 2), true));
    pipe(
        &mut driver,
        &[("a", 1, 0), ("a", 2, 1), ("a", 3, 2), ("a", 4, 3)],
    );
    let rows = read(&mut driver, 3);
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(_, start, _, v, _)| (start, v))
        .collect();
    let first = [1, fold(1, 2), fold(fold(1, 2), 3)];
    assert_eq!(
        rows,
        [
            (0, first[0]),
            (0, first[1]),
            (0, first[2]),
            (2, 3),
            (2, fold(3, 4))
        ]
    );
}

#[test]
fn null_keys_and_values_do_not_count_and_headers_are_those_of_the_last_record() {
    let mut driver = driver(|builder| {
        let grouped = builder.stream("in", nullable_numbers()).group_by_key();
        let pairs = grouped.windowed_by_count(CountWindows::tumbling(2));
        pairs.reduce("pairs", |_, last| last).to("out");
    });
    let input = driver.input("in", nullable(utf8()), nullable(int64()));
    input.pipe(&mut driver, Some(text("a")), Some(1), 0);
    input.pipe(&mut driver, None, Some(1), 0);
    input.pipe(&mut driver, Some(text("a")), None, 0);
    let out = driver.output("out", windowed(utf8(), 2), int64());
    assert_eq!(out.read(&mut driver), []);
    let header = Header {
        name: "trace".into(),
        value: None,
    };
    let record = Record {
        headers: vec![header.clone()],
        ..Record::new(Some(text("a")), Some(7), 3)
    };
    input.pipe_record(&mut driver, &record);
    let out = out.read(&mut driver);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].value, &out[0].headers), (7, &vec![header]));
}

#[test]
fn an_advance_that_does_not_fit_the_size_is_reported() {
    for advance in [0, 4] {
        let builder = StreamsBuilder::new("under-test");
        folded(CountWindows::hopping(3, advance), false)(&builder);
        let error = builder.build().err().unwrap().to_string();
        assert!(error.contains("'folded': windows of 3 records"), "{error}");
    }
}

/// What must come out, worked out from a key's records so far.
fn model(input: &[(&str, i64)], size: usize, advance: usize, updates: bool) -> Vec<Row> {
    let mut records: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    let mut rows = Vec::new();
    for (value, &(key, timestamp)) in (0..).zip(input) {
        let records = records.entry(key).or_default();
        records.push((value, timestamp));
        for start in (0..records.len()).step_by(advance) {
            let held = &records[start..];
            if held.len() == size || (updates && held.len() < size) {
                let value = held
                    .iter()
                    .fold(0, |so_far, (value, _)| fold(so_far, *value));
                let latest = held.iter().map(|(_, timestamp)| *timestamp).max().unwrap();
                let number = |n: usize| i64::try_from(n).unwrap();
                rows.push((
                    text(key),
                    number(start),
                    number(start + size),
                    value,
                    latest,
                ));
            }
        }
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_out_of_windows_of_records_is_what_the_model_says(
        input in prop::collection::vec(
            (prop::sample::select(&["a", "ab", "b"][..]), 0..60_i64),
            1..40,
        ),
        (size, advance) in (1..8_u32).prop_flat_map(|size| (Just(size), 1..=size)),
        updates in any::<bool>(),
        stops in prop::collection::btree_map(0..40_usize, any::<bool>(), 0..4),
    ) {
        let mut driver = driver(folded(CountWindows::hopping(size, advance), updates));
        for (i, (key, timestamp)) in input.iter().enumerate() {
            pipe(&mut driver, &[(key, i64::try_from(i).unwrap(), *timestamp)]);
            match stops.get(&i) {
                Some(true) => driver.crash().unwrap(),
                Some(false) => driver.restart().unwrap(),
                None => {}
            }
        }
        let (size, advance) = (usize::try_from(size).unwrap(), usize::try_from(advance).unwrap());
        let expected = model(&input, size, advance, updates);
        prop_assert_eq!(read(&mut driver, i64::try_from(size).unwrap()), expected);
    }
}
