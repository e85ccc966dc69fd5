//! What all instances of a run share, and what each of them is in for.
//!
//! Only the thread that has the baton touches any of this, so no lock is ever waited for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, millis};
use crate::log::embedded::{EmbeddedLog, EndRequest};
use crate::log::{Consumer, ErrorClass, LogError, Offset, Producer, TopicPartition};
use crate::mutant::Mutant;

use super::baton::Baton;
use super::draw::Draw;
use super::fault::{Call, Fault, Side};
use super::pressure::Pressure;
use super::transactions::Ledger;

/// Says that an error was made up here.
pub(super) const SIMULATED: &str = "simulated:";

/// The wall clock of everybody, in epoch milliseconds.
#[derive(Debug, Clone, Default)]
pub(super) struct WallClock(Arc<AtomicI64>);

impl WallClock {
    pub(super) fn at(now_ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(now_ms)))
    }

    pub(super) fn jump(&self, by_ms: i64) {
        self.0.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for WallClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn pass(&self, duration: Duration) {
        self.jump(millis(duration));
    }
}

/// What an instance said at the end of its last round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Report {
    /// It did nothing, and has nothing left to do.
    pub quiescent: bool,
    /// How many tasks it runs.
    pub tasks: usize,
}

/// One life of an instance: from its start to its end or death.
#[derive(Debug)]
pub(super) struct Life {
    pub dead: bool,
    /// It has its clients, and from now on repairs what can be repaired.
    pub works: bool,
    /// It is to end in good order.
    pub leaving: bool,
    /// Not let play before this time.
    pub wakes_at_ms: i64,
    /// Faults that wait for their call.
    pub armed: Vec<Fault>,
    /// How often a commit still says that it is in flight.
    pub slow_polls: u8,
    /// Taken by the conductor.
    pub report: Option<Report>,
    pub ended: bool,
    /// For a bug: the ends of changelogs when they were first asked for.
    pub first_ends: BTreeMap<TopicPartition, Offset>,
    pub pressure: Pressure,
    draw: Draw,
    /// The checks at the end of a round are no part of it.
    undisturbed: bool,
}

impl Life {
    pub(super) fn new(draw: Draw, pressure: Pressure) -> Self {
        Self {
            dead: false,
            works: false,
            leaving: false,
            wakes_at_ms: i64::MIN,
            armed: Vec::new(),
            slow_polls: 0,
            report: None,
            ended: false,
            first_ends: BTreeMap::new(),
            pressure,
            draw,
            undisturbed: false,
        }
    }
}

/// Counts of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    /// Faults that came to pass, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Where instances died.
    pub crashes: BTreeMap<(Call, Side), u64>,
    /// Restores of tasks that were given up before their end, because their partitions were taken away.
    pub restores_broken_off: u64,
    /// Standby copies of tasks that were closed because the group gave the task to their instance.
    pub copies_handed_over: u64,
}

/// See the [module](self).
pub(super) struct World {
    pub baton: Baton,
    pub clock: WallClock,
    pub log: EmbeddedLog,
    /// A bug that all instances have.
    pub mutant: Option<Mutant>,
    state: Mutex<State>,
}

/// Clients of the dead: their members stay in the group until their session expires, and what their producers hold is
/// never sent.
#[derive(Default)]
pub(super) struct Graveyard {
    pub consumers: Vec<Box<dyn Consumer>>,
    pub producers: Vec<Box<dyn Producer>>,
}

/// What changes.
pub(super) struct State {
    /// By player.
    pub lives: Vec<Life>,
    pub counts: Counts,
    /// Requests to end a transaction that are still on their way.
    pub on_their_way: Vec<EndRequest>,
    pub graveyard: Graveyard,
    /// What instances have asked to commit.
    pub ledger: Ledger,
    /// What happened, for the report of a violation.
    pub story: Vec<String>,
}

impl World {
    pub(super) fn new(
        players: usize,
        log: EmbeddedLog,
        clock: WallClock,
        mutant: Option<Mutant>,
    ) -> Self {
        Self {
            baton: Baton::for_players(players),
            clock,
            log,
            mutant,
            state: Mutex::new(State {
                lives: (0..players)
                    .map(|_| Life::new(Draw::of(0), Pressure::default()))
                    .collect(),
                counts: Counts::default(),
                on_their_way: Vec::new(),
                graveyard: Graveyard::default(),
                ledger: Ledger::default(),
                story: Vec::new(),
            }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Something of this kind came to pass.
    pub(super) fn count(&mut self, fault: Fault) {
        *self.counts.faults.entry(fault.kind()).or_default() += 1;
    }

    pub(super) fn tell(&mut self, what: String) {
        self.story.push(what);
    }
}

/// An instance's place in the world.
#[derive(Clone)]
pub(super) struct Place {
    pub world: Arc<World>,
    pub player: usize,
}

impl Place {
    /// Comes to one side of a call: here the instance may be interrupted, die or be refused.
    pub(super) fn arrive(&self, call: Call, side: Side) -> Result<(), LogError> {
        {
            let mut state = self.world.state();
            let life = &mut state.lives[self.player];
            if life.dead {
                return Err(died());
            }
            if life.undisturbed {
                return Ok(());
            }
            if let Some(fault) = take(&mut life.armed, |fault| strikes(fault, call, side)) {
                state.count(fault);
                state.tell(format!("instance {}: {fault}", self.player));
                match fault {
                    Fault::Retriable(_) => return Err(refused(ErrorClass::Retriable)),
                    Fault::Abortable(_) => return Err(refused(ErrorClass::Abortable)),
                    Fault::Fatal(_) => return Err(refused(ErrorClass::Fatal)),
                    _ => {
                        state.lives[self.player].dead = true;
                        *state.counts.crashes.entry((call, side)).or_default() += 1;
                        return Err(died());
                    }
                }
            }
            let life = &mut state.lives[self.player];
            if !life.draw.one_in(life.pressure.yields_one_in) {
                return Ok(());
            }
        }
        self.pause()?;
        Ok(())
    }

    /// Lets the others play.
    pub(super) fn pause(&self) -> Result<(), LogError> {
        self.world.baton.hand_back(self.player);
        match self.world.state().lives[self.player].dead {
            true => Err(died()),
            false => Ok(()),
        }
    }

    /// What makes this run hard.
    pub(super) fn pressure(&self) -> Pressure {
        self.world.state().lives[self.player].pressure
    }

    /// How often the commit that begins now is still in flight when it is asked for.
    pub(super) fn delay_commit(&self) {
        let mut state = self.world.state();
        let life = &mut state.lives[self.player];
        let polls = life.draw.below(life.pressure.commit_polls + 1);
        life.slow_polls = u8::try_from(polls).unwrap_or(u8::MAX);
    }

    /// Whether one of so many chances came true.
    pub(super) fn one_in(&self, chances: u64) -> bool {
        self.world.state().lives[self.player].draw.one_in(chances)
    }

    /// One of `choices`.
    pub(super) fn one_of<T: Copy>(&self, choices: &[T]) -> T {
        *self.world.state().lives[self.player].draw.of_these(choices)
    }

    /// Takes an armed fault for which `is` holds.
    pub(super) fn take_armed(&self, is: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut state = self.world.state();
        let fault = take(&mut state.lives[self.player].armed, is)?;
        state.count(fault);
        state.tell(format!("instance {}: {fault}", self.player));
        Some(fault)
    }

    /// Runs `checks` without interruptions.
    pub(super) fn undisturbed<T>(&self, checks: impl FnOnce() -> T) -> T {
        self.world.state().lives[self.player].undisturbed = true;
        let result = checks();
        self.world.state().lives[self.player].undisturbed = false;
        result
    }

    /// Whether this instance has that bug.
    pub(super) fn has(&self, mutant: Mutant) -> bool {
        self.world.mutant == Some(mutant)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.world.state().lives[self.player].dead
    }
}

/// A clock at which to wait is to let the others play.
impl Clock for Place {
    fn now_ms(&self) -> i64 {
        self.world.clock.now_ms()
    }

    fn pass(&self, duration: Duration) {
        let wakes_at_ms = self.now_ms().saturating_add(millis(duration));
        {
            let mut state = self.world.state();
            let life = &mut state.lives[self.player];
            if life.dead || life.undisturbed {
                return;
            }
            life.wakes_at_ms = life.wakes_at_ms.max(wakes_at_ms);
        }
        // Who died meanwhile learns it at its next call.
        let _ = self.pause();
    }
}

fn strikes(fault: &Fault, call: Call, side: Side) -> bool {
    match fault {
        Fault::Crash(at, on) => *at == call && *on == side,
        Fault::Retriable(at) | Fault::Abortable(at) | Fault::Fatal(at) => {
            *at == call && side == Side::Before
        }
        _ => false,
    }
}

fn take(armed: &mut Vec<Fault>, is: impl Fn(&Fault) -> bool) -> Option<Fault> {
    let at = armed.iter().position(is)?;
    Some(armed.remove(at))
}

fn died() -> LogError {
    LogError::fatal(format!("{SIMULATED} the process is dead"))
}

fn refused(class: ErrorClass) -> LogError {
    LogError::new(class, format!("{SIMULATED} an error of class {class:?}"))
}

/// The error of a call whose answer did not come.
pub(super) fn no_answer() -> LogError {
    LogError::new(
        ErrorClass::Uncertain,
        format!("{SIMULATED} no answer came in time"),
    )
}
