//! `kill -9` in the middle, again and again, and results as if nothing had happened.
//!
//! One undisturbed run says what must be committed and how far the log grows meanwhile. The disturbed run is killed when
//! its log reaches seeded random sizes between the first and the last commit, started again each time, and must end with
//! the same multiset of committed records, each exactly once, and the same result files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use advertisex::results::Results;
use anyhow::{Context, Result, bail, ensure};
use attribution::{ATTRIBUTED_CLICKS, ATTRIBUTED_CONVERSIONS};
use events::generator::{GeneratorConfig, generate};
use ingest::{CLICKS, CONVERSIONS, IMPRESSIONS, QUARANTINE};
use processor_core::log::embedded::EmbeddedLog;
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::log::{ConsumerConfig, Isolation, Log, TopicPartition};
use processor_core::testing::simulation::Draw;
use xtask::broker::{Broker, Options};
use xtask::stopwatch::{Stopwatch, wait_for};

use crate::committed::{Multiset, multisets, same};
use crate::group::Group;
use crate::instance::{Instance, Run, verify};

/// Topics whose records do not depend on how tasks interleave, and that are not compacted. The minutes of campaigns and
/// the reports of files are: of them the last record of each key is compared, as results.
pub(crate) const TOPICS: [&str; 6] = [
    IMPRESSIONS,
    CLICKS,
    CONVERSIONS,
    QUARANTINE,
    ATTRIBUTED_CLICKS,
    ATTRIBUTED_CONVERSIONS,
];
const RESULT_FILES: [&str; 5] = [
    "attributed_clicks.jsonl",
    "attributed_conversions.jsonl",
    "campaign_minutes.jsonl",
    "buckets.json",
    "quarantine.jsonl",
];
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// What is killed, how often, over how much input.
#[derive(Debug, Clone)]
pub struct Kills {
    /// The `advertisex` binary.
    pub binary: PathBuf,
    /// Where everything goes.
    pub directory: PathBuf,
    /// Impressions to generate.
    pub impressions: u64,
    /// How often to kill.
    pub kills: u64,
    /// Of the input and of the moments.
    pub seed: u64,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Records of the landing directory.
    pub records: u64,
    /// Processes that were killed while they worked.
    pub kills: u64,
    /// Committed records of each topic, equal in both runs.
    pub committed: Vec<(&'static str, u64)>,
    /// Wall time of the undisturbed run, in ms.
    pub undisturbed_ms: u128,
    /// Wall time of the disturbed run, in ms.
    pub disturbed_ms: u128,
}

impl Kills {
    fn landing(&self) -> Result<(PathBuf, u64)> {
        let landing = self.directory.join("landing");
        let config = GeneratorConfig {
            seed: self.seed,
            impressions: self.impressions,
            ..GeneratorConfig::default()
        };
        let truth = generate(&landing, &config).context("cannot generate the input")?;
        Ok((landing, truth.files.iter().map(|file| file.lines).sum()))
    }

    /// Sizes at which to kill, ascending: between the first and the last twentieth of `total`.
    fn moments(&self, total: u64) -> Vec<u64> {
        let mut draw = Draw::of(self.seed);
        let (first, last) = (total / 20, total * 19 / 20);
        let mut moments: Vec<u64> = (0..self.kills)
            .map(|_| first + draw.below((last - first).max(1)))
            .collect();
        moments.sort_unstable();
        moments
    }

    /// On the embedded log: one process, its state and its log killed together.
    ///
    /// # Errors
    /// When results differ, or a run does not end.
    pub fn on_embedded_log(&self) -> Result<Report> {
        let (landing, records) = self.landing()?;
        let start = |name: &str| {
            let out = self.directory.join(name);
            let args = [
                "demo".as_ref(),
                "--once".as_ref(),
                "--input".as_ref(),
                landing.as_os_str(),
                "--out".as_ref(),
                out.as_os_str(),
            ];
            Instance::start(
                &self.binary,
                args,
                &self.directory.join(format!("{name}.stderr")),
            )
        };
        let watch = Stopwatch::start();
        start("undisturbed")?.wait(PATIENCE)?;
        let undisturbed_ms = watch.elapsed().as_millis();
        let log_of = |name: &str| self.directory.join(name).join("state/log");
        let total = size_of(&log_of("undisturbed"));

        let watch = Stopwatch::start();
        let mut kills = 0;
        let mut instance = start("disturbed")?;
        for moment in self.moments(total) {
            let log = log_of("disturbed");
            let reached = wait_for(PATIENCE, || {
                let over = !instance.runs();
                (over || size_of(&log) >= moment).then_some(!over)
            });
            match reached {
                Some(true) => {}
                Some(false) => break,
                None => bail!("the log does not grow any more:\n{}", instance.said()),
            }
            instance.kill()?;
            kills += 1;
            instance = start("disturbed")?;
        }
        instance.wait(PATIENCE)?;
        let disturbed_ms = watch.elapsed().as_millis();

        for file in RESULT_FILES {
            let read = |run: &str| fs::read(self.directory.join(run).join(file));
            ensure!(
                read("undisturbed")? == read("disturbed")?,
                "{file} differs from the undisturbed run"
            );
        }
        let committed_in = |name: &str| multisets(&EmbeddedLog::open(&log_of(name))?, &TOPICS);
        let expected = committed_in("undisturbed")?;
        same(&expected, &committed_in("disturbed")?)?;
        Ok(Report {
            records,
            kills,
            committed: counted(&expected),
            undisturbed_ms,
            disturbed_ms,
        })
    }

    /// On real Kafka: two instances, either of them killed, each time on its own state directory again. In the end the
    /// platform audits itself.
    ///
    /// # Errors
    /// When results differ, or the audit finds something, or a run does not end.
    pub fn on_kafka(&self) -> Result<Report> {
        let (landing, records) = self.landing()?;
        let undisturbed = Cluster::start(self, "undisturbed", &landing)?;
        let watch = Stopwatch::start();
        let instances = [undisturbed.instance(0)?, undisturbed.instance(1)?];
        undisturbed.wait_until_done()?;
        let undisturbed_ms = watch.elapsed().as_millis();
        for instance in instances {
            instance.stop()?;
        }
        let expected = multisets(&undisturbed.log, &TOPICS)?;
        let results = Results::read(&undisturbed.log)?;
        let total = undisturbed.progress()?;
        drop(undisturbed);

        let disturbed = Cluster::start(self, "disturbed", &landing)?;
        let watch = Stopwatch::start();
        let mut draw = Draw::of(self.seed ^ 1);
        let mut instances = [Some(disturbed.instance(0)?), Some(disturbed.instance(1)?)];
        let mut kills = 0;
        for moment in self.moments(total) {
            let reached = wait_for(PATIENCE, || match disturbed.progress() {
                Ok(progress) => (progress >= moment).then_some(Ok(())),
                Err(error) => Some(Err(error)),
            });
            reached.context("the results do not grow any more")??;
            let victim = draw.index(2);
            if let Some(instance) = instances[victim].take() {
                instance.check_runs()?;
                instance.kill()?;
                kills += 1;
            }
            instances[victim] = Some(disturbed.instance(victim)?);
        }
        disturbed.wait_until_done()?;
        let disturbed_ms = watch.elapsed().as_millis();
        for instance in instances.into_iter().flatten() {
            instance.stop()?;
        }
        same(&expected, &multisets(&disturbed.log, &TOPICS)?)?;
        ensure!(
            results == Results::read(&disturbed.log)?,
            "campaign minutes or reports of files differ from the undisturbed run"
        );
        let verdict = verify(&self.binary, disturbed.broker.bootstrap(), Some(&landing))?;
        ensure!(
            verdict.code == Some(0),
            "the audit of the disturbed run fails: {}",
            verdict.said
        );
        Ok(Report {
            records,
            kills,
            committed: counted(&expected),
            undisturbed_ms,
            disturbed_ms,
        })
    }
}

fn counted(multisets: &[(&'static str, Multiset)]) -> Vec<(&'static str, u64)> {
    let count = |(topic, multiset): &(&'static str, Multiset)| (*topic, multiset.records());
    multisets.iter().map(count).collect()
}

/// A broker of its own for each run, so that topics and groups have the same names.
struct Cluster<'a> {
    kills: &'a Kills,
    name: &'static str,
    landing: &'a Path,
    log: KafkaLog,
    broker: Broker,
}

impl<'a> Cluster<'a> {
    fn start(kills: &'a Kills, name: &'static str, landing: &'a Path) -> Result<Self> {
        let broker = Broker::start(
            kills.directory.join(name).join("kafka"),
            &Options::default(),
        )?;
        Ok(Self {
            kills,
            name,
            landing,
            log: KafkaLog::new(KafkaOptions::new(broker.bootstrap()))?,
            broker,
        })
    }

    fn instance(&self, number: usize) -> Result<Instance> {
        let directory = self.kills.directory.join(self.name);
        let state = directory.join(format!("state-{number}"));
        let name = format!("instance-{number}");
        let run = Run {
            bootstrap: self.broker.bootstrap(),
            landing: self.landing,
            state: &state,
            more: &["--instance", &name, "--static-membership"],
        };
        let said = directory.join(format!("{name}.stderr"));
        Instance::run(&self.kills.binary, &run, &said)
    }

    /// Committed records and markers of the results and of what they are made from.
    fn progress(&self) -> Result<u64> {
        let reader = self.log.consumer(ConsumerConfig::default())?;
        let mut sum = 0;
        for topic in TOPICS {
            for partition in 0..self.log.partitions(topic)?.unwrap_or(0) {
                let partition = TopicPartition::new(topic, partition);
                let end = reader.end_offset(
                    &partition,
                    Isolation::ReadCommitted,
                    Duration::from_secs(30),
                )?;
                sum += u64::try_from(end).unwrap_or(0);
            }
        }
        Ok(sum)
    }

    fn wait_until_done(&self) -> Result<()> {
        Group::new(&self.log, self.landing)?.wait_until_done(PATIENCE, || Ok(()))
    }
}

/// Bytes of all files below `directory`.
fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
