//! The windows of event time that [`windowed_by`](super::KGroupedStream::windowed_by) takes.

use std::iter::StepBy;
use std::ops::RangeInclusive;

use crate::log::Timestamp;

use super::sliding::SlidingWindows;
use super::time_windows::TimeWindows;
use super::unlimited::UnlimitedWindows;
use super::window_rows::Place;
use super::windowing::Closing;

/// Windows of event time: made of [`TimeWindows`], [`SlidingWindows`] or [`UnlimitedWindows`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows(pub(crate) Kind);

/// What makes a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Fixed(FixedWindows),
    Sliding(SlidingWindows),
}

impl From<TimeWindows> for Windows {
    fn from(windows: TimeWindows) -> Self {
        Self(Kind::Fixed(FixedWindows::Aligned(windows)))
    }
}

impl From<UnlimitedWindows> for Windows {
    fn from(windows: UnlimitedWindows) -> Self {
        Self(Kind::Fixed(FixedWindows::Unlimited(windows)))
    }
}

impl From<SlidingWindows> for Windows {
    fn from(windows: SlidingWindows) -> Self {
        Self(Kind::Sliding(windows))
    }
}

/// Windows that lie where they lie, whatever records there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FixedWindows {
    Aligned(TimeWindows),
    Unlimited(UnlimitedWindows),
}

impl FixedWindows {
    /// Why there can be no such windows, if so.
    pub(crate) fn problem(self) -> Option<String> {
        match self {
            Self::Aligned(windows) => windows.problem(),
            Self::Unlimited(_) => None,
        }
    }

    /// The numbers that shape them, for plans.
    pub(crate) fn parameters(self) -> Vec<(&'static str, i64)> {
        match self {
            Self::Aligned(windows) => vec![
                ("advance_ms", windows.advance_ms),
                ("size_ms", windows.size_ms),
            ],
            Self::Unlimited(windows) => vec![("start_ms", windows.start_ms)],
        }
    }

    /// Starts of the windows that hold `timestamp`, ascending.
    pub(crate) fn starts_of(self, timestamp: Timestamp) -> StepBy<RangeInclusive<Timestamp>> {
        match self {
            Self::Aligned(windows) => windows.starts_of(timestamp),
            Self::Unlimited(windows) => windows.starts_of(timestamp),
        }
    }

    /// End of the window that starts at `start`; not part of it.
    pub(crate) fn end_of(self, start: Timestamp) -> Timestamp {
        start.saturating_add(self.size_ms())
    }

    pub(crate) fn size_ms(self) -> i64 {
        match self {
            Self::Aligned(windows) => windows.size_ms,
            Self::Unlimited(_) => i64::MAX,
        }
    }

    /// How long after its end a window closes; nothing if it never does.
    pub(crate) fn closes_after_ms(self) -> Option<i64> {
        match self {
            Self::Aligned(windows) => Some(windows.grace_ms),
            Self::Unlimited(_) => None,
        }
    }
}

impl Closing for FixedWindows {
    fn open_from(self, time: Timestamp) -> Timestamp {
        match self {
            Self::Aligned(windows) => windows.open_from(time),
            Self::Unlimited(_) => Timestamp::MIN,
        }
    }

    fn bounds(self, (start, _): Place) -> (Timestamp, Timestamp) {
        (start, self.end_of(start))
    }

    /// As in Kafka Streams, whose store goes by the starts of windows.
    fn kept_from(self, time: Timestamp) -> Timestamp {
        match self {
            Self::Aligned(windows) => {
                let last = time.max(0) / windows.advance_ms * windows.advance_ms;
                let kept_ms = windows.size_ms.saturating_add(windows.grace_ms);
                last.saturating_sub(kept_ms).saturating_add(1)
            }
            Self::Unlimited(_) => Timestamp::MIN,
        }
    }
}
