//! Bringing the stores of a task up to what is committed.
//!
//! A store is never ahead of Kafka, so it is only ever behind: the changelog is replayed from the offset in the marker.
//! The last writer wins, so replaying a record that is already there does no harm.
//!
//! The end of a restore is where the changelog **ended physically** (its read-uncommitted end) after the producer was
//! initialised and the committed offsets were read. Its last stable offset may still lag those offsets, and the last
//! transaction would be missing (KAFKA-10167). The records themselves are read committed.
//!
//! A table that is [rebuilt from its topic](crate::topology::ReadBack) is one with the input of its task: its restore ends
//! at the offset at which the task goes on, and what lies beyond comes as input. A record that was passed over because it
//! could not be decoded is passed over again, and there is no second dead letter: the handler decides as it did then.

use std::collections::HashMap;
use std::time::Duration;

use state::MAX_BATCH;

use crate::error::Result;
use crate::log::{
    Consumer, ConsumerRecord, Isolation, Offset, Polled, RecordBatch, TopicPartition,
};
use crate::mutant::{self, Mutant};
use crate::record::RecordMetadata;
use crate::topology::{ReadRow, Row};

use super::{Handlers, StoreSlot, is_not_ready};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Replays changelogs into stores.
pub(crate) struct Restorer {
    consumer: Box<dyn Consumer>,
    handlers: Handlers,
}

impl Restorer {
    /// A restorer over a read-committed consumer outside any group.
    pub(crate) fn new(consumer: Box<dyn Consumer>, handlers: Handlers) -> Self {
        Self { consumer, handlers }
    }

    /// Replays the changelog of each store from its position to where it ends now, or to where the task goes on if it is one
    /// of these `inputs`. Returns how many records that were.
    /// What is replayed waits in memory for as long as it is not more than `settled_bytes`, and then goes to the backend,
    /// without a marker: after a crash it is replayed again, which does no harm.
    pub(crate) fn restore(
        &mut self,
        stores: &mut [StoreSlot],
        inputs: &[(TopicPartition, Offset)],
        settled_bytes: usize,
    ) -> Result<u64> {
        let mut ends: HashMap<TopicPartition, Offset> = HashMap::new();
        let mut by_changelog = HashMap::new();
        for (i, slot) in stores.iter_mut().enumerate() {
            let changelog = &slot.changelog;
            let begin = self.consumer.beginning_offset(changelog, TIMEOUT)?;
            let of_input = inputs.iter().find(|(input, _)| input == changelog);
            let end = match (&slot.read_back, of_input) {
                (Some(_), Some((_, offset))) if !mutant::is(Mutant::ReadBackToTheEnd) => *offset,
                _ => {
                    let isolation = Isolation::ReadUncommitted;
                    self.consumer.end_offset(changelog, isolation, TIMEOUT)?
                }
            };
            if slot.position < begin || slot.position > end {
                // What was deleted since, or belongs to another incarnation of the topic, cannot be replayed.
                slot.cell.with(|store| store.clear())?;
                slot.position = begin;
            }
            if slot.position < end {
                self.consumer
                    .assign(&[(changelog.clone(), Some(slot.position))])?;
                ends.insert(changelog.clone(), end);
                by_changelog.insert(changelog.clone(), i);
            }
        }
        let mut restored = 0;
        let mut wait = Duration::ZERO;
        while !ends.is_empty() {
            let polled = self.consumer.poll(wait)?;
            // The end may have been reached over records that nobody sees, so waiting comes after looking.
            wait = Duration::from_millis(100);
            if let Polled::Records(batches) = polled {
                wait = Duration::ZERO;
                for batch in batches {
                    let Some(&i) = by_changelog.get(&batch.partition) else {
                        continue;
                    };
                    let slot = &stores[i];
                    let end = ends.get(&batch.partition).copied().unwrap_or(0);
                    restored += match &slot.read_back {
                        None => replay(slot, &batch.records)?,
                        Some(row) => read_back(slot, row, &batch, end, &self.handlers)?,
                    };
                }
                let bytes = |slot: &StoreSlot| slot.cell.with(|store| store.settled_bytes());
                if stores.iter().map(bytes).sum::<usize>() > settled_bytes {
                    for slot in &*stores {
                        while !slot.cell.with(|store| store.apply(MAX_BATCH))? {}
                    }
                }
            }
            let mut done = Vec::new();
            for (changelog, &end) in &ends {
                let slot = &mut stores[by_changelog[changelog]];
                if let Some(position) = self.consumer.position(changelog)? {
                    // What lies beyond the end of an input was read along with it, and not taken.
                    let is_input = slot.read_back.is_some();
                    let taken = if is_input {
                        position.min(end)
                    } else {
                        position
                    };
                    slot.position = slot.position.max(taken);
                }
                if slot.position >= end {
                    done.push(changelog.clone());
                }
            }
            if !done.is_empty() {
                self.consumer.release(&done)?;
                ends.retain(|changelog, _| !done.contains(changelog));
            }
        }
        Ok(restored)
    }
}

/// Takes records of a changelog. Returns how many.
fn replay(slot: &StoreSlot, records: &[ConsumerRecord]) -> Result<u64> {
    slot.cell.with(|store| {
        records.iter().try_for_each(|record| {
            let Some(key) = record.key.as_deref() else {
                return Ok(());
            };
            store.restore(state::Change {
                key,
                value: record.value.as_deref(),
                timestamp: record.timestamp,
            })
        })
    })?;
    Ok(records.len() as u64)
}

/// Takes the records before `end` of the topic that a table reads, as they were taken when they were processed. Returns
/// how many.
fn read_back(
    slot: &StoreSlot,
    row: &ReadRow,
    batch: &RecordBatch,
    end: Offset,
    handlers: &Handlers,
) -> Result<u64> {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut taken = 0;
    for record in batch
        .records
        .iter()
        .take_while(|record| record.offset < end)
    {
        key.clear();
        value.clear();
        taken += 1;
        let value = match row(record, &mut key, &mut value) {
            Ok(Row::Put) => Some(&value[..]),
            Ok(Row::Delete) => None,
            Ok(Row::Ignored) => continue,
            Err(fault) if is_not_ready(&fault) => return Err(fault),
            Err(fault) if handlers.of_undecodable(&fault).is_some() => {
                tracing::debug!(topic = %batch.partition, offset = record.offset, %fault, "a record is skipped again");
                continue;
            }
            Err(fault) => {
                let place = RecordMetadata {
                    topic: batch.partition.topic.clone(),
                    partition: batch.partition.partition,
                    offset: record.offset,
                };
                return Err(fault.undecodable(place));
            }
        };
        let change = state::Change {
            key: &key,
            value,
            timestamp: record.timestamp,
        };
        slot.cell.with(|store| store.restore(change))?;
    }
    Ok(taken)
}
