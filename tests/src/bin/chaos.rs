//! Faults of every kind against three instances of the platform on a real broker, and what they have committed after it.
#![expect(
    clippy::print_stdout,
    reason = "the report of a command line goes there"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use e2e::chaos::Chaos;

/// Three instances on a real Kafka broker under steady load and seeded faults: what they commit must be what an undisturbed
/// run of the same input commits
#[derive(Parser)]
#[command(name = "cargo xtask chaos")]
struct Cli {
    /// How long there are load and faults
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Of the input and of the faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Milliseconds from one fault to the next, about
    #[arg(long, default_value_t = 7_000)]
    pace: u64,
    /// Impressions a second
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Print the report as one JSON object; `faults` has how often each kind struck
    #[arg(long)]
    json: bool,
    /// Where input, logs and state go, and stay [default: a temporary directory]
    #[arg(long)]
    directory: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let temporary = tempfile::tempdir().context("cannot make a temporary directory")?;
    let chaos = Chaos {
        binary: std::env::current_exe()
            .context("cannot find the binaries")?
            .with_file_name("advertisex-e2e"),
        directory: cli.directory.unwrap_or_else(|| temporary.path().to_owned()),
        total_ms: cli.minutes * 60_000,
        pace_ms: cli.pace,
        rate: cli.rate,
        seed: cli.seed,
    };
    let report = chaos.run()?;
    eprint!("{}", report.table);
    if cli.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!(
            "seed {}: {} faults in {} minutes; {} records in, {} out: {} lost, {} duplicated, {} wrong; recovery {} ms \
             (median), {} ms (longest)",
            cli.seed,
            report.faults.values().sum::<u64>(),
            cli.minutes,
            report.records_in,
            report.records_out,
            report.lost,
            report.duplicated,
            report.wrong,
            report.recovery_ms_p50,
            report.recovery_ms_max
        );
    }
    for violation in &report.violations {
        eprintln!("violation: {violation}");
    }
    Ok(report.exit_code())
}
