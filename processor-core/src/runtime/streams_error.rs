//! Why an application cannot start, or stopped.

use std::path::PathBuf;

use state::StateError;

use crate::error::Fault;
use crate::log::LogError;
use crate::topology::TopologyError;

/// Why an application cannot start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum StreamsError {
    /// The topology does not fit the topics.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The log refused or is not there.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A topic to write to is missing.
    #[error("topic '{topic}' does not exist; create it before the application starts")]
    MissingTopic {
        /// Its name.
        topic: String,
    },
    /// An internal topic would lose what it must keep.
    #[error(
        "topic '{topic}' does not fit: {reason} (kafka-configs.sh --alter --entity-type topics --entity-name {topic} \
         --add-config …)"
    )]
    UnfitTopic {
        /// Its name.
        topic: String,
        /// Which setting is wrong, and what it should be.
        reason: String,
    },
    /// The topology is optimised, and a table cannot be rebuilt from the topic that it reads.
    #[error(
        "table '{store}' is to be rebuilt from topic '{topic}' in place of a changelog, since the topology is optimised, \
         but {reason}; or read it with `stream(\"{topic}\", …).to_table_with_deletes(\"{store}\")`, which keeps a changelog"
    )]
    TableNotInTopic {
        /// The table's store.
        store: String,
        /// The topic that it reads.
        topic: String,
        /// Why it cannot be.
        reason: String,
    },
    /// A handler sends records to a dead letter topic that was not named.
    #[error(
        "a handler sends records to the dead letter topic, and there is none; set `dead_letter_topic` to the name of a \
         topic"
    )]
    NoDeadLetterTopic,
    /// Dead letters would come back as input, and fail again.
    #[error(
        "the dead letter topic '{topic}' is an input of the topology, so a dead letter would be read again and fail \
         again; choose another topic"
    )]
    DeadLettersToInput {
        /// Its name.
        topic: String,
    },
    /// The topology has changed so that it does not fit what the application keeps. Nothing has been touched: the program
    /// with the old topology can start again.
    #[error(
        "the topology does not fit what application '{application_id}' keeps:\n  - {}",
        changes.join("\n  - ")
    )]
    UnsafeChanges {
        /// The application.
        application_id: String,
        /// One sentence for each change: what it is, why it matters and what to do.
        changes: Vec<String>,
    },
    /// The plan of the last run cannot be read.
    #[error(
        "{place} holds no plan that this program reads: {source}; a newer program may have written it"
    )]
    KeptPlan {
        /// Topic or file.
        place: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The state directory could not be read or written.
    #[error("state directory {path}: {source}")]
    Directory {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Standby copies were asked for, and cannot be kept.
    #[error("`standby` cannot be kept: {reason}")]
    Standby {
        /// Why, and what to do.
        reason: String,
    },
    /// The threads would not have enough memory to work with.
    #[error(
        "`memory_bytes` is {memory_bytes}, which is too little for {threads} stream threads; set it to {least} at least, \
         or run fewer threads"
    )]
    TooLittleMemory {
        /// The budget, in bytes.
        memory_bytes: u64,
        /// Stream threads.
        threads: usize,
        /// What would be enough, in bytes.
        least: u64,
    },
    /// Processing stopped.
    #[error(transparent)]
    Processing(#[from] Fault),
    /// A thread panicked; the message has been printed by it.
    #[error("stream thread {0} panicked")]
    Panicked(usize),
}
