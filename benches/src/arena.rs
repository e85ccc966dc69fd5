//! Where contests take place: one broker, one directory.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use processor_core::log::Log as _;
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use tempfile::TempDir;
use xtask::broker::{Broker, Options};

/// With anything that takes a moment on a machine that works properly.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Stops the broker and removes the directory when dropped.
pub(crate) struct Arena {
    // NOTE: dropped in this order: clients, broker, its data.
    log: KafkaLog,
    broker: Broker,
    dir: TempDir,
    partitions: i32,
}

impl Arena {
    /// Starts a broker. `partitions` are those of every topic.
    pub fn open(partitions: i32) -> Result<Self> {
        let dir = tempfile::tempdir().context("cannot create a directory")?;
        // Records of the past are due for deletion in changelogs with a retention; the broker would look for them every
        // five minutes, in whoever's turn that is.
        let options = Options::default().set("log.retention.check.interval.ms", "86400000");
        let broker = Broker::start(dir.path().join("broker"), &options)?;
        let log = KafkaLog::new(KafkaOptions::new(broker.bootstrap()))?;
        Ok(Self {
            log,
            broker,
            dir,
            partitions,
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
