//! Windowed results as tests write them down.

use processor_core::Windowed;
use processor_core::serde::{int64, nullable, session_windowed, utf8, windowed};
use processor_core::testing::TopologyTestDriver;

use super::driver::text;

/// `(key, start, value, timestamp)`.
pub type Row = (String, i64, i64, i64);

pub fn rows(expected: &[(&str, i64, i64, i64)]) -> Vec<Row> {
    let row = |&(key, start, value, time): &(&str, i64, i64, i64)| (text(key), start, value, time);
    expected.iter().map(row).collect()
}

/// What came to "out" in windows of `size` since the last call.
pub fn read_windows(driver: &mut TopologyTestDriver, size: i64) -> Vec<Row> {
    let out = driver.output("out", windowed(utf8(), size), int64());
    let rows = out.read(driver).into_iter().map(|record| {
        let Windowed { key, start, .. } = record.key;
        (key, start, record.value, record.timestamp)
    });
    rows.collect()
}

/// What came to "late" since the last call, as text.
pub fn late(driver: &mut TopologyTestDriver) -> Vec<String> {
    let late = driver.output("late", utf8(), utf8()).read(driver);
    late.into_iter().map(|record| record.value).collect()
}

/// Pipes records of value 1 to "in".
pub fn pipe_ones(driver: &mut TopologyTestDriver, input: &[(&str, i64)]) {
    let topic = driver.input("in", utf8(), int64());
    for (key, timestamp) in input {
        topic.pipe(driver, text(key), 1, *timestamp);
    }
}

/// `(key, start, end, value)` of a session; the timestamp is the end.
pub type SessionRow = (String, i64, i64, Option<i64>);

pub fn session_rows(expected: &[(&str, i64, i64, Option<i64>)]) -> Vec<SessionRow> {
    let row =
        |&(key, start, end, value): &(&str, i64, i64, Option<i64>)| (text(key), start, end, value);
    expected.iter().map(row).collect()
}

/// What came to "out" of sessions since the last call.
pub fn read_sessions(driver: &mut TopologyTestDriver) -> Vec<SessionRow> {
    let out = driver.output("out", session_windowed(utf8()), nullable(int64()));
    let rows = out.read(driver).into_iter().map(|record| {
        assert_eq!(record.timestamp, record.key.end);
        assert_eq!(record.headers, []);
        let Windowed { key, start, end } = record.key;
        (key, start, end, record.value)
    });
    rows.collect()
}

/// Pipes `(key, value, timestamp)` to "in".
pub fn pipe(driver: &mut TopologyTestDriver, input: &[(&str, i64, i64)]) {
    let topic = driver.input("in", utf8(), int64());
    for (key, value, timestamp) in input {
        topic.pipe(driver, text(key), *value, *timestamp);
    }
}
