//! What can go wrong in a store, said so that a person knows which path or store it is and what to do.

use std::io;
use std::path::PathBuf;

/// A failure of the state layer. Nothing is half applied when one is returned: a failed write leaves
/// the overlay as it was, and the write can be tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}; check that the state directory is writable and has room", path.display())]
    Io {
        /// What was being done, as a verb: "create", "read".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// The storage engine failed, of itself or over what it read: not because the operating system refused something, which
    /// is [`Io`](Self::Io).
    #[error(
        "store `{store}`: the storage engine failed to {action}: {source}; restart to rebuild the store from its changelog"
    )]
    Backend {
        /// The store's tree, or the database.
        store: String,
        /// What was being done, as a verb.
        action: &'static str,
        /// The engine's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Stored bytes are not what this version writes.
    #[error("store `{store}`: {detail}; wipe the store so that it is rebuilt from its changelog")]
    Corrupt {
        /// The store.
        store: String,
        /// What was found.
        detail: String,
    },
    /// A record of a changelog is not one of this kind of store. The stores are as good as they were.
    #[error(
        "store `{store}`: {detail}: something else writes to its changelog, or a store of another kind was called that before; \
         give the store another name, or reset the application and delete the changelog"
    )]
    ForeignChange {
        /// The store.
        store: String,
        /// What was found.
        detail: &'static str,
    },
    /// The files of a database are damaged, or the engine panics over them.
    #[error(
        "{engine} cannot open the stores in {}: {reason}; delete the directory so that they are rebuilt from their changelogs", path.display()
    )]
    Unreadable {
        /// The storage engine.
        engine: &'static str,
        /// The directory of the database.
        path: PathBuf,
        /// What it says about them.
        reason: String,
    },
    /// The storage engine is not part of this program.
    #[error(
        "this program was built without the storage engine {backend}; build it with the cargo feature `{backend}`, or \
         choose another backend"
    )]
    NotBuiltIn {
        /// The engine, and the cargo feature.
        backend: &'static str,
    },
    /// The stores in a state directory were written by another storage engine.
    #[error(
        "the stores in {} were written by {found}, and this start is to use {wanted}; choose the backend {found}, or \
         delete that directory: the stores are rebuilt from their changelogs", path.display()
    )]
    OtherBackend {
        /// The directory of the stores.
        path: PathBuf,
        /// The engine that is asked for.
        wanted: &'static str,
        /// The engine that wrote them.
        found: String,
    },
    /// Another process works in this directory.
    #[error("state directory {} is in use by {by}; stop that process or choose another directory", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The holder, as far as it is known: "process 4711".
        by: String,
    },
    /// The directory was made for something else.
    #[error("state directory {} belongs to {found}, not to {expected}; choose another directory, or delete this one to start over", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Who wants it now.
        expected: String,
        /// Who made it.
        found: String,
    },
    /// A newer program wrote in this directory.
    #[error(
        "state directory {} was written by a newer version of this program (state format {found}; this one reads {known}); \
         start the newer one, or delete the directory, and the stores are rebuilt from their changelogs",
        path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this program knows.
        known: u32,
    },
    /// A second `seal` before the first was settled or discarded: a bug in the caller.
    #[error(
        "store `{store}`: sealed again while a commit is in flight; settle or discard it first"
    )]
    InFlight {
        /// The store.
        store: String,
    },
}

impl StateError {
    pub(crate) fn corrupt(store: &str, detail: impl Into<String>) -> Self {
        Self::Corrupt {
            store: store.to_owned(),
            detail: detail.into(),
        }
    }

    pub(crate) fn foreign_change(store: &str, detail: &'static str) -> Self {
        Self::ForeignChange {
            store: store.to_owned(),
            detail,
        }
    }

    /// An engine did not do `action` on `store`.
    pub(crate) fn backend<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        store: &str,
        action: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |error| Self::Backend {
            store: store.to_owned(),
            action,
            source: error.into(),
        }
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
