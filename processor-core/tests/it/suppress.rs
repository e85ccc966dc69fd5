//! Tables whose updates are held back.

use std::time::Duration;

use bytes::Bytes;
use processor_core::Record;
use processor_core::dsl::{
    Buffer, Grouped, Produced, SessionWindows, StreamsBuilder, TimeWindows, WhenFull,
};
use processor_core::log::Header;
use processor_core::serde::{int64, nullable, session_windowed, utf8, windowed};
use processor_core::testing::TopologyTestDriver;
use proptest::prelude::*;

use crate::support::driver::{driver, numbers, text};

const LIMIT_MS: i64 = 5;

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

/// A table whose updates wait for 5 ms.
fn calm(buffer: Buffer) -> impl Fn(&StreamsBuilder) {
    move |builder| {
        builder
            .table("rows", "table", numbers())
            .suppress_until_time_limit("calm", ms(LIMIT_MS), buffer)
            .to_stream()
            .to("out");
    }
}

fn put(driver: &mut TopologyTestDriver, key: &str, value: Option<i64>, time: i64) {
    let input = driver.input("rows", utf8(), nullable(int64()));
    input.pipe(driver, text(key), value, time);
}

type Row = (String, Option<i64>, i64);

fn read(driver: &mut TopologyTestDriver) -> Vec<Row> {
    let records = driver.output("out", utf8(), nullable(int64())).read(driver);
    let row = |r: Record<String, Option<i64>>| (r.key, r.value, r.timestamp);
    records.into_iter().map(row).collect()
}

fn rows(expected: &[(&str, Option<i64>, i64)]) -> Vec<Row> {
    expected.iter().map(|(k, v, t)| (text(k), *v, *t)).collect()
}

#[test]
fn an_update_that_waits_is_replaced_and_does_not_wait_anew() {
    let mut driver = driver(calm(Buffer::unbounded()));
    put(&mut driver, "a", Some(1), 10);
    put(&mut driver, "a", Some(2), 14);
    put(&mut driver, "b", Some(3), 12);
    assert_eq!(read(&mut driver), []);
    // a waits since 10, b since 12; the record at hand is taken before anything leaves.
    put(&mut driver, "a", Some(4), 15);
    assert_eq!(read(&mut driver), rows(&[("a", Some(4), 15)]));
    put(&mut driver, "a", Some(5), 16);
    put(&mut driver, "c", Some(6), 21);
    assert_eq!(
        read(&mut driver),
        rows(&[("b", Some(3), 12), ("a", Some(5), 16)])
    );
}

#[test]
fn a_deletion_leaves_after_the_time_limit_too_and_has_the_timestamp_of_the_latest_update() {
    let mut driver = driver(calm(Buffer::unbounded()));
    put(&mut driver, "a", Some(1), 10);
    put(&mut driver, "a", None, 3);
    put(&mut driver, "b", Some(2), 15);
    assert_eq!(read(&mut driver), rows(&[("a", None, 3)]));
}

#[test]
fn without_a_limit_updates_leave_at_once() {
    let mut driver = driver(|builder| {
        builder
            .table("rows", "table", numbers())
            .suppress_until_time_limit("calm", Duration::ZERO, Buffer::unbounded())
            .to_stream()
            .to("out");
    });
    put(&mut driver, "a", Some(1), 10);
    put(&mut driver, "a", Some(2), 9);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", Some(1), 10), ("a", Some(2), 9)])
    );
}

#[test]
fn what_leaves_has_the_headers_of_the_latest_update() {
    let mut driver = driver(calm(Buffer::unbounded()));
    let input = driver.input("rows", utf8(), int64());
    for (value, time) in [(1, 0), (2, 1)] {
        let mut record = Record::new(text("a"), value, time);
        let header = |name: &str, value| Header {
            name: name.into(),
            value,
        };
        record.headers = vec![
            header("n", Some(Bytes::from(value.to_string()))),
            header("none", None),
        ];
        input.pipe_record(&mut driver, &record);
    }
    driver.restart().unwrap();
    put(&mut driver, "b", Some(3), 5);
    let out = driver.output("out", utf8(), nullable(int64()));
    let out = out.read(&mut driver);
    let headers: Vec<_> = out[0]
        .headers
        .iter()
        .map(|h| (&*h.name, h.value.as_deref()))
        .collect();
    assert_eq!(headers, [("n", Some(&b"2"[..])), ("none", None)]);
}

#[test]
fn a_full_buffer_lets_go_of_the_oldest() {
    let mut driver = driver(calm(Buffer::max_records(2, WhenFull::EmitEarly)));
    for (key, time) in [("a", 10), ("b", 9), ("a", 10), ("c", 11)] {
        put(&mut driver, key, Some(time), time);
    }
    assert_eq!(read(&mut driver), rows(&[("b", Some(9), 9)]));
    // Of what came at one time, the least key.
    put(&mut driver, "d", Some(1), 10);
    assert_eq!(read(&mut driver), rows(&[("a", Some(10), 10)]));
}

#[test]
fn a_full_buffer_may_stop_the_task() {
    let mut of_records = driver(calm(Buffer::max_records(1, WhenFull::Stop)));
    let mut of_bytes = driver(calm(Buffer::max_bytes(30, WhenFull::Stop)));
    for driver in [&mut of_records, &mut of_bytes] {
        put(driver, "a", Some(1), 0);
        let input = driver.input("rows", utf8(), int64());
        let error = input.try_pipe(driver, &text("b"), &2, 0).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("calm: its buffer is full: 2 records"),
            "{error}"
        );
    }
}

#[test]
fn an_aggregation_below_subtracts_what_it_was_given_and_not_what_nobody_saw() {
    let mut driver = driver(|builder| {
        builder
            .table("rows", "table", numbers())
            .suppress_until_time_limit("calm", ms(5), Buffer::unbounded())
            .group_by(|_, v| (text("all"), *v), Grouped::by(utf8()).value(int64()))
            .reduce("sums", |a, b| a + b, |a, b| a - b)
            .to_stream()
            .to("out");
    });
    for (key, value, time) in [
        ("a", 1, 0),
        ("a", 2, 1),
        ("x", 10, 6),
        ("a", 4, 7),
        ("a", 8, 8),
        ("x", 20, 13),
    ] {
        put(&mut driver, key, Some(value), time);
    }
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("all", Some(2), 1),
            ("all", Some(22), 13),
            ("all", Some(28), 13)
        ])
    );
}

#[test]
fn a_join_sees_what_has_left_the_buffer() {
    let mut driver = driver(|builder| {
        let calm = builder
            .table("rows", "table", numbers())
            .suppress_until_time_limit("calm", ms(5), Buffer::unbounded());
        builder
            .stream("in", numbers())
            .left_join_table("join", &calm, |_, v, row| v * 10 + row.unwrap_or(0))
            .to_with("out", Produced::new(utf8(), int64()));
    });
    let input = driver.input("in", utf8(), int64());
    put(&mut driver, "a", Some(1), 0);
    input.pipe(&mut driver, text("a"), 7, 0);
    put(&mut driver, "x", Some(9), 6);
    input.pipe(&mut driver, text("a"), 7, 7);
    put(&mut driver, "a", Some(4), 7);
    driver.restart().unwrap();
    input.pipe(&mut driver, text("a"), 7, 8);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", Some(70), 0), ("a", Some(71), 7), ("a", Some(71), 8)])
    );
}

#[test]
fn a_window_leaves_once_when_it_is_closed_and_not_if_it_holds_nothing_then() {
    let mut driver = driver(|builder| {
        let windows = TimeWindows::tumbling(ms(10)).grace(ms(2));
        builder
            .stream("rows", numbers())
            .group_by_key()
            .windowed_by(windows)
            .reduce("sums", |a, b| a + b)
            .table()
            .filter(|_, sum| *sum % 2 == 0)
            .suppress_until_window_closes("finals", Buffer::unbounded())
            .to_stream()
            .to("out");
    });
    for (key, value, time) in [
        ("b", 2, 0),
        ("b", 4, 5),
        ("a", 2, 3),
        ("c", 2, 1),
        ("c", 1, 2),
    ] {
        put(&mut driver, key, Some(value), time);
    }
    put(&mut driver, "b", Some(6), 11);
    driver.restart().unwrap();
    put(&mut driver, "b", Some(8), 4);
    let out = driver.output("out", windowed(utf8(), 10), nullable(int64()));
    assert_eq!(out.read(&mut driver), []);
    put(&mut driver, "b", Some(2), 12);
    let closed: Vec<_> = out
        .read(&mut driver)
        .into_iter()
        .map(|r| (r.key.key, r.key.start, r.value, r.timestamp))
        .collect();
    assert_eq!(
        closed,
        [(text("a"), 0, Some(2), 3), (text("b"), 0, Some(14), 5),]
    );
}

#[test]
fn a_session_leaves_when_it_is_closed_and_not_before() {
    let mut driver = driver(|builder| {
        let sessions = SessionWindows::gap(ms(10)).grace(Duration::ZERO);
        builder
            .stream("rows", numbers())
            .group_by_key()
            .windowed_by_session(sessions)
            .count("counts")
            .table()
            .suppress_until_window_closes("finals", Buffer::unbounded())
            .to_stream()
            .to("out");
    });
    for (key, time) in [("a", 0), ("x", 10), ("a", 10), ("x", 50)] {
        put(&mut driver, key, Some(1), time);
    }
    let out = driver.output("out", session_windowed(utf8()), nullable(int64()));
    let closed: Vec<_> = out
        .read(&mut driver)
        .into_iter()
        .map(|r| (r.key.key, r.key.start, r.key.end, r.value))
        .collect();
    assert_eq!(
        closed,
        [(text("a"), 0, 10, Some(2)), (text("x"), 10, 10, Some(1)),]
    );
}

#[test]
fn what_cannot_be_suppressed_is_reported() {
    let builder = StreamsBuilder::new("under-test");
    let windowed_rows = processor_core::dsl::Consumed::new(windowed(utf8(), 10), int64());
    let table = builder.table("rows", "table", windowed_rows);
    let _ = table.suppress_until_window_closes("no-windows", Buffer::unbounded());
    let windows = TimeWindows::tumbling(ms(10)).grace(ms(0));
    let stream = builder.stream("in", numbers());
    let counts = stream.group_by_key().windowed_by(windows).count("counts");
    let early = Buffer::max_records(1, WhenFull::EmitEarly);
    let _ = counts.table().suppress_until_window_closes("early", early);
    let mapped = counts.table().map_values(|_, count| (count, count));
    let _ = mapped.suppress_until_window_closes("no-serdes", Buffer::unbounded());
    let error = builder.build().err().unwrap().to_string();
    for problem in [
        "'no-windows': it cannot tell when windows close",
        "'early': final results cannot leave early",
        "'no-serdes' has no serdes",
    ] {
        assert!(error.contains(problem), "{error}");
    }
}

/// What must come out: the buffer as a plain list.
fn model(input: &[(&str, Option<i64>, i64)], max_records: usize) -> Vec<Row> {
    let mut waiting: Vec<(i64, &str, Option<i64>, i64)> = Vec::new();
    let (mut time, mut out) = (-1, Vec::new());
    for &(key, value, timestamp) in input {
        time = time.max(timestamp);
        match waiting.iter_mut().find(|row| row.1 == key) {
            Some(row) => (row.2, row.3) = (value, timestamp),
            None => waiting.push((timestamp, key, value, timestamp)),
        }
        waiting.sort_by_key(|row| (row.0, row.1));
        while waiting
            .first()
            .is_some_and(|row| row.0 + LIMIT_MS <= time || waiting.len() > max_records)
        {
            let (_, key, value, timestamp) = waiting.remove(0);
            out.push((text(key), value, timestamp));
        }
    }
    out
}

fn stop(driver: &mut TopologyTestDriver, how: Option<&bool>) {
    match how {
        Some(true) => driver.crash().unwrap(),
        Some(false) => driver.restart().unwrap(),
        None => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_leaves_the_buffer_is_what_the_model_says(
        input in prop::collection::vec(
            (
                prop::sample::select(&["a", "ab", "b", "c"][..]),
                prop::option::of(0..9_i64),
                0..40_i64,
            ),
            1..50,
        ),
        max_records in 1..5_usize,
        stops in prop::collection::btree_map(0..50_usize, any::<bool>(), 0..4),
    ) {
        let buffer = Buffer::max_records(max_records, WhenFull::EmitEarly);
        let mut driver = driver(calm(buffer));
        for (i, (key, value, timestamp)) in input.iter().enumerate() {
            put(&mut driver, key, *value, *timestamp);
            stop(&mut driver, stops.get(&i));
        }
        prop_assert_eq!(read(&mut driver), model(&input, max_records));
    }

    #[test]
    fn suppression_until_close_gives_what_the_aggregation_emits_at_close(
        input in prop::collection::vec(
            (prop::sample::select(&["a", "b", "c"][..]), 0..80_i64),
            1..50,
        ),
        advance_ms in 1..=10_i64,
        grace_ms in 0..30_i64,
        stops in prop::collection::btree_map(0..50_usize, any::<bool>(), 0..4),
    ) {
        let windows = TimeWindows::hopping(ms(10), ms(advance_ms)).grace(ms(grace_ms));
        let mut driver = driver(|builder| {
            let grouped = builder.stream("rows", numbers()).group_by_key();
            grouped
                .windowed_by(windows)
                .count("counts")
                .table()
                .suppress_until_window_closes("finals", Buffer::unbounded())
                .to_stream()
                .to("suppressed");
            let finals = grouped.windowed_by(windows).emit_final().count("final-counts");
            finals.table().to_stream().to("emitted");
        });
        for (i, (key, timestamp)) in input.iter().enumerate() {
            put(&mut driver, key, Some(1), *timestamp);
            stop(&mut driver, stops.get(&i));
        }
        let mut read = |topic| {
            let out = driver.output(topic, windowed(utf8(), 10), nullable(int64()));
            out.read(&mut driver)
        };
        let (suppressed, emitted) = (read("suppressed"), read("emitted"));
        let rows = |records: Vec<Record<_, _>>| -> Vec<_> {
            records.into_iter().map(|r| (r.key, r.value, r.timestamp)).collect()
        };
        prop_assert_eq!(rows(suppressed), rows(emitted));
    }
}
