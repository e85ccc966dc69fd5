//! The platform on Kafka: one of any number of instances, until it is told to stop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use attribution::ConversionRules;
use processor_core::clock::{Clock, SystemClock};
use processor_core::log::Log;
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::{Backend, Guarantee, Standby, Streams, StreamsConfig};

use crate::progress::grouped;
use crate::{Config, Part, topics, topology};

const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// A Kafka cluster and what to say to it.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// `host:port`, several separated by commas.
    pub bootstrap: String,
    /// Further properties for librdkafka.
    pub properties: BTreeMap<String, String>,
}

impl Cluster {
    /// Connects, so that a missing broker is noticed at once.
    ///
    /// # Errors
    /// When no broker answers, or a property is refused.
    pub fn connect(&self) -> Result<KafkaLog> {
        let mut options = KafkaOptions::new(&self.bootstrap);
        options.properties.clone_from(&self.properties);
        Ok(KafkaLog::new(options)?)
    }
}

/// What an instance does.
#[derive(Debug, Clone)]
pub struct Run {
    /// Where.
    pub cluster: Cluster,
    /// Which part of the platform.
    pub part: Part,
    /// The landing directory; needed by parts that read it.
    pub input: Option<PathBuf>,
    /// Consumer group, and prefix of internal topics.
    pub application_id: String,
    /// Name of this instance among those of the application; made up and kept in the state directory when there is none.
    pub instance: Option<String>,
    /// Where the stores are; every instance needs its own.
    pub state: PathBuf,
    /// What keeps them there.
    pub backend: Backend,
    /// Joins the group as a static member under the instance's name.
    pub static_membership: bool,
    /// Keeps warm copies of another instance's stores.
    pub standby: Option<Standby>,
    /// Stream threads.
    pub threads: usize,
    /// Memory over all threads, in bytes: [`StreamsConfig::memory_bytes`].
    pub memory_bytes: u64,
    /// Stores that may be emptied where a change of the topology makes their rows useless.
    pub accept_reset: Vec<String>,
    /// Partitions of topics that are created.
    pub partitions: i32,
    /// Copies of topics that are created.
    pub replication: i32,
    /// Time between commits.
    pub commit_interval: Duration,
    /// What a failure may do to results.
    pub guarantee: Guarantee,
    /// How long before a click an impression may be to be credited with it.
    pub click_window: Duration,
    /// How conversions are attributed.
    pub conversions: ConversionRules,
    /// How far below the largest timestamp before it in its feed a record may be.
    pub grace: Duration,
    /// How long the ids of records are remembered, in event time, to notice those that come again.
    pub id_ttl: Duration,
    /// How often the landing directory is looked at.
    pub look_interval: Duration,
}

impl Run {
    /// Runs until `stop` is set, then commits and leaves the group.
    ///
    /// # Errors
    /// When the cluster, the input or the state directory cannot be used, or processing stops.
    pub fn run(&self, stop: &Arc<AtomicBool>) -> Result<()> {
        let landing = self.landing()?;
        let log: Arc<KafkaLog> = Arc::new(self.cluster.connect()?);
        topics::create(&*log, self.partitions, self.replication)?;
        if let Some(landing) = &landing {
            for (path, reason) in ingest::announce(&*log, landing)?.ignored {
                tracing::warn!(%path, "ignored: {reason}");
            }
        }
        let config = Config {
            landing: landing.clone().unwrap_or_default(),
            click_window: self.click_window,
            conversions: self.conversions,
            grace: self.grace,
            id_ttl: self.id_ttl,
            replication: self.replication,
        };
        let topology = topology(self.part, &config, Arc::clone(&log) as Arc<dyn Log>)?;
        let mut streams = Streams::new(
            topology,
            self.streams_config(),
            Arc::clone(&log) as Arc<dyn Log>,
        )?;
        streams.start();
        eprintln!(
            "running {:?} as {} on {}; SIGTERM or Ctrl-C ends",
            self.part, self.application_id, self.cluster.bootstrap
        );

        let clock = SystemClock;
        let mut looked_ms = clock.now_ms();
        let mut said = (clock.now_ms(), 0);
        while !stop.load(Ordering::SeqCst) && !streams.stopped() {
            clock.pass(STOP_INTERVAL);
            let now_ms = clock.now_ms();
            if let Some(landing) = &landing
                && u128::try_from(now_ms - looked_ms)
                    .is_ok_and(|ms| ms >= self.look_interval.as_millis())
            {
                looked_ms = now_ms;
                // A file that is being moved, or a broker that is away for a moment, is not worth the instance.
                if let Err(error) = ingest::announce(&*log, landing) {
                    tracing::warn!(%error, "the landing directory could not be announced; trying again");
                }
            }
            let taken = streams.records_taken();
            if now_ms - said.0 >= 2_000 && taken != said.1 {
                said = (now_ms, taken);
                eprintln!("records processed {}", grouped(taken));
            }
        }
        streams.close()?;
        eprintln!("stopped");
        Ok(())
    }

    fn landing(&self) -> Result<Option<PathBuf>> {
        if !self.part.ingests() {
            return Ok(None);
        }
        let Some(input) = &self.input else {
            bail!("name the landing directory with --input DIR");
        };
        if !input.is_dir() {
            bail!(
                "the landing directory {} does not exist or is no directory",
                input.display()
            );
        }
        let input = input.canonicalize();
        Ok(Some(input.context("cannot read the landing directory")?))
    }

    fn streams_config(&self) -> StreamsConfig {
        let mut config = StreamsConfig::new(&self.application_id)
            .state_dir(&self.state)
            .backend(self.backend);
        config.instance.clone_from(&self.instance);
        config.static_membership = self.static_membership;
        config.standby.clone_from(&self.standby);
        config.threads = self.threads;
        config.memory_bytes = self.memory_bytes;
        config.accept_reset.clone_from(&self.accept_reset);
        config.guarantee = self.guarantee;
        config.commit_interval = self.commit_interval;
        config.replication = self.replication;
        // Events may be years old, and Kafka deletes by their timestamps.
        config.windowed_changelog_additional_retention = None;
        config
    }
}
