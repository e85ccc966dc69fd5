//! The bench itself: every contestant, every workload, in alternating rounds.

use anyhow::{Context, Result};

use crate::arena::Arena;
use crate::stopwatch::Stopwatch;
use crate::termination::Termination;

use super::arguments::BenchArguments;
use super::contestant::Contestant;
use super::dataset;
use super::report::{Report, WorkloadReport};
use super::schedule;
use super::turn::{Expected, Measurement, Turn};
use super::workload::Workload;

/// Runs it and prints the results.
pub(super) fn run(arguments: &BenchArguments) -> Result<()> {
    let termination = Termination::watch()?;
    let workloads = match arguments.workloads.as_slice() {
        [] => &Workload::ALL[..],
        chosen => chosen,
    };
    let arena = Arena::open(arguments.partitions)?;
    load(&arena, arguments)?;
    let mut report = Report::default();
    for &workload in workloads {
        report.add(contest(&arena, workload, arguments.rounds, &termination)?);
    }
    drop(arena);
    report.print(arguments.json)
}

fn load(arena: &Arena, arguments: &BenchArguments) -> Result<()> {
    let watch = Stopwatch::start();
    let events = dataset::events(arguments.seed, arguments.records);
    let written = dataset::load(arena.log(), arguments.partitions, events)?;
    eprintln!(
        "broker at {}; {written} records loaded in {:.1} s (seed {})",
        arena.bootstrap(),
        watch.elapsed().as_secs_f64(),
        arguments.seed
    );
    Ok(())
}

fn contest(
    arena: &Arena,
    workload: Workload,
    rounds: u32,
    termination: &Termination,
) -> Result<WorkloadReport> {
    let contestants = Contestant::of(workload);
    let mut expected = Expected::of(arena, workload)?;
    let mut report = WorkloadReport::new(workload);
    for round in 0..rounds {
        for contestant in schedule::order(&contestants, round) {
            let turn = Turn {
                workload,
                contestant,
                round,
            };
            let measurement = turn
                .run(arena, &mut expected, termination)
                .with_context(|| format!("{workload}, {contestant}, round {}", round + 1))?;
            say(turn, &measurement);
            report.add(contestant, measurement);
        }
    }
    Ok(report)
}

fn say(turn: Turn, measurement: &Measurement) {
    let Measurement { finish, usage } = measurement;
    eprintln!(
        "{:<10} round {} {:<22} {:>9.0} records/s  {:>5.1} s measured, {:>5.1} s in all  {:>6.1} CPU s  {:>6.0} MiB",
        turn.workload,
        turn.round + 1,
        turn.contestant,
        finish.records_per_second(),
        finish.time.as_secs_f64(),
        finish.whole.as_secs_f64(),
        usage.cpu_seconds,
        usage.peak_resident_mib
    );
}
