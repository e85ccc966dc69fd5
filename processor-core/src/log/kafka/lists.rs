//! Partitions and offsets as librdkafka takes them.

use std::collections::BTreeSet;

use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use crate::log::{CommittedOffset, LogError, Offset, TopicPartition};

use super::error::{Call, classified};

/// Each of the names once, in order, as messages have them.
pub(super) fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: BTreeSet<&str> = names.into_iter().collect();
    Vec::from_iter(names).join(", ")
}

pub(super) fn from_list(list: &TopicPartitionList) -> Vec<TopicPartition> {
    let elements = list.elements();
    elements
        .iter()
        .map(|e| TopicPartition::new(e.topic(), e.partition()))
        .collect()
}

pub(super) fn partitions_list(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(&partition.topic, partition.partition);
    }
    list
}

pub(super) fn offsets_list(
    offsets: &[(TopicPartition, Offset)],
) -> Result<TopicPartitionList, LogError> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (partition, offset) in offsets {
        list.add_partition_offset(
            &partition.topic,
            partition.partition,
            KafkaOffset::Offset(*offset),
        )
        .map_err(|error| {
            classified(
                Call::Ask,
                format_args!("offset {offset} of {partition}"),
                &error,
            )
        })?;
    }
    Ok(list)
}

/// Offsets with their metadata, as librdkafka takes them.
pub(super) fn to_list(
    offsets: &[(TopicPartition, CommittedOffset)],
) -> Result<TopicPartitionList, LogError> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (partition, committed) in offsets {
        let mut element = list.add_partition(&partition.topic, partition.partition);
        element
            .set_offset(KafkaOffset::Offset(committed.offset))
            .map_err(|error| {
                classified(Call::Ask, format_args!("offset of {partition}"), &error)
            })?;
        element.set_metadata(&committed.metadata);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_keep_their_metadata_in_the_clients_list() {
        let offsets = [(
            TopicPartition::new("clicks", 3),
            CommittedOffset {
                offset: 17,
                metadata: "1|task=5".to_owned(),
            },
        )];
        let list = to_list(&offsets).unwrap();
        let element = list.find_partition("clicks", 3).unwrap();
        assert_eq!(element.offset(), KafkaOffset::Offset(17));
        assert_eq!(element.metadata(), "1|task=5");
    }
}
