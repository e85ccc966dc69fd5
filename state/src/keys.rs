//! How keys are written, in the changelog and locally.
//!
//! Changelog keys are Kafka Streams' (see [`Change`](crate::Change)). Local keys put a segment of time
//! first, so that expiry deletes a range, and the length of the key before the key, so that one key's
//! entries are one range even when another key starts with it:
//!
//! ```text
//!  window    segment (8) ‖ length (4) ‖ key ‖ start (8)             → timestamp (8) ‖ value
//!  session   segment (8) ‖ length (4) ‖ key ‖ end (8) ‖ start (8)   → timestamp (8) ‖ value
//!  join      segment (8) ‖ length (4) ‖ key ‖ block (4)             → block.rs
//!  versioned length (4) ‖ key ‖ timestamp (8)                       → versioned.rs
//! ```
//!
//! Local times have their sign bit flipped, so that bytes sort as numbers do.

use bytes::Bytes;

use crate::Stamped;

/// Where in its key's time line an entry sits: window `(start, 0)`, session `(end, start)`, join
/// `(timestamp, sequence)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) major: i64,
    pub(crate) minor: i64,
}

impl Slot {
    pub(crate) fn first(major: i64) -> Self {
        Self {
            major,
            minor: i64::MIN,
        }
    }

    pub(crate) fn last(major: i64) -> Self {
        Self {
            major,
            minor: i64::MAX,
        }
    }
}

/// Which of the formats above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Window,
    Session,
    Join,
}

impl Kind {
    fn changelog_suffix(self) -> usize {
        match self {
            Self::Window | Self::Join => 12,
            Self::Session => 16,
        }
    }

    pub(crate) fn write_changelog_key(self, buffer: &mut Vec<u8>, key: &[u8], slot: Slot) {
        buffer.clear();
        buffer.extend_from_slice(key);
        buffer.extend_from_slice(&slot.major.to_be_bytes());
        match self {
            Self::Window | Self::Join => {
                // NOTE: a join's sequence fits; it entered as a u32.
                buffer.extend_from_slice(&(slot.minor as u32).to_be_bytes());
            }
            Self::Session => buffer.extend_from_slice(&slot.minor.to_be_bytes()),
        }
    }

    pub(crate) fn parse_changelog_key(self, bytes: &[u8]) -> Option<(&[u8], Slot)> {
        let (key, suffix) = bytes.split_at(bytes.len().checked_sub(self.changelog_suffix())?);
        let (major, minor) = suffix.split_first_chunk::<8>()?;
        let minor = match self {
            Self::Window => 0,
            Self::Join => i64::from(u32::from_be_bytes(minor.try_into().ok()?)),
            Self::Session => i64::from_be_bytes(minor.try_into().ok()?),
        };
        Some((
            key,
            Slot {
                major: i64::from_be_bytes(*major),
                minor,
            },
        ))
    }

    pub(crate) fn write_row_key(self, buffer: &mut Vec<u8>, segment: i64, key: &[u8], slot: Slot) {
        write_row_prefix(buffer, segment, key);
        buffer.extend_from_slice(&ordered(slot.major));
        if self == Self::Session {
            buffer.extend_from_slice(&ordered(slot.minor));
        }
    }

    /// The key and slot of a window or session row.
    pub(crate) fn parse_row_key(self, bytes: &[u8]) -> Option<(&[u8], Slot)> {
        let (_segment, rest) = bytes.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (key, suffix) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        Some((key, self.parse_suffix(suffix)?))
    }

    /// The slot at the end of a window or session row's key.
    pub(crate) fn parse_suffix(self, suffix: &[u8]) -> Option<Slot> {
        let (major, minor) = suffix.split_first_chunk::<8>()?;
        let minor = match self {
            Self::Session => from_ordered(minor.try_into().ok()?),
            Self::Window | Self::Join => minor.is_empty().then_some(0)?,
        };
        Some(Slot {
            major: from_ordered(*major),
            minor,
        })
    }
}

/// Everything of a key in a segment starts with this.
pub(crate) fn write_row_prefix(buffer: &mut Vec<u8>, segment: i64, key: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(&ordered(segment));
    // NOTE: a Kafka record cannot hold a key of 4 GiB.
    buffer.extend_from_slice(&(key.len() as u32).to_be_bytes());
    buffer.extend_from_slice(key);
}

pub(crate) fn ordered(number: i64) -> [u8; 8] {
    (number as u64 ^ 1 << 63).to_be_bytes()
}

pub(crate) fn from_ordered(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ 1 << 63) as i64
}

/// A stored value: its timestamp, then itself.
pub(crate) fn stamp(timestamp: i64, value: &[u8]) -> Bytes {
    let mut row = Vec::with_capacity(8 + value.len());
    row.extend_from_slice(&timestamp.to_be_bytes());
    row.extend_from_slice(value);
    row.into()
}

pub(crate) fn unstamp(row: Bytes) -> Option<Stamped> {
    let timestamp = i64::from_be_bytes(*row.first_chunk::<8>()?);
    Some(Stamped {
        timestamp,
        value: row.slice(8..),
    })
}

/// The least byte string greater than every one that starts with `prefix`; none if there is no such.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
