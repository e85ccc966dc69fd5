//! Timers of keys, schedules that come and go, and commits that a processor asks for.

use std::time::Duration;

use processor_core::dsl::{Produced, StreamsBuilder};
use processor_core::error::{Fault, Result};
use processor_core::processor::{
    Fired, Processor, ProcessorContext, Punctuated, Punctuation, ScheduleId, Setup, Timer, Timers,
};
use processor_core::serde::{bytes, int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{OnBadRecord, Record, StreamsConfig, Topology};
use proptest::prelude::*;

use crate::support::driver::{driver, nullable_numbers, numbers, pairs, text, topology};
use crate::support::world::World;

type Context<'a, 'c> = ProcessorContext<'a, 'c, String, i64>;

fn pipe(driver: &mut TopologyTestDriver, input: &[(&str, i64, i64)]) {
    let topic = driver.input("in", utf8(), int64());
    for (key, value, timestamp) in input {
        topic.pipe(driver, text(key), *value, *timestamp);
    }
}

fn read(driver: &mut TopologyTestDriver) -> Vec<(String, i64)> {
    let output = driver.output("out", utf8(), int64());
    output.read_key_values(driver)
}

fn out() -> Produced<String, i64> {
    Produced::new(utf8(), int64())
}

// --- timers of keys ---

/// A positive value sets an event timer at that time, one from −1,000 down cancels one, and any in between sets a
/// wall-clock timer. Forwards each record as `-`, and each timer that fires as `key@clock`, with the time now.
struct Alarm(Timers<String>);

impl Processor<String, i64> for Alarm {
    type KOut = String;
    type VOut = i64;

    fn process(&mut self, record: Record<String, i64>, context: &mut Context<'_, '_>) -> Result {
        match record.value {
            time @ 0.. => self.0.set(&record.key, Timer::EventTime(time))?,
            time @ -999..0 => self.0.set(&record.key, Timer::WallClock(-time))?,
            time => {
                let was_set = self
                    .0
                    .cancel(&record.key, Timer::EventTime(-time - 1_000))?;
                return context.forward(Record::new(text("cancelled"), i64::from(was_set), 0));
            }
        }
        context.forward(record.with_key(text("-")))
    }

    fn on_timer(&mut self, timer: Fired<String>, context: &mut Context<'_, '_>) -> Result {
        let (clock, time) = match timer.timer {
            Timer::EventTime(time) => ("event", time),
            Timer::WallClock(time) => ("wall", time),
        };
        let key = format!("{}@{clock}{time}", timer.key);
        context.forward(Record::new(key, timer.now, timer.now.max(0)))
    }
}

fn alarms(builder: &StreamsBuilder) {
    let timers = builder.timers("alarms", utf8());
    let stream = builder.stream("in", numbers());
    stream.process("alarm", timers, Alarm).to_with("out", out());
}

#[test]
fn event_timers_fire_once_after_the_record_that_moved_time_by_time_then_key() {
    let mut driver = driver(alarms);
    let set = [("b", 10, 0), ("a", 10, 0), ("c", 5, 0), ("a", 10, 1)];
    pipe(&mut driver, &set);
    pipe(&mut driver, &[("x", 99, 9), ("y", 99, 10), ("z", 99, 50)]);
    let expected = [
        ("-", 10),
        ("-", 10),
        ("-", 5),
        ("-", 10),
        ("-", 99),
        ("c@event5", 9),
        ("-", 99),
        ("a@event10", 10),
        ("b@event10", 10),
        ("-", 99),
    ];
    assert_eq!(read(&mut driver), pairs(&expected));
}

#[test]
fn a_timer_whose_time_has_come_fires_after_the_record_that_sets_it() {
    let mut driver = driver(alarms);
    pipe(&mut driver, &[("a", 7, 20), ("b", 20, 3)]);
    let expected = [("-", 7), ("a@event7", 20), ("-", 20), ("b@event20", 20)];
    assert_eq!(read(&mut driver), pairs(&expected));
}

/// Sets a timer for the time it is, at each punctuation.
struct SetsAtPunctuation(Timers<String>);

impl Processor<String, i64> for SetsAtPunctuation {
    type KOut = String;
    type VOut = i64;

    fn init(&mut self, setup: &mut Setup<'_, '_>) -> Result {
        setup.schedule(Punctuation::StreamTime(Duration::from_millis(10)));
        Ok(())
    }

    fn process(&mut self, _: Record<String, i64>, _: &mut Context<'_, '_>) -> Result {
        Ok(())
    }

    fn punctuate(&mut self, punctuated: Punctuated, context: &mut Context<'_, '_>) -> Result {
        context.forward(Record::new(text("punctuated"), punctuated.time, 0))?;
        self.0.set(&text("a"), Timer::EventTime(punctuated.time))
    }

    fn on_timer(&mut self, timer: Fired<String>, context: &mut Context<'_, '_>) -> Result {
        context.forward(Record::new(timer.key, timer.now, 0))
    }
}

#[test]
fn a_timer_whose_time_has_come_fires_after_the_punctuation_that_sets_it() {
    let mut driver = driver(|builder| {
        let timers = builder.timers("alarms", utf8());
        let stream = builder.stream("in", numbers());
        let processed = stream.process("alarm", timers, SetsAtPunctuation);
        processed.to_with("out", out());
    });
    pipe(&mut driver, &[("x", 0, 3), ("x", 0, 9), ("x", 0, 12)]);
    let expected = [("punctuated", 3), ("a", 3), ("punctuated", 12), ("a", 12)];
    assert_eq!(read(&mut driver), pairs(&expected));
}

#[test]
fn a_timer_that_is_cancelled_does_not_fire_and_says_whether_it_was_set() {
    let mut driver = driver(alarms);
    pipe(&mut driver, &[("a", 10, 0), ("b", 10, 0), ("a", -1_010, 1)]);
    pipe(&mut driver, &[("a", -1_010, 2), ("x", 99, 10)]);
    let expected = [
        ("-", 10),
        ("-", 10),
        ("cancelled", 1),
        ("cancelled", 0),
        ("-", 99),
        ("b@event10", 10),
    ];
    assert_eq!(read(&mut driver), pairs(&expected));
}

#[test]
fn wall_clock_timers_fire_without_records_and_event_time_does_not_move_them() {
    let mut driver = driver(alarms);
    pipe(&mut driver, &[("b", -10, 0), ("a", -10, 0), ("c", -5, 500)]);
    read(&mut driver);
    driver.advance_wall_clock(Duration::from_millis(4));
    assert_eq!(read(&mut driver), []);
    driver.advance_wall_clock(Duration::from_millis(1));
    assert_eq!(read(&mut driver), pairs(&[("c@wall5", 5)]));
    driver.advance_wall_clock(Duration::from_millis(30));
    let both = [("a@wall10", 35), ("b@wall10", 35)];
    assert_eq!(read(&mut driver), pairs(&both));
    driver.advance_wall_clock(Duration::from_millis(30));
    assert_eq!(read(&mut driver), []);
}

#[test]
fn timers_and_the_time_they_go_by_survive_restarts_and_crashes() {
    let mut driver = driver(alarms);
    pipe(&mut driver, &[("a", 10, 0), ("b", 20, 8), ("c", -10, 8)]);
    driver.restart().unwrap();
    pipe(&mut driver, &[("d", 12, 11)]);
    driver.crash().unwrap();
    driver.advance_wall_clock(Duration::from_millis(10));
    // Time stands at 11: an old record does not take it back, and fires nothing again.
    pipe(&mut driver, &[("e", 11, 2), ("f", 99, 20)]);
    let expected = [
        ("-", 10),
        ("-", 20),
        ("-", -10),
        ("-", 12),
        ("a@event10", 11),
        ("c@wall10", 10),
        ("-", 11),
        ("e@event11", 11),
        ("-", 99),
        ("d@event12", 20),
        ("b@event20", 20),
    ];
    assert_eq!(read(&mut driver), pairs(&expected));
}

#[test]
fn event_timers_fire_while_the_input_is_idle_and_its_time_goes_on() {
    let mut driver = driver(|builder| {
        let timers = builder.timers("alarms", utf8());
        let second = Duration::from_secs(1);
        let stream = builder.stream("in", numbers().advance_when_idle(second));
        stream.process("alarm", timers, Alarm).to_with("out", out());
    });
    pipe(&mut driver, &[("a", 1_500, 0), ("b", 9_000, 0)]);
    assert_eq!(read(&mut driver), pairs(&[("-", 1_500), ("-", 9_000)]));
    for _ in 0..4 {
        driver.advance_wall_clock(Duration::from_secs(1));
    }
    let fired = read(&mut driver);
    assert_eq!(fired.len(), 1, "{fired:?}");
    assert_eq!(fired[0].0, "a@event1500");
    assert!((1_500..9_000).contains(&fired[0].1), "{fired:?}");
}

#[test]
fn what_fired_leaves_nothing_in_the_changelog_but_tombstones() {
    let mut driver = driver(alarms);
    pipe(&mut driver, &[("a", 10, 0), ("x", 99, 10)]);
    let changelog = driver.output("test-alarms-changelog", bytes(), nullable(bytes()));
    let mut left = std::collections::BTreeMap::new();
    for record in changelog.read(&mut driver) {
        match record.value {
            Some(value) => left.insert(record.key, value),
            None => left.remove(&record.key),
        };
    }
    let rows: Vec<Vec<u8>> = left.into_keys().collect();
    assert_eq!(rows, [b"\0\x80\0\0\0\0\0\0\x63x".to_vec()]);
}

#[test]
fn a_timer_of_a_null_key_is_refused_and_its_record_handled() {
    struct OfNull(Timers<Option<String>>);
    impl Processor<Option<String>, Option<i64>> for OfNull {
        type KOut = String;
        type VOut = i64;
        fn process(
            &mut self,
            record: Record<Option<String>, Option<i64>>,
            _: &mut Context<'_, '_>,
        ) -> Result {
            self.0.set(&record.key, Timer::EventTime(5))
        }
    }
    let topology = topology(|builder| {
        let timers = builder.timers("alarms", nullable(utf8()));
        let stream = builder.stream("in", nullable_numbers());
        stream.process("alarm", timers, OfNull);
    });
    let mut driver = TopologyTestDriver::new(topology).unwrap();
    let input = driver.input("in", nullable(utf8()), nullable(int64()));
    let error = input.try_pipe(&mut driver, &None, &Some(1), 0).unwrap_err();
    assert!(
        error.to_string().contains("a null key can have no timer"),
        "{error}"
    );
}

#[test]
fn timers_with_keys_of_another_type_and_two_sets_of_them_are_refused() {
    struct Any;
    impl Processor<String, i64> for Any {
        type KOut = String;
        type VOut = i64;
        fn process(&mut self, _: Record<String, i64>, _: &mut Context<'_, '_>) -> Result {
            Ok(())
        }
    }
    let builder = StreamsBuilder::new("under-test");
    let stores = (
        builder.timers("one", int64()),
        builder.timers("two", utf8()),
    );
    builder
        .stream("in", numbers())
        .process("any", stores, |_| Any);
    let Err(error) = builder.build() else {
        panic!("it was built");
    };
    assert_eq!(
        error.problems,
        [
            "processor 'any' has several sets of timers; one holds those of both clocks",
            "the timers of processor 'any' have keys of another type than its records",
        ]
    );
}

#[test]
fn behind_a_repartition_the_slowest_upstream_task_moves_the_time_of_timers() {
    let topology = topology(|builder| {
        let timers = builder.timers("alarms", utf8());
        builder
            .stream("in", numbers())
            .repartition("between", utf8(), int64(), Some(1))
            .process("alarm", timers, Alarm)
            .to_with("out", out());
    });
    let world = World::new(&[("in", 2), ("out", 1)]);
    let mut streams = world.streams(&topology, StreamsConfig::new("app"));
    let mut write = |partition, key, value: i64, timestamp| {
        let value = value.to_be_bytes();
        let mut producer =
            processor_core::log::Log::producer(&world.log, Default::default()).unwrap();
        let record = processor_core::log::ProducerRecord {
            topic: "in",
            partition,
            timestamp,
            key: Some(key),
            value: Some(&value),
            headers: &[],
        };
        producer.send(record).unwrap();
        producer.flush(Duration::from_secs(1)).unwrap();
        streams.run_to_end().unwrap();
        world.read("out").len()
    };
    assert_eq!(write(0, b"a", 10, 0), 1, "the record");
    assert_eq!(
        write(0, b"a", 999, 500),
        2,
        "the other partition is at nothing yet"
    );
    assert_eq!(write(1, b"b", 999, 9), 3, "and then at 9");
    assert_eq!(write(1, b"b", 999, 10), 5, "a record, and the timer of 10");
}

#[test]
fn an_event_timer_that_fails_fails_the_record_that_moved_time() {
    struct Fails(Timers<String>);
    impl Processor<String, i64> for Fails {
        type KOut = String;
        type VOut = i64;
        fn process(&mut self, record: Record<String, i64>, c: &mut Context<'_, '_>) -> Result {
            self.0.set(&record.key, Timer::EventTime(record.value))?;
            c.forward(record)
        }
        fn on_timer(&mut self, timer: Fired<String>, context: &mut Context<'_, '_>) -> Result {
            match timer.now {
                13 => Err(Fault::user("alarm", "an unlucky time")),
                now => context.forward(Record::new(timer.key, now, now)),
            }
        }
    }
    let topology = topology(|builder| {
        let timers = builder.timers("alarms", utf8());
        let stream = builder.stream("in", numbers());
        stream.process("alarm", timers, Fails).to_with("out", out());
    });
    let config = StreamsConfig {
        on_processing_error: OnBadRecord::Skip,
        ..StreamsConfig::new("app")
    };
    let mut driver = TopologyTestDriver::with(topology, config, 1).unwrap();
    pipe(&mut driver, &[("a", 10, 0), ("b", 99, 13), ("c", 99, 14)]);
    // As if there had been no b: the timer of a waits for c.
    let expected = [("a", 10), ("c", 99), ("a", 14)];
    assert_eq!(read(&mut driver), pairs(&expected));
}

/// What `Alarm` has to say about event timers alone, worked out from a plain list.
fn expected_of(input: &[(usize, i64, i64)]) -> Vec<(String, i64)> {
    let mut waiting: Vec<(i64, String)> = Vec::new();
    let (mut now, mut output) = (-1, Vec::new());
    for (key, time, timestamp) in input {
        now = now.max(*timestamp);
        waiting.push((*time, format!("k{key}")));
        waiting.sort();
        waiting.dedup();
        output.push((text("-"), *time));
        let due: Vec<_> = waiting.extract_if(.., |(time, _)| *time <= now).collect();
        output.extend(
            due.into_iter()
                .map(|(time, key)| (format!("{key}@event{time}"), now)),
        );
    }
    output
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn event_timers_fire_as_a_plain_list_says_over_restarts_and_crashes(
        input in prop::collection::vec((0..4usize, 0..40i64, 0..40i64), 1..30),
        interruptions in prop::collection::vec(0..6u8, 30),
    ) {
        let mut driver = driver(alarms);
        for ((key, time, timestamp), interruption) in input.iter().zip(interruptions) {
            pipe(&mut driver, &[(&format!("k{key}"), *time, *timestamp)]);
            match interruption {
                0 => driver.restart().unwrap(),
                1 => driver.crash().unwrap(),
                _ => {}
            }
        }
        prop_assert_eq!(read(&mut driver), expected_of(&input));
    }
}

// --- schedules ---

/// Schedules every 10 ms of stream time at a 1, cancels that at a 0; tells of each punctuation.
#[derive(Default)]
struct OnDemand {
    schedule: Option<ScheduleId>,
    fires_once: bool,
}

impl Processor<String, i64> for OnDemand {
    type KOut = String;
    type VOut = i64;

    fn process(&mut self, record: Record<String, i64>, context: &mut Context<'_, '_>) -> Result {
        match record.value {
            1 => {
                let every_10 = Punctuation::StreamTime(Duration::from_millis(10));
                self.schedule = Some(context.schedule(every_10));
                Ok(())
            }
            0 => {
                let cancelled = self
                    .schedule
                    .is_some_and(|schedule| context.cancel(schedule));
                context.forward(Record::new(text("cancelled"), i64::from(cancelled), 0))
            }
            _ => Ok(()),
        }
    }

    fn punctuate(&mut self, punctuated: Punctuated, context: &mut Context<'_, '_>) -> Result {
        assert_eq!(Some(punctuated.id), self.schedule);
        if self.fires_once {
            context.cancel(punctuated.id);
        }
        context.forward(Record::new(text("at"), punctuated.time, punctuated.time))
    }
}

#[test]
fn a_schedule_made_and_cancelled_between_records_fires_in_between() {
    let mut driver = driver(|builder| {
        let stream = builder.stream("in", numbers());
        let processed = stream.process("on-demand", (), |()| OnDemand::default());
        processed.to_with("out", out());
    });
    let input = [
        ("a", 7, 3),
        ("a", 1, 12),
        ("a", 7, 19),
        ("a", 7, 20),
        ("a", 7, 45),
    ];
    pipe(&mut driver, &input);
    pipe(&mut driver, &[("a", 0, 46), ("a", 0, 46), ("a", 7, 99)]);
    let expected = [("at", 20), ("at", 45), ("cancelled", 1), ("cancelled", 0)];
    assert_eq!(read(&mut driver), pairs(&expected));
}

#[test]
fn a_punctuation_may_cancel_its_own_schedule() {
    let mut driver = driver(|builder| {
        let once = || OnDemand {
            fires_once: true,
            ..OnDemand::default()
        };
        let stream = builder.stream("in", numbers());
        stream
            .process("on-demand", (), move |()| once())
            .to_with("out", out());
    });
    pipe(&mut driver, &[("a", 1, 0), ("a", 7, 10), ("a", 7, 99)]);
    assert_eq!(read(&mut driver), pairs(&[("at", 10)]));
}

/// Tells of its anchored schedules.
struct Anchored;

impl Processor<String, i64> for Anchored {
    type KOut = String;
    type VOut = i64;

    fn init(&mut self, setup: &mut Setup<'_, '_>) -> Result {
        let interval = Duration::from_millis(10);
        setup.schedule(Punctuation::StreamTimeFrom {
            start: 13,
            interval,
        });
        setup.schedule(Punctuation::WallClockFrom {
            start: 25,
            interval,
        });
        Ok(())
    }

    fn process(&mut self, _: Record<String, i64>, _: &mut Context<'_, '_>) -> Result {
        Ok(())
    }

    fn punctuate(&mut self, punctuated: Punctuated, context: &mut Context<'_, '_>) -> Result {
        let clock = match punctuated.schedule {
            Punctuation::StreamTimeFrom { .. } => "stream",
            _ => "wall",
        };
        context.forward(Record::new(text(clock), punctuated.time, punctuated.time))
    }
}

#[test]
fn anchored_schedules_fire_on_their_own_grid_and_go_on_with_it_after_a_restart() {
    let mut driver = driver(|builder| {
        let stream = builder.stream("in", numbers());
        stream
            .process("anchored", (), |()| Anchored)
            .to_with("out", out());
    });
    pipe(&mut driver, &[("a", 0, 12), ("a", 0, 13), ("a", 0, 22)]);
    driver.advance_wall_clock(Duration::from_millis(24));
    driver.advance_wall_clock(Duration::from_millis(1));
    driver.restart().unwrap();
    driver.advance_wall_clock(Duration::from_millis(9));
    driver.advance_wall_clock(Duration::from_millis(1));
    pipe(&mut driver, &[("a", 0, 23)]);
    // The start fires anew where the application starts at an instant of the grid, since nobody remembers wall clocks.
    let expected = [
        ("stream", 13),
        ("wall", 25),
        ("wall", 25),
        ("wall", 35),
        ("stream", 23),
    ];
    assert_eq!(read(&mut driver), pairs(&expected));
}

// --- commits ---

/// Asks for a commit at `commit`, fails at `fail`, forwards the rest.
struct Asking;

impl Processor<String, String> for Asking {
    type KOut = String;
    type VOut = String;

    fn process(
        &mut self,
        record: Record<String, String>,
        context: &mut ProcessorContext<'_, '_, String, String>,
    ) -> Result {
        match record.value.as_str() {
            "commit" => context.commit(),
            "fail" => return Err(Fault::user("asking", "as it was told")),
            _ => {}
        }
        context.forward(record)
    }
}

fn asking() -> Topology {
    topology(|builder| {
        let texts = processor_core::dsl::Consumed::new(utf8(), utf8());
        let stream = builder.stream("in", texts);
        let processed = stream.process("asking", (), |()| Asking);
        processed.to_with("out", Produced::new(utf8(), utf8()));
    })
}

#[test]
fn a_processor_that_asks_for_a_commit_gets_one_behind_the_record_at_hand() {
    let after_failure = |values: &[&str]| {
        let world = World::new(&[("in", 1), ("out", 1)]);
        for value in values {
            world.write("in", 0, Some("k"), Some(value), 0);
        }
        let config = StreamsConfig {
            commit_interval: Duration::from_secs(3_600),
            ..StreamsConfig::new("app")
        };
        let mut streams = world.streams(&asking(), config);
        assert!(streams.run_to_end().is_err());
        world.read_values("out")
    };
    assert_eq!(after_failure(&["a", "b", "fail"]), [""; 0]);
    assert_eq!(
        after_failure(&["a", "commit", "b", "fail"]),
        ["a", "commit"]
    );
}
