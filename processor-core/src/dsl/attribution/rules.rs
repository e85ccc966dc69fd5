//! The rules of an attribution.

use std::time::Duration;

use crate::clock::millis;
use crate::dsl::lateness::Lateness;
use crate::log::Timestamp;

use super::Model;

/// Touches on a path that a model looks at, unless [`AttributionRules::max_path`] says otherwise.
const MAX_PATH: usize = 50;

/// How conversions are attributed: see [`AttributionRules::of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttributionRules {
    pub(super) model: Model,
    pub(super) lateness: Lateness,
    pub(super) campaigns: Campaigns,
    pub(super) max_path: usize,
    pub(super) revisions: Revisions,
}

/// Rules that still need their grace, which has no default: how late may a record be?
#[derive(Debug, Clone, Copy)]
pub struct AttributionWithoutGrace {
    model: Model,
}

/// Which results of a conversion are emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revisions {
    /// Every one: provisional when the conversion comes, revised at each change, final at the end.
    Every,
    /// The final one.
    Final,
    /// The final one; and at the end of a bounded run one for each conversion that is still open, if it is another than was
    /// made known before.
    FinalAndEndOfInput,
}

/// Whether touches of another campaign count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Campaigns {
    Same,
    Any,
}

impl AttributionRules {
    /// Rules with this model; every revision is emitted, touches must be of the conversion's campaign, and a path has up to
    /// 50 touches.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{AttributionRules, Model};
    /// const HOUR: Duration = Duration::from_secs(60 * 60);
    /// // A CSV that comes every hour may be two of them late.
    /// let rules = AttributionRules::of(Model::POSITION).grace(2 * HOUR).max_path(20);
    /// ```
    #[must_use]
    pub fn of(model: Model) -> AttributionWithoutGrace {
        AttributionWithoutGrace { model }
    }

    /// Touches of any campaign count.
    #[must_use]
    pub fn cross_campaign(self) -> Self {
        Self {
            campaigns: Campaigns::Any,
            ..self
        }
    }

    /// The most touches that a model shares a conversion among: the latest ones. 1 at least.
    #[must_use]
    pub fn max_path(self, touches: usize) -> Self {
        Self {
            max_path: touches,
            ..self
        }
    }

    /// Which results are emitted.
    #[must_use]
    pub fn revisions(self, revisions: Revisions) -> Self {
        Self { revisions, ..self }
    }

    /// How far the time of an input may lie below that of the furthest one: one that lags more counts as so far behind, and
    /// holds nothing back any longer. What it brings then is in time or late by that. Without this rule an input is waited
    /// for, unless its source lets it be [idle](super::super::Consumed::idle_after). Unlike that one, this rule follows from
    /// the records alone.
    #[must_use]
    pub fn max_lag(self, behind: Duration) -> Self {
        Self {
            lateness: self.lateness.max_lag(millis(behind)),
            ..self
        }
    }

    /// What is wrong with them.
    pub(super) fn problem(self) -> Option<String> {
        if self.max_path == 0 {
            return Some(
                "a path must have room for a touch; max_path must be 1 at least".to_owned(),
            );
        }
        self.model.problem()
    }
}

impl AttributionWithoutGrace {
    /// How far below the largest timestamp before it, in its own input, a record may be.
    #[must_use]
    pub fn grace(self, grace: Duration) -> AttributionRules {
        AttributionRules {
            model: self.model,
            lateness: Lateness::with_grace(millis(grace)),
            campaigns: Campaigns::Same,
            max_path: MAX_PATH,
            revisions: Revisions::Every,
        }
    }
}

/// Which touches of a stream may be credited: see [`TouchWindow::of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TouchWindow {
    pub(super) before_ms: i64,
    pub(super) precedence: u8,
}

impl TouchWindow {
    /// Touches from `before` before the conversion to its own time, both ends included.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::TouchWindow;
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// let clicks = TouchWindow::of(7 * DAY).precedence(2);
    /// let views = TouchWindow::of(DAY).precedence(1);
    /// ```
    #[must_use]
    pub fn of(before: Duration) -> Self {
        Self {
            before_ms: millis(before),
            precedence: 0,
        }
    }

    /// Where a conversion has an eligible touch of a higher precedence, those of a lower one are ignored. 0 if nothing is
    /// said.
    #[must_use]
    pub fn precedence(self, precedence: u8) -> Self {
        Self { precedence, ..self }
    }

    /// The times of eligible touches for a conversion at `conversion`, both included.
    pub(super) fn touches_of(self, conversion: Timestamp) -> (Timestamp, Timestamp) {
        (conversion.saturating_sub(self.before_ms), conversion)
    }

    /// The times of conversions that a touch at `touch` is eligible for, both included.
    pub(super) fn conversions_of(self, touch: Timestamp) -> (Timestamp, Timestamp) {
        (touch, touch.saturating_add(self.before_ms))
    }
}

/// Conversions before this, credited to touches of `precedence` or to none (0), are final: no touch in time can change them
/// any more. `open_from` is for each touch stream its precedence and the least timestamp that is still in time there.
///
/// A stream of a lower precedence cannot change them, however far it lags.
pub(super) fn final_before(
    precedence: u8,
    open_from: impl IntoIterator<Item = (u8, Timestamp)>,
) -> Timestamp {
    open_from
        .into_iter()
        .filter(|(of, _)| *of >= precedence)
        .map(|(_, from)| from)
        .min()
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_touch_and_a_conversion_agree_on_the_window_to_the_millisecond() {
        let window = TouchWindow::of(ms(10));
        assert_eq!(window.touches_of(100), (90, 100));
        for (touch, eligible) in [(89, false), (90, true), (100, true), (101, false)] {
            let (from, to) = window.conversions_of(touch);
            assert_eq!((from..=to).contains(&100), eligible, "{touch}");
        }
    }

    #[test]
    fn only_streams_of_its_precedence_or_above_hold_a_conversion_open() {
        let (clicks, views) = ((2, 150), (1, 40));
        // Credited to a click: a lagging view feed does not matter.
        assert_eq!(final_before(2, [clicks, views]), 150);
        // Credited to a view, or to nothing: both do.
        assert_eq!(final_before(1, [clicks, views]), 40);
        assert_eq!(final_before(0, [clicks, views]), 40);
        assert_eq!(final_before(0, []), Timestamp::MAX, "without touch streams");
    }

    #[test]
    fn a_path_has_room_for_a_touch() {
        let rules = AttributionRules::of(Model::Last).grace(ms(5));
        assert_eq!(rules.problem(), None);
        assert!(rules.max_path(0).problem().is_some());
    }
}
