//! What a person can do about an error of librdkafka, where one can.

use std::borrow::Cow;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::error::{Call, code, is_unreadable};

/// The error in its own words, and what to do.
pub(super) fn explained(call: Call, error: &KafkaError) -> String {
    advised(call, code(error), error.to_string())
}

/// What was said of `code`, and what to do.
pub(super) fn advised(call: Call, code: Option<RDKafkaErrorCode>, said: String) -> String {
    match code.and_then(|code| advice(call, code)) {
        Some(advice) => format!("{said}; {advice}"),
        None => said,
    }
}

fn advice(call: Call, code: RDKafkaErrorCode) -> Option<Cow<'static, str>> {
    use RDKafkaErrorCode as Code;
    Some(match code {
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
            "raise `max.message.bytes` of the topic and the client's property `message.max.bytes`, or make the record \
             smaller"
                .into()
        }
        Code::InvalidTimestamp => {
            "the record's time is further from the broker's clock than the topic's `message.timestamp.after.max.ms` or \
             `message.timestamp.before.max.ms` allows: raise it, or set the clock right"
                .into()
        }
        Code::TopicAuthorizationFailed => {
            let operation = operation_on_topics(call);
            format!("allow this application {operation} on the topic").into()
        }
        Code::GroupAuthorizationFailed => "allow this application READ on the group".into(),
        Code::TransactionalIdAuthorizationFailed => {
            "allow this application WRITE on the transactional id, best on all that begin with its application id".into()
        }
        Code::ClusterAuthorizationFailed if call == Call::Create => {
            "allow this application CREATE on the topic, or make the topic beforehand".into()
        }
        Code::ClusterAuthorizationFailed => {
            "allow this application IDEMPOTENT_WRITE on the cluster, or WRITE on a topic".into()
        }
        Code::UnknownTopicOrPartition | Code::UnknownPartition if call == Call::Ask => {
            "the topic does not exist, or no broker leads the partition".into()
        }
        code if call == Call::Poll && is_unreadable(code) => {
            "a batch is damaged, or of a form that this client does not know, and its records would be left out; look at the \
             partition's segment with `kafka-dump-log.sh --deep-iteration --files`, have the broker take it from another \
             replica, or, where they are lost for good, have the group go on behind the batch with \
             `kafka-consumer-groups.sh --reset-offsets`"
                .into()
        }
        _ => return None,
    })
}

/// The operation that access control asks for; the larger ones include DESCRIBE.
fn operation_on_topics(call: Call) -> &'static str {
    match call {
        Call::Ask => "DESCRIBE",
        Call::Settings => "DESCRIBE_CONFIGS",
        Call::Create => "CREATE",
        Call::Delete => "DELETE",
        Call::Poll | Call::SendOffsets | Call::CommitOffsets => "READ",
        Call::Init | Call::Begin | Call::Send | Call::Deliver | Call::Commit | Call::Abort => {
            "WRITE"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RDKafkaErrorCode as Code;

    #[test]
    fn an_error_that_a_person_can_mend_says_how_and_another_one_is_left_alone() {
        let too_large = KafkaError::MessageProduction(Code::MessageSizeTooLarge);
        let text = explained(Call::Deliver, &too_large);
        assert!(text.starts_with(&too_large.to_string()), "{text}");
        assert!(text.contains("`max.message.bytes` of the topic"), "{text}");
        let passing = KafkaError::Global(Code::OperationTimedOut);
        assert_eq!(explained(Call::Deliver, &passing), passing.to_string());
    }

    #[test]
    fn a_batch_that_cannot_be_read_says_how_to_look_at_it_and_only_where_one_is_read() {
        let damaged = KafkaError::MessageConsumption(Code::BadMessage);
        let text = explained(Call::Poll, &damaged);
        assert!(text.contains("kafka-dump-log.sh"), "{text}");
        assert_eq!(explained(Call::Ask, &damaged), damaged.to_string());
    }

    #[test]
    fn what_access_control_refuses_names_the_operation_of_the_call() {
        let topic = KafkaError::MessageConsumption(Code::TopicAuthorizationFailed);
        for (call, operation) in [
            (Call::Poll, "READ on the topic"),
            (Call::Deliver, "WRITE on the topic"),
            (Call::Ask, "DESCRIBE on the topic"),
            (Call::Create, "CREATE on the topic"),
        ] {
            let text = explained(call, &topic);
            assert!(text.contains(operation), "{text}");
        }
    }
}
