//! A partition: batches in offset order, and which of them a reader may see.
//!
//! ```text
//! start ........ last stable offset ........ high watermark
//!   |  decided      |  an open transaction      |  next append
//! ```
//!
//! A batch belongs to at most one transaction. Readers of committed records stop at the first batch of the earliest
//! open transaction and step over batches of aborted ones; control batches take an offset and are never returned.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::batch::{self, Batch, BatchBuilder, Kind, TransactionNumber};
use crate::log::{Isolation, LogError, Offset, TopicPartition};

/// Aborted transactions with the offset of their marker: once the partition starts after it, the entry can go.
pub(super) type Aborted = BTreeMap<TransactionNumber, Offset>;

/// One partition.
#[derive(Debug)]
pub(super) struct Partition {
    name: TopicPartition,
    start: Offset,
    next: Offset,
    tail: VecDeque<Batch>,
    /// Open transactions with their first offset here.
    open: BTreeMap<TransactionNumber, Offset>,
    aborted: Arc<Aborted>,
}

/// What a fetch found.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// Batches of records the reader may see.
    pub(super) batches: Vec<Batch>,
    /// Where to go on.
    pub(super) next: Offset,
}

impl Partition {
    /// An empty partition in memory.
    pub(super) fn in_memory(name: TopicPartition) -> Self {
        Self {
            name,
            start: 0,
            next: 0,
            tail: VecDeque::new(),
            open: BTreeMap::new(),
            aborted: Arc::default(),
        }
    }

    pub(super) fn name(&self) -> &TopicPartition {
        &self.name
    }

    /// First offset that is still there.
    pub(super) fn start(&self) -> Offset {
        self.start
    }

    /// The end a reader of `isolation` can reach now.
    pub(super) fn end(&self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::ReadUncommitted => self.next,
            Isolation::ReadCommitted => self.open.values().copied().min().unwrap_or(self.next),
        }
    }

    /// Appends the builder's records and returns their first offset and the one after the last. The builder is
    /// emptied only when this succeeds.
    pub(super) fn append(
        &mut self,
        builder: &mut BatchBuilder,
        transaction: TransactionNumber,
    ) -> Result<(Offset, Offset), LogError> {
        let batch = builder.stamp(Kind::Records, self.next, transaction);
        let base = batch.header.base;
        self.push(batch)?;
        builder.clear();
        if transaction != 0 {
            self.open.entry(transaction).or_insert(base);
        }
        Ok((base, self.next))
    }

    /// Appends the marker that ends `transaction`; nothing when it is not open here.
    pub(super) fn mark(
        &mut self,
        kind: Kind,
        transaction: TransactionNumber,
    ) -> Result<(), LogError> {
        if !self.open.contains_key(&transaction) {
            return Ok(());
        }
        let marker = batch::marker(kind, self.next, transaction);
        let at = marker.header.base;
        self.push(marker)?;
        self.open.remove(&transaction);
        if kind == Kind::Abort {
            Arc::make_mut(&mut self.aborted).insert(transaction, at);
        }
        Ok(())
    }

    fn push(&mut self, batch: Batch) -> Result<(), LogError> {
        self.next = batch.header.next();
        self.tail.push_back(batch);
        Ok(())
    }

    /// Up to about `max_bytes` of batches from `from` on, at least one if there is one.
    pub(super) fn fetch(&self, from: Offset, isolation: Isolation, max_bytes: usize) -> Fetched {
        let end = self.end(isolation);
        let mut fetched = Fetched {
            batches: Vec::new(),
            next: end.max(from),
        };
        let mut bytes = 0;
        let first = self.tail.partition_point(|b| b.header.last < from);
        for batch in self.tail.range(first..) {
            let header = &batch.header;
            if header.base >= end {
                break;
            }
            if bytes >= max_bytes {
                fetched.next = header.base;
                break;
            }
            if header.kind != Kind::Records
                || (isolation == Isolation::ReadCommitted
                    && self.aborted.contains_key(&header.transaction))
            {
                continue;
            }
            bytes += batch.bytes.len();
            fetched.batches.push(batch.clone());
        }
        fetched
    }
}
