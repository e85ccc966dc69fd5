//! Serdes of plain types, with the bytes of Kafka's own serializers.

use super::{Serde, SerdeError};

/// UTF-8 text, as Kafka's `StringSerializer`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Utf8;

/// UTF-8 text, as Kafka's `StringSerializer`.
#[must_use]
pub fn utf8() -> Utf8 {
    Utf8
}

impl Serde<String> for Utf8 {
    fn format(&self) -> Option<String> {
        Some("utf8".to_owned())
    }

    fn serialize(&self, value: &String, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        into.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<String, SerdeError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| SerdeError::new(format_args!("not UTF-8: {error}")))?;
        Ok(text.to_owned())
    }
}

/// A 64-bit integer in 8 bytes, big endian, as Kafka's `LongSerializer`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Int64;

/// A 64-bit integer in 8 bytes, big endian, as Kafka's `LongSerializer`.
#[must_use]
pub fn int64() -> Int64 {
    Int64
}

impl Serde<i64> for Int64 {
    fn format(&self) -> Option<String> {
        Some("int64".to_owned())
    }

    fn serialize(&self, value: &i64, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        into.extend_from_slice(&value.to_be_bytes());
        Ok(())
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<i64, SerdeError> {
        let bytes = bytes.try_into().map_err(|_| {
            SerdeError::new(format_args!(
                "a 64-bit integer has 8 bytes, these are {}",
                bytes.len()
            ))
        })?;
        Ok(i64::from_be_bytes(bytes))
    }
}

/// Bytes as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bytes;

/// Bytes as they are.
#[must_use]
pub fn bytes() -> Bytes {
    Bytes
}

impl Serde<Vec<u8>> for Bytes {
    fn format(&self) -> Option<String> {
        Some("bytes".to_owned())
    }

    fn serialize(&self, value: &Vec<u8>, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        into.extend_from_slice(value);
        Ok(())
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<Vec<u8>, SerdeError> {
        Ok(bytes.to_vec())
    }
}

/// Nothing, in no bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unit;

/// Nothing, in no bytes: for an operator that would keep a value, where there is none to keep.
#[must_use]
pub fn unit() -> Unit {
    Unit
}

impl Serde<()> for Unit {
    fn format(&self) -> Option<String> {
        Some("unit".to_owned())
    }

    fn serialize(&self, (): &(), _: &mut Vec<u8>) -> Result<(), SerdeError> {
        Ok(())
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<(), SerdeError> {
        if !bytes.is_empty() {
            let length = bytes.len();
            return Err(SerdeError::new(format_args!(
                "nothing has no bytes, these are {length}"
            )));
        }
        Ok(())
    }
}
