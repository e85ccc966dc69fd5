//! How one side of a join packs the entries of a key in a segment.
//!
//! ```text
//!  tail   (block 0)     version (1) ‖ full blocks (4) ‖ full × [ first (8) ‖ last (8) ] ‖ entries
//!  full   (block 1…n)   entries
//!  entry                timestamp (8) ‖ sequence (4) ‖ length (4) ‖ value
//! ```
//! Entries are sorted within a block. The tail's directory says which times each full block covers, so
//! one read finds out which others matter; nearly every key has a tail only. Full blocks may overlap.

use bytes::Bytes;

use crate::keys::Slot;

/// A tail larger than this is cut into full blocks.
pub(crate) const BLOCK_BYTES: usize = 8 << 10;
const VERSION: u8 = 1;
const HEADER: usize = 16;

/// A decoded entry; the value shares the block's memory.
pub(crate) type Packed = (Slot, Bytes);

/// Block 0 of a key in a segment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    /// First and last timestamp of each full block; block number = index + 1.
    pub(crate) spans: Vec<(i64, i64)>,
    pub(crate) entries: Vec<Packed>,
}

impl Tail {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&(self.spans.len() as u32).to_be_bytes());
        for (first, last) in &self.spans {
            bytes.extend_from_slice(&first.to_be_bytes());
            bytes.extend_from_slice(&last.to_be_bytes());
        }
        encode_into(&mut bytes, &self.entries);
        bytes.into()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let (spans, at) = read_spans(bytes)?;
        let entries = decode_entries(&bytes.slice(at..), i64::MIN, i64::MAX)?;
        Some(Self {
            spans: spans.collect(),
            entries,
        })
    }
}

/// The directory of a tail, and where its entries begin.
pub(crate) fn read_spans(bytes: &[u8]) -> Option<(impl Iterator<Item = (i64, i64)>, usize)> {
    let (version, rest) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let length = (u32::from_be_bytes(*count) as usize).checked_mul(16)?;
    let (spans, _) = rest.split_at_checked(length)?;
    let number = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().expect("chunks are 16 long"));
    let spans = spans
        .chunks_exact(16)
        .map(move |span| (number(&span[..8]), number(&span[8..])));
    Some((spans, 5 + length))
}

pub(crate) fn encode_entries(entries: &[Packed]) -> Bytes {
    let mut bytes = Vec::with_capacity(size(entries));
    encode_into(&mut bytes, entries);
    bytes.into()
}

fn encode_into(bytes: &mut Vec<u8>, entries: &[Packed]) {
    bytes.reserve(size(entries));
    for (slot, value) in entries {
        bytes.extend_from_slice(&slot.major.to_be_bytes());
        bytes.extend_from_slice(&(slot.minor as u32).to_be_bytes());
        bytes.extend_from_slice(&(value.len() as u32).to_be_bytes());
        bytes.extend_from_slice(value);
    }
}

/// The entries with a timestamp between two, both included; none when the bytes are not entries.
pub(crate) fn decode_entries(bytes: &Bytes, from: i64, to: i64) -> Option<Vec<Packed>> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let header = bytes.get(at..at + HEADER)?;
        let major = i64::from_be_bytes(header[..8].try_into().ok()?);
        let minor = i64::from(u32::from_be_bytes(header[8..12].try_into().ok()?));
        let length = u32::from_be_bytes(header[12..].try_into().ok()?) as usize;
        let end = (at + HEADER)
            .checked_add(length)
            .filter(|end| *end <= bytes.len())?;
        if (from..=to).contains(&major) {
            entries.push((Slot { major, minor }, bytes.slice(at + HEADER..end)));
        }
        at = end;
    }
    Some(entries)
}

pub(crate) fn size(entries: &[Packed]) -> usize {
    entries.iter().map(|(_, value)| HEADER + value.len()).sum()
}

/// How many leading entries fit a block; at least one.
pub(crate) fn fitting(entries: &[Packed]) -> usize {
    let mut bytes = 0;
    let full = entries.iter().position(|(_, value)| {
        bytes += HEADER + value.len();
        bytes > BLOCK_BYTES
    });
    full.unwrap_or(entries.len()).max(1)
}

/// Sets or removes one entry of a sorted list.
pub(crate) fn set(entries: &mut Vec<Packed>, slot: Slot, value: Option<Bytes>) {
    let at = match entries.last() {
        Some((last, _)) if *last < slot => Err(entries.len()),
        _ => entries.binary_search_by_key(&slot, |entry| entry.0),
    };
    match (at, value) {
        (Ok(at), Some(value)) => entries[at].1 = value,
        (Ok(at), None) => {
            entries.remove(at);
        }
        (Err(at), Some(value)) => entries.insert(at, (slot, value)),
        (Err(_), None) => {}
    }
}
