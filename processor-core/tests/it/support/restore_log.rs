//! A log on which restores can be held up, fail, or find that their changelog has lost its head meanwhile.
//!
//! Readers of changelogs get one record a poll; everybody else finds a plain log.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use processor_core::clock::{Clock as _, SystemClock};
use processor_core::log::embedded::EmbeddedLog;
use processor_core::log::{
    CommittedOffset, Consumer, ConsumerConfig, GroupMetadata, Isolation, Log, LogError, NewTopic,
    Offset, Polled, Producer, ProducerConfig, TopicPartition,
};

/// What restores meet.
#[derive(Debug, Default)]
pub struct Script {
    /// Nothing comes.
    pub held: AtomicBool,
    /// So many polls fail and may be made again.
    pub failures: AtomicUsize,
    /// From so many polls on the changelogs begin at that offset; in order.
    cuts: Vec<(usize, Offset)>,
    polls: AtomicUsize,
    head: Mutex<Offset>,
}

impl Script {
    /// Changelogs lose their heads: from so many polls on they begin at that offset.
    pub fn cutting(cuts: Vec<(usize, Offset)>) -> Self {
        Self {
            cuts,
            ..Self::default()
        }
    }

    fn head(&self) -> Offset {
        *self.head.lock().unwrap()
    }

    fn count_poll(&self) {
        let polls = self.polls.fetch_add(1, Ordering::SeqCst) + 1;
        for (after, head) in &self.cuts {
            if *after == polls {
                *self.head.lock().unwrap() = *head;
            }
        }
    }
}

/// See the module.
pub struct RestoreLog {
    pub inner: EmbeddedLog,
    pub script: Arc<Script>,
}

impl Log for RestoreLog {
    fn consumer(&self, mut config: ConsumerConfig) -> Result<Box<dyn Consumer>, LogError> {
        if config.group.is_some() {
            return self.inner.consumer(config);
        }
        config.max_poll_records = 1;
        Ok(Box::new(RestoreConsumer {
            inner: self.inner.consumer(config)?,
            script: Arc::clone(&self.script),
            reads_changelogs: false,
        }))
    }

    fn producer(&self, config: ProducerConfig) -> Result<Box<dyn Producer>, LogError> {
        self.inner.producer(config)
    }

    fn create_topics(&self, topics: &[NewTopic]) -> Result<(), LogError> {
        self.inner.create_topics(topics)
    }

    fn delete_topics(&self, topics: &[&str]) -> Result<(), LogError> {
        self.inner.delete_topics(topics)
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, LogError> {
        self.inner.partitions(topic)
    }

    fn topics(&self) -> Result<Vec<String>, LogError> {
        self.inner.topics()
    }

    fn settings(
        &self,
        topics: &[&str],
    ) -> Result<std::collections::BTreeMap<String, processor_core::log::TopicSettings>, LogError>
    {
        self.inner.settings(topics)
    }
}

struct RestoreConsumer {
    inner: Box<dyn Consumer>,
    script: Arc<Script>,
    reads_changelogs: bool,
}

impl Consumer for RestoreConsumer {
    fn subscribe(&mut self, topics: &[&str]) -> Result<(), LogError> {
        self.inner.subscribe(topics)
    }

    fn poll(&mut self, timeout: Duration) -> Result<Polled, LogError> {
        if !self.reads_changelogs {
            return self.inner.poll(timeout);
        }
        if self.script.held.load(Ordering::SeqCst) {
            SystemClock.pass(timeout);
            return Ok(Polled::Nothing);
        }
        let failures = &self.script.failures;
        let one_less = |left: usize| left.checked_sub(1);
        if failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
            .is_ok()
        {
            return Err(LogError::retriable("scripted: a poll of a restore"));
        }
        self.script.count_poll();
        let head = self.script.head();
        Ok(match self.inner.poll(timeout)? {
            Polled::Records(batches) => {
                let mut batches = batches;
                for batch in &mut batches {
                    batch.records.retain(|record| record.offset >= head);
                }
                Polled::Records(batches)
            }
            other => other,
        })
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Option<Offset>)]) -> Result<(), LogError> {
        let is_changelog = |(p, _): &(TopicPartition, _)| p.topic.ends_with("-changelog");
        self.reads_changelogs |= partitions.iter().any(is_changelog);
        self.inner.assign(partitions)
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.inner.release(partitions)
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.inner.pause(partitions)
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.inner.resume(partitions)
    }

    fn seek(&mut self, partition: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        self.inner.seek(partition, offset)
    }

    fn position(&self, partition: &TopicPartition) -> Result<Option<Offset>, LogError> {
        self.inner.position(partition)
    }

    fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>, LogError> {
        self.inner.committed(partitions, timeout)
    }

    fn commit(&mut self, offsets: &[(TopicPartition, CommittedOffset)]) -> Result<(), LogError> {
        self.inner.commit(offsets)
    }

    fn beginning_offset(
        &self,
        partition: &TopicPartition,
        timeout: Duration,
    ) -> Result<Offset, LogError> {
        let begin = self.inner.beginning_offset(partition, timeout)?;
        match partition.topic.ends_with("-changelog") {
            true => Ok(begin.max(self.script.head())),
            false => Ok(begin),
        }
    }

    fn end_offset(
        &self,
        partition: &TopicPartition,
        isolation: Isolation,
        timeout: Duration,
    ) -> Result<Offset, LogError> {
        self.inner.end_offset(partition, isolation, timeout)
    }

    fn group_metadata(&self) -> Result<GroupMetadata, LogError> {
        self.inner.group_metadata()
    }

    fn close(self: Box<Self>) {
        self.inner.close();
    }
}
