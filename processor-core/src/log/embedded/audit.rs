//! For the simulator: what transactions have put on the log, whatever readers see of it at the moment.

use std::collections::BTreeMap;

use super::batch::{Kind, TransactionNumber};
use super::state::State;
use crate::log::{Offset, TopicPartition};

/// A log in memory, from the side of its transactions.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// Those that have sent records.
    pub(crate) transactions: BTreeMap<TransactionNumber, Audited>,
    /// Records outside transactions.
    pub(crate) plain: BTreeMap<TopicPartition, u64>,
    /// First and last offset of the batches of records of each partition, in order, with their transactions.
    batches: BTreeMap<TopicPartition, Vec<(Offset, Offset, TransactionNumber)>>,
    /// What the group has committed, transactions that are pending left out.
    pub(crate) offsets: BTreeMap<TopicPartition, Offset>,
    /// Whether there may be decided transactions of whose offsets the group does not know.
    pub(crate) offsets_lag: bool,
}

/// A transaction that has sent records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Audited {
    pub(crate) records: BTreeMap<TopicPartition, u64>,
    /// Some partition has its commit marker, or is to get it.
    pub(crate) committed: bool,
    /// Some partition has its abort marker, or is to get it.
    pub(crate) aborted: bool,
}

impl Audit {
    /// The first record that somebody reads who begins at `offset`, or [`Offset::MAX`]: between two offsets with the same
    /// one there are markers and aborted records alone, so to commit the one is as good as to commit the other.
    pub(crate) fn next_record(&self, partition: &TopicPartition, offset: Offset) -> Offset {
        let aborted = |number| {
            self.transactions
                .get(number)
                .is_some_and(|found| found.aborted)
        };
        let batches = self.batches.get(partition).into_iter().flatten();
        let mut readable = batches.filter(|(_, last, number)| *last >= offset && !aborted(number));
        readable
            .next()
            .map_or(Offset::MAX, |(first, ..)| offset.max(*first))
    }
}

impl Audited {
    fn end(&mut self, kind: Kind) {
        match kind {
            Kind::Records => {}
            Kind::Commit => self.committed = true,
            Kind::Abort => self.aborted = true,
        }
    }
}

impl State {
    /// The transactions as partitions in memory have them, and the offsets of `group`.
    pub(super) fn audit(&self, group: &str) -> Audit {
        let mut audit = Audit {
            offsets_lag: self.transactions.holds_offsets(),
            ..Audit::default()
        };
        for partition in self.partitions.iter().flatten() {
            for header in partition.tail.iter().map(|batch| &batch.header) {
                let records = match header.transaction {
                    0 => &mut audit.plain,
                    number => {
                        let transaction = audit.transactions.entry(number).or_default();
                        transaction.end(header.kind);
                        &mut transaction.records
                    }
                };
                if header.kind == Kind::Records {
                    let batch = (header.base, header.last, header.transaction);
                    let batches = audit.batches.entry(partition.name().clone()).or_default();
                    batches.push(batch);
                    *records.entry(partition.name().clone()).or_default() +=
                        u64::from(header.count);
                }
            }
        }
        for marker in &self.transactions.due {
            let transaction = audit.transactions.entry(marker.transaction).or_default();
            transaction.end(marker.kind);
        }
        if let Some(group) = self.groups.get(group) {
            let offsets = group.offsets().iter();
            audit.offsets = offsets
                .map(|(name, committed)| (name.clone(), committed.offset))
                .collect();
        }
        audit
    }
}
