//! How long an application with a large state is away when it is killed: from the start of its next process to the first new
//! result, ours and Kafka Streams'.
//!
//! ```text
//! arguments ─▶ arena: broker ─▶ input: one row of state for each user, then records at a steady rate
//!                                 │
//!               turn: fill ─▶ work ─▶ kill -9 ─▶ start again ─▶ first new committed result ─▶ work … ─▶ check
//!                                                                │
//!               report ◀──────────────────────────────────────── observer, a read-committed consumer of the bench
//! ```
//! A contestant is killed several times over the same state, and checked at the end: each user's results must be those that the
//! input says, each once.

mod arguments;
mod bench;
mod check;
mod contestant;
mod input;
mod kind;
mod observer;
mod ours;
mod report;
mod turn;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use arguments::{Arguments, Role};

/// Runs what the command line says.
pub fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.role {
        None => bench::run(&arguments.bench),
        Some(Role::Ours(job)) => ours::run(&job).map(|()| ExitCode::SUCCESS),
    }
}
