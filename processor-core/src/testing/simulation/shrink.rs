//! Making a failing seed small: whatever can be left out without a result that is right is left out.

use super::run::Failed;
use super::{Case, Simulation, Violation};

/// Runs that shrinking may cost.
const MOST_RUNS: usize = 200;

/// The smallest part of `case` that still fails, as far as it is found.
pub(super) fn shrink(
    simulation: &Simulation,
    seed: u64,
    mut case: Case,
    mut failed: Failed,
) -> Violation {
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
    Violation {
        seed,
        why: failed.why,
        inputs: case.inputs.len(),
        faults: case.faults,
        story: failed.story,
    }
}
