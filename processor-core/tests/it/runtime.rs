//! The runtime on the embedded log: commits, failures, restarts, instances.
//!
//! One topology with a join, counts, windows, a repartition and a processor that speaks at the end of input; its results
//! depend on its input alone. Whatever happens on the way, they must be those of an undisturbed run.

mod faults;
mod instances;
mod restore;
mod restoring;
mod standby;
mod standby_faults;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use processor_core::clock::{Clock, ManualClock};
use processor_core::dsl::{
    Consumed, Grouped, JoinWindows, KStream, Produced, StreamsBuilder, TimeWindows,
};
use processor_core::error::Result;
use processor_core::processor::{
    KeyValue, Processor, ProcessorContext, Punctuated, Punctuation, Setup,
};
use processor_core::serde::{int64, nullable, utf8};
use processor_core::{Record, Streams, StreamsConfig, Topology};

use crate::support::world::World;

const INPUTS: [&str; 2] = ["left", "right"];
const OUTPUTS: [&str; 5] = ["pairs", "counts", "by-value", "windows", "totals"];

/// Counts values, and tells the counts at the end of input.
struct Totals(KeyValue<String, i64>);

impl Processor<String, String> for Totals {
    type KOut = String;
    type VOut = String;

    fn init(&mut self, setup: &mut Setup<'_, '_>) -> Result {
        setup.schedule(Punctuation::EndOfInput);
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<String, String>,
        _: &mut ProcessorContext<'_, '_, String, String>,
    ) -> Result {
        let total = self.0.get(&record.key)?.unwrap_or(0);
        self.0.put(&record.key, &(total + 1), record.timestamp)
    }

    fn punctuate(
        &mut self,
        _: Punctuated,
        context: &mut ProcessorContext<'_, '_, String, String>,
    ) -> Result {
        let mut totals = Vec::new();
        self.0.range(None, None, |key, total, timestamp| {
            totals.push(Record::new(key, total.to_string(), timestamp));
            ControlFlow::Continue(())
        })?;
        totals
            .into_iter()
            .try_for_each(|total| context.forward(total))
    }
}

fn topology() -> Topology {
    let builder = StreamsBuilder::new("everything");
    everything(&builder);
    builder.build().unwrap()
}

/// Gives back the left of its inputs.
fn everything(builder: &StreamsBuilder) -> KStream<String, String> {
    let texts = || Consumed::new(utf8(), utf8());
    let (left, right) = (
        builder.stream("left", texts()),
        builder.stream("right", texts()),
    );
    let windows = JoinWindows::of(Duration::from_millis(20)).grace(Duration::from_millis(10));
    let show = |side: Option<String>| side.unwrap_or_else(|| "-".to_owned());
    left.outer_join("join", &right, windows, move |_, l, r| {
        show(l) + "+" + &show(r)
    })
    .to_with("pairs", Produced::new(utf8(), utf8()));

    let counts = left.group_by_key().count("count").to_stream();
    counts.to_with("counts", Produced::new(utf8(), nullable(int64_as_text())));

    // Behind the repartition the order of the records is not fixed, so neither are the timestamps; the counts are.
    let by_value = right.group_by(|_, v| format!("v{}", v.len()), Grouped::by(utf8()));
    by_value
        .count("count-by-value")
        .to_stream()
        .to_with("by-value", Produced::new(utf8(), nullable(int64_as_text())));
    by_value
        .windowed_by(TimeWindows::tumbling(Duration::from_millis(50)).grace(Duration::MAX))
        .count("count-windows")
        .to_stream()
        .map(|window, count| (format!("{}@{}", window.key, window.start), count))
        .to_with("windows", Produced::new(utf8(), int64_as_text()));

    let totals = builder.key_value_store("totals", utf8(), int64());
    left.merge(&right)
        .process("total", totals, Totals)
        .to_with("totals", Produced::new(utf8(), utf8()));
    left
}

/// A number in decimal, so that results can be read.
#[derive(Clone, Copy)]
struct AsText;

fn int64_as_text() -> AsText {
    AsText
}

impl processor_core::serde::Serde<i64> for AsText {
    fn serialize(
        &self,
        value: &i64,
        into: &mut Vec<u8>,
    ) -> std::result::Result<(), processor_core::serde::SerdeError> {
        into.extend_from_slice(value.to_string().as_bytes());
        Ok(())
    }

    fn deserialize(
        &self,
        bytes: &[u8],
    ) -> std::result::Result<i64, processor_core::serde::SerdeError> {
        let text = String::from_utf8_lossy(bytes);
        text.parse().map_err(processor_core::serde::SerdeError::new)
    }
}

const PARTITIONS: i32 = 2;

fn topics() -> Vec<(&'static str, i32)> {
    let names = INPUTS.into_iter().chain(OUTPUTS);
    names.map(|name| (name, PARTITIONS)).collect()
}

/// Part `part` of the input: records of several keys in both partitions, a little out of order.
fn feed(world: &World, part: i64, records: i64) {
    for i in 0..records {
        let n = part * records + i;
        let scrambled = (n * 7_919 + 13) % 101;
        let key = format!("k{}", scrambled % 5);
        let topic = INPUTS[usize::try_from(scrambled % 2).unwrap()];
        let value = format!("{}{n}", "x".repeat(usize::try_from(scrambled % 3).unwrap()));
        let timestamp = (n * 6 - scrambled % 23).max(0);
        let partition = processor_core::partitioner::partition_for(key.as_bytes(), PARTITIONS);
        world.write(topic, partition, Some(&key), Some(&value), timestamp);
    }
}

/// What came out, by topic, sorted.
type Results = BTreeMap<&'static str, Vec<String>>;

fn results(world: &World) -> Results {
    let read = |topic| (topic, world.read_sorted(topic));
    OUTPUTS.into_iter().map(read).collect()
}

/// What two outcomes do not have in common, in few words.
fn difference(got: &Results, expected: &Results) -> Vec<String> {
    let mut difference = Vec::new();
    for topic in OUTPUTS {
        let (mut missing, mut extra) = (expected[topic].clone(), Vec::new());
        for row in &got[topic] {
            match missing.iter().position(|known| known == row) {
                Some(at) => drop(missing.remove(at)),
                None => extra.push(row.clone()),
            }
        }
        if !missing.is_empty() || !extra.is_empty() {
            difference.push(format!("{topic}: missing {missing:?}, extra {extra:?}"));
        }
    }
    difference
}

fn config() -> StreamsConfig {
    StreamsConfig {
        instance: Some("one".to_owned()),
        commit_interval: Duration::ZERO,
        // All schemas of time in these tests stand still, so nothing comes of waiting.
        max_task_idle: Duration::from_secs(1_000_000),
        ..StreamsConfig::new("app")
    }
}

const PARTS: i64 = 3;
const RECORDS: i64 = 20;

/// The results of a run without any failure, as long as all parts are read one after the other.
fn undisturbed() -> Results {
    let world = World::new(&topics());
    let mut streams = world.streams(&topology(), config());
    for part in 0..PARTS {
        feed(&world, part, RECORDS);
        streams.run_to_end().unwrap();
    }
    streams.close().unwrap();
    results(&world)
}

#[test]
fn an_undisturbed_run_gives_each_kind_of_result() {
    let results = undisturbed();
    for (topic, rows) in &results {
        assert!(rows.len() > 5, "{topic}: {rows:?}");
    }
    let pairs = &results["pairs"];
    assert!(pairs.iter().any(|row| row.contains("=-+")), "{pairs:?}");
    assert!(pairs.iter().any(|row| row.ends_with("+-")), "{pairs:?}");
    // The end of input came three times.
    let totals = &results["totals"];
    assert_eq!(
        totals.iter().filter(|row| row.starts_with("k1=")).count(),
        3
    );
}

#[test]
fn results_do_not_depend_on_when_commits_come() {
    let expected = undisturbed();
    for commit_interval in [1_u64, 1_000_000] {
        let world = World::new(&topics());
        let config = StreamsConfig {
            commit_interval: Duration::from_secs(commit_interval),
            ..config()
        };
        let mut streams = world.streams(&topology(), config);
        for part in 0..PARTS {
            feed(&world, part, RECORDS);
            streams.run_to_end().unwrap();
        }
        streams.close().unwrap();
        assert_eq!(difference(&results(&world), &expected), [""; 0]);
    }
}

#[test]
fn results_do_not_depend_on_what_is_buffered_or_when_it_is_written_to_the_stores() {
    let expected = undisturbed();
    let small = [
        StreamsConfig {
            buffered_records_per_partition: 1,
            ..config()
        },
        StreamsConfig {
            commit_interval: Duration::from_secs(1_000_000),
            commit_bytes: Some(1),
            ..config()
        },
        StreamsConfig {
            apply_bytes: Some(1),
            ..config()
        },
    ];
    for config in small {
        let world = World::new(&topics());
        let mut streams = world.streams(&topology(), config);
        for part in 0..PARTS {
            feed(&world, part, RECORDS);
            streams.run_to_end().unwrap();
        }
        streams.close().unwrap();
        assert_eq!(difference(&results(&world), &expected), [""; 0]);
    }
}

#[test]
fn a_second_run_to_the_end_goes_on_where_the_first_one_stopped() {
    let world = World::new(&topics());
    let mut streams = world.streams(&topology(), config());
    feed(&world, 0, RECORDS);
    let first = streams.run_to_end().unwrap().records;
    assert!(first >= RECORDS.unsigned_abs());
    assert_eq!(streams.run_to_end().unwrap().records, 0);
    feed(&world, 1, RECORDS);
    assert!(streams.run_to_end().unwrap().records >= RECORDS.unsigned_abs());
}

#[test]
fn a_run_that_is_stopped_in_the_middle_goes_on_there() {
    let world = World::new(&topics());
    let mut streams = world.streams(&topology(), config());
    feed(&world, 0, RECORDS);
    let some = streams
        .run_to_end_with(&mut |taken| taken < 5)
        .unwrap()
        .records;
    assert!(some >= 5);
    streams.close().unwrap();
    let mut streams = world.streams(&topology(), config());
    streams.run_to_end().unwrap();
    let stopped = results(&world);
    let world = World::new(&topics());
    feed(&world, 0, RECORDS);
    world.streams(&topology(), config()).run_to_end().unwrap();
    assert_eq!(stopped, results(&world));
}

/// A clock that leaps a year ahead and back.
#[derive(Default)]
struct Leaping(AtomicI64);

impl Clock for Leaping {
    fn now_ms(&self) -> i64 {
        const YEAR_MS: i64 = 365 * 86_400_000;
        let calls = self.0.fetch_add(1, Ordering::SeqCst);
        calls / 7 % 3 * YEAR_MS + calls
    }

    fn pass(&self, _: Duration) {}
}

#[test]
fn results_do_not_depend_on_what_the_clock_says() {
    const YEAR_2100_MS: i64 = 4_102_444_800_000;
    let expected = undisturbed();
    let clocks: [Arc<dyn Clock>; 3] = [
        Arc::new(ManualClock::at(-1_000_000)),
        Arc::new(ManualClock::at(YEAR_2100_MS)),
        Arc::new(Leaping::default()),
    ];
    for clock in clocks {
        let world = World::new(&topics());
        let log = Arc::new(world.log.clone());
        let mut streams = Streams::with_clock(topology(), config(), log, clock).unwrap();
        for part in 0..PARTS {
            feed(&world, part, RECORDS);
            streams.run_to_end().unwrap();
        }
        streams.close().unwrap();
        assert_eq!(difference(&results(&world), &expected), [""; 0]);
    }
}
