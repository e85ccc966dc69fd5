//! Random histories of every kind of store against a `BTreeMap`, over memory and over each storage engine.
//!
//! The changelog is the truth: a reopened store gets it back from the marker's offset on, as a task
//! does after a crash, and must show what was committed.

use std::collections::BTreeMap;

use proptest::prelude::*;
use state::{
    Backend, Change, Database, DatabaseOptions, Marker, MemoryDatabase, read_marker, write_marker,
};

use crate::subject::{Id, Kind, Map, Subject};

const KEYS: &[&[u8]] = &[
    b"",
    b"a",
    b"aa",
    b"ab",
    b"\xff",
    b"\xff\xff",
    b"a\0\0\0\0\0\0\0\0",
];

#[derive(Debug, Clone)]
enum Action {
    Put {
        key: usize,
        major: i64,
        minor: u8,
        value: Vec<u8>,
    },
    Delete {
        key: usize,
        major: i64,
        minor: u8,
    },
    Expire(i64),
    Seal,
    Settle,
    Discard,
    Apply(usize),
    /// Applies everything and writes the marker.
    Mark,
    /// Loses what is in memory, opens again and replays the changelog from the marker.
    Reopen,
}

fn action() -> impl Strategy<Value = Action> {
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..12),
        2 => (any::<u8>(), 2_000..5_000usize).prop_map(|(byte, length)| vec![byte; length]),
    ];
    let place = || (0..KEYS.len(), -20..60i64, 0..3u8);
    prop_oneof![
        20 => (place(), value).prop_map(|((key, major, minor), value)| Action::Put { key, major, minor, value }),
        5 => place().prop_map(|(key, major, minor)| Action::Delete { key, major, minor }),
        1 => (-25..50i64).prop_map(Action::Expire),
        4 => Just(Action::Seal),
        4 => Just(Action::Settle),
        1 => Just(Action::Discard),
        4 => (1..6usize).prop_map(Action::Apply),
        1 => Just(Action::Mark),
        1 => Just(Action::Reopen),
    ]
}

type Writes = BTreeMap<Id, (i64, Option<Vec<u8>>)>;

/// What the store must show, kept the obvious way.
struct Model {
    kind: Kind,
    open: Writes,
    sealed: Option<Writes>,
    committed: Map,
    /// Every committed change, in order.
    changelog: Vec<(Id, i64, Option<Vec<u8>>)>,
    horizons: [i64; 3],
}

impl Model {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            open: Writes::new(),
            sealed: None,
            committed: Map::new(),
            changelog: Vec::new(),
            horizons: [i64::MIN; 3],
        }
    }

    fn visible(&self) -> Map {
        let mut map = self.committed.clone();
        for (id, (timestamp, value)) in self.sealed.iter().flatten().chain(&self.open) {
            self.kind.write(&mut map, id, *timestamp, value.as_deref());
        }
        if self.kind == Kind::Versioned {
            return in_force_from(self.horizons[0], &map);
        }
        map.retain(|id, _| id.1 >= self.horizons[0]);
        map
    }

    fn settle(&mut self) {
        for (id, (timestamp, value)) in self.sealed.take().into_iter().flatten() {
            let value_bytes = value.as_deref();
            self.kind
                .write(&mut self.committed, &id, timestamp, value_bytes);
            self.changelog.push((id, timestamp, value));
        }
        self.horizons[2] = self.horizons[1];
    }

    fn discard(&mut self) {
        self.open.clear();
        self.sealed = None;
        self.horizons = [self.horizons[2]; 3];
    }
}

impl Kind {
    fn write(self, map: &mut Map, id: &Id, timestamp: i64, value: Option<&[u8]>) {
        match value {
            Some(value) => map.insert(id.clone(), (timestamp, Some(value.to_vec()))),
            // That there is no value from a time on is a version like any other.
            None if self == Self::Versioned => map.insert(id.clone(), (timestamp, None)),
            None => map.remove(id),
        };
    }
}

/// The versions that are in force at some time from `horizon` on, but for deletions of nothing.
fn in_force_from(horizon: i64, versions: &Map) -> Map {
    let mut visible = Map::new();
    let mut rows = versions.iter().peekable();
    let mut has_value = false;
    while let Some((id, row)) = rows.next() {
        let next = rows.peek().filter(|(next, _)| next.0 == id.0);
        let is_over = next.is_some_and(|(next, _)| next.1 <= horizon);
        if !is_over && (has_value || row.1.is_some()) {
            visible.insert(id.clone(), row.clone());
        }
        has_value = next.is_some() && !is_over && row.1.is_some();
    }
    visible
}

struct Run<'d> {
    kind: Kind,
    database: &'d dyn Database,
    subject: Subject,
    model: Model,
    clock: i64,
}

impl Run<'_> {
    fn step(&mut self, action: &Action) {
        self.clock += 1;
        match action {
            Action::Put {
                key,
                major,
                minor,
                value,
            } => {
                self.put(self.kind.id(KEYS[*key], *major, *minor), value);
            }
            Action::Delete { key, major, minor } if self.kind != Kind::Join => {
                let id = self.kind.id(KEYS[*key], *major, *minor);
                let timestamp = self.timestamp(&id);
                self.subject.write(&id, None, timestamp);
                if id.1 >= self.model.horizons[0] {
                    self.model.open.insert(id, (timestamp, None));
                }
            }
            Action::Delete { .. } => {}
            Action::Expire(to) if self.kind != Kind::KeyValue => {
                self.subject.expire_before(*to);
                self.model.horizons[0] = self.model.horizons[0].max(*to);
            }
            Action::Expire(_) => {}
            Action::Seal => self.seal(),
            Action::Settle => {
                self.subject.store().settle();
                if self.model.sealed.is_some() {
                    self.model.settle();
                }
            }
            Action::Discard => {
                self.subject.store().discard();
                self.model.discard();
            }
            Action::Apply(entries) => {
                self.subject.store().apply(*entries).unwrap();
            }
            Action::Mark => self.mark(),
            Action::Reopen => self.reopen(),
        }
    }

    /// The timestamp of a join's record or of a version is its place in time; the others have one of their own.
    fn timestamp(&self, id: &Id) -> i64 {
        match self.kind {
            Kind::Join | Kind::Versioned => id.1,
            _ => self.clock,
        }
    }

    fn put(&mut self, mut id: Id, value: &[u8]) {
        let timestamp = self.timestamp(&id);
        if id.1 < self.model.horizons[0] {
            self.subject.write(&id, Some(value), timestamp);
            return;
        }
        let hint = id.2;
        let used = self.subject.write(&id, Some(value), timestamp);
        if self.kind == Kind::Join {
            let taken = self.model.visible();
            let same = taken
                .keys()
                .filter(|other| (&other.0, other.1) == (&id.0, id.1));
            let greatest = same.map(|other| other.2).max();
            id.2 = greatest.map_or(hint, |greatest| hint.max(greatest + 1));
            assert_eq!(used, id.2, "{hint}, or after the greatest");
        }
        self.model
            .open
            .insert(id, (timestamp, Some(value.to_vec())));
    }

    fn seal(&mut self) {
        let mut changes = Vec::new();
        let sealed = self.subject.store().seal(&mut |change| {
            let value = change.value.map(<[u8]>::to_vec);
            changes.push((change.key.to_vec(), value, change.timestamp));
        });
        if self.model.sealed.is_some() {
            assert!(sealed.is_err(), "a commit is in flight");
            return;
        }
        sealed.unwrap();
        let open = std::mem::take(&mut self.model.open);
        let mut sent = open.clone();
        if self.kind == Kind::Versioned {
            sent.extend(self.what_ends(&open));
        }
        let expected: Vec<_> = sent
            .iter()
            .map(|(id, (timestamp, value))| {
                (self.kind.changelog_key(id), value.clone(), *timestamp)
            })
            .collect();
        assert_eq!(changes, expected, "each change once, in order");
        self.model.sealed = Some(sent);
        self.model.horizons[1] = self.model.horizons[0];
    }

    /// The version after each that was written, and the latest of its key.
    fn what_ends(&self, written: &Writes) -> Writes {
        let mut all: Writes = written.clone();
        let committed = self.model.committed.iter();
        for (id, (timestamp, value)) in committed {
            all.entry(id.clone()).or_insert((*timestamp, value.clone()));
        }
        let later = |id: &Id| {
            let after = (id.0.clone(), id.1, i64::MAX)..=(id.0.clone(), i64::MAX, i64::MAX);
            let mut later = all.range(after);
            [later.next(), later.next_back()]
        };
        let found = written.keys().flat_map(later).flatten();
        found.map(|(id, row)| (id.clone(), row.clone())).collect()
    }

    fn mark(&mut self) {
        while !self.subject.store().apply(5).unwrap() {}
        assert_eq!(self.subject.store().settled_bytes(), 0);
        let mut marker = Marker::default();
        let offset = self.model.changelog.len() as i64;
        marker
            .changelog_offsets
            .insert("subject".to_owned(), offset);
        write_marker(self.database, "task", &marker).unwrap();
    }

    fn reopen(&mut self) {
        self.subject = self.kind.open(self.database);
        self.model.discard();
        self.subject.restore_horizon(self.model.horizons[0]);
        let marker = read_marker(self.database, "task")
            .unwrap()
            .unwrap_or_default();
        let offset = marker
            .changelog_offsets
            .get("subject")
            .copied()
            .unwrap_or(0);
        for (id, timestamp, value) in &self.model.changelog[offset as usize..] {
            let key = self.kind.changelog_key(id);
            let change = Change {
                key: &key,
                value: value.as_deref(),
                timestamp: *timestamp,
            };
            self.subject.store().restore(change).unwrap();
        }
    }

    fn check(&self) {
        let at = self.clock % 70 - 20;
        self.subject.check(&self.model.visible(), KEYS, at, at + 15);
    }
}

fn run(kind: Kind, database: &dyn Database, actions: &[Action]) {
    let subject = kind.open(database);
    let mut run = Run {
        kind,
        database,
        subject,
        model: Model::new(kind),
        clock: 0,
    };
    for action in actions {
        run.step(action);
        run.check();
    }
    run.reopen();
    run.check();
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    prop::collection::vec(action(), 1..120)
}

fn on_memory(kind: Kind, actions: &[Action]) {
    run(kind, &MemoryDatabase::default(), actions);
}

fn on(backend: Backend, kind: Kind, actions: &[Action]) {
    let directory = tempfile::tempdir().unwrap();
    let options = DatabaseOptions {
        cache_bytes: 1 << 20,
    };
    let database = backend.open(directory.path(), &options).unwrap();
    run(kind, &*database, actions);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_key_value_store_is_a_map(actions in actions()) { on_memory(Kind::KeyValue, &actions); }

    #[test]
    fn a_window_store_is_a_map(actions in actions()) { on_memory(Kind::Window, &actions); }

    #[test]
    fn a_session_store_is_a_map(actions in actions()) { on_memory(Kind::Session, &actions); }

    #[test]
    fn a_join_store_is_a_multimap(actions in actions()) { on_memory(Kind::Join, &actions); }

    #[test]
    fn a_versioned_store_is_a_map_of_histories(actions in actions()) { on_memory(Kind::Versioned, &actions); }
}

macro_rules! on {
    ($name:ident, $backend:expr) => {
        mod $name {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

                #[test]
                fn a_key_value_store_is_a_map(actions in actions()) { on($backend, Kind::KeyValue, &actions); }

                #[test]
                fn a_window_store_is_a_map(actions in actions()) { on($backend, Kind::Window, &actions); }

                #[test]
                fn a_session_store_is_a_map(actions in actions()) { on($backend, Kind::Session, &actions); }

                #[test]
                fn a_join_store_is_a_multimap(actions in actions()) { on($backend, Kind::Join, &actions); }

                #[test]
                fn a_versioned_store_is_a_map_of_histories(actions in actions()) { on($backend, Kind::Versioned, &actions); }
            }
        }
    };
}

on!(sled, Backend::Sled);
#[cfg(feature = "fjall")]
on!(fjall, Backend::Fjall);
#[cfg(feature = "redb")]
on!(redb, Backend::Redb);
