//! Joins of two tables by a foreign key.

use std::collections::BTreeMap;

use processor_core::dsl::{Consumed, Grouped, KTable, StreamsBuilder};
use processor_core::log::ConsumerRecord;
use processor_core::partitioner::partition_for;
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{Record, StreamsConfig, Topology};
use proptest::prelude::*;

use crate::support::driver::{driver, text, topology};
use crate::support::world::World;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Inner,
    Left,
}

/// A left value is `foreign key:rest`; without a colon it points nowhere.
fn foreign_key(value: &str) -> Option<String> {
    value.split_once(':').map(|(key, _)| key.to_owned())
}

fn result(left: &str, right: Option<&str>) -> String {
    format!("{left}+{}", right.unwrap_or("none"))
}

fn joined(
    kind: Kind,
    left: &KTable<String, String>,
    right: &KTable<String, String>,
) -> KTable<String, String> {
    let foreign_key = |_: &String, value: &String| foreign_key(value);
    match kind {
        Kind::Inner => left.join_foreign_key("joined", right, utf8(), foreign_key, |_, l, r| {
            result(&l, Some(&r))
        }),
        Kind::Left => {
            left.left_join_foreign_key("joined", right, utf8(), foreign_key, |_, l, r| {
                result(&l, r.as_deref())
            })
        }
    }
}

fn texts() -> Consumed<String, String> {
    Consumed::new(utf8(), utf8())
}

fn tables(kind: Kind) -> impl Fn(&StreamsBuilder) {
    move |builder| {
        let left = builder.table("left", "left-rows", texts());
        let right = builder.table("right", "right-rows", texts());
        joined(kind, &left, &right).to_stream().to("out");
    }
}

type Row = (String, Option<String>, i64);

fn put(driver: &mut TopologyTestDriver, topic: &str, key: &str, value: Option<&str>, time: i64) {
    let input = driver.input(topic, utf8(), nullable(utf8()));
    input.pipe(driver, text(key), value.map(text), time);
}

fn read(driver: &mut TopologyTestDriver) -> Vec<Row> {
    let records = driver.output("out", utf8(), nullable(utf8())).read(driver);
    let row = |r: Record<String, Option<String>>| (r.key, r.value, r.timestamp);
    records.into_iter().map(row).collect()
}

fn rows(expected: &[(&str, Option<&str>, i64)]) -> Vec<Row> {
    let row = |(k, v, t): &(&str, Option<&str>, i64)| (text(k), v.map(text), *t);
    expected.iter().map(row).collect()
}

/// A left row comes, moves, goes and comes back, and so do the right rows; the application stops and is killed between.
fn through_all_cases(kind: Kind) -> Vec<Row> {
    let mut driver = driver(tables(kind));
    put(&mut driver, "left", "1", Some("a:x"), 10);
    put(&mut driver, "right", "a", Some("A"), 5);
    put(&mut driver, "left", "2", Some("a:y"), 3);
    driver.restart().unwrap();
    put(&mut driver, "right", "a", Some("B"), 20);
    put(&mut driver, "left", "1", Some("b:x"), 21);
    driver.crash().unwrap();
    put(&mut driver, "right", "a", None, 22);
    put(&mut driver, "left", "2", Some("y"), 23);
    put(&mut driver, "left", "2", None, 24);
    put(&mut driver, "left", "2", None, 25);
    put(&mut driver, "right", "b", Some("C"), 26);
    driver.crash().unwrap();
    put(&mut driver, "left", "1", None, 27);
    put(&mut driver, "right", "b", Some("D"), 28);
    read(&mut driver)
}

#[test]
fn an_inner_join_has_a_result_while_the_row_pointed_to_is_there() {
    assert_eq!(
        through_all_cases(Kind::Inner),
        rows(&[
            ("1", Some("a:x+A"), 5),
            ("2", Some("a:y+A"), 5),
            ("1", Some("a:x+B"), 20),
            ("2", Some("a:y+B"), 20),
            ("1", None, 21),
            ("2", None, 22),
            ("2", None, 23),
            ("1", Some("b:x+C"), 26),
            ("1", None, 27),
        ])
    );
}

#[test]
fn a_left_join_has_a_result_while_the_left_row_is_there() {
    assert_eq!(
        through_all_cases(Kind::Left),
        rows(&[
            ("1", Some("a:x+none"), 10),
            ("1", Some("a:x+A"), 5),
            ("2", Some("a:y+A"), 5),
            ("1", Some("a:x+B"), 20),
            ("2", Some("a:y+B"), 20),
            ("1", Some("b:x+none"), 21),
            ("2", Some("a:y+none"), 22),
            ("2", Some("y+none"), 23),
            ("2", None, 24),
            ("1", Some("b:x+C"), 26),
            ("1", None, 27),
        ])
    );
}

#[test]
fn topics_and_stores_are_named_after_the_join() {
    let driver = driver(tables(Kind::Inner));
    let internal: Vec<String> = driver
        .topics()
        .into_iter()
        .filter(|topic| topic.contains("joined"))
        .collect();
    assert_eq!(
        internal,
        [
            "test-joined-changelog",
            "test-joined-subscription-registration-topic",
            "test-joined-subscription-response-topic",
            "test-joined-subscription-store-changelog",
        ]
    );
}

#[test]
fn a_table_that_was_joined_can_be_joined_and_grouped_again() {
    let mut driver = driver(|builder| {
        let left = builder.table("left", "left-rows", texts());
        let right = builder.table("right", "right-rows", texts());
        let again = builder.table("again", "again-rows", texts());
        let joined = joined(Kind::Left, &left, &right);
        joined
            .filter(|_, v| !v.ends_with("+none"))
            .join("twice", &again, |_, v, w| format!("{v}&{w}"))
            .with_serdes(utf8(), utf8())
            .to_stream()
            .to("out");
        joined
            .group_by(|_, v| (v.clone(), 1), Grouped::by(utf8()).value(int64()))
            .count("counts")
            .to_stream()
            .to("counts");
    });
    put(&mut driver, "again", "1", Some("z"), 0);
    put(&mut driver, "left", "1", Some("a:x"), 1);
    put(&mut driver, "right", "a", Some("A"), 2);
    put(&mut driver, "right", "a", None, 3);
    assert_eq!(
        read(&mut driver),
        rows(&[("1", None, 1), ("1", Some("a:x+A&z"), 2), ("1", None, 3)])
    );
    let counts = driver.output("counts", utf8(), nullable(int64()));
    let count = |of: &str, count| (text(of), Some(count));
    assert_eq!(
        counts.read_key_values(&mut driver),
        [
            count("a:x+none", 1),
            count("a:x+none", 0),
            count("a:x+A", 1),
            count("a:x+A", 0),
            count("a:x+none", 1),
        ]
    );
}

#[test]
fn a_table_without_serdes_is_a_problem_of_the_topology() {
    let builder = StreamsBuilder::new("under-test");
    let left = builder.table("left", "left-rows", texts());
    let right = builder.table("right", "right-rows", texts());
    let untyped = right.map_values(|_, v| v);
    let _ = joined(Kind::Inner, &left, &untyped);
    let error = builder.build().err().unwrap().to_string();
    assert!(
        error.contains("foreign-key join 'joined' has a table without serdes"),
        "{error}"
    );
}

const LEFT_PARTITIONS: i32 = 3;
const RIGHT_PARTITIONS: i32 = 2;

fn world() -> World {
    World::new(&[
        ("left", LEFT_PARTITIONS),
        ("right", RIGHT_PARTITIONS),
        ("out", 1),
    ])
}

fn config() -> StreamsConfig {
    StreamsConfig {
        instance: Some("one".to_owned()),
        ..StreamsConfig::new("app")
    }
}

fn write(world: &World, topic: &str, key: &str, value: Option<&str>, time: i64) {
    let partitions = if topic == "left" {
        LEFT_PARTITIONS
    } else {
        RIGHT_PARTITIONS
    };
    let partition = partition_for(key.as_bytes(), partitions);
    world.write(topic, partition, Some(key), value, time);
}

/// The last value of each key.
fn latest(records: &[ConsumerRecord]) -> BTreeMap<String, String> {
    let plain = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut rows = BTreeMap::new();
    for record in records {
        let key = plain(record.key.as_deref().unwrap());
        match record.value.as_deref() {
            Some(value) => rows.insert(key, plain(value)),
            None => rows.remove(&key),
        };
    }
    rows
}

/// What comes of rows that are written all at once, then changed, with a stop and a kill between.
fn over_partitions(kind: Kind) -> (World, BTreeMap<String, String>) {
    let world = world();
    let topology: Topology = topology(tables(kind));
    for (time, n) in (0..).zip(0..30) {
        let value = format!("{}:{n}", n % 7);
        write(&world, "left", &format!("l{n}"), Some(&value), time);
    }
    for n in 0..5 {
        write(&world, "right", &n.to_string(), Some("old"), 100);
    }
    let mut streams = world.streams(&topology, config());
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    for n in 3..6 {
        write(&world, "right", &n.to_string(), Some("new"), 200);
    }
    write(&world, "right", "0", None, 201);
    let mut streams = world.streams(&topology, config());
    streams.run_to_end().unwrap();
    drop(streams);
    for n in 0..10 {
        // Away and back and away again, faster than answers come.
        for (i, to) in ["6", "5", "1"].into_iter().enumerate() {
            let value = format!("{to}:{i}");
            write(&world, "left", &format!("l{n}"), Some(&value), 300);
        }
    }
    let mut streams = world.streams(&topology, config());
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    let expected = (0..30)
        .filter_map(|n| {
            let (to, left) = match n {
                0..10 => (1, text("1:2")),
                _ => (n % 7, format!("{}:{n}", n % 7)),
            };
            let right = match to {
                1 | 2 => Some("old"),
                3..6 => Some("new"),
                _ => None,
            };
            let is_row = kind == Kind::Left || right.is_some();
            is_row.then(|| (format!("l{n}"), result(&left, right)))
        })
        .collect();
    (world, expected)
}

#[test]
fn tables_with_three_and_two_partitions_are_joined() {
    for kind in [Kind::Inner, Kind::Left] {
        let (world, expected) = over_partitions(kind);
        assert_eq!(latest(&world.read("out")), expected, "{kind:?}");
    }
}

#[test]
fn answers_go_back_to_where_the_left_row_is() {
    let (world, _) = over_partitions(Kind::Left);
    let mut answers = 0;
    for partition in 0..LEFT_PARTITIONS {
        let topic = "app-joined-subscription-response-topic";
        for record in world.read_partition(topic, partition) {
            // Markers of time have no key.
            if let Some(key) = record.key.as_deref() {
                assert_eq!(partition_for(key, LEFT_PARTITIONS), partition);
                answers += 1;
            }
        }
    }
    assert!(answers >= 60, "{answers}");
    let of = |topic: &str, partition| {
        let name = format!("app-joined-subscription-{topic}-topic");
        !world.read_partition(&name, partition).is_empty()
    };
    assert!(of("response", 2) && of("registration", 1));
}

#[test]
fn an_answer_for_a_left_value_that_is_no_more_is_dropped() {
    let world = world();
    write(&world, "right", "a", Some("A"), 0);
    write(&world, "right", "b", Some("B"), 0);
    let mut streams = world.streams(&topology(tables(Kind::Inner)), config());
    streams.run_to_end().unwrap();
    for value in ["a:1", "b:2", "a:3"] {
        write(&world, "left", "k", Some(value), 1);
    }
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    assert_eq!(world.read_sorted("out"), ["k=a:3+A"]);
}

#[test]
fn tables_behind_repartitions_are_joined() {
    let topology = topology(|builder| {
        let rekeyed = |topic: &str, store: &str| {
            builder
                .stream(topic, texts())
                .select_key(|k, _| format!("{k}{k}"))
                .with_serdes(utf8(), utf8())
                .to_table(store)
        };
        let (left, right) = (rekeyed("left", "left-rows"), rekeyed("right", "right-rows"));
        joined(Kind::Left, &left, &right).to_stream().to("out");
    });
    let world = world();
    let mut streams = world.streams(&topology, config());
    write(&world, "left", "1", Some("aa:x"), 0);
    write(&world, "left", "2", Some("bb:y"), 0);
    write(&world, "right", "a", Some("A"), 1);
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    let expected = [("11", "aa:x+A"), ("22", "bb:y+none")].map(|(k, v)| (text(k), text(v)));
    assert_eq!(latest(&world.read("out")), BTreeMap::from(expected));
}

#[test]
fn tables_that_point_to_each_other_do_not_wait_for_each_other() {
    let topology = topology(|builder| {
        let left = builder.table("left", "left-rows", texts());
        let right = builder.table("right", "right-rows", texts());
        joined(Kind::Left, &left, &right).to_stream().to("out");
        right
            .left_join_foreign_key(
                "back",
                &left,
                utf8(),
                |_, v| foreign_key(v),
                |_, r, l| result(&r, l.as_deref()),
            )
            .to_stream()
            .to("out");
    });
    let world = world();
    for n in 0..10 {
        write(
            &world,
            "left",
            &format!("l{n}"),
            Some(&format!("r{n}:x")),
            n,
        );
        write(
            &world,
            "right",
            &format!("r{n}"),
            Some(&format!("l{n}:y")),
            n,
        );
    }
    let mut streams = world.streams(&topology, config());
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    let rows = latest(&world.read("out"));
    assert_eq!(rows.len(), 20);
    assert_eq!(rows["l3"], "r3:x+l3:y");
    assert_eq!(rows["r3"], "l3:y+r3:x");
}

#[derive(Debug, Clone)]
struct Step {
    left: bool,
    key: usize,
    value: Option<String>,
    time: i64,
}

fn step() -> impl Strategy<Value = Step> {
    let left = prop::option::weighted(0.8, "([ab]:)?[xy]");
    let right = prop::option::weighted(0.8, "[XY]");
    let value = prop_oneof![2 => (Just(true), left), 1 => (Just(false), right)];
    (value, 0..2_usize, 0..20_i64).prop_map(|((left, value), key, time)| Step {
        left,
        key,
        value,
        time,
    })
}

/// Both tables in plain maps, and what the join of them says of each change, by the table in the operator's page.
#[derive(Default)]
struct Model {
    left: BTreeMap<String, String>,
    right: BTreeMap<String, (String, i64)>,
}

impl Model {
    fn step(&mut self, kind: Kind, step: &Step) -> Vec<Row> {
        let value = step.value.clone();
        if step.left {
            self.left_changes(kind, ["1", "2"][step.key], value, step.time)
        } else {
            self.right_changes(kind, ["a", "b"][step.key], value, step.time)
        }
    }

    fn left_changes(
        &mut self,
        kind: Kind,
        key: &str,
        value: Option<String>,
        time: i64,
    ) -> Vec<Row> {
        let old = match &value {
            Some(value) => self.left.insert(text(key), value.clone()),
            None => self.left.remove(key),
        };
        let pointed = old.as_deref().and_then(foreign_key);
        let points = value.as_deref().and_then(foreign_key);
        let found = points.as_ref().and_then(|to| self.right.get(to));
        let row = |result, time| vec![(text(key), result, time)];
        let Some(value) = value else {
            let had_result = match kind {
                Kind::Inner => pointed.as_ref().map(|to| self.right.get(to)),
                Kind::Left => old.map(|_| None),
            };
            // The deletion has the time of the row that it was joined with, if that is later.
            return had_result.map_or(vec![], |right| {
                row(None, right.map_or(time, |(_, t)| time.max(*t)))
            });
        };
        match (kind, found) {
            (_, Some((right, at))) => row(Some(result(&value, Some(right))), time.max(*at)),
            (Kind::Left, None) => row(Some(result(&value, None)), time),
            (Kind::Inner, None) if pointed.is_none() || pointed == points => vec![],
            (Kind::Inner, None) => {
                let left = if points.is_none() { pointed } else { None };
                let at = left.and_then(|to| self.right.get(&to)).map(|(_, t)| *t);
                row(None, at.map_or(time, |t| time.max(t)))
            }
        }
    }

    fn right_changes(
        &mut self,
        kind: Kind,
        key: &str,
        value: Option<String>,
        time: i64,
    ) -> Vec<Row> {
        match &value {
            Some(value) => self.right.insert(text(key), (value.clone(), time)),
            None => self.right.remove(key),
        };
        let pointing = self
            .left
            .iter()
            .filter(|(_, left)| foreign_key(left).as_deref() == Some(key));
        let of = |(primary, left): (&String, &String)| {
            let joined = match (kind, &value) {
                (Kind::Inner, None) => None,
                (_, right) => Some(result(left, right.as_deref())),
            };
            (primary.clone(), joined, time)
        };
        pointing.map(of).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_change_says_what_the_model_says(
        steps in prop::collection::vec(step(), 1..25),
        kind in prop_oneof![Just(Kind::Inner), Just(Kind::Left)],
        crash_at in 0..25_usize,
    ) {
        let mut driver = driver(tables(kind));
        let mut model = Model::default();
        for (n, step) in steps.iter().enumerate() {
            if n == crash_at {
                driver.crash().unwrap();
            }
            let (topic, keys) = if step.left { ("left", ["1", "2"]) } else { ("right", ["a", "b"]) };
            put(&mut driver, topic, keys[step.key], step.value.as_deref(), step.time);
            prop_assert_eq!(read(&mut driver), model.step(kind, step), "step {}: {:?}", n, step);
        }
    }
}
