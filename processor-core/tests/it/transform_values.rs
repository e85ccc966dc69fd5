//! Tables whose rows are made by code with stores.

use processor_core::Record;
use processor_core::dsl::{Grouped, StreamsBuilder};
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;

use crate::support::driver::{driver, numbers, text};

/// Each row is the sum of all values that its key ever had; a deletion makes it none, and -1 keeps it from being one.
fn sums(builder: &StreamsBuilder) {
    let store = builder.key_value_store("so-far", utf8(), int64());
    let sums = builder.table("rows", "table", numbers()).transform_values(
        "sums",
        store,
        int64(),
        |mut store| {
            move |key: &String, value: Option<i64>, time| {
                let sum = store.get(key)?.unwrap_or(0) + value.unwrap_or(0);
                store.put(key, &sum, time)?;
                Ok(value.filter(|value| *value != -1).map(|_| sum))
            }
        },
    );
    sums.to_stream().to("out");
    sums.group_by(|_, v| (text("all"), *v), Grouped::by(utf8()).value(int64()))
        .reduce("total", |a, b| a + b, |a, b| a - b)
        .to_stream()
        .to("total");
    let rows = builder.table("rows2", "table2", numbers());
    rows.join("joined", &sums, |_, a, b| a * 1_000 + b)
        .with_serdes(utf8(), int64())
        .to_stream()
        .to("joined");
}

fn put(driver: &mut TopologyTestDriver, topic: &str, key: &str, value: Option<i64>, time: i64) {
    let input = driver.input(topic, utf8(), nullable(int64()));
    input.pipe(driver, text(key), value, time);
}

fn read(driver: &mut TopologyTestDriver, topic: &str) -> Vec<(String, Option<i64>, i64)> {
    let output = driver.output(topic, utf8(), nullable(int64()));
    let row = |r: Record<String, Option<i64>>| (r.key, r.value, r.timestamp);
    output.read(driver).into_iter().map(row).collect()
}

fn rows(expected: &[(&str, Option<i64>, i64)]) -> Vec<(String, Option<i64>, i64)> {
    expected.iter().map(|(k, v, t)| (text(k), *v, *t)).collect()
}

#[test]
fn code_is_asked_once_for_each_change_whoever_reads_the_row() {
    let mut driver = driver(sums);
    put(&mut driver, "rows", "a", Some(1), 10);
    put(&mut driver, "rows", "a", Some(2), 5);
    driver.crash().unwrap();
    put(&mut driver, "rows2", "a", Some(7), 20);
    put(&mut driver, "rows", "b", Some(10), 6);
    driver.restart().unwrap();
    put(&mut driver, "rows", "a", None, 7);
    put(&mut driver, "rows", "a", Some(-1), 8);
    put(&mut driver, "rows", "a", Some(5), 9);
    let out = [
        ("a", Some(1), 10),
        ("a", Some(3), 5),
        ("b", Some(10), 6),
        ("a", None, 7),
        ("a", None, 8),
        ("a", Some(7), 9),
    ];
    assert_eq!(read(&mut driver, "out"), rows(&out));
    let total = [
        ("all", Some(1), 10),
        ("all", Some(3), 10),
        ("all", Some(13), 10),
        ("all", Some(10), 10),
        ("all", Some(17), 10),
    ];
    assert_eq!(read(&mut driver, "total"), rows(&total));
    let joined = [
        ("a", Some(7_003), 20),
        ("a", None, 20),
        ("a", None, 20),
        ("a", Some(7_007), 20),
    ];
    assert_eq!(read(&mut driver, "joined"), rows(&joined));
}

#[test]
fn an_error_of_the_code_stops_the_task_at_its_record() {
    let mut driver = driver(|builder| {
        builder
            .table("rows", "table", numbers())
            .transform_values("failing", (), int64(), |()| {
                |_: &String, _: Option<i64>, _| {
                    Err::<Option<i64>, _>(processor_core::error::Fault::user("test", "no"))
                }
            })
            .to_stream()
            .to("out");
    });
    let input = driver.input("rows", utf8(), int64());
    let error = input.try_pipe(&mut driver, &text("a"), &1, 0).unwrap_err();
    assert!(error.to_string().contains("rows"), "{error}");
}
