//! Aggregations over sliding windows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use processor_core::dsl::{
    Buffer, Grouped, KGroupedStream, Produced, SlidingWindows, StreamsBuilder, WindowedTable,
};
use processor_core::serde::{int64, nullable, utf8, windowed};
use processor_core::testing::TopologyTestDriver;
use proptest::prelude::*;

use crate::support::driver::{driver, nullable_numbers, numbers, pairs, text};
use crate::support::windows::{Row, late, pipe_ones, read_windows, rows};
use crate::windowed::LateText;

const DIFFERENCE_MS: i64 = 10;

fn sliding(difference_ms: i64, grace_ms: i64) -> SlidingWindows {
    let ms = |ms: i64| Duration::from_millis(ms.unsigned_abs());
    SlidingWindows::of(ms(difference_ms)).grace(ms(grace_ms))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emit {
    Updates,
    Finals,
    /// Final results of a table that is suppressed.
    Suppressed,
}

/// Tells values apart, and their order.
fn fold(so_far: i64, value: i64) -> i64 {
    so_far.wrapping_mul(31).wrapping_add(value)
}

fn folded(
    grouped: &KGroupedStream<String, i64>,
    windows: SlidingWindows,
    emit: Emit,
) -> WindowedTable<String, i64, i64> {
    let windowed = match emit {
        Emit::Updates | Emit::Suppressed => grouped.windowed_by(windows),
        Emit::Finals => grouped.windowed_by(windows).emit_final(),
    };
    windowed.aggregate("folded", int64(), || 0, |_, v, a| fold(a, v))
}

/// The values of each window, in the order in which they came; late records go to `late`.
fn topology(windows: SlidingWindows, emit: Emit) -> impl Fn(&StreamsBuilder) {
    move |builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let folded = folded(&grouped, windows, emit);
        if emit == Emit::Suppressed {
            let finals = Buffer::unbounded();
            let table = folded
                .table()
                .suppress_until_window_closes("finals", finals);
            table.to_stream().to("out");
        } else {
            folded.to_stream().to("out");
        }
        let late = Produced::new(utf8(), LateText);
        folded.late().to_with("late", late);
    }
}

fn counts(windows: SlidingWindows) -> impl Fn(&StreamsBuilder) {
    move |builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let counts = grouped.windowed_by(windows).count("counts");
        counts.to_stream().to("out");
        let late = Produced::new(utf8(), LateText);
        counts.late().to_with("late", late);
    }
}

fn read(driver: &mut TopologyTestDriver) -> Vec<Row> {
    read_windows(driver, DIFFERENCE_MS)
}

#[test]
fn both_ends_of_a_window_belong_to_it() {
    let mut driver = driver(counts(sliding(10, 0)));
    pipe_ones(&mut driver, &[("a", 20), ("a", 30)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 10, 1, 20), ("a", 21, 1, 30), ("a", 20, 2, 30)])
    );
    // 41 is a millisecond too far from 30.
    pipe_ones(&mut driver, &[("a", 41)]);
    assert_eq!(
        read(&mut driver),
        // The window behind 30 is the one that ends with 41; it comes as both.
        rows(&[("a", 31, 1, 41), ("a", 31, 1, 41)])
    );
}

#[test]
fn records_before_the_difference_share_the_window_from_0_on() {
    let mut driver = driver(counts(sliding(10, 0)));
    pipe_ones(&mut driver, &[("a", 3), ("a", 0), ("a", 10)]);
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("a", 0, 1, 3),
            // Behind 0 there is the record at 3.
            ("a", 1, 1, 3),
            ("a", 0, 2, 3),
            ("a", 1, 2, 10),
            ("a", 0, 3, 10),
            ("a", 4, 1, 10),
        ])
    );
}

#[test]
fn a_record_out_of_order_is_in_all_windows_that_hold_it_and_makes_those_around_it() {
    let mut driver = driver(counts(sliding(10, 50)));
    pipe_ones(&mut driver, &[("a", 20), ("a", 28)]);
    read(&mut driver);
    pipe_ones(&mut driver, &[("a", 24)]);
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("a", 21, 2, 28),
            ("a", 18, 3, 28),
            // Its own holds 20 and 24, the one behind it 28.
            ("a", 14, 2, 24),
            ("a", 25, 1, 28),
        ])
    );
}

#[test]
fn a_record_is_late_for_its_own_window_from_a_millisecond_past_the_grace_on() {
    let mut driver = driver(counts(sliding(10, 5)));
    pipe_ones(&mut driver, &[("x", 45), ("a", 40)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("x", 35, 1, 45), ("a", 30, 1, 40)])
    );
    assert_eq!(late(&mut driver), Vec::<String>::new());
    pipe_ones(&mut driver, &[("a", 39)]);
    assert_eq!(late(&mut driver), ["1 for [29, 39) at 45"]);
    // It is still in what is open: [30, 40], and it makes the window behind it, which holds the record at 40.
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 30, 2, 40), ("a", 40, 1, 40)])
    );
}

#[test]
fn a_record_that_is_late_for_its_own_window_counts_in_later_ones_until_the_last_of_them_is_closed()
{
    // Kafka Streams gives 2 for the last window: those that closed before 18 came did not take it.
    let mut driver = driver(counts(sliding(10, 0)));
    pipe_ones(&mut driver, &[("a", 20), ("x", 24), ("a", 18)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 10, 1, 20), ("x", 14, 1, 24), ("a", 19, 1, 20)])
    );
    pipe_ones(&mut driver, &[("a", 28)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 19, 2, 28), ("a", 21, 1, 28), ("a", 18, 3, 28)])
    );
    // [18, 28] is the last one that can hold 18.
    pipe_ones(&mut driver, &[("x", 29), ("a", 18), ("a", 19), ("a", 29)]);
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("x", 25, 1, 29),
            ("x", 19, 2, 29),
            ("a", 19, 3, 28),
            ("a", 20, 2, 28),
            ("a", 21, 2, 29),
            ("a", 20, 3, 29),
            ("a", 19, 4, 29),
            ("a", 29, 1, 29),
        ])
    );
    assert_eq!(
        late(&mut driver),
        [
            "1 for [8, 18) at 24",
            "1 for [8, 18) at 29",
            "1 for [9, 19) at 29"
        ]
    );
}

#[test]
fn a_window_is_made_from_one_that_started_two_differences_and_the_grace_before_stream_time() {
    // Kafka Streams gives 1 for the last window: its store has forgotten [68, 78].
    let mut driver = driver(counts(sliding(10, 0)));
    pipe_ones(&mut driver, &[("a", 78), ("b", 87), ("b", 88)]);
    read(&mut driver);
    pipe_ones(&mut driver, &[("a", 88)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 79, 1, 88), ("a", 78, 2, 88)])
    );
}

#[test]
fn null_keys_and_values_neither_count_nor_move_time() {
    let mut driver = driver(|builder| {
        let grouped = builder.stream("in", nullable_numbers()).group_by_key();
        let counts = grouped.windowed_by(sliding(10, 0)).count("counts");
        counts.to_stream().to("out");
    });
    let input = driver.input("in", nullable(utf8()), nullable(int64()));
    input.pipe(&mut driver, None, Some(1), 500);
    input.pipe(&mut driver, Some(text("a")), None, 500);
    input.pipe(&mut driver, Some(text("a")), Some(1), 33);
    assert_eq!(read(&mut driver), rows(&[("a", 23, 1, 33)]));
}

#[test]
fn an_aggregation_below_adds_up_what_the_windows_hold() {
    // Kafka Streams gives 3 and 5: a new window has the old value of the one it is made from, and one that comes twice
    // counts twice.
    let mut driver = driver(|builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let counts = grouped.windowed_by(sliding(10, 100)).count("counts");
        counts
            .table()
            .group_by(
                |_, count| (text("all"), *count),
                Grouped::by(utf8()).value(int64()),
            )
            .reduce("sum", |a, b| a + b, |a, b| a - b)
            .to_stream()
            .to("sums");
    });
    let sums = driver.output("sums", utf8(), nullable(int64()));
    let last = |driver: &mut TopologyTestDriver| sums.read(driver).last().unwrap().value;
    pipe_ones(&mut driver, &[("a", 100), ("a", 105)]);
    assert_eq!(last(&mut driver), Some(4));
    pipe_ones(&mut driver, &[("a", 116)]);
    assert_eq!(last(&mut driver), Some(5));
}

#[test]
fn a_closed_window_cannot_be_looked_up_although_new_ones_are_made_from_it() {
    let mut driver = driver(|builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let counts = grouped.windowed_by(sliding(10, 0)).count("counts");
        let others = builder.stream("others", numbers()).group_by_key();
        let others = others.windowed_by(sliding(10, 1_000)).count("others");
        let joined = others
            .table()
            .join("joined", &counts.table(), |_, a, b| 10 * a + b);
        joined
            .with_serdes(windowed(utf8(), DIFFERENCE_MS), int64())
            .to_stream()
            .select_key(|key, _| key.key.clone())
            .to_with("joined", Produced::new(utf8(), nullable(int64())));
    });
    let others = driver.input("others", utf8(), int64());
    let joined = driver.output("joined", utf8(), int64());
    pipe_ones(&mut driver, &[("a", 20), ("a", 30)]);
    others.pipe(&mut driver, text("a"), 1, 20);
    assert_eq!(joined.read_key_values(&mut driver), []);
    others.pipe(&mut driver, text("a"), 1, 30);
    // [10, 20] is closed; [21, 31] and [20, 30] are not.
    assert_eq!(
        joined.read_key_values(&mut driver),
        pairs(&[("a", 11), ("a", 22)])
    );
}

#[test]
fn a_window_is_emitted_once_by_the_record_that_closes_it_in_order_of_start_then_key() {
    let mut driver = driver(topology(sliding(10, 5), Emit::Finals));
    pipe_ones(&mut driver, &[("b", 20), ("a", 20), ("a", 24), ("x", 22)]);
    // At 25 a window that ends at 20 is still open.
    pipe_ones(&mut driver, &[("x", 25)]);
    assert_eq!(read(&mut driver), []);
    driver.restart().unwrap();
    pipe_ones(&mut driver, &[("x", 26), ("a", 20)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 10, 1, 20), ("b", 10, 1, 20)])
    );
    assert_eq!(late(&mut driver), ["1 for [10, 20) at 26"]);
    driver.crash().unwrap();
    pipe_ones(&mut driver, &[("x", 1_000)]);
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("x", 12, 1, 22),
            // 20, 24, and the late 20.
            ("a", 14, 32 * 31 + 1, 24),
            ("x", 15, 32, 25),
            ("x", 16, 32 * 31 + 1, 26),
            ("a", 21, 1, 24),
            ("x", 23, 32, 26),
            ("x", 26, 1, 26),
        ])
    );
}

#[test]
fn a_suppressed_window_leaves_when_it_is_closed_and_not_before() {
    // Kafka Streams lets [0, 10] go at 10, and again when 10 has come.
    let mut driver = driver(topology(sliding(10, 0), Emit::Suppressed));
    pipe_ones(&mut driver, &[("a", 0), ("x", 10), ("a", 10)]);
    assert_eq!(read(&mut driver), []);
    pipe_ones(&mut driver, &[("x", 11)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 0, 32, 10), ("x", 0, 1, 10)])
    );
}

/// The windows that the definition says there are, by their start, if a key has records at these timestamps.
fn starts(timestamps: &[i64], difference_ms: i64) -> BTreeSet<i64> {
    let own = timestamps.iter().map(|t| (t - difference_ms).max(0));
    let is_held = |start: i64| {
        let window = start..=start + difference_ms;
        timestamps.iter().any(|t| window.contains(t))
    };
    let behind = timestamps.iter().map(|t| t + 1).filter(|s| is_held(*s));
    own.chain(behind).collect()
}

/// What must come out, and what is late: after each record all windows are worked out anew from the records so far.
fn model(
    input: &[(&str, i64)],
    difference_ms: i64,
    grace_ms: i64,
    emit: Emit,
) -> (Vec<Row>, usize) {
    let mut taken: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    let mut open: BTreeSet<(i64, &str)> = BTreeSet::new();
    let (mut time, mut rows, mut late) = (-1, Vec::new(), 0);
    for (value, &(key, timestamp)) in (0..).zip(input) {
        time = time.max(timestamp);
        let closed = |start: &i64| start + difference_ms < time - grace_ms;
        let own = (timestamp - difference_ms).max(0);
        late += usize::from(closed(&own));
        let row = |taken: &BTreeMap<&str, Vec<(i64, i64)>>, start: i64, key: &str| {
            let held: Vec<_> = taken[key]
                .iter()
                .filter(|(t, _)| (start..=start + difference_ms).contains(t))
                .collect();
            let value = held
                .iter()
                .fold(0, |so_far, (_, value)| fold(so_far, *value));
            let latest = held.iter().map(|(t, _)| *t).max().unwrap();
            (text(key), start, value, latest)
        };
        // The last window that can hold the record.
        if !closed(&timestamp) {
            let records = taken.entry(key).or_default();
            let before_it: Vec<i64> = records.iter().map(|(t, _)| *t).collect();
            records.push((timestamp, value));
            let with_it = [before_it.clone(), vec![timestamp]].concat();
            let (old, now) = (
                starts(&before_it, difference_ms),
                starts(&with_it, difference_ms),
            );
            let new = |start: &i64| now.contains(start) && !old.contains(start);
            let mut updated: Vec<i64> = old.range(..=timestamp).copied().collect();
            updated.retain(|start| start + difference_ms >= timestamp);
            let previous = before_it.iter().filter(|t| **t < timestamp).max();
            let behind_previous = previous.map(|previous| previous + 1).filter(new);
            let behind = Some(timestamp + 1).filter(new);
            if timestamp < difference_ms {
                updated.retain(|start| *start != 0);
                updated.extend(behind);
                updated.extend(behind_previous.filter(|start| *start <= timestamp));
                updated.push(0);
            } else {
                updated.reverse();
                // Where both are one it comes twice, if a window that is looked at holds the previous record.
                let holds = |start: &i64| {
                    previous.is_some_and(|p| (*start..=start + difference_ms).contains(p))
                };
                let looked_at = old.range(timestamp - 2 * difference_ms..own).any(holds);
                let twice = behind_previous.filter(|start| *start != own || looked_at);
                updated.extend(twice);
                updated.extend(Some(own).filter(new));
                updated.extend(behind);
            }
            updated.retain(|start| !closed(start));
            for start in updated {
                open.insert((start, key));
                if emit == Emit::Updates {
                    rows.push(row(&taken, start, key));
                }
            }
        }
        let closing: Vec<_> = open.iter().copied().filter(|(s, _)| closed(s)).collect();
        for (start, key) in closing {
            open.remove(&(start, key));
            if emit != Emit::Updates {
                rows.push(row(&taken, start, key));
            }
        }
    }
    (rows, late)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_out_of_sliding_windows_is_what_the_model_says(
        input in prop::collection::vec(
            (prop::sample::select(&["a", "ab", "b"][..]), 0..80_i64),
            1..40,
        ),
        difference_ms in 0..20_i64,
        grace_ms in 0..30_i64,
        emit in prop::sample::select(&[Emit::Updates, Emit::Finals, Emit::Suppressed][..]),
        stops in prop::collection::btree_map(0..40_usize, any::<bool>(), 0..4),
    ) {
        let mut driver = driver(topology(sliding(difference_ms, grace_ms), emit));
        let topic = driver.input("in", utf8(), int64());
        for (i, (key, timestamp)) in input.iter().enumerate() {
            topic.pipe(&mut driver, text(key), i64::try_from(i).unwrap(), *timestamp);
            match stops.get(&i) {
                Some(true) => driver.crash().unwrap(),
                Some(false) => driver.restart().unwrap(),
                None => {}
            }
        }
        let (expected, late_ones) = model(&input, difference_ms, grace_ms, emit);
        prop_assert_eq!(read(&mut driver), expected);
        prop_assert_eq!(late(&mut driver).len(), late_ones);
    }
}
