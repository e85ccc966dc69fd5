//! Bringing the stores of a task up to what is committed.
//!
//! A store is never ahead of Kafka, so it is only ever behind: the changelog is replayed from the offset in the marker.
//! The last writer wins, so replaying a record that is already there does no harm.
//!
//! The end of a restore is where the changelog **ended physically** (its read-uncommitted end) after the producer was
//! initialised and the committed offsets were read. Its last stable offset may still lag those offsets, and the last
//! transaction would be missing (KAFKA-10167). The records themselves are read committed.

use std::collections::HashMap;
use std::time::Duration;

use state::MAX_BATCH;

use crate::error::Result;
use crate::log::{Consumer, Isolation, Offset, Polled, TopicPartition};

use super::StoreSlot;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Replays changelogs into stores.
pub(crate) struct Restorer {
    consumer: Box<dyn Consumer>,
}

impl Restorer {
    /// A restorer over a read-committed consumer outside any group.
    pub(crate) fn new(consumer: Box<dyn Consumer>) -> Self {
        Self { consumer }
    }

    /// Replays the changelog of each store from its position to where it ends now. Returns how many records that were.
    /// What is replayed waits in memory for as long as it is not more than `settled_bytes`, and then goes to the backend,
    /// without a marker: after a crash it is replayed again, which does no harm.
    pub(crate) fn restore(
        &mut self,
        stores: &mut [StoreSlot],
        settled_bytes: usize,
    ) -> Result<u64> {
        let mut ends: HashMap<TopicPartition, Offset> = HashMap::new();
        let mut by_changelog = HashMap::new();
        for (i, slot) in stores.iter_mut().enumerate() {
            let changelog = &slot.changelog;
            let begin = self.consumer.beginning_offset(changelog, TIMEOUT)?;
            let end = self
                .consumer
                .end_offset(changelog, Isolation::ReadUncommitted, TIMEOUT)?;
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
        let assigned: Vec<TopicPartition> = ends.keys().cloned().collect();
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
                    restored += batch.records.len() as u64;
                    stores[i].cell.with(|store| {
                        batch.records.iter().try_for_each(|record| {
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
                }
                let bytes = |slot: &StoreSlot| slot.cell.with(|store| store.settled_bytes());
                if stores.iter().map(bytes).sum::<usize>() > settled_bytes {
                    for slot in &*stores {
                        while !slot.cell.with(|store| store.apply(MAX_BATCH))? {}
                    }
                }
            }
            for (changelog, &i) in &by_changelog {
                if let Some(position) = self.consumer.position(changelog)? {
                    stores[i].position = stores[i].position.max(position);
                }
            }
            ends.retain(|changelog, end| stores[by_changelog[changelog]].position < *end);
        }
        if !assigned.is_empty() {
            self.consumer.release(&assigned)?;
        }
        Ok(restored)
    }
}
