//! Testing topologies without a broker.
//!
//! [`TopologyTestDriver`] runs the real stream thread, tasks, stores and commits on an embedded log in memory, with a
//! clock that moves only when told.

mod driver;

pub use driver::{TestInput, TestOutput, TopologyTestDriver};
