//! Writing a stream to a topic.

use crate::error::{Fault, Result};
use crate::log::Headers;
use crate::partitioner::partition_for;
use crate::processor::{Context, Process};
use crate::record::Record;
use crate::serde::{SharedSerde, serialize_nullable};

/// Encodes records and hands them to the collector.
pub(crate) struct Sink<K, V> {
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    key_buffer: Vec<u8>,
    value_buffer: Vec<u8>,
}

impl<K, V> Sink<K, V> {
    pub(crate) fn new(
        topic: String,
        partitions: i32,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Self {
        Self {
            topic,
            partitions,
            key,
            value,
            key_buffer: Vec::new(),
            value_buffer: Vec::new(),
        }
    }

    /// Sends `record` with `headers` to the partition of its key; a record without a key stays in the partition
    /// number of its task, so that the same input gives the same output.
    pub(crate) fn send(
        &mut self,
        context: &mut Context<'_>,
        record: &Record<K, V>,
        headers: &Headers,
    ) -> Result<i32> {
        self.encode_and_send(None, context, record, headers)
    }

    /// Sends `record` with `headers` to `partition`.
    pub(crate) fn send_to(
        &mut self,
        partition: i32,
        context: &mut Context<'_>,
        record: &Record<K, V>,
        headers: &Headers,
    ) -> Result {
        self.encode_and_send(Some(partition), context, record, headers)
            .map(|_| ())
    }

    fn encode_and_send(
        &mut self,
        partition: Option<i32>,
        context: &mut Context<'_>,
        record: &Record<K, V>,
        headers: &Headers,
    ) -> Result<i32> {
        let key =
            serialize_nullable(&*self.key, &record.key, &mut self.key_buffer).map_err(|error| {
                Fault::serde(format!("the key of a record for {}", self.topic), error)
            })?;
        let value = serialize_nullable(&*self.value, &record.value, &mut self.value_buffer)
            .map_err(|error| {
                Fault::serde(format!("the value of a record for {}", self.topic), error)
            })?;
        let partition = match (partition, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_for(self.key.partition_bytes(key), self.partitions),
            (None, None) => context.task.partition % self.partitions,
        };
        context.out.send(
            &self.topic,
            partition,
            record.timestamp,
            key,
            value,
            headers,
        )?;
        Ok(partition)
    }
}

impl<K, V> Process<K, V> for Sink<K, V> {
    fn process(&mut self, context: &mut Context<'_>, mut record: Record<K, V>) -> Result {
        let headers = std::mem::take(&mut record.headers);
        self.send(context, &record, &headers).map(|_| ())
    }
}
