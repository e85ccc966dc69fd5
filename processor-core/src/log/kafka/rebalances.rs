//! What librdkafka calls back with, for the caller of `poll`: above all rebalances, as events.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::bindings::rd_kafka_resp_err_t as NativeError;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;

use crate::log::{Polled, TopicPartition};

use super::lists::from_list;

/// A rebalance that the caller has not been told of.
#[derive(Debug)]
pub(super) enum Rebalance {
    Assigned(Vec<TopicPartition>),
    Revoked {
        partitions: Vec<TopicPartition>,
        lost: bool,
    },
}

/// Writes rebalances down; it runs inside `poll`, on the polling thread.
#[derive(Clone, Default)]
pub(super) struct Rebalances {
    events: Arc<Mutex<VecDeque<Rebalance>>>,
    closing: Arc<AtomicBool>,
    /// What was said of the last error.
    said: Arc<Mutex<String>>,
}

impl Rebalances {
    pub(super) fn next(&self) -> Option<Rebalance> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// What librdkafka said of the error that `poll` returned last: often the place.
    pub(super) fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }

    /// From now on the client gives up what is taken from it without asking, and at once what it has lost already: librdkafka
    /// waits for that answer while it closes, for ever.
    pub(super) fn close(&self, client: &BaseConsumer<Self>) {
        self.closing.store(true, Ordering::SeqCst);
        if client.assignment_lost()
            && let Ok(lost) = client.assignment()
        {
            give_up(client, &lost);
        }
    }
}

/// Answers for a caller who is gone.
fn give_up(client: &BaseConsumer<Rebalances>, partitions: &TopicPartitionList) {
    let answered = match client.rebalance_protocol() {
        RebalanceProtocol::Cooperative => client.incremental_unassign(partitions),
        _ => client.unassign(),
    };
    if let Err(error) = answered {
        tracing::debug!(%error, "giving partitions up while closing");
    }
}

impl ClientContext for Rebalances {
    /// Comes right before `poll` returns the error, of which rdkafka keeps the code only.
    fn error(&self, _: KafkaError, said: &str) {
        said.clone_into(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl ConsumerContext for Rebalances {
    /// librdkafka waits for the answer, which `assign` and `release` give after this has returned. While the consumer
    /// closes nobody is left to answer, so it is given here.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: NativeError,
        partitions: &mut TopicPartitionList,
    ) {
        if self.closing.load(Ordering::SeqCst) {
            give_up(consumer, partitions);
            return;
        }
        let partitions = from_list(partitions);
        let event = match kind {
            NativeError::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assigned(partitions),
            _ => Rebalance::Revoked {
                partitions,
                lost: consumer.assignment_lost(),
            },
        };
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(event);
    }
}

impl From<Rebalance> for Polled {
    fn from(event: Rebalance) -> Self {
        match event {
            Rebalance::Assigned(partitions) => Self::Assigned(partitions),
            Rebalance::Revoked { partitions, lost } => Self::Revoked { partitions, lost },
        }
    }
}
