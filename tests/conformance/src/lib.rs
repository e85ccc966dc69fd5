//! Conformance with Kafka Streams: topologies described as JSON run on the public DSL and test driver of this project and
//! on the real Kafka Streams (`Oracle.java`), and what comes out is compared record by record. `SPEC.md` has the format.
//!
//! It tells where results differ for some input; it does not prove that they never do.

pub mod case;
pub mod differential;
mod functions;
mod interpreter;
pub mod run;
