//! One contestant: fills its state, is killed and started again while input goes on, and has its results checked.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use processor_core::clock::Deadline;
use processor_core::log::{Log as _, NewTopic};

use crate::arena::Arena;
use crate::child::Child;
use crate::lag::Lag;
use crate::random::Random;
use crate::stopwatch::{Stopwatch, pause};
use crate::termination::Termination;
use crate::usage::Usage;

use super::arguments::{BenchArguments, Job};
use super::check::check;
use super::contestant::Contestant;
use super::input::{Flow, IMPRESSIONS, Users};
use super::observer::{Observer, Seen};

/// Between two looks at the lag.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// With reading the whole input.
const FILL_PATIENCE: Duration = Duration::from_secs(30 * 60);

pub(super) struct Turn<'a> {
    pub arena: &'a Arena,
    pub arguments: &'a BenchArguments,
    pub contestant: Contestant,
    pub users: Users,
    pub termination: &'a Termination,
}

/// One restart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Restart {
    pub seen: Seen,
    /// CPU time and memory of its process until then; the machine may be busy with other things, which this shows.
    pub usage: Usage,
    /// What the contestant says of itself.
    pub told: Told,
}

/// What ours writes down while it starts; nothing for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Told {
    /// Changelog records read.
    pub restored_records: Option<u64>,
    /// Their keys and values.
    pub restored_bytes: Option<u64>,
    /// To open the stores, in ms.
    pub open_ms: Option<u64>,
}

impl Turn<'_> {
    /// The restarts, up to the first that failed, and why it did.
    pub fn run(&self) -> Result<(Vec<Restart>, Option<anyhow::Error>)> {
        let job = self.prepare()?;
        let mut restarts = Vec::new();
        let failure = self.all_rounds(&job, &mut restarts).err();
        self.termination.check()?;
        self.arena.clear(&job.application_id)?;
        fs::remove_dir_all(&job.state_dir).context("cannot remove a state directory")?;
        Ok((restarts, failure))
    }

    fn prepare(&self) -> Result<Job> {
        let application_id = format!("bench-restart-{}", self.contestant);
        let state_dir = self.arena.dir().join(&application_id);
        fs::create_dir_all(&state_dir).context("cannot create a state directory")?;
        let output = format!("{application_id}-out");
        let topic = NewTopic::new(&output, self.arena.partitions());
        self.arena.log().create_topics(&[topic])?;
        Ok(Job {
            bootstrap: self.arena.bootstrap().to_owned(),
            application_id,
            state_dir,
            output,
            backend: self.arguments.backend,
            kind: self.arguments.kind,
        })
    }

    fn all_rounds(&self, job: &Job, restarts: &mut Vec<Restart>) -> Result<()> {
        let arguments = self.arguments;
        let mut random = Random::with_seed(arguments.seed);
        let mut lag = Lag::of(self.arena.log(), &job.application_id, &[IMPRESSIONS])?;
        let watch = Stopwatch::start();
        let mut child = self.spawn(job, "fill")?;
        self.await_lag(&mut lag, &mut child, 0)?;
        eprintln!(
            "{}: state filled in {:.1} s",
            self.contestant,
            watch.elapsed().as_secs_f64()
        );
        let flow = self.flow()?;
        for round in 0..arguments.rounds {
            self.await_lag(&mut lag, &mut child, arguments.rate)?;
            let work_ms = i64::from(arguments.work_ms);
            let work_ms = random.between(work_ms, 2 * work_ms);
            self.work(&mut child, Duration::from_millis(work_ms.unsigned_abs()))?;
            child.kill()?;
            let observer = Observer::behind(self.arena.log(), &job.output)?;
            let label = format!("restart-{}", round + 1);
            let watch = Stopwatch::start();
            child = self.spawn(job, &label)?;
            let patience = Duration::from_secs(arguments.patience);
            let seen = observer
                .watch(&mut child, watch, patience, self.termination)
                .with_context(|| {
                    format!(
                        "restart {} failed {:.1} s after its start",
                        round + 1,
                        watch.elapsed().as_secs_f64()
                    )
                })?;
            let restart = Restart {
                seen,
                usage: child.usage()?,
                told: Told::read(&child.printed()),
            };
            eprintln!("{}: restart {}: {restart}", self.contestant, round + 1);
            restarts.push(restart);
        }
        flow.stop()?;
        self.await_lag(&mut lag, &mut child, 0)?;
        child.stop()?;
        let results = check(
            self.arena.log(),
            self.arguments.kind,
            self.users,
            &job.output,
        )
        .context("the results are not what the input says")?;
        eprintln!("{}: {results} results are right", self.contestant);
        Ok(())
    }

    fn spawn(&self, job: &Job, label: &str) -> Result<Child> {
        let name = format!("{}-{label}.log", job.application_id);
        Child::spawn(
            &mut self.contestant.command(job)?,
            self.log_dir().join(name),
        )
    }

    fn log_dir(&self) -> PathBuf {
        let kept = self.arguments.logs.as_deref();
        kept.unwrap_or(self.arena.dir()).to_owned()
    }

    fn flow(&self) -> Result<Flow> {
        let BenchArguments { rate, seed, .. } = *self.arguments;
        let partitions = self.arena.partitions();
        Flow::start(
            self.arena.log(),
            self.users,
            rate,
            seed.wrapping_add(1),
            partitions,
        )
    }

    /// Until no more than `slack` records are uncommitted.
    fn await_lag(&self, lag: &mut Lag<'_>, child: &mut Child, slack: u64) -> Result<()> {
        let deadline = Deadline::after(FILL_PATIENCE);
        loop {
            self.termination.check()?;
            child.check_running()?;
            lag.look_for_more()?;
            let committed = lag.look()?.committed;
            if lag.total() - committed <= slack {
                return Ok(());
            }
            if deadline.passed() {
                bail!(
                    "{committed} of {} records committed after {} s",
                    lag.total(),
                    FILL_PATIENCE.as_secs()
                );
            }
            pause(LOOK_INTERVAL);
        }
    }

    fn work(&self, child: &mut Child, time: Duration) -> Result<()> {
        let deadline = Deadline::after(time);
        while !deadline.passed() {
            self.termination.check()?;
            child.check_running()?;
            pause(LOOK_INTERVAL.min(deadline.remaining()));
        }
        Ok(())
    }
}

impl Told {
    fn read(printed: &str) -> Self {
        Self {
            restored_records: last_number(printed, "records_restored="),
            restored_bytes: last_number(printed, "bytes_restored="),
            open_ms: last_number(printed, "open_ms="),
        }
    }
}

fn last_number(text: &str, field: &str) -> Option<u64> {
    let rest = &text[text.rfind(field)? + field.len()..];
    let digits = rest.find(|c: char| !c.is_ascii_digit());
    rest[..digits.unwrap_or(rest.len())].parse().ok()
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "first result after {} ms, of all partitions after {} ms, with {:.2} CPU s and {:.0} MiB",
            self.seen.first.as_millis(),
            self.seen.all.as_millis(),
            self.usage.cpu_seconds,
            self.usage.peak_resident_mib
        )?;
        if let Some(open_ms) = self.told.open_ms {
            write!(f, "; stores opened in {open_ms} ms")?;
        }
        match (self.told.restored_records, self.told.restored_bytes) {
            (Some(records), Some(bytes)) => {
                write!(f, "; {records} changelog records restored, {bytes} bytes")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ours_writes_down_last_counts() {
        let log = "0.1s INFO opened open_ms=42\n1s so far records_restored=0 bytes_restored=0\n\
                   2s so far records_restored=17 bytes_restored=400 x";
        let told = Told {
            restored_records: Some(17),
            restored_bytes: Some(400),
            open_ms: Some(42),
        };
        assert_eq!(Told::read(log), told);
        assert_eq!(Told::read("[main] INFO ready"), Told::default());
    }
}
