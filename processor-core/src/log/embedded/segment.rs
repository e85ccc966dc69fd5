//! A file of a partition: `<base offset>.log`, batches one after the other.
//!
//! **Opening** walks the batch headers and hops over the records; only the last [`VERIFIED_TAIL`] bytes are checked
//! in full, because a killed process can only leave its last write incomplete. Every batch read later is checked again.
//!
//! **A torn end** of the last file is cut off with a warning: the beginning of a batch with nothing behind it, or with
//! blocks of zeros, which a machine without power did not come to write. Anything else that is no batch is damage and an
//! error, in the last file too: whole batches may lie behind it.
//!
//! **The index** is sparse, one entry per [`INDEX_BYTES`], in memory only, and built by that walk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::batch::{Batch, BatchHeader, HEADER};
use super::files::{damaged, file_error, force, unusable};
use super::segment_reader::SegmentReader;
use crate::log::{LogError, Offset, Timestamp};

/// Distance of index entries.
pub(super) const INDEX_BYTES: u64 = 64 << 10;
/// How much of the last file is checked in full at opening.
pub(super) const VERIFIED_TAIL: u64 = 4 << 20;
/// File systems write whole blocks of this size, or multiples.
const BLOCK: u64 = 4 << 10;
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
    /// Something in it may not have reached the disk.
    unforced: bool,
    /// A failed write could not be taken back, or a write never came to the disk: what the file holds is unknown.
    broken: bool,
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
            file: Some(Arc::new(file)),
            ..Self::empty(path, base)
        })
    }

    /// Without a batch, and not appended to.
    fn empty(path: PathBuf, base: Offset) -> Self {
        Self {
            base,
            path,
            len: 0,
            max_timestamp: Timestamp::MIN,
            index: Vec::new(),
            file: None,
            unforced: false,
            broken: false,
        }
    }

    /// Opens an existing file and shows every batch header to `visit`. `last`: may be torn, and is appended to. What lies
    /// below `forced` is on the disk.
    pub(super) fn open(
        path: PathBuf,
        base: Offset,
        last: bool,
        forced: Offset,
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
        let mut segment = Self::empty(path, base);
        let verify_from = if last {
            size.saturating_sub(VERIFIED_TAIL)
        } else {
            size
        };
        let mut end = base;
        let mut visit = |header: &BatchHeader| {
            end = header.next();
            visit(header);
        };
        if let Err(fault) = segment.walk(&file, size, verify_from, &mut visit)? {
            let (path, at) = (&segment.path, segment.len);
            if !last || !segment.is_torn(&file, size)? {
                return Err(damaged(path, at, fault));
            }
            tracing::warn!(file = %path.display(), at, dropped = size - at, fault, "incomplete end of a log file cut off");
            file.set_len(at)
                .map_err(|e| file_error("truncate", path, &e))?;
        }
        segment.unforced = end > forced;
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

    /// Whether what lies behind the last whole batch is the beginning of one more.
    fn is_torn(&self, file: &File, size: u64) -> Result<bool, LogError> {
        let mut rest = vec![0; (size - self.len) as usize];
        file.read_exact_at(&mut rest, self.len)
            .map_err(|e| file_error("read", &self.path, &e))?;
        let Some(last) = rest.iter().rposition(|byte| *byte != 0) else {
            return Ok(true);
        };
        let written = (self.len + last as u64 + 1).next_multiple_of(BLOCK) - self.len;
        rest.truncate(written as usize);
        Ok(Batch::is_torn(&rest.into()))
    }

    /// Writes the file that will replace the one at `path`, beside it.
    pub(super) fn write_cleaned(
        path: &Path,
        base: Offset,
        batches: &[Batch],
    ) -> Result<Self, LogError> {
        let path = path.with_extension("cleaned");
        let mut segment = Self::empty(path, base);
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

    /// Fails when what the file holds is unknown: nothing may be put behind that.
    pub(super) fn check(&self) -> Result<(), LogError> {
        match self.broken {
            true => Err(unusable(&self.path)),
            false => Ok(()),
        }
    }

    /// Appends a batch; a process that dies afterwards has not lost it.
    pub(super) fn append(&mut self, batch: &Batch) -> Result<(), LogError> {
        self.check()?;
        let file = self.file.as_ref().expect("the last segment is open");
        if let Err(error) = file.write_all_at(&batch.bytes, self.len) {
            // A shorter batch in its place would leave a piece of this one behind it, which is damage.
            self.broken = file.set_len(self.len).is_err();
            return Err(file_error("append to", &self.path, &error));
        }
        self.unforced = true;
        self.take_in(&batch.header);
        Ok(())
    }

    /// Forces to the disk what may not be there.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        if self.unforced {
            self.check()?;
            let file = self.handle()?;
            // The second attempt would succeed: the system forgets what it could not write.
            self.broken = true;
            force(&file, &self.path)?;
            self.broken = false;
            self.unforced = false;
        }
        Ok(())
    }

    /// Whether something may not have reached the disk.
    pub(super) fn is_unforced(&self) -> bool {
        self.unforced
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

#[cfg(test)]
mod tests {
    use super::super::batch::BatchBuilder;
    use super::*;

    fn batch(base: Offset) -> Batch {
        let mut builder = BatchBuilder::new();
        builder.push(1, None, Some(b"value"), &[]);
        builder.checksum();
        builder.take(base, 0)
    }

    #[test]
    fn nothing_is_put_behind_a_write_that_could_not_be_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut segment = Segment::create(dir.path(), 0).unwrap();
        segment.append(&batch(0)).unwrap();
        let good = segment.file.clone();
        // Always full, and cannot be cut.
        let full = File::options().write(true).open("/dev/full").unwrap();
        segment.file = Some(Arc::new(full));
        let error = segment.append(&batch(1)).unwrap_err().to_string();
        assert!(error.contains("cannot append"), "{error}");
        segment.file = good;
        let error = segment.append(&batch(1)).unwrap_err().to_string();
        assert!(error.contains("not used any more"), "{error}");
    }

    #[test]
    fn what_could_not_be_forced_to_the_disk_is_not_taken_for_forced() {
        let dir = tempfile::tempdir().unwrap();
        let mut segment = Segment::create(dir.path(), 0).unwrap();
        segment.append(&batch(0)).unwrap();
        let good = segment.file.clone();
        // Has nothing that could be forced.
        let null = File::options().write(true).open("/dev/null").unwrap();
        segment.file = Some(Arc::new(null));
        segment.sync().unwrap_err();
        segment.file = good;
        let error = segment.sync().unwrap_err().to_string();
        assert!(error.contains("not used any more"), "{error}");
    }
}
