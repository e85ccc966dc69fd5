//! A partition: batches in offset order, and which of them a reader may see.
//!
//! ```text
//! start ........ last stable offset ........ high watermark
//!   |  decided      |  an open transaction      |  next append
//! ```
//!
//! A batch belongs to at most one transaction. Readers of committed records stop at the first batch of the earliest
//! open transaction and step over batches of aborted ones; control batches take an offset and are never returned.
//!
//! In memory, all batches are kept. Over files, the most recent ones are, up to a number of bytes; older ones are
//! read from the files, outside the log's lock.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use super::batch::{self, Batch, BatchBuilder, Kind, TransactionNumber};
use super::journal::Replayed;
use super::segment::Segment;
use super::segment_reader::SegmentReader;
use super::segments::Segments;
use crate::log::{Isolation, LogError, Offset, Timestamp, TopicPartition};

/// Aborted transactions with the offset of their marker: once the partition starts after it, the entry can go.
pub(super) type Aborted = BTreeMap<TransactionNumber, Offset>;

/// One partition.
#[derive(Debug)]
pub(super) struct Partition {
    name: TopicPartition,
    pub(super) start: Offset,
    next: Offset,
    /// The most recent batches, without gap up to `next`.
    pub(super) tail: VecDeque<Batch>,
    tail_bytes: usize,
    max_tail_bytes: usize,
    /// Open transactions with their first offset here.
    open: BTreeMap<TransactionNumber, Offset>,
    pub(super) aborted: Arc<Aborted>,
    pub(super) files: Option<Segments>,
    /// A new file was started since this was last reset.
    pub(super) rolled: bool,
    /// Compacted up to here.
    cleaned_to: Offset,
}

/// What a fetch found.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// Batches of records the reader may see.
    pub(super) batches: Vec<Batch>,
    /// Where to go on.
    pub(super) next: Offset,
}

/// Where records are: in memory, or still to be read.
#[derive(Debug)]
pub(super) enum Fetch {
    /// Here they are.
    Hot(Fetched),
    /// Read them once the log's lock is given back.
    Cold(ColdFetch),
}

/// How a partition is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) segment_bytes: u64,
    pub(super) tail_bytes: usize,
}

impl Partition {
    /// An empty partition in memory.
    pub(super) fn in_memory(name: TopicPartition) -> Self {
        Self {
            name,
            start: 0,
            next: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            max_tail_bytes: usize::MAX,
            open: BTreeMap::new(),
            aborted: Arc::default(),
            files: None,
            rolled: false,
            cleaned_to: 0,
        }
    }

    /// An empty partition in files.
    pub(super) fn create(
        name: TopicPartition,
        dir: PathBuf,
        limits: Limits,
    ) -> Result<Self, LogError> {
        let mut partition = Self::in_memory(name);
        partition.max_tail_bytes = limits.tail_bytes;
        partition.files = Some(Segments::create(dir, limits.segment_bytes)?);
        Ok(partition)
    }

    /// The partition in the files of `dir`. A commit marker counts only if the journal says that its transaction was
    /// decided; transactions without one stay open for the caller to end.
    pub(super) fn open(
        name: TopicPartition,
        dir: PathBuf,
        limits: Limits,
        replayed: &Replayed,
    ) -> Result<Self, LogError> {
        let forced = replayed.snapshot_ends.get(&name).copied().unwrap_or(0);
        let mut partition = Self::in_memory(name);
        partition.max_tail_bytes = limits.tail_bytes;
        let mut aborted = Aborted::new();
        let mut visit = |header: &batch::BatchHeader| {
            let transaction = header.transaction;
            partition.next = header.next();
            match header.kind {
                Kind::Records if transaction != 0 => {
                    partition.open.entry(transaction).or_insert(header.base);
                }
                Kind::Commit if replayed.trusts(transaction) => {
                    partition.open.remove(&transaction);
                }
                Kind::Abort => {
                    partition.open.remove(&transaction);
                    aborted.insert(transaction, header.base);
                }
                _ => {}
            }
        };
        let files = Segments::open(dir, limits.segment_bytes, forced, &mut visit)?;
        partition.start = files.start();
        partition.next = partition.next.max(files.active_base());
        partition.aborted = Arc::new(aborted);
        partition.files = Some(files);
        Ok(partition)
    }

    pub(super) fn name(&self) -> &TopicPartition {
        &self.name
    }

    /// First offset that is still there.
    pub(super) fn start(&self) -> Offset {
        self.start
    }

    /// The end a reader of `isolation` can reach now.
    pub(super) fn end(&self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::ReadUncommitted => self.next,
            Isolation::ReadCommitted => self.open.values().copied().min().unwrap_or(self.next),
        }
    }

    /// Transactions without a marker.
    pub(super) fn open_transactions(&self) -> impl Iterator<Item = TransactionNumber> {
        self.open.keys().copied()
    }

    /// The greatest number of an aborted or open transaction.
    pub(super) fn greatest_transaction(&self) -> TransactionNumber {
        let open = self.open.keys().next_back().copied().unwrap_or(0);
        let aborted = self.aborted.keys().next_back().copied().unwrap_or(0);
        open.max(aborted)
    }

    /// Appends the builder's records and returns the offset after the last. The builder is emptied only when this
    /// succeeds.
    pub(super) fn append(
        &mut self,
        builder: &mut BatchBuilder,
        transaction: TransactionNumber,
    ) -> Result<Offset, LogError> {
        let batch = builder.stamp(Kind::Records, self.next, transaction);
        let base = batch.header.base;
        self.push(batch)?;
        builder.clear();
        if transaction != 0 {
            self.open.entry(transaction).or_insert(base);
        }
        Ok(self.next)
    }

    /// Appends the marker that ends `transaction`; nothing when it is not open here.
    pub(super) fn mark(
        &mut self,
        kind: Kind,
        transaction: TransactionNumber,
    ) -> Result<(), LogError> {
        if !self.open.contains_key(&transaction) {
            return Ok(());
        }
        let marker = batch::marker(kind, self.next, transaction);
        let at = marker.header.base;
        self.push(marker)?;
        self.open.remove(&transaction);
        if kind == Kind::Abort {
            Arc::make_mut(&mut self.aborted).insert(transaction, at);
        }
        Ok(())
    }

    fn push(&mut self, batch: Batch) -> Result<(), LogError> {
        if let Some(files) = &mut self.files {
            self.rolled |= files.append(&batch)?;
        }
        self.next = batch.header.next();
        self.tail_bytes += batch.bytes.len();
        self.tail.push_back(batch);
        while self.tail_bytes > self.max_tail_bytes
            && let Some(oldest) = self.tail.pop_front()
        {
            self.tail_bytes = self.tail_bytes.saturating_sub(oldest.bytes.len());
        }
        Ok(())
    }

    /// Starts a new file.
    pub(super) fn roll(&mut self) -> Result<(), LogError> {
        let next = self.next;
        self.files.as_mut().map_or(Ok(()), |files| files.roll(next))
    }

    /// Whether as much has been written since the last compaction as that one left.
    pub(super) fn is_dirty(&self) -> bool {
        let files = self.files.as_ref().map(|f| f.closed_bytes(self.cleaned_to));
        files.is_some_and(|(dirty, clean)| dirty > 0 && dirty >= clean)
    }

    /// Removes what is older than `oldest`, in whole files or batches from the start.
    pub(super) fn expire(&mut self, oldest: Timestamp) -> Result<(), LogError> {
        let stable = self.end(Isolation::ReadCommitted);
        if let Some(files) = &mut self.files {
            let result = files.expire(oldest, stable);
            self.start = self.start.max(files.start());
            self.drop_before(self.start);
            return result;
        }
        let expired = |b: &Batch| b.header.max_timestamp < oldest && b.header.next() <= stable;
        let count = self.tail.iter().take_while(|b| expired(b)).count();
        if let Some(last) = self.tail.drain(..count).next_back() {
            self.start = last.header.next();
        }
        self.drop_before(self.start);
        Ok(())
    }

    /// Puts a compacted file in its place.
    pub(super) fn replace_file(&mut self, cleaned: Segment) -> Result<(), LogError> {
        self.files
            .as_mut()
            .map_or(Ok(()), |files| files.replace(cleaned))
    }

    /// Everything before `end` is compacted: no aborted record is left there.
    pub(super) fn cleaned(&mut self, end: Offset) {
        self.cleaned_to = end;
        match self.files {
            Some(_) => self.drop_before(end),
            None => Arc::make_mut(&mut self.aborted).retain(|_, marker| *marker >= end),
        }
    }

    /// Forgets cached batches and aborted transactions that ended before `offset`.
    fn drop_before(&mut self, offset: Offset) {
        while let Some(oldest) = self.tail.front()
            && oldest.header.base < offset
        {
            self.tail_bytes = self.tail_bytes.saturating_sub(oldest.bytes.len());
            self.tail.pop_front();
        }
        if self.aborted.values().any(|&marker| marker < offset) {
            Arc::make_mut(&mut self.aborted).retain(|_, marker| *marker >= offset);
        }
    }

    /// Forces what was appended to the disk.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        self.files.as_mut().map_or(Ok(()), Segments::sync)
    }

    /// Up to about `max_bytes` of batches from `from` on, at least one if there is one.
    pub(super) fn fetch(
        &self,
        from: Offset,
        isolation: Isolation,
        max_bytes: usize,
    ) -> Result<Fetch, LogError> {
        let end = self.end(isolation);
        let aborted = match isolation {
            Isolation::ReadCommitted => self.aborted.clone(),
            Isolation::ReadUncommitted => Arc::default(),
        };
        let view = View { from, end, aborted };
        let tail_start = self.tail.front().map_or(self.next, |b| b.header.base);
        if let Some(files) = &self.files
            && from < tail_start.min(end)
        {
            return Ok(Fetch::Cold(ColdFetch {
                reader: files.read_from(from)?,
                view,
                max_bytes,
            }));
        }
        let first = self.tail.partition_point(|b| b.header.last < from);
        let (fetched, _) = view.of(self.tail.range(first..), max_bytes);
        Ok(Fetch::Hot(fetched))
    }
}

/// What one reader may see.
#[derive(Debug)]
struct View {
    from: Offset,
    end: Offset,
    aborted: Arc<Aborted>,
}

impl View {
    /// The visible ones of `batches`, and whether `end` or `max_bytes` stopped it.
    fn of<'a>(
        &self,
        batches: impl Iterator<Item = &'a Batch>,
        max_bytes: usize,
    ) -> (Fetched, bool) {
        let mut fetched = Fetched {
            batches: Vec::new(),
            next: self.end.max(self.from),
        };
        let mut bytes = 0;
        for batch in batches {
            let header = &batch.header;
            if header.base >= self.end {
                return (fetched, true);
            }
            if bytes >= max_bytes {
                fetched.next = header.base;
                return (fetched, true);
            }
            if header.kind == Kind::Records && !self.aborted.contains_key(&header.transaction) {
                bytes += batch.bytes.len();
                fetched.batches.push(batch.clone());
            }
        }
        (fetched, false)
    }
}

/// A fetch that has to read a file.
#[derive(Debug)]
pub(super) struct ColdFetch {
    reader: SegmentReader,
    view: View,
    max_bytes: usize,
}

impl ColdFetch {
    /// Reads. It may find nothing and still move on, over control and aborted records.
    pub(super) fn read(mut self) -> Result<Fetched, LogError> {
        let batches = self.reader.read(self.view.from, self.max_bytes)?;
        let (mut fetched, stopped) = self.view.of(batches.iter(), usize::MAX);
        if !stopped {
            let after_file = self.reader.next_base().min(self.view.end);
            fetched.next = batches.last().map_or(after_file, |b| b.header.next());
        }
        fetched.next = fetched.next.max(self.view.from);
        Ok(fetched)
    }
}
