//! The input of a task from one partition: bytes in, typed records into the first node.
//!
//! Only the head of a queue is decoded, once, when its timestamp is needed to choose the next record.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Deadline;
use crate::dsl::TimestampExtractor;
use crate::error::{Fault, Result};
use crate::log::{ConsumerRecord, Offset, Timestamp};
use crate::processor::time_metadata::upstream_name;
use crate::processor::{Context, Fanout, Instantiation};
use crate::record::{Record, RecordMetadata};
use crate::serde::{SerdeError, SharedSerde, deserialize_nullable};
use crate::topology::Topic;

use super::{TimeHeader, is_not_ready};

/// A task's input from one topic.
pub(crate) trait SourceQueue {
    /// Name of the topic on the log.
    fn topic(&self) -> &Arc<str>;
    /// Adds records that were read.
    fn push(&mut self, records: Vec<ConsumerRecord>);
    /// Records waiting.
    fn buffered(&self) -> usize;
    /// The next record.
    fn head(&mut self) -> Result<Head>;
    /// Whether the next record was found to wait for its serde.
    fn waits(&self) -> bool;
    /// Takes the next record through the nodes below.
    fn process_head<'a>(&'a mut self, context: &mut Context<'a>) -> Result;
    /// Offset after the last record taken; `None` before the first.
    fn next_offset(&self) -> Option<Offset>;
}

/// What is next in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// Nothing is buffered.
    Empty,
    /// A record of this time.
    At(Timestamp),
    /// A record that cannot be decoded yet. Nothing behind it may be taken, and its time is not known.
    Waits,
}

/// What to do with a record that cannot be decoded or has no valid timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBadRecord {
    /// Stop with an error that names topic, partition and offset.
    #[default]
    Fail,
    /// Log it with topic, partition and offset, count it, go on.
    Skip,
}

/// The typed queue of a source.
pub(crate) struct TopicQueue<K, V> {
    topic: Arc<str>,
    partition: i32,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    extractor: Option<TimestampExtractor<K, V>>,
    on_bad_record: OnBadRecord,
    max_decode_wait: Duration,
    raw: VecDeque<ConsumerRecord>,
    head: Option<(Record<K, V>, Offset)>,
    /// Until when the first raw record may wait for its serde; `None` when it was not found to.
    patience: Option<Deadline>,
    next_offset: Option<Offset>,
    upstream: Option<UpstreamTimes>,
    children: Fanout<K, V>,
}

impl<K, V> TopicQueue<K, V> {
    pub(crate) fn new(
        topic: &Topic,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
        extractor: Option<TimestampExtractor<K, V>>,
        children: Fanout<K, V>,
        instantiation: &mut Instantiation<'_>,
    ) -> Self {
        let name = topic.resolve(instantiation.application_id);
        let upstream = instantiation
            .partitions
            .upstream_tasks(&name)
            .map(|tasks| UpstreamTimes::new(&name, tasks, instantiation));
        Self {
            topic: Arc::from(name),
            partition: instantiation.task.partition,
            key,
            value,
            extractor,
            on_bad_record: instantiation.on_bad_record,
            max_decode_wait: instantiation.max_decode_wait,
            raw: VecDeque::new(),
            head: None,
            patience: None,
            next_offset: None,
            upstream,
            children,
        }
    }

    fn decode(&self, raw: &mut ConsumerRecord) -> Result<Record<K, V>> {
        let fault =
            |part: &str, error| Fault::serde(format_args!("the {part} cannot be decoded"), error);
        let key = deserialize_nullable(&*self.key, raw.key.as_deref())
            .map_err(|error| fault("key", error))?;
        let value = deserialize_nullable(&*self.value, raw.value.as_deref())
            .map_err(|error| fault("value", error))?;
        let headers = std::mem::take(&mut raw.headers);
        let mut record = Record {
            key,
            value,
            timestamp: raw.timestamp,
            headers,
        };
        if let Some(extract) = &self.extractor {
            record.timestamp = extract(&record);
        }
        if record.timestamp < 0 {
            let time = record.timestamp;
            return Err(Fault::user(
                "timestamp extractor",
                format!(
                    "the timestamp {time} is negative; set an extractor that gives a valid one"
                ),
            ));
        }
        Ok(record)
    }

    /// Whether the first record, which cannot be decoded yet, may go on waiting.
    fn may_wait(&mut self) -> bool {
        let limit = self.max_decode_wait;
        let patience = self.patience.get_or_insert_with(|| Deadline::after(limit));
        !patience.passed()
    }

    /// Decodes the next record, past time markers and records to skip. Stops at one that has to wait.
    fn fill_head(&mut self) -> Result {
        while self.head.is_none() {
            let Some(mut raw) = self.raw.pop_front() else {
                return Ok(());
            };
            if let Some(upstream) = &mut self.upstream
                && let Some(header) = TimeHeader::take(&mut raw.headers)
            {
                upstream.observe(header);
                if header.marker {
                    self.next_offset = Some(raw.offset + 1);
                    continue;
                }
            }
            let mut decoded = self.decode(&mut raw);
            if let Err(fault) = &decoded
                && is_not_ready(fault)
            {
                if self.may_wait() {
                    self.raw.push_front(raw);
                    return Ok(());
                }
                let waited = self.max_decode_wait.as_secs_f32();
                let what = format!("it was waited for over {waited} s in vain");
                decoded = Err(Fault::serde(what, SerdeError::new(fault)));
            }
            self.patience = None;
            match decoded {
                Ok(record) => self.head = Some((record, raw.offset)),
                Err(fault) => {
                    let at = RecordMetadata {
                        topic: Arc::clone(&self.topic),
                        partition: self.partition,
                        offset: raw.offset,
                    };
                    match self.on_bad_record {
                        OnBadRecord::Fail => return Err(fault.at(at)),
                        OnBadRecord::Skip => {
                            tracing::warn!(record = %at, %fault, "a record is skipped");
                            metrics::counter!("dropped-records", "reason" => "bad record")
                                .increment(1);
                            self.next_offset = Some(raw.offset + 1);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl<K: Clone, V: Clone> SourceQueue for TopicQueue<K, V> {
    fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    fn push(&mut self, records: Vec<ConsumerRecord>) {
        self.raw.extend(records);
    }

    fn buffered(&self) -> usize {
        self.raw.len() + usize::from(self.head.is_some())
    }

    fn head(&mut self) -> Result<Head> {
        if self.head.is_none() {
            self.fill_head()?;
        }
        Ok(match &self.head {
            Some((record, _)) => Head::At(record.timestamp),
            None if self.waits() => Head::Waits,
            None => Head::Empty,
        })
    }

    fn waits(&self) -> bool {
        self.patience.is_some()
    }

    fn process_head<'a>(&'a mut self, context: &mut Context<'a>) -> Result {
        let Some((record, offset)) = self.head.take() else {
            return Ok(());
        };
        context.topic = Some(&self.topic);
        context.offset = offset;
        context.time_bound = self
            .upstream
            .as_ref()
            .map_or(Timestamp::MAX, |upstream| upstream.minimum);
        self.next_offset = Some(offset + 1);
        self.children.forward(context, record).map_err(|fault| {
            fault.at(RecordMetadata {
                topic: Arc::clone(&self.topic),
                partition: self.partition,
                offset,
            })
        })
    }

    fn next_offset(&self) -> Option<Offset> {
        self.next_offset
    }
}

/// How far the tasks that write a repartition topic have come.
struct UpstreamTimes {
    times: Vec<Rc<Cell<Timestamp>>>,
    minimum: Timestamp,
}

impl UpstreamTimes {
    fn new(topic: &str, tasks: i32, instantiation: &mut Instantiation<'_>) -> Self {
        let times: Vec<_> = (0..tasks)
            .map(|task| instantiation.times.cell(&upstream_name(topic, task)))
            .collect();
        let minimum = minimum(&times);
        Self { times, minimum }
    }

    fn observe(&mut self, header: TimeHeader) {
        let cell = usize::try_from(header.task)
            .ok()
            .and_then(|task| self.times.get(task));
        if let Some(cell) = cell
            && header.time > cell.get()
        {
            let was_minimum = cell.get() == self.minimum;
            cell.set(header.time);
            if was_minimum {
                self.minimum = minimum(&self.times);
            }
        }
    }
}

fn minimum(times: &[Rc<Cell<Timestamp>>]) -> Timestamp {
    times
        .iter()
        .map(|time| time.get())
        .min()
        .unwrap_or(Timestamp::MAX)
}
