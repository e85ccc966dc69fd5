//! When a turn begins and ends for the clock.
//!
//! It begins at the first look that shows a tenth of the source records committed and ends at the first that shows no lag;
//! the records between those two looks count. So the start of the process, the forming of the group, the opening of stores
//! and most of a JVM's warming up are nobody's burden, what has been committed by then is nobody's profit, and the
//! definition is the same for a JVM, a framework and a loop, none of which has to say anything.

use std::time::Duration;

use crate::lag::Seen;

/// One part in so many of the records does not count.
const WARM_UP_SHARE: u64 = 10;

#[derive(Debug)]
pub(super) struct Race {
    /// Records that must be committed for the clock to begin.
    warm_up: u64,
    begin: Option<(Duration, u64)>,
}

/// What a contestant did between the beginning and the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Finish {
    pub records: u64,
    pub time: Duration,
    /// From the start of the process to the end.
    pub whole: Duration,
}

impl Finish {
    pub fn records_per_second(self) -> f64 {
        records_f64(self.records) / self.time.as_secs_f64()
    }
}

/// What a look means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    Finished(Finish),
    /// Everything was done before a look showed that it had begun.
    TooShort,
}

impl Race {
    /// Over `total` source records.
    pub fn over(total: u64) -> Self {
        Self {
            warm_up: (total / WARM_UP_SHARE).max(1),
            begin: None,
        }
    }

    /// `at` counts from the start of the process.
    pub fn look(&mut self, at: Duration, seen: Seen) -> Verdict {
        match self.begin {
            None if seen.done => Verdict::TooShort,
            None => {
                if seen.committed >= self.warm_up {
                    self.begin = Some((at, seen.committed));
                }
                Verdict::GoOn
            }
            Some((begin, committed)) if seen.done => Verdict::Finished(Finish {
                records: seen.committed.saturating_sub(committed),
                time: at.saturating_sub(begin),
                whole: at,
            }),
            Some(_) => Verdict::GoOn,
        }
    }
}

fn records_f64(records: u64) -> f64 {
    u32::try_from(records).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(committed: u64, done: bool) -> Seen {
        Seen { committed, done }
    }

    #[test]
    fn the_first_tenth_does_not_count_and_neither_does_what_was_committed_when_it_was_seen() {
        let mut race = Race::over(1_000);
        let at = Duration::from_secs;
        assert_eq!(race.look(at(1), seen(99, false)), Verdict::GoOn);
        assert_eq!(race.look(at(2), seen(400, false)), Verdict::GoOn);
        assert_eq!(race.look(at(3), seen(1_000, false)), Verdict::GoOn);
        let finish = Finish {
            records: 600,
            time: at(3),
            whole: at(5),
        };
        assert_eq!(
            race.look(at(5), seen(1_000, true)),
            Verdict::Finished(finish)
        );
        assert!((finish.records_per_second() - 200.0).abs() < 1e-9);
    }

    #[test]
    fn a_turn_that_was_never_seen_under_way_is_no_measurement() {
        let mut race = Race::over(10);
        assert_eq!(race.look(Duration::ZERO, seen(10, true)), Verdict::TooShort);
    }
}
