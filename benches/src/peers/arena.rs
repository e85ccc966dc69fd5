//! Where the contest takes place: one broker, one data set, one directory.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use processor_core::log::Log as _;
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use tempfile::TempDir;
use xtask::broker::{Broker, Options};

use super::arguments::BenchArguments;
use super::dataset;
use super::stopwatch::Stopwatch;

/// With anything that takes a moment on a machine that works properly.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Stops the broker and removes the directory when dropped.
pub(super) struct Arena {
    // NOTE: dropped in this order: clients, broker, its data.
    log: KafkaLog,
    broker: Broker,
    dir: TempDir,
    partitions: i32,
}

impl Arena {
    /// Starts a broker and fills the input topics.
    pub fn open(arguments: &BenchArguments) -> Result<Self> {
        let dir = tempfile::tempdir().context("cannot create a directory")?;
        // Records of the past are due for deletion in changelogs with a retention; the broker would look for them every
        // five minutes, in whoever's turn that is.
        let options = Options::default().set("log.retention.check.interval.ms", "86400000");
        let broker = Broker::start(dir.path().join("broker"), &options)?;
        let log = KafkaLog::new(KafkaOptions::new(broker.bootstrap()))?;
        let watch = Stopwatch::start();
        let events = dataset::events(arguments.seed, arguments.records);
        let written = dataset::load(&log, arguments.partitions, events)?;
        eprintln!(
            "broker at {}; {written} records loaded in {:.1} s (seed {})",
            broker.bootstrap(),
            watch.elapsed().as_secs_f64(),
            arguments.seed
        );
        Ok(Self {
            log,
            broker,
            dir,
            partitions: arguments.partitions,
        })
    }

    pub fn log(&self) -> &KafkaLog {
        &self.log
    }

    pub fn bootstrap(&self) -> &str {
        self.broker.bootstrap()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Deletes the topics of a turn: those that begin with its application id.
    pub fn clear(&self, application_id: &str) -> Result<()> {
        let topics = self.log.topics()?;
        let own: Vec<&str> = topics
            .iter()
            .map(String::as_str)
            .filter(|topic| topic.starts_with(application_id))
            .collect();
        Ok(self.log.delete_topics(&own)?)
    }
}
