//! Killed at a random moment, a database never shows a marker without the entries before it, nor half a batch, nor less
//! than what was synced.
//!
//! The test runs itself as a child process that commits generations until it aborts at a given write, or until it is
//! killed some writes later, then reads what is left.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use state::{
    Backend, Database, DatabaseOptions, KeyValueStore, Marker, Store, read_marker, write_marker,
};

const DIRECTORY: &str = "STATE_CRASH_DIRECTORY";
const WRITES: &str = "STATE_CRASH_WRITES";
const KEYS: u32 = 400;
const BATCH: usize = 97;

#[derive(Debug, Clone, Copy)]
enum Death {
    /// By its own hand, before that write.
    Abort(u64),
    /// By SIGKILL, once it has told of so many writes.
    Kill(u64),
}

fn open(backend: Backend, path: &Path) -> Arc<dyn Database> {
    // Little memory, so that engines write their files in the background while the child is at work.
    let options = DatabaseOptions {
        cache_bytes: 1 << 20,
    };
    backend.open(path, &options).unwrap()
}

fn generation(database: &dyn Database) -> u64 {
    read_marker(database, "task")
        .unwrap()
        .map_or(0, |marker| marker.format_hash)
}

/// Commits generation after generation, every key once in each, and aborts after so many writes.
fn child(backend: Backend, path: &Path, mut writes: u64) {
    let database = open(backend, path);
    // Not `println!`, which the test harness may keep to itself.
    let (mut out, mut news) = (std::io::stdout(), std::io::stdout());
    let mut left = || {
        if writes == 0 {
            std::process::abort();
        }
        writes -= 1;
        writeln!(out, "write").unwrap();
    };
    let mut stores: Vec<KeyValueStore> = ["one", "two"]
        .map(|name| KeyValueStore::open(name, database.tree(name).unwrap()))
        .into();
    for generation in generation(&*database) + 1.. {
        for store in &mut stores {
            for key in 0..KEYS {
                let value = generation.to_be_bytes().repeat(24);
                store
                    .put(&key.to_be_bytes(), &value, generation as i64)
                    .unwrap();
            }
            store.seal(&mut |_| {}).unwrap();
            store.settle();
            let mut done = false;
            while !done {
                left();
                done = store.apply(BATCH).unwrap();
            }
        }
        left();
        let marker = Marker {
            format_hash: generation,
            ..Marker::default()
        };
        write_marker(&*database, "task", &marker).unwrap();
        if generation % 5 == 0 {
            left();
            database.sync().unwrap();
            writeln!(news, "synced {generation}").unwrap();
        }
    }
}

/// Runs the child until it is dead; the generation that it synced last.
fn run_child(test: &str, path: &Path, death: Death) -> u64 {
    let (Death::Abort(writes) | Death::Kill(writes)) = death;
    let limit = match death {
        Death::Abort(writes) => writes,
        Death::Kill(_) => u64::MAX,
    };
    let mut child: Child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(DIRECTORY, path)
        .env(WRITES, limit.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut written, mut synced) = (0, 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(generation) = line.strip_prefix("synced ") {
            synced = generation.parse().unwrap();
        }
        written += u64::from(line == "write");
        if written > writes {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success(), "the child dies");
    synced
}

/// Checks what is left, and says which generation the marker vouches for.
fn check(database: &dyn Database) -> u64 {
    let marker = generation(database);
    for name in ["one", "two"] {
        let store = KeyValueStore::open(name, database.tree(name).unwrap());
        let generations: Vec<u64> = (0..KEYS)
            .map(|key| {
                let found = store.get(&key.to_be_bytes()).unwrap();
                found.map_or(0, |value| {
                    let generation = value.timestamp as u64;
                    assert_eq!(value.value, generation.to_be_bytes().repeat(24));
                    generation
                })
            })
            .collect();
        for (key, generation) in generations.iter().enumerate() {
            assert!(
                *generation >= marker,
                "key {key} of {name}: {generation} < {marker}"
            );
        }
        for batch in generations.chunks(BATCH) {
            assert!(
                batch.iter().all(|generation| *generation == batch[0]),
                "half a batch in {name}: {generations:?}"
            );
        }
    }
    marker
}

fn survives(backend: Backend, test: &str) {
    if let Ok(path) = std::env::var(DIRECTORY) {
        let writes = std::env::var(WRITES).unwrap().parse().unwrap();
        child(backend, Path::new(&path), writes);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let mut progress = 0;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..16 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let writes = random % 150;
        let death = match round % 2 {
            0 => Death::Abort(writes),
            _ => Death::Kill(writes),
        };
        let synced = run_child(test, &path, death);
        let database = open(backend, &path);
        let files = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(files, 1, "{death:?}: a killed database can be opened");
        let marker = check(&*database);
        assert!(
            marker >= synced,
            "{death:?}: {synced} was synced, {marker} is left"
        );
        assert!(
            marker >= progress,
            "{death:?}: what was marked stays marked"
        );
        progress = marker;
    }
    assert!(progress > 20, "some commits survived: {progress}");
}

/// What a power loss does to fjall: tables are synced as they are written, the end of the journal is not.
#[cfg(feature = "fjall")]
fn cut_journal(path: &Path, part: u64) {
    let number = |path: &Path| path.file_stem()?.to_str()?.parse::<u64>().ok();
    let files = std::fs::read_dir(path).unwrap();
    let journals = files.map(|entry| entry.unwrap().path()).filter(|path| {
        let extension = path.extension();
        extension.is_some_and(|extension| extension == "jnl")
    });
    let newest = journals.max_by_key(|path| number(path)).unwrap();
    let length = std::fs::metadata(&newest).unwrap().len();
    let file = std::fs::File::options().write(true).open(newest).unwrap();
    file.set_len(length * part / 100).unwrap();
}

#[cfg(feature = "fjall")]
#[test]
fn without_the_end_of_its_journal_fjall_is_old_and_in_order() {
    let test = "crash::without_the_end_of_its_journal_fjall_is_old_and_in_order";
    if let Ok(path) = std::env::var(DIRECTORY) {
        let writes = std::env::var(WRITES).unwrap().parse().unwrap();
        child(Backend::Fjall, Path::new(&path), writes);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let mut most = 0;
    for round in 0..10 {
        run_child(test, &path, Death::Kill(60 + 37 * round));
        cut_journal(&path, round * 11);
        most = most.max(check(&*open(Backend::Fjall, &path)));
    }
    assert!(most > 20, "tables were written: {most}");
}

macro_rules! on {
    ($name:ident, $backend:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn a_marker_is_never_ahead_of_its_entries() {
                let test = concat!("crash::", stringify!($name));
                survives(
                    $backend,
                    &format!("{test}::a_marker_is_never_ahead_of_its_entries"),
                );
            }
        }
    };
}

on!(sled, Backend::Sled);
#[cfg(feature = "fjall")]
on!(fjall, Backend::Fjall);
#[cfg(feature = "redb")]
on!(redb, Backend::Redb);
