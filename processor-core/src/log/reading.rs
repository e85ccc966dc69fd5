//! Reading a topic once, to where it ends now.

use std::time::Duration;

use crate::clock::Deadline;

use super::{
    ConsumerConfig, ConsumerRecord, ErrorClass, Isolation, Log, LogError, Offset, Polled,
    TopicPartition,
};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Hands all committed records of `topic` to `visit`, partition by partition in order of their offsets, up to where the
/// topic ended when its partition was begun. A topic that does not exist has none.
///
/// For views and checks over finished results; a topology is the way to process what goes on coming.
///
/// # Errors
/// When the log does not answer, or what `visit` returns.
pub fn read_to_end(
    log: &dyn Log,
    topic: &str,
    visit: &mut dyn FnMut(ConsumerRecord) -> Result<(), LogError>,
) -> Result<(), LogError> {
    for partition in 0..log.partitions(topic)?.unwrap_or(0) {
        read_partition_to_end(log, &TopicPartition::new(topic, partition), visit)?;
    }
    Ok(())
}

/// Hands all committed records of `partition` to `visit`, in order of their offsets, up to where it ends now.
///
/// # Errors
/// When there is no such partition, the log does not answer or brings nothing for 30 s, or what `visit` returns.
pub fn read_partition_to_end(
    log: &dyn Log,
    partition: &TopicPartition,
    visit: &mut dyn FnMut(ConsumerRecord) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let mut consumer = log.consumer(ConsumerConfig::default())?;
    let begin = consumer.beginning_offset(partition, TIMEOUT)?;
    let end = consumer.end_offset(partition, Isolation::ReadCommitted, TIMEOUT)?;
    consumer.assign(&[(partition.clone(), Some(begin))])?;
    let mut silence = Deadline::after(TIMEOUT);
    let mut come_to = begin;
    loop {
        let position = consumer.position(partition)?.unwrap_or(begin);
        if position >= end {
            return Ok(());
        }
        if position > come_to {
            come_to = position;
            silence = Deadline::after(TIMEOUT);
        } else if silence.passed() {
            return Err(stands_still(partition, position, end));
        }
        if let Polled::Records(batches) = consumer.poll(Duration::from_millis(100))? {
            for record in batches.into_iter().flat_map(|batch| batch.records) {
                visit(record)?;
            }
        }
    }
}

/// Nothing came of a partition for as long as that is waited for.
pub(crate) fn stands_still(partition: &TopicPartition, position: Offset, end: Offset) -> LogError {
    LogError::new(
        ErrorClass::Retriable,
        format!(
            "nothing came of {partition} for {} s, which is read up to offset {position} of {end}; see whether it has a leader",
            TIMEOUT.as_secs()
        ),
    )
}
