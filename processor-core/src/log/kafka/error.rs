//! Who has to act on an error of librdkafka.
//!
//! The order of the tests matters: fatal, then abortable, then retriable; what is none of them counts as fatal.

use std::fmt;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::log::{ErrorClass, LogError};

use super::advice::explained;

/// The error with its class; `what` says what was tried.
pub(super) fn classified(what: impl fmt::Display, error: &KafkaError) -> LogError {
    LogError::new(class(error), format!("{what}: {}", explained(error)))
}

/// The class of an error.
pub(super) fn class(error: &KafkaError) -> ErrorClass {
    if let KafkaError::Transaction(error) = error {
        let code = error.code();
        return if is_fenced(code) {
            ErrorClass::Fenced
        } else if error.is_fatal() {
            ErrorClass::Fatal
        } else if error.txn_requires_abort() {
            ErrorClass::Abortable
        } else if error.is_retriable() {
            ErrorClass::Retriable
        } else {
            class_of(code)
        };
    }
    if let KafkaError::MessageConsumptionFatal(code) = error {
        return if is_fenced(*code) {
            ErrorClass::Fenced
        } else {
            ErrorClass::Fatal
        };
    }
    error
        .rdkafka_error_code()
        .map_or(ErrorClass::Fatal, class_of)
}

/// Somebody else has taken the identity over.
pub(super) fn is_fenced(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId
    )
}

/// The class of a bare code, where librdkafka does not say more.
fn class_of(code: RDKafkaErrorCode) -> ErrorClass {
    use RDKafkaErrorCode as Code;
    match code {
        code if is_fenced(code) => ErrorClass::Fenced,
        Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::MessageTimedOut
        | Code::CoordinatorNotAvailable
        | Code::CoordinatorLoadInProgress
        | Code::NotCoordinator
        | Code::ConcurrentTransactions
        | Code::UnstableOffsetCommit
        | Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::NetworkException
        | Code::QueueFull
        | Code::WaitingForCoordinator
        | Code::RebalanceInProgress => ErrorClass::Retriable,
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::State
        | Code::PurgeQueue
        | Code::PurgeInflight => ErrorClass::Abortable,
        Code::MessageSizeTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTimestamp => ErrorClass::Rejected,
        _ => ErrorClass::Fatal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_codes_have_the_class_of_who_acts() {
        use RDKafkaErrorCode as Code;
        let cases = [
            (Code::OperationTimedOut, ErrorClass::Retriable),
            (Code::CoordinatorNotAvailable, ErrorClass::Retriable),
            (Code::IllegalGeneration, ErrorClass::Abortable),
            (Code::UnknownMemberId, ErrorClass::Abortable),
            (Code::FencedInstanceId, ErrorClass::Fenced),
            (Code::Fenced, ErrorClass::Fenced),
            (Code::MessageSizeTooLarge, ErrorClass::Rejected),
            (Code::TopicAuthorizationFailed, ErrorClass::Fatal),
            (Code::UnsupportedVersion, ErrorClass::Fatal),
        ];
        for (code, expected) in cases {
            assert_eq!(class_of(code), expected, "{code:?}");
        }
        assert_eq!(
            class(&KafkaError::MessageConsumptionFatal(Code::FencedInstanceId)),
            ErrorClass::Fenced
        );
    }

    #[test]
    fn the_message_says_what_was_tried() {
        let error = KafkaError::Global(RDKafkaErrorCode::OperationTimedOut);
        let error = classified("asking for the offsets of clicks-3", &error);
        assert!(
            error
                .to_string()
                .starts_with("asking for the offsets of clicks-3: "),
            "{error}"
        );
    }
}
