//! How far the platform's consumer group has come on Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use ingest::{CLICKS, CONVERSIONS, FILES, FileReport, IMPRESSIONS, OBJECTS};
use processor_core::log::kafka::KafkaLog;
use processor_core::log::{
    Consumer, ConsumerConfig, Isolation, Log, LogError, Offset, TopicPartition, read_to_end,
};
use xtask::stopwatch::wait_for;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The group, seen from outside.
pub struct Group {
    log: KafkaLog,
    consumer: Box<dyn Consumer>,
    landing: PathBuf,
}

/// Where a partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The next offset to read, as committed; 0 if nothing is.
    pub committed: Offset,
    /// Where readers of committed records come to.
    pub end: Offset,
}

impl Group {
    /// The group `advertisex` on `log`, which reads `landing`.
    ///
    /// # Errors
    /// When the log refuses.
    pub fn new(log: &KafkaLog, landing: &Path) -> Result<Self, LogError> {
        Ok(Self {
            consumer: log.consumer(ConsumerConfig {
                group: Some("advertisex".to_owned()),
                ..ConsumerConfig::default()
            })?,
            log: log.clone(),
            landing: landing.to_owned(),
        })
    }

    /// Where each partition of its inputs stands, internal topics included; none while transactions are pending on offsets.
    ///
    /// # Errors
    /// When the log does not answer.
    pub fn standings(
        &self,
        timeout: Duration,
    ) -> Result<Option<BTreeMap<TopicPartition, Standing>>, LogError> {
        let internal = self
            .log
            .topics()?
            .into_iter()
            .filter(|topic| topic.ends_with("-repartition"));
        let inputs = [OBJECTS, IMPRESSIONS, CLICKS, CONVERSIONS].map(str::to_owned);
        let mut partitions = Vec::new();
        for topic in inputs.into_iter().chain(internal) {
            for partition in 0..self.log.partitions(&topic)?.unwrap_or(0) {
                partitions.push(TopicPartition::new(topic.as_str(), partition));
            }
        }
        // A transaction that is pending on an offset is an answer too: there is more to come.
        let Ok(committed) = self.consumer.committed(&partitions, timeout) else {
            return Ok(None);
        };
        let mut standings = BTreeMap::new();
        for (partition, committed) in partitions.into_iter().zip(committed) {
            let end = self
                .consumer
                .end_offset(&partition, Isolation::ReadCommitted, timeout)?;
            let committed = committed.map_or(0, |committed| committed.offset);
            standings.insert(partition, Standing { committed, end });
        }
        Ok(Some(standings))
    }

    /// Records that the group has not committed yet; nothing before there is any input.
    fn lag(&self) -> Result<Option<u64>> {
        let Some(standings) = self.standings(TIMEOUT)? else {
            return Ok(None);
        };
        let any = standings.values().any(|standing| standing.committed > 0);
        let behind =
            |standing: &Standing| u64::try_from(standing.end - standing.committed).unwrap_or(0);
        let lag = standings.values().map(behind).sum();
        // The files that are announced must have been read to their end too.
        if !any || lag > 0 {
            return Ok(any.then_some(lag));
        }
        Ok((self.finished()? == self.listed()?).then_some(0))
    }

    /// Waits until the group has committed everything that there is to read, internal topics included. `meanwhile` is
    /// called again and again.
    ///
    /// # Errors
    /// When that takes longer than `patience`, the log does not answer, or what `meanwhile` returns.
    pub fn wait_until_done(
        &self,
        patience: Duration,
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut quiet = 0;
        let done = wait_for(patience, || {
            if let Err(error) = meanwhile() {
                return Some(Err(error));
            }
            match self.lag() {
                Ok(Some(0)) => {
                    // Several times in a row: what one task commits is what the next one has to read.
                    quiet += 1;
                    (quiet > 20).then_some(Ok(()))
                }
                Ok(_) => {
                    quiet = 0;
                    None
                }
                Err(error) => Some(Err(error)),
            }
        });
        done.with_context(|| {
            let lagging: Vec<String> = self
                .standings(TIMEOUT)
                .ok()
                .flatten()
                .into_iter()
                .flatten()
                .filter(|(_, standing)| standing.committed < standing.end)
                .map(|(partition, s)| format!("{partition} at {} of {}", s.committed, s.end))
                .collect();
            format!(
                "the lag does not become zero within {} s: {}",
                patience.as_secs(),
                lagging.join(", ")
            )
        })?
    }

    /// Files that have been read to their end.
    fn finished(&self) -> Result<usize> {
        let mut finished = BTreeSet::new();
        read_to_end(&self.log, FILES, &mut |record| {
            let report = record.value.as_deref().map(serde_json::from_slice);
            if let Some(Ok(FileReport {
                path,
                finished: true,
                ..
            })) = report
            {
                finished.insert(path);
            }
            Ok(())
        })?;
        Ok(finished.len())
    }

    fn listed(&self) -> Result<usize> {
        Ok(events::landing::list(&self.landing)?.files.len())
    }
}
