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
//! **Compaction.** A journal that has grown is replaced atomically by a snapshot of what still counts. Transactions
//! below the snapshot's `next_transaction` are settled by their markers; later ones only by an entry here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::batch::{self, TransactionNumber};
use super::segment::file_error;
use crate::log::{CommittedOffset, ErrorClass, LogError, Offset, TopicPartition};

/// Offsets of one group: topic, partition, offset, metadata.
pub(super) type OffsetRows = Vec<(String, i32, Offset, String)>;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry {
    /// Starts a snapshot.
    Snapshot { next_transaction: TransactionNumber },
    /// A transactional id was taken over.
    Claim { id: String, epoch: u64 },
    /// A transaction is committed.
    Commit {
        transaction: TransactionNumber,
        /// Topic, partition, offset after the last record.
        ends: Vec<(String, i32, Offset)>,
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
    pub(super) committed: BTreeMap<TransactionNumber, Vec<(String, i32, Offset)>>,
    pub(super) epochs: BTreeMap<String, u64>,
    pub(super) offsets: BTreeMap<String, BTreeMap<TopicPartition, CommittedOffset>>,
}

impl Replayed {
    fn take_in(&mut self, entry: Entry) {
        match entry {
            Entry::Snapshot { next_transaction } => {
                self.settled_below = next_transaction;
                self.next_transaction = next_transaction;
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
                self.committed.insert(transaction, ends);
                for (group, rows) in offsets {
                    self.set_offsets(group, rows);
                }
            }
            Entry::Offsets { group, offsets } => self.set_offsets(group, offsets),
            Entry::Forget { topic } => {
                for offsets in self.offsets.values_mut() {
                    offsets.retain(|tp, _| *tp.topic != *topic);
                }
                for ends in self.committed.values_mut() {
                    ends.retain(|(name, ..)| *name != topic);
                }
            }
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
        transaction < self.settled_below || self.committed.contains_key(&transaction)
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

    /// Opens the journal at `path`; a torn end is cut off with a warning.
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
        let (entries, len) = decode(&bytes);
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
                "{} is damaged: {number} is no transaction and no epoch that this log ever gave; restore the file from a copy",
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
            return Err(LogError::fatal(format!(
                "{} could not be written and is not used any more; free space or repair the disk, then restart",
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
        let written = written.and_then(|()| if sync { self.file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            let class = match self.file.set_len(self.len) {
                Ok(()) if !sync => ErrorClass::Abortable,
                _ => {
                    self.broken = true;
                    ErrorClass::Uncertain
                }
            };
            let message = file_error("append to", &self.path, &error).message;
            return Err(LogError::new(class, message));
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

/// The entries up to the first that is not whole, and where that is.
fn decode(bytes: &[u8]) -> (Vec<Entry>, usize) {
    let mut entries = Vec::new();
    let mut at = 0;
    while let Some((len, rest)) = bytes[at..].split_first_chunk::<4>()
        && let Some((crc, rest)) = rest.split_first_chunk::<4>()
        && let Some(json) = rest.get(..u32::from_le_bytes(*len) as usize)
        && crc32fast::hash(json) == u32::from_le_bytes(*crc)
        && let Ok(entry) = serde_json::from_slice(json)
    {
        entries.push(entry);
        at += 8 + json.len();
    }
    (entries, at)
}

/// Puts a file with `bytes` in the place of the one at `path`: after a crash it is the old one or the new one.
pub(super) fn replace_file(path: &Path, bytes: &[u8]) -> Result<File, LogError> {
    let beside = path.with_extension("new");
    let write = || {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&beside)?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        Ok(file)
    };
    write().map_err(|e| file_error("replace", path, &e))
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), framed_lines(bytes)] {
        let (entries, end) = decode(&bytes);
        let mut written = Vec::new();
        entries.iter().for_each(|entry| encode(entry, &mut written));
        assert_eq!(decode(&written), (entries.clone(), written.len()));
        let whole = decode(&bytes[..end]);
        assert_eq!(
            whole,
            (entries.clone(), end),
            "what is torn behind changes nothing"
        );
        let mut replayed = Replayed::default();
        entries
            .into_iter()
            .for_each(|entry| replayed.take_in(entry));
        assert!(replayed.committed.keys().all(|n| replayed.trusts(*n)));
    }
}

#[cfg(any(test, feature = "fuzzing"))]
fn framed_lines(bytes: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        frame(line, &mut framed);
    }
    framed
}
