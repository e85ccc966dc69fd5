//! Files as the log keeps them: what is said when one fails or is damaged, and how what was written reaches the disk.
//!
//! A write is safe from a kill when it returns, and from a loss of power once its file was forced to the disk; a name
//! that was made or changed, once its directory was.

use std::fs::{self, DirEntry, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::log::LogError;

/// What helps when something is missing or damaged.
pub(super) const RESTORE: &str =
    "restore the log's directory from a copy, or delete it and read the inputs anew";

/// An error of a file, with what was tried.
pub(super) fn file_error(what: &str, path: &Path, error: &io::Error) -> LogError {
    LogError::fatal(format!("cannot {what} {}: {error}", path.display()))
}

/// A file holds at byte `at` what this log never wrote there.
pub(super) fn damaged(path: &Path, at: u64, fault: &str) -> LogError {
    LogError::fatal(format!(
        "{} is damaged at byte {at}: {fault}; {RESTORE}",
        path.display()
    ))
}

/// A write failed, and what the file holds since then is unknown.
pub(super) fn unusable(path: &Path) -> LogError {
    LogError::fatal(format!(
        "{} could not be written and is not used any more; free space or repair the disk, then restart",
        path.display()
    ))
}

/// What is in a directory; nothing in one that is missing.
pub(super) fn list(dir: &Path) -> Result<Vec<DirEntry>, LogError> {
    match fs::read_dir(dir).and_then(Iterator::collect) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.map_err(|e| file_error("list", dir, &e)),
    }
}

/// Forces the content of a file to the disk.
pub(super) fn force(file: &File, path: &Path) -> Result<(), LogError> {
    #[cfg(test)]
    forced::note(path);
    file.sync_data().map_err(|e| file_error("sync", path, &e))
}

/// Forces the names in a directory to the disk.
pub(super) fn force_names(dir: &Path) -> Result<(), LogError> {
    #[cfg(test)]
    forced::note(dir);
    let forced = File::open(dir).and_then(|dir| dir.sync_all());
    forced.map_err(|e| file_error("sync", dir, &e))
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
    let file = write().map_err(|e| file_error("replace", path, &e))?;
    force_names(path.parent().expect("a file is in a directory"))?;
    Ok(file)
}

/// What was forced to the disk by this thread: nothing else shows it but a loss of power.
#[cfg(test)]
pub(super) mod forced {
    use std::cell::RefCell;
    use std::path::{Path, PathBuf};

    thread_local! {
        static FORCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(path: &Path) {
        FORCED.with_borrow_mut(|forced| forced.push(path.to_owned()));
    }

    /// Files and directories since the last call, in order.
    pub(in crate::log::embedded) fn take() -> Vec<PathBuf> {
        FORCED.take()
    }
}
