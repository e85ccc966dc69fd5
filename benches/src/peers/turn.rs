//! One contestant at one workload, from a fresh start to no lag: fresh application id, output topic and state directory.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use processor_core::clock::Deadline;
use processor_core::log::{Log as _, NewTopic};

use super::arguments::Job;
use super::contestant::Contestant;
use super::outcome::{Difference, Outcome, example};
use super::race::{Finish, Race, Verdict};
use super::workload::{Equal, Workload};
use crate::arena::Arena;
use crate::child::Child;
use crate::lag::Lag;
use crate::stopwatch::{Stopwatch, pause};
use crate::termination::Termination;
use crate::usage::Usage;

/// Between two looks at the lag.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// With a whole turn.
const TURN_PATIENCE: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub workload: Workload,
    pub contestant: Contestant,
    /// Counted from 0.
    pub round: u32,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measurement {
    pub finish: Finish,
    /// Over the whole life of the process, its start included.
    pub usage: Usage,
}

/// What the outputs of a workload must be equal to.
#[derive(Debug)]
pub(super) struct Expected {
    /// The inputs, which the bare loop copies.
    pub inputs: Outcome,
    /// What the first framework wrote.
    pub results: Option<(Contestant, Outcome)>,
}

impl Expected {
    pub fn of(arena: &Arena, workload: Workload) -> Result<Self> {
        Ok(Self {
            inputs: Outcome::read(arena.log(), workload.inputs(), Equal::Records)?,
            results: None,
        })
    }
}

impl Turn {
    /// Works it off, compares what was written, and tidies up.
    pub fn run(
        self,
        arena: &Arena,
        expected: &mut Expected,
        termination: &Termination,
    ) -> Result<Measurement> {
        let job = self.prepare(arena)?;
        let log = arena.dir().join(format!("{}.log", job.application_id));
        let lag = Lag::of(arena.log(), &job.application_id, self.workload.inputs())?;
        let mut command = self.contestant.command(&job)?;
        let watch = Stopwatch::start();
        let mut child = Child::spawn(&mut command, log)?;
        let finish = watch_until_done(&mut child, watch, &lag, termination)?;
        let usage = child.usage()?;
        child.stop()?;
        drop(lag);
        self.compare(arena, &job.output, expected)?;
        self.tidy_up(arena, &job)?;
        Ok(Measurement { finish, usage })
    }

    fn prepare(self, arena: &Arena) -> Result<Job> {
        let Self {
            workload,
            contestant,
            round,
        } = self;
        let application_id = format!("bench-{workload}-{contestant}-{round}");
        let state_dir = arena.dir().join(&application_id);
        fs::create_dir_all(&state_dir).context("cannot create a state directory")?;
        let output = format!("{application_id}-out");
        let topic = NewTopic::new(&output, arena.partitions());
        arena.log().create_topics(&[topic])?;
        Ok(Job {
            workload,
            bootstrap: arena.bootstrap().to_owned(),
            application_id,
            state_dir,
            output,
        })
    }

    fn compare(self, arena: &Arena, output: &str, expected: &mut Expected) -> Result<()> {
        let log = arena.log();
        if self.contestant == Contestant::Raw {
            let written = Outcome::read(log, &[output], Equal::Records)?;
            let topics = Topics {
                written: &[output],
                expected: self.workload.inputs(),
                from: "the inputs",
            };
            return topics.equal(arena, &written, &expected.inputs, Equal::Records);
        }
        let equal = self.workload.equal();
        let written = Outcome::read(log, &[output], equal)?;
        let Some((first, results)) = &expected.results else {
            eprintln!(
                "  {} {}",
                written.len(),
                match equal {
                    Equal::Records => "records in the output",
                    Equal::LastOfKeys => "keys in the output",
                }
            );
            expected.results = Some((self.contestant, written));
            return Ok(());
        };
        let topics = Topics {
            written: &[output],
            // Deleted long since; a missing record is shown by its digest.
            expected: &[],
            from: first.name(),
        };
        topics.equal(arena, &written, results, equal)
    }

    fn tidy_up(self, arena: &Arena, job: &Job) -> Result<()> {
        arena.clear(&job.application_id)?;
        fs::remove_dir_all(&job.state_dir).context("cannot remove a state directory")
    }
}

/// Where to look for an example of a difference.
struct Topics<'a> {
    written: &'a [&'a str],
    expected: &'a [&'a str],
    from: &'a str,
}

impl Topics<'_> {
    fn equal(
        &self,
        arena: &Arena,
        written: &Outcome,
        expected: &Outcome,
        equal: Equal,
    ) -> Result<()> {
        let (what, topics, digest) = match written.first_difference(expected) {
            None => return Ok(()),
            Some(Difference::Surplus(digest)) => ("has, beyond", self.written, digest),
            Some(Difference::Missing(digest)) => ("lacks, of", self.expected, digest),
        };
        let example = example(arena.log(), topics, equal, digest)?;
        bail!(
            "the output {what} {}, {} ({} written, {} expected)",
            self.from,
            example.unwrap_or_else(|| format!("the record with digest {digest:032x}")),
            written.len(),
            expected.len()
        )
    }
}

fn watch_until_done(
    child: &mut Child,
    watch: Stopwatch,
    lag: &Lag<'_>,
    termination: &Termination,
) -> Result<Finish> {
    let mut race = Race::over(lag.total());
    let deadline = Deadline::after(TURN_PATIENCE);
    loop {
        termination.check()?;
        child.check_running()?;
        let seen = lag.look()?;
        match race.look(watch.elapsed(), seen) {
            Verdict::Finished(finish) => return Ok(finish),
            Verdict::TooShort => {
                bail!("it was done before it could be seen: give it more --records")
            }
            Verdict::GoOn if deadline.passed() => bail!(
                "not done after {} s: {} of {} records committed",
                TURN_PATIENCE.as_secs(),
                seen.committed,
                lag.total()
            ),
            Verdict::GoOn => pause(LOOK_INTERVAL),
        }
    }
}
