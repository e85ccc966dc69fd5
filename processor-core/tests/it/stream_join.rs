//! Joins of two streams: by hand at the borders, and against a model on random input.

mod model;
mod random;

use std::time::Duration;

use processor_core::dsl::{JoinWindows, KStream, Produced, StreamsBuilder};
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;

use crate::support::driver::{driver, nullable_numbers, numbers, text};
use crate::windowed::LateText;

/// How a topology joins the streams "left" and "right".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Inner,
    Left,
    Outer,
}

impl Kind {
    /// Whether a record of `side` that met nobody gives a result.
    fn gives_up(self, side: Side) -> bool {
        match side {
            Side::Left => self != Self::Inner,
            Side::Right => self == Self::Outer,
        }
    }
}

fn windows(before: i64, after: i64, grace: i64) -> JoinWindows {
    let ms = |ms: i64| Duration::from_millis(ms.unsigned_abs());
    JoinWindows::between(ms(before), ms(after)).grace(ms(grace))
}

fn shown(left: Option<i64>, right: Option<i64>) -> String {
    let one = |value: Option<i64>| value.map_or_else(|| text("-"), |value| value.to_string());
    format!("{}+{}", one(left), one(right))
}

/// Results go to "out", late records to "late-left" and "late-right".
fn describe(builder: &StreamsBuilder, kind: Kind, windows: JoinWindows) {
    let left = builder.stream("left", numbers());
    let right = builder.stream("right", numbers());
    join(&left, &right, kind, windows);
}

fn join(
    left: &KStream<String, i64>,
    right: &KStream<String, i64>,
    kind: Kind,
    windows: JoinWindows,
) {
    let joined = match kind {
        Kind::Inner => left.join("join", right, windows, |_, l, r| shown(Some(l), Some(r))),
        Kind::Left => left.left_join("join", right, windows, |_, l, r| shown(Some(l), r)),
        Kind::Outer => left.outer_join("join", right, windows, |_, l, r| shown(l, r)),
    };
    joined.to_with("out", Produced::new(utf8(), utf8()));
    let late = || Produced::new(utf8(), LateText);
    joined.late_left().to_with("late-left", late());
    joined.late_right().to_with("late-right", late());
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}
use Side::{Left as L, Right as R};

/// Pipes `(side, key, timestamp)` with the values 0, 1, 2 …
fn pipe(driver: &mut TopologyTestDriver, events: &[(Side, &str, i64)]) {
    let (left, right) = (
        driver.input("left", utf8(), int64()),
        driver.input("right", utf8(), int64()),
    );
    for (value, (side, key, timestamp)) in (0..).zip(events) {
        let topic = if *side == L { &left } else { &right };
        topic.pipe(driver, text(key), value, *timestamp);
    }
}

/// Results as `(key, "left+right", timestamp)`.
fn read(driver: &mut TopologyTestDriver) -> Vec<(String, String, i64)> {
    let records = driver.output("out", utf8(), utf8()).read(driver);
    records
        .into_iter()
        .map(|r| (r.key, r.value, r.timestamp))
        .collect()
}

fn late(driver: &mut TopologyTestDriver, topic: &str) -> Vec<String> {
    let records = driver.output(topic, utf8(), utf8()).read(driver);
    records.into_iter().map(|r| r.value).collect()
}

fn rows(expected: &[(&str, &str, i64)]) -> Vec<(String, String, i64)> {
    expected
        .iter()
        .map(|(k, v, t)| (text(k), text(v), *t))
        .collect()
}

fn results(
    kind: Kind,
    windows: JoinWindows,
    events: &[(Side, &str, i64)],
) -> Vec<(String, String, i64)> {
    let mut driver = driver(|builder| describe(builder, kind, windows));
    pipe(&mut driver, events);
    read(&mut driver)
}

#[test]
fn both_ends_of_the_window_belong_to_it() {
    let events = [
        (L, "a", 100),
        (R, "a", 89),
        (R, "a", 90),
        (R, "a", 120),
        (R, "a", 121),
    ];
    assert_eq!(
        results(Kind::Inner, windows(10, 20, 1_000), &events),
        rows(&[("a", "0+2", 100), ("a", "0+3", 120)])
    );
    let mirrored = [
        (R, "a", 100),
        (L, "a", 79),
        (L, "a", 80),
        (L, "a", 110),
        (L, "a", 111),
    ];
    assert_eq!(
        results(Kind::Inner, windows(10, 20, 1_000), &mirrored),
        rows(&[("a", "2+0", 100), ("a", "3+0", 110)])
    );
}

#[test]
fn a_window_may_lie_wholly_after_or_before_the_left_record() {
    let events = [
        (L, "a", 10),
        (R, "a", 14),
        (R, "a", 15),
        (R, "a", 30),
        (R, "a", 31),
    ];
    let grace = Duration::from_millis(50);
    assert_eq!(
        results(
            Kind::Inner,
            JoinWindows::later_by_ms(5..=20).grace(grace),
            &events
        ),
        rows(&[("a", "0+2", 15), ("a", "0+3", 30)])
    );
    let mirrored = [
        (R, "a", 10),
        (L, "a", 14),
        (L, "a", 15),
        (L, "a", 30),
        (L, "a", 31),
    ];
    assert_eq!(
        results(
            Kind::Inner,
            JoinWindows::later_by_ms(-20..=-5).grace(grace),
            &mirrored
        ),
        rows(&[("a", "2+0", 15), ("a", "3+0", 30)])
    );
    // A left record whose window is over when it comes, but which is in time itself.
    let behind = [(R, "a", 10), (L, "x", 40), (L, "a", 30)];
    let some_grace = JoinWindows::later_by_ms(-20..=-5).grace(Duration::from_millis(10));
    assert_eq!(
        results(Kind::Inner, some_grace, &behind),
        rows(&[("a", "2+0", 30)])
    );
    let none = JoinWindows::later_by_ms(std::ops::RangeInclusive::new(5, 4)).grace(grace);
    assert_eq!(results(Kind::Inner, none, &events), []);
}

#[test]
fn only_equal_keys_meet_and_each_pair_once() {
    let events = [
        (L, "a", 0),
        (L, "a", 0),
        (R, "b", 0),
        (R, "a", 1),
        (R, "a", 1),
    ];
    assert_eq!(
        results(Kind::Inner, windows(5, 5, 0), &events),
        rows(&[
            ("a", "0+3", 1),
            ("a", "1+3", 1),
            ("a", "0+4", 1),
            ("a", "1+4", 1)
        ])
    );
}

#[test]
fn the_result_has_the_later_timestamp_of_the_two() {
    let events = [(L, "a", 10), (R, "a", 7), (R, "a", 13)];
    assert_eq!(
        results(Kind::Inner, windows(5, 5, 10), &events),
        rows(&[("a", "0+1", 10), ("a", "0+2", 13)])
    );
}

#[test]
fn an_unmatched_left_record_waits_for_its_window_and_grace_to_the_millisecond() {
    let w = windows(10, 20, 5);
    // Closed when stream time > 100 + 20 + 5.
    let at = |time| results(Kind::Left, w, &[(L, "a", 100), (R, "b", time)]);
    assert_eq!(at(125), []);
    assert_eq!(at(126), rows(&[("a", "0+-", 100)]));
}

#[test]
fn an_unmatched_right_record_waits_by_the_other_half_of_the_window() {
    let w = windows(10, 20, 5);
    // Closed when stream time > 100 + 10 + 5.
    let at = |time| results(Kind::Outer, w, &[(R, "a", 100), (L, "b", time)]);
    assert_eq!(at(115), []);
    assert_eq!(at(116), rows(&[("a", "-+0", 100)]));
    // A left join says nothing of it.
    assert_eq!(results(Kind::Left, w, &[(R, "a", 100), (L, "b", 116)]), []);
}

#[test]
fn a_match_within_grace_is_the_only_result_of_its_records() {
    let events = [(L, "a", 100), (L, "x", 114), (R, "a", 105), (L, "x", 1_000)];
    assert_eq!(
        results(Kind::Left, windows(5, 5, 10), &events),
        rows(&[("a", "0+2", 105), ("x", "1+-", 114)])
    );
}

#[test]
fn unmatched_results_leave_by_timestamp_then_right_first_then_key_before_the_record_that_closes_them()
 {
    let w = windows(5, 5, 0);
    let events = [
        (L, "b", 12),
        (L, "a", 12),
        (R, "c", 12),
        (L, "z", 10),
        (R, "n", 1_000),
        (L, "n", 1_000),
    ];
    assert_eq!(
        results(Kind::Outer, w, &events),
        rows(&[
            ("z", "3+-", 10),
            ("c", "-+2", 12),
            ("a", "1+-", 12),
            ("b", "0+-", 12),
            ("n", "5+4", 1_000),
        ])
    );
}

#[test]
fn a_record_whose_own_window_is_closed_is_late_and_meets_nobody() {
    let mut driver = driver(|builder| describe(builder, Kind::Outer, windows(10, 20, 5)));
    // At 200 a left record is late below 175, a right one below 185.
    pipe(
        &mut driver,
        &[
            (R, "a", 200),
            (L, "a", 174),
            (L, "a", 175),
            (R, "a", 184),
            (R, "a", 185),
        ],
    );
    assert_eq!(late(&mut driver, "late-left"), ["1 for [164, 194) at 200"]);
    assert_eq!(late(&mut driver, "late-right"), ["3 for [164, 194) at 200"]);
    // 175 + 20 reaches 185 and 195, not 200.
    assert_eq!(read(&mut driver), rows(&[("a", "2+4", 185)]));
}

#[test]
fn a_record_in_time_meets_partners_of_an_inner_side_after_their_window_to_the_millisecond() {
    // A left record closes after + grace = 25 later, a right one before + grace = 15, and is kept 35 in all.
    let w = windows(10, 20, 5);
    let at = |kind, left, now| results(kind, w, &[(R, "a", 100), (L, "x", now), (L, "a", left)]);
    for kind in [Kind::Inner, Kind::Left] {
        assert_eq!(at(kind, 110, 135), rows(&[("a", "2+0", 110)]));
    }
    // Out of the window; and late itself.
    assert_eq!(at(Kind::Inner, 111, 135), []);
    assert_eq!(at(Kind::Inner, 110, 136), []);
}

#[test]
fn a_record_of_an_outer_side_meets_nobody_after_its_window() {
    let w = windows(10, 20, 5);
    let events = [(R, "a", 100), (L, "x", 116), (L, "a", 110), (L, "x", 200)];
    // What was given up is not joined later.
    assert_eq!(
        results(Kind::Outer, w, &events),
        rows(&[("a", "-+0", 100), ("a", "2+-", 110), ("x", "1+-", 116)])
    );
    let mirrored = [(L, "a", 100), (R, "x", 116), (R, "a", 90)];
    assert_eq!(
        results(Kind::Left, windows(20, 10, 5), &mirrored),
        rows(&[("a", "0+-", 100)])
    );
}

#[test]
fn what_was_out_of_reach_before_a_restart_is_so_after_it() {
    let mut driver = driver(|builder| describe(builder, Kind::Inner, windows(10, 20, 5)));
    pipe(&mut driver, &[(R, "a", 100), (R, "a", 101), (L, "x", 136)]);
    driver.restart().unwrap();
    pipe(&mut driver, &[(L, "a", 111)]);
    assert_eq!(read(&mut driver), rows(&[("a", "0+1", 111)]));
}

#[test]
fn unmatched_records_are_remembered_over_a_restart_and_a_crash() {
    let mut driver = driver(|builder| describe(builder, Kind::Outer, windows(5, 5, 0)));
    pipe(&mut driver, &[(L, "a", 10), (R, "b", 11)]);
    driver.restart().unwrap();
    driver.crash().unwrap();
    pipe(&mut driver, &[(L, "c", 100)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", "0+-", 10), ("b", "-+1", 11)])
    );
}

#[test]
fn null_keys_are_joined_with_nothing_on_an_outer_side_and_dropped_on_an_inner_one() {
    let results = |kind: Kind| {
        let keys = || processor_core::dsl::Consumed::new(nullable(utf8()), nullable(int64()));
        let mut driver = driver(|builder| {
            let (left, right) = (
                builder.stream("left", keys()),
                builder.stream("right", keys()),
            );
            let w = windows(5, 5, 0);
            let show =
                |l: Option<Option<i64>>, r: Option<Option<i64>>| shown(l.flatten(), r.flatten());
            let joined = match kind {
                Kind::Inner => left.join("join", &right, w, move |_, l, r| show(Some(l), Some(r))),
                Kind::Left => left.left_join("join", &right, w, move |_, l, r| show(Some(l), r)),
                Kind::Outer => left.outer_join("join", &right, w, move |_, l, r| show(l, r)),
            };
            joined.to_with("out", Produced::new(nullable(utf8()), utf8()));
        });
        let left = driver.input("left", nullable(utf8()), nullable(int64()));
        let right = driver.input("right", nullable(utf8()), nullable(int64()));
        left.pipe(&mut driver, None, Some(1), 10);
        right.pipe(&mut driver, None, Some(2), 11);
        left.pipe(&mut driver, None, None, 12);
        left.pipe(&mut driver, Some(text("a")), None, 13);
        right.pipe(&mut driver, Some(text("a")), None, 13);
        // Null values move time but never give a result.
        right.pipe(&mut driver, Some(text("a")), None, 1_000);
        let out = driver.output("out", nullable(utf8()), utf8());
        let out = out.read(&mut driver).into_iter();
        out.map(|r| (r.key, r.value, r.timestamp))
            .collect::<Vec<_>>()
    };
    let (left, right) = ((None, text("1+-"), 10), (None, text("-+2"), 11));
    assert_eq!(results(Kind::Inner), []);
    let both = [left, right];
    assert_eq!(results(Kind::Left), both[..1]);
    assert_eq!(results(Kind::Outer), both);
}

#[test]
fn a_null_value_moves_the_join_s_time_and_the_next_record_at_that_time_gives_results() {
    let mut driver = driver(|builder| {
        let left = builder.stream("left", numbers());
        let values = processor_core::dsl::Consumed::new(utf8(), nullable(int64()));
        let right = builder.stream("right", values);
        let joined = left.left_join("join", &right, windows(5, 5, 0), |_, l, r| {
            shown(Some(l), r.flatten())
        });
        joined.to_with("out", Produced::new(utf8(), utf8()));
    });
    let left = driver.input("left", utf8(), int64());
    let right = driver.input("right", utf8(), nullable(int64()));
    left.pipe(&mut driver, text("a"), 1, 10);
    right.pipe(&mut driver, text("b"), None, 1_000);
    left.pipe(&mut driver, text("a"), 2, 994);
    right.pipe(&mut driver, text("a"), Some(3), 999);
    assert_eq!(read(&mut driver), []);
    right.pipe(&mut driver, text("b"), Some(4), 1_000);
    assert_eq!(read(&mut driver), rows(&[("a", "1+-", 10)]));
}

#[test]
fn a_record_without_a_key_moves_the_join_s_time_also_through_a_repartition_topic() {
    for rekeyed in [false, true] {
        let mut driver = driver(|builder| {
            let left = builder.stream("left", nullable_numbers());
            let right = builder.stream("right", nullable_numbers());
            let show =
                |_: &Option<String>, l: Option<i64>, r: Option<Option<i64>>| shown(l, r.flatten());
            let w = windows(5, 5, 0);
            let joined = if rekeyed {
                let serdes = || (nullable(utf8()), nullable(int64()));
                let ((left_key, left_value), (key, value)) = (serdes(), serdes());
                let left = left.select_key(|key, _| key.clone());
                let right = right.select_key(|key, _| key.clone());
                left.with_serdes(left_key, left_value).left_join(
                    "join",
                    &right.with_serdes(key, value),
                    w,
                    show,
                )
            } else {
                left.left_join("join", &right, w, show)
            };
            joined.to_with("out", Produced::new(nullable(utf8()), utf8()));
        });
        let left = driver.input("left", nullable(utf8()), nullable(int64()));
        let right = driver.input("right", nullable(utf8()), nullable(int64()));
        left.pipe(&mut driver, Some(text("a")), Some(1), 10);
        right.pipe(&mut driver, None, Some(2), 20);
        // Late by the time of the record without a key.
        left.pipe(&mut driver, Some(text("a")), Some(3), 14);
        left.pipe(&mut driver, Some(text("b")), Some(4), 20);
        let out = driver.output("out", nullable(utf8()), utf8());
        let out = out.read_key_values(&mut driver);
        assert_eq!(out, [(Some(text("a")), text("1+-"))], "rekeyed: {rekeyed}");
    }
}

#[test]
fn the_joined_record_has_the_headers_of_the_record_that_completed_it() {
    use processor_core::Record;
    use processor_core::log::Header;
    let mut driver = driver(|builder| describe(builder, Kind::Inner, windows(5, 5, 0)));
    let record = |name: &str, value: i64| Record {
        headers: vec![Header {
            name: std::sync::Arc::from(name),
            value: None,
        }],
        ..Record::new(text("a"), value, 10)
    };
    let (left, right) = (
        driver.input("left", utf8(), int64()),
        driver.input("right", utf8(), int64()),
    );
    left.pipe_record(&mut driver, &record("left", 1));
    right.pipe_record(&mut driver, &record("right", 2));
    let out = driver.output("out", utf8(), utf8()).read(&mut driver);
    assert_eq!(out[0].headers, record("right", 2).headers);
}

#[test]
fn records_of_merged_topics_with_equal_offsets_keys_and_times_are_all_joined() {
    let mut driver = driver(|builder| {
        let left = builder.stream("left", numbers());
        let more = builder.stream("more", numbers());
        let right = builder.stream("right", numbers());
        join(&left.merge(&more), &right, Kind::Inner, windows(5, 5, 0));
    });
    for (value, topic) in (0..).zip(["left", "more", "right"]) {
        let input = driver.input(topic, utf8(), int64());
        input.pipe(&mut driver, text("a"), value, 10);
    }
    driver.restart().unwrap();
    let right = driver.input("right", utf8(), int64());
    right.pipe(&mut driver, text("a"), 3, 10);
    let mut pairs = read(&mut driver);
    pairs.sort();
    assert_eq!(
        pairs,
        rows(&[
            ("a", "0+2", 10),
            ("a", "0+3", 10),
            ("a", "1+2", 10),
            ("a", "1+3", 10)
        ])
    );
}

#[test]
fn partners_of_one_time_are_met_in_the_order_in_which_they_came_whatever_their_offsets() {
    let mut driver = driver(|builder| {
        let left = builder.stream("left", numbers());
        let more = builder.stream("more", numbers());
        let right = builder.stream("right", numbers());
        join(&left.merge(&more), &right, Kind::Inner, windows(5, 5, 0));
    });
    for (value, topic) in (0..).zip(["left", "left", "left", "more", "right"]) {
        let input = driver.input(topic, utf8(), int64());
        input.pipe(&mut driver, text("a"), value, 10);
    }
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("a", "0+4", 10),
            ("a", "1+4", 10),
            ("a", "2+4", 10),
            ("a", "3+4", 10)
        ])
    );
}

#[test]
fn a_stream_joins_itself() {
    let mut driver = driver(|builder| {
        let stream = builder.stream("left", numbers());
        join(&stream, &stream, Kind::Inner, windows(5, 5, 0));
    });
    let input = driver.input("left", utf8(), int64());
    input.pipe(&mut driver, text("a"), 1, 10);
    input.pipe(&mut driver, text("a"), 2, 12);
    let mut pairs = read(&mut driver);
    pairs.sort();
    assert_eq!(
        pairs,
        rows(&[
            ("a", "1+1", 10),
            ("a", "1+2", 12),
            ("a", "2+1", 12),
            ("a", "2+2", 12)
        ])
    );
}

#[test]
fn a_rekeyed_side_goes_through_a_topic_named_after_the_join() {
    let topology = crate::support::driver::topology(|builder| {
        let left = builder
            .stream("left", numbers())
            .select_key(|k, _| k.clone())
            .repartition("rekeyed", utf8(), int64(), None);
        let right = builder.stream("right", numbers());
        join(&left, &right, Kind::Inner, windows(5, 5, 0));
    });
    assert!(
        topology
            .describe()
            .contains("<application>-rekeyed-repartition")
    );
}
