//! Faults of every kind against the platform on a real broker, under steady load.
//!
//! The input is generated and first processed undisturbed. Then a broker, a proxy for each instance and the instances start
//! over; the files of the input land one after the other, evenly over the time, while the faults of a seed strike. When all has
//! landed and is processed, the committed records must be those of the undisturbed run, each exactly once.
//!
//! Where results are updated in place (compacted topics) the last one of each key is compared.

pub mod damage;
pub mod fleet;
pub mod proxy;
pub mod recovery;
pub mod schedule;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use advertisex::results::Results;
use anyhow::{Context, Result, ensure};
use events::Feed;
use events::generator::{GeneratorConfig, generate};
use processor_core::log::TopicPartition;
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::testing::simulation::Draw;
use serde::Serialize;
use xtask::broker::{Broker, Options};
use xtask::stopwatch::{Stopwatch, wait_for};

use crate::committed::{Difference, Multiset, multisets};
use crate::group::{Group, Standing};
use crate::instance::{Instance, Run};
use crate::kills::TOPICS;

use fleet::{Door, Fleet};
use recovery::Recoveries;
use schedule::{Counts, Fault, Kind, counts, schedule, shortages};

const INSTANCES: usize = 3;
/// How long the undisturbed run, and what is left after the faults, may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
/// How long instances and looks may go on when everything is processed; what is open then is in the report.
const SETTLED: Duration = Duration::from_secs(120);
/// Between two looks at how far the group is.
const LOOK: Duration = Duration::from_millis(200);
/// A file of each feed lands this often.
const LANDING_MS: u64 = 3_000;

/// What is done to the platform.
#[derive(Debug, Clone)]
pub struct Chaos {
    /// The `advertisex` binary.
    pub binary: PathBuf,
    /// Where everything goes.
    pub directory: PathBuf,
    /// How long there are load and faults, in ms.
    pub total_ms: u64,
    /// A fault begins about this often, in ms.
    pub pace_ms: u64,
    /// Impressions a second.
    pub rate: u64,
    /// Of the input and of the faults.
    pub seed: u64,
}

/// What was seen, as it is printed with `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How often each kind of fault struck; together they are all that did.
    pub faults: Counts,
    /// Records of the landing directory.
    pub records_in: u64,
    /// Committed records of the topics whose records are compared one by one.
    pub records_out: u64,
    /// Records of the undisturbed run that are missing.
    pub lost: u64,
    /// Records that are there more often than in the undisturbed run.
    pub duplicated: u64,
    /// Records that the undisturbed run has not.
    pub wrong: u64,
    /// From the end of a fault until every input partition that was behind then has had a commit: median, in ms.
    pub recovery_ms_p50: u64,
    /// The longest of these.
    pub recovery_ms_max: u64,
    /// What else must not happen: instances that end by themselves, panics, a successor that is not noticed, too few faults.
    #[serde(skip)]
    pub violations: Vec<String>,
    /// A table for people.
    #[serde(skip)]
    pub table: String,
}

impl Report {
    /// Whether nothing happened that must not.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && (self.lost, self.duplicated, self.wrong) == (0, 0, 0)
    }

    /// How a run with this report ends.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self.is_good() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}

/// What a run has committed.
struct Outcome {
    topics: Vec<(&'static str, Multiset)>,
    results: Results,
}

impl Outcome {
    fn read(log: &KafkaLog) -> Result<Self> {
        Ok(Self {
            topics: multisets(log, &TOPICS)?,
            results: Results::read(log)?,
        })
    }

    fn records(&self) -> u64 {
        self.topics
            .iter()
            .map(|(_, records)| records.records())
            .sum()
    }

    /// By topic, and for the results that are updated in place.
    fn differences(&self, expected: &Self) -> Vec<(&'static str, Difference)> {
        let topics = self.topics.iter().zip(&expected.topics);
        let mut differences: Vec<_> = topics
            .map(|((topic, found), (_, expected))| (*topic, found.difference(expected)))
            .collect();
        let minutes = |results: &Results| {
            let minutes = results.campaign_minutes.iter();
            minutes
                .map(|m| ((m.campaign_id.clone(), m.minute_start_ms), m.clone()))
                .collect()
        };
        let files = |results: &Results| {
            let files = results.files.iter();
            files
                .map(|file| (file.path.clone(), file.clone()))
                .collect()
        };
        let (found, expected) = (&self.results, &expected.results);
        differences.push((
            "campaign-minutes",
            by_key(minutes(found), &minutes(expected)),
        ));
        differences.push(("landing-files", by_key(files(found), &files(expected))));
        differences
    }
}

fn by_key<K: Ord, V: PartialEq>(
    mut found: BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
) -> Difference {
    let mut difference = Difference::default();
    for (key, value) in expected {
        match found.remove(key) {
            None => difference.lost += 1,
            Some(other) => difference.wrong += u64::from(other != *value),
        }
    }
    difference.wrong += found.len() as u64;
    difference
}

impl Chaos {
    /// Runs it all; what goes on is said on standard error.
    ///
    /// # Errors
    /// When something that the run itself needs does not work. What the platform does wrong is in the report.
    pub fn run(&self) -> Result<Report> {
        let faults = schedule(self.seed, self.total_ms, self.pace_ms, INSTANCES);
        let too_few = shortages(&counts(&faults), self.total_ms);
        ensure!(
            too_few.is_empty(),
            "a fault every {} ms is too seldom: {}",
            self.pace_ms,
            too_few.join("; ")
        );
        let staging = self.directory.join("staging");
        let (records_in, files) = self.generate(&staging)?;
        eprintln!(
            "seed {}: {records_in} records in {} files over {} s, {} faults",
            self.seed,
            files.len(),
            self.total_ms / 1_000,
            faults.len()
        );
        let watch = Stopwatch::start();
        let expected = self.undisturbed(&staging).context("the undisturbed run")?;
        eprintln!(
            "undisturbed: {} records committed in {:.1} s",
            expected.records(),
            watch.elapsed().as_secs_f64()
        );
        let landing = self.directory.join("landing");
        let mut disturbed = Disturbed::start(self, &landing, faults)?;
        disturbed.load(&staging, &landing, files)?;
        let found = disturbed.drain(&landing)?;
        Ok(disturbed.report(records_in, &found, &expected))
    }

    /// Generates the input and says which files are to land when, in ms; those that come with the start are at 0.
    fn generate(&self, staging: &Path) -> Result<(u64, VecDeque<(u64, String)>)> {
        let steps = (self.total_ms / LANDING_MS).max(1);
        let config = GeneratorConfig {
            seed: self.seed,
            impressions: self.rate * self.total_ms / 1_000,
            files_per_feed: steps,
            ..GeneratorConfig::default()
        };
        let truth = generate(staging, &config).context("cannot generate the input")?;
        let listing = events::landing::list(staging)?;
        let mut files = Vec::new();
        for feed in Feed::ALL {
            let of_feed: Vec<_> = listing.files.iter().filter(|f| f.feed == feed).collect();
            let count = of_feed.len() as u64;
            for (number, file) in of_feed.into_iter().enumerate() {
                files.push((number as u64 * self.total_ms / count, file.path.clone()));
            }
        }
        files.sort();
        let records = truth.files.iter().map(|file| file.lines).sum();
        Ok((records, files.into()))
    }

    /// One instance, everything there from the start.
    fn undisturbed(&self, staging: &Path) -> Result<Outcome> {
        let directory = self.directory.join("undisturbed");
        let broker = Broker::start(directory.join("kafka"), &Options::default())?;
        let log = KafkaLog::new(KafkaOptions::new(broker.bootstrap()))?;
        let state = directory.join("state");
        let run = Run {
            bootstrap: broker.bootstrap(),
            landing: staging,
            state: &state,
            more: &[],
        };
        let instance = Instance::run(&self.binary, &run, &directory.join("instance.stderr"))?;
        Group::new(&log, staging)?.wait_until_done(PATIENCE, || instance.check_runs())?;
        instance.stop()?;
        Outcome::read(&log)
    }
}

/// The broker, which is on its way back at times.
enum BrokerState {
    Up(Box<Broker>),
    Starting(JoinHandle<Result<Box<Broker>>>),
    /// Between the two, and after a failure.
    Down,
}

/// The run with faults.
struct Disturbed {
    watch: Stopwatch,
    log: KafkaLog,
    broker: BrokerState,
    fleet: Fleet,
    /// By their begin. On a slow machine one waits until the one before it at the same place is over, and those behind it
    /// wait with it.
    coming: VecDeque<Fault>,
    /// What goes on, and until when, in ms.
    active: Vec<(u64, Fault)>,
    total_ms: u64,
    draw: Draw,
    injected: Counts,
    /// Faults whose turn came when there was no load any more.
    too_late: usize,
    recoveries: Recoveries,
    looks: Looks,
}

impl Disturbed {
    fn start(chaos: &Chaos, landing: &Path, faults: Vec<Fault>) -> Result<Self> {
        let directory = chaos.directory.join("disturbed");
        fs::create_dir_all(landing).context("cannot make the landing directory")?;
        let doors: Result<Vec<Door>> = (0..INSTANCES).map(|_| Door::free()).collect();
        let doors = doors?;
        let options =
            doors
                .iter()
                .enumerate()
                .fold(Options::default(), |options, (number, door)| {
                    options.listener(&format!("INSTANCE{number}"), door.listener, door.proxy)
                });
        let broker = Broker::start(directory.join("kafka"), &options)?;
        let log = KafkaLog::new(KafkaOptions::new(broker.bootstrap()))?;
        Ok(Self {
            watch: Stopwatch::start(),
            looks: Looks::start(&log, landing)?,
            log,
            broker: BrokerState::Up(Box::new(broker)),
            fleet: Fleet::new(&chaos.binary, &directory, landing, &doors)?,
            coming: faults.into(),
            active: Vec::new(),
            total_ms: chaos.total_ms,
            draw: Draw::of(chaos.seed ^ 1),
            injected: counts(&[]),
            too_late: 0,
            recoveries: Recoveries::default(),
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.watch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Has the files land and the faults strike, each at its time, until there are no more.
    fn load(
        &mut self,
        staging: &Path,
        landing: &Path,
        mut files: VecDeque<(u64, String)>,
    ) -> Result<()> {
        let dims = landing.join("dims");
        fs::rename(staging.join("dims"), &dims).context("cannot move the dimensions")?;
        for feed in Feed::ALL {
            fs::create_dir_all(landing.join(feed.name())).context("cannot make a feed")?;
        }
        self.watch = Stopwatch::start();
        self.looks.restart(self.watch);
        let over = wait_for(Duration::MAX, || {
            let now_ms = self.now_ms();
            while files.front().is_some_and(|(at_ms, _)| *at_ms <= now_ms) {
                let (_, path) = files.pop_front().expect("looked at above");
                if let Err(error) = fs::rename(staging.join(&path), landing.join(&path)) {
                    return Some(Err(error).context("cannot land a file"));
                }
            }
            if let Err(error) = self.turn(now_ms) {
                return Some(Err(error));
            }
            let busy = matches!(self.broker, BrokerState::Starting(_)) || !self.active.is_empty();
            (files.is_empty() && self.coming.is_empty() && !busy).then_some(Ok(()))
        });
        over.expect("it waits for ever")
    }

    /// Does what is due.
    fn turn(&mut self, now_ms: u64) -> Result<()> {
        self.fleet.supervise(now_ms)?;
        for look in self.looks.answers.try_iter() {
            let Look {
                asked_ms,
                answered_ms,
                standings,
            } = look;
            self.recoveries.look(asked_ms, answered_ms, &standings);
        }
        if let BrokerState::Starting(start) = &self.broker
            && start.is_finished()
            && let BrokerState::Starting(start) =
                std::mem::replace(&mut self.broker, BrokerState::Down)
        {
            let broker = start
                .join()
                .map_err(|_| anyhow::anyhow!("the broker's restart panicked"))?;
            self.broker = BrokerState::Up(broker.context("the broker does not come back")?);
            self.recoveries.over(Kind::Broker, now_ms);
        }
        let over: Vec<Fault> = self
            .active
            .extract_if(.., |(until_ms, _)| *until_ms <= now_ms)
            .map(|(_, fault)| fault)
            .collect();
        for fault in over {
            self.end(&fault, now_ms)?;
        }
        // What is late because the machine is slow must not strike when there is no load any more.
        if now_ms >= self.total_ms {
            self.too_late += self.coming.len();
            self.coming.clear();
        }
        while let Some(fault) = self.coming.front().copied()
            && fault.begin_ms <= now_ms
            && !self.is_busy(&fault)
        {
            self.coming.pop_front();
            let kind = self.begin(&fault, now_ms)?;
            let until_ms = now_ms + fault.end_ms - fault.begin_ms;
            self.active.push((until_ms, Fault { kind, ..fault }));
        }
        Ok(())
    }

    /// Whether the place where `fault` is to strike has one already.
    fn is_busy(&self, fault: &Fault) -> bool {
        let restarts = !matches!(self.broker, BrokerState::Up(_));
        self.active.iter().any(|(_, it)| it.victim == fault.victim)
            || (fault.kind == Kind::Broker && restarts)
    }

    /// Begins a fault, and counts it as what it came to.
    fn begin(&mut self, fault: &Fault, now_ms: u64) -> Result<Kind> {
        let kind = match (fault.kind, &mut self.broker) {
            (Kind::Broker, BrokerState::Up(broker)) => {
                broker.kill()?;
                Kind::Broker
            }
            _ => self.fleet.begin(fault, &mut self.draw)?,
        };
        *self.injected.entry(kind.name()).or_default() += 1;
        eprintln!(
            "{:>7.1} s  {} of {} for {} s",
            seconds(now_ms),
            kind.name(),
            match kind {
                Kind::Broker => "the broker".to_owned(),
                _ => format!("instance {}", fault.victim),
            },
            (fault.end_ms - fault.begin_ms) / 1_000
        );
        Ok(kind)
    }

    fn end(&mut self, fault: &Fault, now_ms: u64) -> Result<()> {
        if fault.kind != Kind::Broker {
            self.fleet.end(fault, now_ms)?;
            self.recoveries.over(fault.kind, now_ms);
            return Ok(());
        }
        self.broker = match std::mem::replace(&mut self.broker, BrokerState::Down) {
            BrokerState::Up(mut broker) => BrokerState::Starting(std::thread::spawn(move || {
                broker.restart()?;
                Ok(broker)
            })),
            other => other,
        };
        Ok(())
    }

    /// Waits until everything is processed, ends the instances in order, and reads what is committed.
    fn drain(&mut self, landing: &Path) -> Result<Outcome> {
        eprintln!("{:>7.1} s  the load is over", seconds(self.now_ms()));
        let group = Group::new(&self.log, landing)?;
        group.wait_until_done(PATIENCE, || self.turn(self.now_ms()))?;
        eprintln!("{:>7.1} s  everything is processed", seconds(self.now_ms()));
        // An instance whose name was taken may still have to find out, and the last look at the group be under way.
        wait_for(SETTLED, || match self.turn(self.now_ms()) {
            Err(error) => Some(Err(error)),
            Ok(()) => (!self.fleet.has_twins() && self.recoveries.open() == 0).then_some(Ok(())),
        })
        .unwrap_or(Ok(()))?;
        self.fleet.stop();
        Outcome::read(&self.log)
    }

    fn report(mut self, records_in: u64, found: &Outcome, expected: &Outcome) -> Report {
        let mut total = Difference::default();
        let mut table = String::new();
        let mut line = |text: String| table = format!("{table}{text}\n");
        line(format!(
            "{:<24}{:>10}{:>12}{:>12}",
            "fault", "times", "p50 ms", "max ms"
        ));
        for kind in Kind::ALL {
            let times = self.injected[kind.name()];
            let (p50, max) = self.recoveries.summary(Some(kind)).unwrap_or_default();
            line(format!("{:<24}{times:>10}{p50:>12}{max:>12}", kind.name()));
        }
        line(format!(
            "{} starts, {} of them before the broker could be reached; {} endings on a full disk",
            self.fleet.starts(),
            self.fleet.failed_starts,
            self.fleet.disk_endings
        ));
        for (topic, difference) in found.differences(expected) {
            total += difference;
            line(format!("{topic:<24}{difference}"));
        }
        if self.recoveries.open() > 0 {
            self.fleet.violations.push(format!(
                "after {} faults a partition had no commit any more",
                self.recoveries.open()
            ));
        }
        if self.too_late > 0 {
            line(format!(
                "{} faults came too late for the load",
                self.too_late
            ));
        }
        let too_few = shortages(&self.injected, self.total_ms);
        self.fleet.violations.extend(too_few);
        let (recovery_ms_p50, recovery_ms_max) = self.recoveries.summary(None).unwrap_or_default();
        Report {
            faults: self.injected,
            records_in,
            records_out: found.records(),
            lost: total.lost,
            duplicated: total.duplicated,
            wrong: total.wrong,
            recovery_ms_p50,
            recovery_ms_max,
            violations: self.fleet.violations,
            table,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// How far the group was at a moment.
struct Look {
    asked_ms: u64,
    answered_ms: u64,
    standings: BTreeMap<TopicPartition, Standing>,
}

/// Looks at the group again and again, on a thread of its own: it waits while the broker is away.
struct Looks {
    answers: Receiver<Look>,
    stop: Arc<AtomicBool>,
    begin: std::sync::mpsc::Sender<Stopwatch>,
}

impl Looks {
    fn start(log: &KafkaLog, landing: &Path) -> Result<Self> {
        let group = Group::new(log, landing)?;
        let (send, answers) = channel();
        let (begin, begun) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            let Ok(watch) = begun.recv() else { return };
            let watch: Stopwatch = watch;
            let now_ms = || u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
            while !stopped.load(Ordering::SeqCst) {
                let asked_ms = now_ms();
                if let Ok(Some(standings)) = group.standings(Duration::from_secs(5)) {
                    let look = Look {
                        asked_ms,
                        answered_ms: now_ms(),
                        standings,
                    };
                    if send.send(look).is_err() {
                        return;
                    }
                }
                wait_for::<()>(LOOK, || None);
            }
        });
        Ok(Self {
            answers,
            stop,
            begin,
        })
    }

    /// Times count from `watch`.
    fn restart(&self, watch: Stopwatch) {
        let _ = self.begin.send(watch);
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn report() -> Report {
        Report {
            faults: counts(&[]),
            records_in: 10,
            records_out: 12,
            lost: 0,
            duplicated: 0,
            wrong: 0,
            recovery_ms_p50: 4,
            recovery_ms_max: 5,
            violations: Vec::new(),
            table: String::new(),
        }
    }

    #[test]
    fn the_json_report_has_these_keys_and_a_number_for_each_kind_of_fault() {
        let kinds: serde_json::Map<String, Value> = Kind::ALL
            .iter()
            .map(|kind| (kind.name().to_owned(), 0.into()))
            .collect();
        let expected = json!({
            "faults": kinds,
            "records_in": 10,
            "records_out": 12,
            "lost": 0,
            "duplicated": 0,
            "wrong": 0,
            "recovery_ms_p50": 4,
            "recovery_ms_max": 5,
        });
        assert_eq!(serde_json::to_value(report()).unwrap(), expected);
    }

    #[test]
    fn a_record_that_is_not_as_it_should_be_or_a_violation_fails_the_run() {
        assert_eq!(report().exit_code(), ExitCode::SUCCESS);
        let bad: [fn(&mut Report); 4] = [
            |report| report.lost = 1,
            |report| report.duplicated = 1,
            |report| report.wrong = 1,
            |report| report.violations.push("an instance ended".to_owned()),
        ];
        for make_bad in bad {
            let mut report = report();
            make_bad(&mut report);
            assert_eq!(report.exit_code(), ExitCode::FAILURE, "{report:?}");
        }
    }
}
