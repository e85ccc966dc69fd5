//! Joins of two tables.

use std::collections::BTreeMap;

use processor_core::Record;
use processor_core::dsl::{KTable, StreamsBuilder};
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use proptest::prelude::*;

use crate::support::driver::{driver, numbers, text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Inner,
    Left,
    Outer,
}

const KINDS: [Kind; 3] = [Kind::Inner, Kind::Left, Kind::Outer];

fn value(left: Option<i64>, right: Option<i64>) -> i64 {
    left.unwrap_or(-1) * 1_000 + right.unwrap_or(-1)
}

fn joined(
    kind: Kind,
    left: &KTable<String, i64>,
    right: &KTable<String, i64>,
) -> KTable<String, i64> {
    let joined = match kind {
        Kind::Inner => left.join("joined", right, |_, v, w| value(Some(v), Some(w))),
        Kind::Left => left.left_join("joined", right, |_, v, w| value(Some(v), w)),
        Kind::Outer => left.outer_join("joined", right, |_, v, w| value(v, w)),
    };
    joined.with_serdes(utf8(), int64())
}

fn tables(kind: Kind) -> impl Fn(&StreamsBuilder) {
    move |builder| {
        let left = builder.table("left", "left-rows", numbers());
        let right = builder.table("right", "right-rows", numbers());
        joined(kind, &left, &right).to_stream().to("out");
    }
}

type Row = (String, Option<i64>, i64);

fn put(driver: &mut TopologyTestDriver, topic: &str, key: &str, value: Option<i64>, time: i64) {
    let input = driver.input(topic, utf8(), nullable(int64()));
    input.pipe(driver, text(key), value, time);
}

fn read(driver: &mut TopologyTestDriver) -> Vec<Row> {
    let records = driver.output("out", utf8(), nullable(int64())).read(driver);
    let row = |r: Record<String, Option<i64>>| (r.key, r.value, r.timestamp);
    records.into_iter().map(row).collect()
}

fn rows(expected: &[(Option<i64>, i64)]) -> Vec<Row> {
    expected.iter().map(|(v, t)| (text("a"), *v, *t)).collect()
}

/// A row on either side, alone and together, and the deletions.
fn through_all_cases(kind: Kind) -> Vec<Row> {
    let mut driver = driver(tables(kind));
    put(&mut driver, "left", "a", Some(1), 10);
    put(&mut driver, "right", "a", Some(2), 5);
    put(&mut driver, "left", "a", None, 7);
    put(&mut driver, "left", "a", None, 8);
    put(&mut driver, "right", "a", Some(3), 20);
    driver.restart().unwrap();
    put(&mut driver, "left", "a", Some(4), 9);
    put(&mut driver, "right", "a", None, 30);
    put(&mut driver, "right", "a", None, 31);
    put(&mut driver, "left", "a", None, 32);
    put(&mut driver, "left", "a", None, 33);
    read(&mut driver)
}

#[test]
fn an_inner_join_has_a_result_while_both_sides_have_a_row() {
    assert_eq!(
        through_all_cases(Kind::Inner),
        rows(&[
            (Some(1_002), 10),
            (None, 7),
            (None, 8),
            (Some(4_003), 20),
            (None, 30),
            (None, 31),
        ])
    );
}

#[test]
fn a_left_join_has_a_result_while_the_left_side_has_a_row() {
    assert_eq!(
        through_all_cases(Kind::Left),
        rows(&[
            (Some(999), 10),
            (Some(1_002), 10),
            (None, 7),
            (None, 8),
            (Some(4_003), 20),
            (Some(3_999), 30),
            (Some(3_999), 31),
            (None, 32),
        ])
    );
}

#[test]
fn an_outer_join_has_a_result_while_either_side_has_a_row() {
    assert_eq!(
        through_all_cases(Kind::Outer),
        rows(&[
            (Some(999), 10),
            (Some(1_002), 10),
            (Some(-998), 7),
            (Some(-998), 8),
            (Some(-997), 20),
            (Some(4_003), 20),
            (Some(3_999), 30),
            (Some(3_999), 31),
            (None, 32),
        ])
    );
}

#[test]
fn a_table_may_be_joined_with_what_derives_from_it() {
    let mut driver = driver(|builder| {
        let table = builder.table("left", "rows", numbers());
        let even = table.filter(|_, v| v % 2 == 0);
        joined(Kind::Left, &table, &even).to_stream().to("out");
    });
    put(&mut driver, "left", "a", Some(1), 0);
    put(&mut driver, "left", "a", Some(2), 1);
    // Once for the change of each side; both see the row that is there.
    assert_eq!(
        read(&mut driver),
        rows(&[
            (Some(999), 0),
            (Some(999), 0),
            (Some(2_002), 1),
            (Some(2_002), 1)
        ])
    );
}

#[test]
fn a_stream_and_another_table_meet_the_result_of_a_join() {
    let mut driver = driver(|builder| {
        let left = builder.table("left", "left-rows", numbers());
        let right = builder.table("right", "right-rows", numbers());
        let joined = joined(Kind::Outer, &left, &right);
        let third = builder.table("third", "third-rows", numbers());
        third
            .join("all", &joined, |_, v, j| v * 1_000_000 + j)
            .with_serdes(utf8(), int64())
            .to_stream()
            .to("out");
        builder
            .stream("in", numbers())
            .join_table("seen", &joined, |_, v, j| v * 1_000_000 + j)
            .to_with("seen", processor_core::dsl::Produced::new(utf8(), int64()));
    });
    put(&mut driver, "third", "a", Some(3), 0);
    put(&mut driver, "left", "a", Some(1), 40);
    put(&mut driver, "right", "a", Some(2), 2);
    put(&mut driver, "third", "a", Some(4), 3);
    put(&mut driver, "in", "a", Some(9), 4);
    assert_eq!(
        read(&mut driver),
        rows(&[
            (Some(3_000_999), 40),
            (Some(3_001_002), 40),
            (Some(4_001_002), 40)
        ])
    );
    let seen = driver.output("seen", utf8(), int64());
    assert_eq!(seen.read_key_values(&mut driver), [(text("a"), 9_001_002)]);
}

/// What the table of results must be.
fn model(kind: Kind, left: Option<i64>, right: Option<i64>) -> Option<i64> {
    let there = match kind {
        Kind::Inner => left.is_some() && right.is_some(),
        Kind::Left => left.is_some(),
        Kind::Outer => left.is_some() || right.is_some(),
    };
    there.then(|| value(left, right))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn the_results_at_any_time_are_the_join_of_the_rows_at_that_time(
        input in prop::collection::vec(
            (any::<bool>(), 0..3_u8, prop::option::of(0..9_i64)),
            1..60,
        ),
        kind in prop::sample::select(&KINDS[..]),
    ) {
        let mut driver = driver(tables(kind));
        let mut rows: [BTreeMap<String, i64>; 2] = Default::default();
        let mut results = BTreeMap::new();
        for (time, (is_left, key, value)) in (0..).zip(input) {
            let key = key.to_string();
            let topic = if is_left { "left" } else { "right" };
            put(&mut driver, topic, &key, value, time);
            let side = &mut rows[usize::from(!is_left)];
            match value {
                Some(value) => side.insert(key.clone(), value),
                None => side.remove(&key),
            };
            for (key, value, _) in read(&mut driver) {
                match value {
                    Some(value) => results.insert(key, value),
                    None => results.remove(&key),
                };
            }
            let [left, right] = &rows;
            let expected = model(kind, left.get(&key).copied(), right.get(&key).copied());
            prop_assert_eq!(results.get(&key).copied(), expected);
        }
    }
}
