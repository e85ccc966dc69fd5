//! Reports of runs, as Markdown.

use std::fmt::Write as _;

use processor_core::testing::simulation::{Call, Side, Summary};

use crate::mutants::Hunt;

/// What was run and what was done to it.
#[must_use]
pub fn of_summary(summary: &Summary) -> String {
    let mut text = format!(
        "{} seeds, {} turns, {} result records compared, {} restores broken off by a rebalance, \
         {} standby copies handed over.\n\n\
         | fault | times |\n|---|--:|\n",
        summary.seeds,
        summary.steps,
        summary.records,
        summary.restores_broken_off,
        summary.copies_handed_over
    );
    for (kind, count) in &summary.faults {
        let _ = writeln!(text, "| {kind} | {count} |");
    }
    text.push_str("\n| an instance died at | before it | after it |\n|---|--:|--:|\n");
    for call in Call::ALL {
        let at = |side| summary.crashes.get(&(call, side)).copied().unwrap_or(0);
        let _ = writeln!(
            text,
            "| `{call:?}` | {} | {} |",
            at(Side::Before),
            at(Side::After)
        );
    }
    text
}

/// Which bugs were found.
#[must_use]
pub fn of_hunts(hunts: &[Hunt]) -> String {
    let mut text = "| bug | what it does | found after seeds |\n|---|---|--:|\n".to_owned();
    for hunt in hunts {
        let found = match &hunt.caught {
            Some((_, tried, _)) => tried.to_string(),
            None => "not found".to_owned(),
        };
        let _ = writeln!(text, "| `{:?}` | {} | {found} |", hunt.mutant, hunt.what);
    }
    text
}
