//! What is read and processed in a round: records to queues, queues to nodes, and what a task waits for.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{elapsed_ms, millis};
use crate::error::Result;
use crate::log::{Consumer, Isolation, Offset, RecordBatch, TopicPartition};
use crate::processor::Work;
use crate::record::TaskId;
use crate::runtime::Held;
use crate::task::{Buffered, Inputs, StreamTask};

use super::{LOG_TIMEOUT, Pace, Round, StreamThread, inputs_of, task_of};

/// Records a task takes before the next one has its turn.
const RECORDS_PER_TURN: usize = 1_000;
/// Records a task takes before the thread looks at the clock.
const RECORDS_PER_LOOK: usize = 32;
/// How long the answer of the log about the end of an input is good for.
pub(crate) const END_OFFSET_FRESH_MS: i64 = 50;
/// A log that is away is asked again in the next round: with many inputs, long waits for each would hold the thread for
/// minutes after the log is back.
const END_OFFSET_TIMEOUT: Duration = Duration::from_secs(2);

impl StreamThread {
    pub(super) fn enqueue(&mut self, batches: Vec<RecordBatch>) -> Result {
        for RecordBatch { partition, records } in batches {
            let Some(id) = task_of(&self.shared, &partition) else {
                continue;
            };
            let Some(task) = self.tasks.get_mut(&id) else {
                continue;
            };
            let buffered = task.push(&partition.topic, records);
            self.waiting_since.remove(&partition);
            if self.queue_limits().are_exceeded_by(buffered)
                && self.paused.insert(partition.clone())
            {
                self.consumer.pause(&[partition])?;
            }
        }
        Ok(())
    }

    /// Has each task take a turn. At [`Pace::Interval`] the turns end when they took as long as a commit interval, and the
    /// next round begins with the task that comes then: where user code is slow, commits and polls must not wait for it.
    pub(super) fn process(&mut self, pace: Pace) -> Result<Round> {
        let wall_ms = self.shared.clock.now_ms();
        let (look_after, budget_ms) = match pace {
            Pace::Interval => (RECORDS_PER_LOOK, millis(self.shared.config.commit_interval)),
            // Where the order of everything is to follow from the input alone, the time it takes must not matter.
            Pace::Eager => (RECORDS_PER_TURN, i64::MAX),
        };
        let mut round = Round::Idle;
        let awaited = self.awaited_topics(wall_ms);
        let mut turns: Vec<TaskId> = self.tasks.keys().copied().collect();
        if let Some(first) = self.next_turn.take() {
            let at = turns.partition_point(|id| *id < first);
            turns.rotate_left(at);
        }
        let held = self.held();
        let Self {
            shared,
            consumer,
            out,
            tasks,
            ends,
            waiting_since,
            taken,
            next_turn,
            ..
        } = self;
        let mut held = held;
        let mut over = false;
        for id in turns {
            // A thread that is full has to commit first, or to wait for the commit in flight.
            if over || shared.memory.room(&held, out.committing()).is_none() {
                *next_turn = Some(id);
                break;
            }
            let task = tasks.get_mut(&id).expect("listed above");
            let dirty_elsewhere = held.dirty - task.dirty_bytes();
            let mut inputs = KnownInputs {
                consumer: &**consumer,
                awaited: &awaited,
                ends: &mut *ends,
                waiting_since: &mut *waiting_since,
                max_task_idle: shared.config.max_task_idle,
                wall_ms,
            };
            let mut n = 0;
            while n < RECORDS_PER_TURN && !over {
                let Some(room) = shared.memory.room(&held, out.committing()) else {
                    break;
                };
                let of_these = task.process(look_after, room, wall_ms, out, &mut inputs)?;
                held = Held {
                    dirty: dirty_elsewhere + task.dirty_bytes(),
                    sent: out.bytes(),
                    waiting: out.waiting_bytes(),
                    ..held
                };
                n += of_these;
                over = n > 0 && elapsed_ms(wall_ms, shared.clock.now_ms()) >= budget_ms;
                if of_these < look_after {
                    break;
                }
            }
            *taken += n as u64;
            let mut is_at_end = |topic: &Arc<str>, partition: i32| {
                is_at_end(
                    &**consumer,
                    &TopicPartition::new(Arc::clone(topic), partition),
                )
            };
            if task.look_for_idleness(wall_ms, out, &mut is_at_end)? {
                round = Round::Worked;
            }
            task.punctuate(wall_ms, out)?;
            // Asked whether or not there were records, or a steady input would starve the rest of the work.
            let left = task.resume(wall_ms, out)?;
            if n > 0 || left == Work::More {
                round = Round::Worked;
            }
            held.dirty = dirty_elsewhere + task.dirty_bytes();
            (held.sent, held.waiting) = (out.bytes(), out.waiting_bytes());
        }
        self.resume_drained()?;
        Ok(round)
    }

    /// Repartition topics that this thread will write more to: a task that reads one beside another input waits, though
    /// it has read everything there is. Else a run over old input would take all of the direct input first and find what
    /// has to come through the repartition late. What other threads are about to write is not known.
    pub(super) fn awaited_topics(&mut self, wall_ms: i64) -> BTreeSet<String> {
        let topology = &self.shared.topology;
        let topic_of = |source: &usize| &topology.plan.sources[*source].topic;
        let is_internal = |source: &usize| topic_of(source).is_internal();
        let mixed = |sources: &[usize]| sources.len() > 1 && sources.iter().any(is_internal);
        let chooses = |(id, task): (&TaskId, &StreamTask)| {
            task.buffered() > 0 && mixed(&topology.subtopologies[id.subtopology].sources)
        };
        // Most rounds end here: what follows may ask the log.
        if !self.tasks.iter().any(chooses) {
            return BTreeSet::new();
        }
        // What is not open yet has everything to write still.
        let mut busy: BTreeSet<usize> = self.opening.keys().map(|id| id.subtopology).collect();
        for (id, task) in &self.tasks {
            let mut unread = || {
                inputs_of(&self.shared, *id)
                    .iter()
                    .any(|input| !caught_up(&*self.consumer, input, &mut self.ends, wall_ms))
            };
            if self.out.committing() || task.buffered() > 0 || task.is_dirty() || unread() {
                busy.insert(id.subtopology);
            }
        }
        let mut by_rank: Vec<usize> = (0..topology.subtopologies.len()).collect();
        by_rank.sort_by_key(|&number| topology.subtopologies[number].rank);
        let mut awaited = BTreeSet::new();
        for number in by_rank {
            for source in &topology.subtopologies[number].sources {
                let topic = topic_of(source);
                let writer = topology.writer_of(topic).filter(|_| is_internal(source));
                // Not on the way back of a circle: each would wait for the other.
                let awaits = |writer: usize| {
                    topology.subtopologies[writer].rank < topology.subtopologies[number].rank
                };
                if writer.is_some_and(|writer| busy.contains(&writer) && awaits(writer)) {
                    awaited.insert(topic.resolve(&self.shared.config.application_id));
                    busy.insert(number);
                }
            }
        }
        awaited
    }

    fn queue_limits(&self) -> QueueLimits {
        QueueLimits(Buffered {
            records: self.shared.config.buffered_records_per_partition,
            bytes: self.shared.memory.queue_limit(self.reading.len()),
        })
    }

    /// Reads on where a queue has become short.
    pub(super) fn resume_drained(&mut self) -> Result {
        let limits = self.queue_limits().halved();
        let drained: Vec<TopicPartition> = self
            .paused
            .iter()
            .filter(|partition| {
                let task = task_of(&self.shared, partition).and_then(|id| self.tasks.get(&id));
                task.is_some_and(|task| !limits.are_exceeded_by(task.buffered_of(&partition.topic)))
            })
            .cloned()
            .collect();
        if !drained.is_empty() {
            self.consumer.resume(&drained)?;
            self.paused.retain(|partition| !drained.contains(partition));
        }
        Ok(())
    }
}

/// What may wait in the queue of one partition.
#[derive(Debug, Clone, Copy)]
struct QueueLimits(Buffered);

impl QueueLimits {
    fn are_exceeded_by(self, buffered: Buffered) -> bool {
        buffered.records > self.0.records || buffered.bytes > self.0.bytes
    }

    fn halved(self) -> Self {
        Self(Buffered {
            records: self.0.records / 2,
            bytes: self.0.bytes / 2,
        })
    }
}

/// What a thread knows of the inputs of its tasks in a round.
struct KnownInputs<'a> {
    consumer: &'a dyn Consumer,
    /// Topics that will be written more to.
    awaited: &'a BTreeSet<String>,
    ends: &'a mut HashMap<TopicPartition, (Offset, i64)>,
    waiting_since: &'a mut HashMap<TopicPartition, i64>,
    max_task_idle: Duration,
    wall_ms: i64,
}

impl Inputs for KnownInputs<'_> {
    fn all_read(&mut self, topic: &Arc<str>, partition: i32) -> bool {
        let partition = TopicPartition::new(Arc::clone(topic), partition);
        !self.awaited.contains(&**topic)
            && caught_up(self.consumer, &partition, self.ends, self.wall_ms)
    }

    fn may_be_empty(&mut self, topic: &Arc<str>, partition: i32) -> bool {
        let all_read = self.all_read(topic, partition);
        let partition = TopicPartition::new(Arc::clone(topic), partition);
        if all_read {
            self.waiting_since.remove(&partition);
            return true;
        }
        waited_enough(
            self.waiting_since,
            &partition,
            self.wall_ms,
            self.max_task_idle,
        )
    }
}

/// Whether everything in `partition` has been read. An end that lies ahead of the position settles the question for as
/// long as it does; one that was reached is asked for again after a while.
fn caught_up(
    consumer: &dyn Consumer,
    partition: &TopicPartition,
    ends: &mut HashMap<TopicPartition, (Offset, i64)>,
    now_ms: i64,
) -> bool {
    let Ok(position) = consumer.position(partition) else {
        return false;
    };
    let position = position.unwrap_or(0);
    if let Some((end, asked_ms)) = ends.get(partition)
        && (position < *end || elapsed_ms(*asked_ms, now_ms) < END_OFFSET_FRESH_MS)
    {
        return position >= *end;
    }
    match consumer.end_offset(partition, Isolation::ReadCommitted, END_OFFSET_TIMEOUT) {
        Ok(end) => {
            ends.insert(partition.clone(), (end, now_ms));
            position >= end
        }
        Err(error) => {
            tracing::debug!(%partition, %error, "the end of an input is unknown; waiting");
            false
        }
    }
}

/// Whether nothing at all lies behind the position: no transaction either that is still open, whose records may come.
fn is_at_end(consumer: &dyn Consumer, partition: &TopicPartition) -> bool {
    let (Ok(position), Ok(end)) = (
        consumer.position(partition),
        consumer.end_offset(partition, Isolation::ReadUncommitted, LOG_TIMEOUT),
    ) else {
        return false;
    };
    position.unwrap_or(0) >= end
}

/// Whether a task has waited long enough for an input that has more to read.
fn waited_enough(
    since: &mut HashMap<TopicPartition, i64>,
    partition: &TopicPartition,
    now_ms: i64,
    limit: Duration,
) -> bool {
    let began = since.entry(partition.clone()).or_insert(now_ms);
    // A clock that was set back makes it begin again.
    *began = now_ms.min(*began);
    now_ms - *began > millis(limit)
}
