//! The jars of one Kafka version, copied from Maven Central into `.deps/kafka/<version>/lib`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, bail};

use crate::repo;
use crate::stopwatch::Stopwatch;

/// The version that tests and benchmarks run against.
pub const KAFKA_VERSION: &str = "4.3.1";

/// A directory with the jars of Kafka's broker, tools and Streams.
#[derive(Debug, Clone)]
pub struct Jars {
    lib: PathBuf,
}

impl Jars {
    /// The jars of `version`, fetched with Maven unless they are there already.
    ///
    /// Safe to call from several processes at once: each copies into a directory of its own and the first to finish
    /// wins.
    ///
    /// # Errors
    /// When Maven is missing or fails; the message holds its output.
    pub fn fetch(version: &str) -> Result<Self> {
        let pom = repo::root().join("deploy/local/kafka/pom.xml");
        let home = repo::deps().join("kafka").join(version);
        let lib = home.join("lib");
        let _making = repo::making();
        // The pom is kept beside the jars: another pom means other jars.
        if same_content(&pom, &lib.join("pom.xml")) {
            return Ok(Self { lib });
        }
        eprintln!("fetching Kafka {version} from Maven Central …");
        let watch = Stopwatch::start();
        let fresh = home.join(format!("lib.{}", process::id()));
        copy_dependencies(&pom, version, &fresh)?;
        fs::copy(&pom, fresh.join("pom.xml")).context("cannot keep the pom beside the jars")?;
        if lib.exists() && !same_content(&pom, &lib.join("pom.xml")) {
            fs::remove_dir_all(&lib)
                .with_context(|| format!("cannot replace the old {}", lib.display()))?;
        }
        if let Err(error) = fs::rename(&fresh, &lib) {
            let another_was_first = same_content(&pom, &lib.join("pom.xml"));
            fs::remove_dir_all(&fresh).ok();
            if !another_was_first {
                return Err(error).with_context(|| format!("cannot create {}", lib.display()));
            }
        }
        eprintln!(
            "fetched Kafka {version} in {:.1} s",
            watch.elapsed().as_secs_f64()
        );
        Ok(Self { lib })
    }

    /// The class path entry for all jars; `java` expands the star itself.
    pub fn class_path(&self) -> OsString {
        self.lib.join("*").into_os_string()
    }

    /// A `java` command with the jars on its class path.
    pub fn java(&self) -> Command {
        let mut java = Command::new("java");
        java.arg("-cp").arg(self.class_path());
        java
    }
}

fn copy_dependencies(pom: &Path, version: &str, into: &Path) -> Result<()> {
    let mut into_flag = OsString::from("-DoutputDirectory=");
    into_flag.push(into);
    let output = Command::new("mvn")
        .args(["--batch-mode", "--quiet", "--file"])
        .arg(pom)
        .arg(format!("-Dkafka.version={version}"))
        .arg("-DincludeScope=runtime")
        .arg(into_flag)
        .arg("dependency:copy-dependencies")
        .output()
        .context("cannot run mvn: install Maven (Debian: apt-get install maven)")?;
    if !output.status.success() {
        bail!(
            "mvn could not fetch Kafka {version}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn same_content(a: &Path, b: &Path) -> bool {
    matches!((fs::read(a), fs::read(b)), (Ok(a), Ok(b)) if a == b)
}
