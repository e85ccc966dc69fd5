//! Tables, and joins of streams with tables and global tables.

use processor_core::dsl::{Consumed, Produced};
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{OnBadRecord, Record, StreamsConfig};

use crate::support::driver::{driver, numbers, text, topology};

fn texts() -> Consumed<String, String> {
    Consumed::new(utf8(), utf8())
}

/// Pipes a text, or a tombstone, into `topic`.
fn put(driver: &mut TopologyTestDriver, topic: &str, key: &str, value: Option<&str>, time: i64) {
    let input = driver.input(topic, utf8(), nullable(utf8()));
    input.pipe(driver, text(key), value.map(text), time);
}

fn read(driver: &mut TopologyTestDriver) -> Vec<(String, String, i64)> {
    let records = driver.output("out", utf8(), utf8()).read(driver);
    let row = |r: Record<String, String>| (r.key, r.value, r.timestamp);
    records.into_iter().map(row).collect()
}

fn rows(expected: &[(&str, &str, i64)]) -> Vec<(String, String, i64)> {
    expected
        .iter()
        .map(|(k, v, t)| (text(k), text(v), *t))
        .collect()
}

#[test]
fn a_table_forwards_every_update_and_a_tombstone_as_a_deletion() {
    let mut driver = driver(|builder| {
        builder
            .table("rows", "table", texts())
            .to_stream()
            .to("out");
    });
    put(&mut driver, "rows", "a", Some("1"), 5);
    // Out of order, and taken all the same.
    put(&mut driver, "rows", "a", Some("2"), 3);
    put(&mut driver, "rows", "a", None, 6);
    let out = driver.output("out", utf8(), nullable(utf8()));
    let out = out.read(&mut driver).into_iter();
    let out: Vec<_> = out.map(|r| (r.key, r.value, r.timestamp)).collect();
    assert_eq!(
        out,
        [
            (text("a"), Some(text("1")), 5),
            (text("a"), Some(text("2")), 3),
            (text("a"), None, 6)
        ]
    );
    assert_eq!(driver.store_get("table", b"a"), None);
}

#[test]
fn a_deleted_row_stays_deleted_after_a_restore() {
    let mut driver = driver(|builder| {
        builder.table("rows", "table", texts());
    });
    put(&mut driver, "rows", "a", Some("1"), 0);
    put(&mut driver, "rows", "b", Some("2"), 1);
    put(&mut driver, "rows", "a", None, 2);
    driver.restart().unwrap();
    assert_eq!(driver.store_get("table", b"a"), None);
    assert_eq!(driver.store_get("table", b"b"), Some((b"2".to_vec(), 1)));
}

#[test]
fn a_table_drops_rows_without_a_key_where_the_serde_allows_them() {
    let mut driver = driver(|builder| {
        let rows = Consumed::new(nullable(utf8()), utf8());
        builder.table("rows", "table", rows).to_stream().to("out");
    });
    let input = driver.input("rows", nullable(utf8()), utf8());
    input.pipe(&mut driver, None, text("1"), 0);
    assert_eq!(read(&mut driver), []);
}

fn joined(left: bool) -> TopologyTestDriver {
    driver(|builder| {
        let table = builder.table("rows", "table", texts());
        let stream = builder.stream("in", texts());
        let out = if left {
            stream.left_join_table("join", &table, |k, v, row| {
                format!("{k}{v}{}", row.unwrap_or_else(|| text("-")))
            })
        } else {
            stream.join_table("join", &table, |k, v, row| format!("{k}{v}{row}"))
        };
        out.to_with("out", Produced::new(utf8(), utf8()));
    })
}

#[test]
fn a_stream_record_meets_the_row_of_its_key_at_that_moment() {
    let mut driver = joined(false);
    put(&mut driver, "in", "a", Some("x"), 0);
    put(&mut driver, "rows", "a", Some("1"), 10);
    put(&mut driver, "in", "a", Some("y"), 4);
    put(&mut driver, "rows", "a", Some("2"), 11);
    put(&mut driver, "in", "a", Some("z"), 20);
    put(&mut driver, "rows", "a", None, 21);
    put(&mut driver, "in", "a", Some("w"), 22);
    // The result has the stream record's timestamp.
    assert_eq!(
        read(&mut driver),
        rows(&[("a", "ay1", 4), ("a", "az2", 20)])
    );
}

#[test]
fn a_left_join_gives_a_result_without_a_row_as_well() {
    let mut driver = joined(true);
    put(&mut driver, "in", "a", Some("x"), 0);
    put(&mut driver, "rows", "a", Some("1"), 1);
    put(&mut driver, "in", "a", Some("y"), 2);
    put(&mut driver, "rows", "a", None, 3);
    put(&mut driver, "in", "a", Some("z"), 4);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", "ax-", 0), ("a", "ay1", 2), ("a", "az-", 4)])
    );
}

#[test]
fn table_rows_that_wait_beside_the_stream_are_taken_in_order_of_time() {
    // Everything is there before the application starts, so only the choice of inputs decides.
    use crate::support::world::World;
    let world = World::new(&[("in", 1), ("rows", 1), ("out", 1)]);
    for time in 0..50 {
        world.write("in", 0, Some("a"), Some(&format!("r{time}")), time * 10 + 5);
        world.write("rows", 0, Some("a"), Some(&format!("t{time}")), time * 10);
    }
    let topology = topology(|builder| {
        let table = builder.table("rows", "table", texts());
        let stream = builder.stream("in", texts());
        stream
            .join_table("join", &table, |_, v, row| format!("{v}{row}"))
            .to_with("out", Produced::new(utf8(), utf8()));
    });
    let mut streams = world.streams(&topology, StreamsConfig::new("app"));
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    let out = world.read_values("out");
    let expected: Vec<String> = (0..50).map(|time| format!("r{time}t{time}")).collect();
    assert_eq!(out, expected);
}

#[test]
fn a_null_key_finds_no_row_and_a_null_value_gives_no_result() {
    for (left, expected) in [(false, vec![]), (true, vec!["x-"])] {
        let mut driver = driver(|builder| {
            let rows = Consumed::new(nullable(utf8()), utf8());
            let table = builder.table("rows", "table", rows);
            let values = Consumed::new(nullable(utf8()), nullable(utf8()));
            let stream = builder.stream("in", values);
            let show = |v: Option<String>, row: Option<String>| {
                v.unwrap_or_else(|| text("null")) + &row.unwrap_or_else(|| text("-"))
            };
            let out = if left {
                stream.left_join_table("join", &table, move |_, v, row| show(v, row))
            } else {
                stream.join_table("join", &table, move |_, v, row| show(v, Some(row)))
            };
            out.to_with("out", Produced::new(nullable(utf8()), utf8()));
        });
        put(&mut driver, "rows", "a", Some("1"), 0);
        let input = driver.input("in", nullable(utf8()), nullable(utf8()));
        input.pipe(&mut driver, None, Some(text("x")), 1);
        input.pipe(&mut driver, Some(text("a")), None, 2);
        let out = driver.output("out", nullable(utf8()), utf8());
        let out: Vec<_> = out.read(&mut driver).into_iter().map(|r| r.value).collect();
        assert_eq!(out, expected, "left: {left}");
    }
}

#[test]
fn a_rekeyed_stream_is_repartitioned_to_meet_the_table() {
    let topology = topology(|builder| {
        let table = builder.table("rows", "table", texts());
        builder
            .stream("in", texts())
            .select_key(|_, v| v.clone())
            .repartition("by-value", utf8(), utf8(), None)
            .join_table("join", &table, |_, _, row| row)
            .to_with("out", Produced::new(utf8(), utf8()));
    });
    let mut driver = TopologyTestDriver::with(topology, StreamsConfig::new("app"), 3).unwrap();
    for (i, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
        put(&mut driver, "rows", key, Some(&format!("row {key}")), 0);
        put(&mut driver, "in", &format!("k{i}"), Some(key), 1);
    }
    let mut out: Vec<_> = read(&mut driver)
        .into_iter()
        .map(|(k, v, _)| (k, v))
        .collect();
    out.sort();
    let expected = ["a", "b", "c", "d"].map(|k| (text(k), format!("row {k}")));
    assert_eq!(out, expected);
}

// --- global tables ---

fn joined_globally(left: bool) -> TopologyTestDriver {
    let topology = topology(|builder| {
        let table = builder.global_table("rows", "table", Consumed::new(nullable(utf8()), utf8()));
        let stream = builder.stream("in", numbers());
        let select = |_: &String, v: &i64| (*v >= 0).then(|| format!("row{}", v % 3));
        let show = |k: &String, v: i64, row: &str| format!("{k}{v}{row}");
        let out = if left {
            stream.left_join_global("join", &table, select, move |k, _, v, row| {
                show(k, v, &row.unwrap_or_else(|| text("-")))
            })
        } else {
            stream.join_global("join", &table, select, move |k, _, v, row| show(k, v, &row))
        };
        out.to_with("out", Produced::new(utf8(), utf8()));
    });
    TopologyTestDriver::with(topology, StreamsConfig::new("app"), 3).unwrap()
}

#[test]
fn a_global_table_is_found_from_every_partition_by_a_key_taken_from_the_record() {
    let mut driver = joined_globally(false);
    for i in 0..3 {
        put(
            &mut driver,
            "rows",
            &format!("row{i}"),
            Some(&format!("={i}")),
            0,
        );
    }
    let input = driver.input("in", utf8(), int64());
    for i in 0..9 {
        input.pipe(&mut driver, format!("k{i}-"), i, 7);
    }
    let mut out = read(&mut driver);
    out.sort();
    let expected: Vec<_> = (0..9)
        .map(|i| (format!("k{i}-"), format!("k{i}-{i}={}", i % 3), 7))
        .collect();
    assert_eq!(out, expected);
}

#[test]
fn without_a_row_or_a_mapped_key_an_inner_join_drops_and_a_left_join_says_so() {
    let mut driver = joined_globally(false);
    put(&mut driver, "rows", "row0", Some("=0"), 0);
    let input = driver.input("in", utf8(), int64());
    for value in [-1, 0, 1] {
        input.pipe(&mut driver, text("k"), value, 5);
    }
    assert_eq!(read(&mut driver), rows(&[("k", "k0=0", 5)]));

    let mut driver = joined_globally(true);
    put(&mut driver, "rows", "row0", Some("=0"), 0);
    let input = driver.input("in", utf8(), int64());
    for value in [-1, 0, 1] {
        input.pipe(&mut driver, text("k"), value, 5);
    }
    put(&mut driver, "rows", "row0", None, 6);
    input.pipe(&mut driver, text("k"), 3, 7);
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("k", "k-1-", 5),
            ("k", "k0=0", 5),
            ("k", "k1-", 5),
            ("k", "k3-", 7)
        ])
    );
}

#[test]
fn a_global_table_is_complete_before_the_first_record_and_after_a_restart() {
    let mut driver = joined_globally(false);
    put(&mut driver, "rows", "row0", Some("=0"), 0);
    put(&mut driver, "rows", "row1", Some("=1"), 0);
    put(&mut driver, "rows", "row1", None, 1);
    driver.restart().unwrap();
    let input = driver.input("in", utf8(), int64());
    for value in [0, 1] {
        input.pipe(&mut driver, text("k"), value, 5);
    }
    assert_eq!(read(&mut driver), rows(&[("k", "k0=0", 5)]));
}

#[test]
fn a_row_without_a_key_is_no_row_of_a_global_table() {
    let topology = topology(|builder| {
        let table = builder.global_table("rows", "table", texts());
        let stream = builder.stream("in", texts());
        stream
            .join_global("join", &table, |k, _| k.clone(), |_, _, v, row| v + &row)
            .to_with("out", Produced::new(utf8(), utf8()));
    });
    let config = StreamsConfig {
        on_bad_record: OnBadRecord::Skip,
        ..StreamsConfig::new("app")
    };
    let mut driver = TopologyTestDriver::with(topology, config, 1).unwrap();
    let keyless = driver.input("rows", nullable(utf8()), utf8());
    keyless.pipe(&mut driver, None, text("1"), 0);
    put(&mut driver, "rows", "a", Some("1"), 0);
    put(&mut driver, "in", "a", Some("x"), 1);
    assert_eq!(read(&mut driver), rows(&[("a", "x1", 1)]));
}

#[test]
fn a_bad_row_of_a_global_table_fails_with_its_place_or_is_skipped() {
    let driver = |on_bad_record| {
        let topology = topology(|builder| {
            let table = builder.global_table("rows", "table", numbers());
            let stream = builder.stream("in", texts());
            stream
                .join_global(
                    "join",
                    &table,
                    |k, _| k.clone(),
                    |_, _, v, row| format!("{v}{row}"),
                )
                .to_with("out", Produced::new(utf8(), utf8()));
        });
        let config = StreamsConfig {
            on_bad_record,
            ..StreamsConfig::new("app")
        };
        TopologyTestDriver::with(topology, config, 1).unwrap()
    };
    let mut failing = driver(OnBadRecord::Fail);
    let rows_in = failing.input("rows", utf8(), utf8());
    let error = rows_in
        .try_pipe(&mut failing, &text("a"), &text("short"), 0)
        .unwrap_err();
    assert!(error.to_string().contains("rows-0 at offset 0"), "{error}");

    let mut skipping = driver(OnBadRecord::Skip);
    put(&mut skipping, "rows", "a", Some("short"), 0);
    let numbers_in = skipping.input("rows", utf8(), int64());
    numbers_in.pipe(&mut skipping, text("a"), 7, 1);
    put(&mut skipping, "in", "a", Some("x"), 2);
    assert_eq!(read(&mut skipping), rows(&[("a", "x7", 2)]));
}
