//! A disk that takes no more is no damage: every engine says so with the directory, and has what it synced once there is
//! room again.
//!
//! The test runs itself as a child process that limits the size of its own files, once there is something in them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, setrlimit};
use state::{
    Backend, Database, DatabaseOptions, KeyValueStore, StateError, Store, mark_if_damaged,
};

const DIRECTORY: &str = "STATE_FULL_DISK_DIRECTORY";
const SYNCED: u32 = 500;
/// Far more than fits below the limit.
const MOST: u32 = 200_000;

fn open(backend: Backend, path: &Path) -> Arc<dyn Database> {
    let options = DatabaseOptions {
        cache_bytes: 1 << 20,
    };
    backend.open(path, &options).unwrap()
}

/// Bytes that no engine makes smaller.
fn value(n: u32) -> Vec<u8> {
    let mut state = u64::from(n) + 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..200).map(|_| byte()).collect()
}

fn write(database: &dyn Database, rows: std::ops::Range<u32>) -> Result<(), StateError> {
    let mut store = KeyValueStore::open("kv", database.tree("kv")?);
    for n in rows {
        store.put(&n.to_be_bytes(), &value(n), 1)?;
    }
    store.seal(&mut |_| {})?;
    store.settle();
    while !store.apply(2_000)? {}
    database.sync()
}

fn child(backend: Backend, path: &Path) {
    let database = open(backend, path);
    write(&*database, 0..SYNCED).unwrap();
    let limit = Rlimit {
        current: Some(256 << 10),
        maximum: None,
    };
    setrlimit(Resource::Fsize, limit).unwrap();
    let mut rows = (SYNCED..MOST).step_by(SYNCED as usize);
    let error = rows.find_map(|n| write(&*database, n..n + SYNCED).err());
    let error = error.expect("the disk is full");
    let again = write(&*database, 0..SYNCED).expect_err("it still is");
    for error in [error, again] {
        let text = error.to_string();
        assert!(matches!(error, StateError::Io { .. }), "{error:?}");
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(text.contains("has room"), "{text}");
        mark_if_damaged(path, &error);
    }
}

fn is_no_damage(backend: Backend, test: &str) {
    if let Ok(path) = std::env::var(DIRECTORY) {
        return child(backend, Path::new(&path));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let output = Command::new("sh")
        // So that a limit on the size of files is a failed write and no death.
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(DIRECTORY, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{backend}: {said}");
    let entries = fs::read_dir(directory.path()).unwrap().flatten();
    let names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["db"], "{backend}: it is not marked as damaged");

    let database = open(backend, &path);
    let store = KeyValueStore::open("kv", database.tree("kv").unwrap());
    for n in 0..SYNCED {
        let found = store.get(&n.to_be_bytes()).unwrap();
        assert_eq!(found.map(|row| row.value), Some(value(n).into()), "row {n}");
    }
    drop(store);
    write(&*database, SYNCED..2 * SYNCED).unwrap();
}

macro_rules! on {
    ($name:ident, $backend:expr) => {
        #[test]
        fn $name() {
            is_no_damage($backend, concat!("full_disk::", stringify!($name)));
        }
    };
}

on!(a_full_disk_is_no_damage_to_sled, Backend::Sled);
#[cfg(feature = "fjall")]
on!(a_full_disk_is_no_damage_to_fjall, Backend::Fjall);
#[cfg(feature = "redb")]
on!(a_full_disk_is_no_damage_to_redb, Backend::Redb);
