//! Reading a segment file without the log's lock.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{Batch, BatchHeader};
use super::files::{damaged, file_error};
use super::segment::INDEX_BYTES;
use crate::log::{LogError, Offset};

/// A place in a file to read from without the log's lock. It stays readable when the file is deleted or replaced.
#[derive(Debug, Clone)]
pub(super) struct SegmentReader {
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    pub(super) at: u64,
    pub(super) end: u64,
    /// Base of the file after this one.
    pub(super) next_base: Offset,
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
        damaged(&self.path, self.at + used as u64, fault)
    }
}
