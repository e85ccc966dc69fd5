//! One store on its way: the replay of its changelog, for a [`Restorer`](super::restore::Restorer).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use state::{Change, MAX_BATCH, Marker, Store, remove_marker, write_marker};

use crate::clock::millis;
use crate::error::{Fault, Result};
use crate::log::{
    Consumer, ConsumerRecord, Isolation, Offset, RecordBatch, Timestamp, TopicPartition,
};
use crate::mutant::{self, Mutant};
use crate::processor::OwnedStore;
use crate::record::RecordMetadata;
use crate::task::{Handlers, StoreSlot, is_not_ready};
use crate::topology::{self, StoreId, StoreKind};

use super::restore::Times;
use super::restores::Restores;
use super::stream_thread::Shared;

const LOG_TIMEOUT: Duration = Duration::from_secs(30);
/// The part of the memory for committed changes that restores may use beside the tasks that run, which use all of it.
const OF_SETTLED: usize = 4;
/// The end of what is followed.
const NO_END: Offset = Offset::MAX;

/// What stores are read for.
pub(super) enum Purpose {
    /// To be handed over as of the end of their changelogs.
    Restore,
    /// To follow their changelogs: of each task these stores.
    Follow(BTreeSet<StoreId>),
}

impl Purpose {
    pub(super) fn has_end(&self) -> bool {
        matches!(self, Self::Restore)
    }

    pub(super) fn includes(&self, store: StoreId) -> bool {
        match self {
            Self::Restore => true,
            Self::Follow(stores) => stores.contains(&store),
        }
    }

    pub(super) fn progress<'a>(&self, shared: &'a Shared) -> &'a Restores {
        match self {
            Self::Restore => &shared.restores,
            Self::Follow(_) => &shared.standbys,
        }
    }

    pub(super) fn fetch_bytes(&self, shared: &Shared) -> usize {
        match self {
            Self::Restore => shared.memory.side_fetch_bytes,
            Self::Follow(_) => shared.memory.standby_bytes / 2,
        }
    }

    /// What may wait in memory before it is written down.
    pub(super) fn settled_bytes(&self, shared: &Shared) -> usize {
        match self {
            Self::Restore => shared.memory.settled_bytes / OF_SETTLED,
            Self::Follow(_) => shared.memory.standby_bytes / 2,
        }
    }
}

/// What changelogs are read with, and what for.
pub(super) struct Reading<'a> {
    pub consumer: &'a mut dyn Consumer,
    pub shared: &'a Shared,
    pub purpose: &'a Purpose,
}

impl Reading<'_> {
    fn begin_of(&self, changelog: &TopicPartition) -> Result<Offset> {
        Ok(self.consumer.beginning_offset(changelog, LOG_TIMEOUT)?)
    }

    /// Where it ends physically.
    fn end_of(&self, changelog: &TopicPartition) -> Result<Offset> {
        let isolation = Isolation::ReadUncommitted;
        let end = self
            .consumer
            .end_offset(changelog, isolation, LOG_TIMEOUT)?;
        Ok(end)
    }

    fn progress(&self) -> &Restores {
        self.purpose.progress(self.shared)
    }
}

/// A store on its way.
pub(super) struct Replay {
    pub slot: StoreSlot<OwnedStore>,
    /// Everything before is in the store, without a hole.
    vouched: Offset,
    /// [`NO_END`] for a copy.
    pub end: Offset,
    /// The newest change that was read.
    newest: Timestamp,
    /// Whether the consumer reads it.
    pub reading: bool,
    pub quiet_steps: u32,
}

impl Replay {
    pub(super) fn begin(
        slot: StoreSlot<OwnedStore>,
        inputs: &[(TopicPartition, Offset)],
        reading: &mut Reading<'_>,
    ) -> Result<Self> {
        let changelog = &slot.changelog;
        let begin = reading.begin_of(changelog)?;
        let of_input = inputs.iter().find(|(input, _)| input == changelog);
        let end = match (&slot.read_back, of_input) {
            (Some(_), Some((_, offset))) if !mutant::is(Mutant::ReadBackToTheEnd) => *offset,
            _ => reading.end_of(changelog)?,
        };
        let mut replay = Self {
            vouched: slot.position,
            slot,
            end: match reading.purpose {
                Purpose::Restore => end,
                Purpose::Follow(_) => NO_END,
            },
            newest: Timestamp::MIN,
            reading: false,
            quiet_steps: 0,
        };
        if replay.slot.position < begin || replay.slot.position > end {
            // What was deleted since, or belongs to another incarnation of the topic, cannot be replayed.
            replay.clear(begin, reading.shared)?;
        }
        replay.read_on(end, reading)?;
        Ok(replay)
    }

    pub(super) fn settled_bytes(&self) -> usize {
        self.slot.store.as_store().settled_bytes()
    }

    /// Whether it is a copy.
    fn follows(&self) -> bool {
        self.end == NO_END
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.slot.position >= self.end || mutant::is(Mutant::ProcessedBeforeRestored)
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_at_end() && !self.reading
    }

    /// Has the consumer read from the position on, if there is something to read. The changelog ends at `seen_end` now.
    fn read_on(&mut self, seen_end: Offset, reading: &mut Reading<'_>) -> Result {
        if self.is_at_end() {
            return Ok(());
        }
        let StoreSlot {
            changelog,
            position,
            ..
        } = &self.slot;
        let from = *position;
        reading
            .consumer
            .assign(&[(changelog.clone(), Some(from))])?;
        self.reading = true;
        self.quiet_steps = 0;
        let store = self.slot.store.as_store().name().to_owned();
        let now_ms = reading.shared.clock.now_ms();
        let progress = reading.progress();
        progress.begin(store, changelog, from..seen_end, now_ms);
        Ok(())
    }

    pub(super) fn stop(&mut self, reading: &mut Reading<'_>) -> Result {
        if self.reading {
            self.reading = false;
            let changelog = std::slice::from_ref(&self.slot.changelog);
            reading.progress().end(&self.slot.changelog);
            reading.consumer.release(changelog)?;
        }
        Ok(())
    }

    /// Takes records in. Returns how many, from the first on.
    pub(super) fn take(&mut self, batch: &RecordBatch, handlers: &Handlers) -> Result<usize> {
        match &self.slot.read_back {
            None => self.replay(batch),
            Some(row) => read_back(
                self.slot.store.commit_side(),
                &**row,
                batch,
                self.end,
                handlers,
            ),
        }
    }

    fn replay(&mut self, batch: &RecordBatch) -> Result<usize> {
        let store = self.slot.store.commit_side();
        for record in &batch.records {
            self.newest = self.newest.max(record.timestamp);
            if let Some(key) = record.key.as_deref() {
                let change = Change {
                    key,
                    value: record.value.as_deref(),
                    timestamp: record.timestamp,
                };
                let restored = store.restore(change).map_err(Fault::from);
                restored.map_err(|fault| fault.at(place(batch, record)))?;
            }
        }
        Ok(batch.records.len())
    }

    /// Empties the store, to be restored from `position` on.
    fn clear(&mut self, position: Offset, shared: &Shared) -> Result {
        // IMPORTANT: the marker first, so that a crash in between leaves nothing that it vouches for.
        remove_marker(&*shared.database, &self.slot.name)?;
        self.slot.store.commit_side().clear()?;
        self.slot.position = position;
        self.vouched = position;
        Ok(())
    }

    /// Begins anew where the changelog begins now.
    fn start_over(&mut self, begin: Offset, end: Offset, reading: &mut Reading<'_>) -> Result {
        tracing::warn!(
            changelog = %self.slot.changelog, begin, end,
            "the changelog was cut while it was read; the store is restored from its beginning"
        );
        self.stop(reading)?;
        self.clear(begin, reading.shared)?;
        self.read_on(end, reading)
    }

    /// Nothing has come for long: there may be a transaction that is still open, or the end is not there any more. Of a copy
    /// this is where it learns how far the changelog goes.
    pub(super) fn look_again(&mut self, reading: &mut Reading<'_>) -> Result {
        self.quiet_steps = 0;
        let begin = reading.begin_of(&self.slot.changelog)?;
        let end = reading.end_of(&self.slot.changelog)?;
        let needed = match self.follows() {
            true => self.slot.position,
            false => self.end,
        };
        if end < needed || begin > self.slot.position {
            if !self.follows() {
                self.end = end.min(self.end);
            }
            return self.start_over(begin, end, reading);
        }
        if self.follows() {
            reading.progress().ends_at(&self.slot.changelog, end);
        }
        Ok(())
    }

    /// Writes what was replayed to the backend, and then the marker that says so; at the end the changelog is let go.
    pub(super) fn write_down(&mut self, times: &Times, reading: &mut Reading<'_>) -> Result {
        if self.slot.position > self.vouched {
            let begin = reading.begin_of(&self.slot.changelog)?;
            if begin > self.vouched {
                let end = reading.end_of(&self.slot.changelog)?.min(self.end);
                return self.start_over(begin, end, reading);
            }
            if self.follows() {
                self.forget_expired(reading.shared);
            }
            if mutant::is(Mutant::RestoreMarkedFirst) {
                self.mark(reading.shared, times)?;
            }
            while !self.slot.store.commit_side().apply(MAX_BATCH)? {}
            self.mark(reading.shared, times)?;
            self.vouched = self.slot.position;
        }
        if self.is_at_end() {
            self.stop(reading)?;
        }
        Ok(())
    }

    /// Rows expire by the times of the task, which a copy does not know. It drops what its changelog may have deleted by now
    /// and a restore would not find either; the rest goes when the task runs here.
    fn forget_expired(&mut self, shared: &Shared) {
        let kind = shared.topology.plan.stores[self.slot.id.0].kind;
        let additional = shared.config.windowed_changelog_additional_retention;
        // The log goes by the clock, so a row that is ahead of it makes nothing old.
        let newest = self.newest.min(shared.clock.now_ms());
        if let Some(horizon) = horizon_of_copy(kind, additional, newest) {
            self.slot.store.restore_horizon(horizon);
        }
    }

    fn mark(&self, shared: &Shared, times: &Times) -> Result {
        let position = match mutant::is(Mutant::RestoreMarkedComplete) {
            true => self.end,
            false => self.slot.position,
        };
        let name = self.slot.store.as_store().name().to_owned();
        let marker = Marker {
            changelog_offsets: BTreeMap::from([(name, position)]),
            stream_times: times.clone(),
            format_hash: self.slot.layout,
            // A changelog does not say which input it came of.
            input_offsets: BTreeMap::new(),
        };
        Ok(write_marker(&*shared.database, &self.slot.name, &marker)?)
    }
}

/// The time below which a changelog of a store of `kind` may have nothing any more, where its newest change is of `newest`:
/// it keeps what is younger than the retention and what was added to it, and a row may be younger than its window's begin
/// by as much as the retention.
fn horizon_of_copy(
    kind: StoreKind,
    additional: Option<Duration>,
    newest: Timestamp,
) -> Option<Timestamp> {
    let kept_ms = kind.retention_ms()?.saturating_mul(2);
    let kept_ms = kept_ms.saturating_add(millis(additional?));
    Some(newest.saturating_sub(kept_ms))
}

type Row<'a> = dyn Fn(&ConsumerRecord, &mut Vec<u8>, &mut Vec<u8>) -> Result<topology::Row> + 'a;

/// Takes the records before `end` of the topic that a table reads, as they were taken when they were processed. Returns
/// how many.
fn read_back(
    store: &mut dyn Store,
    row: &Row<'_>,
    batch: &RecordBatch,
    end: Offset,
    handlers: &Handlers,
) -> Result<usize> {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut taken = 0;
    let before_end = |record: &&ConsumerRecord| record.offset < end;
    for record in batch.records.iter().take_while(before_end) {
        key.clear();
        value.clear();
        taken += 1;
        let value = match row(record, &mut key, &mut value) {
            Ok(topology::Row::Put) => Some(&value[..]),
            Ok(topology::Row::Delete) => None,
            Ok(topology::Row::Ignored) => continue,
            Err(fault) if is_not_ready(&fault) => return Err(fault),
            Err(fault) if handlers.of_undecodable(&fault).is_some() => {
                tracing::debug!(topic = %batch.partition, offset = record.offset, %fault, "a record is skipped again");
                continue;
            }
            Err(fault) => return Err(fault.undecodable(place(batch, record))),
        };
        store.restore(Change {
            key: &key,
            value,
            timestamp: record.timestamp,
        })?;
    }
    Ok(taken)
}

fn place(batch: &RecordBatch, record: &ConsumerRecord) -> RecordMetadata {
    RecordMetadata {
        topic: Arc::clone(&batch.partition.topic),
        partition: batch.partition.partition,
        offset: record.offset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_drops_what_its_changelog_may_have_deleted_and_nothing_else() {
        let window = StoreKind::Window {
            retention_ms: 1_000,
        };
        let day = Some(Duration::from_secs(86_400));
        let horizon = horizon_of_copy(window, day, 100_000_000);
        assert_eq!(horizon, Some(100_000_000 - 86_400_000 - 2_000));
        assert_eq!(horizon_of_copy(window, None, 100_000_000), None);
        assert_eq!(horizon_of_copy(StoreKind::KeyValue, day, 0), None);
        let nothing_read = horizon_of_copy(window, day, Timestamp::MIN);
        assert_eq!(nothing_read, Some(Timestamp::MIN));
    }
}
