//! Cleaning: retention and compaction of whole partitions.
//!
//! Only decided records are touched: everything below the last stable offset and, over files, below the file that is
//! appended to. Retention removes whole files (in memory: batches) from the start, oldest first, once all their
//! event times are older than the clock minus the topic's retention. Compaction rewrites file by file: it reads and
//! writes without the log's lock and takes it only to put each new file in the place of the old one, so a crash
//! leaves every file old or new, and readers go on in the file they have open.
//!
//! It runs when asked ([`EmbeddedLog::clean`](super::EmbeddedLog::clean)), and in the thread whose append starts a
//! new file: retention always, compaction once as much has been written as was left by the last one.

use std::sync::{Arc, Mutex, TryLockError};

use super::batch::Batch;
use super::compaction::{CompactionTimes, LastOffsets, Rewriter};
use super::partition::{Aborted, Partition};
use super::segment::Segment;
use super::segment_reader::SegmentReader;
use super::state::PartitionId;
use super::{Shared, poisoned};
use crate::log::{Cleanup, Isolation, LogError, NewTopic, Offset};

const READ_BYTES: usize = 4 << 20;

/// What to do with a partition.
#[derive(Debug, Clone, Copy)]
struct Policy {
    compact: bool,
    retention_ms: Option<i64>,
    min_compaction_lag_ms: Option<i64>,
}

impl Policy {
    fn of(topic: &NewTopic) -> Self {
        Self {
            compact: topic.cleanup != Cleanup::Delete,
            retention_ms: topic
                .retention_ms
                .filter(|_| topic.cleanup != Cleanup::Compact),
            min_compaction_lag_ms: topic.min_compaction_lag_ms,
        }
    }

    /// The times of a compaction now.
    fn times(self, now_ms: i64, tombstone_ms: i64) -> CompactionTimes {
        let lag = self.min_compaction_lag_ms;
        CompactionTimes {
            now_ms,
            tombstone_ms,
            young_from_ms: lag.map(|lag| now_ms.saturating_sub(lag)),
        }
    }
}

/// The files of one compaction.
struct Plan {
    /// Base of each file with a reader of it.
    files: Vec<(Offset, SegmentReader)>,
    /// First offset that is not cleaned.
    end: Offset,
    aborted: Arc<Aborted>,
}

impl Shared {
    /// Cleans every partition that has a policy, the newest decided records included.
    pub(super) fn clean_all(&self) -> Result<(), LogError> {
        let _one_at_a_time = self.cleaning.lock().map_err(|_| poisoned())?;
        let all: Vec<(PartitionId, Policy)> = {
            let mut state = self.lock()?;
            state.rolled.clear();
            let topics = state.topics.values();
            topics
                .flat_map(|t| t.partitions.iter().map(|&id| (id, Policy::of(&t.config))))
                .collect()
        };
        for (id, policy) in all {
            if policy.compact || policy.retention_ms.is_some() {
                self.clean(id, policy, true)?;
            }
        }
        Ok(())
    }

    /// Cleans the partitions that started a new file. Skipped while another thread cleans.
    pub(super) fn clean_rolled(&self) {
        let _one_at_a_time = match self.cleaning.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return,
        };
        let Ok(mut state) = self.lock() else {
            return;
        };
        let rolled = std::mem::take(&mut state.rolled);
        let policies: Vec<_> = rolled
            .into_iter()
            .filter_map(|id| {
                let topic = &state.partition(id)?.name().topic;
                Some((id, Policy::of(&state.topics.get(topic)?.config)))
            })
            .collect();
        drop(state);
        for (id, policy) in policies {
            if let Err(error) = self.clean(id, policy, false) {
                tracing::error!(%error, "partition not cleaned");
            }
        }
    }

    fn clean(&self, id: PartitionId, policy: Policy, asked: bool) -> Result<(), LogError> {
        let now_ms = self.clock.now_ms();
        let plan = {
            let mut state = self.lock()?;
            let Some(partition) = state.partition_mut(id) else {
                return Ok(());
            };
            if asked {
                partition.roll()?;
            }
            if let Some(retention_ms) = policy.retention_ms {
                partition.expire(now_ms.saturating_sub(retention_ms))?;
            }
            if !policy.compact || !(asked || partition.is_dirty()) {
                return Ok(());
            }
            if partition.files.is_none() {
                return partition.compact_in_memory(policy.times(now_ms, self.tombstone_ms));
            }
            plan(partition)?
        };
        self.compact(id, plan, policy.times(now_ms, self.tombstone_ms))
    }

    fn compact(&self, id: PartitionId, plan: Plan, times: CompactionTimes) -> Result<(), LogError> {
        let mut last = LastOffsets::new(times);
        for (_, file) in &plan.files {
            for_each_batch(file.clone(), |batch| last.take_in(batch, &plan.aborted))?;
        }
        for (base, file) in &plan.files {
            let mut rewriter = Rewriter::new(&last, &plan.aborted);
            for_each_batch(file.clone(), |batch| rewriter.take_in(batch))?;
            let cleaned = Segment::write_cleaned(file.path(), *base, &rewriter.finish())?;
            if let Some(partition) = self.lock()?.partition_mut(id) {
                partition.replace_file(cleaned)?;
            }
        }
        if let Some(partition) = self.lock()?.partition_mut(id) {
            partition.cleaned(plan.end);
        }
        Ok(())
    }
}

fn plan(partition: &Partition) -> Result<Plan, LogError> {
    let stable = partition.end(Isolation::ReadCommitted);
    let files = partition.files.as_ref().expect("the caller checked");
    let (readers, end) = files.closed_below(stable)?;
    Ok(Plan {
        files: readers,
        end,
        aborted: partition.aborted.clone(),
    })
}

fn for_each_batch(
    mut file: SegmentReader,
    mut f: impl FnMut(&Batch) -> Result<(), &'static str>,
) -> Result<(), LogError> {
    loop {
        let batches = file.read(0, READ_BYTES)?;
        if batches.is_empty() {
            return Ok(());
        }
        for batch in &batches {
            f(batch).map_err(|fault| {
                let path = file.path().display();
                let base = batch.header.base;
                LogError::fatal(format!("{path}: batch at offset {base}: {fault}"))
            })?;
        }
    }
}

impl Partition {
    /// Compacts what is decided, in place.
    fn compact_in_memory(&mut self, times: CompactionTimes) -> Result<(), LogError> {
        let end = self.end(Isolation::ReadCommitted);
        let decided = self.tail.partition_point(|b| b.header.base < end);
        let old: Vec<Batch> = self.tail.drain(..decided).collect();
        let result = rewrite(&old, &self.aborted, times);
        let kept = result.as_ref().unwrap_or(&old).iter().rev();
        kept.for_each(|batch| self.tail.push_front(batch.clone()));
        result.map_err(|fault| LogError::fatal(format!("{}: {fault}", self.name())))?;
        self.cleaned(end);
        Ok(())
    }
}

fn rewrite(
    batches: &[Batch],
    aborted: &Aborted,
    times: CompactionTimes,
) -> Result<Vec<Batch>, &'static str> {
    let mut last = LastOffsets::new(times);
    for batch in batches {
        last.take_in(batch, aborted)?;
    }
    let mut rewriter = Rewriter::new(&last, aborted);
    for batch in batches {
        rewriter.take_in(batch)?;
    }
    Ok(rewriter.finish())
}

/// Held by the thread that cleans.
pub(super) type Cleaning = Mutex<()>;
