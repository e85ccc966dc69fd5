//! `simulate`: seeds of the simulation, or the bugs that it must find.
#![expect(
    clippy::print_stdout,
    reason = "the answers of a command line go to standard output"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use processor_core::mutant::Mutant;
use processor_core::testing::simulation::Summary;
use simulation::{catalogue, mutants, report};

/// Runs topologies under faults, in virtual time, and compares what they commit with an undisturbed run
#[derive(Parser)]
#[command(name = "cargo xtask simulate")]
struct Args {
    /// First seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many seeds; with --mutants, how many a bug may take to be found
    #[arg(long)]
    seeds: Option<u64>,
    /// Put deliberate bugs into the instances, one after the other: each must be found
    #[arg(long)]
    mutants: bool,
    /// Of the bugs, only those whose name contains this
    #[arg(long, default_value = "", requires = "mutants")]
    only: String,
    /// Write a report, in Markdown, to this file
    #[arg(long)]
    report: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let (text, passed, failed) = if args.mutants {
        find_mutants(args.from, args.seeds.unwrap_or(500), &args.only)
    } else {
        run_seeds(args.from, args.seeds.unwrap_or(1_000))
    };
    print!("{text}");
    if let Some(path) = &args.report {
        std::fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{passed} passed, {failed} failed");
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn run_seeds(from: u64, seeds: u64) -> (String, u64, u64) {
    let mut summary = Summary::default();
    let mut failed = 0;
    for seed in from..from + seeds {
        let entry = catalogue::of_seed(seed);
        match entry.simulation().run_seed(seed) {
            Ok(of_seed) => summary.add(of_seed),
            Err(violation) => {
                failed += 1;
                println!("{}: {violation}", entry.name);
                println!("again: cargo xtask simulate --from {seed} --seeds 1\n");
            }
        }
        let done = seed - from + 1;
        if done.is_multiple_of(1_000) {
            eprintln!("{done} of {seeds} seeds, {failed} failed");
        }
    }
    (report::of_summary(&summary), summary.seeds, failed)
}

fn find_mutants(from: u64, seeds: u64, only: &str) -> (String, u64, u64) {
    let mut hunts = Vec::new();
    let chosen = |(mutant, _): &(Mutant, _)| format!("{mutant:?}").contains(only);
    for (mutant, what) in Mutant::ALL.into_iter().filter(chosen) {
        let hunt = mutants::hunt(mutant, what, from, seeds);
        match &hunt.caught {
            Some((seed, tried, violation)) => {
                eprintln!("{mutant:?}: seed {seed}, after {tried}: {violation}");
            }
            None => eprintln!("{mutant:?}: not found in {seeds} seeds"),
        }
        hunts.push(hunt);
    }
    let found = hunts.iter().filter(|hunt| hunt.caught.is_some()).count() as u64;
    let missed = hunts.len() as u64 - found;
    (report::of_hunts(&hunts), found, missed)
}
