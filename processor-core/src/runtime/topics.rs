//! The topics of a running application: counts of what exists, and the internal ones that it makes.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::clock::millis;
use crate::config::StreamsConfig;
use crate::error::{Fault, Result};
use crate::log::{Cleanup, Log, NewTopic, TopicSettings};
use crate::plan::{APPLICATION, TopologyPlan};
use crate::task::DeadLetterTopic;
use crate::topology::{PartitionPlan, Plan, StoreId, StoreKind, Topology, plan_partitions};

use super::StreamsError;
use super::kept_plan::plan_topic;
use super::topic_checks::{self, Objection};

/// Partition counts of every topic a task may read or write.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopicPartitions {
    counts: HashMap<String, i32>,
    upstream_tasks: BTreeMap<String, i32>,
    dead_letters: Option<DeadLetterTopic>,
}

impl TopicPartitions {
    /// Partitions of `topic`.
    pub(crate) fn of(&self, topic: &str) -> Result<i32> {
        self.counts.get(topic).copied().ok_or_else(|| {
            Fault::user(
                "topology",
                format!("topic '{topic}' does not exist; create it first"),
            )
        })
    }

    /// Tasks that write `topic`, if it is a repartition topic.
    pub(crate) fn upstream_tasks(&self, topic: &str) -> Option<i32> {
        self.upstream_tasks.get(topic).copied()
    }

    /// Where dead letters go, if a handler wants them.
    pub(crate) fn dead_letters(&self) -> Option<&DeadLetterTopic> {
        self.dead_letters.as_ref()
    }
}

/// Name of the changelog of store `name`.
pub(crate) fn changelog(application_id: &str, name: &str) -> String {
    format!("{application_id}-{name}-changelog")
}

/// The topic that `store` is rebuilt from: its changelog, or the topic that its table reads.
pub(crate) fn changelog_of(plan: &Plan, application_id: &str, store: StoreId) -> String {
    match plan.read_back.get(&store) {
        Some(table) => table.topic.clone(),
        None => changelog(application_id, &plan.stores[store.0].name),
    }
}

/// What the log has, and what is to be made on it.
pub(crate) struct Prepared {
    dead_letters: Option<DeadLetterTopic>,
    /// Of topics that are there.
    counts: BTreeMap<String, i32>,
    plan: PartitionPlan,
}

/// Asks the log for topics, and decides how many partitions the internal ones have. One that is there keeps its number,
/// unless the user asks for another.
pub(crate) fn prepare(
    topology: &Topology,
    config: &StreamsConfig,
    log: &dyn Log,
) -> std::result::Result<Prepared, StreamsError> {
    let dead_letters = dead_letter_topic(topology, config, log)?;
    let mut counts = BTreeMap::new();
    for topic in topology
        .input_topics()
        .into_iter()
        .chain(topology.output_topics())
    {
        if let Some(partitions) = log.partitions(&topic)? {
            counts.insert(topic, partitions);
        } else if !topology.sources_of_tasks().contains(&topic) {
            return Err(StreamsError::MissingTopic { topic });
        }
    }
    for source in &topology.plan.sources {
        if source.topic.is_internal() {
            let name = source.topic.resolve(&config.application_id);
            if let Some(partitions) = log.partitions(&name)? {
                counts.insert(name, partitions);
            }
        }
    }
    let plan = plan_partitions(topology, &config.application_id, &counts)?;
    check_tables_read_back(topology, config, log)?;
    Ok(Prepared {
        dead_letters,
        counts,
        plan,
    })
}

impl Prepared {
    /// The topology's plan, with the partitions that topics have or will have.
    pub(crate) fn plan_of(&self, topology: &Topology, config: &StreamsConfig) -> TopologyPlan {
        let mut plan = topology.plan_with(config.windowed_changelog_additional_retention);
        for topic in &mut plan.topics {
            let name = topic.name.replace(APPLICATION, &config.application_id);
            let planned = self.plan.topics.get(&name);
            topic.partitions = planned.or_else(|| self.counts.get(&name)).copied();
        }
        plan
    }

    /// Makes the internal topics that are not there.
    pub(crate) fn make_topics(
        self,
        topology: &Topology,
        config: &StreamsConfig,
        log: &dyn Log,
    ) -> std::result::Result<TopicPartitions, StreamsError> {
        let internal = internal_topics(topology, config, &self.plan);
        check_settings(topology, config, &internal, log)?;
        log.create_topics(&internal)?;
        let PartitionPlan {
            topics,
            upstream_tasks,
            ..
        } = self.plan;
        let counts = self.counts.into_iter().chain(topics).collect();
        Ok(TopicPartitions {
            counts,
            upstream_tasks,
            dead_letters: self.dead_letters,
        })
    }
}

/// Refuses internal topics that lose what they must keep. Where the log does not tell, nothing is known against them.
fn check_settings(
    topology: &Topology,
    config: &StreamsConfig,
    internal: &[NewTopic],
    log: &dyn Log,
) -> std::result::Result<(), StreamsError> {
    let names: Vec<&str> = internal.iter().map(|topic| &*topic.name).collect();
    let found = match log.settings(&names) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "the settings of internal topics are not known, and not checked");
            return Ok(());
        }
    };
    let kind_of = |topic: &str| {
        let mut stores = topology.plan.stores.iter();
        stores
            .find(|store| changelog(&config.application_id, &store.name) == *topic)
            .map(|store| store.kind)
    };
    let repartition = |topic: &str| {
        let mut sources = topology.plan.sources.iter();
        sources.any(|source| {
            source.topic.is_internal() && source.topic.resolve(&config.application_id) == *topic
        })
    };
    for topic in internal {
        let Some(found) = found.get(&topic.name) else {
            continue;
        };
        let wanted = TopicSettings {
            cleanup: topic.cleanup,
            retention_ms: topic.retention_ms,
            retention_bytes: None,
        };
        let objection = match kind_of(&topic.name) {
            Some(kind) => topic_checks::of_changelog(kind, &wanted, found),
            None if repartition(&topic.name) => topic_checks::of_repartition(found),
            None => None,
        };
        match objection {
            Some(Objection::Refuse(reason)) => {
                let topic = topic.name.clone();
                return Err(StreamsError::UnfitTopic { topic, reason });
            }
            Some(Objection::Warn(reason)) => {
                tracing::warn!(topic = %topic.name, "the topic's {reason}");
            }
            None => {}
        }
    }
    Ok(())
}

/// The topic for dead letters, where a handler wants one.
fn dead_letter_topic(
    topology: &Topology,
    config: &StreamsConfig,
    log: &dyn Log,
) -> std::result::Result<Option<DeadLetterTopic>, StreamsError> {
    if !config.wants_dead_letters() {
        return Ok(None);
    }
    let Some(topic) = config.dead_letter_topic.clone() else {
        return Err(StreamsError::NoDeadLetterTopic);
    };
    if topology.input_topics().contains(&topic) {
        return Err(StreamsError::DeadLettersToInput { topic });
    }
    match log.partitions(&topic)? {
        Some(partitions) => Ok(Some(DeadLetterTopic {
            name: topic.into(),
            partitions,
        })),
        None => Err(StreamsError::MissingTopic { topic }),
    }
}

/// Whether the tables that are rebuilt from their topics can be.
fn check_tables_read_back(
    topology: &Topology,
    config: &StreamsConfig,
    log: &dyn Log,
) -> std::result::Result<(), StreamsError> {
    for (store, table) in &topology.plan.read_back {
        let cannot = |reason: String| StreamsError::TableNotInTopic {
            store: topology.plan.stores[store.0].name.clone(),
            topic: table.topic.clone(),
            reason,
        };
        if let Some(handler) = config.passes_over_processed() {
            return Err(cannot(format!(
                "`{handler}` passes over records that fail, which the topic has and the table has not"
            )));
        }
        let settings = log.settings(&[&table.topic])?;
        if let Some(settings) = settings.get(&table.topic)
            && settings.cleanup != Cleanup::Compact
        {
            return Err(cannot(format!(
                "its cleanup policy is '{}', so rows would be missing in the end; make it 'compact'",
                settings.cleanup.policy()
            )));
        }
    }
    Ok(())
}

fn internal_topics(
    topology: &Topology,
    config: &StreamsConfig,
    plan: &PartitionPlan,
) -> Vec<NewTopic> {
    let application_id = &config.application_id;
    let mut topics = vec![NewTopic {
        replication: config.replication,
        ..NewTopic::new(plan_topic(application_id), 1).cleanup(Cleanup::Compact)
    }];
    for source in &topology.plan.sources {
        if source.topic.is_internal() {
            let name = source.topic.resolve(application_id);
            let partitions = plan.topics[&name];
            topics.push(NewTopic {
                replication: config.replication,
                ..NewTopic::new(name, partitions)
            });
        }
    }
    for (number, subtopology) in topology.subtopologies.iter().enumerate() {
        for store in &subtopology.stores {
            if topology.plan.read_back.contains_key(store) {
                continue;
            }
            let spec = &topology.plan.stores[store.0];
            let name = changelog(application_id, &spec.name);
            let retention = config.windowed_changelog_additional_retention;
            let (cleanup, retention_ms) = changelog_settings(spec.kind, retention);
            topics.push(NewTopic {
                replication: config.replication,
                retention_ms,
                min_compaction_lag_ms: changelog_lag(spec.kind, retention),
                ..NewTopic::new(name, plan.tasks[number]).cleanup(cleanup)
            });
        }
    }
    topics
}

/// How long compaction leaves the records of a changelog alone, as Kafka Streams sets it.
fn changelog_lag(kind: StoreKind, additional: Option<Duration>) -> Option<i64> {
    let additional = additional.map_or(0, millis);
    match kind {
        StoreKind::Versioned { history_ms } => Some(history_ms.saturating_add(additional)),
        _ => None,
    }
}

/// Cleanup policy and retention of a changelog, as Kafka Streams sets them.
pub(crate) fn changelog_settings(
    kind: StoreKind,
    additional: Option<Duration>,
) -> (Cleanup, Option<i64>) {
    let retention = || {
        let additional = millis(additional?);
        Some(kind.retention_ms()?.saturating_add(additional))
    };
    match (kind, retention()) {
        (StoreKind::KeyValue | StoreKind::Expiring | StoreKind::Versioned { .. }, _) => {
            (Cleanup::Compact, None)
        }
        (StoreKind::Window { .. } | StoreKind::Session { .. }, Some(ms)) => {
            (Cleanup::CompactAndDelete, Some(ms))
        }
        (StoreKind::Window { .. } | StoreKind::Session { .. }, None) => (Cleanup::Compact, None),
        (StoreKind::Join { .. }, retention_ms) => (Cleanup::Delete, retention_ms),
    }
}
