//! The journal: the one file that decides which transactions are committed and which offsets a group has.
//!
//! ```text
//! entry = u32 length of the JSON │ u32 CRC32 of the JSON │ JSON
//! ```
//!
//! **Order.** A transaction's records are in the partition files before its `Commit` entry is written, and its
//! markers come after. So at any instant: entry there: committed, missing markers are written at the next opening;
//! entry missing or torn: aborted. Offsets are in the same entry, hence the same decision.
//!
//! **Damage.** A killed process leaves the beginning of one entry behind the last whole one, a machine without power
//! perhaps zeros that were never written. Both are cut off. Anything else that is no entry is damage and an error:
//! whole entries may lie behind it, and without them what they committed would be aborted.
//!
//! **Compaction.** A journal that has grown is replaced atomically by a snapshot of what still counts. Transactions
//! below the snapshot's `next_transaction` are settled by their markers; later ones only by an entry here. The
//! entries that said how far committed records go are gone then, so the snapshot says where each partition ended, on the
//! disk: one that ends earlier at the next opening has lost something.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::batch::{self, TransactionNumber};
use super::files::{RESTORE, damaged, file_error, force, replace_file, unusable};
use crate::log::{CommittedOffset, ErrorClass, LogError, Offset, TopicPartition};

/// Offsets of one group: topic, partition, offset, metadata.
pub(super) type OffsetRows = Vec<(String, i32, Offset, String)>;

/// Ends of partitions: topic, partition, offset.
pub(super) type EndRows = Vec<(String, i32, Offset)>;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry {
    /// Starts a snapshot.
    Snapshot {
        next_transaction: TransactionNumber,
        /// Topic, partition, its end. Not in files of older programs.
        #[serde(default)]
        ends: EndRows,
    },
    /// A transactional id was taken over.
    Claim { id: String, epoch: u64 },
    /// A transaction is committed.
    Commit {
        transaction: TransactionNumber,
        /// Topic, partition, offset after the last record.
        ends: EndRows,
        offsets: Vec<(String, OffsetRows)>,
    },
    /// A group committed offsets outside a transaction.
    Offsets { group: String, offsets: OffsetRows },
    /// A topic was deleted.
    Forget { topic: String },
}

/// What the entries add up to.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Transactions below it are settled by their markers.
    pub(super) settled_below: TransactionNumber,
    /// Above all transactions the journal knows.
    pub(super) next_transaction: TransactionNumber,
    /// Committed transactions since the snapshot.
    pub(super) committed: BTreeSet<TransactionNumber>,
    /// Where partitions ended at the snapshot: what lies before is on the disk.
    pub(super) snapshot_ends: BTreeMap<TopicPartition, Offset>,
    /// Where they must end at least.
    pub(super) ends: BTreeMap<TopicPartition, Offset>,
    pub(super) epochs: BTreeMap<String, u64>,
    pub(super) offsets: BTreeMap<String, BTreeMap<TopicPartition, CommittedOffset>>,
}

impl Replayed {
    fn take_in(&mut self, entry: Entry) {
        match entry {
            Entry::Snapshot {
                next_transaction,
                ends,
            } => {
                self.settled_below = next_transaction;
                self.next_transaction = next_transaction;
                self.reach(ends);
                self.snapshot_ends.clone_from(&self.ends);
            }
            Entry::Claim { id, epoch } => {
                self.epochs.insert(id, epoch);
            }
            Entry::Commit {
                transaction,
                ends,
                offsets,
            } => {
                let next = transaction.saturating_add(1);
                self.next_transaction = self.next_transaction.max(next);
                self.committed.insert(transaction);
                self.reach(ends);
                for (group, rows) in offsets {
                    self.set_offsets(group, rows);
                }
            }
            Entry::Offsets { group, offsets } => self.set_offsets(group, offsets),
            Entry::Forget { topic } => {
                for offsets in self.offsets.values_mut() {
                    offsets.retain(|tp, _| *tp.topic != *topic);
                }
                for ends in [&mut self.ends, &mut self.snapshot_ends] {
                    ends.retain(|tp, _| *tp.topic != *topic);
                }
            }
        }
    }

    fn reach(&mut self, ends: EndRows) {
        for (topic, partition, end) in ends {
            let tp = TopicPartition::new(topic, partition);
            let known = self.ends.entry(tp).or_default();
            *known = end.max(*known);
        }
    }

    /// A transaction or an epoch that counting from 1 cannot have come to.
    fn impossible_number(&self) -> Option<u64> {
        let epochs = self.epochs.values().copied();
        let mut numbers = epochs.chain([self.next_transaction]);
        numbers.find(|number| *number > batch::LAST_TRANSACTION)
    }

    fn set_offsets(&mut self, group: String, rows: OffsetRows) {
        let offsets = self.offsets.entry(group).or_default();
        offsets.extend(
            rows.into_iter()
                .map(|(topic, partition, offset, metadata)| {
                    (
                        TopicPartition::new(topic, partition),
                        CommittedOffset { offset, metadata },
                    )
                }),
        );
    }

    /// Whether a commit marker of `transaction` may be believed.
    pub(super) fn trusts(&self, transaction: TransactionNumber) -> bool {
        transaction < self.settled_below || self.committed.contains(&transaction)
    }
}

/// Offsets as the journal writes them.
pub(super) fn rows<'a>(
    offsets: impl IntoIterator<Item = (&'a TopicPartition, &'a CommittedOffset)>,
) -> OffsetRows {
    let row = |(tp, c): (&TopicPartition, &CommittedOffset)| {
        (
            tp.topic.to_string(),
            tp.partition,
            c.offset,
            c.metadata.clone(),
        )
    };
    offsets.into_iter().map(row).collect()
}

/// The open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    /// Length after the last snapshot.
    snapshot_len: u64,
    /// A failed write could not be taken back: what the file says is unknown.
    broken: bool,
}

impl Journal {
    /// A journal is compacted when it is longer than this and than twice its snapshot.
    const COMPACT_BYTES: u64 = 4 << 20;

    /// Opens the journal at `path`, made if it is missing; a torn end is cut off with a warning.
    pub(super) fn open(path: PathBuf) -> Result<(Self, Replayed), LogError> {
        let failed = |what: &str, e: &std::io::Error| file_error(what, &path, e);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| failed("open", &e))?;
        let bytes = fs::read(&path).map_err(|e| failed("read", &e))?;
        let (entries, len) =
            decode(&bytes).map_err(|(at, fault)| damaged(&path, at as u64, fault))?;
        if len < bytes.len() {
            let dropped = bytes.len() - len;
            tracing::warn!(file = %path.display(), at = len, dropped, "incomplete end of the journal cut off");
            file.set_len(len as u64)
                .map_err(|e| failed("truncate", &e))?;
        }
        let mut replayed = Replayed {
            next_transaction: 1,
            ..Replayed::default()
        };
        entries
            .into_iter()
            .for_each(|entry| replayed.take_in(entry));
        if let Some(number) = replayed.impossible_number() {
            return Err(LogError::fatal(format!(
                "{} is damaged: {number} is no transaction and no epoch that this log ever gave; {RESTORE}",
                path.display()
            )));
        }
        let len = len as u64;
        let journal = Self {
            path,
            file,
            len,
            snapshot_len: len,
            broken: false,
        };
        Ok((journal, replayed))
    }

    /// Fails when what the file says is unknown: nothing may be decided any more.
    pub(super) fn check(&self) -> Result<(), LogError> {
        if self.broken {
            return Err(unusable(&self.path));
        }
        Ok(())
    }

    /// Fails when there is nothing in it. Every opening writes a snapshot, before there can be a topic.
    pub(super) fn check_there(&self) -> Result<(), LogError> {
        if self.len == 0 {
            return Err(LogError::fatal(format!(
                "{} is missing or empty, although the log has topics; {RESTORE}",
                self.path.display()
            )));
        }
        Ok(())
    }

    /// Writes one entry. `Err` means that it is not there, unless the class says that this is not known.
    pub(super) fn append(&mut self, entry: &Entry, sync: bool) -> Result<(), LogError> {
        self.check()?;
        let mut frame = Vec::new();
        encode(entry, &mut frame);
        let written = self.file.write_all_at(&frame, self.len);
        let written = written
            .map_err(|e| file_error("append to", &self.path, &e))
            .and_then(|()| match sync {
                true => force(&self.file, &self.path),
                false => Ok(()),
            });
        if let Err(error) = written {
            let class = match self.file.set_len(self.len) {
                Ok(()) if !sync => ErrorClass::Abortable,
                _ => {
                    self.broken = true;
                    ErrorClass::Uncertain
                }
            };
            return Err(LogError::new(class, error.message));
        }
        self.len += frame.len() as u64;
        Ok(())
    }

    /// From now on writes fail, and it is not known how.
    #[cfg(test)]
    pub(super) fn break_disk(&mut self) {
        let full = File::options().write(true).open("/dev/full");
        self.file = full.expect("the device that is always full");
    }

    /// Whether a snapshot would pay.
    pub(super) fn is_large(&self) -> bool {
        self.len > Self::COMPACT_BYTES.max(2 * self.snapshot_len)
    }

    /// Replaces the content by `entries`, atomically.
    pub(super) fn replace(&mut self, entries: &[Entry]) -> Result<(), LogError> {
        let mut bytes = Vec::new();
        entries.iter().for_each(|entry| encode(entry, &mut bytes));
        self.file = replace_file(&self.path, &bytes)?;
        self.len = bytes.len() as u64;
        self.snapshot_len = self.len;
        self.broken = false;
        Ok(())
    }
}

fn encode(entry: &Entry, out: &mut Vec<u8>) {
    let json = serde_json::to_vec(entry).expect("entries have string keys only");
    frame(&json, out);
}

pub(super) fn frame(json: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(json.len()).expect("an entry is far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(json).to_le_bytes());
    out.extend_from_slice(json);
}

/// Length and checksum of an entry.
const PREFIX: usize = 8;

/// The entries, and where the last whole one ends; behind it is nothing, or a torn end. `Err` says where damage is.
fn decode(bytes: &[u8]) -> Result<(Vec<Entry>, usize), (usize, &'static str)> {
    let mut entries = Vec::new();
    let mut at = 0;
    while let Some((entry, len)) = first(&bytes[at..]).map_err(|fault| (at, fault))? {
        if at > 0 && matches!(entry, Entry::Snapshot { .. }) {
            let fault = "a snapshot behind other entries, and each is written to a file of its own";
            return Err((at, fault));
        }
        entries.push(entry);
        at += len;
    }
    Ok((entries, at))
}

/// The entry at the start of `bytes` and its length; nothing when it was not written to its end.
fn first(bytes: &[u8]) -> Result<Option<(Entry, usize)>, &'static str> {
    let Some((len, crc, behind)) = split(bytes) else {
        return Ok(None);
    };
    if let Some(json) = behind.get(..len)
        && crc32fast::hash(json) == crc
        && let Ok(entry) = serde_json::from_slice(json)
    {
        return Ok(Some((entry, PREFIX + len)));
    }
    // Zeros to the end of the file were never written: JSON has none.
    let unwritten = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    match split(&bytes[..bytes.len() - unwritten]) {
        None => Ok(None),
        // No checksum covers the length: a wrong one makes an entry look torn that is all there.
        Some((len, crc, written)) if len > written.len() && !begins_with_json(written, crc) => {
            Ok(None)
        }
        Some((len, crc, written)) => match written.get(..len) {
            Some(json) if crc32fast::hash(json) == crc => {
                Err("an entry of no known kind; a newer version may have written it")
            }
            Some(_) => Err("an entry's checksum does not match"),
            None => Err("an entry's length is wrong"),
        },
    }
}

/// Length, checksum and what comes behind them.
fn split(bytes: &[u8]) -> Option<(usize, u32, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, behind) = rest.split_first_chunk::<4>()?;
    Some((
        u32::from_le_bytes(*len) as usize,
        u32::from_le_bytes(*crc),
        behind,
    ))
}

/// Whether whole JSON with the checksum `crc` is there.
fn begins_with_json(bytes: &[u8], crc: u32) -> bool {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<IgnoredAny>();
    matches!(values.next(), Some(Ok(_))) && crc32fast::hash(&bytes[..values.byte_offset()]) == crc
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), framed_lines(bytes)] {
        let Ok((entries, end)) = decode(&bytes) else {
            continue;
        };
        let whole = decode(&bytes[..end]);
        assert_eq!(
            whole,
            Ok((entries.clone(), end)),
            "what is torn behind changes nothing"
        );
        let mut written = Vec::new();
        entries.iter().for_each(|entry| encode(entry, &mut written));
        assert_eq!(decode(&written), Ok((entries.clone(), written.len())));
        check_cut_and_flipped(&written, &entries, crc32fast::hash(&bytes) as usize);
        let mut replayed = Replayed::default();
        entries
            .into_iter()
            .for_each(|entry| replayed.take_in(entry));
        assert!(replayed.committed.iter().all(|n| replayed.trusts(*n)));
    }
}

/// What was `written` may end anywhere, then its first entries are there; with another bit it is damaged. `place` chooses
/// where.
#[cfg(any(test, feature = "fuzzing"))]
fn check_cut_and_flipped(written: &[u8], entries: &[Entry], place: usize) {
    if written.is_empty() {
        return;
    }
    let at = place % written.len();
    let mut torn = written[..at].to_vec();
    for unwritten in [0, place % 100] {
        torn.resize(at + unwritten, 0);
        let (left, end) = decode(&torn).expect("only its end is missing");
        assert!(end <= at && entries.starts_with(&left));
    }
    let mut flipped = written.to_vec();
    flipped[at] ^= 1 << (place / written.len() % 8);
    let (damaged, _) = decode(&flipped).expect_err("a bit is another one");
    assert!((damaged..written.len()).contains(&at));
}

#[cfg(any(test, feature = "fuzzing"))]
fn framed_lines(bytes: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        frame(line, &mut framed);
    }
    framed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let rows = || vec![("t{\"}".to_owned(), 3, 8, "metadata".to_owned())];
        vec![
            Entry::Snapshot {
                next_transaction: 5,
                ends: vec![("t".into(), 0, 200)],
            },
            Entry::Claim {
                id: "p".into(),
                epoch: 2,
            },
            Entry::Commit {
                transaction: 5,
                ends: vec![("t".into(), 0, 300)],
                offsets: vec![("g".into(), rows())],
            },
            Entry::Offsets {
                group: "g".into(),
                offsets: rows(),
            },
            Entry::Forget { topic: "t".into() },
        ]
    }

    #[test]
    fn entries_are_cut_at_any_byte_and_damaged_by_any_bit() {
        let entries = entries();
        let mut written = Vec::new();
        entries.iter().for_each(|entry| encode(entry, &mut written));
        assert_eq!(decode(&written), Ok((entries.clone(), written.len())));
        for place in 0..8 * written.len() {
            check_cut_and_flipped(&written, &entries, place);
        }
    }

    /// Found by the fuzzer: the commits before it were in force at one opening, and not at the next.
    #[test]
    fn a_snapshot_behind_other_entries_is_damage() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut written = Vec::new();
        for entry in entries().into_iter().cycle().take(6) {
            encode(&entry, &mut written);
        }
        fs::write(&path, written).unwrap();
        let error = Journal::open(path).map(|_| ()).unwrap_err();
        assert!(error.message.contains("snapshot behind"), "{error}");
    }

    #[test]
    fn an_entry_of_a_newer_version_is_an_error_and_no_torn_end() {
        let mut written = Vec::new();
        frame(br#"{"something":{"new":1}}"#, &mut written);
        let (at, fault) = decode(&written).unwrap_err();
        assert!(at == 0 && fault.contains("newer version"), "{fault}");
    }
}
