//! How far apart the records of a join of many streams may be.

use std::time::Duration;

use crate::clock::millis;
use crate::dsl::lateness::Lateness;

/// How far apart records may be to be joined, and how late: see [`JoinAllWindow::of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinAllWindow {
    pub(super) window_ms: i64,
    pub(super) lateness: Lateness,
}

/// A window that still needs its grace, which has no default: how late may a record be?
#[derive(Debug, Clone, Copy)]
pub struct JoinAllWithoutGrace {
    window_ms: i64,
}

impl JoinAllWindow {
    /// Records that are all within `window` of each other, both ends included.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::JoinAllWindow;
    /// let window = JoinAllWindow::of(Duration::from_secs(30 * 60)).grace(Duration::from_secs(5 * 60));
    /// ```
    #[must_use]
    pub fn of(window: Duration) -> JoinAllWithoutGrace {
        JoinAllWithoutGrace {
            window_ms: millis(window),
        }
    }

    /// How far the time of a stream may lie below that of the furthest one: one that lags more counts as so far behind, and
    /// holds nothing back any longer. What it brings then is in time or late by that. Without this rule a stream is waited
    /// for, unless its source lets it be [idle](super::super::Consumed::idle_after). Unlike that one, this rule follows from
    /// the records alone.
    #[must_use]
    pub fn max_lag(self, behind: Duration) -> Self {
        Self {
            lateness: self.lateness.max_lag(millis(behind)),
            ..self
        }
    }
}

impl JoinAllWithoutGrace {
    /// How far below the largest timestamp before it, in its own input, a record may be.
    #[must_use]
    pub fn grace(self, grace: Duration) -> JoinAllWindow {
        JoinAllWindow {
            window_ms: self.window_ms,
            lateness: Lateness::with_grace(millis(grace)),
        }
    }
}
