//! A plan as text, in the manner of Kafka Streams' `Topology#describe`, with its topics and stores.

use std::fmt;

use crate::Topology;

use super::{NodePlan, Role, StorePlan, TopicPlan, TopologyPlan};

impl Topology {
    /// The topology as text: sub-topologies with their operators, topics, stores and global tables, and the plan's hash.
    #[must_use]
    pub fn describe(&self) -> String {
        self.plan().to_string()
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plan().fmt(f)
    }
}

impl fmt::Display for TopologyPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let optimized = if self.optimized { ", optimized" } else { "" };
        writeln!(f, "Topology: {} (plan {}{optimized})", self.name, self.hash)?;
        for (number, part) in self.sub_topologies.iter().enumerate() {
            writeln!(f, "  Sub-topology: {number}")?;
            for node in &part.nodes {
                writeln!(f, "    {}", headline(node))?;
                let is_child = |other: &&NodePlan| other.parents.contains(&node.name);
                let children = part.nodes.iter().filter(is_child);
                let children: Vec<&str> = children.map(|child| child.name.as_str()).collect();
                if !children.is_empty() {
                    writeln!(f, "      --> {}", children.join(", "))?;
                }
            }
        }
        for global in &self.global_tables {
            writeln!(
                f,
                "  Global table: {} (topic: {})",
                global.name, global.topic
            )?;
        }
        if !self.topics.is_empty() {
            writeln!(f, "  Topics:")?;
            for topic in &self.topics {
                writeln!(f, "    {} ({})", topic.name, usage(topic))?;
            }
        }
        if !self.stores.is_empty() {
            writeln!(f, "  Stores:")?;
            for store in &self.stores {
                writeln!(f, "    {} ({})", store.name, kept(self, store))?;
            }
        }
        Ok(())
    }
}

fn headline(node: &NodePlan) -> String {
    let name = &node.name;
    let parameters = node.parameters.iter();
    let parameters = parameters.map(|(name, number)| format!(", {name}: {number}"));
    let parameters: String = parameters.collect();
    match &node.role {
        Role::Source(topic) => format!("Source: {name} (topic: {topic})"),
        Role::Sink(topic) => format!("Sink: {name} (topic: {topic})"),
        Role::DynamicSink => format!("Sink: {name} (topic: chosen by the record)"),
        Role::Operator(kind) if node.stores.is_empty() => {
            format!("Processor: {name} ({kind}{parameters})")
        }
        Role::Operator(kind) => {
            let stores = node.stores.join(", ");
            format!("Processor: {name} ({kind}, stores: {stores}{parameters})")
        }
    }
}

fn usage(topic: &TopicPlan) -> String {
    let role = match (topic.internal, topic.read, topic.written) {
        (true, ..) => "repartition",
        (false, true, true) => "input and output",
        (false, true, false) => "input",
        (false, false, _) => "output",
    };
    let mut text = format!("{role}, partitioned by {}", topic.partitioned_by);
    if let Some(pinned) = topic.pinned_partitions {
        text.push_str(&format!(", {pinned} partitions"));
    }
    text
}

fn kept(plan: &TopologyPlan, store: &StorePlan) -> String {
    let mut text = store.kind.clone();
    if let Some(ms) = store.retention_ms {
        text.push_str(&format!(", kept for {ms} ms"));
    }
    let changelog = &store.changelog;
    if plan.is_read_back(store) {
        text.push_str(&format!(", rebuilt from: {}", changelog.topic));
        return text;
    }
    text.push_str(&format!(
        ", changelog: {} {}",
        changelog.topic, changelog.cleanup
    ));
    if let Some(ms) = changelog.retention_ms {
        text.push_str(&format!(" after {ms} ms"));
    }
    text
}
