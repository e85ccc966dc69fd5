//! JSON values through `serde`.

use std::marker::PhantomData;

use ::serde::Serialize;
use ::serde::de::DeserializeOwned;

use super::{Serde, SerdeError};

/// JSON of any `serde` type, in one line.
pub struct Json<T>(PhantomData<fn() -> T>);

/// JSON of any `serde` type.
///
/// ```
/// use processor_core::serde::{Serde, json};
/// let serde = json::<Vec<u32>>();
/// let mut bytes = Vec::new();
/// serde.serialize(&vec![1, 2], &mut bytes).unwrap();
/// assert_eq!(bytes, b"[1,2]");
/// ```
#[must_use]
pub fn json<T>() -> Json<T> {
    Json(PhantomData)
}

impl<T: Serialize + DeserializeOwned> Serde<T> for Json<T> {
    fn format(&self) -> Option<String> {
        Some("json".to_owned())
    }

    fn serialize(&self, value: &T, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        serde_json::to_writer(into, value)
            .map_err(|error| SerdeError::new(format_args!("cannot write as JSON: {error}")))
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<T, SerdeError> {
        serde_json::from_slice(bytes)
            .map_err(|error| SerdeError::new(format_args!("not the expected JSON: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without serde_json's `float_roundtrip` it comes back one bit off, and a restored row is not the one that was kept.
    #[test]
    fn a_fraction_comes_back_to_the_last_bit() {
        let serde = json::<f64>();
        let mut bytes = Vec::new();
        serde
            .serialize(&31.245_270_191_439_438, &mut bytes)
            .unwrap();
        let back = serde.deserialize(&bytes).unwrap();
        assert_eq!(back.to_bits(), 31.245_270_191_439_438_f64.to_bits());
    }
}
