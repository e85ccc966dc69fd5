//! How long the whole group takes to go on after a fault.
//!
//! A fault is recovered from when every input partition that had something to read when it was over has had a commit since.
//! That is stricter than progress of the victim alone: others may have had to wait for it. Faults overlap, so the time of one
//! may be owed to the next.

use std::collections::BTreeMap;

use processor_core::log::{Offset, TopicPartition};

use super::schedule::Kind;
use crate::group::Standing;

/// A fault that is over and not yet recovered from.
#[derive(Debug)]
struct Waiting {
    kind: Kind,
    over_ms: u64,
    /// Partitions without a commit since, and what was committed then; none before the first look.
    behind: Option<BTreeMap<TopicPartition, Offset>>,
}

/// Recovery times, in ms.
#[derive(Debug, Default)]
pub struct Recoveries {
    waiting: Vec<Waiting>,
    times: Vec<(Kind, u64)>,
}

impl Recoveries {
    /// A fault of `kind` is over.
    pub fn over(&mut self, kind: Kind, now_ms: u64) {
        self.waiting.push(Waiting {
            kind,
            over_ms: now_ms,
            behind: None,
        });
    }

    /// A look at the group that began at `asked_ms` and was answered at `answered_ms`.
    pub fn look(
        &mut self,
        asked_ms: u64,
        answered_ms: u64,
        standings: &BTreeMap<TopicPartition, Standing>,
    ) {
        let Self { waiting, times } = self;
        waiting.retain_mut(|fault| {
            if asked_ms < fault.over_ms {
                return true;
            }
            let behind = match &mut fault.behind {
                None => fault.behind.insert(
                    standings
                        .iter()
                        .filter(|(_, standing)| standing.committed < standing.end)
                        .map(|(partition, standing)| (partition.clone(), standing.committed))
                        .collect(),
                ),
                Some(behind) => {
                    behind.retain(|partition, before| {
                        standings
                            .get(partition)
                            .is_none_or(|standing| standing.committed <= *before)
                    });
                    behind
                }
            };
            if behind.is_empty() {
                times.push((fault.kind, answered_ms - fault.over_ms));
            }
            !behind.is_empty()
        });
    }

    /// Faults that are not recovered from.
    #[must_use]
    pub fn open(&self) -> usize {
        self.waiting.len()
    }

    /// Median and maximum, of `kind` or of all; none where there was no fault.
    #[must_use]
    pub fn summary(&self, kind: Option<Kind>) -> Option<(u64, u64)> {
        let mut times: Vec<u64> = self
            .times
            .iter()
            .filter(|(of, _)| kind.is_none_or(|kind| kind == *of))
            .map(|(_, ms)| *ms)
            .collect();
        times.sort_unstable();
        Some((times.get(times.len() / 2).copied()?, *times.last()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standings(committed: [Offset; 2], end: Offset) -> BTreeMap<TopicPartition, Standing> {
        let of = |(partition, committed): (usize, Offset)| {
            let partition = TopicPartition::new("clicks", i32::try_from(partition).unwrap());
            (partition, Standing { committed, end })
        };
        committed.into_iter().enumerate().map(of).collect()
    }

    #[test]
    fn a_fault_is_recovered_from_when_every_partition_that_was_behind_has_had_a_commit() {
        let mut recoveries = Recoveries::default();
        recoveries.over(Kind::Kill, 1_000);
        recoveries.look(900, 1_100, &standings([5, 5], 5));
        assert_eq!(recoveries.open(), 1, "a look that began before it was over");
        recoveries.look(1_100, 1_200, &standings([3, 4], 5));
        recoveries.look(1_300, 1_400, &standings([5, 4], 5));
        assert_eq!(recoveries.summary(None), None);
        recoveries.look(1_500, 1_600, &standings([5, 5], 9));
        assert_eq!(recoveries.summary(None), Some((600, 600)));
        assert_eq!(recoveries.summary(Some(Kind::Broker)), None);
    }

    #[test]
    fn where_nothing_was_behind_the_first_look_ends_it() {
        let mut recoveries = Recoveries::default();
        recoveries.over(Kind::Cut, 1_000);
        recoveries.look(1_000, 1_050, &standings([5, 5], 5));
        assert_eq!(recoveries.summary(Some(Kind::Cut)), Some((50, 50)));
    }
}
