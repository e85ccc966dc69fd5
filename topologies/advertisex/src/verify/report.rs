//! What a verification says.

use std::fmt;

use serde::Serialize;

use super::{Outcome, Tally};
use crate::progress::grouped;

/// Sentences of a check that are printed; JSON has all.
const PRINTED: usize = 6;

/// One thing that must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is checked.
    pub name: String,
    /// What was counted, in a few words.
    pub counted: String,
    /// What does not hold, a sentence each.
    pub findings: Vec<String>,
}

/// All that was checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether every check holds.
    pub holds: bool,
    /// The checks.
    pub checks: Vec<Check>,
    /// What could not be checked, or need not hold yet.
    pub notes: Vec<String>,
}

impl Check {
    /// A check without findings.
    pub(super) fn new(name: &str, counted: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            counted: counted.into(),
            findings: Vec::new(),
        }
    }

    /// Whether it holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.findings.is_empty()
    }

    /// Adds a sentence for a tally, unless it is empty: `2 lost, such as that of clicks/a.csv:7`.
    pub(super) fn tally(&mut self, what: &str, tally: &Tally) {
        if tally.count > 0 {
            let examples: Vec<String> = tally.examples.iter().map(ToString::to_string).collect();
            let count = grouped(tally.count);
            let examples = examples.join("; ");
            self.findings
                .push(format!("{count} {what}, such as {examples}"));
        }
    }

    /// Adds the findings of an audit.
    pub(super) fn outcome(&mut self, outcome: &Outcome) {
        for (name, tally) in outcome.tallies() {
            self.tally(name, tally);
        }
    }
}

impl Report {
    /// Adds a check.
    pub(super) fn push(&mut self, check: Check) {
        self.checks.push(check);
        self.holds = self.checks.iter().all(Check::holds);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let verdict = if check.holds() { "ok" } else { "FAILED" };
            writeln!(f, "{:<24}{verdict:<8}{}", check.name, check.counted)?;
            for finding in check.findings.iter().take(PRINTED) {
                writeln!(f, "  ! {finding}")?;
            }
            if check.findings.len() > PRINTED {
                let more = check.findings.len() - PRINTED;
                writeln!(f, "  ! … and {more} more; --json has all")?;
            }
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        let failed = self.checks.iter().filter(|check| !check.holds()).count();
        match failed {
            0 => write!(f, "verified: all {} checks hold", self.checks.len()),
            _ => write!(
                f,
                "NOT verified: {failed} of {} checks failed",
                self.checks.len()
            ),
        }
    }
}
