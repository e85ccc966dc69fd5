//! A schema registry on a topic: how registrars take turns, and how readers keep up.
//!
//! **Registering** is a transaction under one transactional id per topic, so that registrars take turns: whoever starts
//! one fences all others, reads everything there is, and then writes what follows from it. One that was fenced in
//! between has not committed; it reads again. So an id has one schema and a schema one id, whatever happens at once.
//!
//! **Looking up** reads the topic to its end in the background. A registration is visible in the topic before
//! [`register`](SchemaRegistry::register) returns, so an id in a record is found.

use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::background::{Background, Fetched, Source};
use super::contents::Contents;
use super::{Compatibility, Lookup, RegistryError, SchemaId, SchemaRegistry};
use crate::clock::{Clock, Deadline, SystemClock};
use crate::log::{
    Cleanup, Consumer, ConsumerConfig, ErrorClass, Isolation, Log, LogError, NewTopic, OffsetReset,
    Polled, ProducerConfig, ProducerRecord, TopicPartition,
};
use crate::serde::AvroSchema;

/// For one call of the log.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For a registration, with all its attempts.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a [`TopicRegistry`] is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRegistryOptions {
    /// Name of the topic, which is made if there is none.
    pub topic: String,
    /// Copies of the topic; ignored by the embedded log.
    pub replication: i32,
    /// What a new schema must be able to read.
    pub compatibility: Compatibility,
}

impl Default for TopicRegistryOptions {
    /// Topic `_schemas`, one copy, backward compatible.
    fn default() -> Self {
        Self {
            topic: "_schemas".to_owned(),
            replication: 1,
            compatibility: Compatibility::Backward,
        }
    }
}

/// A schema registry on a compacted topic of a log, embedded or Kafka: no server.
///
/// Instances on one topic, in one process or many, are one registry: an id has one schema and a schema one id, whatever is
/// registered at once. Ids count up from 1. The topic has the layout of Confluent's `_schemas`. On Kafka a registration
/// takes the right to use the transactional id `<topic>-registrar`.
///
/// It does not delete, knows no rules but [`Compatibility`], and takes no schemas that refer to others.
pub struct TopicRegistry {
    background: Background<Topic>,
    name: String,
}

impl TopicRegistry {
    /// Opens the registry on a topic of `log`.
    ///
    /// # Errors
    /// When the topic cannot be made or read.
    pub fn open(log: Arc<dyn Log>, options: &TopicRegistryOptions) -> Result<Self, RegistryError> {
        let name = format!("on topic {}", options.topic);
        let topic = Topic::open(log, options.clone()).map_err(|error| failure(&name, &error))?;
        let background = Background::start(topic).map_err(|error| RegistryError::Unusable {
            registry: name.clone(),
            reason: format!("its thread cannot be started: {error}"),
        })?;
        Ok(Self { background, name })
    }
}

impl SchemaRegistry for TopicRegistry {
    fn register(&self, subject: &str, schema: AvroSchema) -> Result<SchemaId, RegistryError> {
        let (name, owned) = (self.name.clone(), subject.to_owned());
        let call = move |topic: &mut Topic| topic.register(&name, &owned, schema);
        let id = match self.background.call(call) {
            Some(result) => result?,
            None => {
                return Err(RegistryError::Unusable {
                    registry: self.name.clone(),
                    reason: "its thread has panicked".to_owned(),
                });
            }
        };
        self.background.learn(id, schema);
        Ok(id)
    }

    fn schema(&self, id: SchemaId) -> Lookup {
        self.background.lookup(id)
    }
}

/// A failure of the log, as one of the registry `name`.
fn failure(name: &str, error: &LogError) -> RegistryError {
    let (registry, reason) = (name.to_owned(), error.message.to_string());
    match error.class {
        ErrorClass::Fatal | ErrorClass::Rejected => RegistryError::Unusable { registry, reason },
        ErrorClass::Retriable
        | ErrorClass::Abortable
        | ErrorClass::Uncertain
        | ErrorClass::Fenced => RegistryError::Unavailable { registry, reason },
    }
}

/// The topic, and what was read of it.
struct Topic {
    log: Arc<dyn Log>,
    options: TopicRegistryOptions,
    partition: TopicPartition,
    consumer: Box<dyn Consumer>,
    contents: Contents,
}

/// How an attempt to register ended.
enum Attempt {
    Done(SchemaId),
    Refused(RegistryError),
}

impl Topic {
    fn open(log: Arc<dyn Log>, options: TopicRegistryOptions) -> Result<Self, LogError> {
        let mut topic = NewTopic::new(options.topic.as_str(), 1).cleanup(Cleanup::Compact);
        topic.replication = options.replication;
        log.create_topics(&[topic])?;
        let partition = TopicPartition::new(options.topic.as_str(), 0);
        let mut consumer = log.consumer(ConsumerConfig {
            reset: OffsetReset::Earliest,
            ..Default::default()
        })?;
        let begin = consumer.beginning_offset(&partition, TIMEOUT)?;
        consumer.assign(&[(partition.clone(), Some(begin))])?;
        let mut topic = Self {
            log,
            options,
            partition,
            consumer,
            contents: Contents::default(),
        };
        topic.read_to_end()?;
        Ok(topic)
    }

    /// Takes in everything that is committed now.
    fn read_to_end(&mut self) -> Result<(), LogError> {
        let Self {
            consumer,
            partition,
            contents,
            ..
        } = self;
        let end = consumer.end_offset(partition, Isolation::ReadCommitted, TIMEOUT)?;
        let deadline = Deadline::after(TIMEOUT);
        while consumer.position(partition)?.unwrap_or(0) < end {
            if deadline.passed() {
                return Err(LogError::retriable(format!(
                    "{partition} could not be read to offset {end} in time"
                )));
            }
            let Polled::Records(batches) = consumer.poll(Duration::from_millis(20))? else {
                continue;
            };
            for record in batches.into_iter().flat_map(|batch| batch.records) {
                let (key, value) = (record.key.as_deref(), record.value.as_deref());
                if let Err(reason) = contents.apply(key, value) {
                    tracing::warn!(%partition, offset = record.offset, reason, "a record is no schema; it is ignored");
                }
            }
        }
        Ok(())
    }

    fn register(
        &mut self,
        name: &str,
        subject: &str,
        schema: AvroSchema,
    ) -> Result<SchemaId, RegistryError> {
        let deadline = Deadline::after(PATIENCE);
        for attempt in 0_u32.. {
            match self.try_register(subject, schema) {
                Ok(Attempt::Done(id)) => return Ok(id),
                Ok(Attempt::Refused(error)) => return Err(error),
                Err(error) if failure(name, &error).is_retriable() && !deadline.passed() => {
                    tracing::debug!(%error, subject, "a registration starts again");
                    SystemClock.pass(pause(attempt));
                }
                Err(error) => return Err(failure(name, &error)),
            }
        }
        unreachable!("the attempts end with the patience")
    }

    fn try_register(&mut self, subject: &str, schema: AvroSchema) -> Result<Attempt, LogError> {
        self.read_to_end()?;
        if let Some(id) = self.contents.find(subject, schema) {
            return Ok(Attempt::Done(id));
        }
        let mut producer = self.log.producer(ProducerConfig {
            transactional_id: Some(format!("{}-registrar", self.options.topic)),
            transaction_timeout_ms: 10_000,
            ..Default::default()
        })?;
        // IMPORTANT: from here on no other registrar can commit unless it fences us, and then we cannot. So what is
        // read now is all there is when we commit.
        producer.init_transactions(TIMEOUT)?;
        self.read_to_end()?;
        if let Some(id) = self.contents.find(subject, schema) {
            return Ok(Attempt::Done(id));
        }
        let plan = match self
            .contents
            .plan(subject, schema, self.options.compatibility)
        {
            Ok(plan) => plan,
            Err(refusal) => return Ok(Attempt::Refused(refusal)),
        };
        producer.begin_transaction()?;
        producer.send(ProducerRecord {
            topic: &self.options.topic,
            partition: 0,
            timestamp: SystemClock.now_ms(),
            key: Some(&plan.key),
            value: Some(&plan.value),
            headers: &[],
        })?;
        producer.begin_commit(Vec::new(), None)?;
        let deadline = Deadline::after(TIMEOUT);
        while producer.poll_commit(Duration::from_millis(100))?.is_none() {
            if deadline.passed() {
                return Err(LogError::new(
                    ErrorClass::Uncertain,
                    "the commit of a registration got no answer",
                ));
            }
        }
        // A reader of what is written with this id must find it, so it has to be visible first.
        while self.contents.find(subject, schema).is_none() {
            if deadline.passed() {
                return Err(LogError::retriable(
                    "a committed registration is not visible",
                ));
            }
            self.read_to_end()?;
        }
        Ok(Attempt::Done(plan.id))
    }
}

impl Source for Topic {
    fn fetch(&mut self, id: SchemaId) -> Fetched {
        match self.read_to_end() {
            Ok(()) => match self.contents.schema(id) {
                Some(schema) => Fetched::Found(schema),
                None => Fetched::Missing(format!("topic {} has none", self.options.topic)),
            },
            Err(error) if error.class == ErrorClass::Fatal => {
                Fetched::Missing(error.message.into_owned())
            }
            Err(error) => Fetched::Later(error.message.into_owned()),
        }
    }
}

/// Time until the next attempt: longer each time, and different between registrars, or they would go on fencing each
/// other.
fn pause(attempt: u32) -> Duration {
    let who = format!("{}/{:?}", std::process::id(), std::thread::current().id());
    let spread = xxh3_64(format!("{who}/{attempt}").as_bytes()) % (1 << attempt.min(6));
    Duration::from_millis(2 + 4 * spread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::embedded::EmbeddedLog;

    fn open(log: &EmbeddedLog) -> TopicRegistry {
        let log = Arc::new(log.clone());
        TopicRegistry::open(log, &TopicRegistryOptions::default()).unwrap()
    }

    fn schema(text: &str) -> AvroSchema {
        AvroSchema::parse(text).unwrap()
    }

    /// The final answer of a lookup.
    fn settled(registry: &TopicRegistry, id: SchemaId) -> Lookup {
        let deadline = Deadline::after(Duration::from_secs(10));
        loop {
            match registry.schema(id) {
                Lookup::Pending if !deadline.passed() => {
                    SystemClock.pass(Duration::from_millis(1));
                }
                settled => return settled,
            }
        }
    }

    #[test]
    fn a_registered_schema_is_found_here_and_by_another_instance() {
        let log = EmbeddedLog::in_memory();
        let (writer, reader) = (open(&log), open(&log));
        let text = schema(r#""string""#);
        let id = writer.register("names-value", text).unwrap();
        assert_eq!(writer.schema(id), Lookup::Known(text));
        assert_eq!(reader.schema(id), Lookup::Pending);
        assert_eq!(settled(&reader, id), Lookup::Known(text));
        assert_eq!(reader.register("names-value", text).unwrap(), id);
    }

    #[test]
    fn an_id_that_nobody_registered_is_unknown_and_says_where_it_was_looked_for() {
        let registry = open(&EmbeddedLog::in_memory());
        let unknown = Lookup::Unknown("topic _schemas has none".to_owned());
        assert_eq!(settled(&registry, SchemaId(77)), unknown);
    }

    #[test]
    fn a_registry_on_files_has_its_schemas_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let (text, number) = (schema(r#""string""#), schema(r#""long""#));
        let (first, second) = {
            let registry = open(&EmbeddedLog::open(dir.path()).unwrap());
            let first = registry.register("names-value", text).unwrap();
            (first, registry.register("ages-value", number).unwrap())
        };
        let log = EmbeddedLog::open(dir.path()).unwrap();
        log.clean().unwrap();
        let registry = open(&log);
        assert_eq!(settled(&registry, first), Lookup::Known(text));
        assert_eq!(settled(&registry, second), Lookup::Known(number));
        assert_eq!(registry.register("ages-value", number).unwrap(), second);
        let next = registry.register("flags-value", schema(r#""boolean""#));
        assert_eq!(next.unwrap(), SchemaId(3));
    }

    #[test]
    fn an_incompatible_schema_is_refused_with_the_place_and_what_to_do() {
        let registry = open(&EmbeddedLog::in_memory());
        let with = |field: &str| {
            schema(&format!(
                r#"{{"type":"record","name":"R","fields":[{{"name":"{field}","type":"int"}}]}}"#
            ))
        };
        registry.register("r-value", with("a")).unwrap();
        let error = registry.register("r-value", with("b")).unwrap_err();
        assert!(!error.is_retriable());
        let error = error.to_string();
        assert!(
            error.contains("'r-value'") && error.contains("field b"),
            "{error}"
        );
        assert!(error.contains("default"), "{error}");
    }

    #[test]
    fn instances_that_register_at_once_agree_on_every_id() {
        let log = EmbeddedLog::in_memory();
        // Shared ones and ones of their own, in different orders.
        let schemas: Vec<_> = (0..8)
            .map(|n| schema(&format!(r#"{{"type":"fixed","name":"F{n}","size":4}}"#)))
            .collect();
        let registered: Vec<Vec<(usize, SchemaId)>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|instance| {
                    let (log, schemas) = (&log, &schemas);
                    scope.spawn(move || {
                        let registry = open(log);
                        let order = (0..schemas.len()).map(|n| (n * 3 + instance) % schemas.len());
                        order
                            .map(|n| {
                                let id = registry.register(&format!("s{n}"), schemas[n]);
                                (n, id.unwrap())
                            })
                            .collect()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let mut ids = std::collections::BTreeMap::new();
        for (n, id) in registered.into_iter().flatten() {
            assert_eq!(*ids.entry(n).or_insert(id), id, "two ids for schema {n}");
        }
        let distinct: std::collections::BTreeSet<_> = ids.values().collect();
        assert_eq!(
            distinct.len(),
            schemas.len(),
            "one id for two schemas: {ids:?}"
        );
        assert_eq!(**distinct.last().unwrap(), SchemaId(8), "{ids:?}");
    }
}
