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
pub mod topics;

static BROKER: Mutex<Option<(Broker, tempfile::TempDir)>> = Mutex::new(None);

/// A user of the broker's guarded listener, who may do nothing until a test allows it.
pub const USER: &str = "application";

/// Does `work` with a real Kafka broker that belongs to this test process.
///
/// # Panics
/// When it cannot be started, with the reason.
pub fn with_broker<T>(work: impl FnOnce(&Broker) -> T) -> T {
    let mut broker = BROKER.lock().unwrap_or_else(PoisonError::into_inner);
    let (broker, _) = broker.get_or_insert_with(|| {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let broker = Broker::start(directory.path(), &Options::default().users(&[USER]))
            .unwrap_or_else(|error| panic!("the tests need a Kafka broker: {error:#}"));
        (broker, directory)
    });
    work(broker)
}

/// The broker's address.
///
/// # Panics
/// As [`with_broker`].
#[must_use]
pub fn kafka() -> String {
    with_broker(|broker| broker.bootstrap().to_owned())
}

/// Runs one of Kafka's own tools on the broker.
///
/// # Panics
/// When it fails, with what it said.
pub fn tool(class: &str, arguments: &[&str]) {
    let mut tool = with_broker(|broker| {
        let mut tool = broker.java();
        tool.arg(class);
        tool.args(["--bootstrap-server", broker.bootstrap()]);
        tool
    });
    let output = tool.args(arguments).output().expect("java can be run");
    assert!(
        output.status.success(),
        "{class} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
