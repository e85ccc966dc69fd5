//! A real schema registry server on loopback: Apicurio, which has Confluent's interface.
//!
//! Guarantees: [`Registry::start`] returns when the interface answers; registries in different directories run side by
//! side; a registry does not outlive the process that started it, even if that is killed.
//!
//! Not here: storage. It keeps its schemas in memory.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::broker::{log_since, tail};
use crate::leashed::Leashed;
use crate::stopwatch::{self, Stopwatch};
use crate::{port, repo};

/// The version that tests run against: the last that needs no more than Java 17.
pub const APICURIO_VERSION: &str = "3.0.9";

/// Resolves a single artifact without its pom. Later versions of the plugin insist on the pom's parent, and that of this
/// artifact is not on Maven Central.
const PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:2.10:unpack";

const START_PATIENCE: Duration = Duration::from_secs(120);
/// Starts that lose the race for a port before we give up.
const START_ATTEMPTS: u32 = 5;
/// Confluent's interface.
const INTERFACE: &str = "/apis/ccompat/v7";

/// A registry that runs until it is dropped, or until this process ends.
#[derive(Debug)]
pub struct Registry {
    dir: PathBuf,
    jar: PathBuf,
    port: u16,
    running: Option<Leashed>,
}

impl Registry {
    /// Starts a registry that works and logs in `dir`, fetching it first if needed. New schemas must be able to read the
    /// data of the one before them.
    ///
    /// # Errors
    /// When it cannot be fetched or does not become ready; the message ends with the tail of its log.
    pub fn start(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut registry = Self {
            dir: dir.to_owned(),
            jar: fetch()?,
            port: port::free()?,
            running: None,
        };
        for attempt in 1.. {
            match registry.launch() {
                Ok(()) => break,
                Err(_) if attempt < START_ATTEMPTS && !port::is_free(registry.port) => {
                    registry.port = port::free()?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(registry)
    }

    /// Address of Confluent's interface, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{INTERFACE}", self.port)
    }

    /// Freezes the registry: connections are still taken, and nothing answers until it is [resumed](Self::resume).
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub fn pause(&self) -> Result<()> {
        self.running().process.pause()
    }

    /// Lets a paused registry go on.
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub fn resume(&self) -> Result<()> {
        self.running().process.resume()
    }

    fn running(&self) -> &Leashed {
        self.running.as_ref().expect("it runs until it is dropped")
    }

    fn kill(&mut self) -> Result<()> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        running.process.kill()?;
        running.child.wait().context("cannot reap the registry")?;
        let ended = self.running.take().expect("it is there, see above");
        ended.leash.release();
        Ok(())
    }

    fn launch(&mut self) -> Result<()> {
        let path = self.dir.join("registry.log");
        let log = File::options().create(true).append(true).open(&path);
        let log = log.context("cannot open the registry's log")?;
        let log_start = log
            .metadata()
            .context("cannot read the registry's log")?
            .len();
        let child = Command::new("java")
            .args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar"])
            .arg(&self.jar)
            .env("QUARKUS_HTTP_HOST", "127.0.0.1")
            .env("QUARKUS_HTTP_PORT", self.port.to_string())
            .env("QUARKUS_MANAGEMENT_HOST", "127.0.0.1")
            .env("QUARKUS_MANAGEMENT_PORT", port::free()?.to_string())
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the registry's log")?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot run java: install Java 17 (Debian: apt-get install openjdk-17-jdk-headless)")?;
        self.running = Some(Leashed::new(child)?);
        if let Err(error) = self.make_ready() {
            self.kill()?;
            let log = log_since(&path, log_start);
            return Err(error.context(format!(
                "the schema registry did not start in {}:\n{}",
                self.dir.display(),
                tail(&log)
            )));
        }
        Ok(())
    }

    /// Waits until it answers, then sets the rule for new schemas, of which there is none by default.
    fn make_ready(&mut self) -> Result<()> {
        let port = self.port;
        let child = &mut self.running.as_mut().expect("just started").child;
        let answered = stopwatch::wait_for(START_PATIENCE, || match child.try_wait() {
            Ok(Some(status)) => Some(Err(anyhow!("java ended with {status}"))),
            _ => match request(port, "GET", "/subjects", "") {
                Ok(200) => Some(Ok(())),
                _ => None,
            },
        });
        answered.ok_or_else(|| anyhow!("not ready after {} s", START_PATIENCE.as_secs()))??;
        match request(port, "PUT", "/config", r#"{"compatibility":"BACKWARD"}"#)? {
            200 => Ok(()),
            status => bail!("the compatibility rule was answered with status {status}"),
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!(
                "the registry at {} could not be ended: {error:#}",
                self.url()
            );
        }
    }
}

/// The registry's jar, fetched from Maven Central into `.deps/apicurio/<version>` unless it is there already.
///
/// Safe to call from several processes at once: each unpacks into a directory of its own and the first to finish wins.
///
/// # Errors
/// When Maven is missing or fails; the message holds its output.
pub fn fetch() -> Result<PathBuf> {
    let home = repo::deps().join("apicurio").join(APICURIO_VERSION);
    let jar = home.join(format!(
        "apicurio-registry-app-{APICURIO_VERSION}-runner.jar"
    ));
    if jar.exists() {
        return Ok(jar);
    }
    eprintln!("fetching the Apicurio registry {APICURIO_VERSION} from Maven Central …");
    let watch = Stopwatch::start();
    let fresh = home.with_extension(format!("{}.new", process::id()));
    fs::create_dir_all(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
    let output = Command::new("mvn")
        .args(["--batch-mode", "--quiet", PLUGIN])
        .arg(format!(
            "-Dartifact=io.apicurio:apicurio-registry-app:{APICURIO_VERSION}:tar.gz:all"
        ))
        .arg(format!("-DoutputDirectory={}", fresh.display()))
        // It writes a directory of markers where it runs.
        .current_dir(&fresh)
        .output()
        .context("cannot run mvn: install Maven (Debian: apt-get install maven)")?;
    if !output.status.success() {
        fs::remove_dir_all(&fresh).ok();
        bail!(
            "mvn could not fetch the Apicurio registry {APICURIO_VERSION}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    if let Err(error) = fs::rename(&fresh, &home) {
        fs::remove_dir_all(&fresh).ok();
        if !jar.exists() {
            return Err(error).with_context(|| format!("cannot create {}", home.display()));
        }
    }
    eprintln!("fetched it in {:.1} s", watch.elapsed().as_secs_f64());
    Ok(jar)
}

/// The status that the interface answers a request with.
fn request(port: u16, method: &str, path: &str, body: &str) -> Result<u16> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "{method} {INTERFACE}{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    status(&answer).with_context(|| format!("no HTTP: {answer:?}"))
}

fn status(answer: &str) -> Option<u16> {
    let mut words = answer.strip_prefix("HTTP/1.1 ")?.split(' ');
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_the_second_word_of_an_answer() {
        assert_eq!(status("HTTP/1.1 200 OK\r\n\r\n[]"), Some(200));
        assert_eq!(status("SSH-2.0"), None);
        assert_eq!(status(""), None);
    }
}
