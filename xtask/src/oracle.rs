//! The other side of the conformance suite: the real Kafka Streams behind `tests/conformance/Oracle.java`, and the generator
//! of cases beside it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::javac::Program;
use crate::repo;

/// Directory of the oracle, the generator of cases and the description of their format.
const HOME: &str = "tests/conformance";

const ORACLE: Program<'_> = Program {
    what: "the conformance oracle",
    sources: HOME,
    classes: "oracle",
    // The point of it is to try old operators too.
    tolerated: &["deprecation", "serial"],
};

/// Compiles the oracle unless this very source was compiled before; returns the directory with its class.
///
/// # Errors
/// When the jars cannot be fetched, `javac` is missing, or the program does not compile.
pub fn compile() -> Result<PathBuf> {
    ORACLE.compile()
}

/// What cases to generate.
#[derive(Debug, Clone)]
pub struct Draw {
    /// The same seed gives the same cases.
    pub seed: u64,
    /// How many.
    pub cases: usize,
    /// The families they are drawn from, in turn.
    pub families: Vec<String>,
    /// Where Kafka Streams keeps its state: `memory` or `rocksdb`.
    pub store: &'static str,
}

impl Draw {
    /// The cases, one JSON object a line. None of them can show a known defect of Kafka Streams.
    ///
    /// # Errors
    /// When Python is missing or the generator fails, for instance at an unknown family.
    pub fn generate(&self) -> Result<String> {
        let output = Command::new("python3")
            .arg(repo::root().join(HOME).join("gen.py"))
            .args(["--seed", &self.seed.to_string()])
            .args(["--cases", &self.cases.to_string()])
            .args(["--ops", &self.families.join(",")])
            .args(["--ks-defects", "avoid", "--store", self.store])
            .stdin(Stdio::null())
            .output()
            .context("cannot run python3: install Python 3 (Debian: apt-get install python3)")?;
        if !output.status.success() {
            bail!(
                "the generator of cases failed:\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        String::from_utf8(output.stdout).context("the generator's cases are not UTF-8")
    }
}

/// What Kafka Streams makes of `cases`: one result a line, in the order of the cases.
///
/// # Errors
/// When the oracle does not compile, `java` is missing, or the program fails.
pub fn answers(cases: &str) -> Result<String> {
    let mut oracle = Command::new("java")
        .args(["-XX:+UseSerialGC", "-Xmx512m"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=off")
        .arg("-cp")
        .arg(ORACLE.class_path()?)
        .arg("Oracle")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(
            "cannot run java: install Java 17 (Debian: apt-get install openjdk-17-jdk-headless)",
        )?;
    let mut asked = oracle.stdin.take().expect("it is piped");
    let output = thread::scope(|scope| {
        // Beside reading the answers: neither pipe may fill up. An oracle that ended early says why itself.
        scope.spawn(move || asked.write_all(cases.as_bytes()).ok());
        oracle.wait_with_output()
    })
    .context("cannot read what the oracle says")?;
    if !output.status.success() {
        bail!(
            "the oracle failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).context("the oracle's answers are not UTF-8")
}
