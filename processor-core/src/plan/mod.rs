//! A topology as data: what it reads, writes and keeps, whatever application runs it.
//!
//! A plan is what [`describe`](crate::Topology::describe) prints, what two versions of a program are
//! [compared](diff::compare) by, and what an application keeps beside its state. It has no code in it, so it says nothing
//! about what a filter keeps or a joiner makes; it says where records, rows and keys are. [`hash`](TopologyPlan::hash)
//! rests on explicit names alone: operators that the user did not name, and the order in which a program makes its
//! operators, do not enter it.
//!
//! ```
//! use processor_core::dsl::{Consumed, StreamsBuilder};
//! use processor_core::plan::TopologyPlan;
//! use processor_core::serde::{int64, utf8};
//!
//! let builder = StreamsBuilder::new("words");
//! let words = builder.stream("words", Consumed::new(utf8(), int64()));
//! words.group_by_key().count("counts").to_stream().to("counts");
//! let plan = builder.build().unwrap().plan();
//!
//! assert_eq!(plan.stores[0].changelog.topic, "<application>-counts-changelog");
//! assert_eq!(TopologyPlan::from_json(&plan.to_json()).unwrap(), plan);
//! ```

mod cost;
pub mod diff;
mod hash;
mod mermaid;
mod of_topology;
mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::serde::Serde;

pub use cost::{Load, OperatorCost, PlanCost};

/// Version of the JSON form and of the hash.
pub const FORMAT: u32 = 1;

/// What stands for the application id in the names of topics that the application makes.
pub const APPLICATION: &str = "<application>";

/// A topology as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyPlan {
    /// Version of this form: [`FORMAT`].
    pub format: u32,
    /// Name given to the builder; a label, not part of the hash.
    pub name: String,
    /// The [hash](Self::hash), for readers of the JSON form.
    pub hash: String,
    /// Whether the optimiser was on, which changes topics and stores.
    pub optimized: bool,
    /// Parts whose records move by plain calls; a task is one partition of one of them.
    pub sub_topologies: Vec<SubTopologyPlan>,
    /// Topics that tasks read or write, by name; without changelogs and those of global tables.
    pub topics: Vec<TopicPlan>,
    /// Stores of tasks, by name.
    pub stores: Vec<StorePlan>,
    /// Tables that every thread holds in full, by name.
    pub global_tables: Vec<GlobalTablePlan>,
}

/// A part whose records move by plain calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubTopologyPlan {
    /// In the order in which the program made them.
    pub nodes: Vec<NodePlan>,
}

/// A source, a sink or an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// Name, unique in the topology.
    pub name: String,
    /// Whether the user gave the name; a made-up one changes when operators are added before it.
    pub named: bool,
    /// What it does.
    pub role: Role,
    /// Nodes that it gets records from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<String>,
    /// Stores that it reads or writes, global tables included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<String>,
    /// Numbers that it was given, such as `size_ms`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, i64>,
}

/// What a node does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads this topic.
    Source(String),
    /// Writes this topic.
    Sink(String),
    /// Writes the topics that its records choose.
    DynamicSink,
    /// An operator of this kind.
    Operator(String),
}

/// A topic that tasks read or write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPlan {
    /// Its name; [`APPLICATION`] stands for the application id.
    pub name: String,
    /// Whether the application makes it, and alone reads and writes it.
    pub internal: bool,
    /// Whether the topology reads it.
    pub read: bool,
    /// Whether the topology writes it under a fixed name.
    pub written: bool,
    /// What chooses the partition of a record.
    pub partitioned_by: String,
    /// The number of partitions that the user asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_partitions: Option<i32>,
    /// The number of partitions that it has, where a log was asked; not part of the hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// Formats of keys and values, where their serdes [name](crate::serde::Serde::format) one.
    #[serde(default, skip_serializing_if = "RowFormat::is_unknown")]
    pub format: RowFormat,
}

/// Formats of keys and values, where they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowFormat {
    /// Of keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Of values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl RowFormat {
    /// What these serdes say.
    pub(crate) fn of<K, V>(key: &dyn Serde<K>, value: &dyn Serde<V>) -> Self {
        Self {
            key: key.format(),
            value: value.format(),
        }
    }

    fn is_unknown(&self) -> bool {
        self.key.is_none() && self.value.is_none()
    }
}

/// A store of tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorePlan {
    /// Its name.
    pub name: String,
    /// How it is laid out: `key-value`, `window`, `session`, `join`.
    pub kind: String,
    /// How long rows are needed, in ms of event time; nothing where it is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<i64>,
    /// Where its changes go.
    pub changelog: ChangelogPlan,
    /// Formats of keys and values, where they are known.
    #[serde(default, skip_serializing_if = "RowFormat::is_unknown")]
    pub format: RowFormat,
}

/// The topic that a store is rebuilt from: one of the application's own, or the input of a table where the topology is
/// [optimised](crate::StreamsBuilder::optimize).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangelogPlan {
    /// Its name; [`APPLICATION`] stands for the application id.
    pub topic: String,
    /// `delete`, `compact` or `compact,delete`.
    pub cleanup: String,
    /// How long it keeps records, in ms of their time; nothing where it is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<i64>,
}

/// A table that every thread holds in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalTablePlan {
    /// Name of its store.
    pub name: String,
    /// Topic that it is read from.
    pub topic: String,
}

/// Why a text is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It is not the JSON form of one.
    #[error("this is not a plan in JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A newer version of this program wrote it.
    #[error(
        "the plan has format {found}, and this program reads format {FORMAT}; use the newer program"
    )]
    Format {
        /// What it says.
        found: u32,
    },
    /// It names a topic or a store that it does not have.
    #[error(
        "the plan names {missing}, which it does not have: it was edited; write it again with the program that it describes"
    )]
    Incomplete {
        /// The topic or store.
        missing: String,
    },
    /// It does not say what its hash says.
    #[error(
        "the plan does not match its hash {said}: it was edited; write it again with the program that it describes"
    )]
    Edited {
        /// The hash in the text.
        said: String,
    },
}

/// The plan with the hash that it should have.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn rehashed(plan: TopologyPlan) -> TopologyPlan {
    let plan = TopologyPlan {
        format: FORMAT,
        ..plan
    };
    TopologyPlan {
        hash: hash::of(&plan),
        ..plan
    }
}

impl TopologyPlan {
    /// Reads the JSON form.
    ///
    /// # Errors
    /// When it is none, of another format, incomplete, or edited by hand.
    pub fn from_json(text: &str) -> Result<Self, PlanError> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let Versioned { format } = serde_json::from_str(text)?;
        if format != FORMAT {
            return Err(PlanError::Format { found: format });
        }
        let plan: Self = serde_json::from_str(text)?;
        if plan.hash != hash::of(&plan) {
            return Err(PlanError::Edited { said: plan.hash });
        }
        match plan.missing() {
            Some(missing) => Err(PlanError::Incomplete { missing }),
            None => Ok(plan),
        }
    }

    /// The JSON form; the same plan gives the same text.
    ///
    /// # Panics
    /// Never: a plan has text keys and whole numbers only.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plan has text keys and whole numbers only")
    }

    /// A short text that is the same for two plans exactly when they keep, read and write the same under the same
    /// names: 16 hexadecimal digits behind the version of the format, as in `1-0123456789abcdef`.
    ///
    /// It is the xxh3 (64 bits) of the plan's canonical lines, sorted, each ended by a line feed:
    ///
    /// ```text
    /// optimized                                                        when the optimiser is on
    /// reads <topic> <pinned partitions, or *>
    /// writes <topic> from <feeders>
    /// operator <name> is <kind> from <feeders> and <feeders> … with <stores> <parameters>
    /// store <name> is <kind> for <retention ms, or *> in <changelog topic> of <key format>/<value format>
    /// global <name> of <topic>
    /// ```
    ///
    /// Feeders are the named operators and topics next above a parent, found through operators without a name; those of
    /// each parent of an operator are listed apart. So neither the
    /// order of operators nor a stateless operator changes the hash; the partitions of topics on the log and the
    /// settings of changelogs do not either.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// All nodes, in the order of the program within each sub-topology.
    fn nodes(&self) -> impl Iterator<Item = &NodePlan> {
        self.sub_topologies.iter().flat_map(|part| &part.nodes)
    }

    fn node(&self, name: &str) -> Option<&NodePlan> {
        self.nodes().find(|node| node.name == name)
    }

    /// What a node names and the plan does not have.
    fn missing(&self) -> Option<String> {
        let globals = || self.global_tables.iter();
        self.nodes().find_map(|node| {
            let topic = node.topic().filter(|name| {
                self.topic(name).is_none() && globals().all(|global| global.topic != **name)
            });
            let store = node.stores.iter().find(|name| {
                self.store(name).is_none() && globals().all(|global| global.name != **name)
            });
            let topic = topic.map(|name| format!("topic {name}"));
            topic.or_else(|| store.map(|name| format!("store {name}")))
        })
    }

    /// A topic by its name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&TopicPlan> {
        self.topics.iter().find(|topic| topic.name == name)
    }

    /// Whether a table is rebuilt from the topic that it reads, so that nothing is written for it.
    #[must_use]
    pub fn is_read_back(&self, store: &StorePlan) -> bool {
        let topic = self.topic(&store.changelog.topic);
        topic.is_some_and(|topic| topic.read && !topic.internal)
    }

    /// A store by its name.
    #[must_use]
    pub fn store(&self, name: &str) -> Option<&StorePlan> {
        self.stores.iter().find(|store| store.name == name)
    }
}

impl NodePlan {
    /// The topic of a source or a sink.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        match &self.role {
            Role::Source(topic) | Role::Sink(topic) => Some(topic),
            Role::DynamicSink | Role::Operator(_) => None,
        }
    }
}
