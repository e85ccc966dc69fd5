//! The transaction coordinator: who owns a transactional id, what its open transaction touched, and how it ends.
//!
//! ```text
//! idle ── first append or offsets ──▶ open ── commit ──▶ decided, markers due ──▶ idle
//!                                      └──── abort, timeout, newer producer ────▶ idle
//! ```
//!
//! **The decision is one step, the markers are others.** Committing makes the group's offsets visible at once; each
//! partition's records become visible when its marker is appended. Markers that could not be written yet stay in a
//! list and are tried again: until then they lag.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::batch::{BatchBuilder, Kind, TransactionNumber};
use super::group::Identity;
use super::journal::{Entry, rows};
use super::state::{PartitionId, State};
use crate::log::{Committed, CommittedOffset, ErrorClass, LogError, Offset, TopicPartition};

/// Age of a transactional id; a greater one fences all smaller ones.
pub(super) type Epoch = u64;

/// A producer's right to a transactional id.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) id: Arc<str>,
    pub(super) epoch: Epoch,
    /// The id's epoch now, readable without the log's lock.
    current: Arc<AtomicU64>,
}

impl Claim {
    /// Fails once a newer producer, or a timeout, has taken the id away.
    pub(super) fn check(&self) -> Result<(), LogError> {
        if self.current.load(Ordering::Acquire) == self.epoch {
            return Ok(());
        }
        let id = &self.id;
        Err(LogError::new(
            ErrorClass::Fenced,
            format!(
                "transactional id `{id}` belongs to a newer producer, or its transaction timed out; \
                 this producer is of no further use"
            ),
        ))
    }
}

#[derive(Debug)]
struct Owner {
    current: Arc<AtomicU64>,
    timeout_ms: i64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    number: TransactionNumber,
    since_ms: i64,
    /// Offset after the last record in each partition.
    next_offsets: BTreeMap<PartitionId, Offset>,
    groups: Vec<Arc<str>>,
}

/// A marker that has to be appended.
#[derive(Debug, Clone, Copy)]
pub(super) struct DueMarker {
    pub(super) partition: PartitionId,
    pub(super) transaction: TransactionNumber,
    pub(super) kind: Kind,
}

/// All transactional ids.
#[derive(Debug)]
pub(super) struct Transactions {
    owners: BTreeMap<Arc<str>, Owner>,
    pub(super) next: TransactionNumber,
    /// Markers that are decided but not written.
    pub(super) due: Vec<DueMarker>,
    /// Partitions that no marker reaches at the moment.
    held: BTreeSet<PartitionId>,
    /// The same for the offsets of groups: what is decided of them and not known to them.
    held_offsets: Option<Vec<(Arc<str>, TransactionNumber, Kind)>>,
}

impl Default for Transactions {
    fn default() -> Self {
        Self {
            owners: BTreeMap::new(),
            next: 1,
            due: Vec::new(),
            held: BTreeSet::new(),
            held_offsets: None,
        }
    }
}

impl Transactions {
    /// The partition is gone.
    pub(super) fn forget_partition(&mut self, id: PartitionId) {
        for owner in self.owners.values_mut() {
            if let Some(open) = &mut owner.open {
                open.next_offsets.remove(&id);
            }
        }
        self.due.retain(|marker| marker.partition != id);
    }

    /// The right that the producer of `id` has now.
    pub(super) fn claim_of(&self, id: &str) -> Option<Claim> {
        let (id, owner) = self.owners.get_key_value(id)?;
        Some(Claim {
            id: Arc::clone(id),
            epoch: owner.current.load(Ordering::Acquire),
            current: Arc::clone(&owner.current),
        })
    }

    /// The transaction that `id` has open.
    pub(super) fn open_of(&self, id: &str) -> Option<TransactionNumber> {
        Some(self.owners.get(id)?.open.as_ref()?.number)
    }

    /// Whether groups are not told what is decided.
    pub(super) fn holds_offsets(&self) -> bool {
        self.held_offsets.is_some()
    }

    /// An id that the last process used.
    pub(super) fn restore(&mut self, id: Arc<str>, epoch: Epoch) {
        let owner = Owner {
            current: Arc::new(AtomicU64::new(epoch)),
            timeout_ms: i64::MAX,
            open: None,
        };
        self.owners.insert(id, owner);
    }

    /// All ids with their epochs.
    pub(super) fn epochs(&self) -> impl Iterator<Item = (&str, Epoch)> {
        self.owners
            .iter()
            .map(|(id, owner)| (&**id, owner.current.load(Ordering::Acquire)))
    }

    /// Committed transactions of which a partition does not know yet.
    pub(super) fn committed_without_marker(&self) -> BTreeSet<TransactionNumber> {
        let committed = self.due.iter().filter(|m| m.kind == Kind::Commit);
        committed.map(|m| m.transaction).collect()
    }

    fn reopen(&mut self, id: &Arc<str>, open: Open) {
        if let Some(owner) = self.owners.get_mut(id) {
            owner.open = Some(open);
        }
    }

    /// The open transaction of `claim`, begun when there is none.
    fn open(&mut self, claim: &Claim, now_ms: i64) -> Result<&mut Open, LogError> {
        claim.check()?;
        let owner = self
            .owners
            .get_mut(&claim.id)
            .expect("a claim comes from an owner, and owners stay");
        let next = &mut self.next;
        Ok(owner.open.get_or_insert_with(|| {
            let number = *next;
            *next += 1;
            Open {
                number,
                since_ms: now_ms,
                next_offsets: BTreeMap::new(),
                groups: Vec::new(),
            }
        }))
    }
}

impl State {
    /// Takes `id` over: older producers are fenced and what they left open is aborted.
    pub(super) fn claim(&mut self, id: &Arc<str>, timeout_ms: i64) -> Result<Claim, LogError> {
        let owner = self
            .transactions
            .owners
            .entry(id.clone())
            .or_insert_with(|| Owner {
                current: Arc::default(),
                timeout_ms,
                open: None,
            });
        owner.timeout_ms = timeout_ms;
        let current = owner.current.clone();
        let epoch = current.load(Ordering::Acquire) + 1;
        self.record(&Entry::Claim {
            id: id.to_string(),
            epoch,
        })?;
        current.store(epoch, Ordering::Release);
        self.abort_open(id)?;
        Ok(Claim {
            id: id.clone(),
            epoch,
            current,
        })
    }

    /// Appends a batch, inside the transaction of `claim` if there is one. The offset after it.
    pub(super) fn append(
        &mut self,
        claim: Option<&Claim>,
        id: PartitionId,
        builder: &mut BatchBuilder,
        now_ms: i64,
    ) -> Result<Offset, LogError> {
        let Some(partition) = self.partitions[id].as_mut() else {
            return Err(LogError::fatal(
                "the topic was deleted while records were sent to it",
            ));
        };
        let next = match claim {
            None => partition.append(builder, 0)?,
            Some(claim) => {
                let open = self.transactions.open(claim, now_ms)?;
                let next = partition.append(builder, open.number)?;
                open.next_offsets.insert(id, next);
                next
            }
        };
        self.note_roll(id);
        Ok(next)
    }

    /// Has the partition cleaned if it started a new file.
    fn note_roll(&mut self, id: PartitionId) {
        if let Some(partition) = self.partition_mut(id)
            && std::mem::take(&mut partition.rolled)
        {
            self.rolled.push(id);
        }
    }

    /// Makes `offsets` part of the transaction.
    pub(super) fn add_offsets(
        &mut self,
        claim: &Claim,
        identity: &Identity,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
        now_ms: i64,
    ) -> Result<(), LogError> {
        let (group, _) = self.group(&identity.group);
        group.check(identity)?;
        let open = self.transactions.open(claim, now_ms)?;
        open.groups.push(identity.group.clone());
        let number = open.number;
        self.group(&identity.group).0.add_pending(number, offsets);
        Ok(())
    }

    /// The same by name, of partitions that are still there.
    pub(super) fn named(
        &self,
        offsets: &BTreeMap<PartitionId, Offset>,
    ) -> Vec<(TopicPartition, Offset)> {
        let named = |(&id, &offset): (&PartitionId, &Offset)| {
            Some((self.partition(id)?.name().clone(), offset))
        };
        offsets.iter().filter_map(named).collect()
    }

    /// Commits the open transaction; one without records and offsets is nothing. When this fails, nothing is
    /// committed, unless the class of the error says that this is not known.
    pub(super) fn commit(&mut self, claim: &Claim) -> Result<Committed, LogError> {
        claim.check()?;
        let Some(open) = self.take_open(&claim.id) else {
            return Ok(Committed::default());
        };
        let next_offsets = self.named(&open.next_offsets);
        if let Err(error) = self.journal_commit(&open, &next_offsets) {
            // The timeout, the abort or a successor ends it.
            self.transactions.reopen(&claim.id, open);
            return Err(error);
        }
        self.decide(&open, Kind::Commit);
        self.write_due_markers();
        self.compact_journal();
        Ok(Committed { next_offsets })
    }

    /// Writes the decision: the records before it, the markers after it.
    fn journal_commit(
        &mut self,
        open: &Open,
        next_offsets: &[(TopicPartition, Offset)],
    ) -> Result<(), LogError> {
        if self.storage.is_none() {
            return Ok(());
        }
        if self.options.sync {
            self.sync(open.next_offsets.keys().copied())?;
        }
        let groups: BTreeSet<&Arc<str>> = open.groups.iter().collect();
        let offsets = groups
            .into_iter()
            .filter_map(|name| Some((name.to_string(), self.groups.get(name)?)))
            .map(|(name, group)| {
                let pending = group.pending(open.number).iter();
                (name, rows(pending.map(|(tp, offset)| (tp, offset))))
            });
        let entry = Entry::Commit {
            transaction: open.number,
            ends: next_offsets
                .iter()
                .map(|(tp, next)| (tp.topic.to_string(), tp.partition, *next))
                .collect(),
            offsets: offsets.collect(),
        };
        self.record(&entry)
    }

    /// Forces partitions to the disk.
    pub(super) fn sync(
        &mut self,
        partitions: impl Iterator<Item = PartitionId>,
    ) -> Result<(), LogError> {
        for id in partitions {
            if let Some(partition) = self.partition_mut(id) {
                partition.sync()?;
            }
        }
        Ok(())
    }

    /// Aborts the open transaction, if there is one.
    pub(super) fn abort(&mut self, claim: &Claim) -> Result<(), LogError> {
        claim.check()?;
        self.abort_open(&claim.id)
    }

    /// Aborts transactions that were open for too long and fences their producers.
    pub(super) fn abort_timed_out(&mut self, now_ms: i64) -> bool {
        let late: Vec<Arc<str>> = self
            .transactions
            .owners
            .iter()
            .filter(|(_, owner)| {
                owner
                    .open
                    .as_ref()
                    .is_some_and(|open| now_ms.saturating_sub(open.since_ms) > owner.timeout_ms)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in &late {
            if let Err(error) = self.abort_open(id) {
                tracing::error!(transactional_id = %id, %error, "late transaction not aborted");
                continue;
            }
            tracing::warn!(transactional_id = %id, "transaction timed out and was aborted");
            let owner = &self.transactions.owners[id];
            owner.current.fetch_add(1, Ordering::AcqRel);
        }
        !late.is_empty()
    }

    fn take_open(&mut self, id: &Arc<str>) -> Option<Open> {
        self.transactions.owners.get_mut(id)?.open.take()
    }

    fn abort_open(&mut self, id: &Arc<str>) -> Result<(), LogError> {
        if let Some(storage) = &self.storage {
            // A commit whose entry may be in the file must not get abort markers.
            storage.journal.check()?;
        }
        if let Some(open) = self.take_open(id) {
            self.decide(&open, Kind::Abort);
            self.write_due_markers();
        }
        Ok(())
    }

    /// The outcome holds from here on; its markers are due.
    fn decide(&mut self, open: &Open, kind: Kind) {
        for name in &open.groups {
            match &mut self.transactions.held_offsets {
                Some(held) => held.push((Arc::clone(name), open.number, kind)),
                None => self.decide_offsets(name, open.number, kind),
            }
        }
        let due = open.next_offsets.keys().map(|&partition| DueMarker {
            partition,
            transaction: open.number,
            kind,
        });
        self.transactions.due.extend(due);
    }

    fn decide_offsets(&mut self, group: &str, number: TransactionNumber, kind: Kind) {
        if let Some(group) = self.groups.get_mut(group) {
            group.decide(number, kind == Kind::Commit);
        }
    }

    /// See [`EmbeddedLog::hold_markers`](super::EmbeddedLog::hold_markers).
    pub(super) fn hold_markers(
        &mut self,
        offsets: bool,
        held: &mut dyn FnMut(&TopicPartition) -> bool,
    ) {
        let next = offsets.then(Vec::new);
        let decided = std::mem::replace(&mut self.transactions.held_offsets, next);
        for (group, number, kind) in decided.into_iter().flatten() {
            self.decide_offsets(&group, number, kind);
        }
        let all = self.partitions.iter().enumerate();
        self.transactions.held = all
            .filter_map(|(id, partition)| held(partition.as_ref()?.name()).then_some(id))
            .collect();
        self.write_due_markers();
    }

    /// Appends the markers of decided transactions. One that fails stays due.
    pub(super) fn write_due_markers(&mut self) {
        if self.transactions.due.is_empty() {
            return;
        }
        for marker in std::mem::take(&mut self.transactions.due) {
            if self.transactions.held.contains(&marker.partition) {
                self.transactions.due.push(marker);
                continue;
            }
            let Some(partition) = self.partition_mut(marker.partition) else {
                continue;
            };
            if let Err(error) = partition.mark(marker.kind, marker.transaction) {
                tracing::error!(partition = %partition.name(), %error, "transaction marker not written yet");
                self.transactions.due.push(marker);
            }
            self.note_roll(marker.partition);
        }
    }
}
