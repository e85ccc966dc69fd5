//! A contestant's process.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child as Spawned, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use xtask::process::{Ending, Process};

use crate::usage::Usage;

/// To close in order: Kafka Streams takes up to 30 s by itself.
const STOP_PATIENCE: Duration = Duration::from_secs(40);

/// Runs until it is stopped or dropped.
pub(crate) struct Child {
    spawned: Spawned,
    process: Process,
    /// What it prints.
    log: PathBuf,
}

impl Child {
    pub fn spawn(command: &mut Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log).context("cannot create a contestant's log")?;
        let mut spawned = command
            .stdin(Stdio::null())
            .stdout(
                file.try_clone()
                    .context("cannot share a contestant's log")?,
            )
            .stderr(file)
            // A group of its own: Ctrl-C in a terminal is for us; we end it in our own order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let Some(process) = Process::with_pid(spawned.id()) else {
            spawned.wait().ok();
            bail!("it ended at once:\n{}", tail(&log));
        };
        Ok(Self {
            spawned,
            process,
            log,
        })
    }

    /// An error when it has ended, with the last that it printed.
    pub fn check_running(&mut self) -> Result<()> {
        match self
            .spawned
            .try_wait()
            .context("cannot look after a child")?
        {
            None => Ok(()),
            Some(status) => bail!("it ended with {status}:\n{}", tail(&self.log)),
        }
    }

    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.process.pid())
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        printed(&self.log)
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.spawned.wait().context("cannot reap a child")?;
        Ok(())
    }

    /// SIGTERM, and SIGKILL if that does not help; returns when it is gone.
    pub fn stop(mut self) -> Result<()> {
        let ending = self.process.stop(STOP_PATIENCE)?;
        let status = self.spawned.wait().context("cannot reap a child")?;
        // A JVM that closed in order still ends with 128 and the number of the signal.
        match (ending, status.code()) {
            (Ending::Graceful, Some(0 | 143)) => Ok(()),
            _ => bail!(
                "it did not end in order ({ending:?}, {status}):\n{}",
                tail(&self.log)
            ),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill() {
            eprintln!("a contestant could not be ended: {error:#}");
        }
        self.spawned.wait().ok();
    }
}

fn printed(log: &Path) -> String {
    match fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(cannot read {}: {error})", log.display()),
    }
}

fn tail(log: &Path) -> String {
    let text = printed(log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask::process::Process;

    #[test]
    fn a_child_that_ended_is_reported_with_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo out of luck; read -r never; exit 3"]);
        let said = match Child::spawn(&mut command, dir.path().join("log")) {
            Err(error) => error.to_string(),
            Ok(mut child) => {
                child.spawned.wait().unwrap();
                child.check_running().unwrap_err().to_string()
            }
        };
        assert!(said.contains("out of luck"), "{said}");
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        let child = Child::spawn(command.arg("60"), dir.path().join("log")).unwrap();
        let pid = child.process.pid();
        drop(child);
        assert_eq!(Process::with_pid(pid), None);
    }
}
