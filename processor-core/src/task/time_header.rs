//! The time that travels with the records of a repartition topic.
//!
//! Behind a repartition topic records of several upstream tasks interleave, and one of them may be far ahead. So each
//! record says which task sent it and how far that task's time had come, and a reader takes the *minimum* over all
//! upstream tasks. A task whose records all went elsewhere sends a marker instead: a record with the header alone.
//!
//! ```text
//! header "__time": kind (1 byte: 0 record, 1 marker) ‖ upstream task's partition (4, big endian) ‖ time in ms (8, big endian)
//! ```

use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use crate::log::{Header, Headers, Timestamp};

static NAME: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("__time"));

/// What a record of a repartition topic says about its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeHeader {
    /// Partition of the upstream task.
    pub task: i32,
    /// Its time.
    pub time: Timestamp,
    /// Whether this record is a marker, with nothing but the time.
    pub marker: bool,
}

impl TimeHeader {
    /// The header to send.
    pub(crate) fn encode(self) -> Header {
        let mut bytes = [0; 13];
        bytes[0] = u8::from(self.marker);
        bytes[1..5].copy_from_slice(&self.task.to_be_bytes());
        bytes[5..].copy_from_slice(&self.time.to_be_bytes());
        Header {
            name: Arc::clone(&NAME),
            value: Some(Bytes::copy_from_slice(&bytes)),
        }
    }

    /// Takes the header out of `headers`; `None` when there is none that this version understands.
    pub(crate) fn take(headers: &mut Headers) -> Option<Self> {
        let at = headers.iter().rposition(|header| *header.name == **NAME)?;
        let header = headers.remove(at);
        let bytes: [u8; 13] = header.value.as_deref()?.try_into().ok()?;
        let (kind, rest) = bytes.split_first()?;
        let (task, time) = rest.split_first_chunk::<4>()?;
        Some(Self {
            task: i32::from_be_bytes(*task),
            time: Timestamp::from_be_bytes(time.try_into().ok()?),
            marker: *kind == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_taken_out_and_the_users_headers_stay() {
        let sent = TimeHeader {
            task: 3,
            time: 1_704_067_200_123,
            marker: true,
        };
        let user = Header {
            name: Arc::from("trace"),
            value: Some(Bytes::from_static(b"7")),
        };
        let mut headers = vec![user.clone(), sent.encode()];
        assert_eq!(TimeHeader::take(&mut headers), Some(sent));
        assert_eq!(headers, [user]);
        assert_eq!(TimeHeader::take(&mut headers), None);
    }
}
