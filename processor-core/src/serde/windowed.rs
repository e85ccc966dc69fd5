//! Keys in a time window, in Kafka Streams' format: `key ‖ start (8 bytes, big endian)`.

use super::{Serde, SerdeError};
use crate::record::Windowed;

/// See [`windowed`].
#[derive(Debug, Clone, Copy)]
pub struct WindowedSerde<S> {
    inner: S,
    size_ms: i64,
}

/// The key of a window of `size_ms`: `key ‖ start`. The end is not written; it is `start + size_ms`.
pub fn windowed<K, S: Serde<K>>(inner: S, size_ms: i64) -> WindowedSerde<S> {
    WindowedSerde { inner, size_ms }
}

impl<K, S: Serde<K>> Serde<Windowed<K>> for WindowedSerde<S> {
    fn serialize(&self, value: &Windowed<K>, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        self.inner.serialize(&value.key, into)?;
        into.extend_from_slice(&value.start.to_be_bytes());
        Ok(())
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<Windowed<K>, SerdeError> {
        let (key, start) = bytes
            .split_last_chunk::<8>()
            .ok_or_else(|| SerdeError::new("a windowed key ends in an 8-byte window start"))?;
        let start = i64::from_be_bytes(*start);
        let key = self.inner.deserialize(key)?;
        Ok(Windowed {
            key,
            start,
            end: start.saturating_add(self.size_ms),
        })
    }

    fn partition_bytes<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        self.inner
            .partition_bytes(&key[..key.len().saturating_sub(8)])
    }
}
