//! What holds for the engines; of damaged files, for those beside sled, which sets them aside itself (`quarantine.rs`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use state::{Backend, Database, DatabaseOptions, KeyValueStore, StateError, Store};

fn engines() -> impl Iterator<Item = Backend> {
    let others = |backend: &Backend| backend.is_built_in() && *backend != Backend::Sled;
    Backend::ALL.into_iter().filter(others)
}

fn open(backend: Backend, path: &Path) -> Result<Arc<dyn Database>, StateError> {
    let options = DatabaseOptions {
        cache_bytes: 1 << 20,
    };
    backend.open(path, &options)
}

fn fill(database: &dyn Database) {
    let mut store = KeyValueStore::open("kv", database.tree("kv").unwrap());
    for n in 0..6_000u32 {
        store.put(&n.to_be_bytes(), &[7; 100], 1).unwrap();
    }
    store.seal(&mut |_| {}).unwrap();
    store.settle();
    while !store.apply(2_000).unwrap() {}
    database.sync().unwrap();
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// After the damage the database opens, or says that its files are unreadable, and where they are.
fn opens_or_says_why(backend: Backend, damage: impl Fn(&Path)) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    fill(&*open(backend, &path).unwrap());
    damage(&path);
    match open(backend, &path) {
        Ok(_) => Ok(()),
        Err(error) => {
            let is_unreadable = matches!(error, StateError::Unreadable { .. });
            assert!(is_unreadable, "{backend}: {error:?}");
            let text = error.to_string();
            assert!(text.contains(&path.display().to_string()), "{text}");
            Err(text)
        }
    }
}

/// An application without stores gives its engine no share of its memory.
#[test]
fn a_database_without_a_cache_opens_and_keeps_what_it_is_given() {
    for backend in Backend::ALL.into_iter().filter(|b| b.is_built_in()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stores");
        let none = DatabaseOptions { cache_bytes: 0 };
        let database = backend
            .open(&path, &none)
            .unwrap_or_else(|error| panic!("{backend:?}: {error}"));
        fill(&*database);
        let store = KeyValueStore::open("kv", database.tree("kv").unwrap());
        assert!(store.get(&1u32.to_be_bytes()).unwrap().is_some());
    }
}

#[test]
fn a_closed_database_is_as_it_was() {
    for backend in engines() {
        let directory = tempfile::tempdir().unwrap();
        fill(&*open(backend, directory.path()).unwrap());
        let database = open(backend, directory.path()).unwrap();
        assert_eq!(database.tree_names().unwrap(), ["kv"], "{backend}");
        let store = KeyValueStore::open("kv", database.tree("kv").unwrap());
        let found = store.get(&5_999u32.to_be_bytes()).unwrap().unwrap();
        assert_eq!(found.value, [7; 100][..], "{backend}");
    }
}

#[test]
fn a_tree_that_was_dropped_and_opened_again_is_another_one() {
    for backend in engines() {
        let directory = tempfile::tempdir().unwrap();
        {
            let database = open(backend, directory.path()).unwrap();
            fill(&*database);
            database.tree("between").unwrap();
            database.drop_tree("kv").unwrap();
            database.drop_tree("between").unwrap();
        }
        let database = open(backend, directory.path()).unwrap();
        for name in ["other", "kv"] {
            let store = KeyValueStore::open(name, database.tree(name).unwrap());
            assert!(store.get(&0u32.to_be_bytes()).unwrap().is_none());
        }
    }
}

#[test]
fn a_database_of_garbage_is_unreadable() {
    for backend in engines() {
        let opened = opens_or_says_why(backend, |path| {
            for file in files(path) {
                let length = fs::metadata(&file).unwrap().len() as usize;
                fs::write(file, vec![0x5a; length]).unwrap();
            }
        });
        opened.expect_err("garbage is no database");
    }
}

#[test]
fn a_truncated_database_opens_or_is_unreadable() {
    for backend in engines() {
        for part in [0, 1, 3] {
            let _ = opens_or_says_why(backend, |path| {
                for file in files(path) {
                    let length = fs::metadata(&file).unwrap().len();
                    let file = fs::File::options().write(true).open(file).unwrap();
                    file.set_len(length * part / 4).unwrap();
                }
            });
        }
    }
}

#[test]
fn a_database_that_lacks_a_file_opens_or_is_unreadable() {
    for backend in engines() {
        let directory = tempfile::tempdir().unwrap();
        fill(&*open(backend, directory.path()).unwrap());
        for n in 0..files(directory.path()).len() {
            let _ = opens_or_says_why(backend, |path| {
                let mut files = files(path);
                files.sort();
                if let Some(file) = files.get(n) {
                    fs::remove_file(file).unwrap();
                }
            });
        }
    }
}

#[test]
fn a_database_in_use_is_locked_and_free_once_it_is_dropped() {
    for backend in engines() {
        let directory = tempfile::tempdir().unwrap();
        let held = open(backend, directory.path()).unwrap();
        let tree = held.tree("t").unwrap();
        let second = open(backend, directory.path()).err();
        assert!(
            matches!(second, Some(StateError::Locked { .. })),
            "{second:?}"
        );
        drop((held, tree));
        open(backend, directory.path()).unwrap();
    }
}

/// A start that was killed before there was a database leaves a journal, which the next one must not stumble over.
#[cfg(feature = "fjall")]
#[test]
fn a_fjall_database_that_was_never_finished_is_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("keyspaces")).unwrap();
    fs::write(directory.path().join("lock"), "").unwrap();
    fs::write(directory.path().join("0.jnl"), "").unwrap();
    fill(&*open(Backend::Fjall, directory.path()).unwrap());
}
