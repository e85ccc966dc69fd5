//! Windowed results as tests write them down.

use processor_core::Windowed;
use processor_core::serde::{int64, utf8, windowed};
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
