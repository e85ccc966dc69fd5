//! Whether the simulation finds the bugs that are put into it.

use processor_core::mutant::Mutant;

use crate::catalogue;

/// What became of a bug.
#[derive(Debug, Clone)]
pub struct Hunt {
    /// The bug.
    pub mutant: Mutant,
    /// What it does.
    pub what: &'static str,
    /// The seed that found it and how many were tried, with what the violation says; `None` when none of them did.
    pub caught: Option<(u64, u64, String)>,
}

/// Tries up to `seeds` seeds, from `from` on, on instances with the bug `mutant`.
#[must_use]
pub fn hunt(mutant: Mutant, what: &'static str, from: u64, seeds: u64) -> Hunt {
    let caught = (from..from + seeds).find_map(|seed| {
        let simulation = catalogue::of_seed(seed).simulation().mutant(mutant);
        let violation = simulation.find_violation(seed)?;
        Some((seed, seed - from + 1, violation))
    });
    Hunt {
        mutant,
        what,
        caught,
    }
}
