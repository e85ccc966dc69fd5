//! Topics of the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::executor::block_on;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic as NewKafkaTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::clock::{Clock as _, Deadline, SystemClock};
use crate::log::{Cleanup, Isolation, Log as _, LogError, NewTopic, TopicSettings};

use super::advice::explained;
use super::error::{Call, classified};
use super::{KafkaLog, KafkaOptions, METADATA_TIMEOUT, RETRY_PAUSE, retried};

const TIMEOUT: Duration = Duration::from_secs(30);

fn client(options: &KafkaOptions) -> Result<AdminClient<DefaultClientContext>, LogError> {
    options
        .client_config()
        .create()
        .map_err(|error| classified(Call::Ask, "creating an admin client", &error))
}

/// Creates what is missing, checks what exists, and waits until the cluster's metadata shows it.
pub(super) fn create_topics(log: &KafkaLog, topics: &[NewTopic]) -> Result<(), LogError> {
    let mut missing = Vec::new();
    for topic in topics {
        match log.partitions(&topic.name)? {
            Some(partitions) => check_count(topic, partitions)?,
            None => missing.push(topic),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let settings: Vec<(String, String)> = missing
        .iter()
        .map(|topic| {
            let retention = topic.retention_ms.unwrap_or(-1);
            let lag = topic.min_compaction_lag_ms.unwrap_or(0);
            (retention.to_string(), lag.to_string())
        })
        .collect();
    let wanted: Vec<NewKafkaTopic<'_>> = missing
        .iter()
        .zip(&settings)
        .map(|(topic, (retention, lag))| {
            let replication = TopicReplication::Fixed(topic.replication);
            NewKafkaTopic::new(&topic.name, topic.partitions, replication)
                .set("cleanup.policy", topic.cleanup.policy())
                .set("retention.ms", retention)
                .set("min.compaction.lag.ms", lag)
                .set("message.timestamp.type", "CreateTime")
        })
        .collect();
    let options = AdminOptions::new()
        .operation_timeout(Some(TIMEOUT))
        .request_timeout(Some(TIMEOUT));
    let results = block_on(client(&log.options)?.create_topics(&wanted, &options))
        .map_err(|error| classified(Call::Create, "creating topics", &error))?;
    for result in results {
        match result {
            // Another instance was faster; its partition count is checked below.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                let why = explained(Call::Create, &KafkaError::AdminOp(code));
                return Err(LogError::fatal(format!(
                    "topic '{topic}' cannot be created: {why}"
                )));
            }
        }
    }
    let deadline = Deadline::after(TIMEOUT);
    for topic in missing {
        loop {
            match log.partitions(&topic.name)? {
                Some(partitions) => break check_count(topic, partitions)?,
                None if deadline.passed() => {
                    return Err(LogError::retriable(format!(
                        "topic '{}' was created but the cluster does not show it after {} s",
                        topic.name,
                        TIMEOUT.as_secs()
                    )));
                }
                None => SystemClock.pass(RETRY_PAUSE),
            }
        }
    }
    Ok(())
}

fn check_count(topic: &NewTopic, partitions: i32) -> Result<(), LogError> {
    if partitions == topic.partitions {
        return Ok(());
    }
    Err(LogError::fatal(format!(
        "topic '{}' exists with {partitions} partitions, but {} are needed; delete it, or use another application id",
        topic.name, topic.partitions
    )))
}

pub(super) fn delete_topics(options: &KafkaOptions, topics: &[&str]) -> Result<(), LogError> {
    let admin_options = AdminOptions::new()
        .operation_timeout(Some(TIMEOUT))
        .request_timeout(Some(TIMEOUT));
    let results = block_on(client(options)?.delete_topics(topics, &admin_options))
        .map_err(|error| classified(Call::Delete, "deleting topics", &error))?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((topic, code)) => {
                let why = explained(Call::Delete, &KafkaError::AdminOp(code));
                return Err(LogError::fatal(format!(
                    "topic '{topic}' cannot be deleted: {why}"
                )));
            }
        }
    }
    Ok(())
}

pub(super) fn settings(
    options: &KafkaOptions,
    topics: &[&str],
) -> Result<BTreeMap<String, TopicSettings>, LogError> {
    if topics.is_empty() {
        return Ok(BTreeMap::new());
    }
    let wanted: Vec<ResourceSpecifier<'_>> = topics
        .iter()
        .map(|name| ResourceSpecifier::Topic(name))
        .collect();
    let admin_options = AdminOptions::new().request_timeout(Some(TIMEOUT));
    let answers = block_on(client(options)?.describe_configs(&wanted, &admin_options))
        .map_err(|error| classified(Call::Settings, "asking for the settings of topics", &error))?;
    let mut settings = BTreeMap::new();
    // Answers come in the order of the questions.
    for (topic, answer) in topics.iter().zip(answers) {
        match answer {
            Ok(resource) => {
                if let OwnedResourceSpecifier::Topic(name) = &resource.specifier
                    && let Some(found) = settings_of(&resource)
                {
                    settings.insert(name.clone(), found);
                }
            }
            Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {}
            Err(code) => {
                let error = KafkaError::AdminOp(code);
                let what = format_args!("asking for the settings of '{topic}'");
                return Err(classified(Call::Settings, what, &error));
            }
        }
    }
    Ok(settings)
}

fn settings_of(resource: &ConfigResource) -> Option<TopicSettings> {
    let value = |name: &str| resource.get(name)?.value.as_deref();
    let limit = |name: &str| value(name)?.parse().ok().filter(|limit: &i64| *limit >= 0);
    let policy = value("cleanup.policy")?;
    let has = |name: &str| policy.split(',').any(|one| one.trim() == name);
    Some(TopicSettings {
        cleanup: match (has("compact"), has("delete")) {
            (true, true) => Cleanup::CompactAndDelete,
            (true, false) => Cleanup::Compact,
            (false, _) => Cleanup::Delete,
        },
        retention_ms: limit("retention.ms"),
        retention_bytes: limit("retention.bytes"),
    })
}

pub(super) fn partitions(log: &KafkaLog, topic: &str) -> Result<Option<i32>, LogError> {
    let client = log.queries.client(Isolation::ReadCommitted)?;
    let what = format_args!("asking for the partitions of '{topic}'");
    retried(METADATA_TIMEOUT, |left| {
        let metadata = client
            .fetch_metadata(Some(topic), left)
            .map_err(|error| classified(Call::Ask, what, &error))?;
        let known = metadata.topics().iter().find(|known| known.name() == topic);
        let Some(known) = known else { return Ok(None) };
        match known.error().map(RDKafkaErrorCode::from) {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Ok(None)
            }
            // A topic that was just created may have no leaders yet.
            Some(code) => Err(classified(
                Call::Ask,
                what,
                &KafkaError::MetadataFetch(code),
            )),
            None if known.partitions().is_empty() => Ok(None),
            None => Ok(i32::try_from(known.partitions().len()).ok()),
        }
    })
}

pub(super) fn topics(log: &KafkaLog) -> Result<Vec<String>, LogError> {
    let client = log.queries.client(Isolation::ReadCommitted)?;
    let metadata = client
        .fetch_metadata(None, METADATA_TIMEOUT)
        .map_err(|error| classified(Call::Ask, "asking for the topics", &error))?;
    let mut names: Vec<String> = metadata
        .topics()
        .iter()
        .map(|topic| topic.name().to_owned())
        .filter(|name| !name.starts_with("__"))
        .collect();
    names.sort();
    Ok(names)
}
