//! Schema registries: where writers leave their schemas and readers find them by id.
//!
//! - [`TopicRegistry`]: on a compacted topic of the log itself, no server.
//! - `ServerRegistry` (feature `schema-registry`): a server with Confluent's interface, such as Confluent's own or
//!   Apicurio.

mod background;
mod contents;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "schema-registry")]
mod server;
mod topic;

use std::fmt;

pub use error::RegistryError;
#[cfg(feature = "schema-registry")]
pub use server::{Credentials, ServerRegistry, ServerRegistryOptions};
pub use topic::{TopicRegistry, TopicRegistryOptions};

use super::AvroSchema;

/// What stands for a schema in the bytes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchemaId(pub u32);

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The answer to a [lookup](SchemaRegistry::schema).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Here it is.
    Known(AvroSchema),
    /// It is on its way; ask again.
    Pending,
    /// There is no such schema, for this reason.
    Unknown(String),
}

/// What a new schema must be able to do with the data of the one before it under the same subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compatibility {
    /// Read all of it.
    #[default]
    Backward,
    /// Nothing.
    None,
}

/// A registry of Avro schemas.
///
/// **Guarantees.** One id has one schema, for ever. Whoever reads an id in a record that was written with
/// [`register`](Self::register) finds its schema.
///
/// ```
/// use processor_core::log::embedded::EmbeddedLog;
/// use processor_core::serde::AvroSchema;
/// use processor_core::serde::registry::{
///     Lookup, RegistryError, SchemaRegistry, TopicRegistry, TopicRegistryOptions,
/// };
/// use std::sync::Arc;
///
/// let log = Arc::new(EmbeddedLog::in_memory());
/// let registry = TopicRegistry::open(log, &TopicRegistryOptions::default()).unwrap();
/// let text = AvroSchema::parse(r#""string""#).unwrap();
/// let id = registry.register("names-value", text).unwrap();
/// assert_eq!(registry.schema(id), Lookup::Known(text));
///
/// let number = AvroSchema::parse(r#""long""#).unwrap();
/// let refused = registry.register("names-value", number);
/// assert!(matches!(refused, Err(RegistryError::Incompatible { .. })));
/// ```
pub trait SchemaRegistry: Send + Sync {
    /// The id of `schema`, which is registered under `subject` unless it was. Blocks until that is done.
    ///
    /// # Errors
    /// When the schema is refused, or the registry does not answer in time.
    fn register(&self, subject: &str, schema: AvroSchema) -> Result<SchemaId, RegistryError>;

    /// The schema of `id`. Never blocks: what is not here is fetched in the background, and
    /// [pending](Lookup::Pending) until then.
    fn schema(&self, id: SchemaId) -> Lookup;
}
