//! The bench itself: one contestant after the other, over one input.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::arena::Arena;
use crate::stopwatch::Stopwatch;
use crate::termination::Termination;

use super::arguments::BenchArguments;
use super::contestant::Contestant;
use super::input::{Users, fill};
use super::report::Report;
use super::turn::Turn;

/// Runs it and prints the results. Fails when ours does; a failure of another contestant is a result.
pub(super) fn run(arguments: &BenchArguments) -> Result<ExitCode> {
    let termination = Termination::watch()?;
    if let Some(logs) = &arguments.logs {
        fs::create_dir_all(logs).with_context(|| format!("cannot create {}", logs.display()))?;
    }
    let contestants = match arguments.contestants.as_slice() {
        [] => &Contestant::ALL[..],
        chosen => chosen,
    };
    let users = Users::with_state_of(arguments.kind, arguments.state_bytes)?;
    let arena = Arena::open(arguments.partitions)?;
    let watch = Stopwatch::start();
    let state_bytes = fill(
        arena.log(),
        arguments.kind,
        users,
        arguments.seed,
        arguments.partitions,
        &termination,
    )?;
    eprintln!(
        "broker at {}; {} users with {state_bytes} bytes of state, loaded in {:.1} s",
        arena.bootstrap(),
        users.count,
        watch.elapsed().as_secs_f64()
    );
    let mut report = Report::new(arguments.kind, arguments.backend, state_bytes);
    for &contestant in contestants {
        let turn = Turn {
            arena: &arena,
            arguments,
            contestant,
            users,
            termination: &termination,
        };
        let (restarts, failure) = turn.run()?;
        report.add(contestant, restarts, failure);
    }
    drop(arena);
    report.print(arguments.json);
    Ok(match report.failed(Contestant::Ours) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}
