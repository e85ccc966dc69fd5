//! Hopping windows, and tumbling and hopping windows that are emitted when they close.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use processor_core::dsl::{KGroupedStream, Produced, StreamsBuilder, TimeWindows, WindowedTable};
use processor_core::serde::{int64, nullable, utf8, windowed};
use processor_core::testing::TopologyTestDriver;
use proptest::prelude::*;

use crate::support::driver::{driver, numbers, text};
use crate::support::windows::{Row, late, read_windows, rows};
use crate::windowed::LateText;

const SIZE_MS: i64 = 10;

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn hopping(advance_ms: i64, grace_ms: i64) -> TimeWindows {
    TimeWindows::hopping(ms(SIZE_MS), ms(advance_ms)).grace(ms(grace_ms))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emit {
    Updates,
    Finals,
}

/// Tells values apart, and their order.
fn fold(so_far: i64, value: i64) -> i64 {
    so_far.wrapping_mul(31).wrapping_add(value)
}

/// The values of each window, in the order in which they came.
fn folded(
    grouped: &KGroupedStream<String, i64>,
    windows: TimeWindows,
    emit: Emit,
) -> WindowedTable<String, i64, i64> {
    let windowed = match emit {
        Emit::Updates => grouped.windowed_by(windows),
        Emit::Finals => grouped.windowed_by(windows).emit_final(),
    };
    windowed.aggregate("folded", int64(), || 0, |_, v, a| fold(a, v))
}

fn topology(windows: TimeWindows, emit: Emit) -> impl Fn(&StreamsBuilder) {
    move |builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let folded = folded(&grouped, windows, emit);
        folded.to_stream().to("out");
        let late = Produced::new(utf8(), LateText);
        folded.late().to_with("late", late);
    }
}

fn pipe(driver: &mut TopologyTestDriver, input: &[(&str, i64, i64)]) {
    let topic = driver.input("in", utf8(), int64());
    for (key, value, timestamp) in input {
        topic.pipe(driver, text(key), *value, *timestamp);
    }
}

fn read(driver: &mut TopologyTestDriver) -> Vec<Row> {
    read_windows(driver, SIZE_MS)
}

#[test]
fn a_record_updates_every_window_that_holds_it_the_earliest_first() {
    let mut driver = driver(topology(hopping(5, 0), Emit::Updates));
    pipe(&mut driver, &[("a", 1, 3), ("a", 2, 12)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 0, 1, 3), ("a", 5, 2, 12), ("a", 10, 2, 12)])
    );
}

#[test]
fn a_record_too_late_for_one_window_still_counts_in_the_others() {
    let mut driver = driver(topology(hopping(5, 2), Emit::Updates));
    // [0, 10) closes at 12, [5, 15) at 17.
    pipe(
        &mut driver,
        &[("a", 1, 12), ("a", 2, 7), ("a", 3, 17), ("a", 4, 9)],
    );
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("a", 5, 1, 12),
            ("a", 10, 1, 12),
            ("a", 5, 33, 12),
            ("a", 10, 34, 17),
            ("a", 15, 3, 17),
        ])
    );
    assert_eq!(
        late(&mut driver),
        [
            "2 for [0, 10) at 12",
            "4 for [0, 10) at 17",
            "4 for [5, 15) at 17"
        ]
    );
}

#[test]
fn an_advance_that_does_not_fit_the_size_is_reported() {
    for advance_ms in [0, SIZE_MS + 1] {
        let builder = StreamsBuilder::new("under-test");
        topology(hopping(advance_ms, 0), Emit::Updates)(&builder);
        let error = builder.build().err().unwrap().to_string();
        assert!(error.contains("'folded': windows of 10 ms"), "{error}");
    }
}

#[test]
fn a_window_is_emitted_once_by_the_record_that_closes_it_in_order_of_start_then_key() {
    let mut driver = driver(topology(hopping(10, 2), Emit::Finals));
    pipe(
        &mut driver,
        &[("b", 1, 3), ("a", 2, 5), ("ab", 3, 1), ("b", 4, 14)],
    );
    // At 12 [0, 10) is closed; the record that did it is counted in its own window.
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 0, 2, 5), ("ab", 0, 3, 1), ("b", 0, 1, 3)])
    );
    pipe(&mut driver, &[("b", 5, 11), ("a", 6, 500), ("a", 7, 400)]);
    assert_eq!(read(&mut driver), rows(&[("b", 10, 4 * 31 + 5, 14)]));
    assert_eq!(late(&mut driver), ["7 for [400, 410) at 500"]);
}

#[test]
fn final_results_are_not_lost_when_time_leaps() {
    // Kafka Streams emits nothing here: the window leaves its store's retention in the step that closes it.
    let mut driver = driver(topology(hopping(10, 0), Emit::Finals));
    pipe(
        &mut driver,
        &[("a", 1, 0), ("a", 2, 5), ("b", 3, 25), ("b", 4, 100)],
    );
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 0, 33, 5), ("b", 20, 3, 25)])
    );
}

#[test]
fn a_window_that_was_emitted_stays_closed_and_one_that_was_not_is_emitted_after_a_restart() {
    let mut driver = driver(topology(hopping(10, 0), Emit::Finals));
    pipe(&mut driver, &[("a", 1, 3), ("b", 2, 12)]);
    driver.restart().unwrap();
    pipe(&mut driver, &[("a", 3, 4)]);
    driver.crash().unwrap();
    pipe(&mut driver, &[("a", 4, 20)]);
    driver.restart().unwrap();
    pipe(&mut driver, &[("a", 5, 21), ("a", 6, 30)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 0, 1, 3), ("b", 10, 2, 12), ("a", 20, 4 * 31 + 5, 21)])
    );
    assert_eq!(late(&mut driver), ["3 for [0, 10) at 12"]);
}

#[test]
fn a_windowed_table_forwards_changes_and_can_be_looked_up() {
    let mut driver = driver(|builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let folded = folded(&grouped, hopping(10, 0), Emit::Updates);
        let even = folded.table().filter(|_, v| v % 2 == 0);
        // The left join reads old values, so the filter says what changed and nothing else.
        even.to_stream().to("even");
        let joined = even.left_join("self", &folded.table(), |_, v, w| v * 1_000 + w.unwrap());
        joined
            .with_serdes(windowed(utf8(), SIZE_MS), int64())
            .to_stream()
            .to("out");
    });
    pipe(&mut driver, &[("a", 1, 3), ("a", 1, 4), ("a", 1, 5)]);
    let even = driver.output("even", windowed(utf8(), SIZE_MS), nullable(int64()));
    let even: Vec<_> = even
        .read(&mut driver)
        .into_iter()
        .map(|record| (record.value, record.timestamp))
        .collect();
    assert_eq!(even, [(Some(32), 4), (None, 5)]);
}

/// What must come out, and what is late, worked out window by window from the definition.
fn model(
    input: &[(&str, i64)],
    windows: TimeWindows,
    (advance_ms, grace_ms): (i64, i64),
    emit: Emit,
) -> (Vec<Row>, usize) {
    assert_eq!(windows, hopping(advance_ms, grace_ms));
    let mut open: BTreeMap<(i64, String), (i64, i64)> = BTreeMap::new();
    let mut emitted = BTreeSet::new();
    let (mut time, mut rows, mut late) = (-1, Vec::new(), 0);
    for (value, &(key, timestamp)) in (0..).zip(input) {
        time = time.max(timestamp);
        for start in 0..=timestamp {
            if start % advance_ms != 0 || start + SIZE_MS <= timestamp {
                continue;
            }
            if start + SIZE_MS + grace_ms <= time {
                late += 1;
                continue;
            }
            let (value_so_far, latest) = open.entry((start, text(key))).or_insert((0, timestamp));
            *value_so_far = fold(*value_so_far, value);
            *latest = timestamp.max(*latest);
            if emit == Emit::Updates {
                rows.push((text(key), start, *value_so_far, *latest));
            }
        }
        if emit == Emit::Finals {
            for ((start, key), (value, latest)) in &open {
                let closed = start + SIZE_MS + grace_ms <= time;
                if closed && emitted.insert((*start, key.clone())) {
                    rows.push((key.clone(), *start, *value, *latest));
                }
            }
        }
    }
    (rows, late)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_out_of_hopping_windows_is_what_the_model_says(
        input in prop::collection::vec(
            (prop::sample::select(&["a", "ab", "b"][..]), 0..60_i64),
            1..40,
        ),
        advance_ms in 1..=SIZE_MS,
        grace_ms in 0..30_i64,
        emit in prop::sample::select(&[Emit::Updates, Emit::Finals][..]),
        stops in prop::collection::btree_map(0..40_usize, any::<bool>(), 0..4),
    ) {
        let windows = hopping(advance_ms, grace_ms);
        let mut driver = driver(topology(windows, emit));
        for (i, (key, timestamp)) in input.iter().enumerate() {
            pipe(&mut driver, &[(key, i64::try_from(i).unwrap(), *timestamp)]);
            match stops.get(&i) {
                Some(true) => driver.crash().unwrap(),
                Some(false) => driver.restart().unwrap(),
                None => {}
            }
        }
        let (expected, late_ones) = model(&input, windows, (advance_ms, grace_ms), emit);
        prop_assert_eq!(read(&mut driver), expected);
        prop_assert_eq!(late(&mut driver).len(), late_ones);
    }
}
