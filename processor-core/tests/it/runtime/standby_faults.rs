//! Standby copies under the faults of the simulation: they change no result.

use processor_core::Standby;
use processor_core::dsl::{Consumed, StreamsBuilder};
use processor_core::serde::{int64, utf8};
use processor_core::testing::simulation::{Faults, Simulation, same_order_per_key};

fn counts() -> processor_core::Topology {
    let builder = StreamsBuilder::new("counts");
    builder
        .stream("words", Consumed::new(utf8(), int64()))
        .group_by_key()
        .count("count")
        .to_stream()
        .to("counts");
    builder.build().unwrap()
}

#[test]
fn copies_change_no_result_whatever_happens_to_instances_and_disks() {
    let simulation = Simulation::of(counts)
        .partitions(3)
        .instances(3)
        .config(|config| {
            config.static_membership = true;
            config.standby = Some(Standby::among(3));
        })
        .input("words", utf8(), int64(), |draw| {
            let count = 20 + draw.below(60);
            let word = |time| (format!("word-{}", draw.below(7)), 1, time);
            (0..i64::try_from(count).unwrap()).map(word).collect()
        })
        .faults(Faults::all())
        .seeds(0..300)
        .check(same_order_per_key());
    let summary = simulation
        .run()
        .unwrap_or_else(|violation| panic!("{violation}"));
    assert!(summary.copies_handed_over > 100, "{summary:?}");
}
