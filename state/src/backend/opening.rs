//! What opening a database came to: is the environment to blame, or are the files?

use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::panic_text;
use crate::{StateError, aside};

/// Why an engine did not open its files.
pub(super) enum Opening {
    /// Another handle has them open.
    Locked,
    /// A file operation failed.
    Io(io::Error),
    /// They are not what the engine writes.
    Damaged(String),
}

/// Runs `open`, and says what its failure, or its panic, means for the files in `path`.
pub(super) fn opened<T>(
    engine: &'static str,
    path: &Path,
    open: impl FnOnce() -> Result<T, Opening>,
) -> Result<T, StateError> {
    let unreadable = |reason: String| StateError::Unreadable {
        engine,
        path: path.to_owned(),
        reason,
    };
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(Opening::Locked)) => Err(StateError::Locked {
            path: path.to_owned(),
            by: "another handle of this database".to_owned(),
        }),
        Ok(Err(Opening::Io(source))) if !is_damage(&source) => Err(StateError::Io {
            action: "open",
            path: path.to_owned(),
            source,
        }),
        Ok(Err(Opening::Io(source))) => Err(unreadable(source.to_string())),
        Ok(Err(Opening::Damaged(reason))) => Err(unreadable(reason)),
        Err(panic) => Err(unreadable(format!("it panicked: {}", panic_text(&*panic)))),
    }
}

/// Files that are cut off, garbled or gone, as against a disk that is full or a directory that may not be written.
fn is_damage(error: &io::Error) -> bool {
    let is_gone = matches!(
        error.kind(),
        ErrorKind::InvalidInput | ErrorKind::NotFound | ErrorKind::AlreadyExists
    );
    is_gone || aside::is_damage(error)
}
