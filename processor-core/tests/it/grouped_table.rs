//! Tables grouped by another key.

use std::collections::BTreeMap;
use std::time::Duration;

use processor_core::dsl::{Grouped, SessionWindows, StreamsBuilder};
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{Record, StreamsConfig};
use proptest::prelude::*;

use crate::support::driver::{driver, numbers, text, topology};

fn group(value: i64) -> String {
    format!("g{}", value % 2)
}

/// Sums of the values by their group, from the table's rows.
fn sums(builder: &StreamsBuilder) {
    builder
        .table("rows", "table", numbers())
        .group_by(|_, v| (group(*v), *v), Grouped::by(utf8()).value(int64()))
        .reduce("sums", |a, b| a + b, |a, b| a - b)
        .to_stream()
        .to("out");
}

fn put(driver: &mut TopologyTestDriver, key: &str, value: Option<i64>, time: i64) {
    let input = driver.input("rows", utf8(), nullable(int64()));
    input.pipe(driver, text(key), value, time);
}

type Row = (String, Option<i64>, i64);

fn read(driver: &mut TopologyTestDriver) -> Vec<Row> {
    let records = driver.output("out", utf8(), nullable(int64())).read(driver);
    let row = |r: Record<String, Option<i64>>| (r.key, r.value, r.timestamp);
    records.into_iter().map(row).collect()
}

fn rows(expected: &[(&str, i64, i64)]) -> Vec<Row> {
    expected
        .iter()
        .map(|(k, v, t)| (text(k), Some(*v), *t))
        .collect()
}

#[test]
fn a_row_that_changes_its_group_is_subtracted_there_before_it_is_added_here() {
    let mut driver = driver(sums);
    put(&mut driver, "a", Some(4), 0);
    put(&mut driver, "b", Some(6), 1);
    put(&mut driver, "a", Some(5), 2);
    put(&mut driver, "b", None, 3);
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("g0", 4, 0),
            ("g0", 10, 1),
            ("g0", 6, 2),
            ("g1", 5, 2),
            ("g0", 0, 3)
        ])
    );
}

#[test]
fn a_row_that_stays_in_its_group_changes_it_in_one_step() {
    let mut driver = driver(sums);
    put(&mut driver, "a", Some(4), 9);
    put(&mut driver, "a", Some(6), 5);
    assert_eq!(read(&mut driver), rows(&[("g0", 4, 9), ("g0", 6, 9)]));
    let sent = driver.output("test-sums-repartition", utf8(), nullable(utf8()));
    assert_eq!(sent.read(&mut driver).len(), 2);
}

#[test]
fn a_row_with_a_null_group_or_value_is_in_no_group() {
    let mut driver = driver(|builder| {
        builder
            .table("rows", "table", numbers())
            .group_by(
                |_, v| {
                    let group = (*v != 1).then(|| text("all"));
                    (group, (*v != 2).then_some(*v))
                },
                Grouped::by(nullable(utf8())).value(nullable(int64())),
            )
            .count("counts")
            .to_stream()
            .to("out");
    });
    for (time, value) in (0..).zip([1, 2, 3, 1, 2, 4]) {
        put(&mut driver, "a", Some(value), time);
    }
    assert_eq!(
        read(&mut driver),
        rows(&[("all", 1, 2), ("all", 0, 3), ("all", 1, 5)])
    );
}

#[test]
fn an_aggregate_subtracts_and_adds_with_its_key() {
    let mut driver = driver(|builder| {
        builder
            .table("rows", "table", numbers())
            .group_by(|_, v| (group(*v), *v), Grouped::by(utf8()).value(int64()))
            .aggregate(
                "texts",
                utf8(),
                || text("="),
                |k, v, a| format!("{a}+{k}{v}"),
                |k, v, a| format!("{a}-{k}{v}"),
            )
            .to_stream()
            .to("out");
    });
    for (time, value) in (0..).zip([2, 4, 5]) {
        put(&mut driver, "a", Some(value), time);
    }
    let out = driver.output("out", utf8(), nullable(utf8()));
    let out: Vec<_> = out
        .read(&mut driver)
        .into_iter()
        .map(|record| record.value.unwrap())
        .collect();
    assert_eq!(
        out,
        ["=+g02", "=+g02-g02+g04", "=+g02-g02+g04-g04", "=+g15"]
    );
}

#[test]
fn what_a_filter_or_a_join_makes_of_a_table_can_be_grouped() {
    let mut driver = driver(|builder| {
        let table = builder.table("rows", "table", numbers());
        let others = builder.table("others", "other", numbers());
        let kept = table.filter(|_, v| *v < 10).map_values(|_, v| v * 2);
        kept.left_join("joined", &others, |_, v, w| v + w.unwrap_or(0))
            .group_by(|_, v| (text("all"), *v), Grouped::by(utf8()).value(int64()))
            .reduce("sums", |a, b| a + b, |a, b| a - b)
            .to_stream()
            .to("out");
    });
    put(&mut driver, "a", Some(1), 0);
    put(&mut driver, "b", Some(3), 1);
    put(&mut driver, "c", Some(30), 2);
    let others = driver.input("others", utf8(), int64());
    others.pipe(&mut driver, text("a"), 100, 3);
    put(&mut driver, "b", Some(50), 4);
    put(&mut driver, "a", None, 5);
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("all", 2, 0),
            ("all", 8, 1),
            ("all", 108, 3),
            ("all", 102, 4),
            ("all", 0, 5)
        ])
    );
}

#[test]
fn a_session_that_is_overwritten_or_merged_counts_once_in_its_group() {
    let mut driver = driver(|builder| {
        let sessions =
            SessionWindows::gap(Duration::from_millis(10)).grace(Duration::from_millis(100));
        builder
            .stream("rows", numbers())
            .group_by_key()
            .windowed_by_session(sessions)
            .reduce("sessions", |a, b| a + b)
            .table()
            .group_by(|_, v| (text("all"), *v), Grouped::by(utf8()).value(int64()))
            .reduce("sums", |a, b| a + b, |a, b| a - b)
            .to_stream()
            .to("out");
    });
    let rows = driver.input("rows", utf8(), int64());
    for (value, time) in [(1, 0), (2, 0), (4, 30), (8, 15), (16, 10), (32, 21)] {
        rows.pipe(&mut driver, text("a"), value, time);
    }
    assert_eq!(read(&mut driver).last().unwrap().1, Some(63));
}

#[test]
fn a_value_without_a_serde_is_reported() {
    let builder = StreamsBuilder::new("under-test");
    let table = builder.table("rows", "table", numbers());
    let grouped = table.group_by(|k, v| (k.clone(), *v), Grouped::by(utf8()));
    grouped.count("counts");
    let error = builder.build().err().unwrap().to_string();
    assert!(
        error.contains("'counts' has no serde for the values"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_sums_at_any_time_are_those_of_the_rows_at_that_time(
        input in prop::collection::vec((0..4_u8, prop::option::of(0..9_i64)), 1..50),
        partitions in 1..4,
        stops in prop::collection::btree_map(0..50_usize, any::<bool>(), 0..3),
    ) {
        let config = StreamsConfig::new("app");
        let mut driver = TopologyTestDriver::with(topology(sums), config, partitions).unwrap();
        let mut table = BTreeMap::new();
        let mut results = BTreeMap::new();
        for (i, (key, value)) in input.into_iter().enumerate() {
            let key = format!("key{key}");
            put(&mut driver, &key, value, i64::try_from(i).unwrap());
            match value {
                Some(value) => table.insert(key, value),
                None => table.remove(&key),
            };
            match stops.get(&i) {
                Some(true) => driver.crash().unwrap(),
                Some(false) => driver.restart().unwrap(),
                None => {}
            }
            results.extend(read(&mut driver).into_iter().map(|(k, v, _)| (k, v)));
            for parity in 0..2 {
                let rows = table.values().filter(|v| **v % 2 == parity);
                let sum: i64 = rows.sum();
                let result = results.get(&group(parity)).copied().flatten();
                prop_assert_eq!(result.unwrap_or(0), sum);
            }
        }
    }
}
