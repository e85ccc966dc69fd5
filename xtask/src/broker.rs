//! A real single-node Kafka broker (KRaft) on loopback.
//!
//! Guarantees: [`Broker::start`] returns when clients can use the broker, not merely connect to it; brokers in
//! different directories run side by side; a broker does not outlive the process that started it, even if that is
//! killed, unless it was [detached](Broker::detach).
//!
//! Not here: several nodes, encryption, anything that survives the directory.

mod options;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::jars::Jars;
use crate::leashed::Leashed;
use crate::port;
use crate::process::Process;
use crate::stopwatch;

pub use options::Options;

/// Patience with a start, and with a graceful stop, on a machine that is busy with other things.
const START_PATIENCE: Duration = Duration::from_secs(120);
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Starts that lose the race for a port before we give up.
const START_ATTEMPTS: u32 = 5;

/// The broker logs this after its sockets are open, it is registered and unfenced, and requests are served.
const READY_LINE: &str = "Kafka Server started";

#[derive(Debug, Clone, Copy)]
struct Ports {
    clients: u16,
    controller: u16,
    guarded: u16,
}

impl Ports {
    fn free(options: &Options) -> Result<Self> {
        Ok(Self {
            clients: match options.first_port {
                Some(first) => port::free_from(first)?,
                None => port::free()?,
            },
            controller: port::free()?,
            guarded: port::free()?,
        })
    }
}

/// A broker that runs until it is stopped, killed or dropped, or until this process ends: tests may share one in a
/// static, which is never dropped.
#[derive(Debug)]
pub struct Broker {
    dir: PathBuf,
    options: Options,
    jars: Jars,
    ports: Ports,
    bootstrap: String,
    running: Option<Leashed>,
}

impl Broker {
    /// Starts a broker with its data, settings and log in `dir`, fetching Kafka first if needed. A directory that
    /// has a broker's data already is continued.
    ///
    /// # Errors
    /// When Kafka cannot be fetched or does not become ready; the message ends with the tail of its log.
    pub fn start(dir: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let dir = dir
            .canonicalize()
            .context("the directory was just created")?;
        let jars = Jars::fetch(&options.kafka_version)?;
        let ports = Ports::free(options)?;
        let mut broker = Self {
            dir,
            options: options.clone(),
            jars,
            ports,
            bootstrap: String::new(),
            running: None,
        };
        for attempt in 1.. {
            match broker.launch() {
                Ok(()) => break,
                Err(Failure::PortTaken(_)) if attempt < START_ATTEMPTS => {
                    broker.ports = Ports::free(options)?;
                }
                Err(Failure::PortTaken(error) | Failure::Other(error)) => return Err(error),
            }
        }
        Ok(broker)
    }

    /// Where clients connect: `127.0.0.1:<port>`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Where [users](Options::users) connect: `127.0.0.1:<port>`.
    pub fn guarded(&self) -> String {
        format!("127.0.0.1:{}", self.ports.guarded)
    }

    /// The broker's process id; none while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// The broker's log file. Restarts append to it.
    pub fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// A `java` command with Kafka on its class path, for `org.apache.kafka.tools.TopicCommand` and its like.
    pub fn java(&self) -> Command {
        let mut java = self.jars.java();
        java.args(SHORT_JVM);
        java
    }

    /// Shuts the broker down in order and waits until it is gone; the data stays. SIGKILL after 30 seconds. Does
    /// nothing when it is stopped already.
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub fn stop(&mut self) -> Result<()> {
        self.end(|process| process.stop(STOP_PATIENCE).map(drop))
    }

    /// Kills the broker, as `kill -9` does, and waits until it is gone; the data stays as it was at that moment.
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Process::kill)
    }

    /// Starts the broker again after [`stop`](Self::stop) or [`kill`](Self::kill): same data, same ports.
    ///
    /// # Errors
    /// When it runs, when its ports were taken meanwhile, or when it does not become ready.
    pub fn restart(&mut self) -> Result<()> {
        if self.running.is_some() {
            bail!(
                "the broker at {} runs: stop or kill it first",
                self.bootstrap
            );
        }
        self.launch().map_err(|failure| match failure {
            Failure::PortTaken(error) | Failure::Other(error) => error,
        })
    }

    /// Lets the broker outlive this process and this value. Whoever detaches it has to end it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn detach(mut self) -> Result<Process> {
        let running = self.running.take().context("the broker is stopped")?;
        let process = running.process.clone();
        running.leash.release();
        Ok(process)
    }

    fn end(&mut self, how: impl FnOnce(&Process) -> Result<()>) -> Result<()> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        how(&running.process)?;
        running.child.wait().context("cannot reap the broker")?;
        let ended = self.running.take().expect("it is there, see above");
        ended.leash.release();
        Ok(())
    }

    fn launch(&mut self) -> Result<(), Failure> {
        let Ports { clients, .. } = self.ports;
        self.bootstrap = format!("127.0.0.1:{clients}");
        let properties = self.dir.join("server.properties");
        let text = self.options.properties(self.ports, &self.dir.join("data"));
        fs::write(&properties, text).context("cannot write server.properties")?;
        if !self.dir.join("data/meta.properties").exists() {
            self.format(&properties)?;
        }
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.context("cannot open the broker's log")?;
        let log_start = log
            .metadata()
            .context("cannot read the broker's log")?
            .len();
        let child = self
            .jars
            .java()
            .args([&format!("-Xmx{}", self.options.heap), "-Xms128m"])
            // On two cores a collector without threads of its own leaves more to the rest.
            .args(["-XX:+UseSerialGC", "-Djava.awt.headless=true"])
            .args(["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"])
            .arg("kafka.Kafka")
            .arg(&properties)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the broker's log")?)
            .stderr(log)
            // A group of its own: Ctrl-C in a terminal is for us; we end the broker in our own order.
            .process_group(0)
            .spawn()
            .context("cannot run java: install Java 17 (Debian: apt-get install openjdk-17-jdk-headless)")?;
        let running = self.running.insert(Leashed::new(child)?);
        match running.wait_until_ready(&self.dir.join("server.log"), log_start) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.kill()?;
                let log = log_since(&self.log(), log_start);
                let error = error.context(format!(
                    "Kafka did not start in {}:\n{}",
                    self.dir.display(),
                    tail(&log)
                ));
                Err(if log.contains("Address already in use") {
                    Failure::PortTaken(error)
                } else {
                    Failure::Other(error)
                })
            }
        }
    }

    fn format(&self, properties: &Path) -> Result<()> {
        let output = self
            .java()
            .args(["kafka.tools.StorageTool", "format", "-t", &cluster_id()?, "-c"])
            .arg(properties)
            .output()
            .context("cannot run java: install Java 17 (Debian: apt-get install openjdk-17-jdk-headless)")?;
        if !output.status.success() {
            bail!(
                "cannot format Kafka's storage in {}:\n{}{}",
                self.dir.display(),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }
}

impl Drop for Broker {
    /// Kills it: what a test leaves behind is thrown away anyway, and an orderly stop takes seconds.
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!(
                "the broker at {} could not be ended: {error:#}",
                self.bootstrap
            );
        }
    }
}

/// For Java programs that only live a second or two.
const SHORT_JVM: [&str; 4] = [
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xmx256m",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
];

enum Failure {
    /// Someone else took a port between our look and Kafka's bind.
    PortTaken(anyhow::Error),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl Leashed {
    fn wait_until_ready(&mut self, log: &Path, log_start: u64) -> Result<()> {
        enum Seen {
            Ready,
            Ended(ExitStatus),
        }
        let child = &mut self.child;
        let seen = stopwatch::wait_for(START_PATIENCE, || match child.try_wait() {
            Ok(Some(status)) => Some(Seen::Ended(status)),
            _ => log_since(log, log_start)
                .contains(READY_LINE)
                .then_some(Seen::Ready),
        });
        match seen {
            Some(Seen::Ready) => Ok(()),
            Some(Seen::Ended(status)) => Err(anyhow!("java ended with {status}")),
            None => Err(anyhow!("not ready after {} s", START_PATIENCE.as_secs())),
        }
    }
}

/// A fresh cluster id as Kafka writes them: 16 random bytes in URL-safe base64 without padding.
fn cluster_id() -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot get a UUID")?;
    let hex: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    let random = u128::from_str_radix(&hex, 16).context("the kernel's UUID is no UUID")?;
    Ok(base64(random))
}

fn base64(bytes: u128) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // Without the top bit it never begins with '-', which a command line would take for a flag.
    let bytes = bytes & (u128::MAX >> 1);
    let digit = |index: u32| match index {
        // 22 digits hold 132 bits: the last one has four zero bits to its right.
        21 => (bytes << 4) & 63,
        _ => (bytes >> (122 - 6 * index)) & 63,
    };
    (0..22)
        .map(|index| char::from(ALPHABET[digit(index) as usize]))
        .collect()
}

pub(crate) fn log_since(log: &Path, start: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(start))?;
        file.read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(cannot read {}: {error})", log.display()),
    }
}

pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids_are_22_digits_and_never_look_like_a_flag() {
        assert_eq!(base64(0), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(base64(u128::MAX), "f____________________w");
        assert_eq!(base64(1), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_ne!(cluster_id().unwrap(), cluster_id().unwrap());
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let log: String = (0..100).map(|line| format!("{line}\n")).collect();
        assert!(tail(&log).starts_with("60\n") && tail(&log).ends_with("\n99"));
        assert_eq!(tail("only"), "only");
    }
}
