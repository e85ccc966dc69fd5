//! Bytes to values and back.
//!
//! A [`Serde`] is an object: it can hold a schema registry client or a dictionary. Streams carry their serdes from the
//! source on, so an operator asks for one only where the type changes.
//!
//! **Null** is what Kafka calls a missing key or value. A plain serde refuses it; [`nullable`] makes an `Option` of it.

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "avro")]
mod avro;
mod csv;
mod json;
mod primitive;
#[cfg(feature = "avro")]
pub mod registry;
mod windowed;

#[cfg(all(feature = "avro", any(test, feature = "fuzzing")))]
pub(crate) use self::avro::fuzzing as avro_fuzzing;
#[cfg(feature = "avro")]
pub use self::avro::{Avro, AvroSchema, RegisteredAvro, avro, registered_avro};
pub use self::csv::{Csv, csv};
pub use json::{Json, json};
pub use primitive::{Bytes, Int64, Unit, Utf8, bytes, int64, unit, utf8};
pub use windowed::{SessionWindowedSerde, WindowedSerde, session_windowed, windowed};

/// Why bytes are not a value, or a value has no bytes.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SerdeError {
    message: String,
    not_ready: bool,
}

impl SerdeError {
    /// An error that reads as `message`.
    pub fn new(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            not_ready: false,
        }
    }

    /// Not a verdict yet: the serde needs something that is on its way, such as a schema, so ask again.
    ///
    /// The partition of a record that gets this answer waits, the others go on. It waits up to
    /// [`max_decode_wait`](crate::StreamsConfig::max_decode_wait); then the record counts as one that cannot be decoded.
    pub fn not_ready(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            not_ready: true,
        }
    }

    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn is_not_ready(&self) -> bool {
        self.not_ready
    }
}

/// Turns a `T` into bytes and back.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no serde of `{T}`",
    label = "it reads and writes another type than `{T}`",
    note = "`utf8()` is for `String`, `int64()` for `i64`, `json()` for any serde type, and `nullable(…)` makes an `Option`"
)]
pub trait Serde<T>: Send + Sync {
    /// Appends the bytes of `value` to `into`.
    ///
    /// # Errors
    /// When the value cannot be represented.
    fn serialize(&self, value: &T, into: &mut Vec<u8>) -> Result<(), SerdeError>;

    /// The value of `bytes`.
    ///
    /// # Errors
    /// When the bytes are not a `T`.
    fn deserialize(&self, bytes: &[u8]) -> Result<T, SerdeError>;

    /// Whether `value` stands for null, which has no bytes at all.
    fn is_null(&self, value: &T) -> bool {
        let _ = value;
        false
    }

    /// The value that stands for null, where the type has one.
    fn null(&self) -> Option<T> {
        None
    }

    /// Whether [`deserialize`](Self::deserialize) may answer that it is [not ready](SerdeError::not_ready). A record that
    /// waited in vain may be passed over, which nobody can tell from its bytes later: a table with such a serde is never
    /// [rebuilt from its topic](crate::StreamsBuilder::optimize).
    fn may_wait(&self) -> bool {
        false
    }

    /// A name of the format of the bytes, where the serde knows one: two serdes of one name read each other's bytes. It
    /// stands in [plans](crate::plan), so that a store or a topic whose format changes is noticed before a start.
    fn format(&self) -> Option<String> {
        None
    }

    /// The part of a key's bytes that chooses its partition: all of it, but for windowed keys, which follow their
    /// inner key.
    fn partition_bytes<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        key
    }
}

/// A shared serde.
pub type SharedSerde<T> = Arc<dyn Serde<T>>;

/// The value of an optional run of bytes.
///
/// # Errors
/// When the bytes are not a `T`, or are missing and `T` has no null.
pub fn deserialize_nullable<T>(
    serde: &dyn Serde<T>,
    bytes: Option<&[u8]>,
) -> Result<T, SerdeError> {
    match bytes {
        Some(bytes) => serde.deserialize(bytes),
        None => serde.null().ok_or_else(|| {
            SerdeError::new("it is null, and the serde takes no null (wrap it in `nullable`)")
        }),
    }
}

/// Encodes into a reused buffer: the bytes of `value`, or `None` for null.
///
/// # Errors
/// When the value cannot be represented.
pub fn serialize_nullable<'a, T>(
    serde: &dyn Serde<T>,
    value: &T,
    buffer: &'a mut Vec<u8>,
) -> Result<Option<&'a [u8]>, SerdeError> {
    if serde.is_null(value) {
        return Ok(None);
    }
    buffer.clear();
    serde.serialize(value, buffer)?;
    Ok(Some(buffer))
}

/// Makes an `Option` of a serde's type: `None` is null.
pub fn nullable<T, S: Serde<T>>(inner: S) -> Nullable<S> {
    Nullable { inner }
}

/// See [`nullable`].
#[derive(Debug, Clone, Copy)]
pub struct Nullable<S> {
    inner: S,
}

impl<T, S: Serde<T>> Serde<Option<T>> for Nullable<S> {
    fn serialize(&self, value: &Option<T>, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        match value {
            Some(value) => self.inner.serialize(value, into),
            None => Ok(()),
        }
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<Option<T>, SerdeError> {
        self.inner.deserialize(bytes).map(Some)
    }

    fn is_null(&self, value: &Option<T>) -> bool {
        value.is_none()
    }

    fn null(&self) -> Option<Option<T>> {
        Some(None)
    }

    fn format(&self) -> Option<String> {
        self.inner.format()
    }

    fn may_wait(&self) -> bool {
        self.inner.may_wait()
    }

    fn partition_bytes<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        self.inner.partition_bytes(key)
    }
}

impl<T> Serde<T> for SharedSerde<T> {
    fn serialize(&self, value: &T, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        (**self).serialize(value, into)
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<T, SerdeError> {
        (**self).deserialize(bytes)
    }

    fn is_null(&self, value: &T) -> bool {
        (**self).is_null(value)
    }

    fn null(&self) -> Option<T> {
        (**self).null()
    }

    fn format(&self) -> Option<String> {
        (**self).format()
    }

    fn may_wait(&self) -> bool {
        (**self).may_wait()
    }

    fn partition_bytes<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        (**self).partition_bytes(key)
    }
}
