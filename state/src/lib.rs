//! Transactional state stores: key-value, versioned, window, session and join buffers, over memory or a storage engine
//! on disk: sled, or, as cargo features, fjall and redb ([`Backend`]).
//!
//! Bytes in, bytes out. What this crate promises a stream task:
//!
//! - **Never ahead.** Writes stay in memory until the transaction that carries their changelog is
//!   committed; only then do they reach the backend, in chunks, and the task's [`Marker`] last. After a
//!   kill the backend is at worst old: replaying the changelog from the marker makes it current.
//! - **Split phase.** [`Store::seal`] closes a generation and hands it to the changelog;
//!   [`Store::settle`] or [`Store::discard`] follows when the outcome is known. Reads and writes go on in
//!   between.
//! - **Deterministic.** The changelog and every scan come in key order, whatever the history.
//! - **Exact expiry.** Below its horizon a store shows nothing and takes nothing, in every backend;
//!   deleting the rows is a matter of space only and happens later, by segments of time.
//! - **Coalescing.** Settled writes may wait for several commits, so a hot key is written to disk once.
//!
//! What it is not: it knows no Kafka, no types and no clock, and starts no thread. One thread owns a
//! store. What uncommitted and unapplied writes may hold in memory is the owner's to bound, by
//! [`Store::dirty_bytes`] and [`Store::settled_bytes`].
//!
//! ```
//! use state::{Database, KeyValueStore, MemoryDatabase, Store};
//!
//! # fn main() -> Result<(), state::StateError> {
//! let database = MemoryDatabase::default();
//! let mut store = KeyValueStore::open("counts", database.tree("counts")?);
//! store.put(b"user-1", b"3", 1_700_000_000_000)?;
//!
//! let mut changelog = Vec::new();
//! store.seal(&mut |change| changelog.push((change.key.to_vec(), change.value.map(<[u8]>::to_vec))))?;
//! // … the Kafka transaction commits …
//! store.settle();
//! while !store.apply(2_000)? {}
//!
//! assert_eq!(changelog, [(b"user-1".to_vec(), Some(b"3".to_vec()))]);
//! assert_eq!(store.get(b"user-1")?.unwrap().value, "3");
//! # Ok(())
//! # }
//! ```
//!
//! Measured costs, with the command, are in the crate's `README.md`.

mod arena;
mod aside;
mod backend;
mod block;
mod blocks;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod delegate;
mod directory;
mod error;
mod expiry;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod join;
mod key_value;
mod keys;
mod marker;
mod overlay;
mod rows;
mod segments;
mod session;
mod store;
mod timed;
mod timeline;
mod versioned;
mod window;

pub use aside::mark_if_damaged;
#[cfg(feature = "fjall")]
pub use backend::FjallDatabase;
#[cfg(feature = "redb")]
pub use backend::RedbDatabase;
pub use backend::{
    Backend, Database, DatabaseOptions, Direction, MemoryDatabase, SledDatabase, Tree,
    UnknownBackend, VisitBytes,
};
pub use directory::StateDirectory;
pub use error::StateError;
pub use join::{JoinStore, JoinStoreOptions};
pub use key_value::KeyValueStore;
pub use marker::{Marker, read_marker, remove_marker, write_marker};
pub use session::{SessionStore, SessionStoreOptions};
pub use store::{
    Change, MAX_BATCH, Stamped, Store, VisitJoin, VisitKey, VisitSession, VisitSessions,
    VisitVersion, VisitWindow, VisitWindows,
};
pub use versioned::{Put, VersionedStore};
pub use window::{WindowStore, WindowStoreOptions};
