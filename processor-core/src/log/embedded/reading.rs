//! A partition that a consumer reads: where it is, and what was fetched but not returned yet.

use std::collections::VecDeque;
use std::sync::Arc;

use super::batch::{Batch, Records};
use super::partition::{ColdFetch, Fetched};
use super::record::HeaderNames;
use super::state::{PartitionId, State};
use crate::log::{ConsumerRecord, Isolation, LogError, Offset, OffsetReset, TopicPartition};

/// A partition being read.
pub(super) struct Reading {
    pub(super) name: TopicPartition,
    pub(super) id: PartitionId,
    pub(super) paused: bool,
    /// Taken back by the group but not released yet: nothing of it is returned any more.
    pub(super) revoked: bool,
    /// Offset after what was returned; `None` until the committed offset is known.
    pub(super) position: Option<Offset>,
    /// Has to be read before `fetched` goes on.
    pub(super) cold: Option<ColdFetch>,
    pub(super) fetched: VecDeque<Batch>,
    pub(super) current: Option<Records>,
    /// Position once `fetched` and `current` are used up.
    pub(super) fetched_to: Offset,
}

impl Reading {
    pub(super) fn new(name: TopicPartition, id: PartitionId, position: Option<Offset>) -> Self {
        Self {
            name,
            id,
            paused: false,
            revoked: false,
            position,
            cold: None,
            fetched: VecDeque::new(),
            current: None,
            fetched_to: 0,
        }
    }

    pub(super) fn is_drained(&self) -> bool {
        self.current.is_none() && self.fetched.is_empty() && self.cold.is_none()
    }

    pub(super) fn take_in(&mut self, fetched: Fetched) {
        self.fetched.extend(fetched.batches);
        self.fetched_to = fetched.next;
        if self.is_drained() {
            self.position = Some(fetched.next);
        }
    }

    pub(super) fn drop_fetched(&mut self) {
        self.cold = None;
        self.fetched.clear();
        self.current = None;
    }

    /// Where to fetch from: the position, else the committed offset, else the reset policy. `None` while a
    /// transaction on the committed offset is undecided.
    pub(super) fn start(
        &mut self,
        state: &State,
        group: Option<&Arc<str>>,
        reset: OffsetReset,
    ) -> Result<Option<Offset>, LogError> {
        let Some(partition) = state.partition(self.id) else {
            return Ok(Some(0));
        };
        if self.position.is_none() {
            let group = group.and_then(|name| state.groups.get(name));
            let Ok(committed) = group.map_or(Ok(None), |g| g.stable_offset(&self.name)) else {
                return Ok(None);
            };
            self.position = committed.map(|c| c.offset);
        }
        let range = partition.start()..=partition.end(Isolation::ReadUncommitted);
        if let Some(position) = self.position {
            if range.contains(&position) {
                return Ok(self.position);
            }
            tracing::warn!(
                partition = %self.name, offset = position, first = range.start(), end = range.end(), ?reset,
                "offset out of range; starting where the reset policy says"
            );
        }
        self.position = Some(match reset {
            OffsetReset::Earliest => *range.start(),
            OffsetReset::Latest => *range.end(),
        });
        Ok(self.position)
    }

    /// Up to `most` records.
    pub(super) fn take(
        &mut self,
        most: usize,
        names: &mut HeaderNames,
    ) -> Result<Vec<ConsumerRecord>, LogError> {
        let from = self.position.unwrap_or(0);
        let mut taken = Vec::new();
        while taken.len() < most {
            if self.current.is_none() {
                self.current = self.fetched.pop_front().map(Batch::records);
            }
            let Some(records) = &mut self.current else {
                break;
            };
            let next = records.next(names).map_err(|fault| {
                let base = records.header().base;
                let name = &self.name;
                LogError::fatal(format!("{name}: batch at offset {base}: {fault}"))
            })?;
            match next {
                Some(record) if record.offset >= from => taken.push(record),
                Some(_) => {}
                None => self.current = None,
            }
        }
        if self.current.as_ref().is_some_and(Records::is_empty) {
            self.current = None;
        }
        self.position = if self.is_drained() {
            self.position.max(Some(self.fetched_to))
        } else {
            taken.last().map(|r| r.offset + 1).or(self.position)
        };
        Ok(taken)
    }
}
