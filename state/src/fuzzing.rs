//! What must hold for bytes that nobody of ours wrote: each function takes any bytes and panics where a promise breaks.
//!
//! The fuzzer calls these (`fuzz/README.md` has the list), and a test calls them for every file of its corpora.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;

use crate::block::{Tail, decode_entries, encode_entries};
use crate::directory::Identity;
use crate::keys::{Kind, from_ordered, ordered, stamp, unstamp, write_row_prefix};
use crate::{
    Change, Database, Direction, JoinStore, JoinStoreOptions, KeyValueStore, Marker,
    MemoryDatabase, SessionStore, SessionStoreOptions, StateError, Store, Tree, VersionedStore,
    WindowStore, WindowStoreOptions,
};

const KINDS: [Kind; 3] = [Kind::Window, Kind::Session, Kind::Join];
const NAME: &str = "fuzzed";

/// Formats, one at a time; the first byte chooses. What is decoded is written back as the same bytes.
pub fn formats(data: &[u8]) {
    let Some((format, bytes)) = data.split_first() else {
        return;
    };
    let shared = Bytes::copy_from_slice(bytes);
    match format % 7 {
        0 => marker(bytes),
        1 => {
            if let Some(tail) = Tail::decode(&shared) {
                assert_eq!(tail.encode(), shared);
            }
        }
        2 => entries(&shared),
        3 => KINDS
            .into_iter()
            .for_each(|kind| changelog_key(kind, bytes)),
        4 => [Kind::Window, Kind::Session]
            .into_iter()
            .for_each(|kind| row_key(kind, bytes)),
        5 => {
            if let Some(row) = unstamp(shared) {
                assert_eq!(stamp(row.timestamp, &row.value), bytes);
                assert_eq!(from_ordered(ordered(row.timestamp)), row.timestamp);
            }
        }
        _ => identity(bytes),
    }
}

/// What the file of a state directory says is written as a file that says the same.
fn identity(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(identity) = Identity::parse(text)
    {
        assert_eq!(Identity::parse(&identity.text()), Some(identity));
    }
}

/// `body` with the checksum that it should have, and with one that it should not.
fn marker(body: &[u8]) {
    let crc = crc32fast::hash(body);
    let mut bytes = body.to_vec();
    bytes.extend_from_slice(&crc.to_be_bytes());
    if let Some(marker) = Marker::decode(&bytes) {
        assert_eq!(Marker::decode(&marker.encode()), Some(marker));
    }
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    assert_eq!(Marker::decode(&bytes), None, "its checksum is wrong");
}

fn entries(bytes: &Bytes) {
    let Some(all) = decode_entries(bytes, i64::MIN, i64::MAX) else {
        return;
    };
    assert_eq!(encode_entries(&all), *bytes);
    if let Some((slot, _)) = all.first() {
        let from = slot.major;
        let some = decode_entries(bytes, from, i64::MAX);
        let expected = all.into_iter().filter(|(slot, _)| slot.major >= from);
        assert_eq!(some, Some(expected.collect()));
    }
}

fn changelog_key(kind: Kind, bytes: &[u8]) {
    if let Some((key, slot)) = kind.parse_changelog_key(bytes) {
        let mut written = Vec::new();
        kind.write_changelog_key(&mut written, key, slot);
        // The sequence number in the key of a window is always 0 here and in Kafka Streams, and means nothing.
        let meant = match kind {
            Kind::Window => bytes.len() - 4,
            Kind::Session | Kind::Join => bytes.len(),
        };
        assert_eq!(written[..meant], bytes[..meant]);
    }
}

fn row_key(kind: Kind, bytes: &[u8]) {
    if let Some((key, slot)) = kind.parse_row_key(bytes) {
        let segment = from_ordered(*bytes.first_chunk().expect("a row key begins with it"));
        let mut written = Vec::new();
        kind.write_row_key(&mut written, segment, key, slot);
        assert_eq!(written, bytes);
        write_row_prefix(&mut written, segment, key);
        assert!(bytes.starts_with(&written));
    }
}

/// A store of some kind over any rows, restored from any changelog: it answers, or says by name that it is corrupt, and
/// after [`Store::clear`] it is as good as new. Without foreign rows it also shows the same before its entries are
/// applied, after that, and opened anew.
pub fn stores(data: &[u8]) {
    // Bytes that run out are zeros, so a script does not fail.
    let _ = script(&mut Unstructured::new(data));
}

/// What a store shows, as text.
type Shown = std::result::Result<Vec<String>, StateError>;

fn script(script: &mut Unstructured<'_>) -> Result<()> {
    let kind = script.int_in_range(0..=5)?;
    let segment_ms = script.int_in_range(0..=100_000)?;
    let horizon = script.arbitrary::<Option<i64>>()?;
    let database = MemoryDatabase::default();
    let foreign_rows = script.int_in_range(0..=6)?;
    for _ in 0..foreign_rows {
        let row = (bytes(script)?, Some(bytes(script)?));
        tree(&database).apply(&[row]).expect("memory takes all");
    }
    let mut changes = Vec::new();
    for _ in 0..script.int_in_range(0..=6)? {
        let value = script.arbitrary::<bool>()?.then(|| bytes(script));
        changes.push((bytes(script)?, value.transpose()?, script.arbitrary()?));
    }
    let opened = Subject::open(kind, &database, segment_ms, horizon);
    let Some(mut subject) = answered(opened) else {
        return Ok(());
    };
    for (key, value, timestamp) in &changes {
        restored(subject.store().restore(Change {
            key,
            value: value.as_deref(),
            timestamp: *timestamp,
        }));
    }
    let keys: Vec<Bytes> = changes.iter().map(|(key, ..)| key.clone()).collect();
    let before = answered(subject.show(&keys));
    let applied = answered(apply_all(subject.store()));
    let after = answered(subject.show(&keys));
    drop(subject);
    let Some(mut subject) = answered(Subject::open(kind, &database, segment_ms, horizon)) else {
        return Ok(());
    };
    let reopened = answered(subject.show(&keys));
    if foreign_rows == 0 {
        assert!(applied.is_some() && before.is_some(), "nothing is corrupt");
        assert_eq!(before, after, "applying shows nothing");
        assert_eq!(before, reopened, "all of it was applied");
    }
    subject.store().clear().expect("memory is cleared");
    assert_eq!(subject.show(&keys).expect("it is empty"), [""; 0]);
    Ok(())
}

fn bytes(script: &mut Unstructured<'_>) -> Result<Bytes> {
    let length = script.int_in_range(0..=40)?;
    let length = length.min(script.len());
    Ok(Bytes::copy_from_slice(script.bytes(length)?))
}

fn tree(database: &MemoryDatabase) -> Box<dyn Tree> {
    database.tree(NAME).expect("memory has any tree")
}

/// The answer; the only refusal is that something of this store is corrupt.
fn answered<T>(answer: std::result::Result<T, StateError>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(StateError::Corrupt { store, .. }) if store == NAME => None,
        Err(error) => panic!("{error}"),
    }
}

/// Takes in a change, or says that it is none of this kind of store.
fn restored(answer: std::result::Result<(), StateError>) {
    match answer {
        Ok(()) => {}
        Err(StateError::ForeignChange { store, .. }) if store == NAME => {}
        Err(error) => panic!("{error}"),
    }
}

fn apply_all(store: &mut dyn Store) -> std::result::Result<(), StateError> {
    // More rounds than any script has entries: one that never ends would be a bug.
    for _ in 0..1_000 {
        if store.apply(2)? {
            return Ok(());
        }
    }
    panic!("there is no end to what is applied");
}

enum Subject {
    KeyValue(KeyValueStore),
    Versioned(VersionedStore),
    Window(WindowStore),
    Session(SessionStore),
    Join(JoinStore),
}

impl Subject {
    fn open(
        kind: u8,
        database: &MemoryDatabase,
        segment_ms: i64,
        horizon: Option<i64>,
    ) -> std::result::Result<Self, StateError> {
        let mut subject = match kind {
            0 => Self::KeyValue(KeyValueStore::open(NAME, tree(database))),
            1 => {
                let order = database.tree("order").expect("memory has any tree");
                Self::KeyValue(KeyValueStore::open_expiring(NAME, tree(database), order))
            }
            2 => Self::Versioned(VersionedStore::open(NAME, tree(database))?),
            3 => {
                let retention_ms = segment_ms;
                let options = WindowStoreOptions {
                    retention_ms,
                    segment_ms,
                };
                Self::Window(WindowStore::open(NAME, tree(database), options)?)
            }
            4 => {
                let options = SessionStoreOptions { segment_ms };
                Self::Session(SessionStore::open(NAME, tree(database), options)?)
            }
            _ => {
                let options = JoinStoreOptions { segment_ms };
                Self::Join(JoinStore::open(NAME, tree(database), options)?)
            }
        };
        if let Some(horizon) = horizon {
            match &mut subject {
                Self::KeyValue(store) if kind == 1 => store.restore_horizon(horizon),
                Self::KeyValue(_) => {}
                Self::Versioned(store) => store.restore_horizon(horizon),
                Self::Window(store) => store.restore_horizon(horizon),
                Self::Session(store) => store.restore_horizon(horizon),
                Self::Join(store) => store.restore_horizon(horizon),
            }
        }
        Ok(subject)
    }

    fn store(&mut self) -> &mut dyn Store {
        match self {
            Self::KeyValue(store) => store,
            Self::Versioned(store) => store,
            Self::Window(store) => store,
            Self::Session(store) => store,
            Self::Join(store) => store,
        }
    }

    /// All that it has, and what it has of some changelog keys.
    fn show(&self, keys: &[Bytes]) -> Shown {
        let mut shown = Vec::new();
        let (from, to) = (i64::MIN, i64::MAX);
        let next = ControlFlow::Continue(());
        match self {
            Self::KeyValue(store) => {
                let all = (Bound::Unbounded, Bound::Unbounded);
                store.scan(all.0, all.1, Direction::Forward, &mut |key, row| {
                    shown.push(format!("{key:?} {row:?}"));
                    next
                })?;
                let mut backwards = Vec::new();
                store.scan(all.0, all.1, Direction::Backward, &mut |key, row| {
                    backwards.push(format!("{key:?} {row:?}"));
                    next
                })?;
                assert!(backwards.iter().rev().eq(&shown), "both ways are one order");
            }
            Self::Versioned(store) => {
                for key in keys {
                    let mut versions = BTreeMap::new();
                    store.versions(key, &mut |timestamp, value| {
                        assert!(
                            versions
                                .insert(timestamp, value.map(<[u8]>::to_vec))
                                .is_none()
                        );
                        next
                    })?;
                    shown.extend(
                        versions
                            .iter()
                            .map(|version| format!("{key:?} {version:?}")),
                    );
                    let latest = store.latest(key)?.map(|row| row.value.to_vec());
                    if let Some((_, value)) = versions.last_key_value() {
                        assert_eq!(latest, *value, "the last version is the latest");
                    }
                }
            }
            Self::Window(store) => {
                store.fetch_all(from, to, &mut |key, start, row| {
                    shown.push(format!("{key:?} {start} {row:?}"));
                    next
                })?;
                for (key, slot) in slots(Kind::Window, keys) {
                    let mut last = None;
                    store.fetch(key, from, to, &mut |start, row| {
                        assert!(last.replace(start) < Some(start), "by start");
                        let line = format!("{key:?} {start} {row:?}");
                        assert!(shown.contains(&line), "what one finds all find");
                        next
                    })?;
                    store.get(key, slot.major)?;
                }
            }
            Self::Session(store) => {
                store.find_all(from, to, &mut |key, start, end, row| {
                    shown.push(format!("{key:?} {start} {end} {row:?}"));
                    next
                })?;
                for (key, slot) in slots(Kind::Session, keys) {
                    store.find(key, from, to, &mut |start, end, row| {
                        let line = format!("{key:?} {start} {end} {row:?}");
                        assert!(shown.contains(&line), "what one finds all find");
                        next
                    })?;
                    store.get(key, slot.minor, slot.major)?;
                }
            }
            Self::Join(store) => {
                for (key, _) in slots(Kind::Join, keys) {
                    let mut last = None;
                    store.fetch(key, from, to, &mut |timestamp, sequence, value| {
                        assert!(last.replace((timestamp, sequence)) < Some((timestamp, sequence)));
                        shown.push(format!("{key:?} {timestamp} {sequence} {value:?}"));
                        next
                    })?;
                }
            }
        }
        Ok(shown)
    }
}

/// The keys and slots of the changelog keys that are of this kind.
fn slots(kind: Kind, keys: &[Bytes]) -> impl Iterator<Item = (&[u8], crate::keys::Slot)> {
    keys.iter()
        .filter_map(move |key| kind.parse_changelog_key(key))
}

#[cfg(test)]
mod tests {
    use corpus::replay;

    #[test]
    fn the_corpus_of_formats_breaks_no_promise() {
        replay("state_formats", super::formats);
    }

    #[test]
    fn the_corpus_of_stores_breaks_no_promise() {
        replay("state_stores", super::stores);
    }
}
