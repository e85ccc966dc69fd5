//! Where things are in the repository.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The root of the work tree that this crate was built from.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies below the root")
}

/// Downloaded and generated things that are not ours: jars, tools, compiled peers, the local broker. Never committed.
pub fn deps() -> PathBuf {
    root().join(".deps")
}

/// Held while something is made under [`deps`]: what is not finished yet carries the id of the process, which its threads
/// share.
pub(crate) fn making() -> MutexGuard<'static, ()> {
    static MAKING: Mutex<()> = Mutex::new(());
    MAKING.lock().unwrap_or_else(PoisonError::into_inner)
}
