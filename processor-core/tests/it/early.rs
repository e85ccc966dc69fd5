//! Results of windows before they close.

use std::collections::BTreeMap;
use std::time::Duration;

use processor_core::Windowed;
use processor_core::dsl::{
    EarlyFire, Grouped, SlidingWindows, StreamsBuilder, TimeWindows, UnlimitedWindows, Windows,
};
use processor_core::serde::{int64, nullable, utf8, windowed};
use processor_core::testing::TopologyTestDriver;
use proptest::prelude::*;

use crate::support::driver::{driver, numbers, text};
use crate::support::windows::{Row, pipe_ones, rows};

const SIZE_MS: i64 = 20;

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn hopping(advance_ms: i64, grace_ms: i64) -> TimeWindows {
    TimeWindows::hopping(ms(SIZE_MS), ms(advance_ms)).grace(ms(grace_ms))
}

/// Tells values apart, and their order.
fn fold(so_far: i64, value: i64) -> i64 {
    so_far.wrapping_mul(31).wrapping_add(value)
}

fn counts(windows: impl Into<Windows>, fire: EarlyFire) -> impl FnOnce(&StreamsBuilder) {
    let windows = windows.into();
    move |builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let windowed = grouped.windowed_by(windows).emit_early(fire);
        windowed.count("counts").to_stream().to("out");
    }
}

fn read(driver: &mut TopologyTestDriver) -> Vec<Row> {
    let out = driver.output("out", windowed(utf8(), SIZE_MS), int64());
    let rows = out.read(driver).into_iter().map(|record| {
        assert_eq!(record.headers, []);
        let Windowed { key, start, .. } = record.key;
        (key, start, record.value, record.timestamp)
    });
    rows.collect()
}

#[test]
fn each_window_counts_its_records_by_itself_and_begins_anew_with_each_result() {
    let mut driver = driver(counts(hopping(20, 0), EarlyFire::every_records(2)));
    pipe_ones(&mut driver, &[("a", 0), ("b", 1), ("a", 2), ("a", 3)]);
    driver.restart().unwrap();
    assert_eq!(read(&mut driver), rows(&[("a", 0, 2, 2)]));
    pipe_ones(&mut driver, &[("a", 4)]);
    driver.crash().unwrap();
    assert_eq!(read(&mut driver), rows(&[("a", 0, 4, 4)]));
    // The last result comes once more as the final one.
    pipe_ones(&mut driver, &[("x", 20)]);
    assert_eq!(read(&mut driver), rows(&[("a", 0, 4, 4), ("b", 0, 1, 1)]));
}

#[test]
fn a_window_is_due_when_time_has_moved_far_enough_and_not_before() {
    let fire = EarlyFire::every(ms(5));
    let mut driver = driver(counts(hopping(20, 0), fire));
    pipe_ones(&mut driver, &[("a", 2), ("b", 1), ("b", 6)]);
    assert_eq!(read(&mut driver), []);
    driver.restart().unwrap();
    // Both wait since 2: time is that of all keys. What makes them due is counted first.
    pipe_ones(&mut driver, &[("b", 7)]);
    assert_eq!(read(&mut driver), rows(&[("a", 0, 1, 2), ("b", 0, 3, 7)]));
    // There is nothing to say any more.
    pipe_ones(&mut driver, &[("x", 19)]);
    assert_eq!(read(&mut driver), []);
    driver.crash().unwrap();
    pipe_ones(&mut driver, &[("a", 18), ("x", 24)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 0, 2, 18), ("b", 0, 3, 7), ("x", 0, 1, 19)])
    );
}

#[test]
fn a_window_without_an_end_gives_results_for_ever_and_no_final_one() {
    let mut driver = driver(counts(
        UnlimitedWindows::from(10),
        EarlyFire::every(ms(1_000)),
    ));
    pipe_ones(&mut driver, &[("a", 10), ("a", 20), ("b", 1_010)]);
    driver.restart().unwrap();
    pipe_ones(&mut driver, &[("a", 500), ("b", 9_999)]);
    let out = driver.output("out", windowed(utf8(), i64::MAX), int64());
    let out: Vec<_> = out.read(&mut driver);
    let out: Vec<_> = out.iter().map(|r| (r.key.key.as_str(), r.value)).collect();
    assert_eq!(out, [("a", 2), ("a", 3), ("b", 2)]);
}

#[test]
fn sliding_windows_count_what_changes_them() {
    let windows = SlidingWindows::of(ms(SIZE_MS)).grace(ms(0));
    let mut driver = driver(counts(windows, EarlyFire::every_records(2)));
    pipe_ones(
        &mut driver,
        &[("a", 100), ("a", 100), ("a", 110), ("x", 121)],
    );
    assert_eq!(
        read(&mut driver),
        // What ends before 121 closes then; [80, 100] with what it said before.
        rows(&[("a", 80, 2, 100), ("a", 80, 2, 100), ("a", 90, 3, 110)])
    );
}

#[test]
fn in_a_table_the_old_value_is_the_result_before() {
    let mut driver = driver(|builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let windowed = grouped.windowed_by(hopping(20, 0));
        let counts = windowed
            .emit_early(EarlyFire::every_records(2))
            .count("counts");
        let all = Grouped::by(utf8()).value(int64());
        counts
            .table()
            .group_by(|_, count| (text("all"), *count), all)
            .reduce("sum", |a, b| a + b, |a, b| a - b)
            .to_stream()
            .to("sums");
    });
    pipe_ones(
        &mut driver,
        &[("a", 0), ("a", 1), ("b", 2), ("b", 3), ("a", 4)],
    );
    driver.restart().unwrap();
    pipe_ones(&mut driver, &[("a", 5), ("a", 6), ("x", 20)]);
    let sums = driver.output("sums", utf8(), nullable(int64()));
    let sums: Vec<_> = sums
        .read(&mut driver)
        .into_iter()
        .map(|r| r.value)
        .collect();
    // a gives 2, b 2, a 4 in place of 2; then 5 and 2 as final results.
    let last = sums.last().copied().flatten();
    assert_eq!(sums[..2], [Some(2), Some(4)]);
    assert_eq!(last, Some(7));
}

#[test]
fn what_is_due_or_closed_leaves_as_the_time_of_an_idle_input_goes_on() {
    let bound = Duration::from_secs(30);
    let mut driver = driver(|builder| {
        let grouped = builder
            .stream("in", numbers().advance_when_idle(bound))
            .group_by_key();
        let early = grouped.windowed_by(hopping(20, 60_000));
        let early = early.emit_early(EarlyFire::every(ms(5))).count("early");
        early.to_stream().to("out");
        // With one window of each kind that holds the record.
        let paned = grouped.windowed_by(hopping(10, 0)).emit_final();
        paned.count("paned").to_stream().to("paned");
        let sliding = SlidingWindows::of(ms(SIZE_MS)).grace(ms(0));
        let sliding = grouped.windowed_by(sliding).emit_final();
        sliding.count("sliding").to_stream().to("sliding");
    });
    pipe_ones(&mut driver, &[("a", 105)]);
    driver.advance_wall_clock(bound);
    assert_eq!(read(&mut driver), rows(&[("a", 100, 1, 105)]));
    let starts = |driver: &mut TopologyTestDriver, topic| {
        let output = driver.output(topic, windowed(utf8(), SIZE_MS), int64());
        let records = output.read(driver);
        records.iter().map(|r| r.key.start).collect::<Vec<_>>()
    };
    assert_eq!(starts(&mut driver, "paned"), [90, 100]);
    assert_eq!(starts(&mut driver, "sliding"), [85]);
    driver.advance_wall_clock(bound);
    assert_eq!(starts(&mut driver, "paned"), Vec::<i64>::new());
}

#[test]
fn results_that_can_never_come_are_refused() {
    for fire in [
        EarlyFire::every_records(0),
        EarlyFire::every(Duration::ZERO),
        EarlyFire::every_records(1).or_every(Duration::ZERO),
    ] {
        let builder = StreamsBuilder::new("under-test");
        counts(hopping(20, 0), fire)(&builder);
        let error = builder.build().err().unwrap().to_string();
        assert!(error.contains("'counts': early results"), "{error}");
    }
}

/// A window as the model has it.
#[derive(Default)]
struct Open {
    value: i64,
    latest: i64,
    records: u64,
    due: Option<i64>,
}

/// What must come out, worked out window by window from the definition.
fn model(
    input: &[(&str, i64)],
    (advance_ms, grace_ms): (i64, i64),
    (limit, every_ms): (Option<u64>, Option<i64>),
) -> Vec<Row> {
    let mut open: BTreeMap<(i64, &str), Open> = BTreeMap::new();
    let (mut time, mut rows) = (-1, Vec::new());
    for (value, &(key, timestamp)) in (0..).zip(input) {
        let moves = timestamp > time;
        time = time.max(timestamp);
        let closed = |start: i64| start + SIZE_MS + grace_ms <= time;
        let held = |start: &i64| start + SIZE_MS > timestamp && start % advance_ms == 0;
        for start in (0..=timestamp).filter(held).filter(|s| !closed(*s)) {
            let window = open.entry((start, key)).or_default();
            window.value = fold(window.value, value);
            window.latest = window.latest.max(timestamp);
            window.records += 1;
            if limit.is_some_and(|limit| window.records >= limit) {
                (window.records, window.due) = (0, None);
                rows.push((text(key), start, window.value, window.latest));
            } else if window.due.is_none() {
                window.due = every_ms.map(|every_ms| time + every_ms);
            }
        }
        if !moves {
            continue;
        }
        open.retain(|(start, key), window| {
            if closed(*start) {
                rows.push((text(key), *start, window.value, window.latest));
            }
            !closed(*start)
        });
        let mut due: Vec<(i64, i64, &str)> = open
            .iter()
            .filter_map(|((start, key), window)| Some((window.due?, *start, *key)))
            .filter(|(due, _, _)| *due <= time)
            .collect();
        due.sort_unstable();
        for (_, start, key) in due {
            let window = open.get_mut(&(start, key)).unwrap();
            (window.records, window.due) = (0, None);
            rows.push((text(key), start, window.value, window.latest));
        }
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_out_early_and_at_last_is_what_the_model_says(
        input in prop::collection::vec(
            (prop::sample::select(&["a", "ab", "b"][..]), 0..100_i64),
            1..50,
        ),
        advance_ms in 4..=SIZE_MS,
        grace_ms in 0..30_i64,
        limit in prop::option::of(1..5_u64),
        every_ms in 1..30_i64,
        by_time in any::<bool>(),
        stops in prop::collection::btree_map(0..50_usize, any::<bool>(), 0..4),
    ) {
        let (fire, every_ms) = match limit {
            Some(records) if by_time => {
                (EarlyFire::every_records(records).or_every(ms(every_ms)), Some(every_ms))
            }
            Some(records) => (EarlyFire::every_records(records), None),
            None => (EarlyFire::every(ms(every_ms)), Some(every_ms)),
        };
        let mut driver = driver(|builder| {
            let grouped = builder.stream("in", numbers()).group_by_key();
            grouped
                .windowed_by(hopping(advance_ms, grace_ms))
                .emit_early(fire)
                .aggregate("folded", int64(), || 0, |_, v, a| fold(a, v))
                .to_stream()
                .to("out");
        });
        let topic = driver.input("in", utf8(), int64());
        for (i, (key, timestamp)) in input.iter().enumerate() {
            topic.pipe(&mut driver, text(key), i64::try_from(i).unwrap(), *timestamp);
            match stops.get(&i) {
                Some(true) => driver.crash().unwrap(),
                Some(false) => driver.restart().unwrap(),
                None => {}
            }
        }
        let expected = model(&input, (advance_ms, grace_ms), (limit, every_ms));
        prop_assert_eq!(read(&mut driver), expected);
    }
}
