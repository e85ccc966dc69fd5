//! Transactional state stores: key-value, window, session and join buffers, over memory or sled.

mod arena;
mod backend;
mod block;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod delegate;
mod directory;
mod error;
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
mod window;

pub use backend::{
    Database, Direction, MemoryDatabase, SledDatabase, SledOptions, Tree, VisitBytes,
};
pub use directory::StateDirectory;
pub use error::StateError;
pub use join::{JoinStore, JoinStoreOptions};
pub use key_value::KeyValueStore;
pub use marker::{Marker, read_marker, remove_marker, write_marker};
pub use session::{SessionStore, SessionStoreOptions};
pub use store::{
    Change, MAX_BATCH, Stamped, Store, VisitJoin, VisitKey, VisitSession, VisitSessions,
    VisitWindow, VisitWindows,
};
pub use window::{WindowStore, WindowStoreOptions};
