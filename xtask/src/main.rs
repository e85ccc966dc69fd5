//! `cargo xtask`: the tasks of this repository.
#![expect(
    clippy::print_stdout,
    reason = "the answers of a command line go to standard output"
)]

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use xtask::checks::{self, Extent};
use xtask::jars::KAFKA_VERSION;
use xtask::local::Local;
use xtask::{oracle, peers, repo};

/// Tasks of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything CI checks: format, licences, clippy, docs, all tests, real Kafka included
    Test {
        /// Also the long tests, those marked #[ignore]
        #[arg(long)]
        full: bool,
    },
    /// Start a real Kafka broker on this machine (fetches it from Maven Central the first time)
    Up {
        /// The version to run
        #[arg(long, default_value = KAFKA_VERSION)]
        kafka_version: String,
        /// Where its data, log and pid file are [default: .deps/run]
        #[arg(long)]
        run_dir: Option<PathBuf>,
    },
    /// Stop the broker that `up` started; its topics stay
    Down {
        /// As given to `up`
        #[arg(long)]
        run_dir: Option<PathBuf>,
        /// Remove its topics too
        #[arg(long)]
        wipe: bool,
    },
    /// Say whether the broker runs and where
    Status {
        /// As given to `up`
        #[arg(long)]
        run_dir: Option<PathBuf>,
    },
    /// Three instances on a real broker under faults of every kind: is anything lost, repeated or wrong?
    #[command(disable_help_flag = true)]
    Chaos {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Kill the platform at random moments over a large input and compare what it commits with an undisturbed run
    #[command(disable_help_flag = true)]
    Kills {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run topologies under faults in virtual time, seed by seed, or look whether deliberate bugs are found (--mutants)
    #[command(disable_help_flag = true)]
    Simulate {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run random topologies on this project and on Kafka Streams and compare what comes out, record by record
    #[command(disable_help_flag = true)]
    Conformance {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// This project, Kafka Streams and the bare client loop side by side; arguments go to the bench
    #[command(disable_help_flag = true)]
    Peers {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Kill an application with a large state and start it again: how long until its next result, here and on Kafka Streams
    #[command(disable_help_flag = true)]
    Restart {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Test { full } => {
            let extent = if full { Extent::Full } else { Extent::Usual };
            return Ok(if checks::run(extent) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Task::Up {
            kafka_version,
            run_dir,
        } => println!("{}", Local::at(run_dir).up(&kafka_version)?),
        Task::Down { run_dir, wipe } => {
            let local = Local::at(run_dir);
            println!("{}", local.down()?);
            if wipe {
                local.wipe()?;
            }
        }
        Task::Status { run_dir } => println!("{}", Local::at(run_dir).status()?),
        Task::Chaos { args } => return released("e2e", "chaos", &args),
        Task::Kills { args } => return released("e2e", "kills", &args),
        Task::Simulate { args } => return released("simulation", "simulate", &args),
        Task::Conformance { args } => {
            oracle::compile()?;
            return released("conformance", "differential", &args);
        }
        Task::Bench(Bench::Peers { args }) => {
            peers::compile()?;
            return released("bench-suite", "peers", &args);
        }
        Task::Bench(Bench::Restart { args }) => {
            peers::compile()?;
            return released("bench-suite", "restart", &args);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds all binaries of `package` for release and runs `binary` of them.
fn released(package: &str, binary: &str, args: &[String]) -> Result<ExitCode> {
    let built = Command::new("cargo")
        .args(["build", "--release", "--package", package, "--bins"])
        .current_dir(repo::root())
        .stdin(Stdio::null())
        .status()
        .context("cannot run cargo")?;
    if !built.success() {
        return Ok(ExitCode::FAILURE);
    }
    let status = Command::new("cargo")
        .args(["run", "--quiet", "--release", "--package", package])
        .args(["--bin", binary, "--"])
        .args(args)
        .current_dir(repo::root())
        .stdin(Stdio::null())
        .status()
        .context("cannot run cargo")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
