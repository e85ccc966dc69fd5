//! A consumer: a group member, or a reader of partitions it chose itself.
//!
//! Batches are fetched under the log's lock (shared, not copied) and decoded outside it. Partitions take turns in a
//! fixed order, so that a run is repeatable.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::group::{Identity, MemberId, Notice};
use super::partition::Fetch;
use super::reading::Reading;
use super::record::HeaderNames;
use super::state::State;
use crate::clock::Deadline;
use crate::log::{
    CommittedOffset, Consumer, ConsumerConfig, ErrorClass, GroupMetadata, Isolation, LogError,
    Offset, OffsetReset, Polled, RecordBatch, TopicPartition,
};

const MAX_POLL_RECORDS: usize = 2_000;
const FETCH_BYTES: usize = 1 << 20;
/// The least that is fetched of a partition, however many there are.
const LEAST_FETCH_BYTES: usize = 64 << 10;

/// A consumer of the embedded log.
pub(super) struct EmbeddedConsumer {
    shared: Arc<Shared>,
    group: Option<Arc<str>>,
    instance: Option<String>,
    isolation: Isolation,
    reset: OffsetReset,
    max_poll_records: usize,
    fetch_bytes: usize,
    subscription: Vec<Arc<str>>,
    member: Option<MemberId>,
    generation: u64,
    /// Partitions the group gave and that were not released.
    granted: BTreeSet<TopicPartition>,
    /// What this member owned when its session expired and has not released yet. Until then it keeps its old
    /// identity, with which every commit is refused, and does not join again.
    lost: BTreeSet<TopicPartition>,
    /// Sorted by name.
    reading: Vec<Reading>,
    /// Whose turn it is.
    turn: usize,
    names: HeaderNames,
}

impl EmbeddedConsumer {
    pub(super) fn new(shared: Arc<Shared>, config: ConsumerConfig) -> Self {
        Self {
            shared,
            group: config.group.map(Into::into),
            instance: config.instance_id,
            isolation: config.isolation,
            reset: config.reset,
            max_poll_records: match config.max_poll_records {
                0 => MAX_POLL_RECORDS,
                given => given,
            },
            fetch_bytes: match config.fetch_bytes {
                0 => usize::MAX,
                given => given,
            },
            subscription: Vec::new(),
            member: None,
            generation: 0,
            granted: BTreeSet::new(),
            lost: BTreeSet::new(),
            reading: Vec::new(),
            turn: 0,
            names: HeaderNames::default(),
        }
    }

    fn group(&self) -> Result<&Arc<str>, LogError> {
        self.group
            .as_ref()
            .ok_or_else(|| LogError::fatal("this consumer has no group; set `group` in its config"))
    }

    fn slot(&self, partition: &TopicPartition) -> Result<usize, LogError> {
        self.reading
            .binary_search_by(|r| r.name.cmp(partition))
            .map_err(|_| LogError::fatal(format!("{partition} is not assigned to this consumer")))
    }

    fn slots(&self, partitions: &[TopicPartition]) -> Result<Vec<usize>, LogError> {
        partitions.iter().map(|p| self.slot(p)).collect()
    }

    /// What the group has to say, if this is a member.
    fn group_event(&mut self, state: &mut State, now_ms: i64) -> Result<Option<Polled>, LogError> {
        if self.subscription.is_empty() {
            return Ok(None);
        }
        let name = self.group.clone().expect("subscribe checked the group");
        if !self.lost.is_empty() {
            return Ok(None);
        }
        let id = self.member.expect("a subscription made it a member");
        match state.group(&name).0.poll(id, now_ms) {
            Notice::None { generation } => {
                self.generation = generation.unwrap_or(self.generation);
                Ok(None)
            }
            Notice::Assigned {
                partitions,
                generation,
            } => {
                self.generation = generation;
                self.granted.extend(partitions.iter().cloned());
                Ok(Some(Polled::Assigned(partitions)))
            }
            Notice::Revoke(partitions) => Ok(Some(self.revoke(partitions, false))),
            Notice::Lost if self.granted.is_empty() => {
                self.join(state, now_ms);
                self.group_event(state, now_ms)
            }
            Notice::Lost => {
                self.lost = std::mem::take(&mut self.granted);
                let partitions = self.lost.iter().cloned().collect();
                Ok(Some(self.revoke(partitions, true)))
            }
            Notice::Fenced => Err(LogError::new(
                ErrorClass::Fenced,
                format!(
                    "instance `{}` of group `{name}` was taken over by a newer consumer; stop this one",
                    self.instance.as_deref().unwrap_or_default()
                ),
            )),
        }
    }

    fn join(&mut self, state: &mut State, now_ms: i64) {
        let name = self.group.clone().expect("subscribe checked the group");
        let id = state.new_member();
        let (group, sizes) = state.group(&name);
        let instance = self.instance.clone();
        group.join(id, instance, self.subscription.clone(), &sizes, now_ms);
        self.member = Some(id);
    }

    fn revoke(&mut self, partitions: Vec<TopicPartition>, lost: bool) -> Polled {
        for reading in &mut self.reading {
            if partitions.contains(&reading.name) {
                reading.revoked = true;
                reading.drop_fetched();
            }
        }
        Polled::Revoked { partitions, lost }
    }

    /// Fetches for every partition that has nothing left to return. True when there is something to decode or read.
    fn fetch(&mut self, state: &mut State) -> Result<bool, LogError> {
        let mut any = false;
        let each = self.fetch_bytes / self.reading.len().max(1);
        let fetch_bytes = each.clamp(LEAST_FETCH_BYTES, FETCH_BYTES);
        for reading in &mut self.reading {
            if reading.paused || reading.revoked {
                continue;
            }
            if reading.is_drained() {
                let Some(from) = reading.start(state, self.group.as_ref(), self.reset)? else {
                    continue;
                };
                let Some(partition) = state.partition(reading.id) else {
                    if self.granted.contains(&reading.name) {
                        continue;
                    }
                    return Err(LogError::fatal(format!(
                        "{} was deleted while it was read",
                        reading.name
                    )));
                };
                match partition.fetch(from, self.isolation, fetch_bytes)? {
                    Fetch::Hot(fetched) => reading.take_in(fetched),
                    Fetch::Cold(cold) => reading.cold = Some(cold),
                }
            }
            any |= !reading.is_drained();
        }
        Ok(any)
    }

    /// Decodes what was fetched, partition by partition from whose turn it is.
    fn take(&mut self) -> Result<Vec<RecordBatch>, LogError> {
        let mut batches = Vec::new();
        let mut left = self.max_poll_records;
        let count = self.reading.len();
        for step in 0..count {
            let slot = (self.turn + step) % count;
            let reading = &mut self.reading[slot];
            if left == 0 {
                self.turn = slot;
                return Ok(batches);
            }
            if reading.paused || reading.revoked || reading.is_drained() {
                continue;
            }
            if let Some(cold) = reading.cold.take() {
                reading.take_in(cold.read()?);
            }
            let records = reading.take(left, &mut self.names)?;
            left -= records.len();
            if !records.is_empty() {
                batches.push(RecordBatch {
                    partition: reading.name.clone(),
                    records,
                });
            }
        }
        self.turn = (self.turn + 1) % count.max(1);
        Ok(batches)
    }
}

impl Consumer for EmbeddedConsumer {
    fn subscribe(&mut self, topics: &[&str]) -> Result<(), LogError> {
        let name = self.group()?.clone();
        topics
            .iter()
            .try_for_each(|t| super::state::check_name(t))?;
        let topics: BTreeSet<Arc<str>> = topics.iter().map(|&t| t.into()).collect();
        self.subscription = topics.into_iter().collect();
        let shared = self.shared.clone();
        shared.change(|state, now_ms| {
            match self.member {
                Some(id) => {
                    let (group, sizes) = state.group(&name);
                    group.resubscribe(id, self.subscription.clone(), &sizes);
                }
                None => self.join(state, now_ms),
            }
            Ok(())
        })
    }

    fn poll(&mut self, timeout: Duration) -> Result<Polled, LogError> {
        let deadline = Deadline::after(timeout);
        let shared = self.shared.clone();
        let mut state = shared.lock()?;
        loop {
            let now_ms = shared.clock.now_ms();
            if state.tick(now_ms) {
                shared.wake(&state);
            }
            if let Some(event) = self.group_event(&mut state, now_ms)? {
                return Ok(event);
            }
            if self.fetch(&mut state)? {
                drop(state);
                let batches = self.take()?;
                if !batches.is_empty() {
                    return Ok(Polled::Records(batches));
                }
                state = shared.lock()?;
                continue;
            }
            if deadline.passed() {
                return Ok(Polled::Nothing);
            }
            state = shared.wait(state, deadline)?;
        }
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Option<Offset>)]) -> Result<(), LogError> {
        let state = self.shared.lock()?;
        let ids = partitions
            .iter()
            .map(|(tp, _)| state.find(&tp.topic, tp.partition))
            .collect::<Result<Vec<_>, _>>()?;
        drop(state);
        for ((name, offset), id) in partitions.iter().zip(ids) {
            let reading = Reading::new(name.clone(), id, *offset);
            match self.reading.binary_search_by(|r| r.name.cmp(name)) {
                Ok(slot) => self.reading[slot] = reading,
                Err(slot) => self.reading.insert(slot, reading),
            }
        }
        Ok(())
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.reading.retain(|r| !partitions.contains(&r.name));
        self.turn = 0;
        for partition in partitions {
            self.granted.remove(partition);
            self.lost.remove(partition);
        }
        let (Some(name), Some(id)) = (self.group.clone(), self.member) else {
            return Ok(());
        };
        self.shared.change(|state, now_ms| {
            let (group, sizes) = state.group(&name);
            group.release(id, partitions, &sizes, now_ms);
            Ok(())
        })
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        for slot in self.slots(partitions)? {
            self.reading[slot].paused = true;
        }
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        for slot in self.slots(partitions)? {
            self.reading[slot].paused = false;
        }
        Ok(())
    }

    fn seek(&mut self, partition: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        let slot = self.slot(partition)?;
        let reading = &mut self.reading[slot];
        reading.drop_fetched();
        reading.position = Some(offset);
        Ok(())
    }

    fn position(&self, partition: &TopicPartition) -> Result<Option<Offset>, LogError> {
        Ok(self.reading[self.slot(partition)?].position)
    }

    fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>, LogError> {
        let name = self.group()?;
        let deadline = Deadline::after(timeout);
        let mut state = self.shared.lock()?;
        loop {
            if state.tick(self.shared.clock.now_ms()) {
                self.shared.wake(&state);
            }
            let (group, _) = state.group(name);
            let offsets: Result<Vec<_>, _> = partitions
                .iter()
                .map(|tp| group.stable_offset(tp).map(Option::<&_>::cloned))
                .collect();
            match offsets {
                Ok(offsets) => return Ok(offsets),
                Err(transaction) if deadline.passed() => {
                    return Err(LogError::retriable(format!(
                        "offsets of group `{name}` wait for transaction {transaction}; ask again"
                    )));
                }
                Err(_) => state = self.shared.wait(state, deadline)?,
            }
        }
    }

    fn commit(&mut self, offsets: &[(TopicPartition, CommittedOffset)]) -> Result<(), LogError> {
        let identity = self.identity()?;
        self.shared
            .change(|state, _| state.commit_offsets(&identity, offsets))
    }

    fn beginning_offset(
        &self,
        partition: &TopicPartition,
        _timeout: Duration,
    ) -> Result<Offset, LogError> {
        let state = self.shared.lock()?;
        let id = state.find(&partition.topic, partition.partition)?;
        Ok(state.partition(id).map_or(0, |p| p.start()))
    }

    fn end_offset(
        &self,
        partition: &TopicPartition,
        isolation: Isolation,
        _timeout: Duration,
    ) -> Result<Offset, LogError> {
        self.shared.change(|state, _| {
            let id = state.find(&partition.topic, partition.partition)?;
            Ok(state.partition(id).map_or(0, |p| p.end(isolation)))
        })
    }

    fn group_metadata(&self) -> Result<GroupMetadata, LogError> {
        Ok(GroupMetadata(Box::new(self.identity()?)))
    }

    fn close(self: Box<Self>) {}
}

impl EmbeddedConsumer {
    fn identity(&self) -> Result<Identity, LogError> {
        Ok(Identity {
            group: self.group()?.clone(),
            member: self.member,
            generation: self.generation,
        })
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        let (Some(name), Some(id)) = (self.group.clone(), self.member) else {
            return;
        };
        let left = self.shared.change(|state, _| {
            let (group, sizes) = state.group(&name);
            group.leave(id, &sizes);
            Ok(())
        });
        if let Err(error) = left {
            tracing::warn!(group = %name, %error, "could not leave the group");
        }
    }
}
