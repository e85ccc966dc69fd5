//! Kills the platform again and again over a large input and compares what it commits with an undisturbed run.
#![expect(
    clippy::print_stdout,
    reason = "the report of a command line goes there"
)]

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use e2e::kills::Kills;

/// Kill the platform at random moments and compare its committed results with an undisturbed run
#[derive(Parser)]
#[command(name = "cargo xtask kills")]
struct Cli {
    /// Where it runs
    #[arg(long, value_enum, default_value = "embedded")]
    log: On,
    /// Impressions of the generated input
    #[arg(long, default_value_t = 1_000_000)]
    impressions: u64,
    /// How often to kill
    #[arg(long, default_value_t = 20)]
    kills: u64,
    /// Of the input and of the moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where input, logs and state go, and stay [default: a temporary directory]
    #[arg(long)]
    directory: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum On {
    /// The embedded log, one process
    Embedded,
    /// A real Kafka broker, two instances
    Kafka,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let temporary = tempfile::tempdir().context("cannot make a temporary directory")?;
    let kills = Kills {
        binary: std::env::current_exe()
            .context("cannot find the binaries")?
            .with_file_name("advertisex-e2e"),
        directory: cli.directory.unwrap_or_else(|| temporary.path().to_owned()),
        impressions: cli.impressions,
        kills: cli.kills,
        seed: cli.seed,
    };
    eprintln!(
        "seed {}, {} kills over {} impressions on {:?}",
        cli.seed, cli.kills, cli.impressions, cli.log
    );
    let report = match cli.log {
        On::Embedded => kills.on_embedded_log()?,
        On::Kafka => kills.on_kafka()?,
    };
    println!(
        "{:?}, seed {}: {} records, {} kills; undisturbed {:.1} s, disturbed {:.1} s",
        cli.log,
        cli.seed,
        report.records,
        report.kills,
        seconds(report.undisturbed_ms),
        seconds(report.disturbed_ms)
    );
    println!("committed, the same multiset in both runs:");
    for (topic, records) in report.committed {
        println!("  {topic:<20}{records:>12}");
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds(ms: u128) -> f64 {
    ms as f64 / 1_000.0
}
