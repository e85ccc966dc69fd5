//! Joins of many streams: by hand at the borders, and against a model on random input.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use processor_core::dsl::{Consumed, JoinAllWindow, KStream, Late, Produced, StreamsBuilder};
use processor_core::log::Header;
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{Record, StreamsConfig};
use proptest::prelude::*;

use crate::support::driver::{driver, numbers, text, topology};
use crate::windowed::LateText;

const WINDOW_MS: i64 = 10;
const GRACE_MS: i64 = 5;
const TOPICS: [&str; 3] = ["bids", "views", "clicks"];

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn window() -> JoinAllWindow {
    JoinAllWindow::of(ms(WINDOW_MS)).grace(ms(GRACE_MS))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Inner,
    Outer,
}

fn shown(parts: [Option<i64>; 3]) -> String {
    let one = |part: Option<i64>| part.map_or_else(|| text("-"), |value| value.to_string());
    parts.map(one).join("+")
}

/// Results go to "out", late records to "late-bids" and so on.
fn describe(kind: Kind, window: JoinAllWindow) -> impl Fn(&StreamsBuilder) {
    move |builder| {
        let [bids, views, clicks] = TOPICS.map(|topic| builder.stream(topic, numbers()));
        join(&bids, &views, &clicks, kind, window);
    }
}

fn join(
    bids: &KStream<String, i64>,
    views: &KStream<String, i64>,
    clicks: &KStream<String, i64>,
    kind: Kind,
    window: JoinAllWindow,
) {
    let out = Produced::new(utf8(), utf8());
    let late = match kind {
        Kind::Inner => {
            let joined = bids.join_all("join", (views, clicks), window);
            joined
                .map_values(|_, (b, v, c)| shown([Some(b), Some(v), Some(c)]))
                .to_with("out", out);
            joined.late().clone()
        }
        Kind::Outer => {
            let joined = bids.outer_join_all("join", (views, clicks), window);
            joined
                .map_values(|_, (b, v, c)| shown([b, v, c]))
                .to_with("out", out);
            joined.late().clone()
        }
    };
    let to = |late: KStream<String, Late<i64>>, topic: &str| {
        late.to_with(topic, Produced::new(utf8(), LateText));
    };
    to(late.0, "late-bids");
    to(late.1, "late-views");
    to(late.2, "late-clicks");
}

/// Pipes `(topic, key, timestamp)` with the values 0, 1, 2 …
fn pipe(driver: &mut TopologyTestDriver, events: &[(&str, &str, i64)]) {
    for (value, (topic, key, timestamp)) in (0..).zip(events) {
        let input = driver.input(topic, utf8(), int64());
        input.pipe(driver, text(key), value, *timestamp);
    }
}

/// Moves the times of all streams.
fn tick(driver: &mut TopologyTestDriver, time: i64) {
    pipe(driver, &TOPICS.map(|topic| (topic, "tick", time)));
}

/// Results as `(key, "bid+view+click", timestamp)`.
type Rows = Vec<(String, String, i64)>;

fn read(driver: &mut TopologyTestDriver) -> Rows {
    let records = driver.output("out", utf8(), utf8()).read(driver);
    let row = |r: Record<String, String>| (r.key, r.value, r.timestamp);
    let others = records.into_iter().filter(|record| record.key != "tick");
    others.map(row).collect()
}

fn rows(expected: &[(&str, &str, i64)]) -> Rows {
    let row = |(key, parts, time): &(&str, &str, i64)| (text(key), text(parts), *time);
    expected.iter().map(row).collect()
}

fn late(driver: &mut TopologyTestDriver, topic: &str) -> Vec<String> {
    let records = driver.output(topic, utf8(), utf8()).read(driver);
    records.into_iter().map(|r| r.value).collect()
}

// --- inner ---

#[test]
fn a_result_leaves_when_its_last_record_comes_whichever_that_is() {
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for order in orders {
        let mut driver = driver(describe(Kind::Inner, window()));
        for (n, side) in order.into_iter().enumerate() {
            assert_eq!(read(&mut driver), []);
            let input = driver.input(TOPICS[side], utf8(), int64());
            let value = i64::try_from(side).unwrap();
            input.pipe(&mut driver, text("a"), value, 100 + value);
            // Another key has nothing to do with it.
            let other = driver.input(TOPICS[n], utf8(), int64());
            other.pipe(&mut driver, n.to_string(), 9, 100);
        }
        assert_eq!(read(&mut driver), rows(&[("a", "0+1+2", 102)]));
    }
}

#[test]
fn all_records_of_a_result_are_within_the_window_of_each_other() {
    let mut driver = driver(describe(Kind::Inner, window()));
    // The view is within the window of both, these are not of each other.
    let events = [
        ("bids", "a", 100),
        ("views", "a", 105),
        ("clicks", "a", 111),
        ("clicks", "a", 110),
    ];
    pipe(&mut driver, &events);
    assert_eq!(read(&mut driver), rows(&[("a", "0+1+3", 110)]));
}

#[test]
fn several_records_of_a_side_give_a_result_each_by_time() {
    let mut driver = driver(describe(Kind::Inner, window()));
    let events = [
        ("bids", "a", 102),
        ("bids", "a", 101),
        ("clicks", "a", 103),
        ("clicks", "a", 103),
        ("views", "a", 104),
    ];
    pipe(&mut driver, &events);
    let expected = ["1+4+2", "1+4+3", "0+4+2", "0+4+3"].map(|parts| ("a", parts, 104));
    assert_eq!(read(&mut driver), rows(&expected));
}

#[test]
fn a_result_has_the_headers_of_the_record_that_completes_it() {
    let mut driver = driver(describe(Kind::Inner, window()));
    for (topic, n) in TOPICS.into_iter().zip(["0", "1", "2"]) {
        let mut record = Record::new(text("a"), 0, 1);
        record.headers.push(Header {
            name: "from".into(),
            value: Some(Bytes::from(n)),
        });
        let input = driver.input(topic, utf8(), int64());
        input.pipe_record(&mut driver, &record);
    }
    let out = driver.output("out", utf8(), utf8()).read(&mut driver);
    assert_eq!(out[0].headers[0].value.as_deref(), Some(&b"2"[..]));
}

// --- outer ---

#[test]
fn a_final_result_waits_for_window_and_grace_on_every_side() {
    let mut driver = driver(describe(Kind::Outer, window()));
    pipe(&mut driver, &[("bids", "a", 100), ("views", "a", 103)]);
    let open_until = 100 + WINDOW_MS + GRACE_MS;
    tick(&mut driver, open_until);
    assert_eq!(read(&mut driver), []);
    pipe(
        &mut driver,
        &[("bids", "tick", 200), ("clicks", "tick", 200)],
    );
    assert_eq!(read(&mut driver), [], "a view may still come");
    pipe(&mut driver, &[("views", "tick", open_until + 1)]);
    assert_eq!(read(&mut driver), rows(&[("a", "0+1+-", 103)]));
    tick(&mut driver, 300);
    assert_eq!(read(&mut driver), []);
}

#[test]
fn what_is_part_of_a_larger_result_is_none_of_its_own() {
    let mut driver = driver(describe(Kind::Outer, window()));
    // The view belongs to the bid, and to the click that is out of the bid's reach.
    let events = [
        ("bids", "a", 100),
        ("views", "a", 105),
        ("clicks", "b", 101),
        ("clicks", "a", 112),
    ];
    pipe(&mut driver, &events);
    tick(&mut driver, 1_000);
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("a", "0+1+-", 105),
            ("b", "-+-+2", 101),
            ("a", "-+1+3", 112)
        ])
    );
}

#[test]
fn final_results_leave_by_the_time_of_their_earliest_record_then_key() {
    let mut driver = driver(describe(Kind::Outer, window()));
    let events = [
        ("views", "b", 101),
        ("clicks", "a", 101),
        ("clicks", "b", 100),
        ("bids", "a", 104),
        ("bids", "c", 100),
    ];
    pipe(&mut driver, &events);
    tick(&mut driver, 1_000);
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("b", "-+0+2", 101),
            ("c", "4+-+-", 100),
            ("a", "3+-+1", 104)
        ])
    );
}

// --- time and lateness ---

#[test]
fn a_record_is_late_by_the_time_of_its_own_stream_and_no_other() {
    for kind in [Kind::Inner, Kind::Outer] {
        let mut driver = driver(describe(kind, window()));
        pipe(&mut driver, &[("bids", "a", 1_000), ("views", "tick", 100)]);
        let in_time = 100 - GRACE_MS;
        pipe(
            &mut driver,
            &[("views", "a", in_time), ("views", "a", in_time - 1)],
        );
        assert_eq!(late(&mut driver, "late-views"), ["1 for [84, 104) at 100"]);
        assert_eq!(late(&mut driver, "late-bids"), Vec::<String>::new());
    }
}

#[test]
fn a_stream_far_behind_loses_nothing() {
    for kind in [Kind::Inner, Kind::Outer] {
        let mut driver = driver(describe(kind, window()));
        let keys: Vec<String> = (0..50).map(|n| format!("{n:02}")).collect();
        for topic in ["views", "clicks", "bids"] {
            for (n, key) in (0..).zip(&keys) {
                pipe(&mut driver, &[(topic, key, n * 1_000)]);
            }
        }
        tick(&mut driver, 1_000_000);
        let expected = (0..)
            .zip(keys)
            .map(|(n, key)| (key, text("0+0+0"), n * 1_000));
        assert_eq!(read(&mut driver), expected.collect::<Rows>());
    }
}

#[test]
fn a_stream_that_has_ended_holds_final_results_back_unless_its_lag_is_limited() {
    let run = |window| {
        let mut driver = driver(describe(Kind::Outer, window));
        let events = [
            ("clicks", "tick", 0),
            ("bids", "a", 10),
            ("views", "tick", 500),
            ("bids", "tick", 500),
        ];
        pipe(&mut driver, &events);
        let told = read(&mut driver);
        pipe(&mut driver, &[("clicks", "a", 394)]);
        (told, late(&mut driver, "late-clicks"))
    };
    assert_eq!(run(window()), (vec![], vec![]));
    let (told, late) = run(window().max_lag(ms(100)));
    assert_eq!(told, rows(&[("a", "1+-+-", 10)]));
    // Its time is 500 − 100, and 394 more than the grace below.
    assert_eq!(late, ["0 for [384, 404) at 400"]);
}

#[test]
fn a_stream_that_is_idle_holds_nothing_back() {
    let mut driver = driver(|builder| {
        let idle = numbers().idle_after(Duration::from_secs(30));
        let [bids, views] = ["bids", "views"].map(|topic| builder.stream(topic, numbers()));
        let clicks = builder.stream("clicks", idle);
        join(&bids, &views, &clicks, Kind::Outer, window());
    });
    pipe(
        &mut driver,
        &[
            ("bids", "a", 10),
            ("bids", "tick", 500),
            ("views", "tick", 500),
        ],
    );
    assert_eq!(read(&mut driver), []);
    driver.advance_wall_clock(Duration::from_secs(30));
    assert_eq!(read(&mut driver), rows(&[("a", "0+-+-", 10)]));
    driver.crash().unwrap();
    pipe(&mut driver, &[("clicks", "a", 20)]);
    assert_eq!(late(&mut driver, "late-clicks"), ["0 for [10, 30) at 500"]);
}

#[test]
fn records_and_times_survive_restarts_and_crashes() {
    type Interrupt = fn(&mut TopologyTestDriver);
    let interrupts: [Interrupt; 2] = [|d| d.restart().unwrap(), |d| d.crash().unwrap()];
    for interrupt in interrupts {
        for kind in [Kind::Inner, Kind::Outer] {
            let mut driver = driver(describe(kind, window()));
            for event in [
                ("bids", "a", 100),
                ("views", "a", 101),
                ("clicks", "a", 102),
            ] {
                pipe(&mut driver, &[event]);
                interrupt(&mut driver);
            }
            tick(&mut driver, 120);
            interrupt(&mut driver);
            pipe(&mut driver, &[("clicks", "a", 114)]);
            assert_eq!(
                late(&mut driver, "late-clicks"),
                ["0 for [104, 124) at 120"]
            );
            assert_eq!(read(&mut driver), rows(&[("a", "0+0+0", 102)]));
        }
    }
}

// --- keys, nulls and names ---

#[test]
fn records_without_a_key_or_a_value_are_dropped_and_move_no_time() {
    let mut driver = driver(|builder| {
        let stream = |topic| {
            let consumed = Consumed::new(nullable(utf8()), nullable(int64()));
            builder.stream(topic, consumed)
        };
        let [bids, views] = ["bids", "views"].map(stream);
        bids.outer_join_all("join", (&views,), window())
            .map_values(|_, (bid, view)| format!("{bid:?}+{view:?}"))
            .to_with("out", Produced::new(nullable(utf8()), utf8()));
    });
    let some = || Some(text("a"));
    for (topic, key, value, time) in [
        ("bids", some(), Some(1), 10),
        ("bids", None, Some(2), 1_000),
        ("views", some(), None, 1_000),
        ("views", None, Some(3), 1_000),
        ("bids", some(), None, 1_000),
        ("bids", some(), Some(4), 11),
        ("views", some(), Some(5), 26),
        ("bids", some(), Some(6), 26),
    ] {
        let input = driver.input(topic, nullable(utf8()), nullable(int64()));
        input.pipe(&mut driver, key, value, time);
    }
    let out = driver.output("out", utf8(), utf8());
    let values = out.read_key_values(&mut driver);
    assert_eq!(values, [(text("a"), text("Some(Some(1))+None"))]);
}

#[test]
fn streams_whose_key_has_changed_are_repartitioned_and_one_without_serdes_is_refused() {
    let describe = |with_serdes: bool| {
        let builder = StreamsBuilder::new("under-test");
        let [bids, views] = ["bids", "views"].map(|topic| builder.stream(topic, numbers()));
        let rekeyed = views.map(|_, value| (value.to_string(), value));
        let rekeyed = match with_serdes {
            true => rekeyed.with_serdes(utf8(), int64()),
            false => rekeyed,
        };
        bids.join_all("join", (&rekeyed,), window())
            .map_values(|_, (bid, view)| bid + view)
            .to_with("out", Produced::new(utf8(), int64()));
        builder.build()
    };
    let topology = describe(true).unwrap();
    assert!(
        topology.describe().contains("join-1-repartition"),
        "{topology}"
    );
    let mut driver = TopologyTestDriver::new(topology).unwrap();
    for (topic, key) in [("bids", "7"), ("views", "somebody")] {
        driver
            .input(topic, utf8(), int64())
            .pipe(&mut driver, text(key), 7, 1);
    }
    let out = driver.output("out", utf8(), int64());
    assert_eq!(out.read_key_values(&mut driver), [(text("7"), 14)]);
    let error = match describe(false) {
        Ok(topology) => panic!("it was not refused: {topology}"),
        Err(error) => error.to_string(),
    };
    assert!(
        error.contains("side 1 of join 'join' has no serde"),
        "{error}"
    );
}

#[test]
fn six_streams_are_joined_at_once() {
    let topics = ["a", "b", "c", "d", "e", "f"];
    let mut driver = driver(|builder| {
        let [a, b, c, d, e, f] = topics.map(|topic| builder.stream(topic, numbers()));
        a.join_all("join", (&b, &c, &d, &e, &f), window())
            .map_values(|_, (a, b, c, d, e, f)| format!("{a}{b}{c}{d}{e}{f}"))
            .to_with("out", Produced::new(utf8(), utf8()));
    });
    pipe(&mut driver, &topics.map(|topic| (topic, "k", 5)));
    assert_eq!(read(&mut driver), rows(&[("k", "012345", 5)]));
}

// --- against a model ---

#[derive(Debug, Clone)]
struct Event {
    side: usize,
    key: u8,
    timestamp: i64,
    value: i64,
    /// How much later it comes; no more than the grace.
    delay: i64,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = (0..3_usize, 0..2_u8, 0..70_i64, 0..=GRACE_MS);
    prop::collection::vec(one, 1..26).prop_map(|drawn| {
        let event = |(value, (side, key, timestamp, delay))| Event {
            side,
            key,
            timestamp,
            value,
            delay,
        };
        (0..).zip(drawn).map(event).collect()
    })
}

/// Every choice of at most one record a side, of all that there are: those that hold together, and to which nothing can be
/// added.
fn expected(kind: Kind, events: &[Event]) -> BTreeSet<(String, String, i64)> {
    let mut found = BTreeSet::new();
    let of_side = |side: usize| -> Vec<Option<&Event>> {
        let own = events.iter().filter(|event| event.side == side).map(Some);
        own.chain([None]).collect()
    };
    let together = |choice: &[Option<&Event>]| {
        let chosen: Vec<&Event> = choice.iter().flatten().copied().collect();
        chosen.iter().all(|a| {
            chosen
                .iter()
                .all(|b| a.key == b.key && (a.timestamp - b.timestamp).abs() <= WINDOW_MS)
        })
    };
    for bid in of_side(0) {
        for view in of_side(1) {
            for click in of_side(2) {
                let choice = [bid, view, click];
                let Some(any) = choice.iter().flatten().next() else {
                    continue;
                };
                let may_grow = (0..3).filter(|side| choice[*side].is_none()).any(|side| {
                    of_side(side).into_iter().flatten().any(|more| {
                        let mut larger = choice;
                        larger[side] = Some(more);
                        together(&larger)
                    })
                });
                let complete = choice.iter().all(Option::is_some);
                if together(&choice) && !may_grow && (complete || kind == Kind::Outer) {
                    let time = choice.iter().flatten().map(|event| event.timestamp).max();
                    let parts = choice.map(|event| event.map(|event| event.value));
                    found.insert((any.key.to_string(), shown(parts), time.unwrap()));
                }
            }
        }
    }
    found
}

#[derive(Debug, Clone, Copy)]
enum Interruption {
    None,
    Restart,
    Crash,
    Flush,
}

fn interruptions() -> impl Strategy<Value = Vec<Interruption>> {
    let one = prop_oneof![
        12 => Just(Interruption::None),
        1 => Just(Interruption::Restart),
        1 => Just(Interruption::Crash),
        2 => Just(Interruption::Flush),
    ];
    prop::collection::vec(one, 26)
}

fn run(
    kind: Kind,
    events: &[Event],
    first: Option<usize>,
    config: StreamsConfig,
    interruptions: &[Interruption],
) -> Rows {
    let mut events = events.to_vec();
    events.sort_by_key(|event| event.timestamp + event.delay);
    if let Some(first) = first {
        // One stream after the other.
        events.sort_by_key(|event| (event.side + 3 - first) % 3);
    }
    let topology = topology(describe(kind, window()));
    let mut driver = TopologyTestDriver::with(topology, config, 1).unwrap();
    for (event, interruption) in events.iter().zip(interruptions) {
        let input = driver.input(TOPICS[event.side], utf8(), int64());
        let key = event.key.to_string();
        input.pipe(&mut driver, key, event.value, event.timestamp);
        match interruption {
            Interruption::None => {}
            Interruption::Restart => driver.restart().unwrap(),
            Interruption::Crash => driver.crash().unwrap(),
            // Long enough for the stores to be written.
            Interruption::Flush => driver.advance_wall_clock(Duration::from_secs(3)),
        }
    }
    tick(&mut driver, 10_000);
    for topic in TOPICS {
        assert_eq!(
            late(&mut driver, &format!("late-{topic}")),
            Vec::<String>::new()
        );
    }
    read(&mut driver)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Inner), Just(Kind::Outer)]
}

fn first() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![Just(None), (0..3_usize).prop_map(Some)]
}

fn check(
    kind: Kind,
    events: &[Event],
    first: Option<usize>,
    config: StreamsConfig,
    interruptions: &[Interruption],
) -> Result<(), TestCaseError> {
    let results = run(kind, events, first, config, interruptions);
    let expected = expected(kind, events);
    prop_assert_eq!(results.len(), expected.len(), "each comes once");
    let results: BTreeSet<_> = results.into_iter().collect();
    prop_assert_eq!(results, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn results_are_the_model_s_in_whatever_order_records_come(
        kind in kind(), events in events(), first in first(), interruptions in interruptions(),
    ) {
        check(kind, &events, first, StreamsConfig::new("app"), &interruptions)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn so_they_are_on_sled(
        kind in kind(), events in events(), first in first(), interruptions in interruptions(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let config = StreamsConfig::new("app").state_dir(directory.path());
        check(kind, &events, first, config, &interruptions)?;
    }
}
