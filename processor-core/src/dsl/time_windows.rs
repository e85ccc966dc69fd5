//! Windows of a fixed size, aligned to the epoch: tumbling and hopping ones.
//!
//! A window is `[start, end)` with a start that is a multiple of the advance, and never negative. A tumbling window
//! advances by its size, so a record is in one; a hopping one advances by less, so a record is in several. A window is
//! open, and takes records, until stream time reaches `end + grace`.

use std::iter::StepBy;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::clock::millis;
use crate::log::Timestamp;

/// Windows of a fixed size: see [`TimeWindows::tumbling`] and [`TimeWindows::hopping`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeWindows {
    pub(crate) size_ms: i64,
    pub(crate) advance_ms: i64,
    pub(crate) grace_ms: i64,
}

/// Windows that still need their grace, which has no default: how late may a record be?
#[derive(Debug, Clone, Copy)]
pub struct WithoutGrace {
    size_ms: i64,
    advance_ms: i64,
}

impl TimeWindows {
    /// Windows of `size` that follow each other without overlap: `[n·size, (n+1)·size)`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::TimeWindows;
    /// let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::from_secs(5));
    /// ```
    #[must_use]
    pub fn tumbling(size: Duration) -> WithoutGrace {
        let size_ms = millis(size).max(1);
        WithoutGrace {
            size_ms,
            advance_ms: size_ms,
        }
    }

    /// Windows of `size` that start every `advance`: `[n·advance, n·advance + size)`. A record is in all that hold its
    /// timestamp, `size / advance` of them, fewer near time 0. `advance` is at least a millisecond and at most `size`;
    /// a topology with any other does not build.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::TimeWindows;
    /// // The last hour, every five minutes.
    /// let hours = TimeWindows::hopping(Duration::from_secs(3_600), Duration::from_secs(300))
    ///     .grace(Duration::from_secs(5));
    /// ```
    #[must_use]
    pub fn hopping(size: Duration, advance: Duration) -> WithoutGrace {
        WithoutGrace {
            size_ms: millis(size),
            advance_ms: millis(advance),
        }
    }

    /// Why there can be no such windows, if so.
    pub(crate) fn problem(self) -> Option<String> {
        let Self {
            size_ms,
            advance_ms,
            ..
        } = self;
        let possible = advance_ms >= 1 && advance_ms <= size_ms;
        (!possible).then(|| {
            format!(
                "windows of {size_ms} ms cannot advance by {advance_ms} ms; use at least 1 ms and at most their size"
            )
        })
    }

    /// Starts of the windows that hold `timestamp`, ascending.
    pub(crate) fn starts_of(self, timestamp: Timestamp) -> StepBy<RangeInclusive<Timestamp>> {
        let timestamp = timestamp.max(0);
        let earliest = timestamp
            .saturating_sub(self.size_ms)
            .saturating_add(self.advance_ms)
            .max(0);
        let first = earliest / self.advance_ms * self.advance_ms;
        let step = usize::try_from(self.advance_ms).unwrap_or(usize::MAX);
        (first..=timestamp).step_by(step)
    }

    /// The least start of a window that is still open at `time`.
    pub(crate) fn open_from(self, time: Timestamp) -> Timestamp {
        let closed = time
            .saturating_sub(self.grace_ms)
            .saturating_sub(self.size_ms);
        closed.saturating_add(1)
    }
}

impl WithoutGrace {
    /// How long after its end, in stream time, a window still takes records.
    #[must_use]
    pub fn grace(self, grace: Duration) -> TimeWindows {
        let Self {
            size_ms,
            advance_ms,
        } = self;
        TimeWindows {
            size_ms,
            advance_ms,
            grace_ms: millis(grace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(size: u64, advance: u64, timestamp: Timestamp) -> Vec<Timestamp> {
        let (size, advance) = (Duration::from_millis(size), Duration::from_millis(advance));
        let windows = TimeWindows::hopping(size, advance).grace(Duration::ZERO);
        assert_eq!(windows.problem(), None);
        windows.starts_of(timestamp).collect()
    }

    #[test]
    fn a_timestamp_is_in_every_window_that_holds_it_and_starts_are_never_negative() {
        assert_eq!(starts(10, 5, 0), [0]);
        assert_eq!(starts(10, 5, 4), [0]);
        assert_eq!(starts(10, 5, 5), [0, 5]);
        assert_eq!(starts(10, 5, 10), [5, 10]);
        assert_eq!(starts(10, 3, 10), [3, 6, 9]);
        assert_eq!(starts(10, 10, 19), [10]);
        assert_eq!(starts(1, 1, 7), [7]);
    }

    #[test]
    fn an_advance_must_fit_the_size() {
        let problem = |size, advance| {
            let (size, advance) = (Duration::from_millis(size), Duration::from_millis(advance));
            let windows = TimeWindows::hopping(size, advance).grace(Duration::ZERO);
            windows.problem()
        };
        assert!(problem(10, 0).unwrap().contains("cannot advance by 0 ms"));
        assert!(problem(10, 11).is_some());
        assert_eq!(problem(10, 10), None);
    }
}
