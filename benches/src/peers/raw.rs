//! The bare client loop: read, decode, encode, write, and every 100 ms commit outputs and offsets in one transaction.
//!
//! What any exactly-once program over this client has to pay, without a framework and without overlapping anything: the
//! loop waits for each commit. One record out for each record in, on the same partition number.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use processor_core::clock::Deadline;
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::log::{
    CommittedOffset, Consumer, ConsumerConfig, Log as _, Offset, Polled, Producer, ProducerConfig,
    ProducerRecord, RecordBatch, TopicPartition,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::arguments::Job;
use super::workload::CLICKS;
use crate::arena::PATIENCE;
use crate::event::{Click, Impression};
use crate::termination::Termination;

const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

/// Works `job` off until SIGTERM.
pub(super) fn run(job: &Job) -> Result<()> {
    let termination = Termination::watch()?;
    let mut copy = Copy::start(job)?;
    while !termination.asked() {
        copy.step()?;
    }
    copy.commit()
}

struct Copy {
    consumer: Box<dyn Consumer>,
    producer: Box<dyn Producer>,
    output: String,
    /// The offset after the last record taken since the last commit, by partition.
    progress: HashMap<TopicPartition, Offset>,
    commit_due: Deadline,
    json: Vec<u8>,
}

impl Copy {
    fn start(job: &Job) -> Result<Self> {
        let log = KafkaLog::new(KafkaOptions::new(&job.bootstrap))?;
        let mut producer = log.producer(ProducerConfig {
            transactional_id: Some(job.application_id.clone()),
            ..ProducerConfig::default()
        })?;
        producer.init_transactions(PATIENCE)?;
        let mut consumer = log.consumer(ConsumerConfig {
            group: Some(job.application_id.clone()),
            ..ConsumerConfig::default()
        })?;
        consumer.subscribe(job.workload.inputs())?;
        Ok(Self {
            consumer,
            producer,
            output: job.output.clone(),
            progress: HashMap::new(),
            commit_due: Deadline::after(COMMIT_INTERVAL),
            json: Vec::new(),
        })
    }

    fn step(&mut self) -> Result<()> {
        match self.consumer.poll(self.commit_due.remaining())? {
            Polled::Nothing => {}
            Polled::Records(batches) => {
                for batch in &batches {
                    self.copy(batch)?;
                }
            }
            Polled::Assigned(partitions) => {
                let from_committed: Vec<_> = partitions.into_iter().map(|p| (p, None)).collect();
                self.consumer.assign(&from_committed)?;
            }
            Polled::Revoked { partitions, .. } => {
                self.commit()?;
                self.consumer.release(&partitions)?;
            }
        }
        if self.commit_due.passed() {
            self.commit()?;
            self.commit_due = Deadline::after(COMMIT_INTERVAL);
        }
        Ok(())
    }

    fn copy(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.progress.is_empty() {
            self.producer.begin_transaction()?;
        }
        for record in &batch.records {
            if let Some(value) = &record.value {
                self.json.clear();
                match &*batch.partition.topic {
                    CLICKS => recode::<Click>(value, &mut self.json),
                    _ => recode::<Impression>(value, &mut self.json),
                }
                .with_context(|| format!("{} at offset {}", batch.partition, record.offset))?;
            }
            self.producer.send(ProducerRecord {
                topic: &self.output,
                partition: batch.partition.partition,
                timestamp: record.timestamp,
                key: record.key.as_deref(),
                value: record.value.as_ref().map(|_| &*self.json),
                headers: &record.headers,
            })?;
        }
        if let Some(last) = batch.records.last() {
            self.progress
                .insert(batch.partition.clone(), last.offset + 1);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        if self.progress.is_empty() {
            return Ok(());
        }
        let metadata = String::new;
        let offsets = self.progress.drain().map(|(partition, offset)| {
            let metadata = metadata();
            (partition, CommittedOffset { offset, metadata })
        });
        let group = self.consumer.group_metadata()?;
        self.producer.begin_commit(offsets.collect(), Some(group))?;
        let outcome = self.producer.poll_commit(PATIENCE)?;
        outcome.context("a commit got no answer")?;
        Ok(())
    }
}

/// Decodes `json` as a `T` and encodes it again.
fn recode<T: Serialize + DeserializeOwned>(json: &[u8], into: &mut Vec<u8>) -> Result<()> {
    let value: T = serde_json::from_slice(json)?;
    Ok(serde_json::to_writer(into, &value)?)
}
