//! Killed at a random write, a database never shows a marker without the entries before it.
//!
//! The test runs itself as a child process that commits generations until it aborts in the middle, then
//! reads what is left.

use std::path::Path;
use std::process::{Command, Stdio};

use state::{
    Database, KeyValueStore, Marker, SledDatabase, SledOptions, Store, read_marker, write_marker,
};

const DIRECTORY: &str = "STATE_CRASH_DIRECTORY";
const WRITES: &str = "STATE_CRASH_WRITES";
const KEYS: u32 = 400;

fn open(path: &Path) -> SledDatabase {
    SledDatabase::open(
        path,
        &SledOptions {
            cache_bytes: 1 << 20,
        },
    )
    .unwrap()
}

/// Commits generation after generation, every key once in each, and aborts after so many writes.
fn child(path: &Path, mut writes: u64) {
    let database = open(path);
    let mut left = || {
        if writes == 0 {
            std::process::abort();
        }
        writes -= 1;
    };
    let mut stores: Vec<KeyValueStore> = ["one", "two"]
        .map(|name| KeyValueStore::open(name, database.tree(name).unwrap()))
        .into();
    let known = read_marker(&database, "task")
        .unwrap()
        .map_or(0, |marker| marker.format_hash);
    for generation in known + 1.. {
        for store in &mut stores {
            for key in 0..KEYS {
                let value = generation.to_be_bytes().repeat(8);
                store
                    .put(&key.to_be_bytes(), &value, generation as i64)
                    .unwrap();
            }
            store.seal(&mut |_| {}).unwrap();
            store.settle();
            let mut done = false;
            while !done {
                left();
                done = store.apply(97).unwrap();
            }
        }
        left();
        let marker = Marker {
            format_hash: generation,
            ..Marker::default()
        };
        write_marker(&database, "task", &marker).unwrap();
        if generation % 5 == 0 {
            left();
            database.sync().unwrap();
        }
    }
}

#[test]
fn a_marker_is_never_ahead_of_its_entries() {
    if let Ok(path) = std::env::var(DIRECTORY) {
        child(
            Path::new(&path),
            std::env::var(WRITES).unwrap().parse().unwrap(),
        );
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let mut progress = 0;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..12 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let status = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::a_marker_is_never_ahead_of_its_entries",
                "--nocapture",
            ])
            .env(DIRECTORY, &path)
            .env(WRITES, (random % 150).to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success(), "the child aborts");
        let database = open(&path);
        assert!(
            database.quarantined().is_none(),
            "a killed database can be opened"
        );
        let marker = read_marker(&database, "task")
            .unwrap()
            .map_or(0, |found| found.format_hash);
        assert!(marker >= progress, "what was marked stays marked");
        progress = marker;
        for name in ["one", "two"] {
            let store = KeyValueStore::open(name, database.tree(name).unwrap());
            for key in 0..KEYS {
                let found = store.get(&key.to_be_bytes()).unwrap();
                let generation = found.map_or(0, |value| value.timestamp as u64);
                assert!(
                    generation >= marker,
                    "key {key} of {name}: {generation} < {marker}"
                );
            }
        }
    }
    assert!(progress > 0, "some commits survived");
}
