//! Counts tests from what `cargo test` prints.

use std::fmt;
use std::ops::AddAssign;

/// Tests, or checks, that passed and failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Count {
    /// The closing line of a run; CI looks for exactly this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Reads the output of `cargo test`, line by line.
///
/// Every test binary prints `running N tests`, a line per test, and `test result: …`. A binary that dies on the way
/// (an abort, a signal) never prints the last; it counts as one failed test.
#[derive(Debug, Default)]
pub struct Tally {
    count: Count,
    failures: Vec<String>,
    in_binary: bool,
}

impl Tally {
    /// Takes one line.
    pub fn line(&mut self, line: &str) {
        if is_start(line) {
            self.close();
            self.in_binary = true;
        } else if let Some(count) = result(line) {
            self.count += count;
            self.in_binary = false;
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
    }

    /// The counts and the names of the failed tests, given how cargo ended. A failure without a failed test, such
    /// as a build error, counts as one.
    pub fn finish(mut self, cargo_succeeded: bool) -> (Count, Vec<String>) {
        self.close();
        if !cargo_succeeded && self.count.failed == 0 {
            self.count.failed = 1;
            self.failures
                .push("cargo failed before or between the tests".to_owned());
        }
        (self.count, self.failures)
    }

    fn close(&mut self) {
        if self.in_binary {
            self.count.failed += 1;
            self.failures
                .push("a test binary died before its summary".to_owned());
            self.in_binary = false;
        }
    }
}

fn is_start(line: &str) -> bool {
    let number = line.strip_prefix("running ").and_then(|rest| {
        rest.strip_suffix(" tests")
            .or_else(|| rest.strip_suffix(" test"))
    });
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

/// The counts of a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn result(line: &str) -> Option<Count> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let mut parts = counts.split("; ");
    Some(Count {
        passed: parts.next()?.strip_suffix(" passed")?.parse().ok()?,
        failed: parts.next()?.strip_suffix(" failed")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str, cargo_succeeded: bool) -> (Count, Vec<String>) {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.line(line));
        tally.finish(cargo_succeeded)
    }

    const OK: &str = "
running 2 tests
test a ... ok
test b ... ignored
test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
    const BAD: &str = "
running 3 tests
test a::c ... FAILED
test a::d ... ok
test a::e ... ok
failures:
    a::c
test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn the_results_of_all_binaries_are_added_up() {
        let (count, failures) = tally(&format!("{OK}{BAD}{OK}"), false);
        assert_eq!(
            count,
            Count {
                passed: 4,
                failed: 1
            }
        );
        assert_eq!(failures, ["a::c"]);
    }

    #[test]
    fn a_build_error_is_one_failure() {
        let (count, failures) = tally("", false);
        assert_eq!(
            count,
            Count {
                passed: 0,
                failed: 1
            }
        );
        assert_eq!(failures.len(), 1);
    }

    #[test]
    fn success_without_tests_is_no_failure() {
        assert_eq!(tally("", true), (Count::default(), vec![]));
    }

    #[test]
    fn a_binary_that_dies_is_one_failure_among_the_others() {
        let (count, _) = tally(&format!("running 1 test\n{OK}running 7 tests\n"), false);
        assert_eq!(
            count,
            Count {
                passed: 1,
                failed: 2
            }
        );
    }

    #[test]
    fn what_a_test_prints_is_not_a_result() {
        assert_eq!(result("test result: who knows"), None);
        assert_eq!(result("test result: ok. many passed; 0 failed"), None);
        assert!(!is_start("running out of tests"));
    }

    #[test]
    fn the_closing_line_is_what_ci_reads() {
        assert_eq!(
            Count {
                passed: 12,
                failed: 0
            }
            .to_string(),
            "12 passed, 0 failed"
        );
    }
}
