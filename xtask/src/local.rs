//! The developer's local broker: `cargo xtask up`, `status` and `down`.
//!
//! One broker per run directory (`.deps/run` unless told otherwise). It keeps its topics from `up` to `up`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::broker::{Broker, Options};
use crate::process::{Ending, PidFile};
use crate::repo;
use crate::stopwatch::Stopwatch;

/// The port that Kafka users try first.
const USUAL_PORT: u16 = 9092;

/// A run directory and the broker that may run in it.
#[derive(Debug)]
pub struct Local {
    dir: PathBuf,
}

impl Local {
    /// The broker of `dir`, or of `.deps/run`.
    pub fn at(dir: Option<PathBuf>) -> Self {
        Self {
            dir: dir.unwrap_or_else(|| repo::deps().join("run")),
        }
    }

    /// Starts the broker unless it runs; says where.
    ///
    /// # Errors
    /// When it does not become ready; the message ends with the tail of its log.
    pub fn up(&self, kafka_version: &str) -> Result<String> {
        if let Some(running) = self.running()? {
            return Ok(describe(&running));
        }
        let watch = Stopwatch::start();
        let options = Options::default()
            .kafka_version(kafka_version)
            .first_port(USUAL_PORT);
        let broker = Broker::start(self.kafka(), &options)?;
        let (note, log) = (broker.bootstrap().to_owned(), broker.log());
        let process = broker.detach()?;
        let file = PidFile { process, note };
        if let Err(error) = file.write(&self.pid_file()) {
            file.process.kill()?;
            return Err(error);
        }
        let seconds = watch.elapsed().as_secs_f64();
        Ok(format!(
            "{}; started in {seconds:.1} s, log in {}",
            describe(&file),
            log.display()
        ))
    }

    /// Stops the broker that [`up`](Self::up) started, and no other process.
    ///
    /// # Errors
    /// When it cannot be signalled or the pid file cannot be read or removed.
    pub fn down(&self) -> Result<String> {
        let Some(file) = PidFile::read(&self.pid_file())? else {
            return Ok("no broker was started here".to_owned());
        };
        let ending = file.process.stop(Duration::from_secs(30))?;
        fs::remove_file(self.pid_file()).context("cannot remove the pid file")?;
        Ok(match ending {
            Ending::AlreadyGone => "the broker was gone already".to_owned(),
            Ending::Graceful => format!("stopped the broker at {}", file.note),
            Ending::Killed => format!(
                "killed the broker at {}: it did not stop in 30 s",
                file.note
            ),
        })
    }

    /// Removes the broker's topics and log. Only for a stopped broker.
    ///
    /// # Errors
    /// When the directory cannot be removed.
    pub fn wipe(&self) -> Result<()> {
        match fs::remove_dir_all(self.kafka()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.kafka().display()))
            }
            _ => Ok(()),
        }
    }

    /// One line: whether the broker runs and where.
    ///
    /// # Errors
    /// When the pid file cannot be read.
    pub fn status(&self) -> Result<String> {
        Ok(match self.running()? {
            Some(file) => describe(&file),
            None => "no broker runs; start one with `cargo xtask up`".to_owned(),
        })
    }

    fn running(&self) -> Result<Option<PidFile>> {
        Ok(PidFile::read(&self.pid_file())?.filter(|file| file.process.is_running()))
    }

    fn kafka(&self) -> PathBuf {
        self.dir.join("kafka")
    }

    fn pid_file(&self) -> PathBuf {
        Path::join(&self.dir, "kafka.pid")
    }
}

fn describe(file: &PidFile) -> String {
    format!(
        "Kafka is ready at {} (pid {})",
        file.note,
        file.process.pid()
    )
}
