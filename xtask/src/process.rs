//! A process of this machine, told apart from a later one with the same pid.
//!
//! A pid alone is not safe to signal: it may have been given to a stranger since it was written down. The kernel's
//! start time of the process, with the id of this boot, settles it.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::stopwatch;

/// One process; equal only to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pid: u32,
    /// Clock ticks from boot to the start of the process: field 22 of `/proc/<pid>/stat`.
    started: u64,
    boot: String,
}

/// How a process ended that was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was not running any more.
    AlreadyGone,
    /// It ended on SIGTERM.
    Graceful,
    /// It had to be killed.
    Killed,
}

impl Process {
    /// The process that has `pid` now, if one has and it is not a zombie.
    pub fn with_pid(pid: u32) -> Option<Self> {
        let started = start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(Self {
            pid,
            started,
            boot: boot.trim().to_owned(),
        })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether this very process still runs.
    pub fn is_running(&self) -> bool {
        Self::with_pid(self.pid).as_ref() == Some(self)
    }

    /// Asks it to end, waits for `patience`, then kills it. Returns when it is gone.
    ///
    /// # Errors
    /// When it may not be signalled, or survives SIGKILL for ten seconds.
    pub fn stop(&self, patience: Duration) -> Result<Ending> {
        if !self.is_running() {
            return Ok(Ending::AlreadyGone);
        }
        self.signal(Signal::TERM)?;
        if self.wait(patience) {
            return Ok(Ending::Graceful);
        }
        self.kill()?;
        Ok(Ending::Killed)
    }

    /// Kills it and waits until it is gone. A process that is gone already is fine.
    ///
    /// # Errors
    /// When it may not be signalled, or survives for ten seconds.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        if !self.wait(Duration::from_secs(10)) {
            bail!("process {} survived SIGKILL", self.pid);
        }
        Ok(())
    }

    /// Freezes it (SIGSTOP), so that it is there and does nothing.
    ///
    /// # Errors
    /// When it may not be signalled.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`pause`](Self::pause).
    ///
    /// # Errors
    /// When it may not be signalled.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Makes its writes beyond `bytes` of a file fail, as those to a full disk do; `None` lets it write again. It must
    /// ignore SIGXFSZ, which kills it otherwise.
    ///
    /// # Errors
    /// When its limits may not be changed.
    pub fn limit_files(&self, bytes: Option<u64>) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        match prlimit(Some(self.raw()?), Resource::Fsize, limit) {
            Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno)
                .with_context(|| format!("cannot limit the files of process {}", self.pid)),
        }
    }

    fn raw(&self) -> Result<Pid> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        pid.with_context(|| format!("{} is no pid", self.pid))
    }

    fn wait(&self, patience: Duration) -> bool {
        stopwatch::wait_for(patience, || (!self.is_running()).then_some(())).is_some()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        match kill_process(self.raw()?, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno).with_context(|| format!("cannot signal process {}", self.pid)),
        }
    }
}

/// The start time in a line of `/proc/<pid>/stat`; none for a zombie, which only waits to be reaped.
fn start_time(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses and may hold anything, so count from the last one.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A pid file: which process, and one line about it (for a broker: its bootstrap address).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidFile {
    /// The process.
    pub process: Process,
    /// What its users need to know.
    pub note: String,
}

impl PidFile {
    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// When the file cannot be read or was not written by [`PidFile::write`].
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(path) {
            Ok(text) => match Self::parse(&text) {
                Some(file) => Ok(Some(file)),
                None => bail!("{} is not a pid file: remove it", path.display()),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes the file whole: a reader sees the old one or the new one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let beside = path.with_extension("tmp");
        fs::write(&beside, self.to_string())
            .and_then(|()| fs::rename(&beside, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix('=');
        Some(Self {
            process: Process {
                pid: value("pid")?.parse().ok()?,
                started: value("started")?.parse().ok()?,
                boot: value("boot")?.to_owned(),
            },
            note: value("note")?.to_owned(),
        })
    }
}

impl fmt::Display for PidFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Process { pid, started, boot } = &self.process;
        writeln!(
            f,
            "pid={pid}\nstarted={started}\nboot={boot}\nnote={}",
            self.note
        )
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, id};

    use super::*;

    #[test]
    fn start_time_survives_a_name_with_spaces_and_parentheses() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(start_time(stat), Some(4711));
        assert_eq!(start_time(&stat.replace(" S ", " Z ")), None);
        assert_eq!(start_time("garbage"), None);
    }

    #[test]
    fn a_pid_file_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broker.pid");
        assert_eq!(PidFile::read(&path).unwrap(), None);
        let file = PidFile {
            process: Process::with_pid(id()).unwrap(),
            note: "127.0.0.1:9092".to_owned(),
        };
        file.write(&path).unwrap();
        assert_eq!(PidFile::read(&path).unwrap(), Some(file));
        fs::write(&path, "17\n").unwrap();
        assert!(PidFile::read(&path).is_err());
    }

    #[test]
    fn a_stranger_with_a_recycled_pid_is_not_signalled() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let real = Process::with_pid(child.id()).unwrap();
        let earlier = Process {
            started: real.started - 1,
            ..real.clone()
        };
        assert_eq!(earlier.stop(Duration::ZERO).unwrap(), Ending::AlreadyGone);
        assert!(real.is_running());
        assert_eq!(
            real.stop(Duration::from_secs(10)).unwrap(),
            Ending::Graceful
        );
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed() {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; echo; while :; do sleep 1; done"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The line says that the trap is set.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let process = Process::with_pid(child.id()).unwrap();
        assert_eq!(
            process.stop(Duration::from_millis(50)).unwrap(),
            Ending::Killed
        );
        child.wait().unwrap();
    }
}
