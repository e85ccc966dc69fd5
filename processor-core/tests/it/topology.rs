//! Checks before anything runs, and what a topology says about itself.

use std::time::Duration;

use processor_core::dsl::{Consumed, Grouped, JoinWindows, Produced, StreamsBuilder, TimeWindows};
use processor_core::log::Log as _;
use processor_core::serde::{int64, utf8};
use processor_core::testing::TopologyTestDriver;
use processor_core::{StreamsConfig, StreamsError, TopologyError};

use crate::support::driver::{numbers, topology};
use crate::support::world::World;

fn refused(describe: impl FnOnce(&StreamsBuilder)) -> TopologyError {
    let builder = StreamsBuilder::new("under-test");
    describe(&builder);
    match builder.build() {
        Ok(topology) => panic!("it was not refused: {topology}"),
        Err(error) => error,
    }
}

fn refused_at_start(
    topics: &[(&str, i32)],
    describe: impl FnOnce(&StreamsBuilder),
) -> StreamsError {
    let world = World::new(topics);
    let log = std::sync::Arc::new(world.log.clone());
    match processor_core::Streams::new(topology(describe), StreamsConfig::new("app"), log) {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error,
    }
}

fn join_windows() -> JoinWindows {
    JoinWindows::of(Duration::from_secs(1)).grace(Duration::ZERO)
}

#[test]
fn an_empty_topology_is_refused() {
    let error = refused(|_| {});
    assert_eq!(
        error.to_string(),
        "topology 'under-test' is not valid: it reads no topic; add a stream or a table"
    );
}

#[test]
fn a_name_that_is_used_twice_is_refused() {
    let error = refused(|builder| {
        let grouped = builder.stream("in", numbers()).group_by_key();
        grouped.count("counts");
        grouped.count("counts");
    });
    assert_eq!(
        error.problems,
        [
            "operator 'counts' is used twice; give each operator a name of its own",
            "store 'counts' is used twice; give each store a name of its own",
        ]
    );
}

#[test]
fn a_topic_that_is_read_twice_is_refused() {
    let error = refused(|builder| {
        builder.stream("in", numbers()).to("one");
        builder.stream("in", numbers()).to("two");
    });
    assert_eq!(
        error.problems,
        ["topic 'in' is used twice; read it once and use the stream several times"]
    );
}

#[test]
fn every_operator_that_misses_a_serde_is_named_with_what_to_do() {
    let error = refused(|builder| {
        let stream = builder.stream("in", numbers());
        let rekeyed = stream.map(|k, v| (v, k));
        rekeyed.to("out");
        rekeyed.group_by_key().count("counts");
        let other = builder.stream("other", Consumed::new(int64(), utf8()));
        rekeyed.join("join", &other, join_windows(), |_, l, r| l + &r);
        let values = stream.map_values(|_, v| vec![v]);
        values.group_by_key().reduce("lists", |a, _| a);
    });
    assert_eq!(error.problems.len(), 5, "{error}");
    for (problem, parts) in error.problems.iter().zip([
        ["written to 'out'", "its key", "to_with(\"out\""],
        ["'counts'", "its key", "Grouped::by"],
        ["'join-left'", "no serdes", "repartition(\"join-left\""],
        ["join 'join'", "key and both values", "`repartition`"],
        ["'lists'", "its value", "Grouped::by"],
    ]) {
        for part in parts {
            assert!(problem.contains(part), "{part} is not in: {problem}");
        }
    }
}

#[test]
fn a_missing_input_topic_is_named() {
    let error = refused_at_start(&[("out", 1)], |builder| {
        builder.stream("in", numbers()).to("out");
    });
    assert_eq!(
        error.to_string(),
        "topology 'under-test' is not valid: topic 'in' does not exist; create it before the application starts"
    );
}

#[test]
fn a_missing_output_topic_is_named() {
    let error = refused_at_start(&[("in", 1)], |builder| {
        builder.stream("in", numbers()).to("out");
    });
    let expected = "topic 'out' does not exist; create it before the application starts";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn an_output_topic_that_is_deleted_while_it_is_written_to_is_named() {
    let world = World::new(&[("in", 1), ("out", 1)]);
    let builder = StreamsBuilder::new("copying");
    let texts = Consumed::new(utf8(), utf8());
    builder.stream("in", texts).to("out");
    let topology = builder.build().unwrap();
    let mut streams = world.streams(&topology, StreamsConfig::new("app"));
    world.write("in", 0, Some("k"), Some("v"), 1);
    streams.run_to_end().unwrap();
    world.log.delete_topics(&["out"]).unwrap();
    world.write("in", 0, Some("k"), Some("v"), 2);
    let expected = "output topic 'out' was deleted while the application wrote to it; make it again and restart all instances";
    assert_eq!(streams.run_to_end().unwrap_err().to_string(), expected);
}

#[test]
fn a_missing_topic_of_a_global_table_is_named() {
    let error = refused_at_start(&[("in", 1), ("out", 1)], |builder| {
        let table = builder.global_table("rows", "table", numbers());
        builder
            .stream("in", numbers())
            .join_global("join", &table, |k, _| k.clone(), |_, _, v, _| v)
            .to_with("out", Produced::new(utf8(), int64()));
    });
    let expected = "topic 'rows' does not exist; create it before the application starts";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn joined_topics_with_different_partition_counts_are_refused_by_name() {
    let error = refused_at_start(&[("left", 2), ("right", 3)], |builder| {
        let (left, right) = (
            builder.stream("left", numbers()),
            builder.stream("right", numbers()),
        );
        left.join("join", &right, join_windows(), |_, l, r| l + r);
    });
    assert_eq!(
        error.to_string(),
        "topology 'under-test' is not valid: operator 'join' needs topics with the same number of partitions, but \
         left has 2, right has 3; repartition one of them"
    );
}

#[test]
fn a_repartition_with_a_count_that_its_partner_does_not_have_is_refused() {
    let error = refused_at_start(&[("left", 2), ("right", 2)], |builder| {
        let left = builder
            .stream("left", numbers())
            .repartition("wide", utf8(), int64(), Some(4));
        let right = builder.stream("right", numbers());
        left.join("join", &right, join_windows(), |_, l, r| l + r);
    });
    assert!(
        error
            .to_string()
            .contains("app-wide-repartition has 4, right has 2"),
        "{error}"
    );
}

#[test]
fn operators_without_a_common_key_need_no_common_partition_count() {
    let world = World::new(&[("left", 2), ("right", 3), ("out", 1)]);
    let topology = topology(|builder| {
        builder.stream("left", numbers()).to("out");
        builder
            .stream("right", numbers())
            .group_by_key()
            .count("counts");
    });
    let mut streams = world.streams(&topology, StreamsConfig::new("app"));
    streams.run_to_end().unwrap();
}

#[test]
fn a_repartition_topic_takes_as_many_partitions_as_its_partner_or_its_writers_or_as_it_was_told() {
    use processor_core::log::Log;
    let world = World::new(&[("five", 5), ("two", 2)]);
    let topology = topology(|builder| {
        let five = builder.stream("five", numbers());
        let two = builder.stream("two", numbers());
        let joined = two.repartition("as-partner", utf8(), int64(), None);
        joined.join("join", &five, join_windows(), |_, l, r| l + r);
        two.group_by(|k, _| k.clone(), Grouped::by(utf8()))
            .count("as-writers");
        two.repartition("as-told", utf8(), int64(), Some(7))
            .group_by_key()
            .count("told");
    });
    let streams = world.streams(&topology, StreamsConfig::new("app"));
    let partitions = |topic: &str| world.log.partitions(topic).unwrap();
    assert_eq!(partitions("app-as-partner-repartition"), Some(5));
    assert_eq!(partitions("app-as-writers-repartition"), Some(2));
    assert_eq!(partitions("app-as-told-repartition"), Some(7));
    assert_eq!(partitions("app-told-changelog"), Some(7));
    assert_eq!(partitions("app-join-this-changelog"), Some(5));
    drop(streams);
}

#[test]
fn topics_of_the_user_are_told_apart_from_internal_ones() {
    let topology = everything();
    assert_eq!(
        topology.input_topics(),
        ["clicks", "impressions", "rows", "users"]
    );
    assert_eq!(
        topology.output_topics(),
        ["enriched", "late", "per-minute", "result"]
    );
}

pub fn everything() -> processor_core::Topology {
    topology(|builder| {
        let impressions = builder.stream("impressions", numbers());
        let clicks = builder.stream("clicks", numbers());
        let users = builder.table("users", "user-table", numbers());
        let rows = builder.global_table("rows", "row-table", numbers());
        impressions
            .left_join("attributed", &clicks, join_windows(), |_, l, r| {
                l + r.unwrap_or(0)
            })
            .join_table("with-user", &users, |_, v, user| v + user)
            .left_join_global(
                "with-row",
                &rows,
                |k, _| k.clone(),
                |_, _, v, row| v + row.unwrap_or(0),
            )
            .to_with("enriched", Produced::new(utf8(), int64()));
        let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::ZERO);
        let per_minute = clicks
            .group_by(|_, v| v.to_string(), Grouped::by(utf8()))
            .windowed_by(minutes)
            .count("clicks-per-minute");
        per_minute.to_stream().to("per-minute");
        per_minute
            .late()
            .map_values(|_, late| late.value)
            .to_with("late", Produced::new(utf8(), int64()));
        let split = impressions.split();
        let (large, rest) = (split.branch(|_, v| *v > 10), split.default_branch());
        large.merge(&rest).to("result");
    })
}

#[test]
fn stores_shared_by_operators_put_them_into_one_sub_topology() {
    let topology = topology(|builder| {
        let table = builder.table("rows", "table", numbers());
        builder
            .stream("in", numbers())
            .join_table("join", &table, |_, v, row| v + row);
    });
    assert!(
        !topology.describe().contains("Sub-topology: 1"),
        "{topology}"
    );
}

#[test]
fn the_internal_topics_are_named_after_the_application_and_the_operators() {
    let driver = TopologyTestDriver::with(everything(), StreamsConfig::new("app"), 2).unwrap();
    let internal: Vec<String> = driver
        .topics()
        .into_iter()
        .filter(|topic| topic.starts_with("app-"))
        .collect();
    assert_eq!(
        internal,
        [
            "app-attributed-other-changelog",
            "app-attributed-pending-changelog",
            "app-attributed-this-changelog",
            "app-clicks-per-minute-changelog",
            "app-clicks-per-minute-repartition",
            "app-plan",
            "app-user-table-changelog",
        ]
    );
}

#[test]
fn a_name_that_cannot_be_part_of_a_topic_or_of_offset_metadata_is_refused() {
    let error = refused(|builder| {
        let stream = builder.stream("in", numbers());
        stream.group_by_key().count("per user, daily");
    });
    assert_eq!(
        error.problems,
        [
            "the name 'per user, daily' is not made of a-z A-Z 0-9 . _ - alone; it becomes part of topic names"
        ]
    );
}
