//! The platform as a process.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use xtask::leashed::Leash;
use xtask::process::Process;
use xtask::stopwatch::wait_for;

/// The platform on Kafka, as `advertisex run` takes it.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The broker's address.
    pub bootstrap: &'a str,
    /// The landing directory.
    pub landing: &'a Path,
    /// The state directory.
    pub state: &'a Path,
    /// Further arguments.
    pub more: &'a [&'a str],
}

/// What `advertisex verify` says of a log, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// None if it was killed.
    pub code: Option<i32>,
    /// Its report, and what it wrote to standard error.
    pub said: String,
}

/// Has the platform audit what is on Kafka, against the lines of the landing directory if there is one.
///
/// # Errors
/// When it cannot be started.
pub fn verify(binary: &Path, bootstrap: &str, landing: Option<&Path>) -> Result<Verdict> {
    let mut command = Command::new(binary);
    command.args(["verify", "--bootstrap", bootstrap]);
    if let Some(landing) = landing {
        command.arg("--input").arg(landing);
    }
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Verdict {
        code: output.status.code(),
        said: text(&output.stdout) + &text(&output.stderr),
    })
}

/// A running `advertisex`; killed when dropped.
pub struct Instance {
    child: Child,
    process: Process,
    leash: Option<Leash>,
    stderr: PathBuf,
}

impl Instance {
    /// Starts `binary` with `args`; what it says goes to the file `stderr`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start<S: AsRef<OsStr>>(
        binary: &Path,
        args: impl IntoIterator<Item = S>,
        stderr: &Path,
    ) -> Result<Self> {
        let file = File::options().create(true).append(true).open(stderr);
        // It ignores SIGXFSZ, so that a limit on the size of its files is a failed write and no death.
        let child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(binary)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file.with_context(|| format!("cannot write {}", stderr.display()))?)
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        // A process that is over already is a zombie of ours, and has no start time any more.
        let process = Process::with_pid(child.id())
            .with_context(|| format!("{} ended at once", binary.display()))?;
        let mut instance = Self {
            child,
            process,
            leash: None,
            stderr: stderr.to_owned(),
        };
        instance.leash = Some(Leash::attach(instance.process.pid())?);
        Ok(instance)
    }

    /// Starts the platform on Kafka.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn run(binary: &Path, run: &Run<'_>, stderr: &Path) -> Result<Self> {
        let mut args = vec![
            "run".as_ref(),
            "--bootstrap".as_ref(),
            run.bootstrap.as_ref(),
            "--input".as_ref(),
            run.landing.as_os_str(),
            "--state".as_ref(),
            run.state.as_os_str(),
        ];
        args.extend(run.more.iter().map(OsStr::new));
        Self::start(binary, args, stderr)
    }

    /// The process itself, to pause it, or to limit what it may write.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Whether it still runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.process.is_running()
    }

    /// Passes while it runs.
    ///
    /// # Errors
    /// When it has ended, with what it said.
    pub fn check_runs(&self) -> Result<()> {
        ensure!(self.runs(), "the instance ended:\n{}", self.said());
        Ok(())
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot look after it")
    }

    /// As `kill -9` does; waits until it is gone.
    ///
    /// # Errors
    /// When it may not be signalled.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.child.wait().context("cannot reap it")?;
        Ok(())
    }

    /// SIGTERM; waits for a graceful end.
    ///
    /// # Errors
    /// When it does not end, or not with success.
    pub fn stop(mut self) -> Result<()> {
        self.process.stop(Duration::from_secs(60))?;
        self.ended_well()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it takes longer than `patience`, or does not end with success.
    pub fn wait(mut self, patience: Duration) -> Result<()> {
        if wait_for(patience, || (!self.runs()).then_some(())).is_none() {
            bail!(
                "it still runs after {} s:\n{}",
                patience.as_secs(),
                self.said()
            );
        }
        self.ended_well()
    }

    fn ended_well(&mut self) -> Result<()> {
        let status = self.child.wait().context("cannot reap it")?;
        if !status.success() {
            bail!("it ended with {status}:\n{}", self.said());
        }
        Ok(())
    }

    /// All that it has written to standard error.
    #[must_use]
    pub fn all_said(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// The end of what it has written to standard error.
    #[must_use]
    pub fn said(&self) -> String {
        let text = self.all_said();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.child.wait();
        if let Some(leash) = self.leash.take() {
            leash.release();
        }
    }
}
