//! The plan of a built topology.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::runtime::{changelog_of, changelog_settings};
use crate::topology::{NodeKind, Plan, StoreId, Topic, Topology};

use super::{
    APPLICATION, ChangelogPlan, FORMAT, GlobalTablePlan, NodePlan, Role, RowFormat, StorePlan,
    SubTopologyPlan, TopicPlan, TopologyPlan, hash,
};

/// What changelogs of windows keep beyond their store where no configuration says otherwise.
const ADDITIONAL_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

impl Topology {
    /// The topology as data, with the default settings of changelogs.
    #[must_use]
    pub fn plan(&self) -> TopologyPlan {
        self.plan_with(Some(ADDITIONAL_RETENTION))
    }

    /// The topology as data; `additional` is how long changelogs of windows keep records beyond what their store needs.
    pub(crate) fn plan_with(&self, additional: Option<Duration>) -> TopologyPlan {
        let plan = &self.plan;
        let sub_topologies = self.subtopologies.iter().map(|part| SubTopologyPlan {
            nodes: part.nodes.iter().map(|id| node(plan, id.0)).collect(),
        });
        let mut stores: Vec<StorePlan> = plan
            .stores
            .iter()
            .enumerate()
            .filter(|(_, spec)| spec.global.is_none())
            .map(|(id, _)| store(plan, StoreId(id), additional))
            .collect();
        stores.sort_by(|a, b| a.name.cmp(&b.name));
        let mut global_tables: Vec<GlobalTablePlan> = plan
            .globals
            .iter()
            .map(|global| GlobalTablePlan {
                name: plan.stores[global.store.0].name.clone(),
                topic: global.topic.clone(),
            })
            .collect();
        global_tables.sort_by(|a, b| a.name.cmp(&b.name));
        let mut described = TopologyPlan {
            format: FORMAT,
            name: plan.name.clone(),
            hash: String::new(),
            optimized: plan.optimized,
            sub_topologies: sub_topologies.collect(),
            topics: topics(self),
            stores,
            global_tables,
        };
        described.hash = hash::of(&described);
        described
    }
}

fn named(topic: &Topic) -> String {
    topic.resolve(APPLICATION)
}

fn node(plan: &Plan, index: usize) -> NodePlan {
    let node = &plan.nodes[index];
    let parents = node.parents.iter().map(|id| plan.nodes[id.0].name.clone());
    let mut stores: Vec<String> = Vec::new();
    for store in &node.stores {
        let name = &plan.stores[store.0].name;
        if !stores.contains(name) {
            stores.push(name.clone());
        }
    }
    NodePlan {
        name: node.name.clone(),
        named: !plan.made_up.contains(&node.name),
        role: match &node.kind {
            NodeKind::Source(topic) => Role::Source(named(topic)),
            NodeKind::Sink(topic) => Role::Sink(named(topic)),
            NodeKind::DynamicSink => Role::DynamicSink,
            NodeKind::Operator(operator) => Role::Operator((*operator).to_owned()),
        },
        parents: parents.collect(),
        stores,
        parameters: node
            .parameters
            .iter()
            .map(|(name, number)| ((*name).to_owned(), *number))
            .collect(),
    }
}

fn topics(topology: &Topology) -> Vec<TopicPlan> {
    let plan = &topology.plan;
    let mut topics: BTreeMap<String, TopicPlan> = BTreeMap::new();
    for node in &plan.nodes {
        let (topic, is_source) = match &node.kind {
            NodeKind::Source(topic) => (topic, true),
            NodeKind::Sink(topic) => (topic, false),
            NodeKind::DynamicSink | NodeKind::Operator(_) => continue,
        };
        let described = topics
            .entry(named(topic))
            .or_insert_with_key(|name| TopicPlan {
                name: name.clone(),
                internal: !matches!(topic, Topic::External(_)),
                read: false,
                written: false,
                partitioned_by: String::new(),
                pinned_partitions: pinned(plan, topic),
                partitions: None,
                format: RowFormat::default(),
            });
        described.read |= is_source;
        described.written |= !is_source;
        let partitioned_by = match topic {
            // Its answers go to where their left rows are.
            Topic::Response(_) => "the partition of the left row",
            _ if described.written => "murmur2 of the key",
            _ => "its producers",
        };
        described.partitioned_by = partitioned_by.to_owned();
        if let Some(format) = plan.topic_formats.get(topic) {
            described.format = format.clone();
        }
    }
    topics.into_values().collect()
}

fn pinned(plan: &Plan, topic: &Topic) -> Option<i32> {
    let enforced = plan.enforced_partitions.iter();
    enforced
        .filter(|(enforced, _)| enforced == topic)
        .map(|(_, partitions)| *partitions)
        .next_back()
}

fn store(plan: &Plan, id: StoreId, additional: Option<Duration>) -> StorePlan {
    let spec = &plan.stores[id.0];
    let (cleanup, retention_ms) = changelog_settings(spec.kind, additional);
    StorePlan {
        name: spec.name.clone(),
        kind: spec.kind.name().to_owned(),
        retention_ms: spec.kind.retention_ms(),
        changelog: ChangelogPlan {
            topic: changelog_of(plan, APPLICATION, id),
            cleanup: cleanup.policy().to_owned(),
            retention_ms,
        },
        format: spec.format.clone(),
    }
}
