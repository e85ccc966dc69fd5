//! Making a failing seed small: whatever can be left out without a result that is right is left out.

use super::run::Failed;
use super::{Case, Simulation, Violation};

/// Runs that shrinking may cost.
const MOST_RUNS: usize = 200;

/// What is left of `case`, as a violation.
pub(super) fn shrink(simulation: &Simulation, seed: u64, case: Case, failed: Failed) -> Violation {
    let (case, failed) = smallest(simulation, seed, case, failed);
    Violation {
        seed,
        why: failed.why,
        inputs: case.inputs.len(),
        faults: case.faults,
        story: failed.story,
    }
}

/// The smallest part of `case` that still fails, as far as it is found.
fn smallest(
    simulation: &Simulation,
    seed: u64,
    mut case: Case,
    mut failed: Failed,
) -> (Case, Failed) {
    let mut runs = 0;
    let mut fails = |case: &Case| {
        runs += 1;
        match runs > MOST_RUNS {
            true => None,
            false => simulation.attempt(seed, case).err(),
        }
    };
    // Faults one by one, from the last: what comes first has the most to do with what follows.
    for at in (0..case.faults.len()).rev() {
        let mut less = case.clone();
        less.faults.remove(at);
        if let Some(still) = fails(&less) {
            (case, failed) = (less, still);
        }
    }
    // Then input, in pieces that get smaller.
    let mut piece = case.inputs.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at + piece <= case.inputs.len() {
            let mut less = case.clone();
            less.inputs.drain(at..at + piece);
            match fails(&less) {
                Some(still) => (case, failed) = (less, still),
                None => at += piece,
            }
        }
        piece /= 2;
    }
    (case, failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsl::{Consumed, StreamsBuilder};
    use crate::mutant::Mutant;
    use crate::serde::{int64, utf8};
    use crate::testing::simulation::same_order_per_key;

    fn buggy() -> Simulation {
        let counts = || {
            let builder = StreamsBuilder::new("counts");
            let words = builder.stream("words", Consumed::new(utf8(), int64()));
            words.group_by_key().count("count").to_stream().to("counts");
            builder.build().expect("it is a topology")
        };
        Simulation::of(counts)
            .partitions(2)
            .input("words", utf8(), int64(), |draw| {
                let word = |time| (format!("word-{}", draw.below(4)), 1, time);
                (0..16).map(word).collect()
            })
            .check(same_order_per_key())
            .mutant(Mutant::CommitTakenForDone)
    }

    #[test]
    fn what_is_left_of_a_failing_seed_is_smaller_and_fails_again_in_the_same_way() {
        let simulation = buggy();
        let (seed, case, failed) = (0..200)
            .find_map(|seed| {
                let case = simulation.draw(seed);
                let failed = simulation.attempt(seed, &case).err()?;
                (case.faults.len() > 2).then_some((seed, case, failed))
            })
            .expect("a seed fails");
        let (less, still) = smallest(&simulation, seed, case.clone(), failed);
        assert!(
            less.inputs.len() < case.inputs.len(),
            "seed {seed}: {less:?}"
        );
        assert!(
            less.faults.len() < case.faults.len(),
            "seed {seed}: {less:?}"
        );
        // This bug shows where a commit is refused and at no other fault.
        assert!(!less.faults.is_empty(), "seed {seed}");
        for fault in &less.faults {
            assert!(case.faults.contains(fault), "seed {seed}: {fault}");
        }
        let again = simulation
            .attempt(seed, &less)
            .err()
            .unwrap_or_else(|| panic!("seed {seed} does not fail any more"));
        assert_eq!((again.why, again.story), (still.why, still.story));
    }
}
