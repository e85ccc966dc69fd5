//! Aggregations over sessions.

use std::collections::BTreeMap;
use std::time::Duration;

use processor_core::dsl::{Produced, SessionTable, SessionWindows, StreamsBuilder};
use processor_core::serde::{int64, nullable, session_windowed, utf8};
use proptest::prelude::*;

use crate::support::driver::{driver, nullable_numbers, numbers, text};
use crate::support::windows::{SessionRow, late, pipe, read_sessions, session_rows};
use crate::windowed::LateText;

const GAP_MS: i64 = 10;

fn sessions(grace_ms: i64) -> SessionWindows {
    let ms = |ms: i64| Duration::from_millis(ms.unsigned_abs());
    SessionWindows::gap(ms(GAP_MS)).grace(ms(grace_ms))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emit {
    Updates,
    Finals,
}

/// Sums in sessions; late records go to `late`.
fn sums(grace_ms: i64, emit: Emit) -> impl Fn(&StreamsBuilder) {
    move |builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let windowed = grouped.windowed_by_session(sessions(grace_ms));
        let sums: SessionTable<_, _, i64> = match emit {
            Emit::Updates => windowed.reduce("sums", |a, b| a + b),
            Emit::Finals => windowed.emit_final().reduce("sums", |a, b| a + b),
        };
        sums.to_stream().to("out");
        let late = Produced::new(utf8(), LateText);
        sums.late().to_with("late", late);
    }
}

#[test]
fn a_session_that_grows_is_retracted_first() {
    let mut driver = driver(sums(100, Emit::Updates));
    pipe(
        &mut driver,
        &[("a", 1, 20), ("a", 2, 30), ("a", 4, 25), ("a", 8, 10)],
    );
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[
            ("a", 20, 20, Some(1)),
            ("a", 20, 20, None),
            ("a", 20, 30, Some(3)),
            ("a", 20, 30, None),
            ("a", 20, 30, Some(7)),
            ("a", 20, 30, None),
            ("a", 10, 30, Some(15)),
        ])
    );
}

#[test]
fn a_record_that_joins_sessions_retracts_all_of_them_by_time_and_then_gives_the_merged_one() {
    let mut driver = driver(sums(100, Emit::Updates));
    pipe(&mut driver, &[("a", 1, 40), ("a", 2, 20), ("b", 4, 30)]);
    read_sessions(&mut driver);
    pipe(&mut driver, &[("a", 8, 30)]);
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[
            ("a", 20, 20, None),
            ("a", 40, 40, None),
            ("a", 20, 40, Some(11))
        ])
    );
}

#[test]
fn records_at_one_timestamp_overwrite_their_session() {
    let mut driver = driver(sums(0, Emit::Updates));
    pipe(&mut driver, &[("a", 1, 5), ("a", 2, 5)]);
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[("a", 5, 5, Some(1)), ("a", 5, 5, Some(3))])
    );
}

#[test]
fn records_further_apart_than_the_gap_are_in_different_sessions() {
    let mut driver = driver(sums(0, Emit::Updates));
    pipe(&mut driver, &[("a", 1, 0), ("a", 2, 10), ("a", 4, 21)]);
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[
            ("a", 0, 0, Some(1)),
            ("a", 0, 0, None),
            ("a", 0, 10, Some(3)),
            ("a", 21, 21, Some(4))
        ])
    );
}

#[test]
fn a_session_that_ends_exactly_gap_and_grace_before_stream_time_is_still_open() {
    let mut driver = driver(sums(0, Emit::Updates));
    pipe(&mut driver, &[("a", 1, 0), ("x", 2, 10), ("a", 4, 10)]);
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[
            ("a", 0, 0, Some(1)),
            ("x", 10, 10, Some(2)),
            ("a", 0, 0, None),
            ("a", 0, 10, Some(5))
        ])
    );
}

#[test]
fn a_session_that_ends_one_before_is_closed_and_a_record_in_it_is_late() {
    let mut driver = driver(sums(5, Emit::Updates));
    pipe(
        &mut driver,
        &[("a", 1, 0), ("x", 2, 16), ("a", 4, 0), ("a", 8, 1)],
    );
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[
            ("a", 0, 0, Some(1)),
            ("x", 16, 16, Some(2)),
            // Not the session that ended at 0: that one is closed.
            ("a", 1, 1, Some(8))
        ])
    );
    assert_eq!(late(&mut driver), ["4 for [0, 0) at 16"]);
}

#[test]
fn a_record_as_old_as_a_late_one_still_counts_in_an_open_session() {
    let mut driver = driver(sums(0, Emit::Updates));
    pipe(&mut driver, &[("a", 1, 10), ("x", 2, 20), ("a", 4, 5)]);
    read_sessions(&mut driver);
    assert_eq!(late(&mut driver), Vec::<String>::new());
    pipe(&mut driver, &[("b", 8, 9)]);
    assert_eq!(late(&mut driver), ["8 for [9, 9) at 20"]);
}

#[test]
fn null_keys_and_values_neither_count_nor_move_time() {
    let mut driver = driver(|builder| {
        let grouped = builder.stream("in", nullable_numbers()).group_by_key();
        let counts = grouped.windowed_by_session(sessions(0)).count("counts");
        counts.to_stream().to("out");
    });
    let input = driver.input("in", nullable(utf8()), nullable(int64()));
    input.pipe(&mut driver, None, Some(1), 500);
    input.pipe(&mut driver, Some(text("a")), None, 500);
    input.pipe(&mut driver, Some(text("a")), Some(1), 3);
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[("a", 3, 3, Some(1))])
    );
}

#[test]
fn sessions_are_merged_by_time_from_the_initial_value_and_the_record_comes_last() {
    let mut driver = driver(|builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let texts = grouped.windowed_by_session(sessions(100)).aggregate(
            "texts",
            utf8(),
            || text("="),
            |k, v, a| format!("{a}{k}{v}"),
            |k, a, b| format!("({a}{k}{b})"),
        );
        texts.to_stream().to("out");
    });
    pipe(&mut driver, &[("k", 1, 40), ("k", 2, 20), ("k", 3, 30)]);
    let out = driver.output("out", session_windowed(utf8()), nullable(utf8()));
    let out: Vec<_> = out
        .read(&mut driver)
        .into_iter()
        .filter_map(|record| record.value)
        .collect();
    assert_eq!(out, ["=k1", "=k2", "((=k=k2)k=k1)k3"]);
}

#[test]
fn a_grace_without_end_never_closes_a_session() {
    let mut driver = driver(|builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let sessions = SessionWindows::gap(Duration::from_millis(10)).grace(Duration::MAX);
        let counts = grouped.windowed_by_session(sessions).count("counts");
        counts.to_stream().to("out");
    });
    pipe(
        &mut driver,
        &[("a", 1, 1), ("a", 1, 1_000_000), ("a", 1, 2)],
    );
    assert_eq!(
        read_sessions(&mut driver).last(),
        session_rows(&[("a", 1, 2, Some(2))]).last()
    );
}

#[test]
fn a_restart_remembers_sessions_and_what_time_it_was() {
    let mut driver = driver(sums(0, Emit::Updates));
    pipe(&mut driver, &[("a", 1, 0), ("b", 2, 5), ("x", 4, 15)]);
    driver.restart().unwrap();
    pipe(&mut driver, &[("a", 8, 0)]);
    driver.crash().unwrap();
    pipe(&mut driver, &[("b", 16, 6)]);
    assert_eq!(
        read_sessions(&mut driver)[3..],
        session_rows(&[("b", 5, 5, None), ("b", 5, 6, Some(18))])
    );
    assert_eq!(late(&mut driver), ["8 for [0, 0) at 15"]);
}

#[test]
fn a_session_is_emitted_once_by_the_record_that_closes_it_by_end_then_start_then_key() {
    let mut driver = driver(sums(20, Emit::Finals));
    pipe(
        &mut driver,
        &[
            ("b", 1, 3),
            ("a", 2, 14),
            ("b", 4, 8),
            ("c", 8, 14),
            ("b", 16, 14),
            ("z", 32, 44),
        ],
    );
    // At 44 a session that ends at 14 is still open.
    assert_eq!(read_sessions(&mut driver), []);
    driver.restart().unwrap();
    pipe(&mut driver, &[("z", 64, 45)]);
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[
            ("b", 3, 14, Some(21)),
            ("a", 14, 14, Some(2)),
            ("c", 14, 14, Some(8))
        ])
    );
    driver.crash().unwrap();
    pipe(&mut driver, &[("z", 128, 1_000), ("z", 256, 2_000)]);
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[("z", 44, 45, Some(96)), ("z", 1_000, 1_000, Some(128))])
    );
}

/// A key's records that are in open sessions.
type Records = Vec<(i64, i64)>;

/// Runs of records at most the gap apart: `(start, end, sum)`.
fn clusters(records: &Records) -> Vec<(i64, i64, i64)> {
    let mut sorted = records.clone();
    sorted.sort_unstable();
    let mut clusters: Vec<(i64, i64, i64)> = Vec::new();
    for (timestamp, value) in sorted {
        match clusters.last_mut() {
            Some(last) if timestamp - last.1 <= GAP_MS => {
                *last = (last.0, timestamp, last.2 + value);
            }
            _ => clusters.push((timestamp, timestamp, value)),
        }
    }
    clusters
}

/// What must come out, and what is late: after each record all sessions are worked out anew from what was taken.
fn model(input: &[(&str, i64)], grace_ms: i64, emit: Emit) -> (Vec<SessionRow>, usize) {
    let mut open: BTreeMap<&str, Records> = BTreeMap::new();
    let (mut time, mut rows, mut late) = (-1, Vec::new(), 0);
    for (value, &(key, timestamp)) in (0..).zip(input) {
        time = time.max(timestamp);
        let open_from = time - grace_ms - GAP_MS;
        let records = open.entry(key).or_default();
        let before: Vec<_> = clusters(records)
            .into_iter()
            .filter(|(_, end, _)| *end >= open_from)
            .collect();
        let in_open = |(t, _): &(i64, i64)| before.iter().any(|c| (c.0..=c.1).contains(t));
        let mut after: Records = records.iter().copied().filter(in_open).collect();
        after.push((timestamp, value));
        let around = clusters(&after)
            .into_iter()
            .find(|c| (c.0..=c.1).contains(&timestamp));
        let (start, end, sum) = around.unwrap();
        if end < open_from {
            late += 1;
        } else {
            if emit == Emit::Updates {
                let parts = before.iter().filter(|c| start <= c.0 && c.1 <= end);
                if start < end {
                    rows.extend(parts.map(|c| (text(key), c.0, c.1, None)));
                }
                rows.push((text(key), start, end, Some(sum)));
            }
            records.push((timestamp, value));
        }
        // What is closed now leaves, and so do its records.
        let mut closed = Vec::new();
        for (key, records) in &mut open {
            for (start, end, sum) in clusters(records) {
                if end < open_from {
                    closed.push((end, start, text(key), sum));
                    records.retain(|(t, _)| !(start..=end).contains(t));
                }
            }
        }
        closed.sort();
        if emit == Emit::Finals {
            rows.extend(
                closed
                    .into_iter()
                    .map(|(e, s, k, sum)| (k, s, e, Some(sum))),
            );
        }
    }
    (rows, late)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_out_of_sessions_is_what_the_model_says(
        input in prop::collection::vec(
            (prop::sample::select(&["a", "ab", "b"][..]), 0..120_i64),
            1..40,
        ),
        grace_ms in 0..60_i64,
        emit in prop::sample::select(&[Emit::Updates, Emit::Finals][..]),
        stops in prop::collection::btree_map(0..40_usize, any::<bool>(), 0..4),
    ) {
        let mut driver = driver(sums(grace_ms, emit));
        for (i, (key, timestamp)) in input.iter().enumerate() {
            pipe(&mut driver, &[(key, i64::try_from(i).unwrap(), *timestamp)]);
            match stops.get(&i) {
                Some(true) => driver.crash().unwrap(),
                Some(false) => driver.restart().unwrap(),
                None => {}
            }
        }
        let (expected, late_ones) = model(&input, grace_ms, emit);
        prop_assert_eq!(read_sessions(&mut driver), expected);
        prop_assert_eq!(late(&mut driver).len(), late_ones);
    }
}
