//! A log that fails at a chosen call, and is a plain one otherwise.
//!
//! All calls of all clients that can fail in the chosen way are counted; the call with the chosen number fails, before
//! or after it has done its work.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use processor_core::clock::{Clock as _, ManualClock};
use processor_core::log::embedded::EmbeddedLog;
use processor_core::log::{
    Committed, CommittedOffset, Consumer, ConsumerConfig, ErrorClass, GroupMetadata, Isolation,
    Log, LogError, NewTopic, Offset, Polled, Producer, ProducerConfig, ProducerRecord,
    TopicPartition, TopicSettings,
};

use super::world::World;

/// Where a failure may strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    MakeClient,
    Poll,
    Positions,
    Assign,
    Release,
    Committed,
    CommitOffsets,
    Init,
    Begin,
    Send,
    BeginCommit,
    PollCommit,
    Abort,
    Flush,
    Partitions,
}

/// What fails and how.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub class: ErrorClass,
    pub calls: &'static [Call],
    /// Whether the work is done although the call fails.
    pub done: bool,
}

/// The call with number `at` fails.
#[derive(Debug)]
pub struct Script {
    fault: Fault,
    at: usize,
    seen: AtomicUsize,
    /// Once it has struck, so many further calls fail, and how.
    after: Option<Fault>,
    left: AtomicUsize,
    /// How often a commit says that it is still in flight.
    commit_polls: AtomicUsize,
    silence: Mutex<Option<Silence>>,
    /// A partition that the group gives, of which the member does not hear.
    withheld: Mutex<Option<TopicPartition>>,
}

/// A log that has stopped answering: no commit ends, and whoever wants a new client waits for a minute. Partitions can be
/// given up all the same.
#[derive(Debug, Clone)]
pub struct Silence {
    /// What passes while something waits.
    pub clock: ManualClock,
    /// Whether a commit is done, though nobody hears of it.
    pub commits: bool,
    /// When partitions were given up.
    pub released_ms: Option<i64>,
}

impl Script {
    pub fn new(fault: Fault, at: usize) -> Arc<Self> {
        Arc::new(Self {
            fault,
            at,
            seen: AtomicUsize::new(0),
            after: None,
            left: AtomicUsize::new(0),
            commit_polls: AtomicUsize::new(0),
            silence: Mutex::default(),
            withheld: Mutex::default(),
        })
    }

    /// The same, and the next `times` calls of those in `after` fail too, once the first one has.
    pub fn with_aftermath(fault: Fault, at: usize, after: Fault, times: usize) -> Arc<Self> {
        Arc::new(Self {
            fault,
            at,
            seen: AtomicUsize::new(0),
            after: Some(after),
            left: AtomicUsize::new(times),
            commit_polls: AtomicUsize::new(0),
            silence: Mutex::default(),
            withheld: Mutex::default(),
        })
    }

    /// Nothing fails, and each commit says `polls` times that it is still in flight.
    pub fn slow_commits(polls: usize) -> Arc<Self> {
        let fault = Fault {
            class: ErrorClass::Fatal,
            calls: &[],
            done: false,
        };
        let script = Self::new(fault, 0);
        script.commit_polls.store(polls, Ordering::SeqCst);
        script
    }

    /// Nothing fails; `calls` are counted.
    pub fn counting(calls: &'static [Call]) -> Arc<Self> {
        let fault = Fault {
            class: ErrorClass::Fatal,
            calls,
            done: false,
        };
        Self::new(fault, usize::MAX)
    }

    /// From now on the log is silent, or answers again; what the silence was.
    pub fn set_silence(&self, silence: Option<Silence>) -> Option<Silence> {
        std::mem::replace(&mut self.silence.lock().unwrap(), silence)
    }

    /// The group gives members everything but this partition, or what they have not got yet.
    pub fn withhold(&self, partition: Option<TopicPartition>) {
        *self.withheld.lock().unwrap() = partition;
    }

    /// How many calls there were of those that are counted.
    pub fn calls(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// Whether there was a call with the chosen number.
    pub fn struck(&self) -> bool {
        self.seen.load(Ordering::SeqCst) > self.at
    }

    fn call<T>(
        &self,
        call: Call,
        work: impl FnOnce() -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        if let Some(after) = self.after.filter(|after| after.calls.contains(&call))
            && self.struck()
            && self.left.load(Ordering::SeqCst) > 0
        {
            let left = self.left.fetch_sub(1, Ordering::SeqCst) - 1;
            let class = after.class;
            let text = format!("scripted: {call:?} in the aftermath, {left} left, {class:?}");
            return Err(LogError::new(class, text));
        }
        if !self.fault.calls.contains(&call) || self.seen.fetch_add(1, Ordering::SeqCst) != self.at
        {
            return work();
        }
        if self.fault.done {
            work()?;
        }
        let (at, class) = (self.at, self.fault.class);
        Err(LogError::new(
            class,
            format!("scripted: {call:?}, number {at}, {class:?}"),
        ))
    }
}

/// See the module.
pub struct FaultyLog<L> {
    pub inner: L,
    pub script: Arc<Script>,
    /// Few records for each poll make many rounds.
    pub max_poll_records: usize,
}

impl FaultyLog<EmbeddedLog> {
    /// Over the log of `world`, with few records for each poll.
    pub fn of(world: &World, script: &Arc<Script>) -> Arc<Self> {
        Arc::new(Self {
            inner: world.log.clone(),
            script: Arc::clone(script),
            max_poll_records: 7,
        })
    }
}

impl<L: Log> Log for FaultyLog<L> {
    fn consumer(&self, mut config: ConsumerConfig) -> Result<Box<dyn Consumer>, LogError> {
        config.max_poll_records = self.max_poll_records;
        let make = || self.inner.consumer(config);
        let inner = self.script.call(Call::MakeClient, make)?;
        let script = Arc::clone(&self.script);
        Ok(Box::new(FaultyConsumer {
            inner,
            script,
            withheld: Vec::new(),
        }))
    }

    fn producer(&self, config: ProducerConfig) -> Result<Box<dyn Producer>, LogError> {
        if let Some(silence) = &*self.script.silence.lock().unwrap() {
            silence.clock.advance(Duration::from_secs(60));
        }
        let make = || self.inner.producer(config);
        let inner = self.script.call(Call::MakeClient, make)?;
        let script = Arc::clone(&self.script);
        Ok(Box::new(FaultyProducer {
            inner,
            script,
            polls_left: 0,
            unheard: false,
        }))
    }

    fn create_topics(&self, topics: &[NewTopic]) -> Result<(), LogError> {
        self.inner.create_topics(topics)
    }

    fn delete_topics(&self, topics: &[&str]) -> Result<(), LogError> {
        self.inner.delete_topics(topics)
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, LogError> {
        let partitions = || self.inner.partitions(topic);
        self.script.call(Call::Partitions, partitions)
    }

    fn settings(&self, topics: &[&str]) -> Result<BTreeMap<String, TopicSettings>, LogError> {
        self.inner.settings(topics)
    }

    fn topics(&self) -> Result<Vec<String>, LogError> {
        self.inner.topics()
    }
}

struct FaultyConsumer {
    inner: Box<dyn Consumer>,
    script: Arc<Script>,
    /// Assigned, though nobody was told.
    withheld: Vec<TopicPartition>,
}

impl Consumer for FaultyConsumer {
    fn subscribe(&mut self, topics: &[&str]) -> Result<(), LogError> {
        self.inner.subscribe(topics)
    }

    fn poll(&mut self, timeout: Duration) -> Result<Polled, LogError> {
        let withheld = self.script.withheld.lock().unwrap().clone();
        if withheld.is_none() && !self.withheld.is_empty() {
            return Ok(Polled::Assigned(std::mem::take(&mut self.withheld)));
        }
        let polled = self.script.call(Call::Poll, || self.inner.poll(timeout))?;
        Ok(match polled {
            Polled::Assigned(mut given) => {
                let is_withheld = |partition: &mut _| Some(&*partition) == withheld.as_ref();
                self.withheld.extend(given.extract_if(.., is_withheld));
                Polled::Assigned(given)
            }
            polled => polled,
        })
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Option<Offset>)]) -> Result<(), LogError> {
        let assign = || self.inner.assign(partitions);
        self.script.call(Call::Assign, assign)
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        if let Some(silence) = &mut *self.script.silence.lock().unwrap() {
            silence.released_ms = Some(silence.clock.now_ms());
        }
        let release = || self.inner.release(partitions);
        self.script.call(Call::Release, release)
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.inner.pause(partitions)
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.inner.resume(partitions)
    }

    fn seek(&mut self, partition: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        let seek = || self.inner.seek(partition, offset);
        self.script.call(Call::Assign, seek)
    }

    fn position(&self, partition: &TopicPartition) -> Result<Option<Offset>, LogError> {
        self.inner.position(partition)
    }

    fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>, LogError> {
        let committed = || self.inner.committed(partitions, timeout);
        self.script.call(Call::Committed, committed)
    }

    fn commit(&mut self, offsets: &[(TopicPartition, CommittedOffset)]) -> Result<(), LogError> {
        let commit = || self.inner.commit(offsets);
        self.script.call(Call::CommitOffsets, commit)
    }

    fn beginning_offset(
        &self,
        partition: &TopicPartition,
        timeout: Duration,
    ) -> Result<Offset, LogError> {
        let offset = || self.inner.beginning_offset(partition, timeout);
        self.script.call(Call::Positions, offset)
    }

    fn end_offset(
        &self,
        partition: &TopicPartition,
        isolation: Isolation,
        timeout: Duration,
    ) -> Result<Offset, LogError> {
        let offset = || self.inner.end_offset(partition, isolation, timeout);
        self.script.call(Call::Positions, offset)
    }

    fn group_metadata(&self) -> Result<GroupMetadata, LogError> {
        self.inner.group_metadata()
    }

    fn close(self: Box<Self>) {
        self.inner.close();
    }
}

struct FaultyProducer {
    inner: Box<dyn Producer>,
    script: Arc<Script>,
    polls_left: usize,
    /// The commit in flight is done.
    unheard: bool,
}

impl Producer for FaultyProducer {
    fn init_transactions(&mut self, timeout: Duration) -> Result<(), LogError> {
        let init = || self.inner.init_transactions(timeout);
        self.script.call(Call::Init, init)
    }

    fn begin_transaction(&mut self) -> Result<(), LogError> {
        let begin = || self.inner.begin_transaction();
        self.script.call(Call::Begin, begin)
    }

    fn send(&mut self, record: ProducerRecord<'_>) -> Result<(), LogError> {
        self.script.call(Call::Send, || self.inner.send(record))
    }

    fn flush(&mut self, timeout: Duration) -> Result<(), LogError> {
        self.script.call(Call::Flush, || self.inner.flush(timeout))
    }

    fn begin_commit(
        &mut self,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
        group: Option<GroupMetadata>,
    ) -> Result<(), LogError> {
        self.polls_left = self.script.commit_polls.load(Ordering::SeqCst);
        let begin = || self.inner.begin_commit(offsets, group);
        self.script.call(Call::BeginCommit, begin)
    }

    fn poll_commit(&mut self, timeout: Duration) -> Result<Option<Committed>, LogError> {
        if self.polls_left > 0 {
            self.polls_left -= 1;
            return Ok(None);
        }
        if let Some(silence) = &*self.script.silence.lock().unwrap() {
            if silence.commits && !std::mem::replace(&mut self.unheard, true) {
                self.inner.poll_commit(timeout)?;
            }
            silence.clock.advance(timeout);
            return Ok(None);
        }
        let poll = || self.inner.poll_commit(timeout);
        self.script.call(Call::PollCommit, poll)
    }

    fn abort_transaction(&mut self, timeout: Duration) -> Result<(), LogError> {
        let abort = || self.inner.abort_transaction(timeout);
        self.script.call(Call::Abort, abort)
    }
}
