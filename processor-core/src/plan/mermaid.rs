//! A plan as a Mermaid flowchart.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{NodePlan, Role, TopologyPlan};

impl TopologyPlan {
    /// The plan as a [Mermaid](https://mermaid.js.org) flowchart: topics as parallelograms, operators as boxes, stores
    /// as cylinders, a frame around each sub-topology. The same plan gives the same text.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        let mut chart = String::from("flowchart TD\n");
        self.write_mermaid(&mut chart)
            .expect("a string takes all that is written to it");
        chart
    }

    fn write_mermaid(&self, chart: &mut String) -> std::fmt::Result {
        let topics: BTreeMap<&str, String> = self
            .topics
            .iter()
            .map(|topic| topic.name.as_str())
            .chain(
                self.global_tables
                    .iter()
                    .map(|global| global.topic.as_str()),
            )
            .enumerate()
            .map(|(number, name)| (name, format!("t{number}")))
            .collect();
        let ids: BTreeMap<&str, String> = self
            .nodes()
            .enumerate()
            .map(|(number, node)| match node.topic() {
                // Sources and sinks are their topics.
                Some(topic) => (node.name.as_str(), topics[topic].clone()),
                None => (node.name.as_str(), format!("n{number}")),
            })
            .collect();
        let stores: BTreeMap<&str, String> = self
            .stores
            .iter()
            .map(|store| store.name.as_str())
            .chain(self.global_tables.iter().map(|global| global.name.as_str()))
            .enumerate()
            .map(|(number, name)| (name, format!("s{number}")))
            .collect();

        for (topic, id) in &topics {
            writeln!(chart, "  {id}[/\"{}\"/]", escaped(topic))?;
        }
        for (number, part) in self.sub_topologies.iter().enumerate() {
            writeln!(chart, "  subgraph sub{number}[\"Sub-topology {number}\"]")?;
            for node in &part.nodes {
                let id = &ids[node.name.as_str()];
                match &node.role {
                    Role::Operator(kind) => {
                        writeln!(chart, "    {id}[\"{}\"]", label(node, kind))?;
                    }
                    Role::DynamicSink => writeln!(chart, "    {id}[/\"chosen by the record\"/]")?,
                    Role::Source(_) | Role::Sink(_) => {}
                }
            }
            let nodes = part.nodes.iter();
            let mut kept: Vec<&str> = nodes
                .flat_map(|node| node.stores.iter().map(String::as_str))
                .filter(|name| self.store(name).is_some())
                .collect();
            kept.sort_unstable();
            kept.dedup();
            for store in kept {
                writeln!(chart, "    {}[(\"{}\")]", stores[store], escaped(store))?;
            }
            writeln!(chart, "  end")?;
        }
        for global in &self.global_tables {
            let id = &stores[global.name.as_str()];
            writeln!(chart, "  {id}[(\"{} (global)\")]", escaped(&global.name))?;
            writeln!(chart, "  {} --> {id}", topics[global.topic.as_str()])?;
        }
        let mut edges: Vec<String> = Vec::new();
        for node in self.nodes() {
            let id = &ids[node.name.as_str()];
            for parent in &node.parents {
                if let Some(parent) = ids.get(parent.as_str()) {
                    edges.push(format!("  {parent} --> {id}"));
                }
            }
            for store in &node.stores {
                edges.push(format!("  {id} -.- {}", stores[store.as_str()]));
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        for edge in edges.iter().filter(|edge| seen.insert(edge.as_str())) {
            writeln!(chart, "{edge}")?;
        }
        Ok(())
    }
}

fn label(node: &NodePlan, kind: &str) -> String {
    match node.named {
        true => format!("{}<br/><i>{}</i>", escaped(&node.name), escaped(kind)),
        false => format!("<i>{}</i>", escaped(kind)),
    }
}

/// Mermaid takes quotes and angle brackets in labels as its own.
fn escaped(text: &str) -> String {
    text.replace('"', "#quot;")
        .replace('<', "#lt;")
        .replace('>', "#gt;")
}
