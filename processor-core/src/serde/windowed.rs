//! Keys in a window, in Kafka Streams' formats: `key ‖ start` in a time window, `key ‖ end ‖ start` in a session. Times
//! are 8 bytes, big endian.

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
    fn format(&self) -> Option<String> {
        Some(format!("windowed {}", self.inner.format()?))
    }

    fn may_wait(&self) -> bool {
        self.inner.may_wait()
    }

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

/// See [`session_windowed`].
#[derive(Debug, Clone, Copy)]
pub struct SessionWindowedSerde<S> {
    inner: S,
}

/// The key of a session: `key ‖ end ‖ start`.
pub fn session_windowed<K, S: Serde<K>>(inner: S) -> SessionWindowedSerde<S> {
    SessionWindowedSerde { inner }
}

impl<K, S: Serde<K>> Serde<Windowed<K>> for SessionWindowedSerde<S> {
    fn format(&self) -> Option<String> {
        Some(format!("session windowed {}", self.inner.format()?))
    }

    fn may_wait(&self) -> bool {
        self.inner.may_wait()
    }

    fn serialize(&self, value: &Windowed<K>, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        self.inner.serialize(&value.key, into)?;
        into.extend_from_slice(&value.end.to_be_bytes());
        into.extend_from_slice(&value.start.to_be_bytes());
        Ok(())
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<Windowed<K>, SerdeError> {
        let short =
            || SerdeError::new("a session's key ends in its end and start, of 8 bytes each");
        let (rest, start) = bytes.split_last_chunk::<8>().ok_or_else(short)?;
        let (key, end) = rest.split_last_chunk::<8>().ok_or_else(short)?;
        Ok(Windowed {
            key: self.inner.deserialize(key)?,
            start: i64::from_be_bytes(*start),
            end: i64::from_be_bytes(*end),
        })
    }

    fn partition_bytes<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        self.inner
            .partition_bytes(&key[..key.len().saturating_sub(16)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serde::utf8;

    #[test]
    fn keys_are_written_as_kafka_streams_writes_them_and_follow_the_inner_key() {
        let key = Windowed {
            key: "a".to_owned(),
            start: 1,
            end: 3,
        };
        let mut bytes = Vec::new();
        let window = windowed(utf8(), 2);
        window.serialize(&key, &mut bytes).unwrap();
        assert_eq!(bytes, [97, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(window.partition_bytes(&bytes), b"a");
        assert_eq!(window.deserialize(&bytes).unwrap(), key);

        bytes.clear();
        let session = session_windowed(utf8());
        session.serialize(&key, &mut bytes).unwrap();
        let expected = [97, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(bytes, expected);
        assert_eq!(session.partition_bytes(&bytes), b"a");
        assert_eq!(session.deserialize(&bytes).unwrap(), key);
        assert!(session.deserialize(&bytes[2..]).is_err());
    }
}
