//! Topologies under faults, in virtual time: what is committed is what an undisturbed instance commits.

use std::time::Duration;

use processor_core::Topology;
use processor_core::dsl::{Consumed, JoinWindows, Produced, StreamsBuilder, TimeWindows};
use processor_core::serde::{int64, utf8};
use processor_core::testing::simulation::{
    Draw, Faults, Simulation, Summary, same_as_sequential, same_last_per_key, same_order_per_key,
};

fn draw_pairs(draw: &mut Draw) -> Vec<(String, i64, i64)> {
    let count = 20 + draw.below(60);
    let mut time = 0;
    (0..count)
        .map(|number| {
            time += i64::try_from(draw.below(4)).unwrap();
            let key = format!("k{}", draw.below(7));
            (key, i64::try_from(number).unwrap(), time)
        })
        .collect()
}

fn run(simulation: &Simulation) -> Summary {
    simulation
        .run()
        .unwrap_or_else(|violation| panic!("{violation}"))
}

fn counts() -> Topology {
    let builder = StreamsBuilder::new("counts");
    builder
        .stream("in", Consumed::new(utf8(), int64()))
        .group_by_key()
        .count("count")
        .to_stream()
        .to("out");
    builder.build().unwrap()
}

fn counts_by_another_key() -> Topology {
    let builder = StreamsBuilder::new("counts");
    builder
        .stream("in", Consumed::new(utf8(), int64()))
        .select_key(|_, number| format!("g{}", number % 5))
        .repartition("by-group", utf8(), int64(), None)
        .group_by_key()
        .aggregate("sum", int64(), || 0, |_, value, sum| sum + value)
        .to_stream()
        .to("out");
    builder.build().unwrap()
}

fn join() -> Topology {
    let builder = StreamsBuilder::new("join");
    let left = builder.stream("in", Consumed::new(utf8(), int64()));
    let right = builder.stream("other", Consumed::new(utf8(), int64()));
    let windows = JoinWindows::of(Duration::from_millis(10)).grace(Duration::from_millis(5));
    left.left_join("join", &right, windows, |_, left, right| {
        left * 1_000 + right.unwrap_or(-1)
    })
    .to_with("out", Produced::new(utf8(), int64()));
    builder.build().unwrap()
}

fn windows() -> Topology {
    let builder = StreamsBuilder::new("windows");
    let windows = TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::from_millis(5));
    builder
        .stream("in", Consumed::new(utf8(), int64()))
        .group_by_key()
        .windowed_by(windows)
        .emit_final()
        .count("count")
        .to_stream()
        .to("out");
    builder.build().unwrap()
}

fn simulation(topology: fn() -> Topology) -> Simulation {
    Simulation::of(topology)
        .partitions(3)
        .instances(3)
        .input("in", utf8(), int64(), draw_pairs)
        .faults(Faults::all())
}

#[test]
fn counts_are_the_same_under_faults() {
    run(&simulation(counts).seeds(0..500).check(same_order_per_key()));
}

#[test]
fn sums_behind_a_repartition_topic_end_the_same_under_faults() {
    run(&simulation(counts_by_another_key)
        .seeds(0..500)
        .check(same_last_per_key()));
}

#[test]
fn joins_are_the_same_under_faults() {
    run(&simulation(join)
        .input("other", utf8(), int64(), draw_pairs)
        .seeds(0..500)
        .check(same_as_sequential()));
}

#[test]
fn final_windows_are_the_same_under_faults() {
    run(&simulation(windows)
        .seeds(0..500)
        .check(same_order_per_key()));
}
