//! When an input counts as idle: the log says that there is nothing more, and the wall clock has moved since.
//!
//! This is the one place where the wall clock has a say in results, and only for inputs that ask for it. What comes of it
//! is committed: the time that an idle input has come to travels with the offsets, and what readers of a repartition topic
//! are told is a record there. So it is decided once. After a restart what was idle still is, and the clock starts anew.

use std::cell::Cell;
use std::rc::Rc;

use crate::log::{Offset, Timestamp};
use crate::processor::NO_TIME;

/// When there was something yet, how long until the log is asked again.
const AGAIN_MS: i64 = 100;

/// What a source says about idleness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdleRule {
    /// How long nothing must have come, by the wall clock.
    pub after_ms: i64,
    pub meanwhile: Meanwhile,
}

/// What event time does while an input is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meanwhile {
    /// It stands still.
    Stands,
    /// It goes on with the wall clock.
    GoesOn,
}

/// The idleness of one partition.
pub(crate) struct Idleness {
    rule: IdleRule,
    /// Time of the partition: its largest timestamp, or what the clock has made of it.
    time: Rc<Cell<Timestamp>>,
    /// Whether it is idle: −1 if not. Survives with the times of the task.
    idle: Rc<Cell<Timestamp>>,
    /// Since when nothing has come.
    quiet: Option<Quiet>,
}

/// Says that an input, or an upstream task, is idle, among the times of a task.
pub(crate) const IDLE: Timestamp = 0;

#[derive(Debug, Clone, Copy)]
struct Quiet {
    /// Where the input stands.
    at: Option<Offset>,
    /// Since when, by the wall clock.
    since_ms: i64,
    /// The partition's time then.
    time: Timestamp,
    /// When to look again.
    due_ms: i64,
}

impl Idleness {
    pub(crate) fn new(
        rule: IdleRule,
        time: Rc<Cell<Timestamp>>,
        idle: Rc<Cell<Timestamp>>,
    ) -> Self {
        Self {
            rule,
            time,
            idle,
            quiet: None,
        }
    }

    /// Looks at an input that stands `at` an offset, with nothing buffered if it is `drained`. `is_at_end` asks the log, so
    /// it is not called before the clock has moved far enough, and then once in every such interval.
    pub(crate) fn look(
        &mut self,
        wall_ms: i64,
        at: Option<Offset>,
        drained: bool,
        is_at_end: &mut dyn FnMut() -> bool,
    ) {
        let after_ms = self.rule.after_ms;
        let starts = self.quiet.is_none();
        let quiet = self.quiet.filter(|quiet| drained && quiet.at == at);
        let Some(quiet) = quiet else {
            // Before the first look nothing has been read, so what was idle is so still unless something waits.
            if !starts || !drained {
                self.idle.set(NO_TIME);
            }
            self.quiet = Some(Quiet {
                at,
                since_ms: wall_ms,
                time: self.time.get(),
                due_ms: wall_ms.saturating_add(after_ms),
            });
            return;
        };
        if wall_ms < quiet.due_ms {
            return;
        }
        if !is_at_end() {
            self.quiet = Some(Quiet {
                due_ms: wall_ms.saturating_add(after_ms.min(AGAIN_MS)),
                ..quiet
            });
            return;
        }
        self.idle.set(IDLE);
        self.quiet = Some(Quiet {
            due_ms: wall_ms.saturating_add(after_ms),
            ..quiet
        });
        if self.rule.meanwhile == Meanwhile::GoesOn && quiet.time != NO_TIME {
            let time = quiet.time.saturating_add(wall_ms - quiet.since_ms);
            self.time.set(time.max(self.time.get()));
        }
    }

    /// How far time has come without records, if the input is idle; −1 if it stands still.
    pub(crate) fn idle(&self) -> Option<Timestamp> {
        (self.idle.get() == IDLE).then(|| match self.rule.meanwhile {
            Meanwhile::Stands => NO_TIME,
            Meanwhile::GoesOn => self.time.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idleness(meanwhile: Meanwhile, time: Timestamp) -> Idleness {
        let rule = IdleRule {
            after_ms: 100,
            meanwhile,
        };
        Idleness::new(rule, Rc::new(Cell::new(time)), Rc::new(Cell::new(NO_TIME)))
    }

    /// Looks at these moments at an input that stands at offset 5 and has nothing more.
    fn at_end(idleness: &mut Idleness, moments: &[i64]) -> Vec<Option<Timestamp>> {
        moments
            .iter()
            .map(|&wall_ms| {
                idleness.look(wall_ms, Some(5), true, &mut || true);
                idleness.idle()
            })
            .collect()
    }

    #[test]
    fn an_input_is_idle_when_the_clock_has_moved_by_the_bound_and_time_goes_on_in_its_steps() {
        let mut it = idleness(Meanwhile::GoesOn, 1_000);
        let times = at_end(&mut it, &[50, 149, 150, 200, 251]);
        assert_eq!(times, [None, None, Some(1_100), Some(1_100), Some(1_201)]);
        let mut it = idleness(Meanwhile::Stands, 1_000);
        assert_eq!(at_end(&mut it, &[0, 100, 200]), [None, Some(-1), Some(-1)]);
    }

    #[test]
    fn time_that_never_began_does_not_go_on() {
        let mut it = idleness(Meanwhile::GoesOn, NO_TIME);
        assert_eq!(at_end(&mut it, &[0, 100]), [None, Some(NO_TIME)]);
    }

    #[test]
    fn a_record_or_a_log_with_more_to_come_keeps_an_input_from_being_idle() {
        let mut it = idleness(Meanwhile::GoesOn, 1_000);
        at_end(&mut it, &[0, 100]);
        // It has moved on: the clock starts anew.
        it.look(150, Some(6), true, &mut || panic!("too early to ask"));
        assert_eq!(it.idle(), None);
        it.look(200, Some(6), true, &mut || panic!("too early to ask"));
        it.look(250, Some(6), true, &mut || false);
        assert_eq!(it.idle(), None);
        // Something waits in the queue.
        it.look(400, Some(6), false, &mut || panic!("nothing to ask"));
        it.look(450, Some(6), true, &mut || panic!("too early to ask"));
        assert_eq!(it.idle(), None);
    }

    #[test]
    fn what_was_idle_before_a_restart_is_so_until_a_record_comes() {
        let restarted = || {
            let it = idleness(Meanwhile::GoesOn, 1_000);
            it.idle.set(IDLE);
            it
        };
        let mut it = restarted();
        let times = at_end(&mut it, &[5_000, 5_099, 5_100]);
        assert_eq!(times, [Some(1_000), Some(1_000), Some(1_100)]);
        let mut it = restarted();
        it.look(5_000, None, true, &mut || true);
        it.look(5_001, Some(6), true, &mut || true);
        assert_eq!(it.idle(), None);
        let mut it = restarted();
        it.look(5_000, None, false, &mut || true);
        assert_eq!(it.idle(), None);
    }

    #[test]
    fn the_log_is_asked_once_in_each_interval_while_it_is_idle() {
        let mut it = idleness(Meanwhile::Stands, 0);
        let mut asked = Vec::new();
        for wall_ms in (0..=450).step_by(10) {
            it.look(wall_ms, None, true, &mut || {
                asked.push(wall_ms);
                true
            });
        }
        assert_eq!(asked, [100, 200, 300, 400]);
    }
}
