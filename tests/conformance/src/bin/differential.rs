//! Random topologies on this project and on Kafka Streams, compared record by record: `cargo xtask conformance`.
#![expect(
    clippy::print_stdout,
    reason = "the report of a command line goes there"
)]

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use conformance::case::Store;
use conformance::differential::{FAMILIES, generated};
use xtask::oracle::Draw;

/// Run random topologies on this project and on Kafka Streams and compare what comes out, record by record
#[derive(Parser)]
#[command(name = "cargo xtask conformance")]
struct Cli {
    /// How many
    #[arg(long, default_value_t = 1_000)]
    cases: usize,
    /// The same seed gives the same cases
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where our side keeps its state; Kafka Streams uses RocksDB where we use sled
    #[arg(long, value_enum, default_value = "memory")]
    store: Store,
    /// Families of cases to draw from
    #[arg(long, value_delimiter = ',', default_values_t = FAMILIES.map(str::to_owned))]
    ops: Vec<String>,
    /// How many differences to show
    #[arg(long, default_value_t = 3)]
    show: usize,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let draw = Draw {
        seed: cli.seed,
        cases: cli.cases,
        families: cli.ops,
        store: cli.store.of_kafka_streams(),
    };
    let report = generated(&draw, cli.store)?;
    println!("seed {}, {} cases", draw.seed, draw.cases);
    println!("{:<14}{:>10}{:>10}", "family", "agreed", "differing");
    print!("{report}");
    for difference in report.differences.iter().take(cli.show) {
        println!(
            "\n{}: {}\n{}",
            difference.name, difference.what, difference.case
        );
    }
    Ok(if report.differences.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
