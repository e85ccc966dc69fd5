//! Clients of the embedded log that can be interrupted, refused and killed at every call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock as _;
use crate::log::embedded::EndRequest;
use crate::log::{
    Committed, CommittedOffset, Consumer, ConsumerConfig, ErrorClass, GroupMetadata, Isolation,
    Log, LogError, NewTopic, Offset, Polled, Producer, ProducerConfig, ProducerRecord,
    TopicPartition, TopicSettings,
};

use crate::mutant::Mutant;

use super::buggy::{self, Kept};
use super::fault::{Call, Fate, Fault, Side};
use super::world::{Place, no_answer};

/// Time between two questions for a commit that is slow.
const SLOW_POLL: Duration = Duration::from_millis(20);

/// The log, as one instance reaches it.
pub(super) struct SimulatedLog {
    place: Place,
    /// What a bug keeps of a producer that is no longer used.
    kept: Arc<Kept>,
}

impl SimulatedLog {
    pub(super) fn at(place: Place) -> Self {
        Self {
            place,
            kept: Arc::default(),
        }
    }

    fn topics_call<T>(&self, work: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
        self.place.arrive(Call::Topics, Side::Before)?;
        let result = work()?;
        self.place.arrive(Call::Topics, Side::After)?;
        Ok(result)
    }
}

impl Log for SimulatedLog {
    fn consumer(&self, mut config: ConsumerConfig) -> Result<Box<dyn Consumer>, LogError> {
        let restores = config.group.is_none();
        let (max_poll_records, brings_one_in) = match restores {
            // Changelogs are short here, and much is to happen while they are read.
            true => (
                self.place.one_of(&[1, 1, 3, 0]),
                self.place.one_of(&[1, 1, 1, 8]),
            ),
            false => (self.place.pressure().poll_records, 1),
        };
        config.max_poll_records = max_poll_records;
        let inner = buggy::consumer(&self.place, config)?;
        Ok(Box::new(SimulatedConsumer {
            inner: Some(inner),
            restores,
            brings_one_in,
            place: self.place.clone(),
        }))
    }

    fn producer(&self, config: ProducerConfig) -> Result<Box<dyn Producer>, LogError> {
        let id = config.transactional_id.clone();
        let inner = Some(buggy::producer(&self.place, &self.kept, config)?);
        Ok(Box::new(SimulatedProducer {
            inner,
            id,
            place: self.place.clone(),
            commit: None,
            unsent: None,
            sent: BTreeMap::new(),
        }))
    }

    fn create_topics(&self, topics: &[NewTopic]) -> Result<(), LogError> {
        self.topics_call(|| self.place.world.log.create_topics(topics))
    }

    fn delete_topics(&self, topics: &[&str]) -> Result<(), LogError> {
        self.topics_call(|| self.place.world.log.delete_topics(topics))
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, LogError> {
        self.topics_call(|| self.place.world.log.partitions(topic))
    }

    /// A start refuses topics by them (`UnfitTopic`), and is made again where it fails. `Call::Topics` stands for that
    /// already, so no fault arises here.
    fn settings(&self, topics: &[&str]) -> Result<BTreeMap<String, TopicSettings>, LogError> {
        self.place.world.log.settings(topics)
    }

    fn topics(&self) -> Result<Vec<String>, LogError> {
        self.topics_call(|| self.place.world.log.topics())
    }
}

struct SimulatedConsumer {
    /// There until it is buried.
    inner: Option<Box<dyn Consumer>>,
    /// It is outside any group.
    restores: bool,
    /// One of so many polls brings what there is; until then it is on its way.
    brings_one_in: u64,
    place: Place,
}

impl SimulatedConsumer {
    fn inner(&self) -> &dyn Consumer {
        self.inner.as_deref().expect("there until the drop")
    }

    fn asked<T>(
        &self,
        call: Call,
        work: impl FnOnce(&dyn Consumer) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        self.place.arrive(call, Side::Before)?;
        let result = work(self.inner())?;
        self.place.arrive(call, Side::After)?;
        Ok(result)
    }

    fn told<T>(
        &mut self,
        call: Call,
        work: impl FnOnce(&mut dyn Consumer) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        self.place.arrive(call, Side::Before)?;
        let inner = self.inner.as_deref_mut().expect("there until the drop");
        let result = work(inner)?;
        self.place.arrive(call, Side::After)?;
        Ok(result)
    }
}

impl Consumer for SimulatedConsumer {
    fn subscribe(&mut self, topics: &[&str]) -> Result<(), LogError> {
        self.told(Call::Subscribe, |inner| inner.subscribe(topics))
    }

    fn poll(&mut self, _: Duration) -> Result<Polled, LogError> {
        let call = match self.restores {
            true => Call::Restore,
            false => Call::Poll,
        };
        let is_there = self.place.one_in(self.brings_one_in);
        self.told(call, |inner| match is_there {
            true => inner.poll(Duration::ZERO),
            false => Ok(Polled::Nothing),
        })
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Option<Offset>)]) -> Result<(), LogError> {
        self.told(Call::Assign, |inner| inner.assign(partitions))
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.told(Call::Release, |inner| inner.release(partitions))
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.told(Call::Assign, |inner| inner.pause(partitions))
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.told(Call::Assign, |inner| inner.resume(partitions))
    }

    fn seek(&mut self, partition: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        self.told(Call::Assign, |inner| inner.seek(partition, offset))
    }

    fn position(&self, partition: &TopicPartition) -> Result<Option<Offset>, LogError> {
        self.inner().position(partition)
    }

    fn committed(
        &self,
        partitions: &[TopicPartition],
        _: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>, LogError> {
        self.asked(Call::Committed, |inner| {
            inner.committed(partitions, Duration::ZERO)
        })
    }

    fn commit(&mut self, offsets: &[(TopicPartition, CommittedOffset)]) -> Result<(), LogError> {
        self.told(Call::CommitOffsets, |inner| inner.commit(offsets))
    }

    fn beginning_offset(
        &self,
        partition: &TopicPartition,
        timeout: Duration,
    ) -> Result<Offset, LogError> {
        self.asked(Call::Ends, |inner| {
            inner.beginning_offset(partition, timeout)
        })
    }

    fn end_offset(
        &self,
        partition: &TopicPartition,
        isolation: Isolation,
        timeout: Duration,
    ) -> Result<Offset, LogError> {
        self.asked(Call::Ends, |inner| {
            inner.end_offset(partition, isolation, timeout)
        })
    }

    fn group_metadata(&self) -> Result<GroupMetadata, LogError> {
        self.asked(Call::GroupMetadata, |inner| inner.group_metadata())
    }

    fn close(mut self: Box<Self>) {
        if !self.place.is_dead()
            && let Some(inner) = self.inner.take()
        {
            inner.close();
        }
    }
}

impl Drop for SimulatedConsumer {
    /// The dead do not say goodbye to their group.
    fn drop(&mut self) {
        if self.place.is_dead()
            && let Some(inner) = self.inner.take()
        {
            self.place.world.state().graveyard.consumers.push(inner);
        }
    }
}

/// Offsets, and the member that commits them.
type Commit = (
    Vec<(TopicPartition, CommittedOffset)>,
    Option<GroupMetadata>,
);

struct SimulatedProducer {
    /// There until it is buried.
    inner: Option<Box<dyn Producer>>,
    id: Option<String>,
    place: Place,
    /// A request to commit as this producer sends it.
    commit: Option<EndRequest>,
    /// A commit without a transaction of which the last records are still on their way.
    unsent: Option<Commit>,
    /// Records in the transaction that is open.
    sent: BTreeMap<TopicPartition, u64>,
}

impl SimulatedProducer {
    fn inner(&mut self) -> &mut dyn Producer {
        self.inner.as_deref_mut().expect("there until the drop")
    }

    fn told<T>(
        &mut self,
        call: Call,
        work: impl FnOnce(&mut dyn Producer) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        self.place.arrive(call, Side::Before)?;
        let result = work(self.inner())?;
        self.place.arrive(call, Side::After)?;
        Ok(result)
    }

    /// Notes what the open transaction has in it, now that its commit is asked for.
    fn note(&mut self, offsets: &[(TopicPartition, CommittedOffset)]) {
        let log = &self.place.world.log;
        let open = self.id.as_deref().and_then(|id| log.open_transaction(id));
        if let Some(number) = open {
            let sent = std::mem::take(&mut self.sent);
            self.place.world.state().ledger.note(number, sent, offsets);
        }
    }

    /// Ends the open transaction by `request`, of which no answer comes: what becomes of it is its fate.
    fn end_unanswered(
        &mut self,
        fate: Fate,
        commit: bool,
        request: impl FnOnce(&mut dyn Producer) -> Result<(), LogError>,
    ) -> LogError {
        let on_its_way = self.commit.clone().map(|request| match commit {
            true => request,
            false => request.turned_into_abort(),
        });
        if matches!(fate, Fate::Done | Fate::Twice)
            && let Err(error) = request(self.inner())
        {
            return error;
        }
        if matches!(fate, Fate::Late | Fate::Twice) {
            self.place.world.state().on_their_way.extend(on_its_way);
        }
        no_answer()
    }

    /// Comes to a call for the outcome of a commit.
    fn arrive_in_flight(&self, call: Call) -> Result<(), LogError> {
        let arrived = self.place.arrive(call, Side::Before);
        if arrived.is_err() && self.place.is_dead() {
            // Who dies here may have sent its request, and somebody else may own its partitions when that arrives.
            let sent = self.commit.clone();
            self.place.world.state().on_their_way.extend(sent);
        }
        arrived
    }

    fn ask_commit(&mut self, timeout: Duration) -> Result<Option<Committed>, LogError> {
        if let Some(Fault::SlowCommit(polls)) =
            self.place.take_armed(|f| matches!(f, Fault::SlowCommit(_)))
        {
            self.place.world.state().lives[self.place.player].slow_polls = polls;
        }
        let slow = {
            let mut state = self.place.world.state();
            let polls = &mut state.lives[self.place.player].slow_polls;
            let slow = *polls > 0;
            *polls = polls.saturating_sub(1);
            slow
        };
        if slow {
            self.arrive_in_flight(Call::AwaitCommit)?;
            if !timeout.is_zero() {
                self.place.pass(SLOW_POLL.min(timeout));
            }
            self.place.arrive(Call::AwaitCommit, Side::After)?;
            return Ok(None);
        }
        // What the log refuses a commit with is its answer, and comes when it is due.
        self.arrive_in_flight(Call::PollCommit)?;
        if let Some((offsets, group)) = self.unsent.take() {
            self.inner().begin_commit(offsets, group)?;
        }
        if let Some(Fault::CommitUncertain(fate)) = self
            .place
            .take_armed(|f| matches!(f, Fault::CommitUncertain(_)))
        {
            return Err(self.end_unanswered(fate, true, |inner| {
                inner.poll_commit(Duration::ZERO).map(|_| ())
            }));
        }
        let committed = self.inner().poll_commit(Duration::ZERO)?;
        self.place.arrive(Call::PollCommit, Side::After)?;
        Ok(committed)
    }

    /// For a bug: what was refused counts as done.
    fn taken_for_done(&mut self, error: LogError) -> Result<Option<Committed>, LogError> {
        if error.class != ErrorClass::Abortable || !self.place.has(Mutant::CommitTakenForDone) {
            return Err(error);
        }
        self.inner().abort_transaction(Duration::ZERO)?;
        Ok(Some(Committed::default()))
    }
}

impl Drop for SimulatedProducer {
    /// The dead send nothing more of what they hold.
    fn drop(&mut self) {
        if self.place.is_dead()
            && let Some(inner) = self.inner.take()
        {
            self.place.world.state().graveyard.producers.push(inner);
        }
    }
}

impl Producer for SimulatedProducer {
    fn init_transactions(&mut self, timeout: Duration) -> Result<(), LogError> {
        self.place.arrive(Call::Init, Side::Before)?;
        self.inner().init_transactions(timeout)?;
        // Of this very moment: soon the id may be somebody else's.
        let log = &self.place.world.log;
        self.commit = self.id.as_deref().and_then(|id| log.commit_request(id));
        self.place.arrive(Call::Init, Side::After)
    }

    fn begin_transaction(&mut self) -> Result<(), LogError> {
        self.sent.clear();
        self.told(Call::Begin, |inner| inner.begin_transaction())
    }

    fn send(&mut self, record: ProducerRecord<'_>) -> Result<(), LogError> {
        // A client sends batches on when it likes, so a transaction is on the log in parts.
        let send_on = self.place.one_in(3);
        let partition = TopicPartition::new(record.topic, record.partition);
        *self.sent.entry(partition).or_default() += 1;
        self.told(Call::Send, |inner| {
            inner.send(record)?;
            match send_on {
                true => inner.flush(Duration::ZERO),
                false => Ok(()),
            }
        })
    }

    fn flush(&mut self, timeout: Duration) -> Result<(), LogError> {
        self.unsent = None;
        self.told(Call::Flush, |inner| inner.flush(timeout))
    }

    fn begin_commit(
        &mut self,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
        group: Option<GroupMetadata>,
    ) -> Result<(), LogError> {
        self.place.delay_commit();
        let asked = offsets.clone();
        self.place.arrive(Call::BeginCommit, Side::Before)?;
        if self.id.is_none() && self.place.one_in(2) {
            self.unsent = Some((offsets, group));
        } else {
            self.inner().begin_commit(offsets, group)?;
        }
        self.note(&asked);
        self.place.arrive(Call::BeginCommit, Side::After)
    }

    fn poll_commit(&mut self, timeout: Duration) -> Result<Option<Committed>, LogError> {
        self.ask_commit(timeout)
            .or_else(|error| self.taken_for_done(error))
    }

    fn abort_transaction(&mut self, timeout: Duration) -> Result<(), LogError> {
        self.place.arrive(Call::Abort, Side::Before)?;
        if let Some(Fault::AbortUncertain(fate)) = self
            .place
            .take_armed(|f| matches!(f, Fault::AbortUncertain(_)))
        {
            return Err(self.end_unanswered(fate, false, |inner| inner.abort_transaction(timeout)));
        }
        self.inner().abort_transaction(timeout)?;
        self.place.arrive(Call::Abort, Side::After)
    }
}
