//! Cases and results in the format of `SPEC.md`, one JSON object a line.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A topology and its input.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    /// Tells the case from others.
    pub name: String,
    /// What kind of topology it is; empty for a hand-written one.
    #[serde(default)]
    pub family: String,
    /// Which stores it keeps its state in.
    #[serde(default)]
    pub store: Store,
    /// Whether both sides optimise the topology.
    #[serde(default)]
    pub optimize: bool,
    /// The defects of Kafka Streams that it may show.
    #[serde(default)]
    pub class: Option<String>,
    /// Operators, each after its inputs.
    pub topology: Vec<Op>,
    /// What happens, in order.
    pub input: Vec<Step>,
}

/// Where state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// In memory.
    Memory,
    /// On disk: what Kafka Streams does with RocksDB, we do with sled.
    #[default]
    #[serde(alias = "rocksdb")]
    Sled,
}

impl Store {
    /// What Kafka Streams uses where we use this.
    #[must_use]
    pub fn of_kafka_streams(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sled => "rocksdb",
        }
    }
}

/// One operator and its parameters.
#[derive(Debug, Clone, Deserialize)]
pub struct Op {
    /// What later operators call its result; a terminal operator needs none.
    #[serde(default)]
    pub id: String,
    /// Which operator; a branch is none.
    #[serde(default)]
    pub op: String,
    /// Ids of its inputs.
    #[serde(default, rename = "in")]
    pub inputs: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub parameters: serde_json::Map<String, Value>,
}

impl Op {
    /// Whether a parameter is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.parameters.contains_key(name)
    }

    /// A number, `otherwise` if it is not given.
    #[must_use]
    pub fn number(&self, name: &str, otherwise: i64) -> i64 {
        let given = self.parameters.get(name).and_then(Value::as_i64);
        given.unwrap_or(otherwise)
    }

    /// A text, empty if it is not given.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        let given = self.parameters.get(name).and_then(Value::as_str);
        given.unwrap_or_default()
    }

    /// A truth, false if it is not given.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.parameters.get(name).and_then(Value::as_bool) == Some(true)
    }
}

/// One step of the input.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Step {
    /// Moves the wall clock.
    Advance {
        /// By how much.
        advance_wall_ms: u64,
    },
    /// Pipes a record in.
    Record {
        /// Where.
        topic: String,
        /// Its key.
        key: Option<String>,
        /// Its value.
        value: Option<i64>,
        /// Its event time.
        ts: i64,
    },
}

/// What became of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseResult {
    /// The case's name.
    pub name: String,
    /// What it gave.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Records, or why there are none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every record that came out, in order.
    Output(Vec<Output>),
    /// The name of the error.
    Error(String),
}

/// A record that came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Index of the step after which it came.
    pub after: usize,
    /// Its topic.
    pub topic: String,
    /// Its key.
    pub key: Option<String>,
    /// Its value.
    pub value: Option<i64>,
    /// Its timestamp.
    pub ts: i64,
}
