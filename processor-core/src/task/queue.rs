//! The input of a task from one partition: bytes in, typed records into the first node.
//!
//! Only the head of a queue is decoded, once, when its timestamp is needed to choose the next record.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Deadline, millis};
use crate::dsl::{Extracted, InputTime};
use crate::error::{Fault, Result};
use crate::log::{ConsumerRecord, Offset, Timestamp, TopicPartition};
use crate::mutant::{self, Mutant};
use crate::processor::{Context, Fanout, Instantiation, NO_TIME};
use crate::record::{Record, RecordMetadata};
use crate::runtime::Collector;
use crate::serde::{Serde, SerdeError, SharedSerde, deserialize_nullable};
use crate::topology::Topic;

use super::backlog::Backlog;
use super::failed::Verdict;
use super::{
    Buffered, Handlers, Idleness, Judgement, LateLetter, TimeHeader, UpstreamTimes, is_not_ready,
};

/// A task's input from one topic.
pub(crate) trait SourceQueue {
    /// Name of the topic on the log.
    fn topic(&self) -> &Arc<str>;
    /// Adds records that were read.
    fn push(&mut self, records: Vec<ConsumerRecord>);
    /// Records waiting.
    fn buffered(&self) -> usize;
    /// The next record. Dead letters of those that are passed over on the way go to `out`.
    fn head(&mut self, wall_ms: i64, out: &mut Collector) -> Result<Head>;
    /// How many of those are held until more come, which decide about the first one.
    fn held(&self) -> usize;
    /// What waits, but for what is held.
    fn waiting(&self) -> Buffered;
    /// Bytes of all records that are here.
    fn bytes(&self) -> usize;
    /// There will be no more: what is held is to be decided by what is there. Whether there is such.
    fn decide_held(&mut self) -> bool;
    /// Whether the next record was found to wait for its serde.
    fn waits(&self) -> bool;
    /// Takes the next record through the nodes below.
    fn process_head<'a>(&'a mut self, context: &mut Context<'a>) -> Result;
    /// Offset after the last record taken; `None` before the first.
    fn next_offset(&self) -> Option<Offset>;
    /// Operators never take a record's timestamp for more than this.
    fn time_bound(&self) -> Timestamp;
    /// Nothing older than this is to come from here, but for what is out of order in its own partition, and for what the
    /// head and those behind it say themselves. `all_read`: nothing is in the log that is not buffered.
    fn to_come_from(&self, all_read: bool) -> Timestamp;
    /// Whether it is a repartition topic, whose records come from several tasks.
    fn is_repartition(&self) -> bool;
    /// Looks whether the input has become idle, or ceased to be; `is_at_end` asks the log.
    fn look_for_idleness(&mut self, wall_ms: i64, is_at_end: &mut dyn FnMut(&Arc<str>) -> bool);
    /// How far time has come without records, if the input is idle; −1 if it stands still.
    fn idle(&self) -> Option<Timestamp>;
}

/// What is next in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// Nothing is buffered, or nothing that may be taken before more has come.
    Empty,
    /// A record of this time.
    At(Timestamp),
    /// Not known yet: a marker moved the [bound](SourceQueue::time_bound) or made the input idle, and the nodes are to be
    /// told before the next record.
    TimeMoved,
    /// A record that cannot be decoded yet. Nothing behind it may be taken, and its time is not known.
    Waits,
    /// Not known yet: a record was passed over that had failed in processing, and that is to be committed first. The
    /// next one may fail as well, and would undo it.
    PassedOver,
}

/// Whether the first record is held until the records behind it decide about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Nothing,
    /// Until so many records wait, the first one included.
    Until(usize),
    /// There will be no more, so those that are there decide.
    Decide,
}

/// A record whose bytes are sound.
enum Decoded<K, V> {
    Record(Record<K, V>),
    /// Its timestamp says that it is to be skipped.
    Skipped(Timestamp),
}

/// Key and value of a record.
pub(crate) fn decode<K, V>(
    raw: &ConsumerRecord,
    key: &dyn Serde<K>,
    value: &dyn Serde<V>,
) -> Result<(K, V)> {
    let fault =
        |part: &str, error| Fault::serde(format_args!("the {part} cannot be decoded"), error);
    let key = deserialize_nullable(key, raw.key.as_deref()).map_err(|error| fault("key", error))?;
    let value =
        deserialize_nullable(value, raw.value.as_deref()).map_err(|error| fault("value", error))?;
    Ok((key, value))
}

/// What becomes of a record whose event time is not one.
pub(crate) fn invalid_time(time: Timestamp) -> Fault {
    Fault::user(
        "timestamp extractor",
        format!("the timestamp {time} is negative; set an extractor that gives a valid one"),
    )
}

/// The typed queue of a source.
pub(crate) struct TopicQueue<K, V> {
    topic: Arc<str>,
    partition: i32,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    time: InputTime<K, V>,
    /// The largest event time taken, where anything asks for it.
    partition_time: Option<Rc<Cell<Timestamp>>>,
    idleness: Option<Idleness>,
    hold: Hold,
    handlers: Handlers,
    /// Records that failed in processing before their input was read again.
    failed: BTreeMap<Offset, Verdict>,
    max_decode_wait: Duration,
    raw: Backlog,
    head: Option<(Record<K, V>, Offset)>,
    /// The head, or the record at hand, as it was read, where it is to be kept if it is late.
    as_read: Option<LateLetter>,
    /// Until when the first raw record may wait for its serde; `None` when it was not found to.
    patience: Option<Deadline>,
    next_offset: Option<Offset>,
    upstream: Option<UpstreamTimes>,
    children: Fanout<K, V>,
}

impl<K: Clone, V: Clone> TopicQueue<K, V> {
    pub(crate) fn new(
        topic: &Topic,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
        time: InputTime<K, V>,
        children: Fanout<K, V>,
        instantiation: &mut Instantiation<'_>,
    ) -> Self {
        let name = topic.resolve(instantiation.application_id);
        let upstream = instantiation
            .partitions
            .upstream_tasks(&name)
            .map(|tasks| UpstreamTimes::new(&name, tasks, instantiation));
        let wanted = time.extractor.wants_partition_time()
            || time.idle.is_some()
            || time.future_bound.is_some();
        let partition_time = wanted.then(|| instantiation.times.cell(&format!("input/{name}")));
        let idleness = time.idle.zip(partition_time.clone()).map(|(rule, time)| {
            let idle = instantiation.times.cell(&format!("input/{name}~"));
            Idleness::new(rule, time, idle)
        });
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
            time,
            partition_time,
            idleness,
            hold: Hold::Nothing,
            handlers: instantiation.handlers.clone(),
            failed,
            max_decode_wait: instantiation.max_decode_wait,
            raw: Backlog::default(),
            head: None,
            as_read: None,
            patience: None,
            next_offset: None,
            upstream,
            children,
        }
    }

    /// The record, which takes the headers out of `raw`.
    fn decode(&self, raw: &mut ConsumerRecord, wall_ms: i64) -> Result<Decoded<K, V>> {
        let (key, value) = decode(raw, &*self.key, &*self.value)?;
        let headers = std::mem::take(&mut raw.headers);
        let mut record = Record {
            key,
            value,
            timestamp: raw.timestamp,
            headers,
        };
        match self
            .time
            .extractor
            .extract(&record, self.partition_time(), wall_ms)
        {
            Extracted::At(time) => {
                record.timestamp = time;
                Ok(Decoded::Record(record))
            }
            Extracted::Skipped(time) => Ok(Decoded::Skipped(time)),
            Extracted::Invalid(time) => {
                raw.headers = record.headers;
                Err(invalid_time(time))
            }
        }
    }

    fn partition_time(&self) -> Timestamp {
        self.partition_time
            .as_ref()
            .map_or(NO_TIME, |time| time.get())
    }

    /// Whether the first record, which cannot be decoded yet, may go on waiting.
    fn may_wait(&mut self) -> bool {
        let limit = self.max_decode_wait;
        let patience = self.patience.get_or_insert_with(|| Deadline::after(limit));
        !patience.passed()
    }

    /// Decodes the next record, past time markers and records that are passed over. Stops at one that has to wait, and
    /// behind one that failed in processing.
    fn fill_head(&mut self, wall_ms: i64, out: &mut Collector) -> Result<Head> {
        if self.held() > 0 {
            return Ok(Head::Empty);
        }
        if matches!(self.hold, Hold::Until(_)) {
            self.hold = Hold::Nothing;
        }
        while let Some(mut raw) = self.raw.pop() {
            if let Some(upstream) = &mut self.upstream
                && let Some(header) = TimeHeader::take(&mut raw.headers)
            {
                let moved = upstream.observe(header);
                if header.kind.is_marker() {
                    self.next_offset = Some(raw.offset + 1);
                    if moved {
                        return Ok(Head::TimeMoved);
                    }
                    continue;
                }
            }
            if let Some(verdict) = self.failed.remove(&raw.offset) {
                self.pass_over(&raw, &verdict, out)?;
                return Ok(Head::PassedOver);
            }
            let as_read = self.handlers.late_letter(&raw);
            let mut decoded = self.decode(&mut raw, wall_ms);
            if let Err(fault) = &decoded
                && is_not_ready(fault)
            {
                if self.may_wait() {
                    self.raw.unpop(raw);
                    return Ok(Head::Waits);
                }
                let waited = self.max_decode_wait.as_secs_f32();
                let what = format!("it was waited for over {waited} s in vain");
                decoded = Err(Fault::serde(what, SerdeError::new(fault)));
            }
            let judgement = match &decoded {
                Ok(Decoded::Record(record)) => self.judge(record.timestamp, wall_ms),
                _ => Judgement::Taken,
            };
            if judgement != Judgement::Open {
                self.patience = None;
            }
            match decoded {
                Ok(Decoded::Record(record)) if judgement == Judgement::Taken => {
                    let time = record.timestamp;
                    self.head = Some((record, raw.offset));
                    self.as_read = as_read;
                    return Ok(Head::At(time));
                }
                Ok(Decoded::Record(record)) => {
                    raw.headers = record.headers;
                    if judgement == Judgement::Open {
                        self.raw.unpop(raw);
                        return Ok(self.hold_first());
                    }
                    let fault = self.stray(record.timestamp);
                    match self.handlers.of_stray(&fault) {
                        Some(verdict) => self.pass_over(&raw, &verdict, out)?,
                        None => return Err(fault.undecodable(self.place(raw.offset))),
                    }
                }
                Ok(Decoded::Skipped(time)) => {
                    metrics::counter!("dropped-records", "reason" => "invalid timestamp")
                        .increment(1);
                    tracing::warn!(record = %self.place(raw.offset), time, "a record with an invalid timestamp is skipped");
                    self.next_offset = Some(raw.offset + 1);
                }
                Err(fault) => match self.handlers.of_undecodable(&fault) {
                    Some(verdict) => self.pass_over(&raw, &verdict, out)?,
                    None => return Err(fault.undecodable(self.place(raw.offset))),
                },
            }
        }
        Ok(Head::Empty)
    }

    /// Whether a record at `time`, behind which everything else waits, is plausible.
    fn judge(&mut self, time: Timestamp, wall_ms: i64) -> Judgement {
        let before = self.partition_time();
        let Some(bound) = self.time.future_bound else {
            return Judgement::Taken;
        };
        if bound.is_near(before, time) {
            return Judgement::Taken;
        }
        let mut next = Vec::new();
        let ahead: Vec<_> = self.raw.first(bound.look_ahead()).cloned().collect();
        for mut raw in ahead {
            next.push(match self.decode(&mut raw, wall_ms) {
                Ok(Decoded::Record(record)) => Some(record.timestamp),
                // It may have a vote yet.
                Err(fault) if is_not_ready(&fault) && self.may_wait() => break,
                Ok(Decoded::Skipped(_)) | Err(_) => None,
            });
        }
        let are_all = self.hold == Hold::Decide && next.len() == self.raw.len();
        bound.judge(before, time, &next, are_all)
    }

    /// The first record has to wait for those behind it.
    fn hold_first(&mut self) -> Head {
        if self.patience.is_some() {
            return Head::Waits;
        }
        self.hold = Hold::Until(self.raw.len() + 1);
        Head::Empty
    }

    fn stray(&self, time: Timestamp) -> Fault {
        let (before, bound) = (self.partition_time(), self.time.future_bound);
        let ahead = bound.map_or(0, |bound| millis(bound.ahead));
        Fault::user(
            "future bound",
            format!(
                "the timestamp {time} is more than {ahead} ms ahead of its feed, which was at {before}, and the records \
                 behind it do not confirm it"
            ),
        )
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
        if let Some(upstream) = &mut self.upstream {
            let senders = records
                .iter()
                .filter_map(|raw| TimeHeader::sender(&raw.headers));
            senders.for_each(|task| upstream.add_waiting(task));
        }
        self.raw.extend(records);
        if self.hold == Hold::Decide {
            self.hold = Hold::Nothing;
        }
    }

    fn buffered(&self) -> usize {
        self.raw.len() + usize::from(self.head.is_some())
    }

    fn head(&mut self, wall_ms: i64, out: &mut Collector) -> Result<Head> {
        match &self.head {
            Some((record, _)) => Ok(Head::At(record.timestamp)),
            None => self.fill_head(wall_ms, out),
        }
    }

    fn held(&self) -> usize {
        match self.hold {
            Hold::Until(enough) if self.raw.len() < enough => self.raw.len(),
            _ => 0,
        }
    }

    fn waiting(&self) -> Buffered {
        match self.held() {
            0 => Buffered {
                records: self.buffered(),
                bytes: self.raw.bytes(),
            },
            // More must come, however large the first ones are.
            held => Buffered {
                records: self.buffered() - held,
                bytes: 0,
            },
        }
    }

    fn bytes(&self) -> usize {
        self.raw.bytes()
    }

    fn decide_held(&mut self) -> bool {
        let is_held = self.held() > 0;
        if is_held {
            self.hold = Hold::Decide;
        }
        is_held
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
        context.time_bound = self.time_bound();
        context.as_read = self.as_read.as_ref();
        self.next_offset = Some(offset + 1);
        if let Some(time) = &self.partition_time {
            time.set(time.get().max(record.timestamp));
        }
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

    fn time_bound(&self) -> Timestamp {
        self.upstream
            .as_ref()
            .filter(|_| !mutant::is(Mutant::UpstreamTimesIgnored))
            .map_or(Timestamp::MAX, UpstreamTimes::bound)
    }

    fn to_come_from(&self, all_read: bool) -> Timestamp {
        let upstream = self.upstream.as_ref();
        upstream.map_or(Timestamp::MAX, |upstream| upstream.to_come_from(all_read))
    }

    fn is_repartition(&self) -> bool {
        self.upstream.is_some()
    }

    fn look_for_idleness(&mut self, wall_ms: i64, is_at_end: &mut dyn FnMut(&Arc<str>) -> bool) {
        let drained = self.buffered() == self.held();
        if let Some(idleness) = &mut self.idleness {
            let topic = &self.topic;
            idleness.look(wall_ms, self.next_offset, drained, &mut || is_at_end(topic));
        }
    }

    fn idle(&self) -> Option<Timestamp> {
        match (&self.idleness, &self.upstream) {
            (Some(idleness), _) => idleness.idle(),
            (None, Some(upstream)) => upstream.idle(),
            (None, None) => None,
        }
    }
}
