//! Testing topologies without a broker.
//!
//! [`TopologyTestDriver`] runs the real stream thread, tasks, stores and commits on an embedded log in memory, with a
//! clock that moves only when told. [`simulation`] runs many instances of it under faults.

mod driver;
pub mod simulation;

pub use driver::{TestInput, TestOutput, TopologyTestDriver};
