//! Operators that need no state.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use processor_core::Record;
use processor_core::dsl::{KStream, Produced};
use processor_core::log::Header;
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;

use crate::support::driver::{driver, nullable_numbers, numbers, pairs, text, topology};

/// What comes out of `describe` for these records, in order.
fn outcome(
    input: &[(&str, i64)],
    describe: impl FnOnce(KStream<String, i64>),
) -> Vec<(String, i64)> {
    let mut driver = driver(|builder| describe(builder.stream("in", numbers())));
    pipe(&mut driver, input);
    driver
        .output("out", utf8(), int64())
        .read_key_values(&mut driver)
}

fn pipe(driver: &mut TopologyTestDriver, input: &[(&str, i64)]) {
    let topic = driver.input("in", utf8(), int64());
    for (timestamp, (key, value)) in (0..).zip(input) {
        topic.pipe(driver, text(key), *value, timestamp);
    }
}

const SOME: [(&str, i64); 4] = [("a", 1), ("b", 2), ("a", 3), ("c", 4)];

#[test]
fn filter_keeps_what_holds_and_filter_not_the_rest() {
    let kept = outcome(&SOME, |s| s.filter(|_, v| v % 2 == 0).to("out"));
    assert_eq!(kept, pairs(&[("b", 2), ("c", 4)]));
    let rest = outcome(&SOME, |s| s.filter_not(|_, v| v % 2 == 0).to("out"));
    assert_eq!(rest, pairs(&[("a", 1), ("a", 3)]));
}

#[test]
fn map_replaces_key_and_value() {
    let mapped = outcome(&SOME, |s| {
        s.map(|k, v| (format!("{k}{v}"), v * 10))
            .to_with("out", Produced::new(utf8(), int64()));
    });
    assert_eq!(
        mapped,
        pairs(&[("a1", 10), ("b2", 20), ("a3", 30), ("c4", 40)])
    );
}

#[test]
fn map_values_sees_the_key_and_keeps_it() {
    let mapped = outcome(&[("abc", 1), ("", 2)], |s| {
        s.map_values(|k, v| v + i64::try_from(k.len()).unwrap())
            .to_with("out", Produced::new(utf8(), int64()));
    });
    assert_eq!(mapped, pairs(&[("abc", 4), ("", 2)]));
}

#[test]
fn flat_map_forwards_none_one_or_many_in_order() {
    let mapped = outcome(&[("a", 0), ("b", 1), ("c", 2)], |s| {
        s.flat_map(|k, v| {
            (0..v)
                .map(move |i| (format!("{k}{i}"), i))
                .collect::<Vec<_>>()
        })
        .to_with("out", Produced::new(utf8(), int64()));
    });
    assert_eq!(mapped, pairs(&[("b0", 0), ("c0", 0), ("c1", 1)]));
}

#[test]
fn flat_map_values_keeps_the_key_for_all_of_them() {
    let mapped = outcome(&[("a", 0), ("b", 2)], |s| {
        s.flat_map_values(|_, v| (0..v).collect::<Vec<_>>())
            .to_with("out", Produced::new(utf8(), int64()));
    });
    assert_eq!(mapped, pairs(&[("b", 0), ("b", 1)]));
}

#[test]
fn select_key_keeps_the_value() {
    let selected = outcome(&SOME, |s| {
        s.select_key(|k, v| format!("{k}-{v}"))
            .to_with("out", Produced::new(utf8(), int64()));
    });
    assert_eq!(
        selected,
        pairs(&[("a-1", 1), ("b-2", 2), ("a-3", 3), ("c-4", 4)])
    );
}

#[test]
fn a_split_record_goes_to_the_first_branch_that_takes_it() {
    let mut driver = driver(|builder| {
        let split = builder.stream("in", numbers()).split();
        split.branch(|_, v| *v < 3).to("small");
        split.branch(|_, v| v % 2 == 1).to("odd");
        split.default_branch().to("rest");
    });
    pipe(&mut driver, &[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    let mut read = |topic: &str| {
        driver
            .output(topic, utf8(), int64())
            .read_key_values(&mut driver)
    };
    assert_eq!(read("small"), pairs(&[("a", 1), ("b", 2)]));
    assert_eq!(read("odd"), pairs(&[("c", 3)]));
    assert_eq!(read("rest"), pairs(&[("d", 4)]));
}

#[test]
fn without_a_default_branch_what_no_branch_takes_ends_there() {
    let split = outcome(&SOME, |s| s.split().branch(|k, _| k == "a").to("out"));
    assert_eq!(split, pairs(&[("a", 1), ("a", 3)]));
}

#[test]
fn merge_passes_the_records_of_both_streams() {
    let mut driver = driver(|builder| {
        let left = builder.stream("left", numbers());
        let right = builder.stream("right", numbers());
        left.merge(&right).to("out");
    });
    let (left, right) = (
        driver.input("left", utf8(), int64()),
        driver.input("right", utf8(), int64()),
    );
    left.pipe(&mut driver, text("l"), 1, 0);
    right.pipe(&mut driver, text("r"), 2, 1);
    left.pipe(&mut driver, text("l"), 3, 2);
    let out = driver
        .output("out", utf8(), int64())
        .read_key_values(&mut driver);
    assert_eq!(out, pairs(&[("l", 1), ("r", 2), ("l", 3)]));
}

#[test]
fn a_merge_of_two_branches_of_one_stream_takes_each_record_once_per_branch() {
    let merged = outcome(&[("a", 1)], |s| {
        let (one, two) = (s.filter(|_, _| true), s.filter(|_, _| true));
        let merged = one.merge(&two);
        merged.to("out");
        merged.peek(|_, _| {});
    });
    assert_eq!(merged, pairs(&[("a", 1), ("a", 1)]));
}

#[test]
fn peek_sees_every_record_and_changes_none() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let see = Arc::clone(&seen);
    let out = outcome(&SOME, move |s| {
        s.peek(move |k, v| see.lock().unwrap().push((k.clone(), *v)))
            .to("out");
    });
    assert_eq!(out, pairs(&SOME));
    assert_eq!(*seen.lock().unwrap(), pairs(&SOME));
}

#[test]
fn one_stream_feeds_several_operators_in_the_order_they_were_added() {
    let out = outcome(&[("a", 1), ("b", 2)], |s| {
        s.map_values(|_, v| v * 10)
            .to_with("out", Produced::new(utf8(), int64()));
        s.to("out");
    });
    assert_eq!(out, pairs(&[("a", 10), ("a", 1), ("b", 20), ("b", 2)]));
}

#[test]
fn headers_and_timestamps_pass_through_stateless_operators() {
    let mut driver = driver(|builder| {
        builder
            .stream("in", numbers())
            .filter(|_, _| true)
            .map(|k, v| (k, v))
            .flat_map(|k, v| [(k, v)])
            .flat_map_values(|_, v| [v])
            .select_key(|k, _| k.clone())
            .to_with("out", Produced::new(utf8(), int64()));
    });
    let header = |name: &str, value: Option<&'static [u8]>| Header {
        name: Arc::from(name),
        value: value.map(Bytes::from_static),
    };
    let record = Record {
        headers: vec![
            header("trace", Some(b"1")),
            header("trace", Some(b"2")),
            header("flag", None),
        ],
        ..Record::new(text("a"), 1_i64, 77)
    };
    let input = driver.input("in", utf8(), int64());
    input.pipe_record(&mut driver, &record);
    let out = driver.output("out", utf8(), int64()).read(&mut driver);
    assert_eq!(out, [record]);
}

#[test]
fn headers_are_changed_in_place_and_read_by_values_and_the_key_stays_where_it_was() {
    let topology = topology(|builder| {
        builder
            .stream("in", numbers())
            .map_headers(|key, value, headers| {
                headers.retain(|header| &*header.name != "debug");
                headers.push(Header::new("from", format!("{key}{value}")));
            })
            .map_values_with_headers(|_, value, headers| {
                let from = Header::last(headers, "from").and_then(|header| header.value.clone());
                value + from.map_or(0, |from| i64::try_from(from.len()).unwrap())
            })
            .with_serdes(utf8(), int64())
            .group_by_key()
            .reduce("last", |_, value| value)
            .to_stream()
            .to("last");
        let stream = builder.stream("direct", numbers());
        stream
            .map_headers(|_, _, headers| headers.clear())
            .to("out");
    });
    assert!(!topology.describe().contains("-repartition"), "{topology}");
    let mut driver = TopologyTestDriver::new(topology).unwrap();
    let headers = vec![Header::new("debug", "1"), Header::new("from", "elsewhere")];
    let record = Record {
        headers,
        ..Record::new(text("a"), 100, 0)
    };
    assert_eq!(
        record.header("from"),
        Some(&Header::new("from", "elsewhere"))
    );
    for topic in ["in", "direct"] {
        let input = driver.input(topic, utf8(), int64());
        input.pipe_record(&mut driver, &record);
    }
    let last = driver.output("last", utf8(), int64());
    assert_eq!(last.read_key_values(&mut driver), pairs(&[("a", 104)]));
    let out = driver.output("out", utf8(), int64());
    assert_eq!(out.read(&mut driver), [Record::new(text("a"), 100, 0)]);
}

#[test]
fn null_keys_and_values_pass_through_stateless_operators_and_stay_null() {
    let mut driver = driver(|builder| {
        builder
            .stream("in", nullable_numbers())
            .filter(|_, _| true)
            .map_values(|_, v| v)
            .to_with("out", Produced::new(nullable(utf8()), nullable(int64())));
    });
    let (key, value) = (nullable(utf8()), nullable(int64()));
    let input = driver.input("in", key, value);
    input.pipe(&mut driver, None, Some(1), 0);
    input.pipe(&mut driver, Some(text("a")), None, 1);
    input.pipe(&mut driver, None, None, 2);
    let out = driver
        .output("out", key, value)
        .read_key_values(&mut driver);
    assert_eq!(
        out,
        [(None, Some(1)), (Some(text("a")), None), (None, None)]
    );
}

#[test]
fn the_timestamp_extractor_decides_and_its_time_goes_to_the_output() {
    let mut driver = driver(|builder| {
        builder
            .stream("in", numbers().timestamp(|record| record.value * 1_000))
            .to("out");
    });
    let input = driver.input("in", utf8(), int64());
    input.pipe(&mut driver, text("a"), 7, 3);
    let out = driver.output("out", utf8(), int64()).read(&mut driver);
    assert_eq!(out, [Record::new(text("a"), 7, 7_000)]);
}
