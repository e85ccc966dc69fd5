//! Compaction: which records of a partition survive, as pure functions over batches.
//!
//! Of each key the last record stays, and so does every record without a key. Aborted records and control batches
//! go: what is left is committed, and no longer belongs to a transaction. A tombstone stays until its horizon, a
//! clock time set when it is cleaned for the first time, so that a slow reader learns of the deletion.
//!
//! **Lag.** A record too young for the topic's compaction lag stays, and makes no older one go, as in Kafka: beside it
//! stays the one that was the last before the lag began, which is the row as it was then.

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128;

use super::batch::{Batch, BatchBuilder, Kind};
use super::partition::Aborted;
use super::record::HeaderNames;
use crate::log::{ConsumerRecord, Offset};

/// Size of the batches that compaction writes.
const BATCH_BYTES: usize = 64 << 10;
/// Offsets in a batch are 32 bits from its base.
const MOST_DELTA: i64 = 1 << 30;

/// The last offset of each key, of the records that are not too young. Keys are kept as 128-bit hashes.
#[derive(Debug)]
pub(super) struct LastOffsets {
    times: CompactionTimes,
    of_keys: FxHashMap<u128, Offset>,
}

impl LastOffsets {
    pub(super) fn new(times: CompactionTimes) -> Self {
        Self {
            times,
            of_keys: FxHashMap::default(),
        }
    }

    /// Takes `batch` in; batches come in offset order.
    pub(super) fn take_in(&mut self, batch: &Batch, aborted: &Aborted) -> Result<(), &'static str> {
        for_each(batch, aborted, |record| {
            if let Some(key) = &record.key
                && !self.times.is_young(&record)
            {
                self.of_keys.insert(xxh3_128(key), record.offset);
            }
        })
    }

    fn survives(&self, record: &ConsumerRecord) -> bool {
        match &record.key {
            Some(key) => self.of_keys.get(&xxh3_128(key)) == Some(&record.offset),
            None => true,
        }
    }
}

fn for_each(
    batch: &Batch,
    aborted: &Aborted,
    mut f: impl FnMut(ConsumerRecord),
) -> Result<(), &'static str> {
    if batch.header.kind != Kind::Records || aborted.contains_key(&batch.header.transaction) {
        return Ok(());
    }
    let mut names = HeaderNames::default();
    let mut records = batch.clone().records();
    while let Some(record) = records.next(&mut names)? {
        f(record);
    }
    Ok(())
}

/// What a compaction goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct CompactionTimes {
    /// The clock.
    pub now_ms: i64,
    /// How long a tombstone stays.
    pub tombstone_ms: i64,
    /// Records from this timestamp on are left alone.
    pub young_from_ms: Option<i64>,
}

impl CompactionTimes {
    fn is_young(&self, record: &ConsumerRecord) -> bool {
        self.young_from_ms
            .is_some_and(|from_ms| record.timestamp >= from_ms)
    }
}

/// Writes the surviving records of a run of batches into fewer, larger ones.
pub(super) struct Rewriter<'a> {
    last: &'a LastOffsets,
    aborted: &'a Aborted,
    times: CompactionTimes,
    /// Horizon of tombstones that are cleaned for the first time.
    fresh_horizon_ms: i64,
    builder: BatchBuilder,
    base: Offset,
    horizon_ms: i64,
    out: Vec<Batch>,
}

impl<'a> Rewriter<'a> {
    pub(super) fn new(last: &'a LastOffsets, aborted: &'a Aborted) -> Self {
        let CompactionTimes {
            now_ms,
            tombstone_ms,
            ..
        } = last.times;
        Self {
            last,
            aborted,
            times: last.times,
            fresh_horizon_ms: now_ms.saturating_add(tombstone_ms).max(1),
            builder: BatchBuilder::new(),
            base: 0,
            horizon_ms: 0,
            out: Vec::new(),
        }
    }

    /// Takes `batch` in; batches come in offset order.
    pub(super) fn take_in(&mut self, batch: &Batch) -> Result<(), &'static str> {
        let (horizon_ms, expired) = match batch.header.horizon_ms {
            0 => (self.fresh_horizon_ms, false),
            known => (known, known <= self.times.now_ms),
        };
        for_each(batch, self.aborted, |record| {
            let gone = expired && record.value.is_none();
            if self.times.is_young(&record) || (!gone && self.last.survives(&record)) {
                self.push(&record, horizon_ms);
            }
        })
    }

    fn push(&mut self, record: &ConsumerRecord, horizon_ms: i64) {
        if self.builder.len() >= BATCH_BYTES
            || record.offset - self.base > MOST_DELTA
            || horizon_ms != self.horizon_ms
        {
            self.flush();
        }
        if self.builder.is_empty() {
            self.base = record.offset;
            self.horizon_ms = horizon_ms;
        }
        self.builder.push_at(
            u32::try_from(record.offset - self.base).expect("bounded above"),
            record.timestamp,
            record.key.as_deref(),
            record.value.as_deref(),
            &record.headers,
        );
    }

    fn flush(&mut self) {
        if !self.builder.is_empty() {
            self.builder.horizon(self.horizon_ms);
            self.builder.checksum();
            self.out.push(self.builder.take(self.base, 0));
        }
    }

    /// The batches written since the last call.
    pub(super) fn finish(&mut self) -> Vec<Batch> {
        self.flush();
        std::mem::take(&mut self.out)
    }
}
