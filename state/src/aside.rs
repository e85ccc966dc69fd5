//! Databases that are damaged are set aside, under a name that says so, and replaced by an empty one: the changelogs have
//! everything.
//!
//! ```text
//!  <path>.quarantine-N   what was set aside; the last three are kept
//!  <path>.damaged        the database turned out to be damaged while it was used; says why, until the next opening
//! ```

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::StateError;

/// How many are kept; older ones are deleted.
const KEPT: u64 = 3;

/// Renames `path` to `path.quarantine-N`, with N larger than any before, and deletes the oldest.
pub(crate) fn set_aside(path: &Path, reason: &str) -> Result<PathBuf, StateError> {
    let at = |n: u64| beside(path, &format!("quarantine-{n}"));
    let prefix = format!(
        "{}.quarantine-",
        path.file_name().unwrap_or_default().display()
    );
    let number = |entry: fs::DirEntry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix(&prefix)?.parse::<u64>().ok()
    };
    let parent = path.parent().unwrap_or(Path::new("."));
    let kept: Vec<u64> = fs::read_dir(parent)
        .map_err(StateError::io("list", parent))?
        .filter_map(|entry| number(entry.ok()?))
        .collect();
    let next = kept.iter().max().copied().unwrap_or(0) + 1;
    let aside = at(next);
    if path.exists() {
        fs::rename(path, &aside).map_err(StateError::io("set aside", path))?;
    }
    for n in kept.into_iter().filter(|n| n + KEPT <= next) {
        let _ = fs::remove_dir_all(at(n));
    }
    tracing::warn!(
        path = %path.display(), aside = %aside.display(), reason,
        "the state database is damaged and set aside; starting with an empty one, which is rebuilt from the changelogs"
    );
    Ok(aside)
}

/// Has the database in `path` set aside at its next opening, because `error` says that it is damaged. An error of
/// anything else changes nothing, such as that of a disk that is full.
pub fn mark_if_damaged(path: &Path, error: &StateError) {
    let is_damaged = matches!(
        error,
        StateError::Corrupt { .. } | StateError::Backend { .. }
    );
    if is_damaged && let Err(error) = fs::write(mark(path), error.to_string()) {
        tracing::warn!(path = %path.display(), %error, "the damaged state database cannot be marked");
    }
}

/// Why the database in `path` must not be opened, if it must not.
pub(crate) fn marked(path: &Path) -> Result<Option<String>, StateError> {
    let mark = mark(path);
    match fs::read(&mark) {
        Ok(reason) => Ok(Some(String::from_utf8_lossy(&reason).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StateError::io("read", mark)(error)),
    }
}

/// The database in `path` is another one now.
pub(crate) fn unmark(path: &Path) -> Result<(), StateError> {
    let mark = mark(path);
    match fs::remove_file(&mark) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(StateError::io("delete", mark)(error))
        }
        _ => Ok(()),
    }
}

/// Whether a file holds something else than was written, as against one that cannot be used.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData
    )
}

fn mark(path: &Path) -> PathBuf {
    beside(path, "damaged")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_marked_and_a_full_disk_or_a_foreign_change_is_no_damage() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("stores");
        for error in [
            StateError::io("write", &path)(ErrorKind::StorageFull.into()),
            StateError::foreign_change("clicks/3", "a key is cut off"),
        ] {
            mark_if_damaged(&path, &error);
            assert_eq!(marked(&path).expect("read"), None, "{error}");
        }
        for error in [
            StateError::backend("clicks/3", "read")("a page is torn"),
            StateError::corrupt("clicks/3", "a row is cut off"),
        ] {
            mark_if_damaged(&path, &error);
            assert_eq!(marked(&path).expect("read"), Some(error.to_string()));
            unmark(&path).expect("deleted");
            unmark(&path).expect("there is nothing to delete");
            assert_eq!(marked(&path).expect("read"), None);
        }
    }

    #[test]
    fn three_databases_set_aside_are_kept_and_no_more() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("stores");
        for n in 1..=12 {
            fs::create_dir(&path).expect("set aside before");
            let aside = set_aside(&path, "a test").expect("it can be renamed");
            assert!(aside.ends_with(format!("stores.quarantine-{n}")));
        }
        let entries = fs::read_dir(directory.path()).expect("it is there");
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        let kept = [
            "stores.quarantine-10",
            "stores.quarantine-11",
            "stores.quarantine-12",
        ];
        assert_eq!(names, kept);
    }
}
