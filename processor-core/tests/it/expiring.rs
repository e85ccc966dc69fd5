//! Key-value stores whose entries live for some time.

use std::collections::HashMap;
use std::time::Duration;

use processor_core::dsl::{Produced, StreamsBuilder};
use processor_core::error::Result;
use processor_core::processor::{KeyValue, Processor, ProcessorContext, Ttl};
use processor_core::serde::{bytes, int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{Record, StreamsConfig};
use proptest::prelude::*;

use crate::support::driver::{driver, numbers, pairs, text, topology};

type Context<'a, 'c> = ProcessorContext<'a, 'c, String, i64>;

/// Forwards what the store has for the key, −1 for nothing. Puts positive values and deletes at a 0; a negative one only
/// looks. `before` lies the timestamp of the entry before that of the record.
struct Remember {
    entries: KeyValue<String, i64>,
    before: i64,
}

impl Processor<String, i64> for Remember {
    type KOut = String;
    type VOut = i64;

    fn process(&mut self, record: Record<String, i64>, context: &mut Context<'_, '_>) -> Result {
        let found = self.entries.get(&record.key)?;
        let mut in_range = None;
        self.entries
            .range(Some(&record.key), None, |key, value, _| {
                in_range = (key == record.key).then_some(value);
                std::ops::ControlFlow::Break(())
            })?;
        assert_eq!(found, in_range, "{} at {}", record.key, record.timestamp);
        match record.value {
            1.. => {
                let put_at = record.timestamp - self.before;
                self.entries.put(&record.key, &record.value, put_at)?;
            }
            0 => self.entries.delete(&record.key, record.timestamp)?,
            _ => {}
        }
        context.forward(record.with_value(found.unwrap_or(-1)))
    }
}

fn remembering(ttl: Ttl, before: i64) -> impl Fn(&StreamsBuilder) {
    move |builder| {
        let entries = builder.key_value_store("entries", utf8(), int64()).ttl(ttl);
        let stream = builder.stream("in", numbers());
        let remember = move |entries| Remember { entries, before };
        let found = stream.process("remember", entries, remember);
        found.to_with("out", Produced::new(utf8(), int64()));
    }
}

fn event_time(ms: u64) -> Ttl {
    Ttl::event_time(Duration::from_millis(ms))
}

fn pipe(driver: &mut TopologyTestDriver, input: &[(&str, i64, i64)]) {
    let topic = driver.input("in", utf8(), int64());
    for (key, value, timestamp) in input {
        topic.pipe(driver, text(key), *value, *timestamp);
    }
}

fn found(driver: &mut TopologyTestDriver) -> Vec<(String, i64)> {
    let output = driver.output("out", utf8(), int64());
    output.read_key_values(driver)
}

#[test]
fn an_entry_is_gone_at_its_put_time_plus_the_time_to_live_and_not_before() {
    let mut driver = driver(remembering(event_time(10), 0));
    pipe(
        &mut driver,
        &[("a", 7, 5), ("a", -1, 14), ("a", -1, 15), ("a", -1, 3)],
    );
    let expected = [("a", -1), ("a", 7), ("a", -1), ("a", -1)];
    assert_eq!(found(&mut driver), pairs(&expected));
}

#[test]
fn an_entry_that_is_put_again_lives_anew() {
    let mut driver = driver(remembering(event_time(10), 0));
    pipe(
        &mut driver,
        &[("a", 1, 0), ("a", 2, 9), ("a", -1, 18), ("a", -1, 19)],
    );
    let expected = [("a", -1), ("a", 1), ("a", 2), ("a", -1)];
    assert_eq!(found(&mut driver), pairs(&expected));
}

#[test]
fn records_of_other_keys_move_the_time() {
    let mut driver = driver(remembering(event_time(10), 0));
    pipe(&mut driver, &[("a", 1, 0), ("b", -1, 10), ("a", -1, 10)]);
    let expected = [("a", -1), ("b", -1), ("a", -1)];
    assert_eq!(found(&mut driver), pairs(&expected));
}

#[test]
fn what_is_put_with_a_time_that_is_over_is_not_there_nor_what_it_replaced() {
    let mut driver = driver(remembering(event_time(10), 10));
    pipe(&mut driver, &[("a", 1, 10), ("a", -1, 10)]);
    assert_eq!(found(&mut driver), pairs(&[("a", -1), ("a", -1)]));

    let mut driver = crate::support::driver::driver(remembering(event_time(10), 0));
    pipe(
        &mut driver,
        &[("a", 1, 10), ("b", -1, 15), ("a", 2, 5), ("a", -1, 15)],
    );
    let expected = [("a", -1), ("b", -1), ("a", 1), ("a", -1)];
    assert_eq!(found(&mut driver), pairs(&expected));
}

#[test]
fn by_the_puts_the_records_times_do_not_count() {
    let ttl = Ttl::event_time_of_puts(Duration::from_millis(10));
    // Entries are put 1,000 before their records.
    let mut driver = driver(remembering(ttl, 1_000));
    pipe(
        &mut driver,
        &[("a", 1, 1_000), ("b", -1, 9_000), ("a", -1, 1_000)],
    );
    pipe(&mut driver, &[("b", 2, 1_009), ("a", -1, 0)]);
    driver.restart().unwrap();
    pipe(&mut driver, &[("a", -1, 0), ("b", 3, 1_010), ("a", -1, 0)]);
    driver.crash().unwrap();
    pipe(&mut driver, &[("a", -1, 0), ("b", -1, 0)]);
    let expected = [
        ("a", -1),
        ("b", -1),
        ("a", 1),
        ("b", -1),
        ("a", 1),
        ("a", 1),
        ("b", 2),
        ("a", -1),
        ("a", -1),
        ("b", 3),
    ];
    assert_eq!(found(&mut driver), pairs(&expected));
}

#[test]
fn by_the_wall_clock_the_times_of_records_do_not_count() {
    let mut driver = driver(remembering(Ttl::wall_clock(Duration::from_millis(10)), 0));
    pipe(&mut driver, &[("a", 1, 5_000), ("a", -1, 9_000)]);
    driver.advance_wall_clock(Duration::from_millis(9));
    driver.restart().unwrap();
    pipe(&mut driver, &[("a", -1, 0)]);
    driver.advance_wall_clock(Duration::from_millis(1));
    pipe(&mut driver, &[("a", -1, 0)]);
    let expected = [("a", -1), ("a", 1), ("a", 1), ("a", -1)];
    assert_eq!(found(&mut driver), pairs(&expected));
}

#[test]
fn a_store_with_two_times_to_live_is_refused() {
    let builder = StreamsBuilder::new("under-test");
    let entries = builder.key_value_store("entries", utf8(), int64());
    let stream = builder.stream("in", numbers());
    let remember = |entries| Remember { entries, before: 0 };
    stream.process("one", entries.clone().ttl(event_time(10)), remember);
    stream.process("two", entries.ttl(event_time(20)), remember);
    let Err(error) = builder.build() else {
        panic!("it was built");
    };
    let reason = "store 'entries' is given two times to live";
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn what_has_expired_leaves_the_changelog_with_tombstones() {
    let mut driver = driver(remembering(event_time(10), 0));
    let topic = driver.input("in", utf8(), int64());
    for time in 0..300 {
        topic.pipe(&mut driver, format!("key-{time}"), 1, time);
    }
    let changelog = driver.output("test-entries-changelog", bytes(), nullable(bytes()));
    let (mut left, mut tombstones) = (HashMap::new(), 0);
    for record in changelog.read(&mut driver) {
        match record.value {
            Some(_) => left.insert(record.key, record.timestamp),
            None => {
                tombstones += 1;
                left.remove(&record.key)
            }
        };
    }
    assert_eq!(tombstones + left.len(), 300);
    assert!((10..=42).contains(&left.len()), "{} entries", left.len());
}

/// What `Remember` finds, by a plain map that knows no expiry but by looking at times.
fn expected(input: &[(u8, i64, i64)]) -> Vec<(String, i64)> {
    let (mut entries, mut now) = (HashMap::<u8, (i64, i64)>::new(), -1);
    let mut output = Vec::new();
    for (key, value, timestamp) in input {
        now = now.max(*timestamp);
        let live = entries.get(key).filter(|(put_at, _)| put_at + 10 > now);
        output.push((format!("k{key}"), live.map_or(-1, |(_, value)| *value)));
        match value {
            1.. => drop(entries.insert(*key, (*timestamp, *value))),
            0 => drop(entries.remove(key)),
            _ => {}
        }
    }
    output
}

fn run(input: &[(u8, i64, i64)], interruptions: &[u8], directory: Option<&std::path::Path>) {
    let config = StreamsConfig {
        apply_bytes: Some(0),
        ..StreamsConfig::new("app")
    };
    let config = match directory {
        Some(directory) => config.state_dir(directory),
        None => config,
    };
    let topology = topology(remembering(event_time(10), 0));
    let mut driver = TopologyTestDriver::with(topology, config, 1).unwrap();
    for ((key, value, timestamp), interruption) in input.iter().zip(interruptions) {
        pipe(&mut driver, &[(&format!("k{key}"), *value, *timestamp)]);
        match interruption {
            0 => driver.restart().unwrap(),
            1 => driver.crash().unwrap(),
            _ => {}
        }
    }
    assert_eq!(found(&mut driver), expected(input));
}

fn input() -> impl Strategy<Value = Vec<(u8, i64, i64)>> {
    prop::collection::vec((0..4u8, -2..5i64, 0..60i64), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_expiring_store_is_as_a_plain_map_says_over_restarts_and_crashes(
        input in input(),
        interruptions in prop::collection::vec(0..8u8, 60),
    ) {
        run(&input, &interruptions, None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn and_so_it_is_on_sled(
        input in input(),
        interruptions in prop::collection::vec(0..8u8, 60),
    ) {
        let directory = tempfile::tempdir().unwrap();
        run(&input, &interruptions, Some(directory.path()));
    }
}
