//! All files of a partition, in offset order. The last one is appended to; the others are closed.

use std::fs;
use std::path::PathBuf;

use super::batch::{Batch, BatchHeader};
use super::files::{RESTORE, file_error, force_names, list};
use super::segment::Segment;
use super::segment_reader::SegmentReader;
use crate::log::{LogError, Offset, Timestamp};

/// All files of a partition.
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    segment_bytes: u64,
    /// Never empty; the last one is appended to.
    pub(super) files: Vec<Segment>,
    /// Names of files that may not have reached the disk.
    new_names: bool,
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
            new_names: true,
        })
    }

    /// The files in `dir`; every batch header is shown to `visit`, in order. What lies below `forced` is on the disk.
    pub(super) fn open(
        dir: PathBuf,
        segment_bytes: u64,
        forced: Offset,
        visit: &mut impl FnMut(&BatchHeader),
    ) -> Result<Self, LogError> {
        let mut found = Vec::new();
        for entry in list(&dir)? {
            let path = entry.path();
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
            return Err(LogError::fatal(format!(
                "{} has no files, and a partition always has one; {RESTORE}",
                dir.display()
            )));
        }
        found.sort_unstable();
        let count = found.len();
        let mut files = Vec::with_capacity(count);
        let mut next = 0;
        // Offsets may be missing behind a file that was compacted, and before the first one, which retention removes.
        let mut compacted = true;
        for (number, (base, path)) in found.into_iter().enumerate() {
            if base < next || (base > next && !compacted) {
                return Err(LogError::fatal(format!(
                    "{} begins at offset {base}, but the file before it ends at {next}: one is missing or of another \
                     log; {RESTORE}",
                    path.display()
                )));
            }
            next = base;
            compacted = true;
            let mut visit = |header: &BatchHeader| {
                next = header.next();
                compacted &= header.horizon_ms != 0;
                visit(header);
            };
            let last = number + 1 == count;
            files.push(Segment::open(path, base, last, forced, &mut visit)?);
        }
        Ok(Self {
            dir,
            segment_bytes,
            new_names: files.iter().any(Segment::is_unforced),
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
        self.active().check()?;
        let fresh = Segment::create(&self.dir, base)?;
        self.active().close();
        self.files.push(fresh);
        self.new_names = true;
        Ok(())
    }

    /// Forces all that was appended to the disk, the files that are closed since the last time included.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        self.files.iter_mut().try_for_each(Segment::sync)?;
        if self.new_names {
            force_names(&self.dir)?;
            self.new_names = false;
        }
        Ok(())
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
        // Before the next file: a marker in that one must not go before what it decides in this one.
        force_names(&self.dir)
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
