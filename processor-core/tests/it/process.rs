//! User code in a topology: stores, timers and the end of input.

use std::time::Duration;

use processor_core::dsl::{Produced, StreamsBuilder};
use processor_core::error::{Fault, Result};
use processor_core::processor::{
    EventBuffer, KeyValue, ObservedTime, Processor, ProcessorContext, Punctuated, Punctuation,
    Setup, Work,
};
use processor_core::serde::{int64, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{OnBadRecord, Record, StreamsConfig};

use crate::support::driver::{driver, numbers, pairs, text, topology};

type Context<'a, 'c> = ProcessorContext<'a, 'c, String, i64>;

fn pipe(driver: &mut TopologyTestDriver, input: &[(&str, i64, i64)]) {
    let topic = driver.input("in", utf8(), int64());
    for (key, value, timestamp) in input {
        topic.pipe(driver, text(key), *value, *timestamp);
    }
}

fn read(driver: &mut TopologyTestDriver) -> Vec<(String, i64)> {
    driver
        .output("out", utf8(), int64())
        .read_key_values(driver)
}

fn out() -> Produced<String, i64> {
    Produced::new(utf8(), int64())
}

// --- stores ---

/// Forwards the difference to the last value of the key, and deletes the key at a zero.
struct Difference(KeyValue<String, i64>);

impl Processor<String, i64> for Difference {
    type KOut = String;
    type VOut = i64;

    fn process(&mut self, record: Record<String, i64>, context: &mut Context<'_, '_>) -> Result {
        let last = self.0.get(&record.key)?.unwrap_or(0);
        if record.value == 0 {
            self.0.delete(&record.key, record.timestamp)?;
        } else {
            self.0.put(&record.key, &record.value, record.timestamp)?;
        }
        let difference = record.value - last;
        context.forward(record.with_value(difference))
    }
}

fn differences(builder: &StreamsBuilder) {
    let last = builder.key_value_store("last", utf8(), int64());
    let stream = builder.stream("in", numbers());
    stream
        .process("difference", last, Difference)
        .to_with("out", out());
}

#[test]
fn a_processor_reads_what_it_wrote_and_so_does_its_successor() {
    let mut driver = driver(differences);
    pipe(&mut driver, &[("a", 5, 0), ("a", 7, 1)]);
    driver.restart().unwrap();
    pipe(&mut driver, &[("a", 8, 2), ("b", 1, 3), ("a", 0, 4)]);
    driver.crash().unwrap();
    pipe(&mut driver, &[("a", 3, 5)]);
    let expected = [("a", 5), ("a", 2), ("a", 1), ("b", 1), ("a", -8), ("a", 3)];
    assert_eq!(read(&mut driver), pairs(&expected));
}

#[test]
fn values_are_processed_without_a_repartition_topic_below_and_keys_are_with_one() {
    let describe = |values_only: bool| {
        let topology = topology(|builder| {
            let last = builder.key_value_store("last", utf8(), int64());
            let stream = builder.stream("in", numbers());
            let counts = if values_only {
                let processed = stream.process_values("difference", last, Difference);
                processed.group_by_key().count("counts")
            } else {
                let processed = stream.process("difference", last, Difference);
                let known = processed.with_serdes(utf8(), int64());
                known.group_by_key().count("counts")
            };
            counts.to_stream().to("out");
        });
        let repartitions = topology.describe().contains("-repartition");
        let mut driver = TopologyTestDriver::new(topology).unwrap();
        pipe(&mut driver, &[("a", 5, 0), ("b", 7, 1), ("a", 8, 2)]);
        (repartitions, read(&mut driver))
    };
    let counts = pairs(&[("a", 1), ("b", 1), ("a", 2)]);
    assert_eq!(describe(true), (false, counts.clone()));
    assert_eq!(describe(false), (true, counts));
}

#[test]
fn the_store_has_a_changelog_under_the_application_s_name() {
    let mut driver = driver(differences);
    pipe(&mut driver, &[("a", 5, 9)]);
    let changelog = driver.output("test-last-changelog", utf8(), int64());
    assert_eq!(changelog.read(&mut driver), [Record::new(text("a"), 5, 9)]);
}

/// Sums the values of the last 10 ms for each key.
struct Recent(EventBuffer<String, i64>, Option<ObservedTime>);

impl Processor<String, i64> for Recent {
    type KOut = String;
    type VOut = i64;

    fn init(&mut self, setup: &mut Setup<'_, '_>) -> Result {
        let time = setup.observed_time("mine");
        self.0.expire_before(time.now() - 10);
        self.1 = Some(time);
        Ok(())
    }

    fn process(&mut self, record: Record<String, i64>, context: &mut Context<'_, '_>) -> Result {
        let Record {
            key,
            value,
            timestamp,
            ..
        } = &record;
        let offset = context.metadata().map_or(0, |metadata| metadata.offset);
        self.0.append(key, value, *timestamp, offset)?;
        if let Some(time) = &self.1
            && context.observe(time, *timestamp)
        {
            self.0.expire_before(timestamp - 10);
        }
        let mut sum = 0;
        self.0.fetch(key, 0, i64::MAX, |_, value| {
            sum += value;
            std::ops::ControlFlow::Continue(())
        })?;
        context.forward(record.with_value(sum))
    }
}

#[test]
fn an_event_buffer_forgets_what_expired_and_its_processor_s_time_survives() {
    let mut driver = driver(|builder| {
        let retention = Duration::from_millis(10);
        let buffer = builder.event_buffer("recent", utf8(), int64(), retention);
        builder
            .stream("in", numbers())
            .process("sum", buffer, |buffer| Recent(buffer, None))
            .to_with("out", out());
    });
    pipe(
        &mut driver,
        &[("a", 1, 0), ("a", 2, 0), ("a", 4, 10), ("a", 8, 11)],
    );
    driver.restart().unwrap();
    pipe(&mut driver, &[("a", 16, 11), ("a", 32, 0)]);
    let expected = [
        ("a", 1),
        ("a", 3),
        ("a", 7),
        ("a", 12),
        ("a", 28),
        ("a", 28),
    ];
    assert_eq!(read(&mut driver), pairs(&expected));
}

// --- punctuation ---

/// Counts what it got and tells it at each punctuation, under the schedule's name.
struct Ticker {
    schedule: Vec<Punctuation>,
    counts: KeyValue<String, i64>,
}

impl Processor<String, i64> for Ticker {
    type KOut = String;
    type VOut = i64;

    fn init(&mut self, setup: &mut Setup<'_, '_>) -> Result {
        for punctuation in &self.schedule {
            setup.schedule(*punctuation);
        }
        Ok(())
    }

    fn process(&mut self, record: Record<String, i64>, _: &mut Context<'_, '_>) -> Result {
        let count = self.counts.get(&text("n"))?.unwrap_or(0);
        self.counts.put(&text("n"), &(count + 1), record.timestamp)
    }

    fn punctuate(&mut self, punctuated: Punctuated, context: &mut Context<'_, '_>) -> Result {
        assert_eq!(context.metadata(), None);
        let count = self.counts.get(&text("n"))?.unwrap_or(0);
        let name = match punctuated.schedule {
            Punctuation::StreamTime(_) | Punctuation::StreamTimeFrom { .. } => "stream",
            Punctuation::WallClock(_) | Punctuation::WallClockFrom { .. } => "wall",
            Punctuation::EndOfInput => "end",
        };
        let key = format!("{name}@{}", punctuated.time);
        context.forward(Record::new(key, count, punctuated.time.max(0)))
    }
}

fn ticking(schedule: &'static [Punctuation]) -> impl FnOnce(&StreamsBuilder) {
    move |builder| {
        let counts = builder.key_value_store("counts", utf8(), int64());
        builder
            .stream("in", numbers())
            .process("ticker", counts, |counts| Ticker {
                schedule: schedule.to_vec(),
                counts,
            })
            .to_with("out", out());
    }
}

const EVERY_10_OF_STREAM: Punctuation = Punctuation::StreamTime(Duration::from_millis(10));
const EVERY_10_OF_WALL: Punctuation = Punctuation::WallClock(Duration::from_millis(10));

#[test]
fn stream_time_punctuates_at_the_first_record_and_once_for_each_step_over_the_grid() {
    let mut driver = driver(ticking(&[EVERY_10_OF_STREAM]));
    pipe(
        &mut driver,
        &[
            ("a", 0, 13),
            ("a", 0, 19),
            ("a", 0, 20),
            ("a", 0, 5),
            ("a", 0, 57),
        ],
    );
    let expected = [("stream@13", 1), ("stream@20", 3), ("stream@57", 5)];
    assert_eq!(read(&mut driver), pairs(&expected));
}

#[test]
fn a_restart_neither_repeats_nor_forgets_a_stream_time_punctuation() {
    let mut driver = driver(ticking(&[EVERY_10_OF_STREAM]));
    pipe(&mut driver, &[("a", 0, 13)]);
    driver.restart().unwrap();
    pipe(&mut driver, &[("a", 0, 19)]);
    driver.crash().unwrap();
    pipe(&mut driver, &[("a", 0, 21)]);
    let expected = [("stream@13", 1), ("stream@21", 3)];
    assert_eq!(read(&mut driver), pairs(&expected));
}

#[test]
fn the_wall_clock_punctuates_without_any_record() {
    let mut driver = driver(ticking(&[EVERY_10_OF_WALL]));
    driver.advance_wall_clock(Duration::from_millis(9));
    assert_eq!(read(&mut driver), []);
    driver.advance_wall_clock(Duration::from_millis(1));
    pipe(&mut driver, &[("a", 0, 1_000)]);
    driver.advance_wall_clock(Duration::from_millis(35));
    driver.advance_wall_clock(Duration::from_millis(5));
    let expected = [("wall@10", 0), ("wall@45", 1), ("wall@50", 1)];
    assert_eq!(read(&mut driver), pairs(&expected));
}

#[test]
fn the_end_of_input_comes_at_each_end_of_a_bounded_run_and_state_goes_on_from_there() {
    let mut driver = driver(ticking(&[Punctuation::EndOfInput]));
    pipe(&mut driver, &[("a", 0, 7)]);
    assert_eq!(read(&mut driver), []);
    driver.end_of_input();
    pipe(&mut driver, &[("a", 0, 9)]);
    driver.restart().unwrap();
    driver.end_of_input();
    assert_eq!(read(&mut driver), pairs(&[("end@7", 1), ("end@9", 2)]));
}

#[test]
fn the_end_of_input_reaches_a_processor_after_those_above_it() {
    // What the upper one says at the end must be counted by the lower one before that one says it.
    let mut driver = driver(|builder| {
        let (upper, lower) = (
            builder.key_value_store("upper", utf8(), int64()),
            builder.key_value_store("lower", utf8(), int64()),
        );
        let ticker = |counts| Ticker {
            schedule: vec![Punctuation::EndOfInput],
            counts,
        };
        builder
            .stream("in", numbers())
            .process("upper-ticker", upper, ticker)
            .process("lower-ticker", lower, ticker)
            .to_with("out", out());
    });
    pipe(&mut driver, &[("a", 0, 7)]);
    driver.end_of_input();
    assert_eq!(read(&mut driver), pairs(&[("end@7", 1)]));
}

#[test]
fn the_end_of_input_passes_through_repartition_topics_in_order() {
    let mut driver = driver(|builder| {
        let (upper, lower) = (
            builder.key_value_store("upper", utf8(), int64()),
            builder.key_value_store("lower", utf8(), int64()),
        );
        let ticker = |counts| Ticker {
            schedule: vec![Punctuation::EndOfInput],
            counts,
        };
        builder
            .stream("in", numbers())
            .process("upper-ticker", upper, ticker)
            .repartition("between", utf8(), int64(), None)
            .process("lower-ticker", lower, ticker)
            .to_with("out", out());
    });
    pipe(&mut driver, &[("a", 0, 7)]);
    driver.end_of_input();
    assert_eq!(read(&mut driver), pairs(&[("end@7", 1)]));
}

// --- work larger than a record ---

/// Counts down from each record's value, one step per call.
struct Countdown(KeyValue<String, i64>);

impl Processor<String, i64> for Countdown {
    type KOut = String;
    type VOut = i64;

    fn process(&mut self, record: Record<String, i64>, _: &mut Context<'_, '_>) -> Result {
        self.0.put(&record.key, &record.value, record.timestamp)
    }

    fn resume(&mut self, context: &mut Context<'_, '_>) -> Result<Work> {
        let mut next = None;
        self.0.range(None, None, |key, left, timestamp| {
            next = Some((key, left, timestamp));
            std::ops::ControlFlow::Break(())
        })?;
        let Some((key, left, timestamp)) = next else {
            return Ok(Work::Done);
        };
        if left > 1 {
            self.0.put(&key, &(left - 1), timestamp)?;
        } else {
            self.0.delete(&key, timestamp)?;
        }
        context.forward(Record::new(key, left, timestamp))?;
        Ok(Work::More)
    }
}

#[test]
fn resumed_work_goes_on_until_nothing_is_left_and_after_a_restart() {
    let mut driver = driver(|builder| {
        let left = builder.key_value_store("left", utf8(), int64());
        let stream = builder.stream("in", numbers());
        stream
            .process("countdown", left, Countdown)
            .to_with("out", out());
    });
    pipe(&mut driver, &[("a", 3, 0)]);
    driver.restart().unwrap();
    pipe(&mut driver, &[("b", 1, 0)]);
    let expected = [("a", 3), ("a", 2), ("a", 1), ("b", 1)];
    assert_eq!(read(&mut driver), pairs(&expected));
}

// --- errors ---

/// Refuses negative numbers.
struct Positive;

impl Processor<String, i64> for Positive {
    type KOut = String;
    type VOut = i64;

    fn process(&mut self, record: Record<String, i64>, context: &mut Context<'_, '_>) -> Result {
        if record.value < 0 {
            return Err(Fault::user(
                "positive",
                format!("{} is negative", record.value),
            ));
        }
        context.forward(record)
    }
}

fn positives(builder: &StreamsBuilder) {
    let stream = builder.stream("in", numbers());
    stream
        .process("positive", (), |()| Positive)
        .to_with("out", out());
}

#[test]
fn an_error_of_user_code_names_the_operator_and_the_record() {
    let mut driver = driver(positives);
    pipe(&mut driver, &[("a", 1, 0)]);
    let input = driver.input("in", utf8(), int64());
    let error = input.try_pipe(&mut driver, &text("a"), &-5, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "processing in-0 at offset 1: positive: -5 is negative"
    );
}

#[test]
fn a_failed_record_is_read_again_and_never_passed_over() {
    let mut driver = driver(positives);
    let input = driver.input("in", utf8(), int64());
    pipe(&mut driver, &[("a", 1, 0)]);
    input.try_pipe(&mut driver, &text("a"), &-5, 1).unwrap_err();
    // Neither another attempt nor a restart gets past it.
    let again = input.try_pipe(&mut driver, &text("a"), &2, 2).unwrap_err();
    assert!(again.to_string().contains("in-0 at offset 1"), "{again}");
    let restarted = driver.restart().unwrap_err();
    assert!(
        restarted.to_string().contains("in-0 at offset 1"),
        "{restarted}"
    );
    assert_eq!(read(&mut driver), pairs(&[("a", 1)]));
}

#[test]
fn a_record_that_cannot_be_decoded_fails_with_topic_partition_and_offset() {
    let mut driver = driver(differences);
    pipe(&mut driver, &[("a", 1, 0)]);
    let texts = driver.input("in", utf8(), utf8());
    let error = texts
        .try_pipe(&mut driver, &text("a"), &text("short"), 1)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "processing in-0 at offset 1: the value cannot be decoded: a 64-bit integer has 8 bytes, these are 5"
    );
}

#[test]
fn a_record_without_a_timestamp_fails_like_one_that_cannot_be_decoded() {
    let mut driver = driver(|builder| {
        builder
            .stream("in", numbers().timestamp(|record| record.value))
            .to("out");
    });
    let input = driver.input("in", utf8(), int64());
    let error = input.try_pipe(&mut driver, &text("a"), &-1, 1).unwrap_err();
    assert!(error.to_string().contains("in-0 at offset 0"), "{error}");
    assert!(
        error.to_string().contains("the timestamp -1 is negative"),
        "{error}"
    );
}

#[test]
fn a_bad_record_is_skipped_where_the_configuration_says_so_and_the_commit_goes_past_it() {
    let config = StreamsConfig {
        on_bad_record: OnBadRecord::Skip,
        ..StreamsConfig::new("app")
    };
    let mut driver = TopologyTestDriver::with(topology(differences), config, 1).unwrap();
    let texts = driver.input("in", utf8(), utf8());
    pipe(&mut driver, &[("a", 1, 0)]);
    texts.pipe(&mut driver, text("a"), text("short"), 1);
    pipe(&mut driver, &[("a", 5, 2)]);
    texts.pipe(&mut driver, text("a"), text("short"), 3);
    driver.restart().unwrap();
    assert_eq!(read(&mut driver), pairs(&[("a", 1), ("a", 4)]));
}
