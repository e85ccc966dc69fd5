//! Bugs that lie between an instance and its log: clients that do one thing wrong.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::log::{
    Committed, CommittedOffset, Consumer, ConsumerConfig, ErrorClass, GroupMetadata, Isolation,
    Log as _, LogError, Offset, Polled, Producer, ProducerConfig, ProducerRecord, TopicPartition,
};
use crate::mutant::Mutant;

use super::world::Place;

type SharedProducer = Arc<Mutex<Box<dyn Producer>>>;

/// The producer that one life of an instance goes on with where it should make a new one.
#[derive(Default)]
pub(super) struct Kept(Mutex<Option<SharedProducer>>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Option<SharedProducer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A consumer of the world's log, with the bug of its instance.
pub(super) fn consumer(
    place: &Place,
    mut config: ConsumerConfig,
) -> Result<Box<dyn Consumer>, LogError> {
    let restores = config.group.is_none();
    if restores && place.has(Mutant::RestoreUncommitted) {
        config.isolation = Isolation::ReadUncommitted;
    }
    let group = config.group.clone();
    let inner = place.world.log.consumer(config)?;
    match place.world.mutant {
        None => Ok(inner),
        Some(_) => Ok(Box::new(BuggyConsumer {
            inner,
            place: place.clone(),
            group,
            paused: BTreeSet::new(),
        })),
    }
}

/// A producer of the world's log, with the bug of its instance.
pub(super) fn producer(
    place: &Place,
    kept: &Arc<Kept>,
    config: ProducerConfig,
) -> Result<Box<dyn Producer>, LogError> {
    if place.world.mutant.is_none() {
        return place.world.log.producer(config);
    }
    let id = config.transactional_id.clone().unwrap_or_default();
    let old = kept.lock().clone();
    let reused = old.is_some();
    let inner = match old {
        Some(old) => old,
        None => Arc::new(Mutex::new(place.world.log.producer(config)?)),
    };
    if place.has(Mutant::ProducerReused) {
        *kept.lock() = Some(Arc::clone(&inner));
    }
    Ok(Box::new(BuggyProducer {
        inner,
        place: place.clone(),
        id,
        reused,
        still_open: false,
        held: None,
        changes: 0,
        before: HashMap::new(),
        metadata: HashMap::new(),
    }))
}

struct BuggyConsumer {
    inner: Box<dyn Consumer>,
    place: Place,
    group: Option<String>,
    /// Kept for a bug, whatever was given up since.
    paused: BTreeSet<TopicPartition>,
}

impl BuggyConsumer {
    fn restores_with(&self, bug: Mutant) -> bool {
        self.group.is_none() && self.place.has(bug)
    }
}

impl Consumer for BuggyConsumer {
    fn subscribe(&mut self, topics: &[&str]) -> Result<(), LogError> {
        self.inner.subscribe(topics)
    }

    fn poll(&mut self, timeout: Duration) -> Result<Polled, LogError> {
        self.inner.poll(timeout)
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Option<Offset>)]) -> Result<(), LogError> {
        if self.place.has(Mutant::PauseOutlivesRelease) {
            self.inner.assign(partitions)?;
            let names = partitions.iter().map(|(name, _)| name);
            let paused = names.filter(|name| self.paused.contains(*name));
            return self.inner.pause(&paused.cloned().collect::<Vec<_>>());
        }
        if !self.restores_with(Mutant::RestoreSkipsOne) {
            return self.inner.assign(partitions);
        }
        let further = |(name, offset): &(TopicPartition, Option<Offset>)| {
            (name.clone(), offset.map(|offset| offset + 1))
        };
        let further: Vec<_> = partitions.iter().map(further).collect();
        self.inner.assign(&further)
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.inner.release(partitions)
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.paused.extend(partitions.iter().cloned());
        self.inner.pause(partitions)
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.paused.retain(|name| !partitions.contains(name));
        self.inner.resume(partitions)
    }

    fn seek(&mut self, partition: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        match self.place.has(Mutant::SeekForgotten) {
            true => Ok(()),
            false => self.inner.seek(partition, offset),
        }
    }

    fn position(&self, partition: &TopicPartition) -> Result<Option<Offset>, LogError> {
        self.inner.position(partition)
    }

    fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>, LogError> {
        let log = &self.place.world.log;
        let group = self.group.as_deref().unwrap_or_default();
        match self.place.has(Mutant::UnstableOffsets) {
            true => Ok(log.unstable_offsets(group, partitions).unwrap_or_default()),
            false => self.inner.committed(partitions, timeout),
        }
    }

    fn commit(&mut self, offsets: &[(TopicPartition, CommittedOffset)]) -> Result<(), LogError> {
        self.inner.commit(offsets)
    }

    fn beginning_offset(
        &self,
        partition: &TopicPartition,
        timeout: Duration,
    ) -> Result<Offset, LogError> {
        self.inner.beginning_offset(partition, timeout)
    }

    fn end_offset(
        &self,
        partition: &TopicPartition,
        isolation: Isolation,
        timeout: Duration,
    ) -> Result<Offset, LogError> {
        if self.restores_with(Mutant::RestoreToStableEnd) {
            return self
                .inner
                .end_offset(partition, Isolation::ReadCommitted, timeout);
        }
        let end = self.inner.end_offset(partition, isolation, timeout)?;
        if self.restores_with(Mutant::EndsKept) {
            let mut state = self.place.world.state();
            let ends = &mut state.lives[self.place.player].first_ends;
            return Ok(*ends.entry(partition.clone()).or_insert(end));
        }
        match self.restores_with(Mutant::RestoreOneShort) {
            // Behind the last record there is a marker.
            true => Ok((end - 2).max(0)),
            false => Ok(end),
        }
    }

    fn group_metadata(&self) -> Result<GroupMetadata, LogError> {
        let log = &self.place.world.log;
        let anyone = || log.anyones_metadata(self.group.as_deref()?);
        match self.place.has(Mutant::MetadataOfAnotherMember) {
            true => anyone().map_or_else(|| self.inner.group_metadata(), Ok),
            false => self.inner.group_metadata(),
        }
    }

    fn close(self: Box<Self>) {
        self.inner.close();
    }
}

type OwnedRecord = (String, i32, i64, Option<Vec<u8>>, Option<Vec<u8>>);

struct BuggyProducer {
    inner: SharedProducer,
    place: Place,
    id: String,
    reused: bool,
    /// An abort was left out.
    still_open: bool,
    /// The record sent last, which is not there yet.
    held: Option<OwnedRecord>,
    /// Changes sent to changelogs.
    changes: u64,
    /// The last value sent for a key of a changelog.
    before: HashMap<(String, i32, Vec<u8>), Option<Vec<u8>>>,
    /// What was committed beside the offset of a partition last.
    metadata: HashMap<TopicPartition, String>,
}

impl BuggyProducer {
    fn inner(&self) -> MutexGuard<'_, Box<dyn Producer>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, bug: Mutant) -> bool {
        self.place.has(bug)
    }

    fn with_bugs(&mut self, offsets: &mut Vec<(TopicPartition, CommittedOffset)>) {
        for (partition, committed) in offsets.iter_mut() {
            if self.place.has(Mutant::OffsetTooFar) {
                committed.offset += 1;
            }
            if self.place.has(Mutant::OffsetTooShort) {
                committed.offset = (committed.offset - 1).max(0);
            }
            if self.place.has(Mutant::TimesForgotten) {
                committed.metadata.clear();
            }
            if self.place.has(Mutant::TimesOfLastCommit) {
                let last = self.metadata.entry(partition.clone()).or_default();
                std::mem::swap(last, &mut committed.metadata);
            }
        }
        if self.has(Mutant::OffsetsForgotten) {
            offsets.clear();
        }
        if self.has(Mutant::OffsetsOfOnePartition) {
            offsets.truncate(1);
        }
    }

    /// Commits `offsets` in a transaction of their own.
    fn commit_alone(
        &self,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
        group: Option<GroupMetadata>,
    ) -> Result<(), LogError> {
        let mut producer = self.place.world.log.producer(ProducerConfig {
            transactional_id: Some(format!("{}-offsets", self.id)),
            ..ProducerConfig::default()
        })?;
        producer.init_transactions(Duration::ZERO)?;
        producer.begin_transaction()?;
        producer.begin_commit(offsets, group)?;
        producer.poll_commit(Duration::ZERO).map(|_| ())
    }

    fn send_change(&mut self, record: ProducerRecord<'_>) -> Result<(), LogError> {
        self.changes += 1;
        if record.value.is_none() && self.has(Mutant::TombstonesForgotten)
            || self.changes.is_multiple_of(7) && self.has(Mutant::ChangesForgotten)
        {
            return Ok(());
        }
        self.inner().send(record)?;
        if self.has(Mutant::ChangesTwice) {
            let key = (
                record.topic.to_owned(),
                record.partition,
                record.key.unwrap_or_default().to_vec(),
            );
            let value = record.value.map(<[u8]>::to_vec);
            if let Some(before) = self.before.insert(key, value) {
                let again = ProducerRecord {
                    value: before.as_deref(),
                    ..record
                };
                self.inner().send(again)?;
            }
        }
        Ok(())
    }
}

impl Producer for BuggyProducer {
    fn init_transactions(&mut self, timeout: Duration) -> Result<(), LogError> {
        if self.reused {
            // As if there were nothing to settle; one that is fenced learns it here.
            return match self.inner().abort_transaction(timeout) {
                Err(error) if error.class == ErrorClass::Fenced => Err(error),
                _ => Ok(()),
            };
        }
        self.inner().init_transactions(timeout)
    }

    fn begin_transaction(&mut self) -> Result<(), LogError> {
        if std::mem::take(&mut self.still_open) {
            return Ok(());
        }
        self.inner().begin_transaction()
    }

    fn send(&mut self, record: ProducerRecord<'_>) -> Result<(), LogError> {
        if record.topic.ends_with("-changelog") {
            return self.send_change(record);
        }
        if !self.has(Mutant::CommitBeforeFlush) {
            return self.inner().send(record);
        }
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let held = (
            record.topic.to_owned(),
            record.partition,
            record.timestamp,
            owned(record.key),
            owned(record.value),
        );
        match self.held.replace(held) {
            None => Ok(()),
            Some((topic, partition, timestamp, key, value)) => self.inner().send(ProducerRecord {
                topic: &topic,
                partition,
                timestamp,
                key: key.as_deref(),
                value: value.as_deref(),
                headers: &[],
            }),
        }
    }

    fn flush(&mut self, timeout: Duration) -> Result<(), LogError> {
        self.inner().flush(timeout)
    }

    fn begin_commit(
        &mut self,
        mut offsets: Vec<(TopicPartition, CommittedOffset)>,
        group: Option<GroupMetadata>,
    ) -> Result<(), LogError> {
        self.with_bugs(&mut offsets);
        if self.has(Mutant::OffsetsOutsideTransaction) && !offsets.is_empty() {
            self.commit_alone(offsets, group)?;
            return self.inner().begin_commit(Vec::new(), None);
        }
        self.inner().begin_commit(offsets, group)
    }

    fn poll_commit(&mut self, timeout: Duration) -> Result<Option<Committed>, LogError> {
        self.inner().poll_commit(timeout)
    }

    fn abort_transaction(&mut self, timeout: Duration) -> Result<(), LogError> {
        if self.has(Mutant::AbortForgotten) {
            self.still_open = true;
            return Ok(());
        }
        self.inner().abort_transaction(timeout)
    }
}
