//! A Kafka Streams-class stream processor: typed topologies, sled-backed state, exactly-once Kafka transactions, and a
//! harness that tests without a broker.
//!
//! - [`dsl`]: the language of topologies. Start with [`StreamsBuilder`].
//! - [`Streams`]: runs a topology on a log.
//! - [`log`]: what a log is; the embedded one needs no broker, `log::kafka` is a real one.
//! - [`processor`]: user code with stores and timers in the middle of a topology.
//! - [`plan`]: a topology as data: text, JSON, a chart, its hash, its cost, and what changes between two.
//! - [`testing`]: drives the real task code with virtual time.
//!
//! **What it is not**: a cluster, a SQL engine or a scheduler. It is a library; instances of the same program share the
//! work through their consumer group.
//!
//! ```
//! use processor_core::dsl::{Consumed, StreamsBuilder};
//! use processor_core::serde::{int64, utf8};
//! use processor_core::testing::TopologyTestDriver;
//!
//! let builder = StreamsBuilder::new("word-count");
//! builder
//!     .stream("words", Consumed::new(utf8(), int64()))
//!     .group_by_key()
//!     .count("counts")
//!     .to_stream()
//!     .to("counts");
//! let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
//!
//! let words = driver.input("words", utf8(), int64());
//! words.pipe(&mut driver, "hello".to_owned(), 1, 0);
//! words.pipe(&mut driver, "hello".to_owned(), 1, 5);
//! let counts = driver.output("counts", utf8(), int64());
//! assert_eq!(counts.read_key_values(&mut driver), [("hello".to_owned(), 1), ("hello".to_owned(), 2)]);
//! ```

pub mod clock;
mod config;
pub mod dsl;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod log;
#[doc(hidden)]
pub mod mutant;
pub mod partitioner;
pub mod plan;
pub mod processor;
mod record;
mod runtime;
pub mod serde;
mod task;
pub mod testing;
mod topology;

pub use config::{Guarantee, StreamsConfig};
pub use dsl::StreamsBuilder;
pub use record::{Change, Data, Record, RecordMetadata, TaskId, Windowed};
pub use runtime::{
    MemoryPlan, RestoreProgress, RunSummary, Standby, StandbyStores, Stores, Streams, StreamsError,
};
pub use state::Backend;
pub use task::{OnBadRecord, OnLateRecord, Retries};
pub use topology::{Topology, TopologyError};
