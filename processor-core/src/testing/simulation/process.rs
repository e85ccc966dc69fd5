//! The life of a process: the real stream thread, on a log and a disk that the simulation can reach into.

use std::sync::Arc;
use std::time::Duration;

use crate::config::StreamsConfig;
use crate::log::ErrorClass;
use crate::runtime::{Pace, Round, Streams, StreamsError};
use crate::topology::Topology;

use super::client::SimulatedLog;
use super::disk::{Disk, MountedDisk};
use super::world::{Place, Report, SIMULATED};

/// Tells the conductor that a thread is at its end, however it came to it.
pub(super) struct Ends(pub(super) Place);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.world.state().lives[self.0.player].ended = true;
        self.0.world.baton.leave();
    }
}

/// Waits for the first turn, and lives until it is to leave, or fails.
pub(super) fn run(
    place: &Place,
    topology: Topology,
    config: StreamsConfig,
    disk: Disk,
) -> Result<(), StreamsError> {
    place.world.baton.wait_for_turn(place.player);
    let _ends = Ends(place.clone());
    #[cfg(feature = "mutants")]
    crate::mutant::enter(place.world.mutant);
    live(place, topology, config, disk)
}

fn live(
    place: &Place,
    topology: Topology,
    config: StreamsConfig,
    disk: Disk,
) -> Result<(), StreamsError> {
    let log = Arc::new(SimulatedLog::at(place.clone()));
    let database = Arc::new(MountedDisk {
        disk,
        place: place.clone(),
    });
    let mut streams = Streams::on(topology, config, log, Arc::new(place.clone()), database)?;
    let (mut broken_off, mut handed_over) = (0, 0);
    loop {
        if place.world.state().lives[place.player].leaving {
            return streams.close();
        }
        let thread = streams.inline()?;
        place.world.state().lives[place.player].works = true;
        let round = thread.round(Duration::ZERO, Pace::Interval)?;
        let quiescent =
            round == Round::Idle && place.undisturbed(|| thread.quiescent()).unwrap_or(false);
        let tasks = thread.task_count();
        let of_this_round = streams.restores_broken_off() - broken_off;
        broken_off += of_this_round;
        let copies = streams.copies_handed_over() - handed_over;
        handed_over += copies;
        {
            let mut state = place.world.state();
            state.counts.restores_broken_off += of_this_round;
            state.counts.copies_handed_over += copies;
            state.lives[place.player].report = Some(Report { quiescent, tasks });
        }
        place.pause()?;
    }
}

/// Whether a process may end with `error`: what was made up and cannot be repaired, what a fenced one has to do, and a last
/// commit that failed.
pub(super) fn may_stop(error: &StreamsError, works: bool, leaving: bool) -> bool {
    let class = match error {
        StreamsError::Log(error) => Some(error.class),
        StreamsError::Processing(fault) => fault.log_error().map(|error| error.class),
        _ => None,
    };
    match class {
        Some(ErrorClass::Fenced) => true,
        Some(ErrorClass::Abortable | ErrorClass::Uncertain) if leaving => true,
        Some(ErrorClass::Retriable | ErrorClass::Abortable | ErrorClass::Uncertain) if works => {
            false
        }
        _ => error.to_string().contains(SIMULATED),
    }
}
