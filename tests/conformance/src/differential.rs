//! Runs the same cases on both sides and compares the results.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use xtask::oracle::{self, Draw};

use crate::case::{Case, CaseResult, Outcome, Output, Store};
use crate::run::run;

/// The families of generated cases of which the DSL has all or most.
pub const FAMILIES: [&str; 19] = [
    "stateless",
    "aggregate",
    "tumbling",
    "hopping",
    "sliding",
    "session",
    "unlimited",
    "emit_final",
    "ss_join",
    "st_join",
    "tt_join",
    "fk_join",
    "table_agg",
    "suppress",
    "cogroup",
    "global",
    "repartition",
    "punctuate",
    "mixed",
];

/// How many cases of a family ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Both sides gave the same records.
    pub agreed: u64,
    /// They did not.
    pub differing: u64,
}

/// A case whose results are not the same.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The case, as it was generated.
    pub case: String,
    /// Its name.
    pub name: String,
    /// What differs first.
    pub what: String,
}

/// What came of a comparison.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// By family.
    pub families: BTreeMap<String, Count>,
    /// All differences, in the order of the cases.
    pub differences: Vec<Difference>,
}

impl Report {
    /// Over all families.
    #[must_use]
    pub fn total(&self) -> Count {
        let add = |sum: Count, count: &Count| Count {
            agreed: sum.agreed + count.agreed,
            differing: sum.differing + count.differing,
        };
        self.families.values().fold(Count::default(), add)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |family: &str, count: Count| {
            let Count { agreed, differing } = count;
            writeln!(f, "{family:<14}{agreed:>10}{differing:>10}")
        };
        for (family, count) in &self.families {
            row(family, *count)?;
        }
        row("total", self.total())
    }
}

/// Draws cases and compares both sides' results.
///
/// # Errors
/// When a side cannot be run: Python, Java or its compiler are missing, or there is no temporary directory.
pub fn generated(draw: &Draw, store: Store) -> Result<Report> {
    let drawn = draw.generate()?;
    let cases = drawn.lines().map(parse).collect::<Result<Vec<_>>>()?;
    compare(&cases, store)
}

/// A case with the line it was read from.
pub type Line<'a> = (&'a str, Case);

/// Reads a case.
///
/// # Errors
/// When the line is none.
pub fn parse(line: &str) -> Result<Line<'_>> {
    let case = serde_json::from_str(line).with_context(|| format!("this is no case: {line}"))?;
    Ok((line, case))
}

/// Runs `cases` on both sides and compares the results; state of our side is kept in `store`.
///
/// # Errors
/// As [`generated`].
pub fn compare(cases: &[Line<'_>], store: Store) -> Result<Report> {
    let mut report = Report::default();
    let asked: String = cases.iter().map(|(line, _)| format!("{line}\n")).collect();
    // Kafka Streams works on its half while ours is worked out.
    let (answers, actual) = thread::scope(|scope| {
        let answers = scope.spawn(|| oracle::answers(&asked));
        let actual: Result<Vec<_>> = cases.iter().map(|(_, case)| run(case, store)).collect();
        let answers = answers.join().expect("the oracle is asked without a panic");
        Ok::<_, anyhow::Error>((answers?, actual?))
    })?;
    let expected = results(&answers)?;
    ensure!(
        expected.len() == cases.len(),
        "the oracle answered {} of {} cases",
        expected.len(),
        cases.len()
    );
    for (((line, case), expected), actual) in cases.iter().zip(&expected).zip(&actual) {
        ensure!(
            case.name == expected.name,
            "the oracle answered {} where {} was asked",
            expected.name,
            case.name
        );
        report.judge(line, case, expected, actual);
    }
    Ok(report)
}

/// Reads results, one a line.
///
/// # Errors
/// When a line is none.
pub fn results(lines: &str) -> Result<Vec<CaseResult>> {
    let read =
        |line| serde_json::from_str(line).with_context(|| format!("this is no result: {line}"));
    lines.lines().map(read).collect()
}

impl Report {
    fn family(&mut self, case: &Case) -> &mut Count {
        self.families.entry(case.family.clone()).or_default()
    }

    fn judge(&mut self, line: &str, case: &Case, expected: &CaseResult, actual: &CaseResult) {
        let Some(what) = difference(&expected.outcome, &actual.outcome) else {
            self.family(case).agreed += 1;
            return;
        };
        self.family(case).differing += 1;
        self.differences.push(Difference {
            case: line.to_owned(),
            name: case.name.clone(),
            what,
        });
    }
}

/// What differs first, if anything; any two errors are the same.
#[must_use]
pub fn difference(expected: &Outcome, actual: &Outcome) -> Option<String> {
    match (expected, actual) {
        (Outcome::Error(_), Outcome::Error(_)) => None,
        (Outcome::Output(_), Outcome::Error(error)) => Some(format!("it failed with {error}")),
        (Outcome::Error(error), Outcome::Output(_)) => Some(format!(
            "it should have failed as Kafka Streams did, with {error}"
        )),
        (Outcome::Output(expected), Outcome::Output(actual)) => {
            let longest = expected.len().max(actual.len());
            let at = (0..longest).find(|&at| expected.get(at) != actual.get(at))?;
            Some(format!(
                "record {at}\n  Kafka Streams: {}\n  we:            {}",
                shown(expected.get(at)),
                shown(actual.get(at))
            ))
        }
    }
}

fn shown(record: Option<&Output>) -> String {
    let Some(Output {
        after,
        topic,
        key,
        value,
        ts,
    }) = record
    else {
        return "nothing more".to_owned();
    };
    let key = key.as_deref().unwrap_or("null");
    let value = value.map_or("null".to_owned(), |value| value.to_string());
    format!("after step {after}, {topic}: {key} = {value} at {ts}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ts: i64) -> Output {
        Output {
            after: 0,
            topic: "out".to_owned(),
            key: None,
            value: None,
            ts,
        }
    }

    #[test]
    fn the_first_record_that_is_missing_or_other_is_the_difference() {
        let differ = |expected: &[i64], actual: &[i64]| {
            let outcome = |times: &[i64]| Outcome::Output(times.iter().map(|ts| at(*ts)).collect());
            difference(&outcome(expected), &outcome(actual))
        };
        assert_eq!(differ(&[1, 2], &[1, 2]), None);
        let missing = "record 1\n  Kafka Streams: after step 0, out: null = null at 2\n  we:            nothing more";
        assert_eq!(differ(&[1, 2], &[1]).as_deref(), Some(missing));
        assert!(differ(&[1], &[2, 3]).is_some_and(|what| what.starts_with("record 0\n")));
    }

    #[test]
    fn an_error_is_no_output_and_any_error_is_like_another() {
        let error = |name: &str| Outcome::Error(name.to_owned());
        assert_eq!(difference(&error("A"), &error("B")), None);
        assert!(difference(&error("A"), &Outcome::Output(vec![])).is_some());
        assert!(difference(&Outcome::Output(vec![]), &error("B")).is_some());
    }
}
