//! The Kafka Streams program that the benchmarks run beside ours (`benches/peers/kafka-streams`).

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, bail};

use crate::jars::{Jars, KAFKA_VERSION};
use crate::repo;

/// Compiles the peer unless these very sources were compiled before; returns the directory with its classes.
///
/// # Errors
/// When the jars cannot be fetched, `javac` is missing, or the program does not compile.
pub fn compile() -> Result<PathBuf> {
    let jars = Jars::fetch(KAFKA_VERSION)?;
    let sources = sources()?;
    let home = repo::deps().join("peers/kafka-streams");
    let classes = home.join(format!("{KAFKA_VERSION}-{:016x}", fingerprint(&sources)?));
    if classes.exists() {
        return Ok(classes);
    }
    let fresh = home.join(format!("fresh.{}", process::id()));
    fs::create_dir_all(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
    let output = Command::new("javac")
        .args([
            "--release",
            "17",
            "-Xlint:all,-processing",
            "-Werror",
            "-proc:none",
            "-cp",
        ])
        .arg(jars.class_path())
        .arg("-d")
        .arg(&fresh)
        .args(&sources)
        .output()
        .context(
            "cannot run javac: install a JDK 17 (Debian: apt-get install openjdk-17-jdk-headless)",
        )?;
    if !output.status.success() {
        fs::remove_dir_all(&fresh).ok();
        bail!(
            "the Kafka Streams peer does not compile:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    // Two runs may compile at once; whoever comes second finds the same classes in place.
    if fs::rename(&fresh, &classes).is_err() {
        fs::remove_dir_all(&fresh).ok();
    }
    if !classes.exists() {
        bail!("cannot create {}", classes.display());
    }
    Ok(classes)
}

/// The class path of the compiled peer: its classes and Kafka's jars.
///
/// # Errors
/// As [`compile`].
pub fn class_path() -> Result<OsString> {
    let mut path = compile()?.into_os_string();
    path.push(":");
    path.push(Jars::fetch(KAFKA_VERSION)?.class_path());
    Ok(path)
}

/// The `java` command that runs the peer; the caller adds the peer's own arguments.
///
/// The JVM keeps its defaults (collector, compiler) but for a heap of 1 GiB: by default it would take a quarter of
/// the machine, and its memory would say nothing.
///
/// # Errors
/// As [`compile`].
pub fn command() -> Result<Command> {
    let mut java = Command::new("java");
    java.arg("-cp").arg(class_path()?).args([
        "-Xmx1g",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "Peer",
    ]);
    Ok(java)
}

fn sources() -> Result<Vec<PathBuf>> {
    let dir = repo::root().join("benches/peers/kafka-streams");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut sources = Vec::new();
    for entry in entries {
        let path = entry.context("cannot list the peer's sources")?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "java")
        {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

/// Changes when a source changes. Need not be stable across builds of xtask: at worst the peer is compiled again.
fn fingerprint(sources: &[PathBuf]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for source in sources {
        let text = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        (source.file_name().map(Path::new), text).hash(&mut hasher);
    }
    Ok(hasher.finish())
}
