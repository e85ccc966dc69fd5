//! How far apart two records may be to be joined, and what follows from it: which are late, and how long sides are kept.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::clock::millis;
use crate::log::Timestamp;

use super::Outer;

/// How far apart two records may be to be joined: see [`JoinWindows::of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinWindows {
    before_ms: i64,
    after_ms: i64,
    grace_ms: i64,
}

/// A join window that still needs its grace, which has no default: how late may a record be?
#[derive(Debug, Clone, Copy)]
pub struct JoinWithoutGrace {
    before_ms: i64,
    after_ms: i64,
}

impl JoinWindows {
    /// Right records from `difference` before to `difference` after the left one.
    #[must_use]
    pub fn of(difference: Duration) -> JoinWithoutGrace {
        Self::between(difference, difference)
    }

    /// Right records from `before` before to `after` after the left one, both ends included.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::JoinWindows;
    /// // A click belongs to an impression of the 30 minutes before it.
    /// let windows = JoinWindows::between(Duration::ZERO, Duration::from_secs(30 * 60))
    ///     .grace(Duration::from_secs(5 * 60));
    /// ```
    #[must_use]
    pub fn between(before: Duration, after: Duration) -> JoinWithoutGrace {
        JoinWithoutGrace {
            before_ms: millis(before),
            after_ms: millis(after),
        }
    }

    /// Right records that are so many milliseconds later than the left one; negative is earlier. So a window may lie
    /// wholly after the left record, or before it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::JoinWindows;
    /// // A return belongs to an order if it comes a day later at the earliest, and two weeks at the latest.
    /// const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
    /// let windows = JoinWindows::later_by_ms(DAY_MS..=14 * DAY_MS).grace(Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn later_by_ms(differences: RangeInclusive<i64>) -> JoinWithoutGrace {
        JoinWithoutGrace {
            before_ms: differences.start().saturating_neg(),
            after_ms: *differences.end(),
        }
    }
}

impl JoinWithoutGrace {
    /// How long after its window, in stream time, a record may still be joined.
    #[must_use]
    pub fn grace(self, grace: Duration) -> JoinWindows {
        let Self {
            before_ms,
            after_ms,
        } = self;
        JoinWindows {
            before_ms,
            after_ms,
            grace_ms: millis(grace),
        }
    }
}

impl JoinWindows {
    /// The least timestamp of a left record that is still open at `time`.
    pub(super) fn left_open_from(self, time: Timestamp) -> Timestamp {
        time.saturating_sub(self.after_ms.max(0))
            .saturating_sub(self.grace_ms)
    }

    /// The least timestamp of a right record that is still open at `time`.
    pub(super) fn right_open_from(self, time: Timestamp) -> Timestamp {
        time.saturating_sub(self.before_ms.max(0))
            .saturating_sub(self.grace_ms)
    }

    /// The least timestamps of left and right records that may still be met at `time`.
    pub(super) fn met_from(self, outer: Outer, time: Timestamp) -> (Timestamp, Timestamp) {
        let kept_from = time.saturating_sub(self.retention_ms());
        let left = if outer.left {
            self.left_open_from(time)
        } else {
            kept_from
        };
        let right = if outer.right {
            self.right_open_from(time)
        } else {
            kept_from
        };
        (left, right)
    }

    /// Timestamps of the right records that a left one at `timestamp` meets, both included.
    pub(super) fn around_left(self, timestamp: Timestamp) -> (Timestamp, Timestamp) {
        (
            timestamp.saturating_sub(self.before_ms),
            timestamp.saturating_add(self.after_ms),
        )
    }

    /// Timestamps of the left records that a right one at `timestamp` meets, both included.
    pub(super) fn around_right(self, timestamp: Timestamp) -> (Timestamp, Timestamp) {
        (
            timestamp.saturating_sub(self.after_ms),
            timestamp.saturating_add(self.before_ms),
        )
    }

    /// How long both sides are kept: so long may a record in time meet an older one.
    pub(super) fn retention_ms(self) -> i64 {
        self.before_ms
            .max(0)
            .saturating_add(self.after_ms.max(0))
            .saturating_add(self.grace_ms)
    }
}
