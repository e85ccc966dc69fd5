//! A damaged database is set aside, and a fresh one is opened.

use std::fs;
use std::path::{Path, PathBuf};

use state::{Database, DatabaseOptions, KeyValueStore, SledDatabase, StateError, Store};

fn open(path: &Path) -> Result<SledDatabase, StateError> {
    SledDatabase::open(
        path,
        &DatabaseOptions {
            cache_bytes: 1 << 20,
        },
    )
}

fn fill(path: &Path) {
    let database = open(path).unwrap();
    let mut store = KeyValueStore::open("kv", database.tree("kv").unwrap());
    for n in 0..20_000u32 {
        store.put(&n.to_be_bytes(), &[7; 100], 1).unwrap();
    }
    store.seal(&mut |_| {}).unwrap();
    store.settle();
    while !store.apply(2_000).unwrap() {}
    database.sync().unwrap();
}

fn files(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).collect()
}

/// After the damage the store either has its rows, or was set aside and is empty; it always works.
fn usable_after(damage: impl Fn(&Path)) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    fill(&path);
    damage(&path);
    let database = open(&path).unwrap();
    let mut store = KeyValueStore::open("kv", database.tree("kv").unwrap());
    if let Some(aside) = database.quarantined() {
        assert!(aside.exists() && aside != path);
        assert!(store.get(&1u32.to_be_bytes()).unwrap().is_none());
    }
    store.put(b"new", b"value", 2).unwrap();
    store.seal(&mut |_| {}).unwrap();
    store.settle();
    assert!(store.apply(10).unwrap());
    assert!(store.get(b"new").unwrap().is_some());
    database.quarantined().is_some()
}

#[test]
fn an_undamaged_database_is_not_set_aside() {
    assert!(!usable_after(|_| {}));
}

#[test]
fn a_database_of_garbage_is_set_aside() {
    assert!(usable_after(|path| {
        for file in files(path) {
            let length = fs::metadata(&file).unwrap().len() as usize;
            fs::write(file, vec![0x5a; length]).unwrap();
        }
    }));
}

#[test]
fn a_configuration_of_garbage_is_set_aside() {
    assert!(usable_after(|path| fs::write(
        path.join("conf"),
        b"not a sled conf"
    )
    .unwrap()));
}

#[test]
fn a_truncated_database_opens_one_way_or_the_other() {
    for part in [0, 1, 3] {
        usable_after(|path| {
            for file in files(path) {
                let length = fs::metadata(&file).unwrap().len();
                fs::File::options()
                    .write(true)
                    .open(file)
                    .unwrap()
                    .set_len(length * part / 4)
                    .unwrap();
            }
        });
    }
}

#[test]
fn a_database_in_use_is_not_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let held = open(&path).unwrap();
    assert!(matches!(open(&path), Err(StateError::Locked { .. })));
    assert!(held.quarantined().is_none());
    drop(held);
    assert!(open(&path).unwrap().quarantined().is_none());
}
