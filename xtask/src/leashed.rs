//! A child process on a leash: it does not outlive us, however we end.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::process::Process;

/// A started server.
#[derive(Debug)]
pub(crate) struct Leashed {
    pub(crate) child: Child,
    pub(crate) process: Process,
    pub(crate) leash: Leash,
}

impl Leashed {
    /// Puts `child` on a leash; kills it if that cannot be done.
    ///
    /// # Errors
    /// When it ended already, or there is no shell.
    pub(crate) fn new(mut child: Child) -> Result<Self> {
        let attach = |pid| {
            let process = Process::with_pid(pid).context("java ended at once")?;
            anyhow::Ok((process, Leash::attach(pid)?))
        };
        match attach(child.id()) {
            Ok((process, leash)) => Ok(Self {
                child,
                process,
                leash,
            }),
            Err(error) => {
                child.kill().ok();
                child.wait().ok();
                Err(error)
            }
        }
    }
}

/// Kills a process when we end without saying so: a shell waits for a line from us, and kills at end of file.
#[derive(Debug)]
pub struct Leash(Child);

impl Leash {
    /// Puts the process `pid` on a leash.
    ///
    /// # Errors
    /// When there is no shell.
    pub fn attach(pid: u32) -> Result<Self> {
        Command::new("sh")
            .args(["-c", "read -r released || kill -9 \"$0\"", &pid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Self)
            .context("cannot run sh")
    }

    /// Lets go: the process lives on, or is gone already.
    pub fn release(mut self) {
        let told = self
            .0
            .stdin
            .take()
            .map(|mut line| line.write_all(b"released\n"));
        if matches!(told, Some(Ok(()))) {
            self.0.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leashed_process_dies_when_the_leash_is_lost_and_lives_when_it_is_released() {
        let sleeper = || Command::new("sleep").arg("60").spawn().unwrap();

        let mut lost = sleeper();
        drop(Leash::attach(lost.id()).unwrap()); // closes the pipe, as our death would
        assert!(!lost.wait().unwrap().success());

        let mut released = sleeper();
        Leash::attach(released.id()).unwrap().release();
        assert!(released.try_wait().unwrap().is_none());
        released.kill().unwrap();
        released.wait().unwrap();
    }
}
