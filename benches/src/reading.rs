//! Reading topics from beginning to end.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use processor_core::clock::Deadline;
use processor_core::log::{
    Consumer, ConsumerConfig, ConsumerRecord, Isolation, Log, Offset, Polled, TopicPartition,
};

use super::arena::PATIENCE;

/// All partitions of `topics`.
pub(crate) fn partitions_of(log: &dyn Log, topics: &[&str]) -> Result<Vec<TopicPartition>> {
    let mut partitions = Vec::new();
    for topic in topics {
        let count = log
            .partitions(topic)?
            .with_context(|| format!("topic '{topic}' is gone"))?;
        partitions.extend((0..count).map(|partition| TopicPartition::new(*topic, partition)));
    }
    Ok(partitions)
}

/// The physical end of each partition.
pub(crate) fn ends(
    consumer: &dyn Consumer,
    partitions: &[TopicPartition],
) -> Result<Vec<(TopicPartition, Offset)>> {
    let end = |partition: &TopicPartition| {
        let end = consumer.end_offset(partition, Isolation::ReadUncommitted, PATIENCE)?;
        Ok((partition.clone(), end))
    };
    partitions.iter().map(end).collect()
}

/// Shows every committed record of `topics` to `each`, in order within each partition.
///
/// # Errors
/// When a transaction stays open: its writer has been stopped, so nothing will end it.
pub(crate) fn read_committed(
    log: &dyn Log,
    topics: &[&str],
    mut each: impl FnMut(&ConsumerRecord) -> Result<()>,
) -> Result<()> {
    let mut consumer = log.consumer(ConsumerConfig::default())?;
    // The end proper and not the last stable offset: markers of the last transactions may still be on their way.
    let mut open = ends(&*consumer, &partitions_of(log, topics)?)?;
    let starts: Vec<_> = open.iter().map(|(p, _)| (p.clone(), Some(0))).collect();
    consumer.assign(&starts)?;
    let mut deadline = Deadline::after(PATIENCE);
    loop {
        let mut still_open = Vec::new();
        for (partition, end) in open {
            if consumer.position(&partition)?.unwrap_or_default() < end {
                still_open.push((partition, end));
            }
        }
        open = still_open;
        let Some((partition, end)) = open.first() else {
            return Ok(());
        };
        match consumer.poll(Duration::from_millis(100))? {
            Polled::Records(batches) => {
                deadline = Deadline::after(PATIENCE);
                let mut records = batches.iter().flat_map(|batch| &batch.records);
                records.try_for_each(&mut each)?;
            }
            _ if deadline.passed() => {
                bail!("{partition} cannot be read to its end {end}: a transaction is still open")
            }
            _ => {}
        }
    }
}
