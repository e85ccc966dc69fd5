//! Partitions come and go: tasks are opened where the log and the stores left them, and given up after a commit.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::Deadline;
use crate::error::Result;
use crate::log::{
    CommittedOffset, ConsumerConfig, ErrorClass, Isolation, LogError, Offset, OffsetReset,
    TopicPartition,
};
use crate::mutant::{self, Mutant};
use crate::processor::{Instantiation, TaskTimes, Wakes, time_metadata};
use crate::record::TaskId;
use crate::runtime::stores::{OpenedStores, open_stores};
use crate::task::{Restorer, StreamTask, TaskParts};

use super::{LOG_TIMEOUT, StreamThread, inputs_of, task_of};

impl StreamThread {
    pub(super) fn assigned(&mut self, partitions: Vec<TopicPartition>) -> Result {
        tracing::info!(thread = self.index, ?partitions, "partitions assigned");
        self.check_counts(&partitions)?;
        self.assigned.extend(partitions.iter().cloned());
        if let Err(fault) = self.commit_now() {
            return self.recover(fault);
        }
        let tasks: BTreeSet<TaskId> = partitions
            .iter()
            .filter_map(|partition| task_of(&self.shared, partition))
            .collect();
        self.open_tasks(&tasks)
    }

    pub(super) fn revoked(&mut self, partitions: &[TopicPartition], lost: bool) -> Result {
        tracing::info!(thread = self.index, ?partitions, lost, "partitions revoked");
        self.check_inputs_exist()?;
        // IMPORTANT: whatever becomes of the commit, the partitions are released: the group waits for that, and asks
        // once only.
        let undone = if mutant::is(Mutant::OpenAcrossRebalance) {
            false
        } else if lost {
            // They belong to somebody else already, and so would what is open.
            self.committing = None;
            self.abort_open()?;
            true
        } else if let Err(fault) = self.commit_now() {
            self.undo(fault)?;
            true
        } else {
            false
        };
        let revoked: BTreeSet<TaskId> = partitions
            .iter()
            .filter_map(|partition| task_of(&self.shared, partition))
            .collect();
        for id in &revoked {
            if mutant::is(Mutant::RevokedGoesOn) {
                continue;
            }
            if let Some(mut task) = self.tasks.remove(id) {
                task.apply(&*self.shared.database)?;
            }
        }
        for partition in partitions {
            self.assigned.remove(partition);
            self.reading.remove(partition);
            self.paused.remove(partition);
            self.first_offsets.remove(partition);
            self.ends.remove(partition);
            self.waiting_since.remove(partition);
            self.failed.forget(partition);
        }
        self.consumer.release(partitions)?;
        if undone {
            // The abort undid what the remaining tasks had done as well.
            self.reopen_tasks()?;
        }
        Ok(())
    }

    /// Refuses partitions that an input did not have when the application started: there is no changelog for them, and
    /// records that were there before are in other partitions than those to come.
    fn check_counts(&self, partitions: &[TopicPartition]) -> Result {
        for TopicPartition { topic, partition } in partitions {
            let known = self.shared.partitions.of(topic)?;
            if *partition >= known {
                return Err(LogError::fatal(format!(
                    "topic '{topic}' has more partitions than when the application started, which were {known}; restart \
                     all instances. With stores, or beside another input, a start refuses that as well: make a topic with \
                     the new number, copy the records into it, and begin with a new application id"
                ))
                .into());
            }
        }
        Ok(())
    }

    /// Refuses to go on when an input is gone: the others would be read as if nothing were missing. The group takes the
    /// partitions of a topic back that was deleted.
    fn check_inputs_exist(&self) -> Result {
        for topic in self.shared.topology.input_topics() {
            // A log that does not answer says nothing about the topic.
            if let Ok(None) = self.shared.log.partitions(&topic) {
                return Err(LogError::fatal(format!(
                    "input topic '{topic}' was deleted while the application read it; make it again and restart all \
                     instances"
                ))
                .into());
            }
        }
        Ok(())
    }

    /// Makes tasks, restores their stores, and has their inputs read from where they were committed.
    pub(super) fn open_tasks(&mut self, ids: &BTreeSet<TaskId>) -> Result {
        let shared = Arc::clone(&self.shared);
        let inputs: Vec<TopicPartition> =
            ids.iter().flat_map(|id| inputs_of(&shared, *id)).collect();
        if let Some(missing) = inputs.iter().find(|input| !self.assigned.contains(*input)) {
            return Err(LogError::fatal(format!(
                "the group gave this member a part of a task only: {missing} is missing; all inputs of a task must \
                 be assigned together, so use the range assignor in every member"
            ))
            .into());
        }
        // IMPORTANT: committed offsets first, then the ends of the changelogs: see `task::restore`.
        let committed = self.stable_committed(&inputs)?;
        let mut starts = Vec::new();
        for (partition, committed) in inputs.iter().zip(&committed) {
            let offset = match committed {
                Some(committed) => committed.offset,
                None => self.first_offset(partition)?,
            };
            starts.push((partition.clone(), offset));
        }
        let mut restorer = None;
        for &id in ids {
            let mut stores = open_stores(
                &shared.topology,
                &shared.config.application_id,
                &shared.resets,
                id,
                &*shared.database,
            )?;
            if !stores.slots.is_empty() {
                let restorer = match &mut restorer {
                    Some(restorer) => restorer,
                    None => {
                        let consumer = shared.log.consumer(ConsumerConfig {
                            reset: OffsetReset::Earliest,
                            fetch_bytes: shared.memory.side_fetch_bytes,
                            ..Default::default()
                        })?;
                        restorer.insert(Restorer::new(consumer, self.handlers.clone()))
                    }
                };
                let settled_bytes = shared.memory.settled_bytes;
                let restored = restorer.restore(&mut stores.slots, &starts, settled_bytes)?;
                shared.restored.fetch_add(restored, Ordering::Relaxed);
                tracing::info!(task = %id, records = restored, "stores restored");
            }
            let mut restored_times = std::mem::take(&mut stores.times);
            for (input, committed) in inputs.iter().zip(&committed) {
                if task_of(&shared, input) == Some(id)
                    && let Some(committed) = committed
                {
                    for (name, time) in time_metadata::decode(&committed.metadata) {
                        let known = restored_times.entry(name).or_insert(time);
                        *known = time.max(*known);
                    }
                }
            }
            let task = self.make_task(id, stores, TaskTimes::restored(restored_times))?;
            self.tasks.insert(id, task);
        }
        self.read_from(starts)
    }

    /// Has the consumer read on at these offsets, whether or not it reads the partitions already.
    pub(super) fn read_from(&mut self, starts: Vec<(TopicPartition, Offset)>) -> Result {
        let mut new = Vec::new();
        for (partition, offset) in starts {
            if self.reading.contains(&partition) {
                self.consumer.seek(&partition, offset)?;
            } else {
                new.push((partition, Some(offset)));
            }
        }
        if !new.is_empty() {
            self.consumer.assign(&new)?;
            self.reading.extend(new.into_iter().map(|(name, _)| name));
        }
        Ok(())
    }

    /// Where to start without a committed offset; the same offset again after a rewind.
    pub(super) fn first_offset(&mut self, partition: &TopicPartition) -> Result<Offset> {
        if let Some(offset) = self.first_offsets.get(partition) {
            return Ok(*offset);
        }
        let topology = &self.shared.topology;
        let application_id = &self.shared.config.application_id;
        let source = topology
            .plan
            .sources
            .iter()
            .find(|source| source.topic.resolve(application_id) == *partition.topic);
        let offset = match source.map(|source| source.reset) {
            Some(OffsetReset::Latest) => {
                self.consumer
                    .end_offset(partition, Isolation::ReadCommitted, LOG_TIMEOUT)?
            }
            _ => self.consumer.beginning_offset(partition, LOG_TIMEOUT)?,
        };
        self.first_offsets.insert(partition.clone(), offset);
        Ok(offset)
    }

    /// Committed offsets once no transaction is pending on them. A predecessor that died keeps one pending until the
    /// log aborts it, so this may take as long as a transaction may.
    pub(super) fn stable_committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<CommittedOffset>>> {
        let deadline = Deadline::after(self.shared.config.transaction_timeout + LOG_TIMEOUT);
        loop {
            match self.consumer.committed(partitions, Duration::from_secs(5)) {
                Err(error) if error.class == ErrorClass::Retriable && !deadline.passed() => {
                    tracing::debug!(%error, "waiting for stable committed offsets");
                    self.shared.clock.pass(Duration::from_millis(50));
                }
                result => return Ok(result?),
            }
        }
    }

    pub(super) fn make_task(
        &self,
        id: TaskId,
        stores: OpenedStores,
        mut times: TaskTimes,
    ) -> Result<StreamTask> {
        let mut cells = stores.cells();
        cells.extend(self.globals.cells());
        let mut wakes = Wakes::default();
        let mut instantiation = Instantiation {
            task: id,
            times: &mut times,
            stores: &cells,
            partitions: &self.shared.partitions,
            lookup: &self.shared.lookup,
            wakes: &mut wakes,
            shared: HashMap::new(),
            attached: RefCell::default(),
            executor: &self.executor,
            deferred: false,
            application_id: &self.shared.config.application_id,
            handlers: &self.handlers,
            failed: &self.failed,
            max_decode_wait: self.shared.config.max_decode_wait,
        };
        let topology = &self.shared.topology;
        let sources = &topology.subtopologies[id.subtopology].sources;
        let queues: Result<Vec<_>> = sources
            .iter()
            .enumerate()
            .map(|(input, &source)| {
                instantiation.wakes.begin_input(input);
                (topology.plan.sources[source].make)(&mut instantiation)
            })
            .collect();
        let queues = queues?;
        Ok(StreamTask::new(TaskParts {
            id,
            queues,
            wakes,
            stores: stores.slots,
            times,
        }))
    }
}
