//! The topics of the platform.

use processor_core::log::{Cleanup, Log, LogError, NewTopic};

/// Creates what is missing. Nothing expires: results are rebuilt from topics, and events may be years old, which Kafka
/// would delete by their timestamps.
///
/// # Errors
/// When a topic exists with another number of partitions, or the log refuses.
pub fn create(log: &dyn Log, partitions: i32, replication: i32) -> Result<(), LogError> {
    let results = [
        (attribution::ATTRIBUTED_CLICKS, false),
        (attribution::ATTRIBUTED_CONVERSIONS, false),
        (campaign_metrics::CAMPAIGN_MINUTES, true),
    ];
    let topics: Vec<NewTopic> = ingest::TOPICS
        .into_iter()
        .chain(results)
        .map(|(name, compacted)| NewTopic {
            cleanup: if compacted {
                Cleanup::Compact
            } else {
                Cleanup::Delete
            },
            replication,
            ..NewTopic::new(name, partitions)
        })
        .collect();
    log.create_topics(&topics)
}
