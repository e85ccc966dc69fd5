//! A producer: buffers what is sent, one batch per partition, and drives one transaction at a time.
//!
//! ```text
//! new ── init ──▶ ready ── begin ──▶ in transaction ── begin_commit ──▶ committing ── poll_commit ──▶ ready
//!                   ▲                      └──── abort ────┐                 │
//!                   └──────────────────────────────────────┴─────────────────┘
//! ```
//!
//! `begin_commit` appends what is buffered and makes the offsets part of the transaction; the decision falls in
//! `poll_commit`. A producer without transactional id stays new, but while it commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::batch::BatchBuilder;
use super::group::Identity;
use super::state::PartitionId;
use super::transactions::Claim;
use super::{Shared, record};
use crate::clock::millis;
use crate::log::{
    Committed, CommittedOffset, ErrorClass, GroupMetadata, LogError, Offset, Producer,
    ProducerConfig, ProducerRecord, TopicPartition,
};

/// A batch is appended when it holds this much.
const BATCH_BYTES: usize = 64 << 10;
const BATCH_RECORDS: u32 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Ready,
    InTransaction,
    Committing,
}

struct Buffer {
    partition: PartitionId,
    builder: BatchBuilder,
}

/// A producer of the embedded log.
pub(super) struct EmbeddedProducer {
    shared: Arc<Shared>,
    id: Option<Arc<str>>,
    timeout_ms: i64,
    claim: Option<Claim>,
    phase: Phase,
    /// Index into `buffers` for each partition of a topic.
    topics: FxHashMap<Arc<str>, Vec<usize>>,
    buffers: Vec<Buffer>,
    /// Without a transaction: the offset after what was appended since the last commit.
    next_offsets: BTreeMap<PartitionId, Offset>,
}

impl EmbeddedProducer {
    pub(super) fn new(shared: Arc<Shared>, config: ProducerConfig) -> Self {
        let timeout_ms = match config.transaction_timeout_ms {
            0 => millis(shared.transaction_timeout),
            given => i64::try_from(given).unwrap_or(i64::MAX),
        };
        Self {
            shared,
            id: config.transactional_id.map(Into::into),
            timeout_ms,
            claim: None,
            phase: Phase::New,
            topics: FxHashMap::default(),
            buffers: Vec::new(),
            next_offsets: BTreeMap::new(),
        }
    }

    fn claim(&self) -> Result<&Claim, LogError> {
        let claim = self.claim.as_ref().ok_or_else(|| {
            LogError::fatal(match self.id {
                Some(_) => "call init_transactions before anything else",
                None => "this producer has no transactional id",
            })
        })?;
        claim.check()?;
        Ok(claim)
    }

    fn expect_phase(&self, phase: Phase, call: &'static str) -> Result<(), LogError> {
        if self.phase == phase {
            return Ok(());
        }
        Err(LogError::fatal(format!(
            "{call} is not legal now: the producer is {:?}, not {phase:?}",
            self.phase
        )))
    }

    /// The buffer of a partition.
    #[inline]
    fn buffer(&mut self, topic: &str, partition: i32) -> Result<usize, LogError> {
        let known = self.topics.get(topic).and_then(|buffers| {
            let buffer = buffers.get(usize::try_from(partition).ok()?)?;
            Some(*buffer)
        });
        match known {
            Some(buffer) => Ok(buffer),
            None => self.find(topic, partition),
        }
    }

    #[cold]
    fn find(&mut self, topic: &str, partition: i32) -> Result<usize, LogError> {
        let state = self.shared.lock()?;
        state.find(topic, partition)?;
        let mut buffers = Vec::new();
        for &partition in &state.topics[topic].partitions {
            buffers.push(self.buffers.len());
            self.buffers.push(Buffer {
                partition,
                builder: BatchBuilder::new(),
            });
        }
        let buffer = buffers[usize::try_from(partition).expect("found above")];
        self.topics.insert(topic.into(), buffers);
        Ok(buffer)
    }

    /// Appends buffer number `index`.
    fn append(&mut self, index: usize) -> Result<(), LogError> {
        let buffer = &mut self.buffers[index];
        if buffer.builder.is_empty() {
            return Ok(());
        }
        if self.shared.durable {
            buffer.builder.checksum();
        }
        let result = self.shared.change(|state, now_ms| {
            let builder = &mut buffer.builder;
            state.append(self.claim.as_ref(), buffer.partition, builder, now_ms)
        });
        match result {
            Ok(next) => {
                if self.id.is_none() {
                    self.next_offsets
                        .insert(self.buffers[index].partition, next);
                }
                Ok(())
            }
            Err(error) => {
                // The topic may have been made anew: look it up at the next send.
                self.topics.retain(|_, buffers| !buffers.contains(&index));
                Err(error)
            }
        }
    }

    /// What was appended since the last commit without a transaction.
    fn take_appended(&mut self) -> Result<Committed, LogError> {
        let appended = std::mem::take(&mut self.next_offsets);
        let next_offsets = self.shared.lock()?.named(&appended);
        Ok(Committed { next_offsets })
    }

    fn append_all(&mut self) -> Result<(), LogError> {
        (0..self.buffers.len()).try_for_each(|index| self.append(index))
    }

    fn drop_buffered(&mut self) {
        for buffer in &mut self.buffers {
            buffer.builder.clear();
        }
    }
}

impl Producer for EmbeddedProducer {
    fn init_transactions(&mut self, _timeout: Duration) -> Result<(), LogError> {
        let Some(id) = &self.id else {
            return Err(LogError::fatal("this producer has no transactional id"));
        };
        self.expect_phase(Phase::New, "init_transactions")?;
        let claim = self
            .shared
            .change(|state, _| state.claim(id, self.timeout_ms))?;
        self.claim = Some(claim);
        self.phase = Phase::Ready;
        Ok(())
    }

    fn begin_transaction(&mut self) -> Result<(), LogError> {
        self.claim()?;
        self.expect_phase(Phase::Ready, "begin_transaction")?;
        self.phase = Phase::InTransaction;
        Ok(())
    }

    fn send(&mut self, record: ProducerRecord<'_>) -> Result<(), LogError> {
        if self.id.is_some() {
            self.claim()?;
            self.expect_phase(Phase::InTransaction, "send")?;
        }
        let size = record::bound(record.key, record.value, record.headers);
        if size > self.shared.max_record_bytes {
            return Err(LogError::new(
                ErrorClass::Rejected,
                format!(
                    "record of {size} bytes for {}-{} is larger than the {} bytes the log takes",
                    record.topic, record.partition, self.shared.max_record_bytes
                ),
            ));
        }
        let index = self.buffer(record.topic, record.partition)?;
        let builder = &mut self.buffers[index].builder;
        builder.push(record.timestamp, record.key, record.value, record.headers);
        if builder.len() >= BATCH_BYTES || builder.count() >= BATCH_RECORDS {
            self.append(index)?;
        }
        Ok(())
    }

    fn flush(&mut self, _timeout: Duration) -> Result<(), LogError> {
        self.append_all()?;
        if self.id.is_some() {
            return Ok(());
        }
        self.phase = Phase::New;
        if !self.shared.sync {
            return Ok(());
        }
        let partitions = self.buffers.iter().map(|buffer| buffer.partition);
        self.shared.lock()?.sync(partitions)
    }

    fn begin_commit(
        &mut self,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
        group: Option<GroupMetadata>,
    ) -> Result<(), LogError> {
        if self.id.is_none() {
            self.expect_phase(Phase::New, "begin_commit")?;
            self.flush(Duration::ZERO)?;
            self.phase = Phase::Committing;
            return Ok(());
        }
        self.claim()?;
        self.expect_phase(Phase::InTransaction, "begin_commit")?;
        self.append_all()?;
        if !offsets.is_empty() {
            let Some(group) = group else {
                return Err(LogError::fatal(
                    "offsets without the metadata of the group they belong to",
                ));
            };
            let Ok(identity) = group.0.downcast::<Identity>() else {
                return Err(LogError::fatal("group metadata of another log"));
            };
            let claim = self.claim()?;
            self.shared
                .change(|state, now_ms| state.add_offsets(claim, &identity, offsets, now_ms))?;
        }
        self.phase = Phase::Committing;
        Ok(())
    }

    fn poll_commit(&mut self, _timeout: Duration) -> Result<Option<Committed>, LogError> {
        if self.id.is_none() {
            self.expect_phase(Phase::Committing, "poll_commit")?;
            self.phase = Phase::New;
            return self.take_appended().map(Some);
        }
        let claim = self.claim()?;
        self.expect_phase(Phase::Committing, "poll_commit")?;
        let committed = self.shared.change(|state, _| state.commit(claim))?;
        self.phase = Phase::Ready;
        Ok(Some(committed))
    }

    fn abort_transaction(&mut self, _timeout: Duration) -> Result<(), LogError> {
        self.drop_buffered();
        let claim = self.claim()?;
        if !matches!(self.phase, Phase::InTransaction | Phase::Committing) {
            self.expect_phase(Phase::InTransaction, "abort_transaction")?;
        }
        self.shared.change(|state, _| state.abort(claim))?;
        self.phase = Phase::Ready;
        Ok(())
    }
}

impl Drop for EmbeddedProducer {
    /// A producer without transactions appends what it still holds; an open transaction is left to its successor
    /// or its timeout, as when the process dies.
    fn drop(&mut self) {
        if self.id.is_none()
            && let Err(error) = self.append_all()
        {
            tracing::error!(%error, "records dropped with their producer");
        }
    }
}
