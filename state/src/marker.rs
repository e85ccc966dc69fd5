//! What a task knew when its stores were last applied.
//!
//! Written after every store of the task reports that all is applied, so it may be older than the
//! stores, never newer. Restoring from it replays the changelog's tail over what is there.
//!
//! ```text
//!  version (1) ‖ format hash (8) ‖ 3 × [ count (4) ‖ count × [ length (4) ‖ name ‖ number (8) ] ] ‖ CRC-32 (4)
//! ```
//! The maps are changelog offsets, input offsets and stream times; numbers are big-endian. A marker
//! that does not check out is reported as corrupt, never half read.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{Database, StateError};

const TREE: &str = "__markers";
const VERSION: u8 = 1;

/// Progress of one task, as of its last applied commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marker {
    /// Store → next changelog offset to restore from.
    pub changelog_offsets: BTreeMap<String, i64>,
    /// Topic-partition → next input offset.
    pub input_offsets: BTreeMap<String, i64>,
    /// Operator or source → stream time.
    pub stream_times: BTreeMap<String, i64>,
    /// Hash of the plan that laid out the stores.
    pub format_hash: u64,
}

impl Marker {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.format_hash.to_be_bytes());
        for map in [
            &self.changelog_offsets,
            &self.input_offsets,
            &self.stream_times,
        ] {
            bytes.extend_from_slice(&(map.len() as u32).to_be_bytes());
            for (name, number) in map {
                bytes.extend_from_slice(&(name.len() as u32).to_be_bytes());
                bytes.extend_from_slice(name.as_bytes());
                bytes.extend_from_slice(&number.to_be_bytes());
            }
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
        bytes
    }

    /// Reads the stored form; none when it is torn, garbage or of another version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
            return None;
        }
        let (version, mut rest) = body.split_first()?;
        if *version != VERSION {
            return None;
        }
        let format_hash = u64::from_be_bytes(take(&mut rest)?);
        let mut map = || decode_map(&mut rest);
        let (changelog_offsets, input_offsets, stream_times) = (map()?, map()?, map()?);
        let marker = Self {
            changelog_offsets,
            input_offsets,
            stream_times,
            format_hash,
        };
        rest.is_empty().then_some(marker)
    }
}

fn decode_map(rest: &mut &[u8]) -> Option<BTreeMap<String, i64>> {
    let count = u32::from_be_bytes(take(rest)?);
    let mut map = BTreeMap::new();
    for _ in 0..count {
        let length = u32::from_be_bytes(take(rest)?) as usize;
        let (name, tail) = rest.split_at_checked(length)?;
        *rest = tail;
        let name = String::from_utf8(name.to_vec()).ok()?;
        map.insert(name, i64::from_be_bytes(take(rest)?));
    }
    Some(map)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// The marker of a task, or none if it never wrote one.
///
/// # Errors
/// Whatever the backend reports, or [`StateError::Corrupt`]: then wipe the task's stores.
pub fn read_marker(db: &dyn Database, task: &str) -> Result<Option<Marker>, StateError> {
    let Some(bytes) = db.tree(TREE)?.get(task.as_bytes())? else {
        return Ok(None);
    };
    let corrupt = || StateError::corrupt(task, "the task's marker does not check out");
    Marker::decode(&bytes).ok_or_else(corrupt).map(Some)
}

/// Replaces the marker of a task. Call it when every store of the task has been applied.
///
/// # Errors
/// Whatever the backend reports.
pub fn write_marker(db: &dyn Database, task: &str, marker: &Marker) -> Result<(), StateError> {
    let key = Bytes::copy_from_slice(task.as_bytes());
    db.tree(TREE)?.apply(&[(key, Some(marker.encode().into()))])
}

/// Forgets a task's progress. Call it before its stores are wiped.
///
/// # Errors
/// Whatever the backend reports.
pub fn remove_marker(db: &dyn Database, task: &str) -> Result<(), StateError> {
    db.tree(TREE)?
        .apply(&[(Bytes::copy_from_slice(task.as_bytes()), None)])
}
