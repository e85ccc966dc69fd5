//! Several groups in one aggregation.

use std::time::Duration;

use processor_core::dsl::{
    CogroupedStream, Consumed, Grouped, KGroupedStream, KStream, Partitioned, Produced,
    SessionWindows, SlidingWindows, StreamsBuilder, TimeWindows, UnlimitedWindows, Windows,
};
use processor_core::serde::{bytes, int64, nullable, utf8, windowed};
use processor_core::testing::TopologyTestDriver;
use processor_core::{Record, StreamsConfig};
use proptest::prelude::*;

use crate::support::driver::{driver, numbers, pairs, text};
use crate::windowed::LateText;

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn texts() -> Consumed<String, String> {
    Consumed::new(utf8(), utf8())
}

/// Tells values apart, and their order.
fn fold(so_far: i64, value: i64) -> i64 {
    so_far.wrapping_mul(31).wrapping_add(value)
}

/// What a text counts.
fn weight(text: &str) -> i64 {
    1_000 + i64::try_from(text.len()).unwrap()
}

fn cogroup(builder: &StreamsBuilder) -> CogroupedStream<String, i64> {
    let numbers = builder.stream("numbers", numbers()).group_by_key();
    let texts = builder.stream("texts", texts()).group_by_key();
    numbers
        .cogroup(|_, number, so_far| fold(so_far, number))
        .cogroup(&texts, |_, text, so_far| fold(so_far, weight(&text)))
}

fn pipe_number(driver: &mut TopologyTestDriver, key: &str, value: i64, timestamp: i64) {
    let topic = driver.input("numbers", utf8(), int64());
    topic.pipe(driver, text(key), value, timestamp);
}

fn pipe_text(driver: &mut TopologyTestDriver, key: &str, value: &str, timestamp: i64) {
    let topic = driver.input("texts", utf8(), utf8());
    topic.pipe(driver, text(key), text(value), timestamp);
}

#[test]
fn groups_of_different_types_share_an_aggregate() {
    let mut driver = driver(|builder| {
        let table = cogroup(builder).aggregate("all", int64(), || 0);
        table.to_stream().to("out");
    });
    pipe_number(&mut driver, "a", 1, 7);
    pipe_text(&mut driver, "a", "xy", 3);
    driver.restart().unwrap();
    pipe_number(&mut driver, "b", 2, 8);
    driver.crash().unwrap();
    pipe_number(&mut driver, "a", 3, 4);
    let out = driver.output("out", utf8(), nullable(int64()));
    let out: Vec<_> = out.read(&mut driver);
    let (first, second) = (1, 31 + 1_002);
    let expected = [
        ("a", first, 7),
        ("a", second, 7),
        ("b", 2, 8),
        ("a", second * 31 + 3, 7),
    ];
    let rows: Vec<_> = out
        .iter()
        .map(|r| (r.key.as_str(), r.value.unwrap(), r.timestamp))
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn each_group_has_its_own_time_and_begins_windows_anew_that_the_store_has_forgotten() {
    let mut driver = driver(|builder| {
        let windows = TimeWindows::tumbling(ms(10)).grace(ms(0));
        let sums = cogroup(builder)
            .windowed_by(windows)
            .aggregate("sums", int64(), || 0);
        sums.to_stream().to("out");
        sums.late().to_with("late", Produced::new(utf8(), LateText));
    });
    pipe_number(&mut driver, "a", 1, 5);
    pipe_number(&mut driver, "a", 2, 15);
    // In time for its own group; the store shows windows that start at 1 or later.
    pipe_text(&mut driver, "a", "ab", 3);
    pipe_number(&mut driver, "a", 3, 4);
    driver.crash().unwrap();
    pipe_text(&mut driver, "a", "abc", 12);
    pipe_text(&mut driver, "a", "abcd", 8);
    let out = driver.output("out", windowed(utf8(), 10), int64());
    let sums: Vec<_> = out.read(&mut driver);
    let sums: Vec<_> = sums.iter().map(|r| (r.key.start, r.value)).collect();
    let with = |sum: i64, length: i64| sum * 31 + 1_000 + length;
    assert_eq!(sums, [(0, 1), (10, 2), (0, with(0, 2)), (10, with(2, 3))]);
    let late = driver.output("late", utf8(), utf8());
    assert_eq!(
        late.read_key_values(&mut driver),
        [
            (text("a"), text("3 for [0, 10) at 15")),
            (text("a"), text("1004 for [0, 10) at 12")),
        ]
    );
}

#[test]
fn a_record_of_any_group_closes_windows() {
    let mut driver = driver(|builder| {
        let windows = TimeWindows::tumbling(ms(10)).grace(ms(2));
        let groups = cogroup(builder);
        let sums = groups
            .windowed_by(windows)
            .emit_final()
            .aggregate("sums", int64(), || 0);
        sums.to_stream()
            .select_key(|key, _| key.key.clone())
            .to_with("out", Produced::new(utf8(), int64()));
    });
    pipe_text(&mut driver, "a", "abc", 6);
    pipe_number(&mut driver, "a", 1, 5);
    pipe_text(&mut driver, "b", "", 11);
    driver.restart().unwrap();
    let out = driver.output("out", utf8(), int64());
    assert_eq!(out.read_key_values(&mut driver), []);
    pipe_text(&mut driver, "b", "", 12);
    driver.crash().unwrap();
    pipe_number(&mut driver, "b", 1, 13);
    assert_eq!(
        out.read_key_values(&mut driver),
        pairs(&[("a", 1_003 * 31 + 1)])
    );
}

#[test]
fn a_group_with_another_key_goes_through_a_topic_with_its_number() {
    let builder = StreamsBuilder::new("under-test");
    let by_length = |_: &String, text: &String| text.len().to_string();
    let numbers = builder.stream("numbers", numbers()).group_by_key();
    let texts = builder
        .stream("texts", texts())
        .group_by(by_length, Grouped::by(utf8()));
    numbers
        .cogroup(|_, number, so_far| fold(so_far, number))
        .cogroup(&texts, |_, text, so_far| fold(so_far, weight(&text)))
        .aggregate("all", int64(), || 0)
        .to_stream()
        .to("out");
    let topology = builder.build().unwrap();
    let mut driver = TopologyTestDriver::with(topology, StreamsConfig::new("app"), 3).unwrap();
    assert!(driver.topics().contains(&text("app-all-2-repartition")));
    pipe_text(&mut driver, "a", "abc", 1);
    pipe_number(&mut driver, "3", 4, 2);
    let out = driver.output("out", utf8(), nullable(int64()));
    let values: Vec<_> = out.read(&mut driver).into_iter().map(|r| r.value).collect();
    assert_eq!(values, [Some(1_003), Some(1_003 * 31 + 4)]);
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    All,
    Fixed(Windows),
    Sessions(SessionWindows),
}

/// The aggregation over two groups, or over one stream that both were merged into: to the same topics.
fn aggregation(
    builder: &StreamsBuilder,
    (kind, finals): (Kind, bool),
    merged: Option<&KGroupedStream<String, i64>>,
) {
    let groups = match merged {
        Some(group) => group.cogroup(|_, number, so_far| fold(so_far, number)),
        None => cogroup(builder),
    };
    let late = || Produced::new(utf8(), LateText);
    match kind {
        Kind::All => groups.aggregate("all", int64(), || 0).to_stream().to("out"),
        Kind::Fixed(windows) => {
            let windowed = groups.windowed_by(windows);
            let windowed = if finals {
                windowed.emit_final()
            } else {
                windowed
            };
            let table = windowed.aggregate("all", int64(), || 0);
            table.to_stream().to("out");
            table.late().to_with("late", late());
        }
        Kind::Sessions(windows) => {
            let windowed = groups.windowed_by_session(windows);
            let windowed = if finals {
                windowed.emit_final()
            } else {
                windowed
            };
            let table = windowed.aggregate("all", int64(), || 0, |_, a, b| fold(a, b));
            table.to_stream().to("out");
            table.late().to_with("late", late());
        }
    }
}

fn merged(builder: &StreamsBuilder) -> KGroupedStream<String, i64> {
    let numbers: KStream<String, i64, Partitioned> = builder.stream("numbers", numbers());
    let texts = builder.stream("texts", texts());
    let texts = texts.map_values(|_, text| weight(&text));
    let both = numbers.merge(&texts.with_serdes(utf8(), int64()));
    both.with_serdes(utf8(), int64()).group_by_key()
}

/// Key and value as bytes.
type Raw = Record<Vec<u8>, Option<Vec<u8>>>;

/// Everything that came out, with its topic.
fn read(driver: &mut TopologyTestDriver) -> Vec<(&'static str, Raw)> {
    let mut records = Vec::new();
    for topic in ["out", "late"] {
        if driver.topics().iter().any(|name| name == topic) {
            let output = driver.output(topic, bytes(), nullable(bytes()));
            records.extend(
                output
                    .read(driver)
                    .into_iter()
                    .map(|record| (topic, record)),
            );
        }
    }
    records
}

fn kinds(grace_ms: i64) -> Vec<Kind> {
    let tumbling = TimeWindows::tumbling(ms(10)).grace(ms(grace_ms));
    let hopping = TimeWindows::hopping(ms(10), ms(4)).grace(ms(grace_ms));
    vec![
        Kind::All,
        Kind::Fixed(tumbling.into()),
        Kind::Fixed(hopping.into()),
        Kind::Fixed(SlidingWindows::of(ms(10)).grace(ms(grace_ms)).into()),
        Kind::Fixed(UnlimitedWindows::from(20).into()),
        Kind::Sessions(SessionWindows::gap(ms(5)).grace(ms(grace_ms))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn several_groups_give_what_one_stream_of_all_their_records_gives(
        input in prop::collection::vec(
            (prop::sample::select(&["a", "ab", "b"][..]), 0..60_i64, any::<bool>()),
            1..30,
        ),
        grace_ms in 0..30_i64,
        kind in 0..6_usize,
        finals in any::<bool>(),
        stops in prop::collection::btree_map(0..30_usize, any::<bool>(), 0..3),
    ) {
        let kind = kinds(grace_ms)[kind];
        let finals = finals && !matches!(kind, Kind::Fixed(w) if w == UnlimitedWindows::from(20).into());
        let mut input = input;
        if !finals {
            // Out of order each group has its own time.
            input.sort_by_key(|(_, timestamp, _)| *timestamp);
        }
        let mut cogrouped = driver(|builder| aggregation(builder, (kind, finals), None));
        let mut together = driver(|builder| {
            aggregation(builder, (kind, finals), Some(&merged(builder)));
        });
        for (i, (key, timestamp, is_number)) in input.into_iter().enumerate() {
            for driver in [&mut cogrouped, &mut together] {
                if is_number {
                    pipe_number(driver, key, i64::try_from(i).unwrap(), timestamp);
                } else {
                    pipe_text(driver, key, &"x".repeat(i), timestamp);
                }
            }
            match stops.get(&i) {
                Some(true) => cogrouped.crash().unwrap(),
                Some(false) => cogrouped.restart().unwrap(),
                None => {}
            }
        }
        prop_assert_eq!(read(&mut cogrouped), read(&mut together));
    }
}
