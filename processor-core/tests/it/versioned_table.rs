//! Tables with history, and joins of streams with them as of a time, at once or after a grace.

use std::collections::BTreeMap;
use std::time::Duration;

use processor_core::dsl::{Consumed, Grouped, Produced, StreamsBuilder, VersionedTable};
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{Record, StreamsConfig};
use proptest::prelude::*;

use crate::support::driver::{driver, nullable_numbers, numbers, text, topology};
use crate::support::world::World;

const HISTORY: i64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Inner,
    Left,
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.try_into().unwrap())
}

fn value(left: Option<i64>, right: Option<i64>) -> Option<i64> {
    Some(left? * 1_000 + right.unwrap_or(-1))
}

fn versions(builder: &StreamsBuilder) -> VersionedTable<Option<String>, i64> {
    let consumed = Consumed::new(nullable(utf8()), int64());
    builder.versioned_table("table", "versions", ms(HISTORY), consumed)
}

/// A stream joined with a versioned table, after a grace if there is one.
fn joined(kind: Kind, grace: Option<i64>) -> impl Fn(&StreamsBuilder) {
    move |builder| {
        let table = versions(builder);
        let stream = builder.stream("in", nullable_numbers());
        let produced = || Produced::new(nullable(utf8()), nullable(int64()));
        let inner = |_: &Option<String>, l, r| value(l, Some(r));
        let outer = |_: &Option<String>, l, r| value(l, r);
        let Some(grace) = grace else {
            let results = match kind {
                Kind::Inner => stream.join_table_as_of("joined", &table, inner),
                Kind::Left => stream.left_join_table_as_of("joined", &table, outer),
            };
            return results.to_with("out", produced());
        };
        let joined = match kind {
            Kind::Inner => stream.join_table_as_of_with_grace("joined", &table, ms(grace), inner),
            Kind::Left => {
                stream.left_join_table_as_of_with_grace("joined", &table, ms(grace), outer)
            }
        };
        joined.to_with("out", produced());
        joined
            .late()
            .map_values(|_, late| late.value.map(|value| value * 100 + late.stream_time))
            .to_with("late", produced());
    }
}

type Row = (Option<String>, Option<i64>, i64);

fn put(
    driver: &mut TopologyTestDriver,
    topic: &str,
    key: Option<&str>,
    value: Option<i64>,
    time: i64,
) {
    let input = driver.input(topic, nullable(utf8()), nullable(int64()));
    input.pipe(driver, key.map(text), value, time);
}

fn version(driver: &mut TopologyTestDriver, key: &str, value: Option<i64>, time: i64) {
    put(driver, "table", Some(key), value, time);
}

fn ask(driver: &mut TopologyTestDriver, key: &str, value: i64, time: i64) {
    put(driver, "in", Some(key), Some(value), time);
}

fn read(driver: &mut TopologyTestDriver, topic: &str) -> Vec<Row> {
    let output = driver.output(topic, nullable(utf8()), nullable(int64()));
    let row = |r: Record<Option<String>, Option<i64>>| (r.key, r.value, r.timestamp);
    output.read(driver).into_iter().map(row).collect()
}

fn rows(expected: &[(&str, i64, i64)]) -> Vec<Row> {
    let row = |(key, value, time): &(&str, i64, i64)| (Some(text(key)), Some(*value), *time);
    expected.iter().map(row).collect()
}

#[test]
fn a_record_meets_the_row_as_of_its_time() {
    let mut driver = driver(joined(Kind::Left, None));
    version(&mut driver, "a", Some(1), 10);
    version(&mut driver, "a", None, 14);
    version(&mut driver, "a", Some(2), 16);
    driver.crash().unwrap();
    // Comes late, and is in force until the next one.
    version(&mut driver, "a", Some(3), 12);
    for time in 9..18 {
        ask(&mut driver, "a", 5, time);
    }
    driver.restart().unwrap();
    ask(&mut driver, "b", 5, 17);
    let expected = [
        ("a", 4_999, 9),
        ("a", 5_001, 10),
        ("a", 5_001, 11),
        ("a", 5_003, 12),
        ("a", 5_003, 13),
        ("a", 4_999, 14),
        ("a", 4_999, 15),
        ("a", 5_002, 16),
        ("a", 5_002, 17),
        ("b", 4_999, 17),
    ];
    assert_eq!(read(&mut driver, "out"), rows(&expected));
}

#[test]
fn history_ends_to_the_millisecond_and_the_latest_version_stays() {
    let mut driver = driver(joined(Kind::Inner, None));
    version(&mut driver, "a", Some(1), 0);
    version(&mut driver, "a", Some(2), 8);
    version(&mut driver, "b", Some(3), 2);
    version(&mut driver, "x", Some(9), 17);
    driver.crash().unwrap();
    // At 7 all is known; before it, the latest only.
    ask(&mut driver, "a", 5, 7);
    ask(&mut driver, "a", 5, 6);
    ask(&mut driver, "b", 5, 2);
    ask(&mut driver, "b", 5, 1);
    // 6 is below the history, 7 is not.
    version(&mut driver, "c", Some(4), 6);
    ask(&mut driver, "c", 5, 8);
    version(&mut driver, "c", Some(4), 7);
    ask(&mut driver, "c", 5, 8);
    let expected = [("a", 5_001, 7), ("b", 5_003, 2), ("c", 5_004, 8)];
    assert_eq!(read(&mut driver, "out"), rows(&expected));
}

#[test]
fn tables_below_see_the_latest_versions_and_a_stream_sees_all() {
    let mut driver = driver(|builder| {
        let produced = || Produced::new(nullable(utf8()), nullable(int64()));
        let table = versions(builder);
        table.to_stream().to_with("all", produced());
        let other = builder.table(
            "other",
            "other-rows",
            Consumed::new(nullable(utf8()), int64()),
        );
        let joined = table
            .latest()
            .join("joined", &other, |_, v, w| v * 1_000 + w);
        joined
            .with_value_serde(int64())
            .to_stream()
            .to_with("joined", produced());
        let grouped = Grouped::by(nullable(utf8())).value(int64());
        table
            .latest()
            .group_by(|_, v| (Some(text("sum")), *v), grouped)
            .reduce("sums", |a, b| a + b, |a, b| a - b)
            .to_stream()
            .to_with("sums", produced());
    });
    put(&mut driver, "other", Some("a"), Some(7), 0);
    version(&mut driver, "a", Some(1), 10);
    version(&mut driver, "a", Some(2), 5);
    version(&mut driver, "a", Some(3), 10);
    driver.restart().unwrap();
    version(&mut driver, "a", Some(4), 30);
    version(&mut driver, "a", Some(5), 19);
    put(&mut driver, "table", None, Some(6), 30);
    let all = [("a", 1, 10), ("a", 2, 5), ("a", 3, 10), ("a", 4, 30)];
    assert_eq!(read(&mut driver, "all"), rows(&all));
    let joined = [("a", 1_007, 10), ("a", 3_007, 10), ("a", 4_007, 30)];
    assert_eq!(read(&mut driver, "joined"), rows(&joined));
    let sums = [("sum", 1, 10), ("sum", 3, 10), ("sum", 4, 30)];
    assert_eq!(read(&mut driver, "sums"), rows(&sums));
}

#[test]
fn a_filtered_and_mapped_table_has_its_history() {
    let mut driver = driver(|builder| {
        let produced = || Produced::new(nullable(utf8()), nullable(int64()));
        let even = versions(builder)
            .filter(|_, v| v % 2 == 0)
            .map_values(|_, v| v * 10)
            .with_serdes(nullable(utf8()), int64());
        even.to_stream().to_with("all", produced());
        builder
            .stream("in", nullable_numbers())
            .left_join_table_as_of("joined", &even, |_, l, r| value(l, r))
            .to_with("out", produced());
    });
    version(&mut driver, "a", Some(2), 10);
    version(&mut driver, "a", Some(4), 15);
    version(&mut driver, "a", Some(3), 12);
    for time in [11, 13, 16] {
        ask(&mut driver, "a", 1, time);
    }
    let out = [("a", 1_020, 11), ("a", 999, 13), ("a", 1_040, 16)];
    assert_eq!(read(&mut driver, "out"), rows(&out));
    let mut all = rows(&[("a", 20, 10), ("a", 40, 15), ("a", 0, 12)]);
    all[2].1 = None;
    assert_eq!(read(&mut driver, "all"), all);
}

#[test]
fn compaction_keeps_the_latest_version_though_an_older_one_came_after_it() {
    let world = World::new(&[("table", 1), ("in", 1), ("out", 1)]);
    let topology = topology(|builder| {
        let texts = || Consumed::new(utf8(), utf8());
        let table = builder.versioned_table("table", "versions", ms(HISTORY), texts());
        builder
            .stream("in", texts())
            .join_table_as_of("joined", &table, |_, l, r| format!("{l}{r}"))
            .to_with("out", Produced::new(utf8(), utf8()));
    });
    let config = || StreamsConfig {
        instance: Some("one".to_owned()),
        ..StreamsConfig::new("app")
    };
    let mut streams = world.streams(&topology, config());
    for (value, time) in [("old", 1), ("latest", 9), ("late", 5)] {
        world.write("table", 0, Some("k"), Some(value), time);
        streams.run_to_end().unwrap();
    }
    streams.close().unwrap();
    let changelog = || world.read_values("app-versions-changelog");
    assert_eq!(changelog(), ["old", "latest", "late", "latest"]);
    world.log.clean().unwrap();
    assert_eq!(changelog().len(), 4, "younger than the history and a day");
    world.clock.advance(Duration::from_secs(48 * 60 * 60));
    world.log.clean().unwrap();
    assert_eq!(changelog(), ["latest"]);
    let mut streams = world.streams(&topology, config());
    world.write("in", 0, Some("k"), Some("is "), 20);
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    assert_eq!(world.read_values("out"), ["is latest"]);
}

#[test]
fn a_record_waits_for_its_grace_to_the_millisecond_and_sees_what_comes_until_then() {
    let mut driver = driver(joined(Kind::Inner, Some(5)));
    version(&mut driver, "a", Some(1), 0);
    ask(&mut driver, "a", 5, 10);
    version(&mut driver, "a", Some(2), 9);
    ask(&mut driver, "x", 0, 14);
    driver.crash().unwrap();
    assert_eq!(read(&mut driver, "out"), []);
    version(&mut driver, "a", Some(3), 10);
    // Time of the table moves nothing.
    version(&mut driver, "a", Some(4), 15);
    assert_eq!(read(&mut driver, "out"), []);
    driver.restart().unwrap();
    ask(&mut driver, "x", 0, 15);
    assert_eq!(read(&mut driver, "out"), rows(&[("a", 5_003, 10)]));
}

#[test]
fn what_is_due_leaves_by_timestamp_then_key_then_arrival() {
    let mut driver = driver(joined(Kind::Left, Some(5)));
    for (key, value, time) in [("b", 1, 11), ("b", 2, 10), ("a", 3, 11), ("b", 4, 10)] {
        ask(&mut driver, key, value, time);
        driver.crash().unwrap();
    }
    ask(&mut driver, "c", 5, 30);
    let expected = [
        ("b", 1_999, 10),
        ("b", 3_999, 10),
        ("a", 2_999, 11),
        ("b", 999, 11),
    ];
    assert_eq!(read(&mut driver, "out"), rows(&expected));
}

#[test]
fn a_record_beyond_the_grace_is_late_and_is_not_joined() {
    let mut driver = driver(joined(Kind::Left, Some(5)));
    version(&mut driver, "a", Some(1), 0);
    ask(&mut driver, "x", 0, 20);
    driver.restart().unwrap();
    ask(&mut driver, "a", 5, 15);
    ask(&mut driver, "a", 6, 14);
    assert_eq!(read(&mut driver, "out"), rows(&[("a", 5_001, 15)]));
    assert_eq!(read(&mut driver, "late"), rows(&[("a", 620, 14)]));
}

#[test]
fn a_null_key_waits_for_nothing_and_a_null_value_is_dropped() {
    for (kind, expected) in [
        (Kind::Inner, vec![]),
        (Kind::Left, vec![(None, Some(4_999), 3)]),
    ] {
        let mut driver = driver(joined(kind, Some(5)));
        put(&mut driver, "in", None, Some(5), 3);
        put(&mut driver, "in", Some("a"), None, 100);
        put(&mut driver, "in", None, None, 100);
        // Neither moved time, so this is not late.
        ask(&mut driver, "a", 5, 0);
        assert_eq!(read(&mut driver, "out"), expected, "{kind:?}");
        assert_eq!(read(&mut driver, "late"), []);
    }
}

#[test]
fn a_grace_longer_than_the_history_is_a_problem_of_the_topology() {
    let builder = StreamsBuilder::new("under-test");
    joined(Kind::Inner, Some(HISTORY + 1))(&builder);
    let error = builder.build().err().unwrap().to_string();
    let expected = "join 'joined' waits 11 ms for versions, but its table keeps 10 ms of them";
    assert!(error.contains(expected), "{error}");
    let builder = StreamsBuilder::new("under-test");
    joined(Kind::Inner, Some(HISTORY))(&builder);
    assert!(builder.build().is_ok());
}

#[test]
fn a_stream_without_serdes_cannot_wait() {
    let builder = StreamsBuilder::new("under-test");
    let table = builder.versioned_table("table", "versions", ms(HISTORY), numbers());
    let stream = builder.stream("in", numbers()).map_values(|_, v| v);
    stream.join_table_as_of_with_grace("joined", &table, ms(1), |_, l, r| l + r);
    let error = builder.build().err().unwrap().to_string();
    assert!(error.contains("its stream has no serdes"), "{error}");
}

#[derive(Debug, Clone)]
struct Step {
    is_version: bool,
    key: Option<&'static str>,
    value: Option<i64>,
    time: i64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = prop_oneof![
        Just(None),
        Just(Some("a")),
        Just(Some("b")),
        Just(Some("a"))
    ];
    let step = (
        any::<bool>(),
        key,
        prop::option::weighted(0.85, 0..9_i64),
        0..9_i64,
        0..3_i64,
    );
    prop::collection::vec(step, 1..40).prop_map(|steps| {
        let mut base = 0;
        let mut at = |back: i64, on: i64| {
            base += on;
            (base - back).max(0)
        };
        steps
            .into_iter()
            .map(|(is_version, key, value, back, on)| Step {
                is_version,
                key,
                value,
                time: at(back, on),
            })
            .collect()
    })
}

/// All that ever came, and what follows from it by the definitions.
struct Model {
    kind: Kind,
    grace: Option<i64>,
    versions: Vec<(String, i64, Option<i64>)>,
    table_time: i64,
    stream_time: i64,
    waiting: Vec<(i64, String, i64)>,
}

impl Model {
    fn step(&mut self, step: &Step) -> (Vec<Row>, Vec<Row>) {
        let mut nothing = (vec![], vec![]);
        if step.is_version {
            if let Some(key) = step.key
                && step.time >= self.table_time - HISTORY
            {
                self.table_time = self.table_time.max(step.time);
                self.versions.push((text(key), step.time, step.value));
            }
            return nothing;
        }
        let Some(value) = step.value else {
            return nothing;
        };
        let (Some(key), Some(grace)) = (step.key, self.grace) else {
            let key = step.key.map(text);
            nothing.0.extend(self.result(key, value, step.time));
            return nothing;
        };
        if step.time < self.stream_time - grace {
            let late = value * 100 + self.stream_time;
            return (vec![], vec![(Some(text(key)), Some(late), step.time)]);
        }
        self.stream_time = self.stream_time.max(step.time);
        self.waiting.push((step.time, text(key), value));
        let until = self.stream_time - grace;
        let (mut due, waiting): (Vec<_>, Vec<_>) = self
            .waiting
            .drain(..)
            .partition(|(time, ..)| *time <= until);
        self.waiting = waiting;
        due.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let results = due
            .into_iter()
            .filter_map(|(time, key, value)| self.result(Some(key), value, time));
        (results.collect(), vec![])
    }

    fn result(&self, key: Option<String>, left: i64, time: i64) -> Option<Row> {
        let right = key.as_ref().and_then(|key| self.row(key, time));
        let is_result = self.kind == Kind::Left || right.is_some();
        is_result.then(|| (key, value(Some(left), right), time))
    }

    fn row(&self, key: &str, time: i64) -> Option<i64> {
        let mine = self.versions.iter().filter(|(of, ..)| of == key);
        // Of two at one time the one that came last.
        let by_time: BTreeMap<i64, Option<i64>> = mine.map(|(_, at, v)| (*at, *v)).collect();
        let (latest, _) = by_time.last_key_value()?;
        let is_known = time >= self.table_time - HISTORY || *latest <= time;
        let (_, row) = by_time.range(..=time).next_back()?;
        row.filter(|_| is_known)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_record_has_the_result_that_the_model_has(
        steps in steps(),
        kind in prop_oneof![Just(Kind::Inner), Just(Kind::Left)],
        grace in prop::option::of(0..6_i64),
        crash_at in 0..40_usize,
    ) {
        let mut driver = driver(joined(kind, grace));
        let mut model = Model {
            kind,
            grace,
            versions: vec![],
            table_time: -1,
            stream_time: -1,
            waiting: vec![],
        };
        for (n, step) in steps.iter().enumerate() {
            if n == crash_at {
                driver.crash().unwrap();
            }
            let topic = if step.is_version { "table" } else { "in" };
            put(&mut driver, topic, step.key, step.value, step.time);
            let (out, late) = model.step(step);
            prop_assert_eq!(read(&mut driver, "out"), out, "step {}", n);
            if grace.is_some() {
                prop_assert_eq!(read(&mut driver, "late"), late, "step {}", n);
            }
        }
    }
}
