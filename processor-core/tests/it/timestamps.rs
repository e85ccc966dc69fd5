//! Where the event time of a record comes from, in sources on the test driver.

use std::time::Duration;

use processor_core::Record;
use processor_core::dsl::{Consumed, TimestampExtractor};
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;

use crate::support::driver::{driver, numbers, text};

/// A driver whose records take their time by `extractor` and go on as they are.
fn passing(extractor: TimestampExtractor<String, i64>) -> TopologyTestDriver {
    driver(|builder| {
        let timed = numbers().timestamp_extractor(extractor);
        builder.stream("in", timed).to("out");
    })
}

fn pipe(driver: &mut TopologyTestDriver, values: &[i64]) {
    let input = driver.input("in", utf8(), int64());
    for &value in values {
        input.pipe(driver, text("a"), value, 17);
    }
}

/// Value and time of what came out.
fn out(driver: &mut TopologyTestDriver) -> Vec<(i64, i64)> {
    let output = driver.output("out", utf8(), int64());
    let records = output.read(driver).into_iter();
    records
        .map(|record| (record.value, record.timestamp))
        .collect()
}

/// The value is the time.
fn by_value() -> TimestampExtractor<String, i64> {
    TimestampExtractor::by(|record: &Record<String, i64>, _| record.value)
}

#[test]
fn records_with_invalid_times_are_skipped_and_their_offsets_committed() {
    let mut driver = passing(by_value().or_skip());
    pipe(&mut driver, &[5, -1, 7, -2]);
    driver.crash().unwrap();
    pipe(&mut driver, &[9]);
    assert_eq!(out(&mut driver), [(5, 5), (7, 7), (9, 9)]);
}

#[test]
fn the_partition_time_survives_a_crash_and_is_the_largest_so_far() {
    let mut driver = passing(by_value().or_partition_time());
    pipe(&mut driver, &[8, 5, -1]);
    driver.crash().unwrap();
    pipe(&mut driver, &[-2]);
    assert_eq!(out(&mut driver), [(8, 8), (5, 5), (-1, 8), (-2, 8)]);
}

#[test]
fn before_the_first_record_there_is_no_partition_time_to_take() {
    let mut driver = passing(by_value().or_partition_time());
    let input = driver.input("in", utf8(), int64());
    let error = input
        .try_pipe(&mut driver, &text("a"), &-1, 17)
        .unwrap_err();
    assert!(
        error.to_string().contains("the timestamp -1 is negative"),
        "{error}"
    );
}

#[test]
fn a_function_sees_the_partition_time() {
    // Never back: what is out of order counts as of the time before it.
    let mut driver = passing(TimestampExtractor::by(
        |record: &Record<String, i64>, time| record.value.max(time),
    ));
    pipe(&mut driver, &[8, 5, 9]);
    assert_eq!(out(&mut driver), [(8, 8), (5, 8), (9, 9)]);
}

#[test]
fn event_time_can_be_the_wall_clock() {
    let mut driver = passing(TimestampExtractor::wall_clock());
    pipe(&mut driver, &[1]);
    driver.advance_wall_clock(Duration::from_secs(3));
    pipe(&mut driver, &[2]);
    assert_eq!(out(&mut driver), [(1, 0), (2, 3_000)]);
}

#[test]
fn a_table_takes_its_times_from_its_values_too() {
    let mut driver = driver(|builder| {
        let timed = Consumed::new(utf8(), int64()).timestamp_extractor(by_value());
        builder.table("in", "rows", timed).to_stream().to("out");
    });
    let input = driver.input("in", utf8(), nullable(int64()));
    for value in [Some(5), None] {
        input.pipe(&mut driver, text("a"), value, 17);
    }
    let output = driver.output("out", utf8(), nullable(int64()));
    let times: Vec<i64> = output
        .read(&mut driver)
        .iter()
        .map(|r| r.timestamp)
        .collect();
    assert_eq!(times, [5, 17], "a deletion has the time that the log has");
}
