//! Records that fail: what the handlers decide, and how a record is passed over.
//!
//! A record that cannot be decoded has done nothing yet, so its queue passes over it on the spot. One that fails in the
//! middle of processing, or whose result is too large, may have changed stores and sent results by then. So its
//! transaction is aborted, and the thread writes the record down here and reads its input again. Met for the second time
//! it is passed over before anything is done with it. Either way the dead letter goes into the transaction that commits
//! the offset behind the record.
//!
//! A faulty log or store says nothing about a record, so such faults never get here. What is written down is kept in
//! memory only: after a crash the record fails once more, and nothing of the first time was committed.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::config::StreamsConfig;
use crate::error::{Fault, FaultKind, Result};
use crate::log::{CommittedOffset, ConsumerRecord, ErrorClass, Header, Offset, TopicPartition};
use crate::record::RecordMetadata;
use crate::runtime::Collector;

/// What to do with a record that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBadRecord {
    /// Stop with an error that names topic, partition and offset.
    #[default]
    Fail,
    /// Log it with topic, partition and offset, count it, go on.
    Skip,
    /// The same, and send it to the [`dead_letter_topic`](StreamsConfig::dead_letter_topic): in the transaction that
    /// commits the offset behind it, so exactly once.
    ///
    /// A dead letter has the key, the value, the headers and the timestamp that the record was read with (but 0 for a
    /// negative one), and these headers behind its own, as text and named as Kafka Streams names them:
    ///
    /// | header | holds |
    /// |---|---|
    /// | `__streams.errors.exception` | the kind of the error: `Serde`, `User` or `Log` |
    /// | `__streams.errors.message` | what it says |
    /// | `__streams.errors.topic`, `…partition`, `…offset` | where the record was read |
    ///
    /// There is no `__streams.errors.stacktrace`. A record of a repartition topic comes without the engine's own header
    /// `__time`. Dead letters of one partition go to one partition, `partition % partitions`, so they stay in order.
    DeadLetter,
}

/// What becomes of a record that an operator finds too late, where nobody reads that operator's late branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLateRecord {
    /// It is counted in `dropped-records`, as `late`.
    #[default]
    Drop,
    /// The record that was read is sent to the [`dead_letter_topic`](StreamsConfig::dead_letter_topic) as well, once
    /// however many operators and windows it is too late for, in the transaction that commits the offset behind it. It is
    /// as [`OnBadRecord::DeadLetter`] says; `__streams.errors.exception` is `Late`, and the message names the operator and
    /// the window. Behind a repartition topic that is the record of the repartition topic. Records that
    /// [`map_values_async`](crate::dsl::KStream::map_values_async) let go of are only counted.
    DeadLetter,
}

/// How often a record is tried again before its handler decides: for failures that pass, such as those of a service that
/// a function of the user asks.
///
/// ```
/// # use std::time::Duration;
/// # use processor_core::{OnBadRecord, Retries, StreamsConfig};
/// let mut config = StreamsConfig::new("enrich");
/// // Three more attempts, after 100, 200 and 400 ms; then the record goes to the dead letter topic.
/// config.processing_retries = Retries { times: 3, pause: Duration::from_millis(100) };
/// config.on_processing_error = OnBadRecord::DeadLetter;
/// config.dead_letter_topic = Some("dead-letters".to_owned());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retries {
    /// Further attempts after the first; 0 by default.
    pub times: u32,
    /// Pause before the first of them; each later one doubles it. The stream thread waits, so all pauses together must
    /// stay below the group's `max.poll.interval.ms` (5 min).
    pub pause: Duration,
}

impl Retries {
    /// The pause before the next attempt of a record that was tried again `tried` times; `None` when those are used up.
    fn after(self, tried: u32) -> Option<Duration> {
        let pause = self.pause.saturating_mul(1 << tried.min(20));
        (tried < self.times).then_some(pause)
    }
}

/// Where dead letters go.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetterTopic {
    pub name: Arc<str>,
    pub partitions: i32,
}

/// What is done with a record that fails.
#[derive(Debug, Clone)]
enum Handling {
    Fail,
    Skip,
    DeadLetter(DeadLetterTopic),
}

/// The handlers of an application.
#[derive(Debug, Clone)]
pub(crate) struct Handlers {
    decoding: Handling,
    processing: Handling,
    sending: Handling,
    retries: Retries,
    /// Where late records go, if they are kept.
    late: Option<DeadLetterTopic>,
}

impl Handlers {
    /// The handlers that `config` asks for. A handler that wants a topic for dead letters gets one: `prepare` has seen to
    /// that before the start.
    pub(crate) fn new(config: &StreamsConfig, topic: Option<&DeadLetterTopic>) -> Self {
        let handling = |on| match (on, topic) {
            (OnBadRecord::Skip, _) => Handling::Skip,
            (OnBadRecord::DeadLetter, Some(topic)) => Handling::DeadLetter(topic.clone()),
            (OnBadRecord::Fail, _) | (OnBadRecord::DeadLetter, None) => Handling::Fail,
        };
        Self {
            decoding: handling(config.on_bad_record),
            processing: handling(config.on_processing_error),
            sending: handling(config.on_production_error),
            retries: config.processing_retries,
            late: topic
                .filter(|_| config.on_late_record == OnLateRecord::DeadLetter)
                .cloned(),
        }
    }

    /// The letter that `record` becomes if it turns out to be late.
    pub(crate) fn late_letter(&self, record: &ConsumerRecord) -> Option<LateLetter> {
        Some(LateLetter {
            topic: self.late.clone()?,
            record: record.clone(),
            sent: Cell::new(false),
        })
    }

    /// What becomes of a record that could not be decoded because of `fault`; `None` when that stops the thread.
    pub(crate) fn of_undecodable(&self, fault: &Fault) -> Option<Verdict> {
        Verdict::of(&self.decoding, "bad record", fault)
    }

    /// What becomes of a record whose timestamp is too far ahead; `None` when that stops the thread.
    pub(crate) fn of_stray(&self, fault: &Fault) -> Option<Verdict> {
        Verdict::of(&self.decoding, "future timestamp", fault)
    }

    /// What becomes of the record in whose processing `fault` arose; `None` when that stops the thread, or when it says
    /// nothing about a record.
    pub(crate) fn of_failed(&self, fault: &Fault) -> Option<(RecordMetadata, Verdict)> {
        let (record, source) = failed_record(fault)?;
        let verdict = match source.kind() {
            FaultKind::Log(_) => Verdict::of(&self.sending, "rejected result", source),
            _ => Verdict::of(&self.processing, "processing error", source),
        };
        Some((record.clone(), verdict?))
    }

    /// Whether a rejected result may be passed over.
    pub(crate) fn tolerate_rejection(&self) -> bool {
        !matches!(self.sending, Handling::Fail)
    }
}

/// The record in whose processing `fault` arose, and what failed; `None` when the fault says nothing about a record.
fn failed_record(fault: &Fault) -> Option<(&RecordMetadata, &Fault)> {
    let FaultKind::At { record, source } = fault.kind() else {
        return None;
    };
    match source.kind() {
        FaultKind::User { .. } | FaultKind::Serde { .. } => Some((record, source)),
        FaultKind::Log(error) if error.class == ErrorClass::Rejected => Some((record, source)),
        _ => None,
    }
}

/// That a record is passed over, and why.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    dead_letters: Option<DeadLetterTopic>,
    /// Label of the counters.
    reason: &'static str,
    exception: &'static str,
    message: String,
}

impl Verdict {
    fn of(handling: &Handling, reason: &'static str, fault: &Fault) -> Option<Self> {
        let dead_letters = match handling {
            Handling::Fail => return None,
            Handling::Skip => None,
            Handling::DeadLetter(topic) => Some(topic.clone()),
        };
        Some(Self {
            dead_letters,
            reason,
            exception: exception(fault),
            message: fault.to_string(),
        })
    }

    /// Passes over `record`, which was read at `at`: sends it to the dead letter topic if that is the verdict, counts
    /// it and logs it.
    ///
    /// # Errors
    /// When the dead letter cannot be sent.
    pub(crate) fn carry_out(
        &self,
        at: &RecordMetadata,
        record: &ConsumerRecord,
        out: &mut Collector,
    ) -> Result {
        let (reason, cause) = (self.reason, &self.message);
        let Some(topic) = &self.dead_letters else {
            metrics::counter!("dropped-records", "reason" => reason).increment(1);
            tracing::warn!(record = %at, reason, %cause, "a record is skipped");
            return Ok(());
        };
        let mut headers = record.headers.clone();
        headers.extend(self.headers(at));
        out.send(
            &topic.name,
            at.partition % topic.partitions,
            record.timestamp.max(0),
            record.key.as_deref(),
            record.value.as_deref(),
            &headers,
        )
        .map_err(|fault| fault.at(at.clone()))?;
        metrics::counter!("dead-letters", "reason" => reason).increment(1);
        tracing::warn!(record = %at, reason, %cause, topic = %topic.name, "a record goes to the dead letter topic");
        Ok(())
    }

    fn headers(&self, at: &RecordMetadata) -> [Header; 5] {
        let header = |name: &str, value: String| Header {
            name: format!("__streams.errors.{name}").into(),
            value: Some(Bytes::from(value)),
        };
        [
            header("exception", self.exception.to_owned()),
            header("message", self.message.clone()),
            header("topic", at.topic.to_string()),
            header("partition", at.partition.to_string()),
            header("offset", at.offset.to_string()),
        ]
    }
}

/// The kind of `fault`, as its header tells it.
fn exception(fault: &Fault) -> &'static str {
    match fault.kind() {
        FaultKind::Log(_) => "Log",
        FaultKind::State(_) => "State",
        FaultKind::Serde { .. } => "Serde",
        FaultKind::User { .. } => "User",
        FaultKind::At { source, .. } | FaultKind::Undecodable { source, .. } => exception(source),
    }
}

/// A record as it was read, in case it comes too late for somebody.
#[derive(Debug, Clone)]
pub(crate) struct LateLetter {
    topic: DeadLetterTopic,
    record: ConsumerRecord,
    sent: Cell<bool>,
}

impl LateLetter {
    /// Sends the record, which was read at `at`, unless that was done before. True: it is kept.
    pub(crate) fn send_once(
        &self,
        at: &RecordMetadata,
        why: impl FnOnce() -> String,
        out: &mut Collector,
    ) -> Result<bool> {
        if !self.sent.replace(true) {
            let verdict = Verdict {
                dead_letters: Some(self.topic.clone()),
                reason: "late",
                exception: "Late",
                message: why(),
            };
            verdict.carry_out(at, &self.record, out)?;
        }
        Ok(true)
    }
}

/// The records of a thread that failed in the middle of processing, to be tried again or passed over when they are read
/// again.
#[derive(Debug, Default)]
pub(crate) struct FailedRecords(BTreeMap<TopicPartition, BTreeMap<Offset, Failed>>);

#[derive(Debug, Default)]
struct Failed {
    /// How often it was tried again.
    tried: u32,
    /// Why it is passed over, once it is.
    verdict: Option<Verdict>,
}

impl FailedRecords {
    /// Whether the record at which `fault` arose is to be tried again, and after what pause; counts the attempt.
    pub(crate) fn try_again(&mut self, fault: &Fault, handlers: &Handlers) -> Option<Duration> {
        let (record, _) = failed_record(fault)?;
        let known = self.of_record(record);
        let pause = handlers.retries.after(known.tried)?;
        known.tried += 1;
        Some(pause)
    }

    /// Writes down that a record is to be passed over; false when it is there for the same reason, so that passing over
    /// it did not help. A dead letter that is too large gives it another one.
    pub(crate) fn add(&mut self, record: &RecordMetadata, verdict: Verdict) -> bool {
        let known = self.of_record(record);
        let reason = verdict.reason;
        let before = known.verdict.replace(verdict);
        before.is_none_or(|before| before.reason != reason)
    }

    fn of_record(&mut self, record: &RecordMetadata) -> &mut Failed {
        let partition = TopicPartition::new(Arc::clone(&record.topic), record.partition);
        let known = self.0.entry(partition).or_default();
        known.entry(record.offset).or_default()
    }

    /// Those of one partition that are to be passed over.
    pub(crate) fn of(&self, partition: &TopicPartition) -> BTreeMap<Offset, Verdict> {
        let known = self.0.get(partition).into_iter().flatten();
        known
            .filter_map(|(offset, failed)| Some((*offset, failed.verdict.clone()?)))
            .collect()
    }

    /// Forgets those that a commit has left behind.
    pub(crate) fn forget_committed(&mut self, offsets: &[(TopicPartition, CommittedOffset)]) {
        for (partition, committed) in offsets {
            if let Some(failed) = self.0.get_mut(partition) {
                *failed = failed.split_off(&committed.offset);
            }
        }
    }

    /// Forgets those of a partition that is given up; whoever reads it next finds out for itself.
    pub(crate) fn forget(&mut self, partition: &TopicPartition) {
        self.0.remove(partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogError;
    use crate::serde::SerdeError;

    fn at(offset: Offset) -> RecordMetadata {
        RecordMetadata {
            topic: Arc::from("in"),
            partition: 0,
            offset,
        }
    }

    fn handlers() -> Handlers {
        let config = StreamsConfig {
            on_processing_error: OnBadRecord::Skip,
            on_production_error: OnBadRecord::Skip,
            ..StreamsConfig::new("app")
        };
        Handlers::new(&config, None)
    }

    #[test]
    fn faults_of_a_record_get_a_verdict_and_those_of_a_log_or_a_store_do_not() {
        let reason = |fault: Fault| {
            let (_, verdict) = handlers().of_failed(&fault.at(at(7)))?;
            Some(verdict.reason)
        };
        let log = |class| Fault::from(LogError::new(class, "refused"));
        assert_eq!(reason(Fault::user("op", "no")), Some("processing error"));
        let serde = Fault::serde("a value", SerdeError::new("no"));
        assert_eq!(reason(serde), Some("processing error"));
        assert_eq!(reason(log(ErrorClass::Rejected)), Some("rejected result"));
        for class in [
            ErrorClass::Retriable,
            ErrorClass::Abortable,
            ErrorClass::Uncertain,
            ErrorClass::Fenced,
            ErrorClass::Fatal,
        ] {
            assert_eq!(reason(log(class)), None, "{class:?}");
        }
        let store = state::StateError::Corrupt {
            store: "counts".to_owned(),
            detail: "odd".to_owned(),
        };
        assert_eq!(reason(store.into()), None);
    }

    #[test]
    fn a_fault_without_its_record_or_of_decoding_is_none_of_processing() {
        assert!(handlers().of_failed(&Fault::user("op", "no")).is_none());
        let undecodable = Fault::user("extractor", "no").undecodable(at(7));
        assert!(handlers().of_failed(&undecodable).is_none());
    }

    #[test]
    fn a_record_is_tried_again_as_often_as_asked_with_pauses_that_double() {
        let config = StreamsConfig {
            processing_retries: Retries {
                times: 2,
                pause: Duration::from_millis(10),
            },
            ..StreamsConfig::new("app")
        };
        let handlers = Handlers::new(&config, None);
        let mut failed = FailedRecords::default();
        let fault = || Fault::user("op", "no");
        let mut pauses =
            |fault: &Fault| [(); 3].map(|()| Some(failed.try_again(fault, &handlers)?.as_millis()));
        assert_eq!(pauses(&fault().at(at(7))), [Some(10), Some(20), None]);
        assert_eq!(pauses(&fault().at(at(8))), [Some(10), Some(20), None]);
        assert_eq!(pauses(&fault()), [None, None, None], "of no record");
        assert!(failed.of(&TopicPartition::new("in", 0)).is_empty());
    }

    #[test]
    fn a_failed_record_is_known_until_a_commit_is_behind_it() {
        let fault = Fault::user("op", "no");
        let verdict = || Verdict::of(&Handling::Skip, "processing error", &fault).unwrap();
        let mut failed = FailedRecords::default();
        assert!(failed.add(&at(3), verdict()));
        assert!(failed.add(&at(5), verdict()));
        assert!(!failed.add(&at(5), verdict()), "it failed twice");
        let partition = TopicPartition::new("in", 0);
        let committed = |offset| CommittedOffset {
            offset,
            metadata: String::new(),
        };
        failed.forget_committed(&[(partition.clone(), committed(5))]);
        let known: Vec<Offset> = failed.of(&partition).into_keys().collect();
        assert_eq!(known, [5]);
        failed.forget(&partition);
        assert!(failed.of(&partition).is_empty());
    }
}
