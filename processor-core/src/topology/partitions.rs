//! How many partitions everything has, decided from what the log says.
//!
//! A sub-topology has as many tasks as its widest source has partitions. A repartition topic takes the number the user
//! asked for, else what its co-partitioned partners have, else the number of tasks that write it. The two topics of a
//! foreign-key join have as many as the table that reads them.

use std::collections::BTreeMap;

use super::{NodeId, NodeKind, Topic, Topology, TopologyError};

/// Partition counts by topic on the log, and task counts by sub-topology.
#[derive(Debug, Clone, Default)]
pub(crate) struct PartitionPlan {
    /// Every source topic, repartition topics included, by its name on the log.
    pub topics: BTreeMap<String, i32>,
    /// Tasks of each sub-topology.
    pub tasks: Vec<i32>,
    /// Tasks that write each repartition topic, by its name on the log.
    pub upstream_tasks: BTreeMap<String, i32>,
}

/// Decides partition counts. `existing` gives the partitions of topics that are there: those of the user, and internal
/// ones, which keep theirs.
pub(crate) fn plan_partitions(
    topology: &Topology,
    application_id: &str,
    existing: &BTreeMap<String, i32>,
) -> Result<PartitionPlan, TopologyError> {
    let plan = &topology.plan;
    let mut counts: BTreeMap<Topic, i32> = BTreeMap::new();
    let mut problems = Vec::new();
    for source in &plan.sources {
        if let Topic::External(name) = &source.topic {
            match existing.get(name) {
                Some(count) => {
                    counts.insert(source.topic.clone(), *count);
                }
                None => problems.push(format!(
                    "topic '{name}' does not exist; create it before the application starts"
                )),
            }
        }
    }
    let internal = plan.sources.iter().map(|source| &source.topic);
    let internal = internal.filter(|topic| topic.is_internal());
    counts.extend(internal.filter_map(|topic| {
        let partitions = existing.get(&topic.resolve(application_id))?;
        Some((topic.clone(), *partitions))
    }));
    counts.extend(plan.enforced_partitions.iter().cloned());

    // The group spreads partitions topic by topic, so a task finds all of its inputs on one member only if all topics of
    // its sub-topology have the same number of partitions.
    let tasks_inputs = topology
        .subtopologies
        .iter()
        .enumerate()
        .map(|(number, subtopology)| {
            let topics = subtopology
                .sources
                .iter()
                .map(|&s| plan.sources[s].topic.clone())
                .collect();
            (format!("sub-topology {number}"), topics)
        });
    let groups: Vec<(String, Vec<Topic>)> = plan
        .copartitioned
        .iter()
        .map(|(operator, nodes)| {
            (
                format!("operator '{operator}'"),
                source_topics_above(topology, nodes),
            )
        })
        .chain(tasks_inputs)
        .collect();

    // Each round settles at least one more repartition topic, since sub-topologies over repartition topics form no cycle.
    let unsettled = |counts: &BTreeMap<Topic, i32>| {
        plan.sources
            .iter()
            .filter(|s| !counts.contains_key(&s.topic))
            .count()
    };
    while problems.is_empty() && unsettled(&counts) > 0 {
        let before = unsettled(&counts);
        for source in &plan.sources {
            if counts.contains_key(&source.topic) {
                continue;
            }
            let partners: Vec<&Topic> = groups
                .iter()
                .filter(|(_, topics)| topics.contains(&source.topic))
                .flat_map(|(_, topics)| topics)
                .collect();
            let external_partner = partners
                .iter()
                .filter(|topic| matches!(topic, Topic::External(_)))
                .find_map(|topic| counts.get(topic).copied());
            let writers_known = |topic: &Topic| -> Option<i32> {
                let writer = topology.writer_of(topic)?;
                let sources = &topology.subtopologies[writer].sources;
                let topics = sources.iter().map(|&s| &plan.sources[s].topic);
                let counts: Option<Vec<i32>> = topics
                    .filter(|topic| !topic.follows())
                    .map(|topic| counts.get(topic).copied())
                    .collect();
                counts?.into_iter().max()
            };
            let widest = || -> Option<i32> {
                let mut topics = partners.clone();
                topics.push(&source.topic);
                let known: Option<Vec<i32>> = topics
                    .into_iter()
                    .filter(|topic| !topic.follows())
                    .map(|topic| counts.get(topic).copied().or_else(|| writers_known(topic)))
                    .collect();
                known?.into_iter().max()
            };
            if let Some(count) = external_partner.or_else(widest) {
                counts.insert(source.topic.clone(), count);
            }
        }
        if unsettled(&counts) == before {
            problems.push("its repartition topics depend on each other in a circle".to_owned());
        }
    }

    for (who, topics) in &groups {
        let mut known: Vec<(String, i32)> = topics
            .iter()
            .filter_map(|topic| Some((topic.resolve(application_id), *counts.get(topic)?)))
            .collect();
        known.sort();
        known.dedup();
        if known.windows(2).any(|pair| pair[0].1 != pair[1].1) {
            let list: Vec<String> = known.iter().map(|(t, n)| format!("{t} has {n}")).collect();
            problems.push(format!(
                "{who} needs topics with the same number of partitions, but {}; repartition one of them",
                list.join(", ")
            ));
            break;
        }
    }
    if !problems.is_empty() {
        return Err(TopologyError {
            topology: plan.name.clone(),
            problems,
        });
    }

    let tasks: Vec<i32> = topology
        .subtopologies
        .iter()
        .map(|s| {
            s.sources
                .iter()
                .map(|&i| counts[&plan.sources[i].topic])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let upstream_tasks = counts
        .keys()
        .filter(|topic| topic.is_internal())
        .filter_map(|topic| {
            Some((
                topic.resolve(application_id),
                tasks[topology.writer_of(topic)?],
            ))
        })
        .collect();
    let topics = counts
        .into_iter()
        .map(|(topic, n)| (topic.resolve(application_id), n))
        .collect();
    Ok(PartitionPlan {
        topics,
        tasks,
        upstream_tasks,
    })
}

/// The topics that feed `nodes` by plain calls.
fn source_topics_above(topology: &Topology, nodes: &[NodeId]) -> Vec<Topic> {
    let mut open: Vec<NodeId> = nodes.to_vec();
    let mut topics = Vec::new();
    while let Some(node) = open.pop() {
        let node = &topology.plan.nodes[node.0];
        if let NodeKind::Source(topic) = &node.kind
            && !topics.contains(topic)
        {
            topics.push(topic.clone());
        }
        open.extend(&node.parents);
    }
    topics
}
