//! The optimiser: fewer topics and stores, the same results.

use std::time::Duration;

use processor_core::dsl::{Consumed, Grouped, JoinWindows, KStream, StreamsBuilder};
use processor_core::plan::diff::{Subject, Verdict, compare};
use processor_core::serde::{Serde, SerdeError, int64, json, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{StreamsConfig, Topology};
use proptest::prelude::*;

use crate::support::driver::numbers;

fn built(optimize: bool, describe: impl FnOnce(&StreamsBuilder)) -> Topology {
    let builder = StreamsBuilder::new("under-test");
    let builder = if optimize {
        builder.optimize()
    } else {
        builder
    };
    describe(&builder);
    builder.build().unwrap()
}

fn internal_topics(topology: &Topology) -> Vec<String> {
    let topics = topology.plan().topics.into_iter();
    let internal = topics.filter(|topic| topic.internal);
    internal
        .map(|topic| topic.name.replace("<application>-", ""))
        .collect()
}

fn stores(topology: &Topology) -> Vec<String> {
    let stores = topology.plan().stores.into_iter();
    stores.map(|store| store.name).collect()
}

fn rekeyed(builder: &StreamsBuilder) -> KStream<String, i64, processor_core::dsl::Rekeyed> {
    let stream = builder.stream("in", numbers());
    let by_value = stream.select_key(|_, v| (v % 3).to_string());
    by_value.with_serdes(utf8(), int64())
}

fn several_below_one_key(builder: &StreamsBuilder) {
    let rekeyed = rekeyed(builder);
    rekeyed
        .group_by_key()
        .count("counts")
        .to_stream()
        .to("out-counts");
    let sums = rekeyed.group_by_key().reduce("sums", |a, b| a + b);
    sums.to_stream().to("out-sums");
    rekeyed.to_table("latest").to_stream().to("out-latest");
}

#[test]
fn operators_below_one_stream_share_a_repartition_topic_and_give_the_same() {
    let mut drivers = [false, true].map(|optimize| {
        let topology = built(optimize, several_below_one_key);
        TopologyTestDriver::with(topology, StreamsConfig::new("app"), 2).unwrap()
    });
    assert_eq!(
        internal_topics(drivers[0].topology()),
        [
            "counts-repartition",
            "latest-repartition",
            "sums-repartition"
        ]
    );
    assert_eq!(
        internal_topics(drivers[1].topology()),
        ["counts-repartition"]
    );
    let mut outputs = drivers.iter_mut().map(|driver| {
        let input = driver.input("in", utf8(), int64());
        for (value, key) in (1..20).zip(["a", "b", "c"].iter().cycle()) {
            input.pipe(driver, (*key).to_owned(), value, value);
            if value % 7 == 0 {
                driver.crash().unwrap();
            }
        }
        ["out-counts", "out-sums", "out-latest"].map(|topic| {
            let output = driver.output(topic, utf8(), nullable(int64()));
            output
                .read(driver)
                .into_iter()
                .map(|r| (r.key, r.value, r.timestamp))
                .collect::<Vec<_>>()
        })
    });
    let (plain, optimized) = (outputs.next().unwrap(), outputs.next().unwrap());
    assert_eq!(plain, optimized);
    assert!(plain.iter().all(|records| records.len() == 19));
}

/// Text that the serde of the other operator would not read.
struct Shouted;

impl Serde<String> for Shouted {
    fn serialize(&self, value: &String, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        utf8().serialize(&value.to_uppercase(), into)
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<String, SerdeError> {
        utf8().deserialize(bytes)
    }
}

#[test]
fn operators_whose_serdes_write_other_bytes_or_say_nothing_share_no_topic() {
    let topology = built(true, |builder| {
        let rekeyed = rekeyed(builder);
        rekeyed.group_by_key().count("numbers");
        rekeyed
            .with_serdes(utf8(), json())
            .group_by_key()
            .count("texts");
        rekeyed
            .with_serdes(Shouted, int64())
            .group_by_key()
            .count("shouted");
        rekeyed
            .with_serdes(Shouted, int64())
            .group_by_key()
            .count("shouted-too");
    });
    assert_eq!(internal_topics(&topology).len(), 4);
}

#[test]
fn operators_that_choose_a_key_each_and_explicit_repartitions_keep_their_topics() {
    let topology = built(true, |builder| {
        let stream = builder.stream("in", numbers());
        stream
            .group_by(|_, v| v.to_string(), Grouped::by(utf8()))
            .count("one");
        stream
            .group_by(|_, v| v.to_string(), Grouped::by(utf8()))
            .count("two");
        stream
            .repartition("three", utf8(), int64(), None)
            .group_by_key()
            .count("four");
    });
    let topics = ["one-repartition", "three-repartition", "two-repartition"];
    assert_eq!(internal_topics(&topology), topics);
}

#[test]
fn the_results_of_a_join_and_its_late_records_are_two_streams_though_of_one_operator() {
    let topology = built(true, |builder| {
        let stream = builder.stream("in", numbers());
        let windows = JoinWindows::of(Duration::from_secs(1)).grace(Duration::ZERO);
        let joined = stream.join(
            "first",
            &builder.stream("other", numbers()),
            windows,
            |_, a, b| a + b,
        );
        let results = joined.with_serdes(utf8(), int64());
        let late = joined
            .late_left()
            .map_values(|_, late| late.value)
            .with_serdes(utf8(), int64());
        results.join("second", &late, windows, |_, a, b| a + b);
        results.join("third", &results, windows, |_, a, b| a + b);
    });
    assert_eq!(
        stores(&topology),
        [
            "first-other",
            "first-this",
            "second-other",
            "second-this",
            "third-this"
        ]
    );
}

#[test]
fn a_builder_is_optimised_before_its_first_operator_or_not_at_all() {
    let builder = StreamsBuilder::new("under-test");
    builder.stream("in", numbers()).to("out");
    let error = builder.optimize().build().map(|_| ()).unwrap_err();
    assert_eq!(
        error.problems,
        ["it is optimised after its first operator; call `optimize` right after `new`"]
    );
}

#[test]
fn the_plan_says_that_the_optimiser_is_on_and_what_switching_it_on_means() {
    let describe = |builder: &StreamsBuilder| {
        several_below_one_key(builder);
        self_joined(builder, (5, 5), 0);
    };
    let (plain, optimized) = (built(false, describe).plan(), built(true, describe).plan());
    assert_ne!(plain.hash(), optimized.hash());
    assert!(optimized.to_string().contains(", optimized)"));
    let plain_of_one_partition = |mut plan: processor_core::plan::TopologyPlan| {
        plan.topics
            .iter_mut()
            .for_each(|topic| topic.partitions = Some(1));
        plan
    };
    let diff = compare(
        &plain_of_one_partition(plain),
        &plain_of_one_partition(optimized),
    );
    let grave = diff
        .changes
        .iter()
        .filter(|change| change.verdict > Verdict::Safe);
    let grave: Vec<_> = grave
        .map(|change| (change.verdict, change.subject.clone()))
        .collect();
    let topic = |name: &str| Subject::Topic(format!("<application>-{name}-repartition"));
    assert_eq!(
        grave,
        [
            (Verdict::Drain, topic("latest")),
            (Verdict::Drain, topic("sums"))
        ],
        "{diff}"
    );
    assert!(
        diff.changes
            .iter()
            .any(|change| change.subject == Subject::Optimizer)
    );
}

fn self_joined(builder: &StreamsBuilder, (before, after): (i64, i64), grace: u64) {
    let stream = builder.stream("self", Consumed::new(utf8(), int64()));
    let windows = JoinWindows::later_by_ms(-before..=after).grace(Duration::from_millis(grace));
    let joined = stream.join("join", &stream, windows, |_, l, r| format!("{l}-{r}"));
    joined.with_serdes(utf8(), utf8()).to("out");
    let late = |stream: &KStream<String, processor_core::dsl::Late<i64>>, topic: &str| {
        let text = stream.map_values(|_, late| format!("{} is late", late.value));
        text.with_serdes(utf8(), utf8()).to(topic);
    };
    late(&joined.late_left(), "late-left");
    late(&joined.late_right(), "late-right");
}

/// What comes out of a join of a stream with itself, with a restart and a crash in the middle.
fn joined(optimize: bool, bounds: (i64, i64), grace: u64, input: &[(u8, i64)]) -> Vec<Vec<String>> {
    let topology = built(optimize, |builder| self_joined(builder, bounds, grace));
    let expected: &[&str] = if optimize {
        &["join-this"]
    } else {
        &["join-other", "join-this"]
    };
    assert_eq!(stores(&topology), expected);
    let mut driver = TopologyTestDriver::new(topology).unwrap();
    for (value, (key, time)) in (0_i64..).zip(input) {
        let stream = driver.input("self", utf8(), int64());
        stream.pipe(&mut driver, key.to_string(), value, *time);
        match value % 11 {
            5 => driver.restart().unwrap(),
            9 => driver.crash().unwrap(),
            _ => {}
        }
    }
    ["out", "late-left", "late-right"]
        .iter()
        .map(|topic| {
            let records = driver
                .output(topic, utf8(), utf8())
                .read(&mut driver)
                .into_iter();
            records
                .map(|r| format!("{}: {} at {}", r.key, r.value, r.timestamp))
                .collect()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_join_with_itself_in_one_store_gives_what_it_gives_in_two(
        before in -3_i64..12,
        after in 0_i64..12,
        grace in 0_u64..4,
        input in prop::collection::vec((0_u8..2, 0_i64..40), 1..40),
    ) {
        let bounds = (before.max(-after), after);
        prop_assert_eq!(
            joined(true, bounds, grace, &input),
            joined(false, bounds, grace, &input)
        );
    }
}

#[test]
fn a_stream_that_is_taken_as_partitioned_goes_through_no_topic() {
    let topology = built(false, |builder| {
        let counts = rekeyed(builder)
            .assume_partitioned()
            .group_by_key()
            .count("counts");
        counts.to_stream().to("out");
    });
    assert!(internal_topics(&topology).is_empty());
    let mut driver = TopologyTestDriver::new(topology).unwrap();
    let input = driver.input("in", utf8(), int64());
    input.pipe(&mut driver, "a".to_owned(), 1, 0);
    input.pipe(&mut driver, "b".to_owned(), 4, 1);
    let out = driver
        .output("out", utf8(), nullable(int64()))
        .read_key_values(&mut driver);
    assert_eq!(out, [("1".to_owned(), Some(1)), ("1".to_owned(), Some(2))]);
}
