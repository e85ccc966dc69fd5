//! Hopping windows that are put together from panes give what those give that are kept one by one.

use std::time::Duration;

use processor_core::dsl::{
    Grouped, KGroupedStream, Produced, StreamsBuilder, TimeWindows, WindowedTable,
};
use processor_core::serde::{bytes, int64, nullable, utf8, windowed};
use processor_core::testing::TopologyTestDriver;
use processor_core::{Record, StreamsConfig};
use proptest::prelude::*;

use crate::support::driver::{driver, numbers, pairs, text, topology};
use crate::windowed::LateText;

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn hopping(size_ms: i64, advance_ms: i64, grace_ms: i64) -> TimeWindows {
    TimeWindows::hopping(ms(size_ms), ms(advance_ms)).grace(ms(grace_ms))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Panes,
    Windows,
}

#[derive(Debug, Clone, Copy)]
enum Aggregate {
    Count,
    Sum,
    Reduce,
    Fold,
}

type Table = WindowedTable<String, i64, i64>;

/// The same aggregation in either form.
fn aggregated(
    grouped: &KGroupedStream<String, i64>,
    windows: TimeWindows,
    aggregate: Aggregate,
    form: Form,
) -> Table {
    let finals = grouped.windowed_by(windows).emit_final();
    let bit = |value: i64| 1 << (value % 60);
    match (aggregate, form) {
        (Aggregate::Count, Form::Panes) => finals.count("aggregate"),
        (Aggregate::Count, Form::Windows) => {
            finals.aggregate("aggregate", int64(), || 0, |_, _, count| count + 1)
        }
        (Aggregate::Sum, Form::Panes) => finals.sum("aggregate", |_, value| *value),
        (Aggregate::Sum, Form::Windows) => {
            finals.aggregate("aggregate", int64(), || 0, |_, value, sum| sum + value)
        }
        (Aggregate::Reduce, Form::Panes) => {
            finals.in_any_order().reduce("aggregate", |a, b| a.max(b))
        }
        (Aggregate::Reduce, Form::Windows) => finals.reduce("aggregate", |a, b| a.max(b)),
        (Aggregate::Fold, Form::Panes) => finals.aggregate_combining(
            "aggregate",
            int64(),
            || 0,
            move |_, value, seen| seen | bit(value),
            |a, b| a | b,
        ),
        (Aggregate::Fold, Form::Windows) => finals.aggregate(
            "aggregate",
            int64(),
            || 0,
            move |_, value, seen| seen | bit(value),
        ),
    }
}

fn write(table: &Table) {
    table.to_stream().to("out");
    let late = Produced::new(utf8(), LateText);
    table.late().to_with("late", late);
}

/// Key and value as bytes.
type Raw = Record<Vec<u8>, Option<Vec<u8>>>;

fn read(driver: &mut TopologyTestDriver) -> [Vec<Raw>; 2] {
    ["out", "late"].map(|topic| {
        let output = driver.output(topic, bytes(), nullable(bytes()));
        output.read(driver)
    })
}

#[test]
fn panes_are_kept_and_no_windows() {
    let mut driver = driver(|builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let windows = hopping(10, 5, 0);
        write(&aggregated(
            &grouped,
            windows,
            Aggregate::Count,
            Form::Panes,
        ));
    });
    let topic = driver.input("in", utf8(), int64());
    for time in [7, 8, 12] {
        topic.pipe(&mut driver, text("a"), 1, time);
    }
    let topics = driver.topics();
    let changelogs: Vec<_> = topics
        .iter()
        .filter(|t| t.ends_with("-changelog"))
        .collect();
    assert_eq!(changelogs, ["test-aggregate-panes-changelog"]);
    // A record in time for each of two panes, although each is in two windows.
    let changelog = driver.output(changelogs[0], bytes(), nullable(bytes()));
    let changes = changelog.read(&mut driver);
    let panes: std::collections::BTreeSet<_> = changes.into_iter().map(|r| r.key).collect();
    assert_eq!(panes.len(), 2);
}

#[test]
fn a_reducer_that_looks_at_the_order_gets_it() {
    let mut driver = driver(|builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let finals = grouped.windowed_by(hopping(10, 5, 10)).emit_final();
        write(&finals.reduce("latest", |_, latest| latest));
    });
    let topic = driver.input("in", utf8(), int64());
    for (value, time) in [(1, 17), (2, 12), (3, 100)] {
        topic.pipe(&mut driver, text("a"), value, time);
    }
    let out = driver.output("out", windowed(utf8(), 10), int64());
    let latest: Vec<_> = out.read(&mut driver);
    let latest: Vec<_> = latest.iter().map(|r| (r.key.start, r.value)).collect();
    assert_eq!(latest, [(5, 2), (10, 2), (15, 1)]);
}

#[test]
fn a_window_of_panes_can_be_looked_up_while_it_is_open() {
    let mut driver = driver(|builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        let windows = hopping(10, 5, 0);
        let table = aggregated(&grouped, windows, Aggregate::Sum, Form::Panes).table();
        let others = builder.stream("others", numbers()).group_by_key();
        let others = others.windowed_by(hopping(10, 5, 1_000)).count("others");
        let joined = others.table().join("joined", &table, |_, a, b| 100 * a + b);
        joined
            .with_serdes(windowed(utf8(), 10), int64())
            .to_stream()
            .select_key(|key, _| key.key.clone())
            .to_with("joined", Produced::new(utf8(), nullable(int64())));
    });
    let topic = driver.input("in", utf8(), int64());
    let others = driver.input("others", utf8(), int64());
    let joined = driver.output("joined", utf8(), int64());
    for (value, time) in [(1, 6), (2, 11)] {
        topic.pipe(&mut driver, text("a"), value, time);
    }
    // [0, 10) is closed at 11; [5, 15) holds both records and [10, 20) the second.
    others.pipe(&mut driver, text("a"), 1, 7);
    assert_eq!(joined.read_key_values(&mut driver), pairs(&[("a", 103)]));
    driver.restart().unwrap();
    others.pipe(&mut driver, text("a"), 1, 12);
    assert_eq!(
        joined.read_key_values(&mut driver),
        pairs(&[("a", 203), ("a", 102)])
    );
}

fn aggregates() -> impl Strategy<Value = Aggregate> {
    let all = [
        Aggregate::Count,
        Aggregate::Sum,
        Aggregate::Reduce,
        Aggregate::Fold,
    ];
    prop::sample::select(all.to_vec())
}

/// A size and an advance that is less.
fn overlapping() -> impl Strategy<Value = (i64, i64)> {
    (2..25_i64).prop_flat_map(|size| (Just(size), 1..size))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn panes_give_the_same_bytes_as_windows(
        input in prop::collection::vec(
            (prop::sample::select(&["a", "ab", "b"][..]), 0..120_i64),
            1..50,
        ),
        (size_ms, advance_ms) in overlapping(),
        grace_ms in 0..30_i64,
        aggregate in aggregates(),
        stops in prop::collection::btree_map(0..50_usize, any::<bool>(), 0..4),
    ) {
        let windows = hopping(size_ms, advance_ms, grace_ms);
        let [mut panes, mut plain] = [Form::Panes, Form::Windows].map(|form| {
            driver(|builder| {
                let grouped = builder.stream("in", numbers()).group_by_key();
                write(&aggregated(&grouped, windows, aggregate, form));
            })
        });
        let topic = panes.input("in", utf8(), int64());
        for (i, (key, timestamp)) in input.iter().enumerate() {
            for driver in [&mut panes, &mut plain] {
                topic.pipe(driver, text(key), i64::try_from(i).unwrap(), *timestamp);
            }
            match stops.get(&i) {
                Some(true) => panes.crash().unwrap(),
                Some(false) => panes.restart().unwrap(),
                None => {}
            }
        }
        prop_assert_eq!(read(&mut panes), read(&mut plain));
    }

    /// There a record with an old timestamp may be the one that moves time, and closes windows that it lies in.
    #[test]
    fn nor_do_they_differ_behind_a_repartition_topic(
        input in prop::collection::vec(
            (prop::sample::select(&["a", "b", "c", "d"][..]), 0..120_i64),
            1..40,
        ),
        (size_ms, advance_ms) in overlapping(),
        grace_ms in 0..10_i64,
    ) {
        let windows = hopping(size_ms, advance_ms, grace_ms);
        let describe = |form| {
            move |builder: &StreamsBuilder| {
                let by_all = Grouped::by(utf8()).value(int64());
                let stream = builder.stream("in", numbers());
                let grouped = stream.group_by(|_, _| text("all"), by_all);
                write(&aggregated(&grouped, windows, Aggregate::Count, form));
            }
        };
        let [mut panes, mut plain] = [Form::Panes, Form::Windows].map(|form| {
            let topology = topology(describe(form));
            TopologyTestDriver::with(topology, StreamsConfig::new("app"), 2).unwrap()
        });
        let topic = panes.input("in", utf8(), int64());
        for (key, timestamp) in &input {
            for driver in [&mut panes, &mut plain] {
                topic.pipe(driver, text(key), 1, *timestamp);
            }
        }
        prop_assert_eq!(read(&mut panes), read(&mut plain));
    }
}
