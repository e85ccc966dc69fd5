//! Global tables: every thread holds them in full, in memory, read from their topics.
//!
//! They are outside the transactions and unsynchronised with stream time. A copy for each thread costs memory and spares
//! the record path a lock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use state::{Change, MAX_BATCH, MemoryDatabase};

use crate::clock::Deadline;
use crate::config::StreamsConfig;
use crate::error::{Fault, FaultKind, Result};
use crate::log::{
    Consumer, ConsumerConfig, ConsumerRecord, Isolation, Log, Offset, OffsetReset, Polled,
    TopicPartition, stands_still,
};
use crate::processor::StoreCell;
use crate::record::RecordMetadata;
use crate::serde::SerdeError;
use crate::task::{OnBadRecord, is_not_ready};
use crate::topology::{GlobalTableSpec, StoreId, StoreKind, Topology};

use super::stores::open_store;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The global tables of one thread.
pub(crate) struct GlobalTables {
    consumer: Option<Box<dyn Consumer>>,
    tables: Vec<GlobalTableSpec>,
    cells: HashMap<StoreId, StoreCell>,
    /// Records that were read, in order, from the first one on that waits for its serde.
    held: VecDeque<(TopicPartition, ConsumerRecord)>,
    /// Until when the first of them may wait.
    patience: Option<Deadline>,
    max_decode_wait: Duration,
    on_bad_record: OnBadRecord,
}

impl GlobalTables {
    /// Reads every global table to where its topic ends now. A record waits up to the configured time for its serde to be
    /// ready, and the records behind it with it.
    pub(crate) fn bootstrap(
        topology: &Topology,
        log: &dyn Log,
        config: &StreamsConfig,
        fetch_bytes: usize,
    ) -> Result<Self> {
        let tables = topology.plan.globals.clone();
        let database = MemoryDatabase::default();
        let mut cells = HashMap::new();
        for table in &tables {
            let name = &topology.plan.stores[table.store.0].name;
            let store = open_store(&database, name, name, StoreKind::KeyValue)?;
            cells.insert(table.store, store.share());
        }
        let consumer = if tables.is_empty() {
            None
        } else {
            let config = ConsumerConfig {
                reset: OffsetReset::Earliest,
                fetch_bytes,
                ..Default::default()
            };
            Some(log.consumer(config)?)
        };
        let mut globals = Self {
            consumer,
            tables,
            cells,
            held: VecDeque::new(),
            patience: None,
            max_decode_wait: config.max_decode_wait,
            on_bad_record: config.on_bad_record,
        };
        globals.read_to_end(log)?;
        Ok(globals)
    }

    /// The stores, for the nodes.
    pub(crate) fn cells(&self) -> impl Iterator<Item = (StoreId, StoreCell)> + '_ {
        self.cells.iter().map(|(id, cell)| (*id, cell.clone()))
    }

    fn read_to_end(&mut self, log: &dyn Log) -> Result {
        let Some(consumer) = &mut self.consumer else {
            return Ok(());
        };
        let mut ends: HashMap<TopicPartition, Offset> = HashMap::new();
        for table in &self.tables {
            for partition in 0..log.partitions(&table.topic)?.unwrap_or(0) {
                let partition = TopicPartition::new(table.topic.as_str(), partition);
                let begin = consumer.beginning_offset(&partition, TIMEOUT)?;
                consumer.assign(&[(partition.clone(), Some(begin))])?;
                let end = consumer.end_offset(&partition, Isolation::ReadCommitted, TIMEOUT)?;
                if begin < end {
                    ends.insert(partition, end);
                }
            }
        }
        let mut silence = Deadline::after(TIMEOUT);
        let mut come_to = HashMap::new();
        while !ends.is_empty() || !self.held.is_empty() {
            // Short, since it may be a serde that is waited for.
            self.poll(Duration::from_millis(5))?;
            let consumer = self.consumer.as_ref().expect("there are global tables");
            let mut positions = HashMap::new();
            for partition in ends.keys() {
                let position = consumer.position(partition)?.unwrap_or(0);
                positions.insert(partition.clone(), position);
            }
            ends.retain(|partition, end| positions[partition] < *end);
            // What waits for its serde has a limit of its own.
            if positions != come_to || !self.held.is_empty() {
                come_to = positions;
                silence = Deadline::after(TIMEOUT);
            } else if let Some((partition, end)) = ends.iter().next()
                && silence.passed()
            {
                let position = come_to[partition];
                return Err(stands_still(partition, position, *end).into());
            }
        }
        Ok(())
    }

    /// Takes in what has arrived.
    pub(crate) fn poll(&mut self, timeout: Duration) -> Result {
        let Some(consumer) = &mut self.consumer else {
            return Ok(());
        };
        if let Polled::Records(batches) = consumer.poll(timeout)? {
            for batch in batches {
                let partition = batch.partition;
                let records = batch.records.into_iter();
                self.held
                    .extend(records.map(|record| (partition.clone(), record)));
            }
        }
        if !self.held.is_empty() {
            self.take_held()?;
        }
        Ok(())
    }

    /// Takes in what is held, up to a record that has to wait.
    fn take_held(&mut self) -> Result {
        while let Some((partition, record)) = self.held.front() {
            if let Err(fault) = self.take(partition, record) {
                let at = RecordMetadata {
                    topic: Arc::clone(&partition.topic),
                    partition: partition.partition,
                    offset: record.offset,
                };
                let fault = if !is_not_ready(&fault) {
                    fault
                } else if self.may_wait() {
                    break;
                } else {
                    let waited = self.max_decode_wait.as_secs_f32();
                    let what = format!("it was waited for over {waited} s in vain");
                    Fault::serde(what, SerdeError::new(fault))
                };
                let is_bad = matches!(fault.kind(), FaultKind::Serde { .. });
                if !is_bad {
                    return Err(fault.at(at));
                }
                if self.on_bad_record == OnBadRecord::Fail {
                    return Err(fault.undecodable(at));
                }
                tracing::warn!(record = %at, %fault, "a row of a global table is skipped");
                metrics::counter!("dropped-records", "reason" => "bad record").increment(1);
            }
            self.patience = None;
            self.held.pop_front();
        }
        for cell in self.cells.values() {
            cell.with(|store| -> Result {
                while !store.apply(MAX_BATCH)? {}
                Ok(())
            })?;
        }
        Ok(())
    }

    fn may_wait(&mut self) -> bool {
        let limit = self.max_decode_wait;
        let patience = self.patience.get_or_insert_with(|| Deadline::after(limit));
        !patience.passed()
    }

    fn take(&self, partition: &TopicPartition, record: &ConsumerRecord) -> Result {
        let Some(table) = self.tables.iter().find(|t| *t.topic == *partition.topic) else {
            return Ok(());
        };
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let Some(key) = key else {
            metrics::counter!("dropped-records", "reason" => "null key").increment(1);
            return Ok(());
        };
        (table.check)(Some(key), value)?;
        let change = Change {
            key,
            value,
            timestamp: record.timestamp,
        };
        self.cells[&table.store].with(|store| store.restore(change))?;
        Ok(())
    }
}
