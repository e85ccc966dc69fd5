//! `cargo xtask test`: everything that CI checks, one step after the other.
//!
//! A failed step does not stop the later ones, so one run tells everything. Steps print as they run; the end is a
//! table of steps and one line, `N passed, N failed`: every test counts, and every step that is no test run counts
//! as one.
#![expect(
    clippy::print_stdout,
    reason = "the progress and the closing line are what this is for"
)]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::jars::{Jars, KAFKA_VERSION};
use crate::oracle;
use crate::peers;
use crate::registry;
use crate::repo;
use crate::stopwatch::Stopwatch;
use crate::tally::{Count, Tally};

const CARGO_DENY_VERSION: &str = "0.20.2";

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What CI runs.
    Usual,
    /// Also the tests marked `#[ignore]`: the long ones.
    Full,
}

/// Runs every check and prints the closing line. Says whether all passed.
pub fn run(extent: Extent) -> bool {
    let mut report = Report::default();
    // Cheap steps first: a misformatted line should not cost a build.
    report.check("format", || cargo(["fmt", "--all", "--check"]));
    report.check("scripts parse", scripts_parse);
    report.check("licences, bans, sources", deny);
    report.check("kafka jars", || Jars::fetch(KAFKA_VERSION).map(drop));
    report.check("schema registry", || registry::fetch().map(drop));
    report.check("peer compiles", || peers::compile().map(drop));
    report.check("oracle compiles", || oracle::compile().map(drop));
    report.check("clippy", || {
        cargo([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])
    });
    report.check("docs", || {
        succeed(
            Command::new("cargo")
                .args(["doc", "--workspace", "--no-deps"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    });
    report.tests("tests", &["--lib", "--bins", "--tests"], extent);
    report.tests("doc tests", &["--doc"], Extent::Usual);
    report.close()
}

#[derive(Default)]
struct Report {
    steps: Vec<Step>,
}

struct Step {
    name: &'static str,
    count: Count,
    failures: Vec<String>,
    took: Duration,
}

impl Report {
    /// A step that passes or fails as a whole.
    fn check(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) {
        announce(name);
        let watch = Stopwatch::start();
        let outcome = step();
        if let Err(error) = &outcome {
            eprintln!("{name} failed: {error:#}");
        }
        self.steps.push(Step {
            name,
            count: Count {
                passed: u64::from(outcome.is_ok()),
                failed: u64::from(outcome.is_err()),
            },
            failures: Vec::new(),
            took: watch.elapsed(),
        });
    }

    /// A step that counts tests.
    fn tests(&mut self, name: &'static str, targets: &[&str], extent: Extent) {
        announce(name);
        let watch = Stopwatch::start();
        let (count, failures) = cargo_test(targets, extent).unwrap_or_else(|error| {
            let none = Count {
                passed: 0,
                failed: 1,
            };
            (none, vec![format!("{error:#}")])
        });
        self.steps.push(Step {
            name,
            count,
            failures,
            took: watch.elapsed(),
        });
    }

    fn close(&self) -> bool {
        let mut total = Count::default();
        println!(
            "\n{:<26}{:>10}{:>10}{:>10}",
            "step", "passed", "failed", "seconds"
        );
        for step in &self.steps {
            let Count { passed, failed } = step.count;
            println!(
                "{:<26}{passed:>10}{failed:>10}{:>10.1}",
                step.name,
                step.took.as_secs_f64()
            );
            step.failures
                .iter()
                .for_each(|name| println!("    failed: {name}"));
            total += step.count;
        }
        println!("\n{total}");
        total.failed == 0
    }
}

fn announce(name: &str) {
    println!("\n=== {name}");
}

fn cargo<const N: usize>(args: [&str; N]) -> Result<()> {
    succeed(Command::new("cargo").args(args))
}

/// Runs a command with our output as its output.
fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .current_dir(repo::root())
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(())
}

fn cargo_test(targets: &[&str], extent: Extent) -> Result<(Count, Vec<String>)> {
    let mut command = Command::new("cargo");
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(targets);
    if extent == Extent::Full {
        command.args(["--", "--include-ignored"]);
    }
    let mut child = command
        .current_dir(repo::root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let mut tally = Tally::default();
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    for line in output.split(b'\n') {
        let line = line.context("cannot read what cargo prints")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.line(&line);
    }
    let status = child.wait().context("cannot wait for cargo")?;
    Ok(tally.finish(status.success()))
}

/// Every Python and shell script of the repository is at least syntactically right.
fn scripts_parse() -> Result<()> {
    let python = files(&["*.py"])?;
    if !python.is_empty() {
        let parse = "import ast, sys\nfor name in sys.argv[1:]: ast.parse(open(name, encoding='utf-8').read(), name)";
        succeed(Command::new("python3").args(["-c", parse]).args(&python))?;
    }
    for script in files(&["*.sh", ".ci/run"])? {
        succeed(Command::new("bash").args([OsStr::new("-n"), OsStr::new(&script)]))?;
    }
    Ok(())
}

/// The files of the work tree that match, new ones included, ignored ones not.
fn files(patterns: &[&str]) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "--",
        ])
        .args(patterns)
        .current_dir(repo::root())
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!(
            "git ls-files failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let listed = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    let there = |name: &&str| repo::root().join(name).exists();
    Ok(listed.lines().filter(there).map(str::to_owned).collect())
}

fn deny() -> Result<()> {
    let tools = repo::deps().join("tools");
    let binary = tools.join("bin/cargo-deny");
    let installed = Command::new(&binary).arg("--version").output();
    let wanted = format!("cargo-deny {CARGO_DENY_VERSION}");
    let there =
        installed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == wanted);
    if !there {
        eprintln!("building {wanted} …");
        succeed(
            Command::new("cargo")
                .args(["install", "--locked", "--no-default-features", "--force"])
                .args(["--version", CARGO_DENY_VERSION, "--root"])
                .arg(&tools)
                .arg("cargo-deny")
                // It runs for a second: not worth optimising. 2 CPU minutes this way, several times that otherwise.
                .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
                .env("CARGO_PROFILE_RELEASE_LTO", "false")
                .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
                .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
                .env("CARGO_TARGET_DIR", tools.join("target")),
        )?;
        std::fs::remove_dir_all(tools.join("target")).ok();
    }
    // Advisories need a database from the network: `cargo deny check advisories` is for a machine that has it.
    succeed(Command::new(&binary).args(["check", "licenses", "bans", "sources"]))
}
