//! Timestamps far ahead of their feed: strays, which must not move time, or the feed itself, which has jumped.

use std::time::Duration;

use crate::clock::millis;
use crate::log::Timestamp;
use crate::processor::NO_TIME;

/// How far a record may be ahead of its feed, and what makes a feed that jumps: see
/// [`Consumed::future_bound`](crate::dsl::Consumed::future_bound).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FutureBound {
    /// How far above the largest timestamp before it in its partition a record is taken without further question.
    pub ahead: Duration,
    /// How many of the next records decide about one that is further ahead. 0 counts as 1.
    pub confirmed_by: usize,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    Taken,
    Stray,
    /// The records that decide have not come yet.
    Open,
}

impl FutureBound {
    /// How many of the next records are looked at, at most.
    pub(crate) fn look_ahead(self) -> usize {
        self.votes().saturating_mul(2).saturating_sub(1)
    }

    fn votes(self) -> usize {
        self.confirmed_by.max(1)
    }

    /// Whether a record at `time` is taken without further question, after a record at `before`.
    pub(crate) fn is_near(self, before: Timestamp, time: Timestamp) -> bool {
        before != NO_TIME && self.is_within(before, time)
    }

    fn is_within(self, base: Timestamp, time: Timestamp) -> bool {
        time.saturating_sub(base) <= millis(self.ahead)
    }

    /// Judges a record at `time` that is not near, by the records behind it; one without a timestamp has no vote. `are_all`
    /// says that there will be no more of them.
    pub(crate) fn judge(
        self,
        before: Timestamp,
        time: Timestamp,
        next: &[Option<Timestamp>],
        are_all: bool,
    ) -> Judgement {
        let next = &next[..next.len().min(self.look_ahead())];
        let (mut confirm, mut refute) = (0, 0);
        for base in next.iter().flatten() {
            if self.is_within(*base, time) {
                confirm += 1;
            } else {
                refute += 1;
            }
            if confirm == self.votes() {
                return Judgement::Taken;
            }
            if refute == self.votes() {
                return Judgement::Stray;
            }
        }
        if next.len() < self.look_ahead() && !are_all {
            return Judgement::Open;
        }
        // A first record is ahead of nothing, so only others speak against it.
        let is_first = before == NO_TIME;
        if confirm > refute || is_first && confirm == refute {
            Judgement::Taken
        } else {
            Judgement::Stray
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_2: FutureBound = FutureBound {
        ahead: Duration::from_millis(100),
        confirmed_by: 2,
    };

    fn judge(before: Timestamp, time: Timestamp, next: &[Timestamp]) -> Judgement {
        let next: Vec<_> = next.iter().copied().map(Some).collect();
        OF_2.judge(before, time, &next, false)
    }

    #[test]
    fn up_to_the_bound_a_record_is_near_and_a_first_one_never_is() {
        assert!(OF_2.is_near(1_000, 1_100));
        assert!(OF_2.is_near(1_000, 3));
        assert!(!OF_2.is_near(1_000, 1_101));
        assert!(!OF_2.is_near(NO_TIME, 0));
    }

    #[test]
    fn the_next_records_decide_as_soon_as_enough_agree() {
        use Judgement::{Open, Stray, Taken};
        assert_eq!(judge(1_000, 9_000, &[]), Open);
        assert_eq!(judge(1_000, 9_000, &[9_001]), Open);
        assert_eq!(judge(1_000, 9_000, &[9_001, 8_900]), Taken);
        assert_eq!(judge(1_000, 9_000, &[1_001, 8_899]), Stray);
        assert_eq!(judge(1_000, 9_000, &[1_001, 9_001]), Open);
        assert_eq!(judge(1_000, 9_000, &[1_001, 9_001, 9_000]), Taken);
        assert_eq!(judge(1_000, 9_000, &[1_001, 9_001, 1_000]), Stray);
        // A feed that jumped to 5,000 does not confirm 9,000.
        assert_eq!(judge(1_000, 9_000, &[5_000, 5_001]), Stray);
        assert_eq!(judge(NO_TIME, 9_000, &[1_000, 1_001]), Stray);
        assert_eq!(judge(NO_TIME, 1_000, &[9_000, 9_001]), Taken);
    }

    #[test]
    fn without_enough_votes_the_majority_decides_and_a_first_record_is_believed() {
        use Judgement::{Stray, Taken};
        let end = |before, next: &[Option<Timestamp>]| OF_2.judge(before, 9_000, next, true);
        assert_eq!(end(1_000, &[]), Stray);
        assert_eq!(end(1_000, &[Some(9_000)]), Taken);
        assert_eq!(end(1_000, &[Some(9_000), Some(1_000)]), Stray);
        assert_eq!(end(NO_TIME, &[]), Taken);
        assert_eq!(end(NO_TIME, &[Some(1_000)]), Stray);
        // The look-ahead ends after three records, whether or not they have a timestamp.
        let silent = [None, None, None, Some(9_000), Some(9_000)];
        assert_eq!(OF_2.judge(1_000, 9_000, &silent, false), Stray);
    }
}
