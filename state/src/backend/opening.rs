//! What opening a database came to: is the environment to blame, or are the files?

use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::StateError;

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
        Ok(Err(Opening::Io(source))) if !is_damage(source.kind()) => Err(StateError::Io {
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
fn is_damage(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnexpectedEof
            | ErrorKind::InvalidData
            | ErrorKind::InvalidInput
            | ErrorKind::NotFound
            | ErrorKind::AlreadyExists
    )
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
        .to_owned()
}
