//! Our framework, Kafka Streams and the bare client loop side by side on one real broker.
//!
//! A run is rounds of *turns*: in each turn one contestant works one workload off in a process of its own, watched from
//! outside through its committed offsets. Nothing of a contestant's own accounting enters the result.
//!
//! ```text
//! arguments ─▶ arena: broker, data set ─▶ schedule ─▶ turn ─┬─ child    process, CPU, memory
//!                                                           ├─ lag      committed offsets against ends
//!                                                           ├─ race     when it started, when it was done
//!                                                           └─ outcome  what it wrote, compared
//!                                                  report ◀─┘
//! ```

mod arguments;
mod bench;
mod contestant;
mod dataset;
mod ours;
mod outcome;
mod race;
mod raw;
mod report;
mod schedule;
mod turn;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use arguments::{Arguments, Role};

/// Runs what the command line says.
pub fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.role {
        None => bench::run(&arguments.bench),
        Some(Role::Ours(job)) => ours::run(&job),
        Some(Role::Raw(job)) => raw::run(&job),
    }
}
