//! A finished topology: sub-topologies, their stores and topics.
//!
//! Nodes that records reach by plain calls, or that share a store, belong to one **sub-topology**; topics separate
//! them. A task is one partition of one sub-topology.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::log::{Cleanup, NewTopic};

mod partitions;
mod plan;
mod rank;
mod read_back;

pub(crate) use partitions::{PartitionPlan, plan_partitions};
pub(crate) use plan::{
    GlobalTableSpec, MakeSource, NodeId, NodeKind, Plan, Source, StoreId, StoreKind, Topic,
};
pub(crate) use read_back::{ReadBack, ReadRow, Row};

/// Why a topology cannot be built or started.
#[derive(Debug, thiserror::Error)]
#[error("topology '{topology}' is not valid: {}", problems.join("; "))]
pub struct TopologyError {
    /// Name of the topology.
    pub topology: String,
    /// Everything that is wrong, each with what to do.
    pub problems: Vec<String>,
}

/// A part of a topology whose records move by plain calls.
#[derive(Debug, Clone)]
pub(crate) struct SubTopology {
    /// Nodes in the order they were added.
    pub nodes: Vec<NodeId>,
    /// Indexes into the plan's sources.
    pub sources: Vec<usize>,
    /// Stores of its tasks.
    pub stores: Vec<StoreId>,
    /// Distance from the first input: an end-of-input passes sub-topologies in this order.
    pub rank: usize,
}

/// A finished topology: give it to [`Streams`](crate::Streams) to run, or to a
/// [`TopologyTestDriver`](crate::testing::TopologyTestDriver) to test.
#[derive(Clone)]
pub struct Topology {
    pub(crate) plan: Plan,
    pub(crate) subtopologies: Vec<SubTopology>,
}

impl Topology {
    pub(crate) fn build(plan: Plan) -> Result<Self, TopologyError> {
        let mut problems = plan.problems.clone();
        problems.extend(duplicate_names(&plan));
        problems.extend(unfit_names(&plan));
        if plan.sources.is_empty() && problems.is_empty() {
            problems.push("it reads no topic; add a stream or a table".to_owned());
        }
        if !problems.is_empty() {
            return Err(TopologyError {
                topology: plan.name,
                problems,
            });
        }
        let subtopologies = divide(&plan);
        Ok(Self {
            plan,
            subtopologies,
        })
    }

    /// Name given to the builder.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Topics of the user that tasks read.
    pub(crate) fn sources_of_tasks(&self) -> Vec<String> {
        let external = |topic: &Topic| match topic {
            Topic::External(name) => Some(name.clone()),
            _ => None,
        };
        let sources = self.plan.sources.iter();
        sources
            .filter_map(|source| external(&source.topic))
            .collect()
    }

    /// Topics of the user that this topology reads, global tables included, sorted.
    #[must_use]
    pub fn input_topics(&self) -> Vec<String> {
        let globals = self.plan.globals.iter().map(|global| global.topic.clone());
        self.sources_of_tasks()
            .into_iter()
            .chain(globals)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Topics of the user that this topology writes under a fixed name, sorted.
    #[must_use]
    pub fn output_topics(&self) -> Vec<String> {
        let sinks = self.plan.nodes.iter().filter_map(|node| match &node.kind {
            NodeKind::Sink(Topic::External(name)) => Some(name.clone()),
            _ => None,
        });
        sinks.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// A topic of the user as the topology wants it: compacted where a table is rebuilt from it.
    pub(crate) fn new_topic(&self, name: String, partitions: i32) -> NewTopic {
        let mut read_back = self.plan.read_back.values();
        let cleanup = match read_back.any(|table| table.topic == name) {
            true => Cleanup::Compact,
            false => Cleanup::Delete,
        };
        NewTopic::new(name, partitions).cleanup(cleanup)
    }

    /// Sub-topology that `node` belongs to.
    pub(crate) fn subtopology_of(&self, node: NodeId) -> usize {
        self.subtopologies
            .iter()
            .position(|subtopology| subtopology.nodes.contains(&node))
            .expect("every node is in a sub-topology")
    }

    /// The sub-topology that writes a repartition topic.
    pub(crate) fn writer_of(&self, topic: &Topic) -> Option<usize> {
        let sink =
            self.plan.nodes.iter().position(
                |node| matches!(&node.kind, NodeKind::Sink(written) if written == topic),
            )?;
        Some(self.subtopology_of(NodeId(sink)))
    }
}

/// Nodes, stores and source topics must have names of their own: topics and state are found by them.
fn duplicate_names(plan: &Plan) -> Vec<String> {
    let mut problems = Vec::new();
    let mut report = |what: &str, names: &mut dyn Iterator<Item = String>, advice: &str| {
        let mut seen = HashSet::new();
        for name in names {
            if !seen.insert(name.clone()) {
                problems.push(format!("{what} '{name}' is used twice; {advice}"));
            }
        }
    };
    report(
        "operator",
        &mut plan.nodes.iter().map(|node| node.name.clone()),
        "give each operator a name of its own",
    );
    report(
        "store",
        &mut plan.stores.iter().map(|store| store.name.clone()),
        "give each store a name of its own",
    );
    report(
        "topic",
        &mut plan.sources.iter().map(|source| source.topic.to_string()),
        "read it once and use the stream several times",
    );
    problems
}

/// Names of operators and stores become parts of topic names and of offset metadata.
fn unfit_names(plan: &Plan) -> Vec<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let nodes = plan.nodes.iter().map(|node| &node.name);
    let stores = plan.stores.iter().map(|store| &store.name);
    let names: BTreeSet<&String> = nodes.chain(stores).collect();
    names
        .into_iter()
        .filter(|name| name.is_empty() || !name.chars().all(fits))
        .map(|name| {
            format!(
                "the name '{name}' is not made of a-z A-Z 0-9 . _ - alone; it becomes part of topic names"
            )
        })
        .collect()
}

/// Groups nodes by edges and shared stores.
fn divide(plan: &Plan) -> Vec<SubTopology> {
    let mut group: Vec<usize> = (0..plan.nodes.len()).collect();
    fn root(group: &mut [usize], mut i: usize) -> usize {
        while group[i] != i {
            group[i] = group[group[i]];
            i = group[i];
        }
        i
    }
    let mut first_user: HashMap<StoreId, usize> = HashMap::new();
    for (i, node) in plan.nodes.iter().enumerate() {
        let neighbours = node.parents.iter().map(|parent| parent.0);
        let sharers = node
            .stores
            .iter()
            .filter(|store| plan.stores[store.0].global.is_none())
            .map(|store| *first_user.entry(*store).or_insert(i));
        for other in neighbours.chain(sharers) {
            let (a, b) = (root(&mut group, i), root(&mut group, other));
            group[a.max(b)] = a.min(b);
        }
    }

    let mut by_root: BTreeMap<usize, SubTopology> = BTreeMap::new();
    for (i, node) in plan.nodes.iter().enumerate() {
        let subtopology = by_root
            .entry(root(&mut group, i))
            .or_insert_with(|| SubTopology {
                nodes: Vec::new(),
                sources: Vec::new(),
                stores: Vec::new(),
                rank: 0,
            });
        subtopology.nodes.push(NodeId(i));
        for store in &node.stores {
            if plan.stores[store.0].global.is_none() && !subtopology.stores.contains(store) {
                subtopology.stores.push(*store);
            }
        }
    }
    let mut subtopologies: Vec<SubTopology> = by_root.into_values().collect();
    for subtopology in &mut subtopologies {
        subtopology.sources = (0..plan.sources.len())
            .filter(|&source| subtopology.nodes.contains(&plan.sources[source].node))
            .collect();
    }
    // Global sources stand alone: a group without a source has no task.
    subtopologies.retain(|subtopology| !subtopology.sources.is_empty());
    rank::assign(plan, &mut subtopologies);
    subtopologies
}
