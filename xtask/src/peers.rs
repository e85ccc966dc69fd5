//! The Kafka Streams program that the benchmarks run beside ours (`benches/peers/kafka-streams`).

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::javac::Program;

const PEER: Program<'_> = Program {
    what: "the Kafka Streams peer",
    sources: "benches/peers/kafka-streams",
    classes: "peers/kafka-streams",
    tolerated: &[],
};

/// Compiles the peer unless these very sources were compiled before; returns the directory with its classes.
///
/// # Errors
/// When the jars cannot be fetched, `javac` is missing, or the program does not compile.
pub fn compile() -> Result<PathBuf> {
    PEER.compile()
}

/// The class path of the compiled peer: its classes and Kafka's jars.
///
/// # Errors
/// As [`compile`].
pub fn class_path() -> Result<OsString> {
    PEER.class_path()
}

/// The `java` command that runs `program`, one of the peer's; the caller adds the program's own arguments.
///
/// The JVM keeps its defaults (collector, compiler) but for a heap of 1 GiB: by default it would take a quarter of
/// the machine, and its memory would say nothing.
///
/// # Errors
/// As [`compile`].
pub fn command(program: &str) -> Result<Command> {
    let mut java = Command::new("java");
    java.arg("-cp").arg(class_path()?).args([
        "-Xmx1g",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        program,
    ]);
    Ok(java)
}
