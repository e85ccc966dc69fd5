//! One face for the five kinds of store, so that one model serves them all.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use state::{
    Database, Direction, JoinStore, JoinStoreOptions, KeyValueStore, SessionStore,
    SessionStoreOptions, Stamped, Store, VersionedStore, WindowStore, WindowStoreOptions,
};

/// Key and two numbers: window `(start, 0)`, session `(end, start)`, join `(timestamp, sequence)`, version
/// `(timestamp, 0)`.
pub type Id = (Vec<u8>, i64, i64);
/// Timestamp and value. Only a version may have no value.
pub type Row = (i64, Option<Vec<u8>>);
pub type Map = BTreeMap<Id, Row>;

const SEGMENT_MS: i64 = 10;
const GO: ControlFlow<()> = ControlFlow::Continue(());

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    KeyValue,
    Window,
    Session,
    Join,
    Versioned,
}

pub enum Subject {
    KeyValue(KeyValueStore),
    Window(WindowStore),
    Session(SessionStore),
    Join(JoinStore),
    Versioned(VersionedStore),
}

fn row(value: Stamped) -> Row {
    (value.timestamp, Some(value.value.to_vec()))
}

impl Kind {
    pub fn open(self, database: &dyn Database) -> Subject {
        let (tree, segment_ms) = (database.tree("subject").unwrap(), SEGMENT_MS);
        let name = "subject";
        match self {
            Self::KeyValue => Subject::KeyValue(KeyValueStore::open(name, tree)),
            Self::Window => {
                let options = WindowStoreOptions {
                    retention_ms: 100,
                    segment_ms,
                };
                Subject::Window(WindowStore::open(name, tree, options).unwrap())
            }
            Self::Session => {
                let options = SessionStoreOptions { segment_ms };
                Subject::Session(SessionStore::open(name, tree, options).unwrap())
            }
            Self::Join => {
                // Wide, so that some keys fill several blocks of a segment.
                let options = JoinStoreOptions {
                    segment_ms: 4 * segment_ms,
                };
                Subject::Join(JoinStore::open(name, tree, options).unwrap())
            }
            Self::Versioned => Subject::Versioned(VersionedStore::open(name, tree).unwrap()),
        }
    }

    /// The part of an id that this kind has.
    pub fn id(self, key: &[u8], major: i64, minor: u8) -> Id {
        let (major, minor) = match self {
            Self::KeyValue => (0, 0),
            Self::Window | Self::Versioned => (major, 0),
            Self::Session => (major, major - i64::from(minor)),
            Self::Join => (major, i64::from(minor)),
        };
        (key.to_vec(), major, minor)
    }

    /// The changelog key, spelled out independently of the store.
    pub fn changelog_key(self, (key, major, minor): &Id) -> Vec<u8> {
        let mut bytes = key.clone();
        match self {
            Self::KeyValue | Self::Versioned => {}
            Self::Window | Self::Join => {
                bytes.extend(major.to_be_bytes());
                bytes.extend((*minor as u32).to_be_bytes());
            }
            Self::Session => {
                bytes.extend(major.to_be_bytes());
                bytes.extend(minor.to_be_bytes());
            }
        }
        bytes
    }
}

impl Subject {
    pub fn store(&mut self) -> &mut dyn Store {
        match self {
            Self::KeyValue(store) => store,
            Self::Window(store) => store,
            Self::Session(store) => store,
            Self::Join(store) => store,
            Self::Versioned(store) => store,
        }
    }

    /// Writes, and says which minor was used.
    pub fn write(&mut self, id: &Id, value: Option<&[u8]>, timestamp: i64) -> i64 {
        let (key, major, minor) = (&id.0[..], id.1, id.2);
        match (self, value) {
            (Self::KeyValue(store), Some(value)) => store.put(key, value, timestamp).unwrap(),
            (Self::KeyValue(store), None) => store.delete(key, timestamp).unwrap(),
            (Self::Window(store), Some(value)) => store.put(key, major, value, timestamp).unwrap(),
            (Self::Window(store), None) => store.delete(key, major, timestamp).unwrap(),
            (Self::Session(store), Some(value)) => {
                store.put(key, minor, major, value, timestamp).unwrap();
            }
            (Self::Session(store), None) => store.remove(key, minor, major, timestamp).unwrap(),
            (Self::Join(store), value) => {
                let value = value.expect("a join side has no deletes");
                return i64::from(store.append(key, major, minor as u32, value).unwrap());
            }
            (Self::Versioned(store), value) => drop(store.put(key, value, major).unwrap()),
        }
        minor
    }

    pub fn expire_before(&mut self, time: i64) {
        match self {
            Self::KeyValue(_) => {}
            Self::Window(store) => store.expire_before(time),
            Self::Session(store) => store.expire_before(time),
            Self::Join(store) => store.expire_before(time),
            Self::Versioned(store) => store.expire_before(time),
        }
    }

    pub fn restore_horizon(&mut self, time: i64) {
        match self {
            Self::KeyValue(_) => {}
            Self::Window(store) => store.restore_horizon(time),
            Self::Session(store) => store.restore_horizon(time),
            Self::Join(store) => store.restore_horizon(time),
            Self::Versioned(store) => store.restore_horizon(time),
        }
    }

    /// Compares every way of reading with the model, for the keys and the span of time given.
    pub fn check(&self, model: &Map, keys: &[&[u8]], from: i64, to: i64) {
        match self {
            Self::KeyValue(store) => check_key_value(store, model, keys),
            Self::Window(store) => check_window(store, model, keys, from, to),
            Self::Session(store) => check_session(store, model, keys, from, to),
            Self::Join(store) => check_join(store, model, keys, from, to),
            Self::Versioned(store) => check_versioned(store, model, keys, from),
        }
    }
}

/// What the model has of a key between two majors.
fn of_key<'m>(
    model: &'m Map,
    key: &[u8],
    from: i64,
    to: i64,
) -> impl Iterator<Item = (&'m Id, &'m Row)> {
    let range = (key.to_vec(), from, i64::MIN)..=(key.to_vec(), to, i64::MAX);
    (from <= to)
        .then(|| model.range(range))
        .into_iter()
        .flatten()
}

fn check_key_value(store: &KeyValueStore, model: &Map, keys: &[&[u8]]) {
    for key in keys {
        let expected = model.get(&(key.to_vec(), 0, 0)).cloned();
        assert_eq!(store.get(key).unwrap().map(row), expected, "get {key:?}");
    }
    let expected: Vec<_> = model
        .iter()
        .map(|(id, row)| (id.0.clone(), row.clone()))
        .collect();
    let bounds = [
        Bound::Unbounded,
        Bound::Included(keys[1]),
        Bound::Excluded(keys[2]),
    ];
    for direction in [Direction::Forward, Direction::Backward] {
        for (from, to) in bounds
            .iter()
            .flat_map(|from| bounds.iter().map(move |to| (*from, *to)))
        {
            let mut expected = expected.clone();
            expected.retain(|(key, _)| {
                let after = match from {
                    Bound::Included(from) => &key[..] >= from,
                    Bound::Excluded(from) => &key[..] > from,
                    Bound::Unbounded => true,
                };
                let before = match to {
                    Bound::Included(to) => &key[..] <= to,
                    Bound::Excluded(to) => &key[..] < to,
                    Bound::Unbounded => true,
                };
                after && before
            });
            if direction == Direction::Backward {
                expected.reverse();
            }
            let mut found = Vec::new();
            let mut visit = |key: &[u8], value| {
                found.push((key.to_vec(), row(value)));
                GO
            };
            store.scan(from, to, direction, &mut visit).unwrap();
            assert_eq!(found, expected, "scan {from:?} {to:?} {direction:?}");
        }
        for prefix in keys {
            let mut expected = expected.clone();
            expected.retain(|(key, _)| key.starts_with(prefix));
            if direction == Direction::Backward {
                expected.reverse();
            }
            let mut found = Vec::new();
            let mut visit = |key: &[u8], value| {
                found.push((key.to_vec(), row(value)));
                GO
            };
            store.prefix_scan(prefix, direction, &mut visit).unwrap();
            assert_eq!(found, expected, "prefix {prefix:?} {direction:?}");
        }
    }
    let mut first = None;
    let mut visit = |key: &[u8], value| {
        assert!(first.is_none(), "a visitor that breaks is not called again");
        first = Some((key.to_vec(), row(value)));
        ControlFlow::Break(())
    };
    store
        .scan(
            Bound::Unbounded,
            Bound::Unbounded,
            Direction::Forward,
            &mut visit,
        )
        .unwrap();
    assert_eq!(first.as_ref(), expected.first());
}

fn check_window(store: &WindowStore, model: &Map, keys: &[&[u8]], from: i64, to: i64) {
    for key in keys {
        for (from, to) in [(i64::MIN, i64::MAX), (from, to)] {
            let expected: Vec<_> = of_key(model, key, from, to)
                .map(|(id, row)| (id.1, row.clone()))
                .collect();
            let mut found = Vec::new();
            let mut visit = |start, value| {
                found.push((start, row(value)));
                GO
            };
            store.fetch(key, from, to, &mut visit).unwrap();
            assert_eq!(found, expected, "fetch {key:?} {from}..={to}");
        }
        let expected = model.get(&(key.to_vec(), from, 0)).cloned();
        assert_eq!(
            store.get(key, from).unwrap().map(row),
            expected,
            "get {key:?} {from}"
        );
    }
    for (from, to) in [(i64::MIN, i64::MAX), (from, to)] {
        let mut expected: Vec<_> = model
            .iter()
            .filter(|(id, _)| (from..=to).contains(&id.1))
            .map(|(id, row)| (id.1, id.0.clone(), row.clone()))
            .collect();
        expected.sort();
        let mut found = Vec::new();
        let mut visit = |key: &[u8], start, value| {
            found.push((start, key.to_vec(), row(value)));
            GO
        };
        store.fetch_all(from, to, &mut visit).unwrap();
        assert_eq!(found, expected, "fetch_all {from}..={to}");
    }
}

fn check_session(store: &SessionStore, model: &Map, keys: &[&[u8]], from: i64, to: i64) {
    for key in keys {
        for (from, to) in [(i64::MIN, i64::MAX), (from, to)] {
            let expected: Vec<_> = of_key(model, key, from, i64::MAX)
                .filter(|(id, _)| id.2 <= to)
                .map(|(id, row)| (id.2, id.1, row.clone()))
                .collect();
            let mut found = Vec::new();
            let mut visit = |start, end, value| {
                found.push((start, end, row(value)));
                GO
            };
            store.find(key, from, to, &mut visit).unwrap();
            assert_eq!(found, expected, "find {key:?} {from} {to}");
        }
        let expected = model.get(&(key.to_vec(), to, from)).cloned();
        assert_eq!(store.get(key, from, to).unwrap().map(row), expected);
    }
    let mut expected: Vec<_> = model
        .iter()
        .filter(|(id, _)| (from..=to).contains(&id.1))
        .map(|(id, row)| (id.1, id.0.clone(), id.2, row.clone()))
        .collect();
    expected.sort();
    let mut found = Vec::new();
    let mut visit = |key: &[u8], start, end, value| {
        found.push((end, key.to_vec(), start, row(value)));
        GO
    };
    store.find_all(from, to, &mut visit).unwrap();
    assert_eq!(found, expected, "find_all {from}..={to}");
}

fn check_join(store: &JoinStore, model: &Map, keys: &[&[u8]], from: i64, to: i64) {
    for key in keys {
        for (from, to) in [(i64::MIN, i64::MAX), (from, to)] {
            let expected: Vec<_> = of_key(model, key, from, to)
                .map(|(id, row)| (id.1, id.2 as u32, row.1.clone().unwrap()))
                .collect();
            let mut found = Vec::new();
            let mut visit = |timestamp, sequence, value: &[u8]| {
                found.push((timestamp, sequence, value.to_vec()));
                GO
            };
            store.fetch(key, from, to, &mut visit).unwrap();
            assert_eq!(found, expected, "fetch {key:?} {from}..={to}");
        }
    }
}

fn check_versioned(store: &VersionedStore, model: &Map, keys: &[&[u8]], at: i64) {
    let value_of = |version: Option<(&Id, &Row)>| {
        let (_, (timestamp, value)) = version?;
        Some((*timestamp, Some(value.clone()?)))
    };
    for key in keys {
        let versions: Vec<_> = of_key(model, key, i64::MIN, i64::MAX).collect();
        let expected: Vec<Row> = versions.iter().map(|(_, row)| (*row).clone()).collect();
        let mut found = Vec::new();
        let mut visit = |timestamp, value: Option<&[u8]>| {
            found.push((timestamp, value.map(<[u8]>::to_vec)));
            GO
        };
        store.versions(key, &mut visit).unwrap();
        assert_eq!(found, expected, "versions {key:?}");
        let latest = versions.last().copied();
        let found = store.latest(key).unwrap().map(row);
        assert_eq!(found, value_of(latest), "latest {key:?}");
        for at in [
            at,
            at + 15,
            store.horizon(),
            store.horizon().saturating_sub(1),
        ] {
            let newest = versions.iter().rfind(|(id, _)| id.1 <= at).copied();
            let is_over = at < store.horizon();
            let expected = newest.filter(|newest| !is_over || Some(*newest) == latest);
            let found = store.as_of(key, at).unwrap().map(row);
            assert_eq!(found, value_of(expected), "{key:?} as of {at}");
        }
    }
}
