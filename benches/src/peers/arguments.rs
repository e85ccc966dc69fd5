//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::workload::Workload;

/// Our framework, Kafka Streams and the bare client loop side by side on one real broker
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench peers",
    args_conflicts_with_subcommands = true
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub role: Option<Role>,
    #[command(flatten)]
    pub bench: BenchArguments,
}

#[derive(Debug, Args)]
pub(super) struct BenchArguments {
    /// Impressions of the data set; there are about a fifth as many clicks
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub records: u64,
    /// Rounds; each gives every contestant one turn at every workload
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Only this workload; may be repeated
    #[arg(long = "workload", value_name = "NAME")]
    pub workloads: Vec<Workload>,
    /// Partitions of every topic
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: i32,
    /// Seed of the data set
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The results as one JSON object on standard output, the table on standard error
    #[arg(long)]
    pub json: bool,
}

/// What the bench starts itself as.
#[derive(Debug, Subcommand)]
pub(super) enum Role {
    /// The workload on our framework, until SIGTERM
    #[command(hide = true)]
    Ours(Job),
    /// The bare loop over the workload's inputs, until SIGTERM
    #[command(hide = true)]
    Raw(Job),
}

/// One turn, as a contestant is told of it.
#[derive(Debug, Clone, Args)]
pub(super) struct Job {
    pub workload: Workload,
    pub bootstrap: String,
    /// Also its consumer group, and the prefix of its internal topics.
    pub application_id: String,
    pub state_dir: PathBuf,
    pub output: String,
}
