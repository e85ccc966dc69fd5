//! The time that travels with the records of a repartition topic.
//!
//! Behind a repartition topic records of several upstream tasks interleave, and one of them may be far ahead. So each
//! record says which task sent it and how far that task's time had come, and a reader takes the *minimum* over all
//! upstream tasks. A task whose records all went elsewhere sends a marker instead: a record with the header alone. One
//! whose inputs are idle sends a marker with a second header, and readers leave it out of the minimum until it sends
//! something else.
//!
//! ```text
//! header "__time": kind (1 byte: 0 record, 1 marker) ‖ upstream task's partition (4, big endian) ‖ time in ms (8, big endian)
//! header "__idle": version (1 byte: 1); only in markers
//! ```
//! Whoever does not know `__idle`, or its version, takes such a marker for a plain one.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use crate::log::{Header, Headers, Timestamp};

static TIME: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("__time"));
static IDLE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("__idle"));
const IDLE_VERSION: &[u8] = &[1];

/// What a record of a repartition topic says about its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeHeader {
    /// Partition of the upstream task.
    pub task: i32,
    /// Its time; −1 while it has seen no record.
    pub time: Timestamp,
    /// What it is that carries the header.
    pub kind: TimeKind,
}

/// What carries a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeKind {
    /// A record of the stream.
    Record,
    /// A record with nothing but the time.
    Marker,
    /// The same, from a task whose inputs are idle.
    Idle,
}

impl TimeKind {
    /// Whether it is no record of the stream.
    pub(crate) fn is_marker(self) -> bool {
        self != Self::Record
    }

    pub(crate) fn is_idle(self) -> bool {
        self == Self::Idle
    }
}

impl TimeHeader {
    /// Adds the header, or both, to those of what is sent.
    pub(crate) fn put(self, headers: &mut Headers) {
        let mut bytes = [0; 13];
        bytes[0] = u8::from(self.kind.is_marker());
        bytes[1..5].copy_from_slice(&self.task.to_be_bytes());
        bytes[5..].copy_from_slice(&self.time.to_be_bytes());
        headers.push(Header {
            name: Arc::clone(&TIME),
            value: Some(Bytes::copy_from_slice(&bytes)),
        });
        if self.kind.is_idle() {
            headers.push(Header {
                name: Arc::clone(&IDLE),
                value: Some(Bytes::from_static(IDLE_VERSION)),
            });
        }
    }

    /// The task that sent a record with these headers.
    pub(crate) fn sender(headers: &Headers) -> Option<i32> {
        let header = headers.iter().rev().find(|header| *header.name == **TIME)?;
        let task = header.value.as_deref()?.get(1..)?.first_chunk::<4>()?;
        Some(i32::from_be_bytes(*task))
    }

    /// Takes the header out of `headers`; `None` when there is none that this version understands.
    pub(crate) fn take(headers: &mut Headers) -> Option<Self> {
        let at = headers.iter().rposition(|header| *header.name == **TIME)?;
        let header = headers.remove(at);
        let bytes: [u8; 13] = header.value.as_deref()?.try_into().ok()?;
        let (kind, rest) = bytes.split_first()?;
        let (task, time) = rest.split_first_chunk::<4>()?;
        let says_idle = |header: &Header| {
            *header.name == **IDLE && header.value.as_deref() == Some(IDLE_VERSION)
        };
        let kind = match kind {
            1 if headers.iter().any(says_idle) => TimeKind::Idle,
            1 => TimeKind::Marker,
            _ => TimeKind::Record,
        };
        Some(Self {
            task: i32::from_be_bytes(*task),
            time: Timestamp::from_be_bytes(time.try_into().ok()?),
            kind,
        })
    }
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_any(time: &[u8], idle: Option<&[u8]>) {
    let header = |name: &Arc<str>, value: &[u8]| Header {
        name: Arc::clone(name),
        value: Some(Bytes::copy_from_slice(value)),
    };
    let mut headers = vec![header(&TIME, time)];
    headers.extend(idle.map(|idle| header(&IDLE, idle)));
    let sender = TimeHeader::sender(&headers);
    let Some(taken) = TimeHeader::take(&mut headers) else {
        return;
    };
    assert_eq!(sender, Some(taken.task));
    let mut written = Headers::new();
    taken.put(&mut written);
    assert_eq!(TimeHeader::take(&mut written), Some(taken));
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME_MS: Timestamp = 1_704_067_200_123;

    fn header(name: &str, value: &'static [u8]) -> Header {
        Header {
            name: Arc::from(name),
            value: Some(Bytes::from_static(value)),
        }
    }

    #[test]
    fn the_header_is_taken_out_and_the_users_headers_stay() {
        for kind in [TimeKind::Record, TimeKind::Marker] {
            let sent = TimeHeader {
                task: 3,
                time: TIME_MS,
                kind,
            };
            let user = header("trace", b"7");
            let mut headers = vec![user.clone()];
            sent.put(&mut headers);
            assert_eq!(TimeHeader::sender(&headers), Some(3));
            assert_eq!(TimeHeader::take(&mut headers), Some(sent));
            assert_eq!(headers, [user]);
            assert_eq!(TimeHeader::take(&mut headers), None);
        }
    }

    #[test]
    fn bytes_of_the_first_version_are_understood_and_written() {
        let bytes = b"\x01\0\0\0\x03\0\0\x01\x8c\xc2Q\xf4\x7b";
        let marker = TimeHeader {
            task: 3,
            time: TIME_MS,
            kind: TimeKind::Marker,
        };
        assert_eq!(
            TimeHeader::take(&mut vec![header("__time", bytes)]),
            Some(marker)
        );
        let mut written = Headers::new();
        marker.put(&mut written);
        assert_eq!(written, [header("__time", bytes)]);
    }

    #[test]
    fn an_idle_marker_is_a_plain_one_for_whoever_does_not_know_its_second_header() {
        let idle = TimeHeader {
            task: 3,
            time: -1,
            kind: TimeKind::Idle,
        };
        let mut headers = Headers::new();
        idle.put(&mut headers);
        assert_eq!(TimeHeader::take(&mut headers.clone()), Some(idle));
        // The first version looks at "__time" alone; a later one may say more than this one understands.
        for second in [None, Some(header("__idle", &[2]))] {
            let mut headers: Headers = headers[..1].iter().cloned().chain(second).collect();
            let plain = TimeHeader {
                kind: TimeKind::Marker,
                ..idle
            };
            assert_eq!(TimeHeader::take(&mut headers), Some(plain));
        }
    }
}
