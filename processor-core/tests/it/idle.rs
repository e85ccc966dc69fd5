//! Inputs that are idle: what they no longer hold up, what closes without a record, and what comes after that.

use std::time::Duration;

use processor_core::dsl::{
    Buffer, Consumed, Grouped, JoinWindows, Produced, SessionWindows, StreamsBuilder, TimeWindows,
};
use processor_core::error::Result;
use processor_core::log::{Log, Producer, ProducerConfig, ProducerRecord};
use processor_core::partitioner::partition_for;
use processor_core::processor::{Processor, ProcessorContext, Punctuated, Punctuation, Setup};
use processor_core::serde::{nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{Record, Streams, StreamsConfig, Topology};

use crate::support::driver::{text, topology};
use crate::support::world::World;

const BOUND: Duration = Duration::from_secs(30);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn texts() -> Consumed<String, String> {
    Consumed::new(utf8(), utf8())
}

/// How the inputs of a test are read.
type Rule = fn(Consumed<String, String>) -> Consumed<String, String>;

fn excluded(consumed: Consumed<String, String>) -> Consumed<String, String> {
    consumed.idle_after(BOUND)
}

fn advancing(consumed: Consumed<String, String>) -> Consumed<String, String> {
    consumed.advance_when_idle(BOUND)
}

/// Final counts by value in windows of 10 ms, behind a repartition; values that start with `-` are filtered out before.
fn counts(rule: Rule) -> Topology {
    topology(|builder| {
        let windows = TimeWindows::tumbling(ms(10)).grace(Duration::ZERO);
        let counts = builder
            .stream("in", rule(texts()))
            .filter(|_, value| !value.starts_with('-'))
            .group_by(|_, v| v.clone(), Grouped::by(utf8()))
            .windowed_by(windows)
            .emit_final()
            .count("counts");
        counts
            .to_stream()
            .map(|window, count| (window.key, format!("{}:{count}", window.start)))
            .to_with("out", Produced::new(utf8(), utf8()));
        counts
            .late()
            .map_values(|_, late| format!("{} at {}", late.window_start, late.stream_time))
            .to_with("late", Produced::new(utf8(), utf8()));
    })
}

fn config() -> StreamsConfig {
    StreamsConfig {
        instance: Some("one".to_owned()),
        ..StreamsConfig::new("app")
    }
}

/// An application on a log whose topics have two partitions each, that may be started again after each step.
struct App {
    world: World,
    topology: Topology,
    streams: Option<Streams>,
    restarts: bool,
}

impl App {
    fn new(topology: Topology, restarts: bool) -> Self {
        let world = World::new(&[("in", 2), ("out", 2), ("late", 2)]);
        let streams = Some(world.streams(&topology, config()));
        let mut app = Self {
            world,
            topology,
            streams,
            restarts,
        };
        app.run();
        app
    }

    fn run(&mut self) {
        self.streams.as_mut().unwrap().run_to_end().unwrap();
        if self.restarts {
            // Dropped where it stands, as if its process were killed.
            self.streams = None;
            let streams = self.world.streams(&self.topology, config());
            self.streams.insert(streams).run_to_end().unwrap();
        }
    }

    fn write(&mut self, partition: i32, value: &str, time: i64) {
        self.world
            .write("in", partition, Some("k"), Some(value), time);
        self.run();
    }

    fn pass(&mut self, time: Duration) {
        self.world.clock.advance(time);
        self.run();
    }

    fn read(&self, topic: &str) -> String {
        self.world.read_values(topic).join(" ")
    }
}

/// A value that lands in the first of two partitions, and one that lands in the second.
fn values() -> [&'static str; 2] {
    let of = |partition| {
        let candidates = ["a", "b", "c", "d", "e", "f"];
        let lands = |value: &&str| partition_for(value.as_bytes(), 2) == partition;
        candidates.into_iter().find(lands).unwrap()
    };
    [of(0), of(1)]
}

#[test]
fn an_upstream_partition_that_never_had_a_record_holds_time_up_until_it_is_idle() {
    let [here, _] = values();
    for restarts in [false, true] {
        let mut app = App::new(counts(excluded), restarts);
        app.write(0, here, 3);
        app.write(0, here, 1_000);
        assert_eq!(app.read("out"), "");
        app.pass(BOUND - ms(1));
        assert_eq!(app.read("out"), "");
        // After a restart the clock starts anew.
        app.pass(if restarts { BOUND } else { ms(1) });
        assert_eq!(app.read("out"), "0:1", "restarts: {restarts}");
        // All inputs are idle now, but time stands at what records had.
        app.pass(10 * BOUND);
        assert_eq!(app.read("out"), "0:1");
    }
}

#[test]
fn an_idle_partition_that_comes_back_is_waited_for_and_late_where_time_has_gone_on() {
    let [here, _] = values();
    for restarts in [false, true] {
        let mut app = App::new(counts(excluded), restarts);
        app.write(0, here, 1_000);
        app.pass(BOUND);
        app.write(0, here, 1_010);
        assert_eq!(app.read("out"), "1000:1", "restarts: {restarts}");
        // Late, since time is 1,010 now. It does not go back; but the slow one is waited for again.
        app.write(1, here, 5);
        assert_eq!(app.read("late"), "0 at 1010");
        app.write(0, here, 2_000);
        app.write(1, here, 1_020);
        assert_eq!(app.read("out"), "1000:1 1010:1");
        app.write(1, here, 2_010);
        assert_eq!(app.read("out"), "1000:1 1010:1 1020:1", "{restarts}");
        assert_eq!(app.read("late"), "0 at 1010");
    }
}

#[test]
fn a_filtered_record_ends_idleness_as_well() {
    let [here, _] = values();
    let mut app = App::new(counts(excluded), false);
    app.write(0, here, 1_000);
    app.pass(BOUND);
    // Nothing of it comes through the repartition, but the input is no longer idle, so nothing closes.
    app.write(1, "-", 5);
    app.write(0, here, 2_000);
    assert_eq!(app.read("out"), "");
    app.pass(BOUND);
    assert_eq!(app.read("out"), "1000:1");
}

#[test]
fn an_input_with_an_open_transaction_is_not_idle() {
    let [here, _] = values();
    let mut app = App::new(counts(excluded), false);
    app.write(0, here, 3);
    app.write(0, here, 1_000);
    let transactional = ProducerConfig {
        transactional_id: Some("slow".to_owned()),
        ..Default::default()
    };
    let mut producer: Box<dyn Producer> = app.world.log.producer(transactional).unwrap();
    producer.init_transactions(BOUND).unwrap();
    producer.begin_transaction().unwrap();
    let record = ProducerRecord {
        topic: "in",
        partition: 1,
        timestamp: 4,
        key: Some(b"k"),
        value: Some(here.as_bytes()),
        headers: &[],
    };
    producer.send(record).unwrap();
    producer.flush(BOUND).unwrap();
    app.pass(BOUND);
    assert_eq!(app.read("out"), "", "its record may yet come");
    producer.begin_commit(vec![], None).unwrap();
    producer.poll_commit(BOUND).unwrap();
    app.run();
    app.pass(BOUND);
    assert_eq!(app.read("out"), "0:2");
    assert_eq!(app.read("late"), "");
}

#[test]
fn idleness_passes_two_repartitions_in_a_row() {
    let [here, there] = values();
    for restarts in [false, true] {
        let two = topology(|builder| {
            let windows = TimeWindows::tumbling(ms(10)).grace(Duration::ZERO);
            builder
                .stream("in", excluded(texts()))
                .select_key(|_, value| value.clone())
                .repartition("first", utf8(), utf8(), None)
                .group_by(|_, _| "all".to_owned(), Grouped::by(utf8()))
                .windowed_by(windows)
                .emit_final()
                .count("counts")
                .to_stream()
                .map(|window, count| (window.key, format!("{}:{count}", window.start)))
                .to_with("out", Produced::new(utf8(), utf8()));
        });
        let mut app = App::new(two, restarts);
        for (value, time) in [(here, 1), (here, 1_000)] {
            app.write(0, value, time);
        }
        app.pass(BOUND);
        assert_eq!(app.read("out"), "0:1", "restarts: {restarts}");
        app.write(1, there, 1_001);
        app.write(0, there, 1_002);
        app.pass(BOUND);
        assert_eq!(app.read("out"), "0:1", "restarts: {restarts}");
        // The others are left out, so it closes at once.
        app.write(0, there, 2_000);
        assert_eq!(app.read("out"), "0:1 1000:3", "restarts: {restarts}");
    }
}

#[test]
fn time_that_goes_on_closes_windows_behind_a_repartition_in_every_partition() {
    let [here, there] = values();
    for restarts in [false, true] {
        let mut app = App::new(counts(advancing), restarts);
        app.write(0, here, 1_000);
        app.write(0, there, 1_001);
        app.pass(BOUND);
        assert_eq!(app.read("out"), "1000:1 1000:1", "restarts: {restarts}");
        // The second partition of the input never had a record, and is as late as any.
        app.write(1, here, 1_002);
        assert_eq!(app.read("late"), "1000 at 31001", "restarts: {restarts}");
        app.write(0, here, 31_005);
        app.write(1, here, 31_005);
        app.pass(BOUND);
        assert!(app.read("out").contains("31000:2"), "{restarts}");
    }
}

#[test]
fn without_a_rule_no_clock_closes_anything() {
    let [here, _] = values();
    let mut app = App::new(counts(|consumed| consumed), false);
    app.write(0, here, 3);
    app.write(0, here, 1_000);
    app.pass(100 * BOUND);
    assert_eq!(app.read("out"), "");
}

#[test]
fn the_end_of_a_bounded_run_closes_nothing_that_is_held_back() {
    // What an end of input closes would have to stay closed, and a later run may have more.
    let [here, _] = values();
    let mut app = App::new(counts(|consumed| consumed), false);
    app.write(0, here, 3);
    app.write(0, here, 1_000);
    assert_eq!(app.read("out"), "");
    app.write(1, here, 4);
    app.write(1, here, 1_000);
    assert_eq!((app.read("out"), app.read("late")), (text("0:2"), text("")));
}

fn driver(describe: impl FnOnce(&StreamsBuilder)) -> TopologyTestDriver {
    TopologyTestDriver::with(topology(describe), config(), 1).unwrap()
}

fn pipe(driver: &mut TopologyTestDriver, topic: &str, key: &str, time: i64) {
    let input = driver.input(topic, utf8(), utf8());
    input.pipe(driver, text(key), text(key), time);
}

fn read(driver: &mut TopologyTestDriver, topic: &str) -> String {
    let output = driver.output(topic, utf8(), nullable(utf8()));
    let records = output.read(driver).into_iter();
    let show = |r: Record<String, Option<String>>| {
        format!("{}={}@{}", r.key, r.value.unwrap_or_default(), r.timestamp)
    };
    records.map(show).collect::<Vec<_>>().join(" ")
}

#[test]
fn sessions_and_suppressed_tables_close_as_time_goes_on() {
    let mut driver = driver(|builder| {
        let grouped = builder.stream("in", advancing(texts())).group_by_key();
        let sessions = SessionWindows::gap(ms(10)).grace(Duration::ZERO);
        grouped
            .windowed_by_session(sessions)
            .emit_final()
            .count("sessions")
            .to_stream()
            .map(|window, count| (window.key, count.map(|n| format!("session:{n}"))))
            .to_with("out", Produced::new(utf8(), nullable(utf8())));
        grouped
            .windowed_by(TimeWindows::tumbling(ms(10)).grace(ms(10)))
            .count("windows")
            .table()
            .suppress_until_window_closes("final", Buffer::unbounded())
            .to_stream()
            .map(|window, count| (window.key, count.map(|n| format!("window:{n}"))))
            .to_with("out-2", Produced::new(utf8(), nullable(utf8())));
    });
    pipe(&mut driver, "in", "a", 100);
    pipe(&mut driver, "in", "a", 105);
    driver.advance_wall_clock(BOUND);
    assert_eq!(read(&mut driver, "out"), "a=session:2@105");
    assert_eq!(read(&mut driver, "out-2"), "a=window:2@105");
    driver.advance_wall_clock(BOUND);
    assert_eq!(read(&mut driver, "out") + &read(&mut driver, "out-2"), "");
}

/// A left join of "left" and "right" within 10 ms.
fn join(left: Rule, right: Rule) -> TopologyTestDriver {
    driver(|builder| {
        let (left, right) = (
            builder.stream("left", left(texts())),
            builder.stream("right", right(texts())),
        );
        let windows = JoinWindows::of(ms(10)).grace(Duration::ZERO);
        let joined = left.left_join("join", &right, windows, |_, l, r| {
            format!("{l}+{}", r.unwrap_or_default())
        });
        joined.to_with("out", Produced::new(utf8(), utf8()));
        joined
            .late_right()
            .map_values(|_, late| late.stream_time.to_string())
            .to_with("late", Produced::new(utf8(), utf8()));
    })
}

#[test]
fn a_join_gives_up_when_both_of_its_inputs_are_idle() {
    // An input that only ceases to be waited for lets the other one go on; one without a rule does not.
    let rules: [(Rule, bool); 3] = [(advancing, true), (excluded, true), (|c| c, false)];
    for (right, gives_up) in rules {
        let mut driver = join(advancing, right);
        pipe(&mut driver, "right", "b", 50);
        pipe(&mut driver, "left", "a", 100);
        driver.advance_wall_clock(BOUND);
        let expected = if gives_up { "a=a+@100" } else { "" };
        assert_eq!(read(&mut driver, "out"), expected);
        driver.crash().unwrap();
        pipe(&mut driver, "right", "a", 105);
        let (out, late) = (read(&mut driver, "out"), read(&mut driver, "late"));
        if gives_up {
            assert_eq!((out.as_str(), late.as_str()), ("", "a=30100@105"));
        } else {
            assert_eq!((out.as_str(), late.as_str()), ("a=a+a@105", ""));
        }
    }
}

#[test]
fn an_input_is_not_idle_while_the_other_one_has_records() {
    let mut driver = join(advancing, advancing);
    pipe(&mut driver, "left", "a", 100);
    driver.advance_wall_clock(BOUND - ms(1));
    pipe(&mut driver, "right", "b", 101);
    driver.advance_wall_clock(ms(1));
    assert_eq!(read(&mut driver, "out"), "");
    driver.advance_wall_clock(BOUND - ms(1));
    assert_eq!(read(&mut driver, "out"), "a=a+@100");
}

/// Tells the stream time at each of its multiples of 10 s.
struct Ticks;

impl Processor<String, String> for Ticks {
    type KOut = String;
    type VOut = String;

    fn init(&mut self, setup: &mut Setup<'_, '_>) -> Result {
        setup.schedule(Punctuation::StreamTime(Duration::from_secs(10)));
        Ok(())
    }

    fn process(
        &mut self,
        _: Record<String, String>,
        _: &mut ProcessorContext<'_, '_, String, String>,
    ) -> Result {
        Ok(())
    }

    fn punctuate(
        &mut self,
        punctuated: Punctuated,
        context: &mut ProcessorContext<'_, '_, String, String>,
    ) -> Result {
        context.forward(Record::new(text("tick"), text(""), punctuated.time))
    }
}

#[test]
fn stream_time_punctuations_fire_as_time_goes_on_and_not_twice_after_a_crash() {
    let mut driver = driver(|builder| {
        builder
            .stream("in", advancing(texts()))
            .process("ticks", (), |()| Ticks)
            .to_with("out", Produced::new(utf8(), utf8()));
    });
    pipe(&mut driver, "in", "a", 1_000);
    driver.advance_wall_clock(BOUND);
    assert_eq!(read(&mut driver, "out"), "tick=@1000 tick=@31000");
    driver.crash().unwrap();
    driver.advance_wall_clock(BOUND - ms(1));
    assert_eq!(read(&mut driver, "out"), "", "the clock starts anew");
    driver.advance_wall_clock(ms(1));
    assert_eq!(read(&mut driver, "out"), "tick=@61000");
}
