//! What a person can do about an error of librdkafka, where one can.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The error in its own words, and what to do.
pub(super) fn explained(error: &KafkaError) -> String {
    match error.rdkafka_error_code().and_then(advice) {
        Some(advice) => format!("{error}; {advice}"),
        None => error.to_string(),
    }
}

fn advice(code: RDKafkaErrorCode) -> Option<&'static str> {
    use RDKafkaErrorCode as Code;
    Some(match code {
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
            "raise `max.message.bytes` of the topic and the client's property `message.max.bytes`, or make the record \
             smaller"
        }
        Code::InvalidTimestamp => {
            "the record's time is further from the broker's clock than the topic's `message.timestamp.after.max.ms` or \
             `message.timestamp.before.max.ms` allows: raise it, or set the clock right"
        }
        Code::TopicAuthorizationFailed => {
            "grant this application READ, WRITE and DESCRIBE on the topic"
        }
        Code::GroupAuthorizationFailed => {
            "grant this application READ on the group, which is called like its application id"
        }
        Code::TransactionalIdAuthorizationFailed => {
            "grant this application WRITE and DESCRIBE on transactional ids that begin with its application id"
        }
        Code::ClusterAuthorizationFailed => {
            "grant this application CREATE on the cluster, or make its internal topics beforehand"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_a_person_can_mend_says_how_and_another_one_is_left_alone() {
        let too_large = KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge);
        let text = explained(&too_large);
        assert!(text.starts_with(&too_large.to_string()), "{text}");
        assert!(text.contains("`max.message.bytes` of the topic"), "{text}");
        let passing = KafkaError::Global(RDKafkaErrorCode::OperationTimedOut);
        assert_eq!(explained(&passing), passing.to_string());
    }
}
