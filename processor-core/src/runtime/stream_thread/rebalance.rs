//! Partitions come and go: tasks are opened where the log and the stores left them, and given up after a commit.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use crate::error::Result;
use crate::log::{Isolation, LogError, Offset, OffsetReset, TopicPartition};
use crate::mutant::{self, Mutant};
use crate::processor::{Instantiation, TaskTimes, Wakes};
use crate::record::TaskId;
use crate::task::{StoreSlot, StreamTask, TaskParts};

use super::{LOG_TIMEOUT, StreamThread, inputs_of, task_of};

impl StreamThread {
    pub(super) fn assigned(&mut self, partitions: Vec<TopicPartition>) -> Result {
        tracing::info!(thread = self.index, ?partitions, "partitions assigned");
        self.check_counts(&partitions)?;
        self.assigned.extend(partitions.iter().cloned());
        // The answer to the group; what is read comes with the tasks.
        self.consumer.assign(&[])?;
        let tasks: BTreeSet<TaskId> = partitions
            .iter()
            .filter_map(|partition| task_of(&self.shared, partition))
            .collect();
        self.begin_opening(&tasks)
    }

    pub(super) fn revoked(&mut self, partitions: &[TopicPartition], lost: bool) -> Result {
        tracing::info!(thread = self.index, ?partitions, lost, "partitions revoked");
        // IMPORTANT: whatever becomes of the commit, the partitions are released: the group waits for that, and asks
        // once only. So the commit is all that stands before it, and has one budget. What fails or takes longer is taken
        // back behind it: who gets the partitions waits until it is decided what is committed.
        let began_ms = self.shared.clock.now_ms();
        let is_left_open = lost || mutant::is(Mutant::OpenAcrossRebalance);
        let committed = match is_left_open {
            true => Ok(()),
            false => self.commit_now(),
        };
        let revoked: BTreeSet<TaskId> = partitions
            .iter()
            .filter_map(|partition| task_of(&self.shared, partition))
            .collect();
        if !mutant::is(Mutant::RestoreOutlivesRevoke) {
            self.stop_opening(&revoked);
        }
        let mut applied = Ok(());
        for id in &revoked {
            if mutant::is(Mutant::RevokedGoesOn) {
                continue;
            }
            if let Some(mut task) = self.tasks.remove(id)
                // What is not written down now is replayed from the changelog.
                && !self.budget_is_over(began_ms)
            {
                // A store that cannot be written stops the thread behind the answer.
                applied = applied.and_then(|()| task.apply(&*self.shared.database));
            }
            self.claims.unclaim(*id);
        }
        for partition in partitions {
            self.assigned.remove(partition);
            self.reading.remove(partition);
            self.paused.remove(partition);
            self.first_offsets.remove(partition);
            self.ends.forget(partition);
            self.waiting_since.remove(partition);
        }
        self.consumer.release(partitions)?;
        applied?;
        let undone = match committed {
            Ok(()) if lost => {
                // They belong to somebody else already, and so would what is open.
                self.committing = None;
                self.abort_open().map(|()| true)
            }
            Ok(()) => Ok(false),
            Err(fault) => self.undo(fault).map(|()| true),
        };
        for partition in partitions {
            self.failed.forget(partition);
        }
        self.check_topics_exist()?;
        let undone = undone?;
        // Where only some inputs of a task were taken, it waits for them to come back.
        let holds_some = |id: &&TaskId| {
            let inputs = inputs_of(&self.shared, **id);
            inputs.iter().any(|input| self.assigned.contains(input))
        };
        let incomplete = revoked.iter().filter(holds_some).copied().collect();
        self.begin_opening(&incomplete)?;
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

    /// Refuses to go on when a topic of the user is gone. Without an input, whose partitions the group takes back, the others
    /// would be read as if nothing were missing; records for an output would fail again and again.
    pub(super) fn check_topics_exist(&self) -> Result {
        // A log that does not answer says nothing about the topics.
        let Ok(there) = self.shared.log.topics() else {
            return Ok(());
        };
        let topology = &self.shared.topology;
        let dead_letters = self.shared.partitions.dead_letters();
        let inputs = topology.input_topics().into_iter();
        let outputs = topology.output_topics().into_iter();
        let mut topics = inputs
            .map(|topic| ("input", topic, "read"))
            .chain(outputs.map(|topic| ("output", topic, "wrote to")))
            .chain(dead_letters.map(|topic| ("dead letter", topic.name.to_string(), "wrote to")));
        match topics.find(|(_, topic, _)| !there.contains(topic)) {
            Some((kind, topic, did)) => Err(LogError::fatal(format!(
                "{kind} topic '{topic}' was deleted while the application {did} it; make it again and restart all instances"
            ))
            .into()),
            None => Ok(()),
        }
    }

    /// Has the consumer read on at these offsets, whether or not it reads the partitions already.
    pub(super) fn read_from(&mut self, starts: Vec<(TopicPartition, Offset)>) -> Result {
        let mut new = Vec::new();
        for (partition, offset) in starts {
            if self.reading.contains(&partition) {
                if self.paused.remove(&partition) {
                    self.consumer.resume(std::slice::from_ref(&partition))?;
                }
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
        let offset = match self.reset_of(partition) {
            OffsetReset::Latest => {
                self.consumer
                    .end_offset(partition, Isolation::ReadCommitted, LOG_TIMEOUT)?
            }
            OffsetReset::Earliest => self.consumer.beginning_offset(partition, LOG_TIMEOUT)?,
        };
        self.first_offsets.insert(partition.clone(), offset);
        Ok(offset)
    }

    pub(super) fn reset_of(&self, partition: &TopicPartition) -> OffsetReset {
        let application_id = &self.shared.config.application_id;
        let mut sources = self.shared.topology.plan.sources.iter();
        let source = sources.find(|s| s.topic.resolve(application_id) == *partition.topic);
        source.map_or(OffsetReset::Earliest, |source| source.reset)
    }

    pub(super) fn make_task(
        &self,
        id: TaskId,
        stores: Vec<StoreSlot>,
        mut times: TaskTimes,
    ) -> Result<StreamTask> {
        let of_task = stores.iter().map(|slot| (slot.id, slot.store.clone()));
        let cells = of_task.chain(self.globals.cells()).collect();
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
            stores,
            times,
        }))
    }
}
