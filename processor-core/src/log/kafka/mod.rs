//! The Kafka log, over librdkafka.
//!
//! - Rebalances: the client's callback only writes the event down; [`Consumer::poll`] returns it
//!   and the caller answers. librdkafka waits for the answer while it goes on sending heartbeats.
//! - Commits: flush, offsets and end of transaction run on one helper thread per producer, in that order; the caller
//!   takes group metadata on its polling thread and goes on processing meanwhile.
//! - Errors are classified in one place, `error`.
//!
//! `rdkafka` is named nowhere else.

mod admin;
mod advice;
mod consumer;
mod error;
mod lists;
mod options;
mod packed;
mod producer;
mod rebalances;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::clock::{Clock, Deadline, SystemClock};

use super::{
    Consumer, ConsumerConfig, ErrorClass, Isolation, Log, LogError, NewTopic, Offset, Producer,
    ProducerConfig, TopicPartition, TopicSettings,
};

pub use options::KafkaOptions;

const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two questions that meet a passing fault.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A Kafka cluster. Clones share its metadata clients.
#[derive(Clone)]
pub struct KafkaLog {
    options: Arc<KafkaOptions>,
    queries: Arc<Queries>,
}

impl KafkaLog {
    /// The cluster that `options` name. Asks it once, so that a missing broker is noticed here.
    ///
    /// # Errors
    /// When a property is refused or no broker answers.
    pub fn new(options: KafkaOptions) -> Result<Self, LogError> {
        options.check()?;
        let options = Arc::new(options);
        let queries = Arc::new(Queries::new(Arc::clone(&options)));
        let log = Self { options, queries };
        log.queries.client(Isolation::ReadCommitted)?.fetch_metadata(None, METADATA_TIMEOUT).map_err(
            |_| {
                LogError::fatal(format!(
                    "no Kafka broker answers at {} within {} s; check the address and that the broker runs",
                    log.options.bootstrap,
                    METADATA_TIMEOUT.as_secs()
                ))
            },
        )?;
        Ok(log)
    }
}

impl Log for KafkaLog {
    fn consumer(&self, config: ConsumerConfig) -> Result<Box<dyn Consumer>, LogError> {
        let consumer =
            consumer::KafkaConsumer::new(&self.options, config, Arc::clone(&self.queries))?;
        Ok(Box::new(consumer))
    }

    fn producer(&self, config: ProducerConfig) -> Result<Box<dyn Producer>, LogError> {
        Ok(Box::new(producer::KafkaProducer::new(
            &self.options,
            config,
        )?))
    }

    fn create_topics(&self, topics: &[NewTopic]) -> Result<(), LogError> {
        admin::create_topics(self, topics)
    }

    fn delete_topics(&self, topics: &[&str]) -> Result<(), LogError> {
        admin::delete_topics(&self.options, topics)
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, LogError> {
        admin::partitions(self, topic)
    }

    fn settings(&self, topics: &[&str]) -> Result<BTreeMap<String, TopicSettings>, LogError> {
        admin::settings(&self.options, topics)
    }

    fn topics(&self) -> Result<Vec<String>, LogError> {
        admin::topics(self)
    }
}

/// Clients that ask for metadata and offsets, one for each isolation, made when first needed. An offset query sees what
/// its client's isolation lets it see: the last stable offset or the high watermark.
struct Queries {
    options: Arc<KafkaOptions>,
    committed: OnceLock<BaseConsumer>,
    uncommitted: OnceLock<BaseConsumer>,
}

impl Queries {
    fn new(options: Arc<KafkaOptions>) -> Self {
        Self {
            options,
            committed: OnceLock::new(),
            uncommitted: OnceLock::new(),
        }
    }

    fn client(&self, isolation: Isolation) -> Result<&BaseConsumer, LogError> {
        let (cell, level) = match isolation {
            Isolation::ReadCommitted => (&self.committed, "read_committed"),
            Isolation::ReadUncommitted => (&self.uncommitted, "read_uncommitted"),
        };
        if cell.get().is_none() {
            let mut config = self.options.client_config();
            config
                .set("isolation.level", level)
                .set("enable.auto.commit", "false");
            let client = config.create().map_err(|error| {
                error::classified(error::Call::Ask, "creating a client", &error)
            })?;
            let _ = cell.set(client);
        }
        Ok(cell.get().expect("set above"))
    }

    /// First and end offset of a partition.
    fn watermarks(
        &self,
        partition: &TopicPartition,
        isolation: Isolation,
        timeout: Duration,
    ) -> Result<(Offset, Offset), LogError> {
        let client = self.client(isolation)?;
        let what = format_args!("asking for the offsets of {partition}");
        retried(timeout, |left| {
            client
                .fetch_watermarks(&partition.topic, partition.partition, left)
                .map_err(|error| error::classified(error::Call::Ask, what, &error))
        })
    }
}

/// Asks again while the answer is a passing fault, such as a leader that is just being elected, and `timeout` is not over.
fn retried<T>(
    timeout: Duration,
    mut ask: impl FnMut(Duration) -> Result<T, LogError>,
) -> Result<T, LogError> {
    let deadline = Deadline::after(timeout);
    loop {
        match ask(deadline.remaining()) {
            Err(error) if error.class == ErrorClass::Retriable && !deadline.passed() => {
                SystemClock.pass(RETRY_PAUSE.min(deadline.remaining()));
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passing_fault_is_asked_again_and_another_one_is_not() {
        let mut asked = 0;
        let answer = retried(Duration::from_secs(60), |_| {
            asked += 1;
            match asked {
                1 | 2 => Err(LogError::retriable("no leader yet")),
                _ => Ok(asked),
            }
        });
        assert_eq!(answer.unwrap(), 3);
        let fatal = retried(Duration::from_secs(60), |_| {
            Err::<(), _>(LogError::fatal("no"))
        });
        assert_eq!(fatal.unwrap_err().class, ErrorClass::Fatal);
        let over = retried(Duration::ZERO, |_| {
            Err::<(), _>(LogError::retriable("no leader yet"))
        });
        assert_eq!(over.unwrap_err().class, ErrorClass::Retriable);
    }
}
