//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use processor_core::Backend;

use super::contestant::Contestant;
use super::kind::Kind;

/// An application with a large state is killed and started again: how long until its next result?
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench restart",
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
    /// Keys and values of the state, in bytes
    #[arg(long, visible_alias = "bytes", default_value_t = 1_000_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub state_bytes: u64,
    /// What kind of state
    #[arg(long = "state", value_enum, default_value_t = Kind::Table)]
    pub kind: Kind,
    /// The storage engine of our stores: sled, fjall or redb. It is not the library's default, but what state of this size
    /// should take
    #[arg(long, default_value_t = Backend::Fjall)]
    pub backend: Backend,
    /// How often each contestant is killed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Only this contestant; may be repeated
    #[arg(long = "contestant", value_name = "NAME")]
    pub contestants: Vec<Contestant>,
    /// Records a second that go on coming, whoever is dead
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// Least time without lag before a kill, in ms; the seed draws up to as much on top
    #[arg(long, default_value_t = 10_000)]
    pub work_ms: u32,
    /// Patience with a restart, in seconds
    #[arg(long, default_value_t = 600)]
    pub patience: u64,
    /// Partitions of every topic
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: i32,
    /// Seed of the input and of the moments of the kills
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Keep what the contestants print in this directory
    #[arg(long, value_name = "DIRECTORY")]
    pub logs: Option<PathBuf>,
    /// The results as one JSON object on standard output, the table on standard error
    #[arg(long)]
    pub json: bool,
}

/// What the bench starts itself as.
#[derive(Debug, Subcommand)]
pub(super) enum Role {
    /// The application on our framework, until SIGTERM
    #[command(hide = true)]
    Ours(Job),
}

/// What a contestant is told.
#[derive(Debug, Clone, Args)]
pub(super) struct Job {
    pub bootstrap: String,
    /// Also its consumer group, and the prefix of its internal topics.
    pub application_id: String,
    pub state_dir: PathBuf,
    pub output: String,
    pub backend: Backend,
    #[arg(value_enum)]
    pub kind: Kind,
}
