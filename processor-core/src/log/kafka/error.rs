//! Who has to act on an error of librdkafka: one table for all calls.
//!
//! What comes first counts: an identity that somebody else has taken over is fenced, but a static member hears so from its
//! group, since the next poll may repair it, and in a commit it is no member; what only an administrator can change is
//! fatal; a producer that librdkafka has given up is of no further use, and a new one settles what it left; then librdkafka's
//! own word, abortable before retriable; then the code, in the light of the call. What is none of these is fatal. A poll that
//! meets a batch which cannot be read is fatal too: no record is left out in silence.
//!
//! | call | passing fault | producer given up | state, purged, not a member | record refused |
//! |---|---|---|---|---|
//! | questions, seeks, creating clients, creating and deleting topics | retriable | | abortable | |
//! | poll | retriable: librdkafka repairs it | fatal | retriable | |
//! | init | retriable | fatal | abortable | |
//! | begin, send | retriable | uncertain | abortable | rejected |
//! | delivery, flush | abortable | uncertain | abortable | rejected |
//! | offsets to the transaction | abortable: retried inside, and nothing is committed yet | uncertain | abortable | |
//! | commit | retriable; uncertain once the budget is used up | uncertain | abortable | |
//! | abort | uncertain | uncertain | uncertain | |
//! | commit of offsets without a transaction | abortable | abortable | abortable | |

use std::fmt;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::log::{ErrorClass, LogError};

use super::advice::explained;

/// What was asked of librdkafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Metadata, offsets, assignments, seeks: nothing changes in the log.
    Ask,
    /// A question after the settings of topics.
    Settings,
    /// The creation of topics.
    Create,
    /// The deletion of topics.
    Delete,
    /// Reading.
    Poll,
    /// Taking over a transactional id.
    Init,
    /// The begin of a transaction.
    Begin,
    /// Handing over a record.
    Send,
    /// What became of a record.
    Deliver,
    /// Input offsets into the transaction.
    SendOffsets,
    /// The end of a transaction.
    Commit,
    /// Giving a transaction up.
    Abort,
    /// Input offsets without a transaction.
    CommitOffsets,
}

/// What librdkafka says of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Said {
    code: Option<RDKafkaErrorCode>,
    fatal: bool,
    requires_abort: bool,
    retriable: bool,
}

impl Said {
    fn of(error: &KafkaError) -> Self {
        match error {
            KafkaError::Transaction(error) => Self {
                code: Some(error.code()),
                fatal: error.is_fatal(),
                requires_abort: error.txn_requires_abort(),
                retriable: error.is_retriable(),
            },
            KafkaError::MessageConsumptionFatal(code) => Self {
                code: Some(*code),
                fatal: true,
                ..Self::default()
            },
            // The client keeps the text only. It is the answer of a thread of its own, so time is all that it can lack.
            KafkaError::Seek(_) => Self {
                retriable: true,
                ..Self::default()
            },
            error => Self {
                code: code(error),
                ..Self::default()
            },
        }
    }
}

/// Its code, also where rdkafka does not tell it.
pub(super) fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

/// The error with its class; `what` says what was tried.
pub(super) fn classified(call: Call, what: impl fmt::Display, error: &KafkaError) -> LogError {
    LogError::new(
        class(call, error),
        format!("{what}: {}", explained(call, error)),
    )
}

/// The class of an error of `call`.
pub(super) fn class(call: Call, error: &KafkaError) -> ErrorClass {
    decide(call, Said::of(error))
}

/// The class of an error that librdkafka keeps as the end of a client.
pub(super) fn class_of_fatal(call: Call, code: RDKafkaErrorCode) -> ErrorClass {
    let said = Said {
        code: Some(code),
        fatal: true,
        ..Said::default()
    };
    decide(call, said)
}

fn decide(call: Call, said: Said) -> ErrorClass {
    let is = |of: fn(RDKafkaErrorCode) -> bool| said.code.is_some_and(of);
    if matches!(call, Call::SendOffsets | Call::CommitOffsets)
        && said.code == Some(RDKafkaErrorCode::FencedInstanceId)
    {
        return ErrorClass::Abortable;
    }
    if is(is_fenced) {
        return ErrorClass::Fenced;
    }
    if is(needs_an_administrator) {
        return ErrorClass::Fatal;
    }
    let given_up = said.fatal || said.code == Some(RDKafkaErrorCode::Fatal);
    let passing = said.retriable || is(is_passing);
    let undone = said.requires_abort || is(is_undone);
    let refused = is(is_refused);
    match call {
        Call::Ask if is(is_unknown) => ErrorClass::Retriable,
        Call::Ask | Call::Settings | Call::Create | Call::Delete => match (passing, undone) {
            (true, _) => ErrorClass::Retriable,
            (false, true) => ErrorClass::Abortable,
            (false, false) => ErrorClass::Fatal,
        },
        // IMPORTANT: librdkafka goes on behind a batch that it cannot read, or asks for it again for ever.
        Call::Poll if given_up || is(is_unreadable) => ErrorClass::Fatal,
        Call::Poll => ErrorClass::Retriable,
        Call::Init if given_up => ErrorClass::Fatal,
        Call::Init if undone && !passing => ErrorClass::Abortable,
        Call::Init if passing => ErrorClass::Retriable,
        Call::Init => ErrorClass::Fatal,
        Call::Deliver if refused => ErrorClass::Rejected,
        Call::CommitOffsets => ErrorClass::Abortable,
        _ if given_up => ErrorClass::Uncertain,
        Call::Abort => ErrorClass::Uncertain,
        Call::Deliver | Call::SendOffsets => ErrorClass::Abortable,
        Call::Begin | Call::Send | Call::Commit if said.requires_abort => ErrorClass::Abortable,
        Call::Begin | Call::Send | Call::Commit if passing => ErrorClass::Retriable,
        Call::Begin | Call::Send | Call::Commit if undone => ErrorClass::Abortable,
        Call::Send if refused => ErrorClass::Rejected,
        // An end of which nothing is known.
        Call::Commit => ErrorClass::Uncertain,
        Call::Begin | Call::Send => ErrorClass::Fatal,
    }
}

/// Somebody else has taken the identity over.
fn is_fenced(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId
    )
}

/// Trying again changes nothing.
fn needs_an_administrator(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::InvalidTransactionTimeout
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::PolicyViolation
    )
}

/// It passes by itself.
fn is_passing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::MessageTimedOut
            | Code::TimedOutQueue
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::NotCoordinator
            | Code::ConcurrentTransactions
            | Code::UnstableOffsetCommit
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::ReplicaNotAvailable
            | Code::NotLeaderForPartition
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::KafkaStorageError
            | Code::NetworkException
            | Code::ThrottlingQuotaExceeded
            | Code::QueueFull
            | Code::Resolve
            | Code::WaitingForCoordinator
            | Code::RebalanceInProgress
    )
}

/// What was under way is lost, and can be done again from what is committed.
fn is_undone(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::IllegalGeneration
            | Code::UnknownMemberId
            | Code::State
            | Code::PurgeQueue
            | Code::PurgeInflight
            | Code::AssignmentLost
    )
}

/// This one record is never taken.
fn is_refused(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidRecord
            | Code::InvalidTimestamp
    )
}

/// The broker that was asked does not know the topic, or the partition has no leader. A topic is known to one broker before
/// another one, and an election passes; that a topic was deleted is found by its absence from the list of all.
fn is_unknown(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::UnknownTopicOrPartition | Code::UnknownPartition)
}

/// A batch is there that the client cannot read: its checksum is wrong, the form or the compression is unknown to it, or the
/// broker itself does not find its way through it.
pub(super) fn is_unreadable(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BadMessage | Code::BadCompression | Code::NotImplemented | Code::InvalidMessage
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use RDKafkaErrorCode as Code;

    fn bare(code: Code) -> Said {
        Said {
            code: Some(code),
            ..Said::default()
        }
    }

    /// Columns of the table above: a passing fault, a producer given up, something undone, a record refused.
    const COLUMNS: [(Code, bool); 4] = [
        (Code::OperationTimedOut, false),
        (Code::OutOfOrderSequenceNumber, true),
        (Code::UnknownMemberId, false),
        (Code::MessageSizeTooLarge, false),
    ];

    #[test]
    fn every_call_has_its_row() {
        use ErrorClass::{Abortable, Fatal, Rejected, Retriable, Uncertain};
        let rows = [
            (Call::Ask, [Retriable, Fatal, Abortable, Fatal]),
            (Call::Settings, [Retriable, Fatal, Abortable, Fatal]),
            (Call::Create, [Retriable, Fatal, Abortable, Fatal]),
            (Call::Delete, [Retriable, Fatal, Abortable, Fatal]),
            (Call::Poll, [Retriable, Fatal, Retriable, Retriable]),
            (Call::Init, [Retriable, Fatal, Abortable, Fatal]),
            (Call::Begin, [Retriable, Uncertain, Abortable, Fatal]),
            (Call::Send, [Retriable, Uncertain, Abortable, Rejected]),
            (Call::Deliver, [Abortable, Uncertain, Abortable, Rejected]),
            (
                Call::SendOffsets,
                [Abortable, Uncertain, Abortable, Abortable],
            ),
            (Call::Commit, [Retriable, Uncertain, Abortable, Uncertain]),
            (Call::Abort, [Uncertain; 4]),
            (Call::CommitOffsets, [Abortable; 4]),
        ];
        for (call, expected) in rows {
            for ((code, fatal), expected) in COLUMNS.into_iter().zip(expected) {
                let said = Said {
                    fatal,
                    ..bare(code)
                };
                assert_eq!(decide(call, said), expected, "{call:?}, {code:?}");
            }
            // Whatever was asked.
            for code in [
                Code::Fenced,
                Code::ProducerFenced,
                Code::InvalidProducerEpoch,
            ] {
                assert_eq!(
                    decide(call, bare(code)),
                    ErrorClass::Fenced,
                    "{call:?}, {code:?}"
                );
                let fatal = class_of_fatal(call, code);
                assert_eq!(fatal, ErrorClass::Fenced, "{call:?}, {code:?}");
            }
            for code in [Code::TopicAuthorizationFailed, Code::UnsupportedVersion] {
                assert_eq!(decide(call, bare(code)), Fatal, "{call:?}, {code:?}");
            }
        }
    }

    #[test]
    fn librdkafkas_own_word_counts_before_the_code() {
        let code = bare(Code::Unknown);
        let abort = Said {
            requires_abort: true,
            retriable: true,
            ..code
        };
        let retriable = Said {
            retriable: true,
            ..code
        };
        for call in [Call::Begin, Call::Send, Call::Commit] {
            assert_eq!(decide(call, abort), ErrorClass::Abortable, "{call:?}");
            assert_eq!(decide(call, retriable), ErrorClass::Retriable, "{call:?}");
        }
        assert_eq!(decide(Call::Commit, code), ErrorClass::Uncertain);
        assert_eq!(decide(Call::Send, code), ErrorClass::Fatal);
    }

    #[test]
    fn a_transaction_in_a_state_that_the_broker_does_not_know_takes_a_new_producer() {
        // The end of a transaction that the broker has timed out, or lost: fatal to this producer, not to the application.
        let code = Code::InvalidTransactionalState;
        assert_eq!(class_of_fatal(Call::Commit, code), ErrorClass::Uncertain);
        assert_eq!(class_of_fatal(Call::Abort, code), ErrorClass::Uncertain);
        assert_eq!(decide(Call::Deliver, bare(code)), ErrorClass::Abortable);
    }

    #[test]
    fn a_static_member_is_fenced_by_its_group_and_by_no_commit() {
        let code = Code::FencedInstanceId;
        assert_eq!(class_of_fatal(Call::Poll, code), ErrorClass::Fenced);
        for call in [Call::SendOffsets, Call::CommitOffsets] {
            assert_eq!(decide(call, bare(code)), ErrorClass::Abortable, "{call:?}");
        }
    }

    #[test]
    fn errors_of_the_consumer_are_told_apart() {
        let fenced = KafkaError::MessageConsumptionFatal(Code::FencedInstanceId);
        assert_eq!(class(Call::Poll, &fenced), ErrorClass::Fenced);
        let seek = KafkaError::Seek("Local: Timed out".to_owned());
        assert_eq!(class(Call::Ask, &seek), ErrorClass::Retriable);
    }

    #[test]
    fn a_topic_that_is_not_known_yet_is_asked_after_again() {
        for code in [Code::UnknownTopicOrPartition, Code::UnknownPartition] {
            let error = KafkaError::MetadataFetch(code);
            assert_eq!(class(Call::Ask, &error), ErrorClass::Retriable, "{code:?}");
            assert_eq!(
                decide(Call::Send, bare(code)),
                ErrorClass::Fatal,
                "{code:?}"
            );
        }
    }

    #[test]
    fn a_batch_that_cannot_be_read_is_never_stepped_over() {
        for code in [
            Code::BadMessage,
            Code::BadCompression,
            Code::NotImplemented,
            Code::InvalidMessage,
        ] {
            let error = KafkaError::MessageConsumption(code);
            assert_eq!(class(Call::Poll, &error), ErrorClass::Fatal, "{code:?}");
        }
    }

    #[test]
    fn an_answer_to_an_admin_call_has_its_code() {
        let error = KafkaError::AdminOp(Code::RequestTimedOut);
        assert_eq!(class(Call::Settings, &error), ErrorClass::Retriable);
    }

    #[test]
    fn the_message_says_what_was_tried() {
        let error = KafkaError::Global(Code::OperationTimedOut);
        let error = classified(Call::Ask, "asking for the offsets of clicks-3", &error);
        assert!(
            error
                .to_string()
                .starts_with("asking for the offsets of clicks-3: "),
            "{error}"
        );
    }
}
