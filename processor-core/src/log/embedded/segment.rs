//! A file of a partition: `<base offset>.log`, batches one after the other.
//!
//! **Opening** walks the batch headers and hops over the records; only the last [`VERIFIED_TAIL`] bytes are checked
//! in full, because a killed process can only leave its last write incomplete. What is incomplete at the end of the
//! last file is cut off with a warning; damage anywhere else is an error. Every batch read later is checked again.
//!
//! **The index** is sparse, one entry per [`INDEX_BYTES`], in memory only, and built by that walk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::batch::{Batch, BatchHeader, HEADER};
use super::files::{damaged, file_error};
use super::segment_reader::SegmentReader;
use crate::log::{LogError, Offset, Timestamp};

/// Distance of index entries.
pub(super) const INDEX_BYTES: u64 = 64 << 10;
/// How much of the last file is checked in full at opening.
pub(super) const VERIFIED_TAIL: u64 = 4 << 20;
/// How much one read of a walk takes: batches smaller than this share a read, larger ones are hopped over.
const WALK_BYTES: usize = 16 << 10;

/// One file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base: Offset,
    pub(super) path: PathBuf,
    pub(super) len: u64,
    pub(super) max_timestamp: Timestamp,
    /// First offset of a batch and where it starts, ascending.
    index: Vec<(Offset, u64)>,
    /// Kept open while it is appended to.
    file: Option<Arc<File>>,
}

impl Segment {
    pub(super) fn path_of(dir: &Path, base: Offset) -> PathBuf {
        dir.join(format!("{base:020}.log"))
    }

    pub(super) fn create(dir: &Path, base: Offset) -> Result<Self, LogError> {
        let path = Self::path_of(dir, base);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|e| file_error("create", &path, &e))?;
        Ok(Self {
            base,
            path,
            len: 0,
            max_timestamp: Timestamp::MIN,
            index: Vec::new(),
            file: Some(Arc::new(file)),
        })
    }

    /// Opens an existing file and shows every batch header to `visit`. `last`: may be torn, and is appended to.
    pub(super) fn open(
        path: PathBuf,
        base: Offset,
        last: bool,
        visit: &mut impl FnMut(&BatchHeader),
    ) -> Result<Self, LogError> {
        let file = File::options()
            .read(true)
            .write(last)
            .open(&path)
            .map_err(|e| file_error("open", &path, &e))?;
        let size = file
            .metadata()
            .map_err(|e| file_error("open", &path, &e))?
            .len();
        let mut segment = Self {
            base,
            path,
            len: 0,
            max_timestamp: Timestamp::MIN,
            index: Vec::new(),
            file: None,
        };
        let verify_from = if last {
            size.saturating_sub(VERIFIED_TAIL)
        } else {
            size
        };
        if let Err(fault) = segment.walk(&file, size, verify_from, visit)? {
            let (path, at) = (segment.path.display(), segment.len);
            if !last {
                return Err(damaged(&segment.path, at, fault));
            }
            tracing::warn!(file = %path, at, dropped = size - at, fault, "incomplete end of a log file cut off");
            file.set_len(at)
                .map_err(|e| file_error("truncate", &segment.path, &e))?;
        }
        if last {
            segment.file = Some(Arc::new(file));
        }
        Ok(segment)
    }

    /// Takes batches in until the file ends or makes no sense any more.
    fn walk(
        &mut self,
        file: &File,
        size: u64,
        verify_from: u64,
        visit: &mut impl FnMut(&BatchHeader),
    ) -> Result<Result<(), &'static str>, LogError> {
        let read_error = |e: std::io::Error, path: &Path| file_error("read", path, &e);
        let mut window = vec![0; WALK_BYTES];
        let mut window_at = 0;
        let mut window_len = 0;
        let mut next = self.base;
        while self.len < size {
            let left = size - self.len;
            if left < HEADER as u64 {
                return Ok(Err("cut off in a batch header"));
            }
            if self.len + HEADER as u64 > window_at + window_len as u64 {
                window_at = self.len;
                window_len = left.min(WALK_BYTES as u64) as usize;
                file.read_exact_at(&mut window[..window_len], window_at)
                    .map_err(|e| read_error(e, &self.path))?;
            }
            let header = match BatchHeader::parse(&window[(self.len - window_at) as usize..]) {
                Ok(header) => header,
                Err(fault) => return Ok(Err(fault)),
            };
            if header.len as u64 > left {
                return Ok(Err("cut off in a batch"));
            }
            if header.base < next {
                return Ok(Err("offsets do not ascend"));
            }
            if self.len + header.len as u64 > verify_from {
                let mut whole = vec![0; header.len];
                file.read_exact_at(&mut whole, self.len)
                    .map_err(|e| read_error(e, &self.path))?;
                if let Err(fault) = Batch::verified(&whole.into()) {
                    return Ok(Err(fault));
                }
            }
            next = header.next();
            visit(&header);
            self.take_in(&header);
        }
        Ok(Ok(()))
    }

    /// Writes the file that will replace the one at `path`, beside it.
    pub(super) fn write_cleaned(
        path: &Path,
        base: Offset,
        batches: &[Batch],
    ) -> Result<Self, LogError> {
        let path = path.with_extension("cleaned");
        let mut segment = Self {
            base,
            path,
            len: 0,
            max_timestamp: Timestamp::MIN,
            index: Vec::new(),
            file: None,
        };
        let write = |segment: &mut Self| {
            let file = File::create(&segment.path)?;
            for batch in batches {
                file.write_all_at(&batch.bytes, segment.len)?;
                segment.take_in(&batch.header);
            }
            file.sync_all()
        };
        write(&mut segment).map_err(|e| file_error("write", &segment.path, &e))?;
        Ok(segment)
    }

    /// The batch now ends the file.
    fn take_in(&mut self, header: &BatchHeader) {
        if self
            .index
            .last()
            .is_none_or(|&(_, at)| self.len - at >= INDEX_BYTES)
        {
            self.index.push((header.base, self.len));
        }
        self.len += header.len as u64;
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }

    /// Appends a batch; a process that dies afterwards has not lost it.
    pub(super) fn append(&mut self, batch: &Batch) -> Result<(), LogError> {
        let file = self.file.as_ref().expect("the last segment is open");
        if let Err(error) = file.write_all_at(&batch.bytes, self.len) {
            // Whatever was written is beyond `len`: the next append overwrites it, and so does recovery.
            let _ = file.set_len(self.len);
            return Err(file_error("append to", &self.path, &error));
        }
        self.take_in(&batch.header);
        Ok(())
    }

    /// Forces it to the disk.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        let file = self.file.as_ref().expect("only the last segment is synced");
        file.sync_data()
            .map_err(|e| file_error("sync", &self.path, &e))
    }

    /// Nothing is appended any more.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    fn handle(&self) -> Result<Arc<File>, LogError> {
        match &self.file {
            Some(file) => Ok(file.clone()),
            None => File::open(&self.path)
                .map(Arc::new)
                .map_err(|e| file_error("open", &self.path, &e)),
        }
    }

    /// A reader from the last index entry at or before `from`.
    pub(super) fn read_from(
        &self,
        from: Offset,
        next_base: Offset,
    ) -> Result<SegmentReader, LogError> {
        let entry = self.index.partition_point(|&(base, _)| base <= from);
        Ok(SegmentReader {
            file: self.handle()?,
            path: self.path.clone(),
            at: self
                .index
                .get(entry.saturating_sub(1))
                .map_or(0, |&(_, at)| at),
            end: self.len,
            next_base,
        })
    }
}
