//! The files of a partition: `<base offset>.log`, batches one after the other, the last file being appended to.
//!
//! **Opening** walks the batch headers and hops over the records; only the last [`VERIFIED_TAIL`] bytes are checked
//! in full, because a killed process can only leave its last write incomplete. What is incomplete at the end of the
//! last file is cut off with a warning; damage anywhere else is an error. Every batch read later is checked again.
//!
//! **The index** is sparse, one entry per [`INDEX_BYTES`], in memory only, and built by that walk.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{Batch, BatchHeader, HEADER};
use crate::log::{LogError, Offset, Timestamp};

/// Distance of index entries.
const INDEX_BYTES: u64 = 64 << 10;
/// How much of the last file is checked in full at opening.
pub(super) const VERIFIED_TAIL: u64 = 4 << 20;
/// How much one read of a walk takes: batches smaller than this share a read, larger ones are hopped over.
const WALK_BYTES: usize = 16 << 10;

/// An error of a file, with what was tried.
pub(super) fn file_error(what: &str, path: &Path, error: &std::io::Error) -> LogError {
    LogError::fatal(format!("cannot {what} {}: {error}", path.display()))
}

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

    fn create(dir: &Path, base: Offset) -> Result<Self, LogError> {
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
                return Err(LogError::fatal(format!(
                    "{path} is damaged at byte {at}: {fault}; restore the file from a copy, or delete the topic"
                )));
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

    fn append(&mut self, batch: &Batch) -> Result<(), LogError> {
        let file = self.file.as_ref().expect("the last segment is open");
        if let Err(error) = file.write_all_at(&batch.bytes, self.len) {
            // Whatever was written is beyond `len`: the next append overwrites it, and so does recovery.
            let _ = file.set_len(self.len);
            return Err(file_error("append to", &self.path, &error));
        }
        self.take_in(&batch.header);
        Ok(())
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
    fn read_from(&self, from: Offset, next_base: Offset) -> Result<SegmentReader, LogError> {
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

/// All files of a partition.
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    segment_bytes: u64,
    /// Never empty; the last one is appended to.
    pub(super) files: Vec<Segment>,
}

impl Segments {
    /// The files of a new partition.
    pub(super) fn create(dir: PathBuf, segment_bytes: u64) -> Result<Self, LogError> {
        fs::create_dir_all(&dir).map_err(|e| file_error("create", &dir, &e))?;
        let files = vec![Segment::create(&dir, 0)?];
        Ok(Self {
            dir,
            segment_bytes,
            files,
        })
    }

    /// The files in `dir`; every batch header is shown to `visit`, in order.
    pub(super) fn open(
        dir: PathBuf,
        segment_bytes: u64,
        visit: &mut impl FnMut(&BatchHeader),
    ) -> Result<Self, LogError> {
        let entries = fs::read_dir(&dir).map_err(|e| file_error("list", &dir, &e))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| file_error("list", &dir, &e))?.path();
            let stem = path.file_stem().and_then(|s| s.to_str());
            match (
                path.extension().and_then(|e| e.to_str()),
                stem.map(str::parse),
            ) {
                (Some("log"), Some(Ok(base))) => found.push((base, path)),
                // What a cleaning that did not finish left behind.
                (Some("cleaned"), _) => {
                    fs::remove_file(&path).map_err(|e| file_error("remove", &path, &e))?;
                }
                _ => tracing::warn!(file = %path.display(), "not a file of this log; ignored"),
            }
        }
        if found.is_empty() {
            return Self::create(dir, segment_bytes);
        }
        found.sort_unstable();
        let count = found.len();
        let mut files = Vec::with_capacity(count);
        for (number, (base, path)) in found.into_iter().enumerate() {
            files.push(Segment::open(path, base, number + 1 == count, visit)?);
        }
        Ok(Self {
            dir,
            segment_bytes,
            files,
        })
    }

    fn active(&mut self) -> &mut Segment {
        self.files.last_mut().expect("there is always a file")
    }

    /// First offset that may be there.
    pub(super) fn start(&self) -> Offset {
        self.files[0].base
    }

    /// The base of the file that is appended to.
    pub(super) fn active_base(&self) -> Offset {
        self.files[self.files.len() - 1].base
    }

    fn is_full(&self, batch: &Batch) -> bool {
        let active = &self.files[self.files.len() - 1];
        active.len > 0 && active.len + batch.bytes.len() as u64 > self.segment_bytes
    }

    /// Appends a batch; a process that dies afterwards has not lost it. True when it started a new file.
    pub(super) fn append(&mut self, batch: &Batch) -> Result<bool, LogError> {
        let full = self.is_full(batch);
        if full {
            self.roll(batch.header.base)?;
        }
        self.active().append(batch)?;
        Ok(full)
    }

    /// Closes the last file and starts one at `base`.
    pub(super) fn roll(&mut self, base: Offset) -> Result<(), LogError> {
        if self.active().len == 0 {
            return Ok(());
        }
        let fresh = Segment::create(&self.dir, base)?;
        self.active().file = None;
        self.files.push(fresh);
        Ok(())
    }

    /// Forces the last file to the disk.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        let active = self.active();
        let file = active.file.as_ref().expect("the last segment is open");
        file.sync_data()
            .map_err(|e| file_error("sync", &active.path, &e))
    }

    /// Readers of the files that end at or below `stable`, each with its base, and where the last of them ends. The
    /// file that is appended to is not among them.
    pub(super) fn closed_below(
        &self,
        stable: Offset,
    ) -> Result<(Vec<(Offset, SegmentReader)>, Offset), LogError> {
        let mut readers = Vec::new();
        let mut end = self.start();
        for pair in self.files.windows(2) {
            if pair[1].base > stable {
                break;
            }
            end = pair[1].base;
            readers.push((pair[0].base, pair[0].read_from(pair[0].base, end)?));
        }
        Ok((readers, end))
    }

    /// Bytes in closed files from `offset` on, and before it.
    pub(super) fn closed_bytes(&self, offset: Offset) -> (u64, u64) {
        let closed = &self.files[..self.files.len() - 1];
        let (after, before): (Vec<&Segment>, _) = closed.iter().partition(|s| s.base >= offset);
        let bytes = |files: Vec<&Segment>| files.iter().map(|s| s.len).sum();
        (bytes(after), bytes(before))
    }

    /// Removes files from the start while all their records are older than `oldest` and below `stable`.
    pub(super) fn expire(&mut self, oldest: Timestamp, stable: Offset) -> Result<(), LogError> {
        while let [first, second, ..] = self.files.as_slice()
            && first.max_timestamp < oldest
            && second.base <= stable
        {
            fs::remove_file(&first.path).map_err(|e| file_error("remove", &first.path, &e))?;
            tracing::info!(file = %first.path.display(), "older than the retention; removed");
            self.files.remove(0);
        }
        Ok(())
    }

    /// Puts `cleaned` in the place of the file with its base, if that is still there. An empty one goes, unless it
    /// is the first: its name says where the partition starts.
    pub(super) fn replace(&mut self, mut cleaned: Segment) -> Result<(), LogError> {
        let Ok(slot) = self.files.binary_search_by_key(&cleaned.base, |s| s.base) else {
            return fs::remove_file(&cleaned.path)
                .map_err(|e| file_error("remove", &cleaned.path, &e));
        };
        let path = self.files[slot].path.clone();
        fs::rename(&cleaned.path, &path).map_err(|e| file_error("replace", &path, &e))?;
        if cleaned.len == 0 && slot > 0 {
            fs::remove_file(&path).map_err(|e| file_error("remove", &path, &e))?;
            self.files.remove(slot);
        } else {
            cleaned.path = path;
            self.files[slot] = cleaned;
        }
        Ok(())
    }

    /// A reader from `from` on, within one file.
    pub(super) fn read_from(&self, from: Offset) -> Result<SegmentReader, LogError> {
        let number = self
            .files
            .partition_point(|s| s.base <= from)
            .saturating_sub(1);
        let next_base = self.files.get(number + 1).map_or(Offset::MAX, |s| s.base);
        self.files[number].read_from(from, next_base)
    }
}

/// A place in a file to read from without the log's lock. It stays readable when the file is deleted or replaced.
#[derive(Debug, Clone)]
pub(super) struct SegmentReader {
    file: Arc<File>,
    path: PathBuf,
    at: u64,
    end: u64,
    /// Base of the file after this one.
    next_base: Offset,
}

impl SegmentReader {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The base of the following file, [`Offset::MAX`] for the last.
    pub(super) fn next_base(&self) -> Offset {
        self.next_base
    }

    /// The next batches that end after `from`, from about `max_bytes` of file; nothing at the end of the file. Their
    /// checksums hold.
    pub(super) fn read(&mut self, from: Offset, max_bytes: usize) -> Result<Vec<Batch>, LogError> {
        let mut batches = Vec::new();
        while batches.is_empty() && self.at < self.end {
            let chunk = self.chunk(max_bytes.max(INDEX_BYTES as usize))?;
            let mut used = 0;
            while let Ok(header) = BatchHeader::parse(&chunk[used..]) {
                if used + header.len > chunk.len() {
                    break;
                }
                if header.next() > from {
                    let batch = Batch::verified(&chunk.slice(used..))
                        .map_err(|fault| self.damaged(used, fault))?;
                    batches.push(batch);
                }
                used += header.len;
            }
            if used == 0 {
                return Err(self.damaged(0, "not a whole batch"));
            }
            self.at += used as u64;
        }
        Ok(batches)
    }

    /// Bytes from here on, at least one batch.
    fn chunk(&self, want: usize) -> Result<Bytes, LogError> {
        let read = |len: usize| {
            let mut chunk = vec![0; len];
            self.file
                .read_exact_at(&mut chunk, self.at)
                .map_err(|e| file_error("read", &self.path, &e))?;
            Ok::<_, LogError>(Bytes::from(chunk))
        };
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let chunk = read(want.min(left))?;
        match BatchHeader::parse(&chunk) {
            Ok(header) if header.len > chunk.len() && header.len <= left => read(header.len),
            _ => Ok(chunk),
        }
    }

    fn damaged(&self, used: usize, fault: &str) -> LogError {
        LogError::fatal(format!(
            "{} is damaged at byte {}: {fault}; restore the file from a copy, or delete the topic",
            self.path.display(),
            self.at + used as u64
        ))
    }
}
