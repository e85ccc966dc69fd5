//! Avro data: plain, or in Confluent's wire format with a schema registry.
//!
//! **Guarantees.** A datum is decoded whole or not at all: missing bytes and bytes left over are errors, never nulls.
//! Data from outside never panics and takes no more time and memory than its length allows, whatever it claims.
//!
//! **Not.** Types that contain themselves; schemas that refer to types of other subjects.

mod codec;
mod default;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod registered;
mod resolution;
mod rewrite;
mod schema;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;

use ::serde::Serialize;
use ::serde::de::DeserializeOwned;

use codec::Codec;
pub use registered::{RegisteredAvro, registered_avro};
pub(super) use resolution::Resolution;
pub use schema::AvroSchema;

use super::{Serde, SerdeError};

/// See [`avro`].
pub struct Avro<T> {
    codec: Codec,
    value: PhantomData<fn() -> T>,
}

/// A plain Avro datum: nothing but the data, so both sides must know the same `schema`, a JSON text.
///
/// `T` is a `serde` struct that has the (unqualified) name and the fields of the record: `["null", X]` is an `Option`,
/// `long` is `i64`, `int` is `i32`, an enum is an enum of unit variants. Where a name differs, `serde(rename)` settles it.
///
/// A datum is decoded whole or not at all: missing bytes and bytes left over are errors, never nulls.
///
/// Data that is to outlive a change of its schema needs a registry: [`registered_avro`].
///
/// ```
/// use processor_core::serde::{Serde, avro};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Click {
///     ad: String,
///     cost_micros: i64,
/// }
///
/// let serde = avro::<Click>(r#"{"type": "record", "name": "Click", "fields": [
///     {"name": "ad", "type": "string"},
///     {"name": "cost_micros", "type": "long"}
/// ]}"#).unwrap();
/// let click = Click { ad: "shoes".to_owned(), cost_micros: 2 };
/// let mut bytes = Vec::new();
/// serde.serialize(&click, &mut bytes).unwrap();
/// assert_eq!(bytes, b"\x0ashoes\x04");
/// assert_eq!(serde.deserialize(&bytes).unwrap(), click);
/// assert!(serde.deserialize(&bytes[..4]).is_err());
/// ```
///
/// # Errors
/// When the text is no schema, or [one that is not supported](AvroSchema::parse).
pub fn avro<T>(schema: &str) -> Result<Avro<T>, SerdeError> {
    Ok(Avro {
        codec: Codec::new(AvroSchema::parse(schema)?)?,
        value: PhantomData,
    })
}

impl<T: Serialize + DeserializeOwned> Serde<T> for Avro<T> {
    fn serialize(&self, value: &T, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        self.codec.write(value, into)
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<T, SerdeError> {
        self.codec.read(bytes)
    }
}
