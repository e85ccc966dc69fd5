//! Grouping, and aggregations over all records of a key.

use processor_core::dsl::{Grouped, KStream, Rekeyed, StreamsBuilder};
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{Record, StreamsConfig};

use crate::support::driver::{driver, nullable_numbers, numbers, text, topology};

fn pipe(driver: &mut TopologyTestDriver, input: &[(&str, i64, i64)]) {
    let topic = driver.input("in", utf8(), int64());
    for (key, value, timestamp) in input {
        topic.pipe(driver, text(key), *value, *timestamp);
    }
}

fn read(driver: &mut TopologyTestDriver) -> Vec<(String, i64, i64)> {
    let records = driver.output("out", utf8(), int64()).read(driver);
    let row = |r: Record<String, i64>| (r.key, r.value, r.timestamp);
    records.into_iter().map(row).collect()
}

fn rows(expected: &[(&str, i64, i64)]) -> Vec<(String, i64, i64)> {
    expected.iter().map(|(k, v, t)| (text(k), *v, *t)).collect()
}

fn sums(builder: &StreamsBuilder) {
    builder
        .stream("in", numbers())
        .group_by_key()
        .reduce("sums", |a, b| a + b)
        .to_stream()
        .to("out");
}

#[test]
fn count_emits_after_every_record_with_the_largest_timestamp_so_far() {
    let mut driver = driver(|builder| {
        let stream = builder.stream("in", numbers());
        stream.group_by_key().count("counts").to_stream().to("out");
    });
    pipe(
        &mut driver,
        &[("a", 9, 10), ("b", 9, 5), ("a", 9, 7), ("a", 9, 12)],
    );
    let expected = [("a", 1, 10), ("b", 1, 5), ("a", 2, 10), ("a", 3, 12)];
    assert_eq!(read(&mut driver), rows(&expected));
}

#[test]
fn reduce_takes_the_first_value_as_it_is() {
    let mut driver = driver(sums);
    pipe(&mut driver, &[("a", 5, 0), ("a", 7, 1), ("b", 1, 2)]);
    assert_eq!(
        read(&mut driver),
        rows(&[("a", 5, 0), ("a", 12, 1), ("b", 1, 2)])
    );
}

#[test]
fn aggregate_starts_with_the_initial_value_for_every_key() {
    let mut driver = driver(|builder| {
        builder
            .stream("in", numbers())
            .group_by_key()
            .aggregate(
                "longest",
                utf8(),
                || text("-"),
                |k, v, a| format!("{a}{k}{v}"),
            )
            .to_stream()
            .to("out");
    });
    pipe(&mut driver, &[("a", 1, 0), ("b", 2, 1), ("a", 3, 2)]);
    let out = driver
        .output("out", utf8(), utf8())
        .read_key_values(&mut driver);
    let expected = [("a", "-a1"), ("b", "-b2"), ("a", "-a1a3")];
    assert_eq!(out, expected.map(|(k, v)| (text(k), text(v))));
}

#[test]
fn records_with_a_null_key_or_value_are_not_aggregated() {
    let mut driver = driver(|builder| {
        let stream = builder.stream("in", nullable_numbers());
        stream.group_by_key().count("counts").to_stream().to("out");
    });
    let (key, value) = (nullable(utf8()), nullable(int64()));
    let input = driver.input("in", key, value);
    input.pipe(&mut driver, None, Some(1), 0);
    input.pipe(&mut driver, Some(text("a")), None, 1);
    input.pipe(&mut driver, Some(text("a")), Some(1), 2);
    assert_eq!(read(&mut driver), rows(&[("a", 1, 2)]));
}

#[test]
fn a_selected_null_key_is_dropped_before_the_repartition_topic() {
    let mut driver = driver(|builder| {
        builder
            .stream("in", numbers())
            .group_by(
                |k, _| (k != "nobody").then(|| k.clone()),
                Grouped::by(nullable(utf8())),
            )
            .count("counts")
            .to_stream()
            .to("out");
    });
    pipe(&mut driver, &[("nobody", 1, 0), ("a", 1, 1)]);
    assert_eq!(read(&mut driver), rows(&[("a", 1, 1)]));
    let sent = driver
        .output("test-counts-repartition", nullable(utf8()), int64())
        .read(&mut driver);
    assert_eq!(sent.len(), 1);
}

#[test]
fn the_aggregate_survives_a_restart_and_a_crash() {
    let mut driver = driver(sums);
    pipe(&mut driver, &[("a", 1, 0), ("b", 10, 1)]);
    driver.restart().unwrap();
    pipe(&mut driver, &[("a", 2, 2)]);
    driver.crash().unwrap();
    pipe(&mut driver, &[("a", 4, 3), ("b", 20, 4)]);
    assert_eq!(
        read(&mut driver),
        rows(&[
            ("a", 1, 0),
            ("b", 10, 1),
            ("a", 3, 2),
            ("a", 7, 3),
            ("b", 30, 4)
        ])
    );
    let stored = driver.store_get("sums", b"a");
    assert_eq!(stored, Some((7_i64.to_be_bytes().to_vec(), 3)));
}

#[test]
fn the_changelog_carries_the_plain_value_and_its_timestamp() {
    let mut driver = driver(sums);
    pipe(&mut driver, &[("a", 5, 9), ("a", 1, 3)]);
    let changelog = driver
        .output("test-sums-changelog", utf8(), int64())
        .read(&mut driver);
    let expected = [("a", 5, 9), ("a", 6, 9)];
    let expected = expected.map(|(k, v, t)| Record::new(text(k), v, t));
    assert_eq!(changelog, expected);
}

#[test]
fn a_table_from_a_count_can_be_joined_like_any_table() {
    let mut driver = driver(|builder| {
        let events = builder.stream("in", numbers());
        let counts = events.group_by_key().count("counts");
        events
            .join_table("with-count", &counts, |_, value, count| value * 100 + count)
            .to_with("out", processor_core::dsl::Produced::new(utf8(), int64()));
    });
    pipe(&mut driver, &[("a", 1, 0), ("a", 2, 1)]);
    // The count is attached first, so it has the record when the join looks.
    assert_eq!(read(&mut driver), rows(&[("a", 101, 0), ("a", 202, 1)]));
}

// --- key lineage ---

/// The repartition topics that counting the stream makes.
fn repartitioned<L: processor_core::dsl::Lineage>(
    describe: impl FnOnce(KStream<String, i64>) -> KStream<String, i64, L>,
) -> Vec<String> {
    let topology = topology(|builder| {
        let stream = describe(builder.stream("in", numbers()));
        stream
            .group_by(|k, _| k.clone(), Grouped::by(utf8()).value(int64()))
            .count("forced");
        let counts = stream.group_by_key();
        counts.count("counts");
    });
    let driver = TopologyTestDriver::with(topology, StreamsConfig::new("app"), 2).unwrap();
    let topics = driver.topics().into_iter();
    topics.filter(|t| t.ends_with("-repartition")).collect()
}

#[test]
fn group_by_always_repartitions_and_group_by_key_only_after_the_key_may_have_changed() {
    let forced = "app-forced-repartition";
    let both = ["app-counts-repartition", forced];
    assert_eq!(repartitioned(|s| s), [forced]);
    assert_eq!(repartitioned(|s| s.filter(|_, _| true)), [forced]);
    assert_eq!(repartitioned(|s| s.peek(|_, _| {})), [forced]);
    assert_eq!(repartitioned(|s| s.merge(&s)), [forced]);
    assert_eq!(repartitioned(|s| s.split().default_branch()), [forced]);
    let through = |s: KStream<String, i64>| {
        s.select_key(|k, _| k.clone())
            .repartition("through", utf8(), int64(), None)
    };
    assert_eq!(repartitioned(through), [forced, "app-through-repartition"]);
    let _: [&str; 2] = both;
}

#[test]
fn counting_after_select_key_goes_through_a_topic_named_after_the_count() {
    let counted = |describe: fn(KStream<String, i64>) -> KStream<String, i64, Rekeyed>| {
        let topology = topology(|builder| {
            describe(builder.stream("in", numbers()))
                .group_by(|k, _| k.clone(), Grouped::by(utf8()).value(int64()))
                .count("counts");
        });
        topology.describe()
    };
    for description in [
        counted(|s| s.select_key(|k, _| k.clone())),
        counted(|s| s.map(|k, v| (k, v))),
        counted(|s| s.flat_map(|k, v| [(k, v)])),
    ] {
        assert!(
            description.contains("(topic: <application>-counts-repartition)"),
            "{description}"
        );
    }
}

#[test]
fn counting_after_map_values_needs_no_topic_even_where_the_value_has_no_serde() {
    let topology = topology(|builder| {
        let stream = builder.stream("in", numbers());
        let pairs = stream.map_values(|k, v| (k.clone(), v));
        pairs.group_by_key().count("counts").to_stream().to("out");
    });
    assert!(!topology.describe().contains("repartition"), "{topology}");
    let mut driver = TopologyTestDriver::new(topology).unwrap();
    pipe(&mut driver, &[("a", 1, 0), ("a", 1, 1)]);
    assert_eq!(read(&mut driver), rows(&[("a", 1, 0), ("a", 2, 1)]));
}

#[test]
fn equal_keys_meet_behind_the_repartition_whatever_partition_they_came_from() {
    let topology = topology(|builder| {
        builder
            .stream("in", numbers())
            .group_by(|_, v| format!("mod{}", v % 2), Grouped::by(utf8()))
            .count("counts")
            .to_stream()
            .to("out");
    });
    let mut driver = TopologyTestDriver::with(topology, StreamsConfig::new("app"), 4).unwrap();
    let input = driver.input("in", utf8(), int64());
    for i in 0..40 {
        input.pipe(&mut driver, format!("key{i}"), i, i);
    }
    let counts = driver
        .output("out", utf8(), int64())
        .read_key_values(&mut driver);
    let last = |key: &str| {
        let of_key = counts.iter().filter(|(k, _)| k == key);
        of_key.map(|(_, count)| *count).collect::<Vec<_>>()
    };
    assert_eq!(last("mod0"), (1..=20).collect::<Vec<_>>());
    assert_eq!(last("mod1"), (1..=20).collect::<Vec<_>>());
}
