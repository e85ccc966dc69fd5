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

use super::{Pace, Round, StreamThread, inputs_of, task_of};

/// Records a task takes before the next one has its turn.
const RECORDS_PER_TURN: usize = 1_000;
/// Records that a task takes at most before the thread looks at the clock.
const RECORDS_PER_LOOK: usize = 32;
/// How long the answer of the log about the end of an input is good for.
pub(crate) const END_OFFSET_FRESH_MS: i64 = 50;
/// Longer waits would hold the thread while other inputs have records.
const END_OFFSET_TIMEOUT: Duration = Duration::from_secs(2);
/// After a question that was not answered, how long that partition is not asked about.
const END_OFFSET_PAUSE_MS: i64 = 15_000;
/// Records that a task takes before the thread looks at the clock, at first: user code may be slow from one record to the next.
const RECORDS_AT_FIRST: usize = 1;

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
        let (at_first, at_most, budget_ms) = match pace {
            Pace::Interval => (
                RECORDS_AT_FIRST,
                RECORDS_PER_LOOK,
                millis(self.shared.config.commit_interval),
            ),
            // Where the order of everything is to follow from the input alone, the time it takes must not matter.
            Pace::Eager => (RECORDS_PER_TURN, RECORDS_PER_TURN, i64::MAX),
        };
        self.ends.begin_round(pace);
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
            let mut look_after = at_first;
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
                look_after = (2 * look_after).min(at_most);
            }
            *taken += n as u64;
            let mut is_at_end = |topic: &Arc<str>, partition: i32| {
                let partition = TopicPartition::new(Arc::clone(topic), partition);
                is_at_end(&**consumer, &partition, ends, wall_ms)
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
    ends: &'a mut Ends,
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

/// Where inputs end, as far as the log has said.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// And when it was asked.
    known: HashMap<TopicPartition, (Offset, i64)>,
    /// When it did not answer.
    unanswered: HashMap<TopicPartition, i64>,
    /// It did not answer in this round.
    is_silent: bool,
}

impl Ends {
    /// Unanswered questions take a while, so there is at most one in a round; and none is repeated before some time is over,
    /// where time has a say.
    fn begin_round(&mut self, pace: Pace) {
        self.is_silent = false;
        if pace == Pace::Eager {
            self.unanswered.clear();
        }
    }

    pub(super) fn forget(&mut self, partition: &TopicPartition) {
        self.known.remove(partition);
        self.unanswered.remove(partition);
    }

    /// All ends are to be asked for again.
    pub(super) fn forget_all(&mut self) {
        self.known.clear();
    }

    /// Asks for the end of `partition`; `None` where the log does not say.
    fn ask(
        &mut self,
        consumer: &dyn Consumer,
        partition: &TopicPartition,
        isolation: Isolation,
        now_ms: i64,
    ) -> Option<Offset> {
        let asked_ms = self.unanswered.get(partition);
        if self.is_silent
            || asked_ms.is_some_and(|asked| elapsed_ms(*asked, now_ms) < END_OFFSET_PAUSE_MS)
        {
            return None;
        }
        match consumer.end_offset(partition, isolation, END_OFFSET_TIMEOUT) {
            Ok(end) => {
                self.unanswered.remove(partition);
                Some(end)
            }
            Err(error) => {
                tracing::debug!(%partition, %error, "the end of an input is unknown; waiting");
                self.unanswered.insert(partition.clone(), now_ms);
                self.is_silent = true;
                None
            }
        }
    }
}

/// Whether everything in `partition` has been read. An end that lies ahead of the position settles the question for as
/// long as it does; one that was reached is asked for again after a while.
fn caught_up(
    consumer: &dyn Consumer,
    partition: &TopicPartition,
    ends: &mut Ends,
    now_ms: i64,
) -> bool {
    let Some(position) = position_of(consumer, partition) else {
        return false;
    };
    if let Some((end, asked_ms)) = ends.known.get(partition)
        && (position < *end || elapsed_ms(*asked_ms, now_ms) < END_OFFSET_FRESH_MS)
    {
        return position >= *end;
    }
    let Some(end) = ends.ask(consumer, partition, Isolation::ReadCommitted, now_ms) else {
        return false;
    };
    ends.known.insert(partition.clone(), (end, now_ms));
    position >= end
}

/// Whether nothing at all lies behind the position: no transaction either that is still open, whose records may come.
fn is_at_end(
    consumer: &dyn Consumer,
    partition: &TopicPartition,
    ends: &mut Ends,
    now_ms: i64,
) -> bool {
    let Some(position) = position_of(consumer, partition) else {
        return false;
    };
    let end = ends.ask(consumer, partition, Isolation::ReadUncommitted, now_ms);
    end.is_some_and(|end| position >= end)
}

/// How far `partition` has been read; `None` where nobody can say.
fn position_of(consumer: &dyn Consumer, partition: &TopicPartition) -> Option<Offset> {
    let position = consumer.position(partition).ok()?;
    Some(position.unwrap_or(0))
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
