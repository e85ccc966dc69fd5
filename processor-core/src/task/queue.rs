//! The input of a task from one partition: bytes in, typed records into the first node.
//!
//! Only the head of a queue is decoded, once, when its timestamp is needed to choose the next record.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Deadline;
use crate::dsl::TimestampExtractor;
use crate::error::{Fault, Result};
use crate::log::{ConsumerRecord, Offset, Timestamp, TopicPartition};
use crate::processor::time_metadata::upstream_name;
use crate::processor::{Context, Fanout, Instantiation};
use crate::record::{Record, RecordMetadata};
use crate::runtime::Collector;
use crate::serde::{SerdeError, SharedSerde, deserialize_nullable};
use crate::topology::Topic;

use super::failed::Verdict;
use super::{Handlers, TimeHeader, is_not_ready};

/// A task's input from one topic.
pub(crate) trait SourceQueue {
    /// Name of the topic on the log.
    fn topic(&self) -> &Arc<str>;
    /// Adds records that were read.
    fn push(&mut self, records: Vec<ConsumerRecord>);
    /// Records waiting.
    fn buffered(&self) -> usize;
    /// The next record. Dead letters of those that are passed over on the way go to `out`.
    fn head(&mut self, out: &mut Collector) -> Result<Head>;
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
    /// Not known yet: a record was passed over that had failed in processing, and that is to be committed first. The
    /// next one may fail as well, and would undo it.
    PassedOver,
}

/// The typed queue of a source.
pub(crate) struct TopicQueue<K, V> {
    topic: Arc<str>,
    partition: i32,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    extractor: Option<TimestampExtractor<K, V>>,
    handlers: Handlers,
    /// Records that failed in processing before their input was read again.
    failed: BTreeMap<Offset, Verdict>,
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
        let topic: Arc<str> = Arc::from(name);
        let partition = instantiation.task.partition;
        let failed = instantiation
            .failed
            .of(&TopicPartition::new(Arc::clone(&topic), partition));
        Self {
            topic,
            partition,
            key,
            value,
            extractor,
            handlers: instantiation.handlers.clone(),
            failed,
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
            raw.headers = record.headers;
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

    /// Decodes the next record, past time markers and records that are passed over. Stops at one that has to wait, and
    /// behind one that failed in processing.
    fn fill_head(&mut self, out: &mut Collector) -> Result<Head> {
        while let Some(mut raw) = self.raw.pop_front() {
            if let Some(upstream) = &mut self.upstream
                && let Some(header) = TimeHeader::take(&mut raw.headers)
            {
                upstream.observe(header);
                if header.marker {
                    self.next_offset = Some(raw.offset + 1);
                    continue;
                }
            }
            if let Some(verdict) = self.failed.remove(&raw.offset) {
                self.pass_over(&raw, &verdict, out)?;
                return Ok(Head::PassedOver);
            }
            let mut decoded = self.decode(&mut raw);
            if let Err(fault) = &decoded
                && is_not_ready(fault)
            {
                if self.may_wait() {
                    self.raw.push_front(raw);
                    return Ok(Head::Waits);
                }
                let waited = self.max_decode_wait.as_secs_f32();
                let what = format!("it was waited for over {waited} s in vain");
                decoded = Err(Fault::serde(what, SerdeError::new(fault)));
            }
            self.patience = None;
            match decoded {
                Ok(record) => {
                    let time = record.timestamp;
                    self.head = Some((record, raw.offset));
                    return Ok(Head::At(time));
                }
                Err(fault) => match self.handlers.of_undecodable(&fault) {
                    Some(verdict) => self.pass_over(&raw, &verdict, out)?,
                    None => return Err(fault.undecodable(self.place(raw.offset))),
                },
            }
        }
        Ok(Head::Empty)
    }

    fn pass_over(
        &mut self,
        raw: &ConsumerRecord,
        verdict: &Verdict,
        out: &mut Collector,
    ) -> Result {
        verdict.carry_out(&self.place(raw.offset), raw, out)?;
        self.next_offset = Some(raw.offset + 1);
        Ok(())
    }

    fn place(&self, offset: Offset) -> RecordMetadata {
        RecordMetadata {
            topic: Arc::clone(&self.topic),
            partition: self.partition,
            offset,
        }
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

    fn head(&mut self, out: &mut Collector) -> Result<Head> {
        match &self.head {
            Some((record, _)) => Ok(Head::At(record.timestamp)),
            None => self.fill_head(out),
        }
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
