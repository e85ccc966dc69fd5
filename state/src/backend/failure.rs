//! What the failure of a database in use means: is the disk to blame, or what is on it?

use std::error::Error;
use std::io;
use std::path::Path;

use crate::{StateError, aside};

/// The engine of the database in `path` did not do `action` on `store`. `cause` is the refusal of the operating system if
/// that is what it was, and else the engine's own error: a disk that takes no writes says nothing against the database.
pub(super) fn failed<E>(
    path: &Path,
    store: &str,
    action: &'static str,
    cause: Result<io::Error, E>,
) -> StateError
where
    E: Error + Send + Sync + 'static,
{
    match cause {
        Ok(refusal) if !aside::is_damage(&refusal) => StateError::io(action, path)(refusal),
        Ok(read) => StateError::backend(store, action)(read),
        Err(error) => StateError::backend(store, action)(error),
    }
}

/// An engine that takes no more since a file operation failed; what that was, it has said before.
#[cfg(any(feature = "fjall", feature = "redb"))]
pub(super) fn refused_before() -> io::Error {
    io::Error::other("a file operation failed before, and the database takes no more")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn a_full_disk_is_an_error_of_the_disk_and_a_file_that_is_cut_off_one_of_the_database() {
        let failed = |cause| failed(Path::new("stores"), "clicks/3", "write", cause);
        for kind in [ErrorKind::StorageFull, ErrorKind::FileTooLarge] {
            let error = failed(Ok::<_, io::Error>(kind.into()));
            assert!(matches!(error, StateError::Io { .. }), "{error:?}");
        }
        for cause in [
            Ok(ErrorKind::UnexpectedEof.into()),
            Ok(ErrorKind::InvalidData.into()),
            Err(io::Error::other("a page is torn")),
        ] {
            let error = failed(cause);
            assert!(matches!(error, StateError::Backend { .. }), "{error:?}");
        }
    }
}
