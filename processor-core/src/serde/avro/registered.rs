//! Avro data that says which schema it was written with.

use std::marker::PhantomData;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use ::serde::Serialize;
use ::serde::de::DeserializeOwned;
use rustc_hash::FxHashMap;

use super::codec::Codec;
use super::{AvroSchema, Resolution, frame};
use crate::serde::registry::{Lookup, SchemaId, SchemaRegistry};
use crate::serde::{Serde, SerdeError};

/// See [`registered_avro`].
pub struct RegisteredAvro<T> {
    registry: Arc<dyn SchemaRegistry>,
    subject: String,
    codec: Codec,
    /// Id of our own schema, once something was written.
    id: OnceLock<SchemaId>,
    writers: RwLock<FxHashMap<SchemaId, Arc<Writer>>>,
    value: PhantomData<fn() -> T>,
}

/// How the data of a writer's schema is read, or why it cannot be.
type Writer = Result<Resolution, String>;

/// Avro in Confluent's wire format: a zero byte, the schema's id in 4 bytes, the datum.
///
/// `T` is as in [`avro`](super::avro); what a reader does not want it leaves out of its schema as well as of its type.
///
/// **Writing** registers `schema`, a JSON text, under `subject`, which by custom is `<topic>-value` or `<topic>-key`. That
/// happens once, at the first record or in [`register`](RegisteredAvro::register), and may block.
///
/// **Reading** takes the schema that the data was written with from the registry and turns it into `schema` by Avro's
/// rules: added fields get their defaults, removed ones are skipped, aliases are followed, numbers widen. A schema that
/// is not here yet is fetched in the background: the partition of that record waits, see [`SerdeError::not_ready`].
///
/// NOTE: The id is a part of the bytes. A key that is written with another version of its schema is another key, to
/// partitions and to stores alike, so prefer plain serdes for keys.
///
/// ```
/// use processor_core::dsl::{Consumed, StreamsBuilder};
/// use processor_core::log::embedded::EmbeddedLog;
/// use processor_core::serde::registry::{SchemaRegistry, TopicRegistry, TopicRegistryOptions};
/// use processor_core::serde::{registered_avro, utf8};
/// use processor_core::testing::TopologyTestDriver;
/// use serde::{Deserialize, Serialize};
/// use std::sync::Arc;
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Click { cost_micros: i64 }
/// const CLICK: &str = r#"{"type": "record", "name": "Click", "fields": [
///     {"name": "cost_micros", "type": "long"}
/// ]}"#;
///
/// let log = Arc::new(EmbeddedLog::in_memory());
/// let registry = TopicRegistry::open(log, &TopicRegistryOptions::default()).unwrap();
/// let registry: Arc<dyn SchemaRegistry> = Arc::new(registry);
/// let clicks = || registered_avro::<Click>(registry.clone(), "clicks-value", CLICK).unwrap();
///
/// let builder = StreamsBuilder::new("expensive-clicks");
/// let stream = builder.stream("clicks", Consumed::new(utf8(), clicks()));
/// stream.filter(|_, click| click.cost_micros > 10).to("expensive-clicks");
///
/// let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
/// let input = driver.input("clicks", utf8(), clicks());
/// input.pipe(&mut driver, "shoes".to_owned(), Click { cost_micros: 2 }, 0);
/// input.pipe(&mut driver, "cars".to_owned(), Click { cost_micros: 20 }, 0);
/// let output = driver.output("expensive-clicks", utf8(), clicks());
/// assert_eq!(output.read(&mut driver)[0].key, "cars");
/// ```
///
/// # Errors
/// When the text is no schema, or [one that is not supported](AvroSchema::parse).
pub fn registered_avro<T>(
    registry: Arc<dyn SchemaRegistry>,
    subject: impl Into<String>,
    schema: &str,
) -> Result<RegisteredAvro<T>, SerdeError> {
    Ok(RegisteredAvro {
        registry,
        subject: subject.into(),
        codec: Codec::new(AvroSchema::parse(schema)?)?,
        id: OnceLock::new(),
        writers: RwLock::default(),
        value: PhantomData,
    })
}

impl<T> RegisteredAvro<T> {
    /// Registers the schema now instead of with the first record, so that a registry that refuses it stops the start and
    /// not the stream. Blocks until the registry has answered.
    ///
    /// # Errors
    /// When the registry refuses the schema or does not answer; [not ready](SerdeError::is_not_ready) in the latter case.
    pub fn register(&self) -> Result<SchemaId, SerdeError> {
        if let Some(id) = self.id.get() {
            return Ok(*id);
        }
        let registered = self.registry.register(&self.subject, self.codec.schema());
        let id = registered.map_err(|error| {
            if error.is_retriable() {
                SerdeError::not_ready(error)
            } else {
                SerdeError::new(error)
            }
        })?;
        // Another thread may have been first; the registry gave it the same id.
        Ok(*self.id.get_or_init(|| id))
    }

    /// How data of schema `id` is read.
    fn writer(&self, id: SchemaId) -> Result<Arc<Writer>, SerdeError> {
        let known = self.writers.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = known.get(&id) {
            return Ok(Arc::clone(writer));
        }
        drop(known);
        let schema = match self.registry.schema(id) {
            Lookup::Known(schema) => schema,
            Lookup::Pending => {
                return Err(SerdeError::not_ready(format_args!(
                    "its schema, id {id}, has not come from the schema registry; check that the registry can be reached"
                )));
            }
            Lookup::Unknown(reason) => {
                return Err(SerdeError::new(format_args!(
                    "its schema, id {id}, cannot be had from the schema registry: {reason}; check that this registry is \
                     the writer's"
                )));
            }
        };
        let writer = Arc::new(Resolution::new(schema, self.codec.schema()));
        let mut known = self.writers.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(id, Arc::clone(&writer));
        Ok(writer)
    }
}

impl<T: Serialize + DeserializeOwned> Serde<T> for RegisteredAvro<T> {
    fn format(&self) -> Option<String> {
        Some("registered avro".to_owned())
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn serialize(&self, value: &T, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        frame::begin(self.register()?, into);
        self.codec.write(value, into)
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<T, SerdeError> {
        let (id, datum) = frame::split(bytes)?;
        let of_schema =
            |error| SerdeError::new(format_args!("written with schema id {id}: {error}"));
        match &*self.writer(id)? {
            Ok(same) if same.same_bytes() => self.codec.read(datum).map_err(of_schema),
            Ok(resolution) => {
                let mut ours = Vec::with_capacity(datum.len() + 16);
                resolution.rewrite(datum, &mut ours).map_err(of_schema)?;
                self.codec.read_walked(&ours).map_err(of_schema)
            }
            Err(reason) => {
                let subject = &self.subject;
                Err(SerdeError::new(format_args!(
                    "written with schema id {id}, which the reader's schema for {subject} cannot read: {reason}"
                )))
            }
        }
    }
}
