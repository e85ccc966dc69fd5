//! The producer: librdkafka's, with a helper thread for commits.

use std::collections::{BTreeSet, HashMap};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{Message, TopicPartitionList};

use crate::clock::Deadline;
use crate::log::{
    Committed, CommittedOffset, ErrorClass, GroupMetadata, LogError, Offset, Producer,
    ProducerConfig, ProducerRecord, TopicPartition,
};

use super::KafkaOptions;
use super::advice::{advised, explained};
use super::consumer::Group;
use super::error::{Call, class, class_of_fatal, classified, code};
use super::lists::{named, to_list};

const DEFAULT_TRANSACTION_TIMEOUT_MS: u64 = 30_000;
const DEFAULT_SEND_BYTES: usize = 256 << 20;
/// The client keeps a record on its way in memory with about so many bytes beside its own.
const RECORD_OVERHEAD: usize = 256;
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// One budget for flush, offsets and end of transaction; beyond it the outcome counts as uncertain.
const COMMIT_BUDGET: Duration = Duration::from_secs(30);
/// A commit or abort that takes longer may have had requests sent again: they are after socket.timeout.ms (10 s), and
/// librdkafka does not tell of each connection that it loses.
const SLOW_END: Duration = Duration::from_secs(5);

type Client = ThreadedProducer<Deliveries>;

/// What was acknowledged since the last commit, and what went wrong.
#[derive(Default)]
struct Acknowledged {
    /// Offset after the last record, by the number that records of a partition carry.
    next_offsets: Vec<Offset>,
    failed: Option<Failed>,
    /// A connection was lost, or the end of a transaction was slow, since the producer was initialised: requests may have
    /// been sent again, and the first ones may still be under way. Nothing ends this doubt but a new producer, since
    /// librdkafka tells of a loss like the last one only after half a minute.
    disturbed: bool,
}

/// Records that were not taken.
struct Failed {
    /// Why the first one was not.
    error: KafkaError,
    partitions: BTreeSet<String>,
}

/// Takes delivery reports, on librdkafka's polling thread.
#[derive(Clone, Default)]
struct Deliveries(Arc<Mutex<Acknowledged>>);

impl Deliveries {
    fn lock(&self) -> std::sync::MutexGuard<'_, Acknowledged> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "producing");
        self.lock().disturbed |= tells_of_a_loss(reason);
    }

    /// A connection that the other side closes is no error to librdkafka: it says so in its log only.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
        if facility == "FAIL" {
            self.lock().disturbed |= tells_of_a_loss(message);
        }
    }
}

/// Whether requests may have been lost. Over a connection that could not be made none was sent; what librdkafka says of one
/// ends with the state that it was in. Bootstrap connections carry none of a transaction, and brokers close them every ten
/// minutes since they are idle.
fn tells_of_a_loss(message: &str) -> bool {
    if message.contains("/bootstrap: ") {
        return false;
    }
    match message.rsplit_once(" in state ") {
        Some((_, state)) => state.starts_with("UP") || state.starts_with("REAUTH"),
        None => true,
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: usize) {
        let mut acknowledged = self.lock();
        match result {
            Ok(message) => {
                if let Some(next) = acknowledged.next_offsets.get_mut(slot) {
                    *next = message.offset() + 1;
                }
            }
            Err((error, message)) => {
                let at = format!("{}-{}", message.topic(), message.partition());
                let failed = acknowledged.failed.get_or_insert_with(|| Failed {
                    error: error.clone(),
                    partitions: BTreeSet::new(),
                });
                failed.partitions.insert(at);
            }
        }
    }
}

/// What the client may hold of records on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SendQueue {
    kbytes: usize,
    messages: usize,
}

impl SendQueue {
    /// Half of it for keys and values, half for the batches that are made of them and for what the client needs beside
    /// them. A record that does not fit into an empty queue would never be sent.
    fn within(bytes: usize, message_max_bytes: usize) -> Self {
        let kbytes = (bytes / 2).max(message_max_bytes).div_ceil(1024) + 1;
        Self {
            kbytes: kbytes.min(2_000_000),
            messages: (bytes / 2 / RECORD_OVERHEAD).clamp(1_000, 500_000),
        }
    }
}

/// A commit for the helper thread.
struct CommitJob {
    offsets: TopicPartitionList,
    group: Option<Group>,
    transactional: bool,
}

/// See the [module](self).
pub(super) struct KafkaProducer {
    client: Arc<Client>,
    deliveries: Deliveries,
    transactional: bool,
    /// The transactional id, for messages.
    id: String,
    transaction_timeout: Duration,
    /// From when on the broker gives up the open transaction.
    expires: Option<Deadline>,
    /// The number of each partition in [`Acknowledged::next_offsets`], by topic.
    slots: HashMap<String, Vec<Option<usize>>>,
    partitions: Vec<TopicPartition>,
    helper: Option<Helper>,
    in_flight: bool,
    /// Between `begin_transaction` and the outcome.
    open: bool,
}

struct Helper {
    jobs: Sender<CommitJob>,
    outcomes: Receiver<Result<(), LogError>>,
    thread: JoinHandle<()>,
}

impl KafkaProducer {
    pub(super) fn new(options: &KafkaOptions, config: ProducerConfig) -> Result<Self, LogError> {
        let transaction_timeout_ms = match config.transaction_timeout_ms {
            0 => DEFAULT_TRANSACTION_TIMEOUT_MS,
            timeout => timeout,
        };
        let mut settings = options.client_config();
        settings
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("allow.auto.create.topics", "false")
            .set(
                "message.timeout.ms",
                transaction_timeout_ms.min(20_000).to_string(),
            )
            .set("batch.num.messages", "100000")
            .set("batch.size", "1000000");
        let send_bytes = match config.send_bytes {
            0 => DEFAULT_SEND_BYTES,
            bytes => bytes,
        };
        let queue = SendQueue::within(send_bytes, options.message_max_bytes());
        for (name, value) in [
            ("queue.buffering.max.messages", &*queue.messages.to_string()),
            ("queue.buffering.max.kbytes", &*queue.kbytes.to_string()),
            ("linger.ms", "5"),
            ("compression.type", "lz4"),
        ] {
            if !options.properties.contains_key(name) {
                settings.set(name, value);
            }
        }
        if let Some(id) = &config.transactional_id {
            settings
                .set("transactional.id", id)
                .set("transaction.timeout.ms", transaction_timeout_ms.to_string());
        }
        let deliveries = Deliveries::default();
        // IMPORTANT: connections that are lost are logged at this level.
        settings.set_log_level(RDKafkaLogLevel::Info);
        let client: Client = settings
            .create_with_context(deliveries.clone())
            .map_err(|error| classified(Call::Ask, "creating a producer", &error))?;
        Ok(Self {
            client: Arc::new(client),
            deliveries,
            transactional: config.transactional_id.is_some(),
            id: config.transactional_id.unwrap_or_default(),
            transaction_timeout: Duration::from_millis(transaction_timeout_ms),
            expires: None,
            slots: HashMap::new(),
            partitions: Vec::new(),
            helper: None,
            in_flight: false,
            open: false,
        })
    }

    fn slot(&mut self, topic: &str, partition: i32) -> usize {
        let index = usize::try_from(partition).unwrap_or(0);
        if let Some(slot) = self.slots.get(topic).and_then(|slots| *slots.get(index)?) {
            return slot;
        }
        let slot = self.partitions.len();
        self.partitions.push(TopicPartition::new(topic, partition));
        self.deliveries.lock().next_offsets.push(0);
        let slots = self.slots.entry(topic.to_owned()).or_default();
        if slots.len() <= index {
            slots.resize(index + 1, None);
        }
        slots[index] = Some(slot);
        slot
    }

    fn helper(&mut self) -> &Helper {
        let (client, deliveries) = (Arc::clone(&self.client), self.deliveries.clone());
        let id = self.id.clone();
        self.helper.get_or_insert_with(|| {
            let (jobs, next_job) = channel::<CommitJob>();
            let (send_outcome, outcomes) = channel();
            let thread = std::thread::Builder::new().name("kafka-commit".to_owned());
            let run = move || {
                while let Ok(job) = next_job.recv() {
                    if send_outcome
                        .send(commit(&client, &deliveries, &id, &job))
                        .is_err()
                    {
                        return;
                    }
                }
            };
            let thread = thread
                .spawn(run)
                .expect("the operating system can start a thread");
            Helper {
                jobs,
                outcomes,
                thread,
            }
        })
    }

    /// Why a record for this partition cannot be sent.
    fn not_sent(&self, topic: &str, partition: i32, error: KafkaError) -> LogError {
        let as_whom = match &*self.id {
            "" => String::new(),
            id => format!(" in a transaction of '{id}'"),
        };
        // Why a producer was given up stands elsewhere.
        if let Some((code, reason)) = self.client.client().fatal_error() {
            let class = class_of_fatal(Call::Send, code);
            let reason = advised(Call::Send, Some(code), reason);
            let what = format!("sending a record to {topic}-{partition}{as_whom}");
            return self.judged(LogError::new(class, format!("{what}: {reason}")));
        }
        if let Some(why) = why_undone(&self.client, &error) {
            // Any of them may be to blame.
            let topics = named(self.slots.keys().map(String::as_str));
            let what = format_args!("sending records to {topics}{as_whom}");
            return classified(Call::Send, what, &why);
        }
        let what = format_args!("sending a record to {topic}-{partition}{as_whom}");
        classified(Call::Send, what, &error)
    }

    /// The same error, or what it means for this producer.
    ///
    /// librdkafka calls a producer fenced whose transaction the broker has timed out, as if there were a newer one. It is one
    /// only if the transaction is younger than its timeout: else a new producer with the same id may go on.
    fn judged(&self, error: LogError) -> LogError {
        if error.class != ErrorClass::Fenced {
            return error;
        }
        judge_fenced(
            &error.message,
            &self.id,
            self.expires.is_some_and(Deadline::passed),
            self.transaction_timeout,
        )
    }

    /// Waits for a commit that is still in flight; its outcome is of no interest any more.
    fn join_commit(&mut self, deadline: Deadline) -> Result<(), LogError> {
        if let Some(helper) = self.helper.as_ref().filter(|_| self.in_flight)
            && matches!(
                helper.outcomes.recv_timeout(deadline.remaining()),
                Err(RecvTimeoutError::Timeout)
            )
        {
            return Err(LogError::new(
                ErrorClass::Uncertain,
                format!("a commit of '{}' is still in flight", self.id),
            ));
        }
        self.in_flight = false;
        Ok(())
    }
}

/// A producer that is fenced: by a newer one, or because the broker gave its transaction up.
fn judge_fenced(message: &str, id: &str, expired: bool, timeout: Duration) -> LogError {
    if expired {
        let timeout_ms = timeout.as_millis();
        return LogError::new(
            ErrorClass::Uncertain,
            format!(
                "{message}; the transaction of `{id}` had been open for more than transaction.timeout.ms \
                 ({timeout_ms} ms), so the broker has aborted it"
            ),
        );
    }
    LogError::new(
        ErrorClass::Fenced,
        format!(
            "{message}; another producer took over transactional id `{id}`: stop one of the two instances, or give each a \
             name of its own"
        ),
    )
}

/// Everything a commit may wait for, in its order.
fn commit(
    client: &Client,
    deliveries: &Deliveries,
    id: &str,
    job: &CommitJob,
) -> Result<(), LogError> {
    let deadline = Deadline::after(COMMIT_BUDGET);
    flush(client, deliveries, deadline)?;
    if !job.transactional {
        return Ok(());
    }
    let slow = Deadline::after(SLOW_END);
    let ended = end_transaction(client, id, job, deadline);
    unless_in_doubt(ended, &mut deliveries.lock(), slow)
}

/// How a transaction ended; uncertain if its requests may have been sent twice.
///
/// Before KIP-890 a request that was sent twice counts for whichever transaction is open when it arrives. It does not for
/// those of a newer producer, which have another epoch.
fn unless_in_doubt(
    ended: Result<(), LogError>,
    acknowledged: &mut Acknowledged,
    slow: Deadline,
) -> Result<(), LogError> {
    acknowledged.disturbed |= slow.passed();
    let what = match ended {
        Ok(()) if acknowledged.disturbed => "a transaction was ended".to_owned(),
        Err(error) if acknowledged.disturbed && error.class == ErrorClass::Abortable => {
            error.message.into_owned()
        }
        ended => return ended,
    };
    Err(LogError::new(
        ErrorClass::Uncertain,
        format!(
            "{what}; slowly, or by a producer that has lost a connection, so requests that were sent again may still be \
             under way"
        ),
    ))
}

fn end_transaction(
    client: &Client,
    id: &str,
    job: &CommitJob,
    deadline: Deadline,
) -> Result<(), LogError> {
    if let Some(group) = &job.group
        && job.offsets.count() > 0
    {
        client
            .send_offsets_to_transaction(&job.offsets, &group.metadata, deadline.remaining())
            .map_err(|error| {
                let offsets = job.offsets.elements();
                let topics = named(offsets.iter().map(|at| at.topic()));
                let what = format_args!(
                    "adding offsets of {topics} for the group '{}' to a transaction of '{id}'",
                    group.name
                );
                classified(Call::SendOffsets, what, &error)
            })?;
    }
    loop {
        match client.commit_transaction(deadline.remaining()) {
            Ok(()) => return Ok(()),
            Err(error) => {
                let class = match class(Call::Commit, &error) {
                    ErrorClass::Retriable if !deadline.passed() => continue,
                    ErrorClass::Retriable => ErrorClass::Uncertain,
                    class => class,
                };
                return Err(LogError::new(
                    class,
                    format!(
                        "committing a transaction of '{id}': {}",
                        explained(Call::Commit, &error)
                    ),
                ));
            }
        }
    }
}

/// Why the open transaction failed, if all that `error` says is that it did: its records are purged then, and no more are
/// taken. The client tells when it is asked to begin another one, which it does not do.
fn why_undone(client: &Client, error: &KafkaError) -> Option<KafkaError> {
    use RDKafkaErrorCode as Code;
    let of_the_transaction = matches!(
        code(error)?,
        Code::State | Code::PurgeQueue | Code::PurgeInflight
    );
    match of_the_transaction.then(|| client.begin_transaction())? {
        Err(KafkaError::Transaction(why)) if why.txn_requires_abort() => {
            Some(KafkaError::Transaction(why))
        }
        _ => None,
    }
}

/// librdkafka's own flush: rdkafka's waits in steps of 100 ms, which would be the price of every commit.
fn flush(client: &Client, deliveries: &Deliveries, deadline: Deadline) -> Result<(), LogError> {
    let timeout = i32::try_from(deadline.remaining().as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer is valid for as long as `client` lives, and rd_kafka_flush may be called from any thread.
    let code = unsafe { native::rd_kafka_flush(client.client().native_ptr(), timeout) };
    if let Some((code, reason)) = client.client().fatal_error() {
        let reason = advised(Call::Deliver, Some(code), reason);
        return Err(LogError::new(
            class_of_fatal(Call::Deliver, code),
            format!("the producer has failed for good: {reason}"),
        ));
    }
    let failed = deliveries.lock().failed.take();
    if let Some(Failed { error, partitions }) = failed {
        let partitions = named(partitions.iter().map(String::as_str));
        let what = format_args!("a record for {partitions} was not taken");
        let error = why_undone(client, &error).unwrap_or(error);
        return Err(classified(Call::Deliver, what, &error));
    }
    let code = RDKafkaErrorCode::from(code);
    if code == RDKafkaErrorCode::NoError {
        return Ok(());
    }
    Err(LogError::new(
        ErrorClass::Abortable,
        format!(
            "records were not acknowledged within {} s: {code}",
            COMMIT_BUDGET.as_secs()
        ),
    ))
}

impl Producer for KafkaProducer {
    fn init_transactions(&mut self, timeout: Duration) -> Result<(), LogError> {
        let deadline = Deadline::after(timeout);
        // A client that is not connected yet looks for its coordinator half a second later.
        self.client.client().fetch_cluster_id(deadline.remaining());
        self.client
            .init_transactions(deadline.remaining())
            .map_err(|error| {
                let what = format_args!("initialising transactions of '{}'", self.id);
                self.judged(classified(Call::Init, what, &error))
            })?;
        // What was lost on the way here is of no transaction of this producer.
        self.deliveries.lock().disturbed = false;
        Ok(())
    }

    fn begin_transaction(&mut self) -> Result<(), LogError> {
        self.client.begin_transaction().map_err(|error| {
            let what = format_args!("beginning a transaction of '{}'", self.id);
            self.judged(classified(Call::Begin, what, &error))
        })?;
        self.open = true;
        self.expires = Some(Deadline::after(self.transaction_timeout));
        Ok(())
    }

    fn send(&mut self, record: ProducerRecord<'_>) -> Result<(), LogError> {
        let slot = self.slot(record.topic, record.partition);
        let mut kafka = BaseRecord::<[u8], [u8], usize>::with_opaque_to(record.topic, slot)
            .partition(record.partition)
            // librdkafka takes 0 for "now"; the next millisecond is the closest that it can express.
            .timestamp(record.timestamp.max(1));
        if let Some(key) = record.key {
            kafka = kafka.key(key);
        }
        if let Some(value) = record.value {
            kafka = kafka.payload(value);
        }
        if !record.headers.is_empty() {
            let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
            for header in record.headers {
                headers = headers.insert(KafkaHeader {
                    key: &header.name,
                    value: header.value.as_deref(),
                });
            }
            kafka = kafka.headers(headers);
        }
        let mut deadline = None;
        loop {
            match self.client.send(kafka) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    let full = deadline.get_or_insert_with(|| Deadline::after(SEND_TIMEOUT));
                    // What waits for longer than a transaction may take would be aborted anyway.
                    if full.passed() || self.expires.is_some_and(Deadline::passed) {
                        return Err(LogError::new(
                            ErrorClass::Abortable,
                            format!(
                                "the send buffer stayed full for {} s, or until the transaction was {} s old; is the \
                                 broker there?",
                                SEND_TIMEOUT.as_secs(),
                                self.transaction_timeout.as_secs()
                            ),
                        ));
                    }
                    self.client.poll(Duration::from_millis(5));
                    kafka = back;
                }
                Err((error, _)) => {
                    return Err(self.not_sent(record.topic, record.partition, error));
                }
            }
        }
    }

    fn flush(&mut self, timeout: Duration) -> Result<(), LogError> {
        let deadline = Deadline::after(timeout);
        self.join_commit(deadline)?;
        flush(&self.client, &self.deliveries, deadline).map_err(|error| self.judged(error))
    }

    fn begin_commit(
        &mut self,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
        group: Option<GroupMetadata>,
    ) -> Result<(), LogError> {
        if self.transactional && !self.open {
            return Err(LogError::fatal("begin_commit without begin_transaction"));
        }
        let group = match group.map(|group| group.0.downcast::<Group>()) {
            None => None,
            Some(Ok(group)) => Some(*group),
            Some(Err(_)) => {
                return Err(LogError::fatal("the group metadata belongs to another log"));
            }
        };
        let job = CommitJob {
            offsets: to_list(&offsets)?,
            group,
            transactional: self.transactional,
        };
        let gone = |_| LogError::fatal("the commit thread is gone");
        self.helper().jobs.send(job).map_err(gone)?;
        self.in_flight = true;
        Ok(())
    }

    fn poll_commit(&mut self, timeout: Duration) -> Result<Option<Committed>, LogError> {
        let Some(helper) = self.helper.as_ref().filter(|_| self.in_flight) else {
            return Err(LogError::fatal("poll_commit without begin_commit"));
        };
        let outcome = match helper.outcomes.recv_timeout(timeout) {
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(LogError::new(
                    ErrorClass::Uncertain,
                    "the commit thread is gone",
                ));
            }
            Ok(outcome) => outcome,
        };
        self.in_flight = false;
        outcome.map_err(|error| self.judged(error))?;
        self.open = false;
        self.expires = None;
        let mut acknowledged = self.deliveries.lock();
        let next_offsets = self
            .partitions
            .iter()
            .zip(&mut acknowledged.next_offsets)
            .filter(|(_, next)| **next > 0)
            .map(|(partition, next)| (partition.clone(), std::mem::take(next)))
            .collect();
        Ok(Some(Committed { next_offsets }))
    }

    fn abort_transaction(&mut self, timeout: Duration) -> Result<(), LogError> {
        let deadline = Deadline::after(timeout);
        self.join_commit(deadline)?;
        self.open = false;
        let slow = Deadline::after(SLOW_END);
        let ended = self.client.abort_transaction(deadline.remaining());
        let ended = ended.map_err(|error| {
            let what = format_args!("aborting a transaction of '{}'", self.id);
            self.judged(classified(Call::Abort, what, &error))
        });
        if ended.is_ok() {
            self.expires = None;
        }
        let mut acknowledged = self.deliveries.lock();
        acknowledged.next_offsets.fill(0);
        // The abort purges what was queued; those failures are its own.
        acknowledged.failed = None;
        unless_in_doubt(ended, &mut acknowledged, slow)
    }
}

impl Drop for KafkaProducer {
    /// A commit that is still in flight ends by itself: somebody may be waiting for a new producer.
    fn drop(&mut self) {
        if let Some(Helper {
            jobs,
            thread,
            outcomes,
        }) = self.helper.take()
        {
            drop((jobs, outcomes));
            if !self.in_flight {
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_keeps_to_its_share_but_for_the_largest_record() {
        let queue = SendQueue::within(48 << 20, 1_000_000);
        assert_eq!((queue.kbytes, queue.messages), ((24 << 10) + 1, 98_304));
        let queue = SendQueue::within(1 << 20, 8_000_000);
        assert!(queue.kbytes * 1024 > 8_000_000);
    }

    /// The class of how a transaction ended, by what is known of its connections and its time.
    fn ended(with: Option<ErrorClass>, disturbed: bool, slow: bool) -> Option<ErrorClass> {
        let mut acknowledged = Acknowledged {
            disturbed,
            ..Acknowledged::default()
        };
        let slow = match slow {
            true => Deadline::after(Duration::ZERO),
            false => Deadline::after(SLOW_END),
        };
        let with = with.map_or(Ok(()), |class| Err(LogError::new(class, "no")));
        let ended = unless_in_doubt(with, &mut acknowledged, slow);
        // The same producer is asked to abort next.
        let and_then = unless_in_doubt(Ok(()), &mut acknowledged, Deadline::after(SLOW_END));
        assert_eq!(and_then.is_err(), acknowledged.disturbed);
        ended.err().map(|error| error.class)
    }

    #[test]
    fn an_end_that_was_slow_or_disturbed_is_uncertain_whether_it_worked_or_is_to_be_taken_back() {
        use ErrorClass::{Abortable, Fatal, Fenced, Uncertain};
        for with in [
            None,
            Some(Abortable),
            Some(Uncertain),
            Some(Fenced),
            Some(Fatal),
        ] {
            assert_eq!(ended(with, false, false), with);
            let expected = match with {
                None | Some(Abortable) => Some(Uncertain),
                with => with,
            };
            for (disturbed, slow) in [(true, false), (false, true), (true, true)] {
                let class = ended(with, disturbed, slow);
                assert_eq!(class, expected, "{with:?}, {disturbed}, {slow}");
            }
        }
    }

    #[test]
    fn a_connection_that_was_lost_is_told_from_one_that_could_not_be_made() {
        for lost in [
            "[thrd:127.0.0.1:9092/1]: 127.0.0.1:9092/1: Disconnected (after 512ms in state UP)",
            "127.0.0.1:9092/1: Disconnected (after 9ms in state UP, 1 identical error(s) suppressed)",
            "127.0.0.1:9092/1: 1 request(s) timed out: disconnect (after 60046ms in state UP)",
            "1/1 brokers are down",
        ] {
            assert!(tells_of_a_loss(lost), "{lost}");
        }
        for never_made in [
            "localhost:9092/1: Connect to ipv6#[::1]:9092 failed: Connection refused (after 0ms in state CONNECT)",
            "[thrd:localhost:9092/bootstrap]: localhost:9092/bootstrap: Disconnected (after 600026ms in state UP)",
            "localhost:9092/1: Connection setup timed out in state APIVERSION_QUERY (after 9ms in state APIVERSION_QUERY)",
        ] {
            assert!(!tells_of_a_loss(never_made), "{never_made}");
        }
    }
}
