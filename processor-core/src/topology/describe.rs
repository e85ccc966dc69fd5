//! A topology as text, in the manner of Kafka Streams' `Topology#describe`.

use std::fmt;

use super::{Node, NodeId, NodeKind, Topology};

impl Topology {
    /// The topology as text: sub-topologies with their nodes, stores and topics, and the global tables.
    #[must_use]
    pub fn describe(&self) -> String {
        self.to_string()
    }

    fn children(&self, of: NodeId) -> Vec<&str> {
        let is_child = |node: &&Node| node.parents.contains(&of);
        self.plan
            .nodes
            .iter()
            .filter(is_child)
            .map(|node| node.name.as_str())
            .collect()
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Topology: {}", self.plan.name)?;
        for (number, subtopology) in self.subtopologies.iter().enumerate() {
            writeln!(f, "  Sub-topology: {number}")?;
            for &id in &subtopology.nodes {
                let node = &self.plan.nodes[id.0];
                let stores: Vec<&str> = node
                    .stores
                    .iter()
                    .map(|store| self.plan.stores[store.0].name.as_str())
                    .collect();
                match &node.kind {
                    NodeKind::Source(topic) => {
                        writeln!(f, "    Source: {} (topic: {topic})", node.name)?;
                    }
                    NodeKind::Sink(topic) => {
                        writeln!(f, "    Sink: {} (topic: {topic})", node.name)?;
                    }
                    NodeKind::Operator(operator) => {
                        write!(f, "    Processor: {} ({operator}", node.name)?;
                        if !stores.is_empty() {
                            write!(f, ", stores: {}", stores.join(", "))?;
                        }
                        writeln!(f, ")")?;
                    }
                }
                let children = self.children(id);
                if !children.is_empty() {
                    writeln!(f, "      --> {}", children.join(", "))?;
                }
            }
        }
        for global in &self.plan.globals {
            let store = &self.plan.stores[global.store.0].name;
            writeln!(f, "  Global table: {store} (topic: {})", global.topic)?;
        }
        Ok(())
    }
}
