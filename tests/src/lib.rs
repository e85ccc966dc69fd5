//! What the end-to-end tests share: real components, started once for a test process and stopped with it, the platform as
//! processes that can be killed, and what they have committed.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use xtask::broker::{Broker, Options};

pub mod chaos;
pub mod committed;
pub mod group;
pub mod instance;
pub mod kills;

static BROKER: Mutex<Option<(Broker, tempfile::TempDir)>> = Mutex::new(None);

/// Address of a real Kafka broker that belongs to this test process.
///
/// # Panics
/// When it cannot be started, with the reason.
#[must_use]
pub fn kafka() -> String {
    let mut broker = BROKER.lock().unwrap_or_else(PoisonError::into_inner);
    let (broker, _) = broker.get_or_insert_with(|| {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let broker = Broker::start(directory.path(), &Options::default())
            .unwrap_or_else(|error| panic!("the tests need a Kafka broker: {error:#}"));
        (broker, directory)
    });
    broker.bootstrap().to_owned()
}

/// Root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
