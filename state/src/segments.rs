//! The segments of time a tree holds, so that reads touch only those and expiry deletes whole ones.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};

use crate::keys::{from_ordered, ordered};
use crate::{Direction, StateError, Tree};

#[derive(Debug)]
pub(crate) struct Segments {
    length_ms: i64,
    /// Segments that may have rows in the tree.
    live: BTreeSet<i64>,
}

impl Segments {
    /// Finds out which segments the tree holds, with one seek for each.
    pub(crate) fn load(store: &str, tree: &dyn Tree, length_ms: i64) -> Result<Self, StateError> {
        let mut segments = Self {
            length_ms: length_ms.max(1),
            live: BTreeSet::new(),
        };
        let mut from = Some(ordered(i64::MIN));
        while let Some(start) = from {
            let mut found = None;
            let range = (Bound::Included(&start[..]), Bound::Unbounded);
            tree.scan(range.0, range.1, Direction::Forward, &mut |key, _| {
                found = Some(key.first_chunk::<8>().copied());
                ControlFlow::Break(())
            })?;
            from = match found {
                None => None,
                Some(None) => return Err(StateError::corrupt(store, "a row without a segment")),
                Some(Some(prefix)) => {
                    let segment = from_ordered(prefix);
                    segments.live.insert(segment);
                    segment.checked_add(1).map(ordered)
                }
            };
        }
        Ok(segments)
    }

    pub(crate) fn of(&self, time: i64) -> i64 {
        time.div_euclid(self.length_ms)
    }

    /// First and last time of a segment.
    pub(crate) fn span(&self, segment: i64) -> (i64, i64) {
        let first = segment.saturating_mul(self.length_ms);
        (first, first.saturating_add(self.length_ms - 1))
    }

    pub(crate) fn add(&mut self, segment: i64) {
        self.live.insert(segment);
    }

    pub(crate) fn holds(&self, segment: i64) -> bool {
        self.live.contains(&segment)
    }

    /// Segments in the tree that may hold times from `from` to `to`, ascending.
    pub(crate) fn between(&self, from: i64, to: i64) -> impl Iterator<Item = i64> {
        let range = (from <= to).then(|| self.live.range(self.of(from)..=self.of(to)));
        range.into_iter().flatten().copied()
    }

    /// Deletes up to `limit` rows of the segments that lie wholly before `horizon`.
    pub(crate) fn sweep(
        &mut self,
        tree: &mut dyn Tree,
        horizon: i64,
        limit: usize,
    ) -> Result<(), StateError> {
        let end = self.of(horizon);
        let Some(first) = self.live.first().copied().filter(|first| *first < end) else {
            return Ok(());
        };
        let removed = tree.remove_range(&ordered(first), &ordered(end), limit)?;
        if removed < limit {
            self.live = self.live.split_off(&end);
        }
        Ok(())
    }

    pub(crate) fn clear(&mut self) {
        self.live.clear();
    }
}
