//! Where things are in the repository.

use std::path::{Path, PathBuf};

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
