//! The task itself.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use state::{Database, MAX_BATCH, Marker, write_marker};

use crate::error::Result;
use crate::log::{ConsumerRecord, Offset, Timestamp, TopicPartition};
use crate::mutant::{self, Mutant};
use crate::processor::times::TASK_TIME;
use crate::processor::{
    Context, NO_TIME, OwnedStore, StoreCell, TaskTimes, Wake, Wakes, Woken, Work,
};
use crate::record::TaskId;
use crate::runtime::Collector;
use crate::topology::{ReadRow, StoreId};

use super::{Buffered, Head, SourceQueue};

/// A store with its changelog.
pub(crate) struct StoreSlot<S = StoreCell> {
    pub id: StoreId,
    pub store: S,
    /// What it is called on disk, and its marker.
    pub name: String,
    /// What its rows on disk are written as.
    pub layout: u64,
    /// Topic and partition of the changelog, or of the input that takes its place.
    pub changelog: TopicPartition,
    /// What its rows are made of where that is the table's input: it is read back and not written.
    pub read_back: Option<ReadRow>,
    /// Where a restore of what is settled would go on.
    pub position: Offset,
}

impl StoreSlot<OwnedStore> {
    /// The same, for a task.
    pub(crate) fn share(self) -> StoreSlot {
        StoreSlot {
            id: self.id,
            store: self.store.share(),
            name: self.name,
            layout: self.layout,
            changelog: self.changelog,
            read_back: self.read_back,
            position: self.position,
        }
    }
}

/// The live parts of a task, as its factory made them.
pub(crate) struct TaskParts {
    pub id: TaskId,
    pub queues: Vec<Box<dyn SourceQueue>>,
    pub wakes: Wakes,
    pub stores: Vec<StoreSlot>,
    pub times: TaskTimes,
}

/// Progress as of a commit: what the marker says once everything up to it is in the store.
#[derive(Debug, Clone, Default)]
struct Progress {
    input_offsets: Vec<(TopicPartition, Offset)>,
    stream_times: BTreeMap<String, Timestamp>,
}

impl Progress {
    fn of_input(&self, input: &TopicPartition) -> Option<Offset> {
        let mut inputs = self.input_offsets.iter();
        let (_, offset) = inputs.find(|(partition, _)| partition == input)?;
        Some(*offset)
    }
}

/// What goes beside a sealed generation into its commit: input offsets, and stream times.
pub(crate) type Sealed = (Vec<(TopicPartition, Offset)>, BTreeMap<String, Timestamp>);

/// See the [module](super).
pub(crate) struct StreamTask {
    id: TaskId,
    queues: Vec<Box<dyn SourceQueue>>,
    wakes: Vec<Woken>,
    stores: Vec<StoreSlot>,
    times: TaskTimes,
    stream_time: Rc<Cell<Timestamp>>,
    /// How often a bounded run ended here, less one; travels like a time.
    ends_of_input: Rc<Cell<Timestamp>>,
    /// Records were taken or timers fired since the last seal.
    dirty: bool,
    /// A record was passed over since then, and the commit should not wait.
    wants_commit: bool,
    sealed: Option<Progress>,
    settled: Progress,
    /// Something is settled that the backend does not have.
    unapplied: bool,
}

/// Answers for an input, by topic and partition.
pub(crate) type AskInput<'a> = &'a mut dyn FnMut(&Arc<str>, i32) -> bool;

/// What a task asks about its inputs while it chooses.
pub(crate) trait Inputs {
    /// Whether everything was read that there is, or is known to come.
    fn all_read(&mut self, topic: &Arc<str>, partition: i32) -> bool;
    /// Whether an empty input need not be waited for, because of that or because it was for long enough.
    fn may_be_empty(&mut self, topic: &Arc<str>, partition: i32) -> bool;
}

impl StreamTask {
    pub(crate) fn new(parts: TaskParts) -> Self {
        let stream_time = parts.times.cell(TASK_TIME);
        let ends_of_input = parts.times.cell("end-of-input");
        Self {
            id: parts.id,
            queues: parts.queues,
            wakes: parts.wakes.parents_first(),
            stores: parts.stores,
            times: parts.times,
            stream_time,
            ends_of_input,
            dirty: false,
            wants_commit: false,
            sealed: None,
            settled: Progress::default(),
            unapplied: false,
        }
    }

    pub(crate) fn id(&self) -> TaskId {
        self.id
    }

    /// Adds records of `topic`, and says what waits in that queue now, but for those held until more come.
    pub(crate) fn push(&mut self, topic: &str, records: Vec<ConsumerRecord>) -> Buffered {
        let queue = self
            .queues
            .iter_mut()
            .find(|queue| **queue.topic() == *topic);
        queue.map_or_else(Buffered::default, |queue| {
            queue.push(records);
            queue.waiting()
        })
    }

    /// Records waiting in all queues, but for those held until more come.
    pub(crate) fn buffered(&self) -> usize {
        self.queues
            .iter()
            .map(|queue| queue.waiting().records)
            .sum()
    }

    /// What waits in the queue of `topic`, but for what is held until more comes.
    pub(crate) fn buffered_of(&self, topic: &str) -> Buffered {
        let queue = self.queues.iter().find(|queue| **queue.topic() == *topic);
        queue.map_or_else(Buffered::default, |queue| queue.waiting())
    }

    /// Bytes of all records in the queues.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queues.iter().map(|queue| queue.bytes()).sum()
    }

    /// There will be no more input: what is held is to be decided by what is there. Whether there is such.
    pub(crate) fn decide_held(&mut self) -> bool {
        let queues = self.queues.iter_mut().map(|queue| queue.decide_held());
        queues.filter(|held| *held).count() > 0
    }

    /// Whether a record was found that has to wait for its serde, and the task with it.
    pub(crate) fn waits(&self) -> bool {
        self.queues.iter().any(|queue| queue.waits())
    }

    /// Takes up to `limit` records, always the one with the smallest timestamp among the heads of the queues; at equal
    /// times the first source's. But a repartition topic goes first as long as one of the tasks that write it lags behind the
    /// other heads, since its records are still to come there. Stops where a queue ran dry that may have more to come, since its next record could be
    /// the smallest. So it does where a queue [waits](Self::waits), and behind a record that failed before and was passed
    /// over, so that this can be committed by itself, and behind one whose processor asked for a commit, and behind the one
    /// that takes what was changed and sent past `room` bytes. Returns how many were taken.
    pub(crate) fn process(
        &mut self,
        limit: usize,
        room: usize,
        wall_ms: i64,
        out: &mut Collector,
        inputs: &mut dyn Inputs,
    ) -> Result<usize> {
        let partition = self.id.partition;
        // Once per call: the answer holds for what is buffered now.
        let is_single = self.queues.len() == 1;
        let mut may_be_empty = vec![is_single; self.queues.len()];
        let mut is_all_read = |queue: &dyn SourceQueue| {
            is_single || queue.is_repartition() && inputs.all_read(queue.topic(), partition)
        };
        let all_read: Vec<bool> = self.queues.iter().map(|q| is_all_read(&**q)).collect();
        let full = (self.dirty_bytes() + out.bytes()).saturating_add(room);
        let mut taken = 0;
        while taken < limit {
            let mut next: Option<Next> = None;
            let mut moved = None;
            for (i, queue) in self.queues.iter_mut().enumerate() {
                match queue.head(wall_ms, out)? {
                    Head::At(time) => {
                        let candidate = Next {
                            earliest: time.min(queue.to_come_from(all_read[i])),
                            time,
                            queue: i,
                        };
                        next = Some(next.map_or(candidate, |next| next.min(candidate)));
                    }
                    Head::TimeMoved => {
                        moved = Some(i);
                        break;
                    }
                    Head::Waits => return Ok(taken),
                    Head::PassedOver => {
                        self.dirty = true;
                        self.wants_commit = true;
                        return Ok(taken);
                    }
                    Head::Empty if may_be_empty[i] => {}
                    Head::Empty if taken == 0 && inputs.may_be_empty(queue.topic(), partition) => {
                        may_be_empty[i] = true;
                    }
                    Head::Empty => return Ok(taken),
                }
            }
            if let Some(i) = moved {
                self.time_moved(i, wall_ms, out)?;
                continue;
            }
            let Some(Next { time, queue: i, .. }) = next else {
                return Ok(taken);
            };
            let time_moved = time > self.stream_time.get();
            if time_moved {
                self.stream_time.set(time);
            }
            let mut context = self.context(wall_ms, out);
            self.queues[i].process_head(&mut context)?;
            self.dirty = true;
            taken += 1;
            if time_moved && !self.wakes.is_empty() {
                self.punctuate(wall_ms, out)?;
            }
            if out.commit_requested() || self.dirty_bytes() + out.bytes() > full {
                return Ok(taken);
            }
        }
        Ok(taken)
    }

    /// Tells the nodes below input `i` that the bound of their time moved.
    fn time_moved(&mut self, i: usize, wall_ms: i64, out: &mut Collector) -> Result {
        self.dirty = true;
        let mut context = self.context(wall_ms, out);
        context.time_bound = self.queues[i].time_bound();
        // One with other inputs waits for its next record, which may be older than what the bound allows by now.
        for woken in self.wakes.iter().filter(|woken| woken.inputs == [i]) {
            woken.node.borrow_mut().advance(&mut context, NO_TIME)?;
        }
        self.tell_idle(wall_ms, out).map(|_| ())
    }

    /// Looks for inputs that have become idle, or are no longer, and tells the nodes below them; whether there was anything
    /// to tell. `is_at_end` asks the log.
    pub(crate) fn look_for_idleness(
        &mut self,
        wall_ms: i64,
        out: &mut Collector,
        is_at_end: AskInput<'_>,
    ) -> Result<bool> {
        let partition = self.id.partition;
        for queue in &mut self.queues {
            queue.look_for_idleness(wall_ms, &mut |topic| is_at_end(topic, partition));
        }
        self.tell_idle(wall_ms, out)
    }

    fn tell_idle(&mut self, wall_ms: i64, out: &mut Collector) -> Result<bool> {
        let any_idle = self.queues.iter().any(|queue| queue.idle().is_some());
        if !any_idle && self.wakes.iter().all(|woken| woken.idle.is_none()) {
            return Ok(false);
        }
        let idle: Vec<Option<Timestamp>> = self.queues.iter().map(|queue| queue.idle()).collect();
        if let Some(time) = time_of_idle(idle.iter().copied()) {
            self.stream_time.set(time.max(self.stream_time.get()));
        }
        let mut told = false;
        let mut context = self.context(wall_ms, out);
        for woken in &mut self.wakes {
            let now = time_of_idle(woken.inputs.iter().map(|&input| idle[input]));
            if now != woken.idle {
                woken.idle = now;
                told = true;
                woken.node.borrow_mut().idle(&mut context, now)?;
            }
        }
        self.dirty |= told;
        Ok(told)
    }

    /// Fires the punctuations that are due.
    pub(crate) fn punctuate(&mut self, wall_ms: i64, out: &mut Collector) -> Result {
        self.wake(wall_ms, out, |wake, context| wake.punctuate(context))
    }

    /// Goes on with work larger than a record; whether there is more.
    pub(crate) fn resume(&mut self, wall_ms: i64, out: &mut Collector) -> Result<Work> {
        let mut left = Work::Done;
        let mut worked = false;
        let mut context = self.context(wall_ms, out);
        for woken in &self.wakes {
            let mut wake = woken.node.borrow_mut();
            worked |= wake.has_work();
            if wake.resume(&mut context)? == Work::More {
                left = Work::More;
            }
        }
        self.dirty |= worked;
        Ok(left)
    }

    /// How often this task has been told of an end of input, less one.
    pub(crate) fn ends_of_input(&self) -> Timestamp {
        self.ends_of_input.get()
    }

    /// Tells the nodes that a bounded run has read everything, for the `count`th time.
    pub(crate) fn end_of_input(
        &mut self,
        wall_ms: i64,
        count: Timestamp,
        out: &mut Collector,
    ) -> Result {
        self.wake(wall_ms, out, |wake, context| wake.end_of_input(context))?;
        self.ends_of_input.set(count);
        self.dirty = true;
        Ok(())
    }

    fn wake(
        &mut self,
        wall_ms: i64,
        out: &mut Collector,
        mut call: impl FnMut(&mut dyn Wake, &mut Context<'_>) -> Result,
    ) -> Result {
        let sent = out.sent();
        let mut context = self.context(wall_ms, out);
        for woken in &self.wakes {
            call(&mut *woken.node.borrow_mut(), &mut context)?;
        }
        self.dirty |= out.sent() != sent;
        Ok(())
    }

    fn context<'a>(&self, wall_ms: i64, out: &'a mut Collector) -> Context<'a> {
        Context {
            task: self.id,
            topic: None,
            offset: 0,
            stream_time: self.stream_time.get(),
            wall_ms,
            time_bound: Timestamp::MAX,
            as_read: None,
            out,
        }
    }

    /// Whether a commit would have anything to say, given the consumer's positions.
    pub(crate) fn needs_commit(
        &self,
        position: &mut dyn FnMut(&TopicPartition) -> Option<Offset>,
    ) -> bool {
        self.dirty
            || self.dirty_bytes() > 0
            || self.progress(position).input_offsets != self.settled.input_offsets
    }

    /// Offsets to commit: after the last record taken, or where the consumer stands once the queue is drained, which
    /// steps over transaction markers and so leaves no lag.
    fn progress(&self, position: &mut dyn FnMut(&TopicPartition) -> Option<Offset>) -> Progress {
        let mut input_offsets = Vec::with_capacity(self.queues.len());
        for queue in &self.queues {
            let partition = TopicPartition::new(Arc::clone(queue.topic()), self.id.partition);
            let drained = (queue.buffered() == 0)
                .then(|| position(&partition))
                .flatten();
            if let Some(offset) = drained.max(queue.next_offset()) {
                input_offsets.push((partition, offset));
            }
        }
        Progress {
            input_offsets,
            stream_times: self.times.snapshot(),
        }
    }

    /// Closes the open generation: hands what is left to send and all state changes to `out`, and returns the offsets to
    /// commit with them and the stream times that go beside them.
    pub(crate) fn seal(
        &mut self,
        wall_ms: i64,
        out: &mut Collector,
        position: &mut dyn FnMut(&TopicPartition) -> Option<Offset>,
    ) -> Result<Sealed> {
        let mut context = self.context(wall_ms, out);
        for woken in &self.wakes {
            woken.node.borrow_mut().before_commit(&mut context)?;
        }
        for slot in &self.stores {
            let changelog = &slot.changelog;
            let is_written = slot.read_back.is_none();
            let mut failed = None;
            slot.store.with(|store| {
                store.seal(&mut |change| {
                    if !is_written {
                        return;
                    }
                    let sent = out.send(
                        &changelog.topic,
                        changelog.partition,
                        change.timestamp,
                        Some(change.key),
                        change.value,
                        &[],
                    );
                    if let Err(fault) = sent {
                        failed.get_or_insert(fault);
                    }
                })
            })?;
            if let Some(fault) = failed {
                return Err(fault);
            }
        }
        self.dirty = false;
        self.wants_commit = false;
        let progress = self.progress(position);
        let committed = (
            progress.input_offsets.clone(),
            progress.stream_times.clone(),
        );
        self.sealed = Some(progress);
        Ok(committed)
    }

    /// The sealed generation is committed; `next_offset` tells how far each changelog has come with it.
    pub(crate) fn settle(&mut self, next_offset: &HashMap<TopicPartition, Offset>) {
        let Some(progress) = self.sealed.take() else {
            return;
        };
        for slot in &mut self.stores {
            slot.store.with(|store| store.settle());
            let reached = match slot.read_back {
                Some(_) => progress.of_input(&slot.changelog),
                None => next_offset.get(&slot.changelog).copied(),
            };
            slot.position = reached.unwrap_or(slot.position);
        }
        self.settled = progress;
        self.unapplied = true;
    }

    /// For [mutants](Mutant): what is not committed becomes part of the stores.
    pub(crate) fn settle_uncommitted(&mut self) -> Result {
        for slot in &self.stores {
            slot.store.with(|store| {
                store.settle();
                store.seal(&mut |_| ())?;
                store.settle();
                while !store.apply(MAX_BATCH)? {}
                Ok::<_, state::StateError>(())
            })?;
        }
        Ok(())
    }

    /// Bytes of settled changes that the backend does not have yet.
    pub(crate) fn settled_bytes(&self) -> usize {
        self.stores
            .iter()
            .map(|slot| slot.store.with(|store| store.settled_bytes()))
            .sum()
    }

    /// Whether the next commit should come at once.
    pub(crate) fn wants_commit(&self) -> bool {
        self.wants_commit
    }

    /// Whether there is something that no commit has begun to take.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty || self.dirty_bytes() > 0
    }

    /// Bytes of changes since the last seal.
    pub(crate) fn dirty_bytes(&self) -> usize {
        self.stores
            .iter()
            .map(|slot| slot.store.with(|store| store.dirty_bytes()))
            .sum()
    }

    /// Writes what is settled to the backend, then the markers that say so.
    pub(crate) fn apply(&mut self, database: &dyn Database) -> Result {
        if !self.unapplied || self.stores.is_empty() {
            return Ok(());
        }
        if mutant::is(Mutant::MarkerBeforeEntries) {
            self.write_markers(database)?;
        }
        for slot in &self.stores {
            while !slot.store.with(|store| store.apply(MAX_BATCH))? {}
        }
        // IMPORTANT: after the entries they vouch for.
        self.write_markers(database)?;
        self.unapplied = false;
        Ok(())
    }

    fn write_markers(&self, database: &dyn Database) -> Result {
        for slot in &self.stores {
            write_marker(database, &slot.name, &self.marker(slot))?;
        }
        Ok(())
    }

    fn marker(&self, slot: &StoreSlot) -> Marker {
        let store = slot.store.with(|store| store.name().to_owned());
        Marker {
            changelog_offsets: BTreeMap::from([(store, slot.position)]),
            input_offsets: self
                .settled
                .input_offsets
                .iter()
                .map(|(partition, offset)| (partition.to_string(), *offset))
                .collect(),
            stream_times: self.settled.stream_times.clone(),
            format_hash: slot.layout,
        }
    }

    /// A store of this task, for tests and queries.
    pub(crate) fn store(&self, id: StoreId) -> Option<&StoreCell> {
        self.stores
            .iter()
            .find(|slot| slot.id == id)
            .map(|slot| &slot.store)
    }
}

/// The head of a queue, in the order in which heads are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Next {
    /// What may still come from this queue is not older than this, but for what is out of order in its own partition.
    earliest: Timestamp,
    time: Timestamp,
    queue: usize,
}

/// How far time has come while all of these inputs are idle; nothing where one is not.
fn time_of_idle(mut inputs: impl Iterator<Item = Option<Timestamp>>) -> Option<Timestamp> {
    inputs.try_fold(NO_TIME, |latest, input| input.map(|time| latest.max(time)))
}
