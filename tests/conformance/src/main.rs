//! Runs cases in the format of `SPEC.md`: one JSON object a line from standard input, one result a line to standard
//! output.
#![expect(clippy::print_stdout, reason = "that is where the results go")]

use std::io::{BufRead as _, stdin};

use anyhow::{Context as _, Result};
use clap::Parser;
use conformance::case::{Case, Store};
use conformance::run::run;

/// Run topologies described as JSON lines on this project's DSL and test driver
#[derive(Parser)]
#[command(name = "conformance")]
struct Cli {
    /// Where state is kept, whatever the cases say
    #[arg(long, value_enum)]
    store: Option<Store>,
}

fn main() -> Result<()> {
    let store = Cli::parse().store;
    for (number, line) in stdin().lock().lines().enumerate() {
        let line = line.context("cannot read standard input")?;
        if line.trim().is_empty() {
            continue;
        }
        let case: Case = serde_json::from_str(&line)
            .with_context(|| format!("line {} is not a case", number + 1))?;
        let result = run(&case, store.unwrap_or(case.store))?;
        println!("{}", serde_json::to_string(&result)?);
    }
    Ok(())
}
