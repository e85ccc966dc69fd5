//! Global tables: every thread holds them in full, in memory, read from their topics.
//!
//! They are outside the transactions and unsynchronised with stream time. A copy for each thread costs memory and spares
//! the record path a lock.

use std::collections::HashMap;
use std::time::Duration;

use state::{Change, MAX_BATCH, MemoryDatabase};

use crate::error::Result;
use crate::log::{
    Consumer, ConsumerConfig, Isolation, Log, Offset, OffsetReset, Polled, RecordBatch,
    TopicPartition,
};
use crate::processor::StoreCell;
use crate::topology::{GlobalTableSpec, StoreId, StoreKind, Topology};

use super::stores::open_store;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The global tables of one thread.
pub(crate) struct GlobalTables {
    consumer: Option<Box<dyn Consumer>>,
    tables: Vec<GlobalTableSpec>,
    cells: HashMap<StoreId, StoreCell>,
}

impl GlobalTables {
    /// Reads every global table to where its topic ends now.
    pub(crate) fn bootstrap(topology: &Topology, log: &dyn Log) -> Result<Self> {
        let tables = topology.plan.globals.clone();
        let database = MemoryDatabase::default();
        let mut cells = HashMap::new();
        for table in &tables {
            let name = &topology.plan.stores[table.store.0].name;
            let cell = open_store(&database, name, name, StoreKind::KeyValue)?;
            cells.insert(table.store, cell);
        }
        let consumer = if tables.is_empty() {
            None
        } else {
            let config = ConsumerConfig {
                reset: OffsetReset::Earliest,
                ..Default::default()
            };
            Some(log.consumer(config)?)
        };
        let mut globals = Self {
            consumer,
            tables,
            cells,
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
        while !ends.is_empty() {
            self.poll(Duration::from_millis(100))?;
            let consumer = self.consumer.as_ref().expect("there are global tables");
            let mut reached = Vec::new();
            for (partition, end) in &ends {
                if consumer
                    .position(partition)?
                    .is_some_and(|position| position >= *end)
                {
                    reached.push(partition.clone());
                }
            }
            for partition in reached {
                ends.remove(&partition);
            }
        }
        Ok(())
    }

    /// Takes in what has arrived.
    pub(crate) fn poll(&mut self, timeout: Duration) -> Result {
        let Some(consumer) = &mut self.consumer else {
            return Ok(());
        };
        let Polled::Records(batches) = consumer.poll(timeout)? else {
            return Ok(());
        };
        for batch in batches {
            self.take(&batch)?;
        }
        Ok(())
    }

    fn take(&mut self, batch: &RecordBatch) -> Result {
        let Some(table) = self
            .tables
            .iter()
            .find(|t| *t.topic == *batch.partition.topic)
        else {
            return Ok(());
        };
        let cell = &self.cells[&table.store];
        for record in &batch.records {
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            (table.check)(key, value)?;
            let Some(key) = key else { continue };
            let change = Change {
                key,
                value,
                timestamp: record.timestamp,
            };
            cell.with(|store| store.restore(change))?;
        }
        cell.with(|store| -> Result {
            while !store.apply(MAX_BATCH)? {}
            Ok(())
        })
    }
}
