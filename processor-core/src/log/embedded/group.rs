//! A consumer group: members, the two phases of a rebalance, and the offsets the group has committed.
//!
//! ```text
//!           join, leave, expiry, topics change
//! Stable ───────────────────────────────────────▶ Revoking    every member that holds partitions gets Revoked
//!   ▲                                                │        and answers with release
//!   └────────────────────────────────────────────────┘
//!      nobody holds anything: generation + 1, range assignment, each member gets Assigned
//! ```
//!
//! Until the last release the old generation is valid, so that a member can commit what it owned. State transitions
//! are plain functions of the call and the time passed in; waiting is the caller's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::assignor;
use super::batch::TransactionNumber;
use crate::log::{CommittedOffset, ErrorClass, LogError, TopicPartition};

/// Identity of a member, unique in the life of a log object.
pub(super) type MemberId = u64;

/// What a member, or a consumer outside membership, was when it took its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) group: Arc<str>,
    /// `None` for a consumer that never subscribed.
    pub(super) member: Option<MemberId>,
    pub(super) generation: u64,
}

/// What a member learns at its poll.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Nothing new; `generation` is set when the group is stable.
    None { generation: Option<u64> },
    /// New partitions, never empty, of `generation`.
    Assigned {
        partitions: Vec<TopicPartition>,
        generation: u64,
    },
    /// Give these back.
    Revoke(Vec<TopicPartition>),
    /// Not a member any more: its session expired.
    Lost,
    /// Another consumer took over this member's instance id.
    Fenced,
}

#[derive(Debug)]
struct Member {
    instance: Option<String>,
    topics: Vec<Arc<str>>,
    /// Handed out by an Assigned that the member has seen, and not released since.
    held: BTreeSet<TopicPartition>,
    /// Assigned, but the member has not polled since.
    waiting: Option<Vec<TopicPartition>>,
    /// Has seen Revoked.
    told: bool,
    seen_ms: i64,
}

/// One group.
#[derive(Debug)]
pub(super) struct Group {
    name: Arc<str>,
    generation: u64,
    rebalancing: bool,
    members: BTreeMap<MemberId, Member>,
    /// Members replaced by a younger one with the same instance id.
    replaced: BTreeSet<MemberId>,
    offsets: BTreeMap<TopicPartition, CommittedOffset>,
    /// Offsets inside transactions that are not decided yet.
    pending: BTreeMap<TransactionNumber, Vec<(TopicPartition, CommittedOffset)>>,
}

/// Number of partitions of each topic.
pub(super) type TopicSizes = BTreeMap<Arc<str>, i32>;

impl Group {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            generation: 0,
            rebalancing: false,
            members: BTreeMap::new(),
            replaced: BTreeSet::new(),
            offsets: BTreeMap::new(),
            pending: BTreeMap::new(),
        }
    }

    /// Adds a member, or lets a static one come back: with the same subscription it gets what it had and nobody
    /// else notices.
    pub(super) fn join(
        &mut self,
        id: MemberId,
        instance: Option<String>,
        topics: Vec<Arc<str>>,
        sizes: &TopicSizes,
        now_ms: i64,
    ) {
        let mut member = Member {
            instance,
            topics,
            held: BTreeSet::new(),
            waiting: None,
            told: false,
            seen_ms: now_ms,
        };
        let older = self
            .members
            .iter()
            .find(|(_, m)| m.instance.is_some() && m.instance == member.instance)
            .map(|(&id, _)| id);
        let older = older.and_then(|older| {
            self.replaced.insert(older);
            self.members.remove(&older)
        });
        let quietly = match older {
            Some(older) if !self.rebalancing && older.topics == member.topics => {
                let waiting = older.waiting.unwrap_or_default().into_iter();
                member.waiting = Some(waiting.chain(older.held).collect());
                true
            }
            _ => false,
        };
        self.members.insert(id, member);
        if !quietly {
            self.rebalance(sizes);
        }
    }

    /// Changes what a member subscribes to.
    pub(super) fn resubscribe(&mut self, id: MemberId, topics: Vec<Arc<str>>, sizes: &TopicSizes) {
        if let Some(member) = self.members.get_mut(&id)
            && member.topics != topics
        {
            member.topics = topics;
            self.rebalance(sizes);
        }
    }

    /// What the member has to know now; also proof that it lives.
    pub(super) fn poll(&mut self, id: MemberId, now_ms: i64) -> Notice {
        let Some(member) = self.members.get_mut(&id) else {
            return if self.replaced.contains(&id) {
                Notice::Fenced
            } else {
                Notice::Lost
            };
        };
        member.seen_ms = now_ms;
        if self.rebalancing {
            if member.held.is_empty() || member.told {
                return Notice::None { generation: None };
            }
            member.told = true;
            return Notice::Revoke(member.held.iter().cloned().collect());
        }
        let generation = self.generation;
        match member.waiting.take() {
            Some(partitions) if !partitions.is_empty() => {
                member.held.extend(partitions.iter().cloned());
                Notice::Assigned {
                    partitions,
                    generation,
                }
            }
            _ => Notice::None {
                generation: Some(generation),
            },
        }
    }

    /// The member gave `partitions` up.
    pub(super) fn release(
        &mut self,
        id: MemberId,
        partitions: &[TopicPartition],
        sizes: &TopicSizes,
        now_ms: i64,
    ) {
        if let Some(member) = self.members.get_mut(&id) {
            member.seen_ms = now_ms;
            for partition in partitions {
                member.held.remove(partition);
            }
            self.advance(sizes);
        }
    }

    /// The member's consumer is gone. A static member keeps its place until its session expires.
    pub(super) fn leave(&mut self, id: MemberId, sizes: &TopicSizes) {
        self.replaced.remove(&id);
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.instance.is_some() {
            let held = std::mem::take(&mut member.held);
            if !self.rebalancing {
                member.waiting.get_or_insert_default().extend(held);
            }
            self.advance(sizes);
        } else {
            self.members.remove(&id);
            self.rebalance(sizes);
        }
    }

    /// Whether a session has expired.
    pub(super) fn any_unseen_since(&self, oldest_ms: i64) -> bool {
        self.members.values().any(|m| m.seen_ms < oldest_ms)
    }

    /// Removes the members that have not been seen since `oldest_ms`.
    pub(super) fn expire(&mut self, oldest_ms: i64, sizes: &TopicSizes) {
        let name = &self.name;
        self.members.retain(|id, member| {
            let alive = member.seen_ms >= oldest_ms;
            if !alive {
                tracing::warn!(group = %name, member = id, "member expired: it did not poll");
            }
            alive
        });
        self.rebalance(sizes);
    }

    /// A topic appeared or went: those who subscribe to it are assigned anew.
    pub(super) fn topic_changed(&mut self, topic: &str, sizes: &TopicSizes) {
        if self
            .members
            .values()
            .any(|m| m.topics.iter().any(|t| &**t == topic))
        {
            self.rebalance(sizes);
        }
    }

    /// Forgets the offsets of `topic`, those inside open transactions too: a namesake must not get them.
    pub(super) fn forget_topic(&mut self, topic: &str) {
        self.offsets.retain(|tp, _| &*tp.topic != topic);
        for offsets in self.pending.values_mut() {
            offsets.retain(|(tp, _)| &*tp.topic != topic);
        }
    }

    fn rebalance(&mut self, sizes: &TopicSizes) {
        self.rebalancing = true;
        for member in self.members.values_mut() {
            member.waiting = None;
        }
        self.advance(sizes);
    }

    /// Assigns once nobody holds anything.
    fn advance(&mut self, sizes: &TopicSizes) {
        if !self.rebalancing || self.members.values().any(|m| !m.held.is_empty()) {
            return;
        }
        self.rebalancing = false;
        self.generation += 1;
        // Static members first and by name, as Kafka does it: who comes back gets the same.
        let mut order: Vec<(bool, Option<String>, MemberId)> = self
            .members
            .iter()
            .map(|(&id, m)| (m.instance.is_none(), m.instance.clone(), id))
            .collect();
        order.sort_unstable();
        let subscriptions: Vec<Vec<Arc<str>>> = order
            .iter()
            .map(|(_, _, id)| self.members[id].topics.clone())
            .collect();
        let assignment = assignor::range(&subscriptions, sizes);
        for ((_, _, id), partitions) in order.into_iter().zip(assignment) {
            let member = self.members.get_mut(&id).expect("listed above");
            member.waiting = Some(partitions);
            member.told = false;
        }
    }

    /// Refuses offsets of a member that has been replaced or has missed a generation.
    pub(super) fn check(&self, identity: &Identity) -> Result<(), LogError> {
        let fault = match identity.member {
            None if self.members.is_empty() => return Ok(()),
            None => "the group has members, and the offsets come from a consumer that never joined",
            Some(id) if !self.members.contains_key(&id) => {
                "the member is not in the group any more"
            }
            Some(_) if identity.generation != self.generation => {
                "the group has rebalanced since the member took its metadata"
            }
            Some(_) => return Ok(()),
        };
        let name = &self.name;
        Err(LogError::new(
            ErrorClass::Abortable,
            format!("offsets of group `{name}` refused: {fault}; abort and read the input again"),
        ))
    }

    /// The committed offset of `partition`; `Err` while a transaction that changes it is undecided.
    pub(super) fn stable_offset(
        &self,
        partition: &TopicPartition,
    ) -> Result<Option<&CommittedOffset>, TransactionNumber> {
        let undecided = self
            .pending
            .iter()
            .find(|(_, offsets)| offsets.iter().any(|(tp, _)| tp == partition));
        match undecided {
            Some((&transaction, _)) => Err(transaction),
            None => Ok(self.offsets.get(partition)),
        }
    }

    /// The committed offset of `partition`, whatever is undecided.
    pub(super) fn unstable_offset(&self, partition: &TopicPartition) -> Option<&CommittedOffset> {
        self.offsets.get(partition)
    }

    /// What a member, or nobody in particular, is at this moment.
    pub(super) fn anyone(&self) -> Identity {
        Identity {
            group: Arc::clone(&self.name),
            member: self.members.keys().next().copied(),
            generation: self.generation,
        }
    }

    /// Keeps `offsets` until `transaction` is decided.
    pub(super) fn add_pending(
        &mut self,
        transaction: TransactionNumber,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
    ) {
        self.pending.entry(transaction).or_default().extend(offsets);
    }

    /// The offsets that wait for `transaction`.
    pub(super) fn pending(
        &self,
        transaction: TransactionNumber,
    ) -> &[(TopicPartition, CommittedOffset)] {
        self.pending.get(&transaction).map_or(&[], Vec::as_slice)
    }

    /// `transaction` is decided: its offsets count, or go.
    pub(super) fn decide(&mut self, transaction: TransactionNumber, committed: bool) {
        let offsets = self.pending.remove(&transaction).unwrap_or_default();
        if committed {
            self.commit(offsets);
        }
    }

    /// Sets committed offsets.
    pub(super) fn commit(
        &mut self,
        offsets: impl IntoIterator<Item = (TopicPartition, CommittedOffset)>,
    ) {
        self.offsets.extend(offsets);
    }

    /// All committed offsets.
    pub(super) fn offsets(&self) -> &BTreeMap<TopicPartition, CommittedOffset> {
        &self.offsets
    }
}
