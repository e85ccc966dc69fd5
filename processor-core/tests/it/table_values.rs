//! Filtered and mapped tables, and streams read as tables.

use processor_core::dsl::{Produced, StreamsBuilder};
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{Record, StreamsConfig};

use crate::support::driver::{driver, nullable_numbers, numbers, text, topology};

/// Pipes a number, or a tombstone, into `topic`.
fn put(driver: &mut TopologyTestDriver, topic: &str, key: &str, value: Option<i64>, time: i64) {
    let input = driver.input(topic, utf8(), nullable(int64()));
    input.pipe(driver, text(key), value, time);
}

type Row = (String, Option<i64>, i64);

fn read(driver: &mut TopologyTestDriver, topic: &str) -> Vec<Row> {
    let records = driver.output(topic, utf8(), nullable(int64())).read(driver);
    let row = |r: Record<String, Option<i64>>| (r.key, r.value, r.timestamp);
    records.into_iter().map(row).collect()
}

fn rows(expected: &[(&str, Option<i64>, i64)]) -> Vec<Row> {
    expected.iter().map(|(k, v, t)| (text(k), *v, *t)).collect()
}

#[test]
fn a_filter_forwards_a_deletion_for_every_row_that_it_refuses() {
    let mut driver = driver(|builder| {
        let table = builder.table("rows", "table", numbers());
        table.filter(|_, v| v % 2 == 0).to_stream().to("even");
        table.filter_not(|_, v| v % 2 == 0).to_stream().to("odd");
    });
    for (time, value) in (0..).zip([Some(1), Some(2), Some(3), None, None]) {
        put(&mut driver, "rows", "a", value, time);
    }
    let even = [None, Some(2), None, None, None];
    let odd = [Some(1), None, Some(3), None, None];
    for (topic, expected) in [("even", even), ("odd", odd)] {
        let expected: Vec<_> = (0..).zip(expected).map(|(t, v)| ("a", v, t)).collect();
        assert_eq!(read(&mut driver, topic), rows(&expected), "{topic}");
    }
}

#[test]
fn a_filter_whose_old_values_are_read_keeps_quiet_about_rows_refused_before_and_again() {
    let mut driver = driver(|builder| {
        let table = builder.table("rows", "table", numbers());
        let even = table.filter(|_, v| v % 2 == 0);
        even.to_stream().to("even");
        // A left join reads the old values of its left side.
        let other = builder.table("others", "other", numbers());
        even.left_join("joined", &other, |_, v, _| v);
    });
    for (time, value) in (0..).zip([Some(1), Some(2), Some(3), None, Some(5)]) {
        put(&mut driver, "rows", "a", value, time);
    }
    assert_eq!(
        read(&mut driver, "even"),
        rows(&[("a", Some(2), 1), ("a", None, 2)])
    );
}

#[test]
fn a_mapped_table_maps_values_with_their_key_and_never_a_deletion() {
    let mut driver = driver(|builder| {
        let table = builder.table("rows", "table", numbers());
        let mapped = table.map_values(|k, v| v * 10 + i64::try_from(k.len()).unwrap());
        mapped.with_serdes(utf8(), int64()).to_stream().to("out");
    });
    put(&mut driver, "rows", "abc", Some(1), 5);
    put(&mut driver, "rows", "abc", None, 4);
    assert_eq!(
        read(&mut driver, "out"),
        rows(&[("abc", Some(13), 5), ("abc", None, 4)])
    );
}

#[test]
fn a_stream_meets_the_rows_of_a_derived_table_also_after_a_restart() {
    let mut driver = driver(|builder| {
        let table = builder.table("rows", "table", numbers());
        let derived = table
            .map_values(|_, v| v + 1)
            .filter(|_, v| v % 2 == 0)
            .map_values(|_, v| v * 100);
        builder
            .stream("in", numbers())
            .left_join_table("join", &derived, |_, v, row| v + row.unwrap_or(-1))
            .to_with("out", Produced::new(utf8(), int64()));
    });
    put(&mut driver, "rows", "a", Some(1), 0);
    put(&mut driver, "rows", "b", Some(2), 0);
    driver.restart().unwrap();
    put(&mut driver, "in", "a", Some(5), 1);
    put(&mut driver, "in", "b", Some(5), 2);
    assert_eq!(
        read(&mut driver, "out"),
        rows(&[("a", Some(205), 1), ("b", Some(4), 2)])
    );
}

#[test]
fn a_stream_read_as_a_table_keeps_the_record_that_came_last() {
    let mut driver = driver(|builder| {
        let table = builder.stream("in", numbers()).to_table("latest");
        table.to_stream().to("out");
    });
    for (value, time) in [(1, 5), (2, 3), (3, 9)] {
        put(&mut driver, "in", "a", Some(value), time);
    }
    driver.restart().unwrap();
    assert_eq!(
        read(&mut driver, "out"),
        rows(&[("a", Some(1), 5), ("a", Some(2), 3), ("a", Some(3), 9)])
    );
    let stored = driver.store_get("latest", b"a");
    assert_eq!(stored, Some((3_i64.to_be_bytes().to_vec(), 9)));
}

type NullablePair = (Option<String>, Option<i64>);

/// What a table of a nullable stream with null keys and values forwards, and whether it keeps a row.
fn with_nulls(describe: impl Fn(&StreamsBuilder)) -> (Vec<NullablePair>, bool) {
    let mut driver = driver(describe);
    let input = driver.input("in", nullable(utf8()), nullable(int64()));
    input.pipe(&mut driver, None, Some(1), 0);
    input.pipe(&mut driver, Some(text("a")), Some(2), 1);
    input.pipe(&mut driver, Some(text("a")), None, 2);
    let out = driver.output("out", nullable(utf8()), nullable(int64()));
    let kept = driver.store_get("latest", b"a").is_some();
    (out.read_key_values(&mut driver), kept)
}

#[test]
fn a_null_value_deletes_its_row_and_a_null_key_is_dropped() {
    let expected = vec![(Some(text("a")), Some(2)), (Some(text("a")), None)];
    let by_type = with_nulls(|builder| {
        let stream = builder.stream("in", nullable_numbers());
        let table = stream.to_table_with_deletes("latest");
        table.to_stream().to("out");
    });
    assert_eq!(by_type, (expected.clone(), false));
    let by_serde = with_nulls(|builder| {
        let stream = builder.stream("in", nullable_numbers());
        stream.to_table("latest").to_stream().to("out");
    });
    assert_eq!(by_serde, (expected, false));
}

#[test]
fn a_stream_with_other_keys_is_repartitioned_before_it_becomes_a_table() {
    let topology = topology(|builder| {
        let stream = builder.stream("in", numbers());
        let rekeyed = stream.select_key(|k, _| format!("{k}!"));
        // Merged, since that keeps the serdes.
        stream
            .filter(|_, _| false)
            .merge(&rekeyed)
            .to_table("latest")
            .to_stream()
            .to("out");
    });
    let mut driver = TopologyTestDriver::with(topology, StreamsConfig::new("app"), 4).unwrap();
    let input = driver.input("in", utf8(), int64());
    for i in 0..20 {
        input.pipe(&mut driver, format!("key{}", i % 5), i, i);
    }
    assert!(driver.topics().contains(&text("app-latest-repartition")));
    let mut out = read(&mut driver, "out");
    out.sort();
    let mut expected: Vec<_> = (0..20)
        .map(|i| (format!("key{}!", i % 5), Some(i), i))
        .collect();
    expected.sort();
    assert_eq!(out, expected);
}

#[test]
fn a_table_of_a_stream_without_serdes_is_reported() {
    let builder = StreamsBuilder::new("under-test");
    let stream = builder.stream("in", numbers());
    stream.map_values(|_, v| (v, v)).to_table("latest");
    let error = builder.build().err().unwrap().to_string();
    assert!(error.contains("table 'latest' has no serdes"), "{error}");
}
