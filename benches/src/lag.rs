//! How far a consumer group has come, seen from outside and in the same way for everybody.
//!
//! The lag of a partition is its end less the group's committed offset. Where source topics do not grow, their ends are
//! taken once. A repartition topic counts up to its physical end, transaction markers included: a contestant is
//! done when it has committed past those too, as both frameworks do when idle.

use std::time::Duration;

use anyhow::Result;
use processor_core::log::kafka::KafkaLog;
use processor_core::log::{
    CommittedOffset, Consumer, ConsumerConfig, ErrorClass, Isolation, Log as _, Offset,
    TopicPartition,
};

use super::reading::{ends, partitions_of};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A group under observation.
pub(crate) struct Lag<'a> {
    log: &'a KafkaLog,
    consumer: Box<dyn Consumer>,
    application_id: String,
    sources: Vec<(TopicPartition, Offset)>,
}

/// What one look showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Records of the source topics that are committed.
    pub committed: u64,
    /// No lag, on internal topics neither.
    pub done: bool,
}

impl<'a> Lag<'a> {
    /// Of the group `application_id`, which reads `topics` from their beginning.
    pub fn of(log: &'a KafkaLog, application_id: &str, topics: &[&str]) -> Result<Self> {
        let consumer = log.consumer(ConsumerConfig {
            group: Some(application_id.to_owned()),
            // Offsets of a pending transaction are not waited for; they do not show either.
            isolation: Isolation::ReadUncommitted,
            ..ConsumerConfig::default()
        })?;
        let sources = ends(&*consumer, &partitions_of(log, topics)?)?;
        Ok(Self {
            log,
            consumer,
            application_id: application_id.to_owned(),
            sources,
        })
    }

    /// Source topics may have grown: takes their ends anew.
    pub fn look_for_more(&mut self) -> Result<()> {
        let partitions: Vec<TopicPartition> = self.sources.iter().map(|(p, _)| p.clone()).collect();
        self.sources = ends(&*self.consumer, &partitions)?;
        Ok(())
    }

    /// Records in the source topics.
    pub fn total(&self) -> u64 {
        records(self.sources.iter().map(|(_, end)| *end))
    }

    pub fn look(&self) -> Result<Seen> {
        let committed = committed_up_to(&self.sources, &self.committed(&self.sources)?);
        let done = committed == self.total() && self.internal_lag()? == 0;
        Ok(Seen { committed, done })
    }

    fn internal_lag(&self) -> Result<u64> {
        let topics = self.log.topics()?;
        let repartition: Vec<&str> = topics
            .iter()
            .map(String::as_str)
            .filter(|topic| is_repartition(topic, &self.application_id))
            .collect();
        let ends = ends(&*self.consumer, &partitions_of(self.log, &repartition)?)?;
        let end = records(ends.iter().map(|(_, end)| *end));
        Ok(end - committed_up_to(&ends, &self.committed(&ends)?))
    }

    fn committed(&self, of: &[(TopicPartition, Offset)]) -> Result<Vec<Option<CommittedOffset>>> {
        let partitions: Vec<TopicPartition> = of.iter().map(|(p, _)| p.clone()).collect();
        match self.consumer.committed(&partitions, TIMEOUT) {
            // The group is being formed.
            Err(error) if error.class == ErrorClass::Retriable => Ok(vec![None; of.len()]),
            result => Ok(result?),
        }
    }
}

/// Both frameworks name repartition topics alike.
fn is_repartition(topic: &str, application_id: &str) -> bool {
    topic
        .strip_prefix(application_id)
        .is_some_and(|rest| rest.starts_with('-') && rest.ends_with("-repartition"))
}

/// Offsets that are committed, none beyond its end.
fn committed_up_to(
    ends: &[(TopicPartition, Offset)],
    committed: &[Option<CommittedOffset>],
) -> u64 {
    let pairs = ends.iter().zip(committed);
    records(pairs.map(|((_, end), committed)| {
        committed
            .as_ref()
            .map_or(0, |committed| committed.offset)
            .min(*end)
    }))
}

fn records(offsets: impl Iterator<Item = Offset>) -> u64 {
    offsets
        .map(|offset| u64::try_from(offset).unwrap_or(0))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: Offset) -> Option<CommittedOffset> {
        let metadata = String::new();
        Some(CommittedOffset { offset, metadata })
    }

    #[test]
    fn a_partition_without_a_committed_offset_counts_as_unread_and_one_beyond_its_end_as_read() {
        let ends: Vec<_> = [10, 20, 30]
            .iter()
            .zip(0..)
            .map(|(end, partition)| (TopicPartition::new("t", partition), *end))
            .collect();
        assert_eq!(committed_up_to(&ends, &[None, at(5), at(30)]), 35);
        assert_eq!(committed_up_to(&ends, &[at(12), at(20), at(30)]), 60);
    }

    #[test]
    fn only_repartition_topics_of_the_application_itself_count() {
        assert!(is_repartition("app-by-campaign-repartition", "app"));
        assert!(!is_repartition("app-2-by-campaign-repartitioned", "app"));
        assert!(!is_repartition("other-by-campaign-repartition", "app"));
        assert!(!is_repartition("app-per-campaign-changelog", "app"));
    }
}
