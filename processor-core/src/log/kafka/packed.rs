//! Records of a poll, whose bytes are copied into buffers that they share.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers as _};

use crate::log::{ConsumerRecord, Header, Headers, Offset, RecordBatch, TopicPartition};

/// Records share buffers of about so many bytes. A buffer lives as long as one of its records, so it is much smaller than
/// what may wait of a partition.
const BUFFER_BYTES: usize = 64 << 10;

/// Names of topics and headers, which repeat from record to record.
#[derive(Default)]
pub(super) struct Names {
    topics: HashMap<String, Arc<str>>,
    headers: HashMap<String, Arc<str>>,
}

impl Names {
    fn topic(&mut self, name: &str) -> Arc<str> {
        intern(&mut self.topics, name)
    }

    fn headers(&mut self, message: &BorrowedMessage<'_>) -> Headers {
        let Some(native) = message.headers() else {
            return Headers::new();
        };
        native
            .iter()
            .map(|header| Header {
                name: intern(&mut self.headers, header.key),
                value: header.value.map(Bytes::copy_from_slice),
            })
            .collect()
    }
}

fn intern(known: &mut HashMap<String, Arc<str>>, name: &str) -> Arc<str> {
    if let Some(name) = known.get(name) {
        return Arc::clone(name);
    }
    let shared: Arc<str> = Arc::from(name);
    // A producer that makes up a name for each record must not fill the memory.
    if known.len() < 1_000 {
        known.insert(name.to_owned(), Arc::clone(&shared));
    }
    shared
}

/// A record whose bytes are still being collected in the shared buffer of a poll.
struct PackedRecord {
    offset: Offset,
    timestamp: i64,
    key: Option<(usize, usize)>,
    value: Option<(usize, usize)>,
    headers: Headers,
}

impl PackedRecord {
    fn of(message: &BorrowedMessage<'_>, names: &mut Names, buffer: &mut BytesMut) -> Self {
        let mut pack = |bytes: Option<&[u8]>| {
            let bytes = bytes?;
            let start = buffer.len();
            buffer.extend_from_slice(bytes);
            Some((start, buffer.len()))
        };
        Self {
            offset: message.offset(),
            timestamp: message.timestamp().to_millis().unwrap_or(-1),
            key: pack(message.key()),
            value: pack(message.payload()),
            headers: names.headers(message),
        }
    }
}

/// What a poll has brought.
#[derive(Default)]
pub(super) struct PackedBatches(Vec<PackedBatch>);

impl PackedBatches {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, message: &BorrowedMessage<'_>, names: &mut Names) {
        if !self.0.last().is_some_and(|batch| batch.takes(message)) {
            self.0.push(PackedBatch {
                partition: TopicPartition {
                    topic: names.topic(message.topic()),
                    partition: message.partition(),
                },
                records: Vec::new(),
                buffer: BytesMut::new(),
            });
        }
        let batch = self.0.last_mut().expect("pushed above");
        let record = PackedRecord::of(message, names, &mut batch.buffer);
        batch.records.push(record);
    }

    pub(super) fn unpack(self) -> impl Iterator<Item = RecordBatch> {
        self.0.into_iter().map(PackedBatch::unpack)
    }
}

/// Records of one partition that came in a row, in a buffer of their own.
struct PackedBatch {
    partition: TopicPartition,
    records: Vec<PackedRecord>,
    buffer: BytesMut,
}

impl PackedBatch {
    fn takes(&self, message: &BorrowedMessage<'_>) -> bool {
        self.buffer.len() < BUFFER_BYTES
            && self.partition.partition == message.partition()
            && *self.partition.topic == *message.topic()
    }

    fn unpack(self) -> RecordBatch {
        let bytes = self.buffer.freeze();
        let slice =
            |range: Option<(usize, usize)>| range.map(|(start, end)| bytes.slice(start..end));
        let records = self.records.into_iter().map(|record| ConsumerRecord {
            offset: record.offset,
            timestamp: record.timestamp,
            key: slice(record.key),
            value: slice(record.value),
            headers: record.headers,
        });
        RecordBatch {
            partition: self.partition,
            records: records.collect(),
        }
    }
}
