//! What the simulation refuses and finds, on topologies of a test's own.

use processor_core::Topology;
use processor_core::dsl::{Consumed, StreamsBuilder};
use processor_core::mutant::Mutant;
use processor_core::serde::{int64, utf8};
use processor_core::testing::simulation::{Draw, Faults, Simulation, same_order_per_key};

fn counts() -> Topology {
    let builder = StreamsBuilder::new("counts");
    let words = builder.stream("words", Consumed::new(utf8(), int64()));
    words.group_by_key().count("count").to_stream().to("counts");
    builder.build().unwrap()
}

fn draw_words(draw: &mut Draw) -> Vec<(String, i64, i64)> {
    let word = |time| (format!("word-{}", draw.below(4)), 1, time);
    (0..40).map(word).collect()
}

#[test]
fn a_topic_that_is_read_and_has_no_input_is_refused_by_its_name() {
    let violation = Simulation::of(counts).seeds(3..5).run().unwrap_err();
    assert_eq!(violation.seed, 3);
    assert!(violation.why.contains("topic 'words'"), "{violation}");

    let both = || {
        let builder = StreamsBuilder::new("both");
        let other = builder.stream("other", Consumed::new(utf8(), int64()));
        let words = builder.stream("words", Consumed::new(utf8(), int64()));
        words.merge(&other).to("out");
        builder.build().unwrap()
    };
    let simulation = Simulation::of(both).input("words", utf8(), int64(), draw_words);
    let violation = simulation.run().unwrap_err();
    assert!(violation.why.contains("topic 'other'"), "{violation}");
}

#[test]
fn a_topic_that_the_topology_writes_itself_needs_no_input() {
    let through = || {
        let builder = StreamsBuilder::new("through");
        let words = builder.stream("words", Consumed::new(utf8(), int64()));
        words.to("between");
        let between = builder.stream("between", Consumed::new(utf8(), int64()));
        between.filter(|_, value| *value > 0).to("out");
        builder.build().unwrap()
    };
    let simulation = Simulation::of(through)
        .input("words", utf8(), int64(), draw_words)
        .seeds(0..3);
    let summary = simulation.run().unwrap_or_else(|v| panic!("{v}"));
    assert!(summary.records > 0, "{summary:?}");
}

#[test]
fn a_violation_ends_with_how_to_see_it_again() {
    let simulation = Simulation::of(counts)
        .input("words", utf8(), int64(), draw_words)
        .faults(Faults::none())
        .check(same_order_per_key())
        .mutant(Mutant::OffsetTooShort);
    let violation = simulation.seeds(0..20).run().unwrap_err();
    let seed = violation.seed;
    let last = format!("to see it again: .seeds({seed}..{seed} + 1)");
    assert!(violation.to_string().ends_with(&last), "{violation}");
    let again = Simulation::of(counts)
        .input("words", utf8(), int64(), draw_words)
        .faults(Faults::none())
        .check(same_order_per_key())
        .mutant(Mutant::OffsetTooShort)
        .seeds(seed..seed + 1);
    let again = again.run().unwrap_err();
    assert_eq!(again.to_string(), violation.to_string());
}

/// The first violation of `mutant` in undisturbed runs.
fn found(mutant: Mutant) -> String {
    let simulation = Simulation::of(counts)
        .input("words", utf8(), int64(), draw_words)
        .faults(Faults::none())
        // Whatever comes out.
        .check(|_, _| Ok(()))
        .mutant(mutant);
    let found = (0..20).find_map(|seed| simulation.find_violation(seed));
    found.unwrap_or_else(|| panic!("{mutant:?} is not found"))
}

#[test]
fn a_store_on_a_disk_that_is_not_what_its_changelog_says_is_found_whatever_comes_out() {
    let why = found(Mutant::WritesForgotten);
    assert!(why.contains("store 'count' of task 0_"), "{why}");
    assert!(why.contains("is not what its changelog says"), "{why}");
    let why = found(Mutant::MarkerAhead);
    assert!(why.contains("store 'count'"), "{why}");
}

#[test]
fn a_transaction_of_which_a_part_is_there_is_found_whatever_comes_out() {
    for (mutant, says) in [
        (
            Mutant::OffsetsOutsideTransaction,
            "is committed, and the transaction",
        ),
        (Mutant::OffsetsForgotten, "committed without their offset"),
        (Mutant::CommitBeforeFlush, "records in"),
    ] {
        let why = found(mutant);
        assert!(why.contains(says), "{mutant:?}: {why}");
    }
}
