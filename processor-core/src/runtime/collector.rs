//! What a stream thread sends: straight to the producer, or into a buffer while a commit is in flight.
//!
//! One transaction covers all outputs, changelogs and offsets of a thread. While it commits, the thread goes on
//! processing; what it produces waits here for the next transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::log::{
    CommittedOffset, GroupMetadata, Header, Headers, LogError, Offset, Producer, ProducerRecord,
    Timestamp, TopicPartition,
};
use crate::mutant::{self, Mutant};

/// Where the transaction of a thread stands.
///
/// ```text
/// Idle ──send──▶ Open ──begin_commit──▶ Committing ──poll_commit──▶ Idle
///                  └────────abort────────────┴──────────────────────▶ Idle
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Open,
    Committing,
}

/// See the [module](self).
pub(crate) struct Collector {
    producer: Box<dyn Producer>,
    transactional: bool,
    phase: Phase,
    waiting: Waiting,
    sent: u64,
    bytes: usize,
    commit_requested: bool,
}

impl Collector {
    pub(crate) fn new(producer: Box<dyn Producer>, transactional: bool) -> Self {
        let (phase, waiting) = (Phase::Idle, Waiting::default());
        Self {
            producer,
            transactional,
            phase,
            waiting,
            sent: 0,
            bytes: 0,
            commit_requested: false,
        }
    }

    /// Sends a record, or keeps it for the next transaction while a commit is in flight.
    pub(crate) fn send(
        &mut self,
        topic: &str,
        partition: i32,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> Result {
        self.sent += 1;
        let record = ProducerRecord {
            topic,
            partition,
            timestamp,
            key,
            value,
            headers,
        };
        self.bytes += held_bytes(&record);
        if self.phase == Phase::Committing {
            self.waiting.push(record);
            return Ok(());
        }
        self.open()?;
        self.producer.send(record)?;
        Ok(())
    }

    fn open(&mut self) -> Result {
        if self.phase == Phase::Idle {
            if self.transactional {
                self.producer.begin_transaction()?;
            }
            self.phase = Phase::Open;
        }
        Ok(())
    }

    /// Records given to [`send`](Self::send) so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Has the next commit begin as soon as it can.
    pub(crate) fn request_commit(&mut self) {
        self.commit_requested = true;
    }

    /// There is nothing to commit, so whoever asked for it has it.
    pub(crate) fn forget_commit_request(&mut self) {
        self.commit_requested = false;
    }

    /// Whether a commit is asked for that can begin now.
    pub(crate) fn commit_requested(&self) -> bool {
        self.commit_requested && self.phase != Phase::Committing
    }

    /// Bytes of what was sent since the last commit began: keys, values and headers, and what a record costs beside them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that wait for the commit in flight.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting.held_bytes
    }

    /// Whether a commit is in flight.
    pub(crate) fn committing(&self) -> bool {
        self.phase == Phase::Committing
    }

    /// Starts to commit what was sent and, in a transaction, `offsets`; without one what was sent is flushed.
    pub(crate) fn begin_commit(
        &mut self,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
        group: Option<GroupMetadata>,
    ) -> Result {
        self.open()?;
        self.phase = Phase::Committing;
        self.bytes = 0;
        self.commit_requested = false;
        Ok(self.producer.begin_commit(offsets, group)?)
    }

    /// Waits up to `timeout` for the commit in flight: how far each partition has come with it. Then sends what waited.
    pub(crate) fn poll_commit(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<HashMap<TopicPartition, Offset>>> {
        let Some(committed) = self.producer.poll_commit(timeout)? else {
            return Ok(None);
        };
        self.phase = Phase::Idle;
        let mut waiting = std::mem::take(&mut self.waiting);
        if mutant::is(Mutant::WaitingForgotten) {
            waiting = waiting.emptied();
        }
        if !waiting.records.is_empty() {
            self.open()?;
            waiting.each(|record| self.producer.send(record))?;
            self.waiting = waiting.emptied();
        }
        Ok(Some(committed.next_offsets.into_iter().collect()))
    }

    /// Drops everything since the last commit.
    pub(crate) fn abort(&mut self, timeout: Duration) -> Result {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        if !mutant::is(Mutant::WaitingKeptOnAbort) {
            self.waiting = Waiting::default();
        }
        self.bytes = 0;
        self.commit_requested = false;
        match phase {
            Phase::Idle => Ok(()),
            Phase::Open | Phase::Committing if self.transactional => {
                Ok(self.producer.abort_transaction(timeout)?)
            }
            // Without transactions nothing can be taken back: what was sent stays, at least once.
            Phase::Open | Phase::Committing => Ok(self.producer.flush(timeout)?),
        }
    }
}

/// Records that wait for the next transaction, packed.
#[derive(Default)]
struct Waiting {
    /// What this holds, with what a record costs beside its bytes.
    held_bytes: usize,
    bytes: Vec<u8>,
    records: Vec<WaitingRecord>,
    topics: Vec<Arc<str>>,
}

struct WaitingRecord {
    topic: usize,
    partition: i32,
    timestamp: Timestamp,
    start: usize,
    key: Option<usize>,
    value: Option<usize>,
    headers: Headers,
}

impl Waiting {
    fn push(&mut self, record: ProducerRecord<'_>) {
        self.held_bytes += held_bytes(&record);
        let known = self
            .topics
            .iter()
            .position(|topic| **topic == *record.topic);
        let topic = known.unwrap_or_else(|| {
            self.topics.push(Arc::from(record.topic));
            self.topics.len() - 1
        });
        let start = self.bytes.len();
        for part in [record.key, record.value].into_iter().flatten() {
            self.bytes.extend_from_slice(part);
        }
        self.records.push(WaitingRecord {
            topic,
            partition: record.partition,
            timestamp: record.timestamp,
            start,
            key: record.key.map(<[u8]>::len),
            value: record.value.map(<[u8]>::len),
            headers: record.headers.to_vec(),
        });
    }

    fn each(
        &self,
        mut send: impl FnMut(ProducerRecord<'_>) -> std::result::Result<(), LogError>,
    ) -> std::result::Result<(), LogError> {
        for record in &self.records {
            let value_start = record.start + record.key.unwrap_or(0);
            send(ProducerRecord {
                topic: &self.topics[record.topic],
                partition: record.partition,
                timestamp: record.timestamp,
                key: record
                    .key
                    .map(|length| &self.bytes[record.start..record.start + length]),
                value: record
                    .value
                    .map(|length| &self.bytes[value_start..value_start + length]),
                headers: &record.headers,
            })?;
        }
        Ok(())
    }

    /// Keeps the memory for the next round.
    fn emptied(mut self) -> Self {
        self.held_bytes = 0;
        self.bytes.clear();
        self.records.clear();
        self
    }
}

/// Memory that a record costs while it waits.
fn held_bytes(record: &ProducerRecord<'_>) -> usize {
    let headers = record
        .headers
        .iter()
        .map(|header| size_of::<Header>() + header.value.as_ref().map_or(0, bytes::Bytes::len));
    size_of::<WaitingRecord>()
        + record.key.map_or(0, <[u8]>::len)
        + record.value.map_or(0, <[u8]>::len)
        + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_comes_out_as_it_went_in() {
        let mut waiting = Waiting::default();
        let records = [
            ("a", 0, 1, Some(&b"k"[..]), Some(&b"value"[..])),
            ("b", 1, 2, None, Some(&b""[..])),
            ("a", 2, 3, Some(&b"key"[..]), None),
        ];
        for (topic, partition, timestamp, key, value) in records {
            let headers = &[];
            waiting.push(ProducerRecord {
                topic,
                partition,
                timestamp,
                key,
                value,
                headers,
            });
        }
        let mut seen = Vec::new();
        waiting
            .each(|r| {
                seen.push((
                    r.topic.to_owned(),
                    r.partition,
                    r.timestamp,
                    r.key.map(<[u8]>::to_vec),
                    r.value.map(<[u8]>::to_vec),
                ));
                Ok(())
            })
            .unwrap();
        let expected: Vec<_> = records
            .iter()
            .map(|&(topic, partition, timestamp, key, value)| {
                let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                (
                    topic.to_owned(),
                    partition,
                    timestamp,
                    owned(key),
                    owned(value),
                )
            })
            .collect();
        assert_eq!(seen, expected);
    }
}
