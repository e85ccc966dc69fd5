//! Aggregations over one window without an end.

use processor_core::Windowed;
use processor_core::dsl::{StreamsBuilder, UnlimitedWindows};
use processor_core::serde::{int64, utf8, windowed};
use processor_core::testing::TopologyTestDriver;

use crate::support::driver::{driver, numbers, text};
use crate::support::windows::pipe_ones;

fn counts(start: i64) -> impl Fn(&StreamsBuilder) {
    move |builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let windowed = grouped.windowed_by(UnlimitedWindows::from(start));
        windowed.count("counts").to_stream().to("out");
    }
}

/// `(key, count, timestamp)`, after a look at the window.
fn read(driver: &mut TopologyTestDriver, start: i64) -> Vec<(String, i64, i64)> {
    let out = driver.output("out", windowed(utf8(), i64::MAX), int64());
    let rows = out.read(driver).into_iter().map(|record| {
        let Windowed { key, start: s, end } = record.key;
        assert_eq!((s, end), (start, i64::MAX));
        (key, record.value, record.timestamp)
    });
    rows.collect()
}

#[test]
fn everything_from_the_start_on_is_in_the_window_and_nothing_before_it() {
    let mut driver = driver(counts(50));
    pipe_ones(&mut driver, &[("a", 49), ("a", 50), ("b", 51), ("a", 49)]);
    assert_eq!(
        read(&mut driver, 50),
        [(text("a"), 1, 50), (text("b"), 1, 51)]
    );
}

#[test]
fn nothing_is_late_and_nothing_expires_through_restarts_and_crashes() {
    let mut driver = driver(counts(0));
    pipe_ones(&mut driver, &[("a", 5), ("b", 1_000_000_000_000)]);
    driver.restart().unwrap();
    pipe_ones(&mut driver, &[("a", 3)]);
    driver.crash().unwrap();
    pipe_ones(&mut driver, &[("a", 7)]);
    let counts = read(&mut driver, 0);
    assert_eq!(counts[2..], [(text("a"), 2, 5), (text("a"), 3, 7)]);
}

#[test]
fn a_final_result_of_a_window_without_an_end_is_refused() {
    let builder = StreamsBuilder::new("under-test");
    let grouped = builder.stream("in", numbers()).group_by_key();
    let windowed = grouped.windowed_by(UnlimitedWindows::from(0)).emit_final();
    windowed.count("counts").to_stream().to("out");
    let error = builder.build().err().unwrap().to_string();
    assert!(
        error.contains("'counts': its window never closes"),
        "{error}"
    );
}
