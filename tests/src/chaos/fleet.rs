//! The instances under test, each behind a proxy of its own, and what keeps them running, as an orchestrator would.
//!
//! An instance that ends before it runs, because the broker is away, is started again and counted. One that runs must not
//! end by itself, unless its disk is full, or another one has taken its name; then it must say so. Of two instances with one
//! name one must end: mostly the elder, but if that one needs a new producer first, the younger.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use processor_core::testing::simulation::Draw;
use xtask::port;

use super::damage;
use super::proxy::Proxy;
use super::schedule::{Fault, Kind};
use crate::instance::{Instance, Run};

/// The line that an instance prints once it runs.
const RUNS: &str = "SIGTERM or Ctrl-C ends";
/// What an instance says whose disk is full.
const DISK_SENTENCE: &str = "has room";
/// What an instance says whose name was taken.
const TWIN_SENTENCE: &str = "took over";
/// Bytes of a file that can be written while the disk is full: more than an instance says, less than its stores hold.
const FULL: u64 = 128 << 10;
/// Between two starts of an instance that does not come up.
const AGAIN_MS: u64 = 500;
/// How long two instances of one name may go on side by side.
const GHOST_MS: u64 = 90_000;

/// One of the instances.
struct Member {
    number: usize,
    proxy: Proxy,
    /// How often it was started, how many state directories it has had, and which of them is its own now.
    starts: u32,
    homes: u32,
    home: u32,
    running: Option<Instance>,
    /// A fault keeps it down, or nobody has started it yet.
    held: bool,
    disk_full: bool,
    start_at_ms: u64,
    ghost: Option<Ghost>,
}

/// An instance that was paused, and whose name another one has since.
struct Ghost {
    instance: Instance,
    home: u32,
    awake_since_ms: Option<u64>,
}

/// All instances.
pub struct Fleet {
    binary: PathBuf,
    directory: PathBuf,
    landing: PathBuf,
    members: Vec<Member>,
    /// Starts that failed because the broker could not be reached.
    pub failed_starts: u64,
    /// Instances that ended because their disk was full.
    pub disk_endings: u64,
    /// What must not happen.
    pub violations: Vec<String>,
}

/// A listener of the broker and the proxy before it.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    /// Where the broker listens.
    pub listener: u16,
    /// Where the proxy listens, which the broker tells its clients.
    pub proxy: u16,
}

impl Door {
    /// Two free ports.
    ///
    /// # Errors
    /// When there are none.
    pub fn free() -> Result<Self> {
        Ok(Self {
            listener: port::free()?,
            proxy: port::free()?,
        })
    }
}

impl Fleet {
    /// An instance of `binary` for each of `doors`; none is started yet. What they need and say goes below `directory`.
    ///
    /// # Errors
    /// When a port was taken meanwhile.
    pub fn new(binary: &Path, directory: &Path, landing: &Path, doors: &[Door]) -> Result<Self> {
        let member = |(number, door): (usize, &Door)| {
            Ok(Member {
                number,
                proxy: Proxy::start(door.proxy, door.listener)?,
                starts: 0,
                homes: 1,
                home: 0,
                running: None,
                held: false,
                disk_full: false,
                start_at_ms: 0,
                ghost: None,
            })
        };
        let members: Result<Vec<_>> = doors.iter().enumerate().map(member).collect();
        Ok(Self {
            binary: binary.to_owned(),
            directory: directory.to_owned(),
            landing: landing.to_owned(),
            members: members?,
            failed_starts: 0,
            disk_endings: 0,
            violations: Vec::new(),
        })
    }

    /// Starts what should run and does not, and notes what ended that should not.
    ///
    /// # Errors
    /// When an instance cannot be started at all.
    pub fn supervise(&mut self, now_ms: u64) -> Result<()> {
        let Self {
            members,
            failed_starts,
            disk_endings,
            violations,
            ..
        } = self;
        for member in members {
            let number = member.number;
            if let Some(instance) = &mut member.running
                && let Some(status) = instance.ended()?
            {
                let said = instance.all_said();
                let lost_its_name = said.contains(TWIN_SENTENCE);
                match &member.ghost {
                    _ if !said.contains(RUNS) => *failed_starts += 1,
                    _ if member.disk_full && said.contains(DISK_SENTENCE) => *disk_endings += 1,
                    Some(ghost) if ghost.awake_since_ms.is_some() && lost_its_name => {}
                    _ => violations.push(format!(
                        "instance {number} ended by itself with {status}:\n{}",
                        instance.said()
                    )),
                }
                member.running = None;
                member.start_at_ms = now_ms + AGAIN_MS;
                if lost_its_name && let Some(ghost) = member.ghost.take() {
                    member.home = ghost.home;
                    member.running = Some(ghost.instance);
                }
            }
            if let Some(ghost) = &mut member.ghost
                && let Some(awake_since_ms) = ghost.awake_since_ms
            {
                if let Some(status) = ghost.instance.ended()? {
                    let said = ghost.instance.all_said();
                    if !said.contains(RUNS) {
                        // It was paused before it ran, and then did not reach the broker.
                        *failed_starts += 1;
                    } else if status.success() || !said.contains(TWIN_SENTENCE) {
                        violations.push(format!(
                            "instance {number}, whose name was taken, ended with {status}, and did not say why:\n{}",
                            ghost.instance.said()
                        ));
                    }
                    member.ghost = None;
                } else if now_ms > awake_since_ms + GHOST_MS {
                    violations.push(format!(
                        "two instances {number} go on side by side:\n{}",
                        ghost.instance.said()
                    ));
                    member.ghost = None;
                }
            }
            let wanted = !member.held && !member.disk_full && now_ms >= member.start_at_ms;
            if wanted && member.running.is_none() {
                member.start(&self.binary, &self.directory, &self.landing)?;
            }
        }
        Ok(())
    }

    /// Begins a fault of an instance, and says what it came to: one that has no state yet to damage or to delete was merely
    /// killed.
    ///
    /// # Errors
    /// When the process or its files cannot be touched.
    pub fn begin(&mut self, fault: &Fault, draw: &mut Draw) -> Result<Kind> {
        let member = &mut self.members[fault.victim];
        // It may be between two attempts to start.
        if member.running.is_none() {
            member.start(&self.binary, &self.directory, &self.landing)?;
        }
        match fault.kind {
            Kind::Kill => member.kill()?,
            Kind::Corrupt => {
                member.kill()?;
                if !damage::corrupt(&member.home(&self.directory), draw)? {
                    return Ok(Kind::Kill);
                }
            }
            Kind::Delete => {
                member.kill()?;
                let home = member.home(&self.directory);
                match fs::remove_dir_all(&home) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        return Ok(Kind::Kill);
                    }
                    Err(error) => {
                        return Err(error)
                            .with_context(|| format!("cannot delete {}", home.display()));
                    }
                }
            }
            Kind::Pause | Kind::LongPause => {
                if let Some(instance) = &member.running {
                    instance.process().pause()?;
                }
            }
            Kind::Twin => {
                if let Some(instance) = member.running.take() {
                    instance.process().pause()?;
                    member.ghost = Some(Ghost {
                        instance,
                        home: member.home,
                        awake_since_ms: None,
                    });
                }
                // The elder still holds the old one.
                member.home = member.homes;
                member.homes += 1;
                member.start(&self.binary, &self.directory, &self.landing)?;
            }
            Kind::FullDisk => {
                member.disk_full = true;
                if let Some(instance) = &member.running {
                    instance.process().limit_files(Some(FULL))?;
                }
            }
            Kind::Cut => member.proxy.cut(),
            Kind::BlackHole => member.proxy.black_hole(),
            Kind::Broker => {}
        }
        Ok(fault.kind)
    }

    /// Ends a fault of an instance.
    ///
    /// # Errors
    /// When the process cannot be touched.
    pub fn end(&mut self, fault: &Fault, now_ms: u64) -> Result<()> {
        let member = &mut self.members[fault.victim];
        match fault.kind {
            Kind::Kill | Kind::Corrupt | Kind::Delete => {
                member.held = false;
                member.start_at_ms = now_ms;
            }
            Kind::Pause | Kind::LongPause => {
                if let Some(instance) = &member.running {
                    instance.process().resume()?;
                }
            }
            Kind::Twin => {
                if let Some(ghost) = &mut member.ghost {
                    ghost.instance.process().resume()?;
                    ghost.awake_since_ms = Some(now_ms);
                }
            }
            Kind::FullDisk => {
                member.disk_full = false;
                member.start_at_ms = now_ms;
                if let Some(instance) = &member.running {
                    instance.process().limit_files(None)?;
                }
            }
            Kind::Cut | Kind::BlackHole => member.proxy.open()?,
            Kind::Broker => {}
        }
        Ok(())
    }

    /// Asks all to end, and waits until they have.
    pub fn stop(&mut self) {
        for member in &mut self.members {
            if let Some(instance) = member.running.take()
                && let Err(error) = instance.stop()
            {
                self.violations.push(format!(
                    "instance {} did not end in order: {error:#}",
                    member.number
                ));
            }
        }
    }

    /// Whether there are two instances of one name.
    #[must_use]
    pub fn has_twins(&self) -> bool {
        self.members.iter().any(|member| member.ghost.is_some())
    }

    /// Starts in all.
    #[must_use]
    pub fn starts(&self) -> u32 {
        self.members.iter().map(|member| member.starts).sum()
    }
}

impl Member {
    fn home(&self, directory: &Path) -> PathBuf {
        directory.join(format!("state-{}-{}", self.number, self.home))
    }

    fn kill(&mut self) -> Result<()> {
        self.held = true;
        match self.running.take() {
            Some(instance) => instance.kill(),
            None => Ok(()),
        }
    }

    fn start(&mut self, binary: &Path, directory: &Path, landing: &Path) -> Result<()> {
        self.starts += 1;
        let (name, address) = (format!("instance-{}", self.number), self.proxy.address());
        let home = self.home(directory);
        let mut more = vec!["--instance", &name, "--look-interval", "1s"];
        more.extend(["--set", "session.timeout.ms=6000"]);
        more.extend(["--set", "heartbeat.interval.ms=1000"]);
        // Both kinds of members are in one group.
        if self.number % 2 == 1 {
            more.push("--static-membership");
        }
        let run = Run {
            bootstrap: &address,
            landing,
            state: &home,
            more: &more,
        };
        let said = directory.join(format!("{name}-{}.stderr", self.starts));
        self.running = Some(Instance::run(binary, &run, &said)?);
        Ok(())
    }
}
