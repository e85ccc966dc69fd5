//! Compiling Java programs against Kafka's jars.

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, bail};

use crate::jars::{Jars, KAFKA_VERSION};
use crate::repo;

/// A Java program of this repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program<'a> {
    /// What it is called when it does not compile.
    pub what: &'a str,
    /// Directory of its sources, from the root of the repository.
    pub sources: &'a str,
    /// Directory of its classes, from [`repo::deps`].
    pub classes: &'a str,
    /// Warnings that do not fail it; all others do.
    pub tolerated: &'a [&'a str],
}

impl Program<'_> {
    /// Compiles the program unless these very sources were compiled before; returns the directory with its classes.
    ///
    /// # Errors
    /// When the jars cannot be fetched, `javac` is missing, or the program does not compile.
    pub fn compile(&self) -> Result<PathBuf> {
        let jars = Jars::fetch(KAFKA_VERSION)?;
        let _making = repo::making();
        let sources = self.source_files()?;
        let home = repo::deps().join(self.classes);
        let classes = home.join(format!("{KAFKA_VERSION}-{:016x}", fingerprint(&sources)?));
        if classes.exists() {
            return Ok(classes);
        }
        let fresh = home.join(format!("fresh.{}", process::id()));
        fs::create_dir_all(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
        let mut lint = "-Xlint:all,-processing".to_owned();
        for warning in self.tolerated {
            lint.push_str(",-");
            lint.push_str(warning);
        }
        let output = Command::new("javac")
            .args(["--release", "17", &lint, "-Werror", "-proc:none", "-cp"])
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
                "{} does not compile:\n{}",
                self.what,
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

    /// The class path of the compiled program: its classes and Kafka's jars.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn class_path(&self) -> Result<OsString> {
        let mut path = self.compile()?.into_os_string();
        path.push(":");
        path.push(Jars::fetch(KAFKA_VERSION)?.class_path());
        Ok(path)
    }

    fn source_files(&self) -> Result<Vec<PathBuf>> {
        let dir = repo::root().join(self.sources);
        let entries =
            fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        let mut sources = Vec::new();
        for entry in entries {
            let path = entry
                .with_context(|| format!("cannot list the sources of {}", self.what))?
                .path();
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
}

/// Changes when a source changes. Need not be stable across builds of xtask: at worst the program is compiled again.
fn fingerprint(sources: &[PathBuf]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for source in sources {
        let text = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        (source.file_name().map(Path::new), text).hash(&mut hasher);
    }
    Ok(hasher.finish())
}
