//! The reader of results: it sees what is committed, and waits for what is new.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};
use processor_core::log::{Consumer, ConsumerConfig, Log, Polled, TopicPartition};

use crate::child::Child;
use crate::reading::{ends, partitions_of};
use crate::stopwatch::Stopwatch;
use crate::termination::Termination;

const LOOK: Duration = Duration::from_millis(10);

/// Reads a topic from where it ended.
pub(super) struct Observer {
    consumer: Box<dyn Consumer>,
    /// Partitions without a new result.
    waiting: BTreeSet<TopicPartition>,
}

/// When new results were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// The first at all.
    pub first: Duration,
    /// The first of the partition that had to wait longest.
    pub all: Duration,
}

impl Observer {
    /// Behind everything that is in `topic`, committed or not. Once its writer is dead, what it committed lies in front of
    /// that end: it would not have committed what was not there yet.
    pub fn behind(log: &dyn Log, topic: &str) -> Result<Self> {
        let mut consumer = log.consumer(ConsumerConfig::default())?;
        let ends = ends(&*consumer, &partitions_of(log, &[topic])?)?;
        let starts: Vec<_> = ends.into_iter().map(|(p, end)| (p, Some(end))).collect();
        consumer.assign(&starts)?;
        Ok(Self {
            consumer,
            waiting: starts.into_iter().map(|(partition, _)| partition).collect(),
        })
    }

    /// Waits until each partition has a new result.
    pub fn watch(
        mut self,
        child: &mut Child,
        since: Stopwatch,
        patience: Duration,
        termination: &Termination,
    ) -> Result<Seen> {
        let mut first = None;
        loop {
            if let Polled::Records(batches) = self.consumer.poll(LOOK)? {
                let now = since.elapsed();
                for batch in batches {
                    self.waiting.remove(&batch.partition);
                }
                let first = *first.get_or_insert(now);
                if self.waiting.is_empty() {
                    return Ok(Seen { first, all: now });
                }
            }
            termination.check()?;
            child.check_running()?;
            if since.elapsed() > patience {
                bail!(
                    "no new result of {:?} within {} s",
                    self.waiting,
                    patience.as_secs()
                );
            }
        }
    }
}
