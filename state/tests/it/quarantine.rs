//! A damaged database is set aside, and a fresh one is opened.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
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

/// Copies the files of a database that is open, as a crash leaves them.
fn crash_image(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            crash_image(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

const COMMITS: u32 = 40;
const ROWS: u32 = 300;
/// A single bit may escape sled: of 120 such databases 30 were set aside, and one had lost a row in silence. With eight
/// bits, as with 64, all 120 were set aside.
const FLIPS: usize = 16;

/// Rows and then a marker, commit after commit; a row holds the number of its commit.
fn history(path: &Path, image: &Path) {
    let database = open(path).unwrap();
    let (mut rows, mut marker) = (
        database.tree("rows").unwrap(),
        database.tree("marker").unwrap(),
    );
    for commit in 1..=COMMITS {
        let batch: Vec<_> = (0..ROWS)
            .map(|n| {
                let key = (n * 7_919 % (ROWS * commit)).to_be_bytes();
                let value = [commit.to_be_bytes(), n.to_be_bytes()].concat().repeat(20);
                (key.to_vec().into(), Some(value.into()))
            })
            .collect::<BTreeMap<Bytes, Option<Bytes>>>()
            .into_iter()
            .collect();
        rows.apply(&batch).unwrap();
        let mark = commit.to_be_bytes().to_vec();
        marker
            .apply(&[(b"m".to_vec().into(), Some(mark.into()))])
            .unwrap();
        if commit % 8 == 0 {
            database.sync().unwrap();
        }
    }
    crash_image(path, image);
}

/// What a row must hold at least once the marker says `commit`: the number of the last commit that wrote it.
fn expected(commit: u32) -> BTreeMap<[u8; 4], u32> {
    let mut rows = BTreeMap::new();
    for commit in 1..=commit {
        for n in 0..ROWS {
            rows.insert((n * 7_919 % (ROWS * commit)).to_be_bytes(), commit);
        }
    }
    rows
}

enum Found {
    SetAside,
    /// Reading failed.
    Noticed,
    Whole,
    Lost {
        marker: u32,
        written_by: u32,
    },
}

fn look(path: &Path) -> Found {
    let database = open(path).unwrap();
    if database.quarantined().is_some() {
        return Found::SetAside;
    }
    let (Ok(rows), Ok(marker)) = (database.tree("rows"), database.tree("marker")) else {
        return Found::Noticed;
    };
    let commit = match marker.get(b"m") {
        Err(_) => return Found::Noticed,
        Ok(None) => return Found::Whole,
        Ok(Some(mark)) => u32::from_be_bytes(mark[..].try_into().unwrap()),
    };
    for (key, written_by) in expected(commit) {
        let newest = match rows.get(&key) {
            Err(_) => return Found::Noticed,
            Ok(value) => value.map_or(0, |value| {
                u32::from_be_bytes(value[..4].try_into().unwrap())
            }),
        };
        if newest < written_by {
            let marker = commit;
            return Found::Lost { marker, written_by };
        }
    }
    Found::Whole
}

#[test]
fn a_marker_never_vouches_for_rows_that_damage_has_taken() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    history(&directory.path().join("db"), &image);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap() % bound
    };
    let mut aside = 0;
    for round in 0..40 {
        let path = directory.path().join(format!("damaged-{round}"));
        crash_image(&image, &path);
        let file = path.join("db");
        let mut bytes = fs::read(&file).unwrap();
        for _ in 0..FLIPS {
            let at = below(bytes.len());
            bytes[at] ^= 1 << below(8);
        }
        fs::write(&file, bytes).unwrap();
        match look(&path) {
            Found::SetAside | Found::Noticed => aside += 1,
            Found::Whole => {}
            Found::Lost { marker, written_by } => panic!(
                "round {round}: the marker says {marker}, and a row of commit {written_by} is gone"
            ),
        }
        fs::remove_dir_all(&path).unwrap();
    }
    assert!(aside > 0, "no damage was noticed in 40 rounds");
}
