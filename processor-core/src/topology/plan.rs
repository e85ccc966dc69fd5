//! What the builder writes down: nodes, edges, stores and topics, before partitions and tasks are known.

use std::any::Any;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::log::OffsetReset;
use crate::plan::RowFormat;
use crate::processor::{Instantiation, Ttl};
use crate::serde::Serde;
use crate::task::SourceQueue;

use super::ReadBack;

/// A node of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(pub usize);

/// A store of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreId(pub(crate) usize);

/// A topic as a topology names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Topic {
    /// A topic of the user.
    External(String),
    /// `<application id>-<name>-repartition`, made and owned by the application.
    Repartition(String),
    /// `<application id>-<name>-subscription-registration-topic`: from the left table of a foreign-key join to the right
    /// one. Made and owned by the application, like the next.
    Registration(String),
    /// `<application id>-<name>-subscription-response-topic`: the way back.
    Response(String),
}

impl Topic {
    /// The name on the log.
    pub(crate) fn resolve(&self, application_id: &str) -> String {
        match self {
            Self::External(name) => name.clone(),
            Self::Repartition(name) => format!("{application_id}-{name}-repartition"),
            Self::Registration(name) => {
                format!("{application_id}-{name}-subscription-registration-topic")
            }
            Self::Response(name) => format!("{application_id}-{name}-subscription-response-topic"),
        }
    }

    /// Whether the application makes it and alone writes it.
    pub(crate) fn is_internal(&self) -> bool {
        !matches!(self, Self::External(_))
    }

    /// Whether it has as many partitions as the topics that it is co-partitioned with, whoever writes it.
    pub(crate) fn follows(&self) -> bool {
        matches!(self, Self::Registration(_) | Self::Response(_))
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::External(name) => f.write_str(name),
            _ => f.write_str(&self.resolve("<application>")),
        }
    }
}

/// What a node is, for `describe` and for the division into sub-topologies.
#[derive(Debug, Clone)]
pub(crate) enum NodeKind {
    /// Reads a topic.
    Source(Topic),
    /// Writes a topic.
    Sink(Topic),
    /// Writes topics of the user that records choose.
    DynamicSink,
    /// Anything in between; the operator's name in Kafka Streams' words.
    Operator(&'static str),
}

/// A node and its edges.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub name: String,
    pub kind: NodeKind,
    pub parents: Vec<NodeId>,
    pub stores: Vec<StoreId>,
    /// Numbers that it was given and that say what its rows are, such as `size_ms`.
    pub parameters: Vec<(&'static str, i64)>,
}

/// Makes the queue of a source, with everything below it.
pub(crate) type MakeSource =
    Arc<dyn Fn(&mut Instantiation<'_>) -> Result<Box<dyn SourceQueue>> + Send + Sync>;

/// A topic that tasks read.
#[derive(Clone)]
pub(crate) struct Source {
    pub node: NodeId,
    pub topic: Topic,
    pub reset: OffsetReset,
    pub make: MakeSource,
}

/// How a store is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    KeyValue,
    /// Key to value, in order of time as well, so that old entries are found.
    Expiring,
    Versioned {
        history_ms: i64,
    },
    Window {
        retention_ms: i64,
    },
    Session {
        retention_ms: i64,
    },
    Join {
        retention_ms: i64,
    },
}

impl StoreKind {
    /// Its name in plans.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KeyValue => "key-value",
            Self::Versioned { .. } => "versioned",
            Self::Expiring => "key-value, expiring",
            Self::Window { .. } => "window",
            Self::Session { .. } => "session",
            Self::Join { .. } => "join",
        }
    }

    /// How long entries are needed in event time; `None` for ever.
    pub(crate) fn retention_ms(self) -> Option<i64> {
        match self {
            Self::KeyValue | Self::Expiring => None,
            Self::Versioned { history_ms } => Some(history_ms),
            Self::Window { retention_ms }
            | Self::Session { retention_ms }
            | Self::Join { retention_ms } => Some(retention_ms),
        }
    }
}

/// A store of every task of its sub-topology, or of every thread if it is global.
#[derive(Debug, Clone)]
pub(crate) struct StoreSpec {
    pub name: String,
    pub kind: StoreKind,
    /// Filled from a topic by every thread in full, and not part of any task.
    pub global: Option<String>,
    /// What its keys and values are, as far as their serdes say.
    pub format: RowFormat,
    /// How long entries of an expiring store live.
    pub ttl: Option<Ttl>,
}

/// Decides what a record of a global topic does to the table: checks that key and value decode.
pub(crate) type CheckGlobal = Arc<dyn Fn(Option<&[u8]>, Option<&[u8]>) -> Result + Send + Sync>;

/// A table that every thread holds in full.
#[derive(Clone)]
pub(crate) struct GlobalTableSpec {
    pub topic: String,
    pub store: StoreId,
    pub check: CheckGlobal,
}

/// Something of the DSL, whose types this module does not know.
pub(crate) type Shareable = Arc<dyn Any + Send + Sync>;

/// Everything the builder wrote down.
#[derive(Clone, Default)]
pub(crate) struct Plan {
    pub name: String,
    pub nodes: Vec<Node>,
    pub sources: Vec<Source>,
    pub stores: Vec<StoreSpec>,
    pub globals: Vec<GlobalTableSpec>,
    /// Tables that are rebuilt from the topic that they read, in place of a changelog.
    pub read_back: BTreeMap<StoreId, ReadBack>,
    /// Nodes whose sources must have the same number of partitions, with the operator that asks for it.
    pub copartitioned: Vec<(String, Vec<NodeId>)>,
    /// Partition counts that the user asked for, by repartition topic.
    pub enforced_partitions: Vec<(Topic, i32)>,
    pub problems: Vec<String>,
    /// Whether topics and stores may be saved: see [`StreamsBuilder::optimize`](crate::StreamsBuilder::optimize).
    pub optimized: bool,
    /// Repartition topics that several operators may read: what goes through, the node that reads it, and its outlet.
    pub shared_hops: Vec<(Shareable, NodeId, Shareable)>,
    /// Names that no user gave.
    pub made_up: HashSet<String>,
    /// What goes through internal topics, as far as the serdes say.
    pub topic_formats: BTreeMap<Topic, RowFormat>,
}

impl Plan {
    pub(crate) fn add_node(
        &mut self,
        name: String,
        kind: NodeKind,
        parents: Vec<NodeId>,
        stores: Vec<StoreId>,
    ) -> NodeId {
        self.nodes.push(Node {
            name,
            kind,
            parents,
            stores,
            parameters: Vec::new(),
        });
        NodeId(self.nodes.len() - 1)
    }

    /// A name for a node that the user did not name, in Kafka Streams' form.
    pub(crate) fn generated_name(&mut self, operator: &str) -> String {
        let name = format!("{operator}-{:010}", self.nodes.len());
        self.made_up.insert(name.clone());
        name
    }

    /// Notes numbers that say what the rows of `node` are, for plans.
    pub(crate) fn describe_node(&mut self, node: NodeId, parameters: &[(&'static str, i64)]) {
        self.nodes[node.0].parameters.extend_from_slice(parameters);
    }

    /// Notes what `store` holds, for plans.
    pub(crate) fn describe_store<K, V>(
        &mut self,
        store: StoreId,
        key: &dyn Serde<K>,
        value: &dyn Serde<V>,
    ) {
        self.stores[store.0].format = RowFormat::of(key, value);
    }

    pub(crate) fn add_store(&mut self, name: &str, kind: StoreKind) -> StoreId {
        self.stores.push(StoreSpec {
            name: name.to_owned(),
            kind,
            global: None,
            format: RowFormat::default(),
            ttl: None,
        });
        StoreId(self.stores.len() - 1)
    }

    /// Has the entries of a key-value store live for `ttl`; all who use it have to say the same.
    pub(crate) fn expire(&mut self, store: StoreId, ttl: Ttl) {
        let spec = &mut self.stores[store.0];
        if spec.ttl.is_some_and(|known| known != ttl) {
            let problem = format!("store '{}' is given two times to live", spec.name);
            self.problems.push(problem);
        }
        spec.ttl = Some(ttl);
        spec.kind = StoreKind::Expiring;
    }
}
