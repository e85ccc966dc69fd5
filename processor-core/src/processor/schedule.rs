//! Punctuations: when they are due, and which ones a processor has.
//!
//! A schedule is a grid of instants, `start + n * interval`. It fires once however many of them have passed, with the
//! time it is now, and goes on at the next instant of the grid.

use std::time::Duration;

use crate::clock::millis;
use crate::log::Timestamp;

use super::NO_TIME;

/// When a punctuation is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Punctuation {
    /// At every multiple of the interval in stream time, first at the first record. However many are due, it fires
    /// once, with the current stream time.
    StreamTime(Duration),
    /// At every multiple of the interval in wall-clock time, first after one interval. Fires once, with the time now.
    WallClock(Duration),
    /// In stream time at `start`, in epoch milliseconds, and at every interval after it.
    StreamTimeFrom {
        /// The first instant, in epoch milliseconds.
        start: Timestamp,
        /// Between two instants.
        interval: Duration,
    },
    /// In wall-clock time at `start`, in epoch milliseconds, and at every interval after it. Where `start` has passed,
    /// the first is the next that lies on its grid: at every full hour, say, whenever the application is started.
    WallClockFrom {
        /// The first instant, in epoch milliseconds.
        start: Timestamp,
        /// Between two instants.
        interval: Duration,
    },
    /// When a bounded run has read all there is. What is forwarded then stands for "if nothing more came": state
    /// must stay as it is, since a later run goes on with more input.
    EndOfInput,
}

/// A schedule of a processor, to tell its punctuations apart and to cancel it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScheduleId(u64);

/// A punctuation that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Punctuated {
    /// When it is due.
    pub schedule: Punctuation,
    /// Which schedule, as it was returned when it was asked for.
    pub id: ScheduleId,
    /// Stream time or wall-clock time at the moment of firing, in epoch milliseconds.
    pub time: Timestamp,
}

/// The schedules of a processor, in the order in which they were made.
#[derive(Default)]
pub(crate) struct Schedules {
    live: Vec<Schedule>,
    made: u64,
}

impl Schedules {
    /// A schedule of a task that starts, or starts again, at `stream_time`: it has fired for all that lies before. The
    /// wall clock is not known yet.
    pub(crate) fn add_at_start(
        &mut self,
        punctuation: Punctuation,
        stream_time: Timestamp,
    ) -> ScheduleId {
        let next = match Grid::of(punctuation) {
            Some((Clock::Stream, grid)) => Some(grid.after(stream_time)),
            Some((Clock::Wall, _)) | None => None,
        };
        self.add(punctuation, next)
    }

    /// A schedule that is made while the task runs: it fires for what lies ahead.
    pub(crate) fn add_now(
        &mut self,
        punctuation: Punctuation,
        stream_time: Timestamp,
        wall_ms: i64,
    ) -> ScheduleId {
        let next = match Grid::of(punctuation) {
            Some((Clock::Stream, grid)) => Some(grid.after(stream_time)),
            Some((Clock::Wall, grid)) => Some(grid.first_on_wall(punctuation, wall_ms)),
            None => None,
        };
        self.add(punctuation, next)
    }

    fn add(&mut self, punctuation: Punctuation, next: Option<Timestamp>) -> ScheduleId {
        let id = ScheduleId(self.made);
        self.made += 1;
        self.live.push(Schedule {
            id,
            punctuation,
            next,
        });
        id
    }

    /// Ends a schedule; whether it was there.
    pub(crate) fn cancel(&mut self, id: ScheduleId) -> bool {
        let before = self.live.len();
        self.live.retain(|schedule| schedule.id != id);
        self.live.len() < before
    }

    /// The first schedule behind `last` that is due, moved to the next instant of its grid. Firing one may make and
    /// cancel others, so they are asked for one by one.
    pub(crate) fn next_due(
        &mut self,
        last: Option<ScheduleId>,
        stream_time: Timestamp,
        wall_ms: i64,
    ) -> Option<Punctuated> {
        self.behind(last).find_map(|schedule| {
            let time = schedule.due(stream_time, wall_ms)?;
            Some(schedule.punctuated(time))
        })
    }

    /// The first schedule behind `last` that waits for the end of input.
    pub(crate) fn next_end_of_input(
        &mut self,
        last: Option<ScheduleId>,
        stream_time: Timestamp,
    ) -> Option<Punctuated> {
        self.behind(last)
            .find(|schedule| schedule.punctuation == Punctuation::EndOfInput)
            .map(|schedule| schedule.punctuated(stream_time))
    }

    fn behind(&mut self, last: Option<ScheduleId>) -> impl Iterator<Item = &mut Schedule> {
        let schedules = self.live.iter_mut();
        schedules.filter(move |schedule| last.is_none_or(|last| schedule.id > last))
    }
}

struct Schedule {
    id: ScheduleId,
    punctuation: Punctuation,
    /// `None` until the wall clock is known.
    next: Option<Timestamp>,
}

impl Schedule {
    /// The time it fires with, if it is due; moves it on.
    fn due(&mut self, stream_time: Timestamp, wall_ms: i64) -> Option<Timestamp> {
        let (clock, grid) = Grid::of(self.punctuation)?;
        let (now, next) = match clock {
            Clock::Stream if stream_time == NO_TIME => return None,
            Clock::Stream => (stream_time, self.next?),
            Clock::Wall => {
                let first = || grid.first_on_wall(self.punctuation, wall_ms);
                (wall_ms, *self.next.get_or_insert_with(first))
            }
        };
        if now < next {
            return None;
        }
        self.next = Some(
            Grid {
                start: next,
                ..grid
            }
            .after(now),
        );
        Some(now)
    }

    fn punctuated(&self, time: Timestamp) -> Punctuated {
        Punctuated {
            schedule: self.punctuation,
            id: self.id,
            time,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Clock {
    Stream,
    Wall,
}

/// The instants `start + n * interval_ms`.
#[derive(Clone, Copy)]
struct Grid {
    start: Timestamp,
    interval_ms: i64,
}

impl Grid {
    fn of(punctuation: Punctuation) -> Option<(Clock, Self)> {
        let (clock, start, interval) = match punctuation {
            Punctuation::StreamTime(interval) => (Clock::Stream, 0, interval),
            Punctuation::WallClock(interval) => (Clock::Wall, 0, interval),
            Punctuation::StreamTimeFrom { start, interval } => (Clock::Stream, start, interval),
            Punctuation::WallClockFrom { start, interval } => (Clock::Wall, start, interval),
            Punctuation::EndOfInput => return None,
        };
        let interval_ms = millis(interval).max(1);
        Some((clock, Self { start, interval_ms }))
    }

    /// The first instant after `now`.
    fn after(self, now: Timestamp) -> Timestamp {
        if now < self.start {
            return self.start;
        }
        let passed = (now - self.start) / self.interval_ms;
        let next = (passed + 1).saturating_mul(self.interval_ms);
        self.start.saturating_add(next)
    }

    /// The first instant for a schedule of the wall clock that is made at `wall_ms`.
    fn first_on_wall(self, punctuation: Punctuation, wall_ms: i64) -> Timestamp {
        match punctuation {
            Punctuation::WallClock(_) => wall_ms.saturating_add(self.interval_ms),
            _ => self.after(wall_ms - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_millis(10);

    /// What one schedule fires with, at each of these stream and wall-clock times.
    fn fired(
        punctuation: Punctuation,
        restored: Timestamp,
        times: &[(Timestamp, i64)],
    ) -> Vec<Option<Timestamp>> {
        let mut schedules = Schedules::default();
        schedules.add_at_start(punctuation, restored);
        let mut fire = |&(stream, wall)| Some(schedules.next_due(None, stream, wall)?.time);
        times.iter().map(&mut fire).collect()
    }

    #[test]
    fn stream_time_fires_at_the_first_record_and_then_on_its_grid_once() {
        let times = [(-1, 0), (3, 0), (9, 0), (10, 0), (47, 0), (49, 0), (50, 0)];
        let fired = fired(Punctuation::StreamTime(TEN), NO_TIME, &times);
        let expected = [None, Some(3), None, Some(10), Some(47), None, Some(50)];
        assert_eq!(fired, expected);
    }

    #[test]
    fn a_schedule_that_starts_again_goes_on_where_it_was() {
        let first = |restored| {
            let times: Vec<_> = (0..=20).map(|time| (time, 0)).collect();
            let fired = fired(Punctuation::StreamTime(TEN), restored, &times);
            fired.into_iter().flatten().next()
        };
        assert_eq!(first(NO_TIME), Some(0));
        assert_eq!(first(0), Some(10));
        assert_eq!(first(9), Some(10));
        assert_eq!(first(10), Some(20));
    }

    #[test]
    fn wall_clock_fires_after_one_interval_and_once_after_a_gap() {
        let times = [(-1, 5), (-1, 14), (-1, 15), (-1, 48), (-1, 54), (-1, 55)];
        let fired = fired(Punctuation::WallClock(TEN), NO_TIME, &times);
        assert_eq!(fired, [None, None, Some(15), Some(48), None, Some(55)]);
    }

    #[test]
    fn an_anchored_stream_time_fires_from_its_start_on_its_own_grid() {
        let anchored = Punctuation::StreamTimeFrom {
            start: 13,
            interval: TEN,
        };
        let times = [(0, 0), (12, 0), (13, 0), (22, 0), (23, 0), (60, 0), (63, 0)];
        let expected = [None, None, Some(13), None, Some(23), Some(60), Some(63)];
        assert_eq!(fired(anchored, NO_TIME, &times), expected);
        // Restarted at 13, it has fired for that.
        assert_eq!(fired(anchored, 13, &times[3..5]), [None, Some(23)]);
    }

    #[test]
    fn an_anchored_wall_clock_whose_start_has_passed_begins_on_its_grid() {
        let anchored = Punctuation::WallClockFrom {
            start: 13,
            interval: TEN,
        };
        let early = [(-1, 5), (-1, 12), (-1, 13), (-1, 14)];
        assert_eq!(
            fired(anchored, NO_TIME, &early),
            [None, None, Some(13), None]
        );
        let late = [(-1, 24), (-1, 32), (-1, 33)];
        assert_eq!(fired(anchored, NO_TIME, &late), [None, None, Some(33)]);
        assert_eq!(fired(anchored, NO_TIME, &[(-1, 23)]), [Some(23)]);
    }

    #[test]
    fn a_schedule_made_while_the_task_runs_fires_for_what_lies_ahead() {
        let mut schedules = Schedules::default();
        let stream = schedules.add_now(Punctuation::StreamTime(TEN), 10, 5);
        let wall = schedules.add_now(Punctuation::WallClock(TEN), 10, 5);
        assert_eq!(schedules.next_due(None, 19, 14), None);
        let due = schedules.next_due(None, 20, 15).unwrap();
        assert_eq!((due.id, due.time), (stream, 20));
        let due = schedules.next_due(Some(stream), 20, 15).unwrap();
        assert_eq!((due.id, due.time), (wall, 15));
        assert_eq!(schedules.next_due(Some(wall), 20, 15), None);
    }

    #[test]
    fn what_is_cancelled_fires_no_more_and_is_cancelled_once() {
        let mut schedules = Schedules::default();
        let one = schedules.add_at_start(Punctuation::StreamTime(TEN), NO_TIME);
        let two = schedules.add_at_start(Punctuation::StreamTime(TEN), NO_TIME);
        assert!(schedules.cancel(one));
        assert!(!schedules.cancel(one));
        assert_eq!(schedules.next_due(None, 0, 0).map(|due| due.id), Some(two));
    }
}
