//! Topologies under faults in virtual time: see [`processor_core::testing::simulation`].

pub mod catalogue;
pub mod mutants;
pub mod report;
