//! Time behind a repartition topic: the minimum over the tasks that write it.

use std::time::Duration;

use processor_core::StreamsConfig;
use processor_core::Topology;
use processor_core::dsl::{Consumed, Grouped, JoinWindows, Produced, TimeWindows};
use processor_core::partitioner::partition_for;
use processor_core::serde::{int64, utf8};

use crate::support::driver::topology;
use crate::support::world::World;

/// Counts by value in windows of 10 ms without grace, behind a repartition by value; "late" has what came too late.
fn counts() -> Topology {
    topology(|builder| {
        let windows = TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::ZERO);
        let counts = builder
            .stream("in", Consumed::new(utf8(), utf8()))
            .group_by(|_, v| v.clone(), Grouped::by(utf8()))
            .windowed_by(windows)
            .count("counts");
        counts
            .to_stream()
            .map(|window, count| (window.key, format!("{}:{count}", window.start)))
            .to_with("out", Produced::new(utf8(), utf8()));
        counts
            .late()
            .map_values(|_, late| format!("{}", late.window_start))
            .to_with("late", Produced::new(utf8(), utf8()));
    })
}

fn config() -> StreamsConfig {
    StreamsConfig {
        instance: Some("one".to_owned()),
        ..StreamsConfig::new("app")
    }
}

fn world() -> World {
    World::new(&[("in", 2), ("out", 2), ("late", 2)])
}

/// Values that land in different partitions of the two.
fn values() -> [&'static str; 2] {
    let of = |partition| {
        let candidates = ["a", "b", "c", "d", "e", "f"];
        let lands = |value: &&str| partition_for(value.as_bytes(), 2) == partition;
        candidates.into_iter().find(lands).unwrap()
    };
    [of(0), of(1)]
}

#[test]
fn a_fast_upstream_partition_does_not_make_a_slow_one_late() {
    let world = world();
    let [value, _] = values();
    let mut streams = world.streams(&counts(), config());
    for round in 0..5 {
        // The first partition is an hour ahead, and its records come first.
        world.write("in", 0, Some("k"), Some(value), 3_600_000 + round * 10);
        streams.run_to_end().unwrap();
        world.write("in", 1, Some("k"), Some(value), round * 10);
        streams.run_to_end().unwrap();
    }
    streams.close().unwrap();
    assert_eq!(world.read_values("late"), Vec::<String>::new());
    assert_eq!(world.read_values("out").len(), 10);
}

#[test]
fn nor_does_it_after_restarts_and_crashes() {
    let world = world();
    let [value, _] = values();
    for round in 0..5 {
        let mut streams = world.streams(&counts(), config());
        world.write("in", 0, Some("k"), Some(value), 3_600_000 + round * 10);
        streams.run_to_end().unwrap();
        if round % 2 == 0 {
            streams.close().unwrap();
        } else {
            drop(streams);
        }
        let mut streams = world.streams(&counts(), config());
        world.write("in", 1, Some("k"), Some(value), round * 10);
        streams.run_to_end().unwrap();
        streams.close().unwrap();
    }
    assert_eq!(world.read_values("late"), Vec::<String>::new());
}

#[test]
fn a_record_that_is_late_for_its_own_partition_is_late_behind_the_repartition() {
    let world = world();
    let [value, _] = values();
    let mut streams = world.streams(&counts(), config());
    for time in [100, 0] {
        world.write("in", 0, Some("k"), Some(value), time);
        world.write("in", 1, Some("k"), Some(value), 100);
        streams.run_to_end().unwrap();
    }
    assert_eq!(world.read_values("late"), ["0"]);
    streams.close().unwrap();
}

#[test]
fn the_slowest_partition_is_what_closes_a_window() {
    let world = world();
    let [value, _] = values();
    let mut streams = world.streams(&counts(), config());
    let mut write = |partition, time| {
        world.write("in", partition, Some("k"), Some(value), time);
        streams.run_to_end().unwrap();
    };
    write(0, 1_000);
    write(1, 5);
    // The slow one is at 5: [0, 10) is open. At 20 it is closed, for both.
    write(0, 5);
    write(1, 20);
    write(0, 5);
    assert_eq!(world.read_values("late"), ["0"]);
    streams.close().unwrap();
}

/// What [`counts`] counts, each window once.
fn final_counts() -> Topology {
    topology(|builder| {
        let windows = TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::ZERO);
        builder
            .stream("in", Consumed::new(utf8(), utf8()))
            .group_by(|_, v| v.clone(), Grouped::by(utf8()))
            .windowed_by(windows)
            .emit_final()
            .count("counts")
            .to_stream()
            .map(|window, count| (window.key, format!("{}:{count}", window.start)))
            .to_with("out", Produced::new(utf8(), utf8()));
    })
}

#[test]
fn final_results_wait_for_the_slowest_partition_and_come_once() {
    let [value, _] = values();
    for restart in [false, true] {
        let world = world();
        let mut streams = world.streams(&final_counts(), config());
        let mut emitted = Vec::new();
        for (partition, time) in [(0, 1_000), (1, 5), (0, 7), (1, 20), (1, 2_000), (0, 2_000)] {
            world.write("in", partition, Some("k"), Some(value), time);
            streams.run_to_end().unwrap();
            if restart {
                streams.close().unwrap();
                streams = world.streams(&final_counts(), config());
            }
            emitted.push(world.read_values("out").join(" "));
        }
        let expected = ["", "", "", "0:2", "0:2 20:1", "0:2 20:1 1000:1"];
        assert_eq!(emitted, expected, "restart: {restart}");
    }
}

#[test]
fn a_partition_whose_records_all_go_elsewhere_tells_its_time_by_markers() {
    let world = world();
    let [here, there] = values();
    let mut streams = world.streams(&counts(), config());
    let mut write = |partition, value, time| {
        world.write("in", partition, Some("k"), Some(value), time);
        streams.run_to_end().unwrap();
    };
    // The second partition sends everything to the other side, but its time goes on here as well.
    write(1, there, 1_000);
    write(0, here, 1_000);
    write(0, here, 5);
    assert_eq!(world.read_values("late"), ["0"]);
    streams.close().unwrap();

    // So it is after a restart, when the marker was read long ago.
    let mut streams = world.streams(&counts(), config());
    world.write("in", 0, Some("k"), Some(here), 7);
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    assert_eq!(world.read_values("late"), ["0", "0"]);
}

#[test]
fn it_does_not_matter_whether_the_fast_or_the_slow_partition_is_heard_of_first() {
    let [here, there] = values();
    for restart in [false, true] {
        let world = world();
        let mut streams = world.streams(&counts(), config());
        for (partition, value, time) in [(0, here, 1_000), (1, there, 1_000), (0, here, 5)] {
            world.write("in", partition, Some("k"), Some(value), time);
            streams.run_to_end().unwrap();
            if restart {
                streams.close().unwrap();
                streams = world.streams(&counts(), config());
            }
        }
        assert_eq!(world.read_values("late"), ["0"], "restart: {restart}");
    }
}

#[test]
fn a_partition_that_never_had_a_record_keeps_the_windows_behind_the_repartition_open() {
    // It may still have old ones: without a rule an input is never idle. `idle.rs` has those with one.
    let world = world();
    let [value, _] = values();
    let mut streams = world.streams(&counts(), config());
    for time in [1_000_000, 0] {
        world.write("in", 0, Some("k"), Some(value), time);
        streams.run_to_end().unwrap();
    }
    assert_eq!(world.read_values("late"), Vec::<String>::new());
    assert_eq!(world.read_values("out").len(), 2);
}

#[test]
fn markers_are_no_records_of_the_repartition_topic_s_readers() {
    let world = world();
    let [_, there] = values();
    let mut streams = world.streams(&counts(), config());
    world.write("in", 0, Some("k"), Some(there), 1_000);
    let summary = streams.run_to_end().unwrap();
    // Once at the source, once behind the repartition.
    assert_eq!(summary.records, 2);
    streams.close().unwrap();
    let sent = world.read("app-counts-repartition");
    assert_eq!(
        sent.len(),
        2,
        "the record and a marker for the other partition"
    );
    assert!(
        sent.iter()
            .all(|record| record.headers.iter().any(|h| &*h.name == "__time"))
    );
}

#[test]
fn the_time_header_does_not_reach_the_user_s_topics() {
    let world = world();
    let [value, _] = values();
    let mut streams = world.streams(&counts(), config());
    world.write("in", 0, Some("k"), Some(value), 0);
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    assert!(
        world
            .read("out")
            .iter()
            .all(|record| record.headers.is_empty())
    );
}

#[test]
fn time_is_the_minimum_over_two_repartitions_in_a_row() {
    let world = world();
    let topology = topology(|builder| {
        let windows = TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::ZERO);
        let counts = builder
            .stream("in", Consumed::new(utf8(), utf8()))
            .select_key(|_, v| v.clone())
            .repartition("first", utf8(), utf8(), None)
            .group_by(|_, v| v.clone(), Grouped::by(utf8()))
            .windowed_by(windows)
            .count("counts");
        counts
            .to_stream()
            .map(|window, count| (window.key, count))
            .to_with("out", Produced::new(utf8(), int64()));
        counts
            .late()
            .map_values(|_, late| format!("{}", late.window_start))
            .to_with("late", Produced::new(utf8(), utf8()));
    });
    let mut streams = world.streams(&topology, config());
    let [here, there] = values();
    for round in 0..5 {
        for value in [here, there] {
            world.write("in", 0, Some("k"), Some(value), 3_600_000 + round * 10);
            streams.run_to_end().unwrap();
            world.write("in", 1, Some("k"), Some(value), round * 10);
            streams.run_to_end().unwrap();
        }
    }
    streams.close().unwrap();
    assert_eq!(world.read_values("late"), Vec::<String>::new());
}

/// A join of "left" with "right", whose records all get the key "a" on their way through a repartition.
fn join_with_rekeyed() -> Topology {
    topology(|builder| {
        let texts = || Consumed::new(utf8(), utf8());
        let left = builder.stream("left", texts());
        let right = builder
            .stream("right", texts())
            .select_key(|_, _| "a".to_owned())
            .repartition("rekeyed", utf8(), utf8(), None);
        let windows = JoinWindows::of(Duration::from_millis(1)).grace(Duration::from_millis(20));
        let joined = left.join("join", &right, windows, |_, l, r| format!("{l}+{r}"));
        joined.to_with("out", Produced::new(utf8(), utf8()));
        joined
            .late_right()
            .map_values(|_, late| late.value)
            .to_with("late", Produced::new(utf8(), utf8()));
    })
}

#[test]
fn a_join_waits_for_the_side_that_has_to_come_through_a_repartition() {
    // Both sides are there from the start. The left one is read at once, the right one has to be repartitioned first.
    let world = World::new(&[("left", 1), ("right", 1), ("out", 1), ("late", 1)]);
    for n in 0..200 {
        world.write("left", 0, Some("a"), Some(&n.to_string()), n * 10);
        world.write("right", 0, Some("x"), Some(&n.to_string()), n * 10 + 1);
    }
    let mut streams = world.streams(&join_with_rekeyed(), config());
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    assert_eq!(world.read_values("late"), Vec::<String>::new());
    let expected: Vec<String> = (0..200).map(|n| format!("{n}+{n}")).collect();
    assert_eq!(world.read_values("out"), expected);
}

#[test]
fn a_join_does_not_run_ahead_of_the_slower_of_the_tasks_that_write_its_other_side() {
    // The tasks of both partitions write what they have in one go, so all of the first one's records lie before those of
    // the second one, in whose time the left side has to wait.
    let world = World::new(&[("left", 2), ("right", 2), ("out", 2), ("late", 2)]);
    let home = partition_for(b"a", 2);
    for n in 0..200 {
        world.write("left", home, Some("a"), Some(&n.to_string()), n * 10);
        let partition = i32::try_from(n % 2).unwrap();
        world.write(
            "right",
            partition,
            Some("x"),
            Some(&n.to_string()),
            n * 10 + 1,
        );
    }
    let mut streams = world.streams(&join_with_rekeyed(), config());
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    assert_eq!(world.read_values("late"), Vec::<String>::new());
    let mut joined = world.read_values("out");
    joined.sort();
    let mut expected: Vec<String> = (0..200).map(|n| format!("{n}+{n}")).collect();
    expected.sort();
    assert_eq!(joined, expected);
}

#[test]
fn an_upstream_partition_without_records_does_not_change_the_order_of_a_join_s_inputs() {
    let world = World::new(&[("left", 2), ("right", 2), ("out", 2), ("late", 2)]);
    let home = partition_for(b"a", 2);
    for n in 0..50 {
        world.write("left", home, Some("a"), Some(&n.to_string()), n * 10);
        world.write("right", 0, Some("x"), Some(&n.to_string()), n * 10 + 1);
    }
    let mut streams = world.streams(&join_with_rekeyed(), config());
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    // In order of time, so the left records were not kept back until the right ones had all been taken.
    let expected: Vec<String> = (0..50).map(|n| format!("{n}+{n}")).collect();
    assert_eq!(world.read_values("out"), expected);
}
