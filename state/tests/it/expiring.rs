//! Key-value stores whose entries expire, against a plain map: random histories over memory and each engine, with aborts, and
//! losses of what is in memory.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use proptest::prelude::*;
use state::{
    Backend, Change, Database, DatabaseOptions, Direction, KeyValueStore, MemoryDatabase, Store,
};

const KEYS: &[&[u8]] = &[b"", b"a", b"aa", b"ab", b"b", b"\xff"];

#[derive(Debug, Clone)]
enum Action {
    /// A key, at a time, or none that deletes.
    Write(usize, Option<i64>),
    Expire(i64),
    Sweep(usize),
    Commit,
    Abort,
    Apply(usize),
    /// Loses what is in memory and replays the changelog from the start, over whatever the backend has.
    Reopen,
    /// The same, with the backend lost as well.
    Rebuild,
}

fn action() -> impl Strategy<Value = Action> {
    let time = || -10..60i64;
    prop_oneof![
        20 => (0..KEYS.len(), time()).prop_map(|(key, time)| Action::Write(key, Some(time))),
        4 => (0..KEYS.len()).prop_map(|key| Action::Write(key, None)),
        4 => (0..50i64).prop_map(Action::Expire),
        6 => (1..5usize).prop_map(Action::Sweep),
        5 => Just(Action::Commit),
        1 => Just(Action::Abort),
        3 => (1..5usize).prop_map(Action::Apply),
        1 => Just(Action::Reopen),
        1 => Just(Action::Rebuild),
    ]
}

type Map = BTreeMap<Vec<u8>, (i64, Vec<u8>)>;

/// What was written and what of it is committed, expired or not.
#[derive(Default, Clone)]
struct Model {
    written: Map,
    committed: Map,
    horizon: i64,
    committed_horizon: i64,
    changelog: Vec<(Vec<u8>, Option<Vec<u8>>, i64)>,
}

impl Model {
    fn visible(&self) -> Map {
        let mut map = self.written.clone();
        map.retain(|_, (time, _)| *time >= self.horizon);
        map
    }

    /// What the changelog alone gives.
    fn replayed(&self) -> Map {
        let mut map = Map::new();
        for (key, value, time) in &self.changelog {
            match value {
                Some(value) => map.insert(key.clone(), (*time, value.clone())),
                None => map.remove(key),
            };
        }
        map
    }
}

struct Run<'d> {
    database: &'d dyn Database,
    store: KeyValueStore,
    model: Model,
    count: u8,
}

fn open(database: &dyn Database) -> KeyValueStore {
    let (tree, order) = (
        database.tree("rows").unwrap(),
        database.tree("order").unwrap(),
    );
    KeyValueStore::open_expiring("subject", tree, order)
}

impl Run<'_> {
    fn step(&mut self, action: &Action) {
        match action {
            Action::Write(key, Some(time)) => {
                self.count = self.count.wrapping_add(1);
                let (key, value) = (KEYS[*key], [self.count]);
                self.store.put(key, &value, *time).unwrap();
                self.model
                    .written
                    .insert(key.to_vec(), (*time, value.to_vec()));
            }
            Action::Write(key, None) => {
                self.store.delete(KEYS[*key], 0).unwrap();
                self.model.written.remove(KEYS[*key]);
            }
            Action::Expire(to) => {
                self.store.expire_before(*to);
                self.model.horizon = self.model.horizon.max(*to);
            }
            Action::Sweep(limit) => assert!(self.store.sweep(*limit).unwrap() <= *limit),
            Action::Commit => self.commit(),
            Action::Abort => {
                self.store.discard();
                self.model.written = self.model.committed.clone();
                self.model.horizon = self.model.committed_horizon;
            }
            Action::Apply(entries) => {
                self.store.apply(*entries).unwrap();
            }
            Action::Reopen => {
                self.store = open(self.database);
                self.replay();
            }
            Action::Rebuild => {
                self.store = open(self.database);
                self.store.clear().unwrap();
                self.replay();
            }
        }
    }

    fn commit(&mut self) {
        let changelog = &mut self.model.changelog;
        let mut seal = |change: Change<'_>| {
            let value = change.value.map(<[u8]>::to_vec);
            changelog.push((change.key.to_vec(), value, change.timestamp));
        };
        self.store.seal(&mut seal).unwrap();
        self.store.settle();
        self.model.committed = self.model.written.clone();
        self.model.committed_horizon = self.model.horizon;
        // Whoever reads the changelog sees what can be seen here; what it has beside that has expired.
        let mut replayed = self.model.replayed();
        replayed.retain(|_, (time, _)| *time >= self.model.horizon);
        assert_eq!(replayed, self.model.visible());
    }

    fn replay(&mut self) {
        for (key, value, timestamp) in &self.model.changelog {
            let change = Change {
                key,
                value: value.as_deref(),
                timestamp: *timestamp,
            };
            self.store.restore(change).unwrap();
        }
        self.model.written = self.model.committed.clone();
        self.model.horizon = self.model.committed_horizon;
        self.store.restore_horizon(self.model.horizon);
    }

    fn check(&self) {
        let visible = self.model.visible();
        for key in KEYS {
            let found = self.store.get(key).unwrap();
            let found = found.map(|found| (found.timestamp, found.value.to_vec()));
            assert_eq!(found.as_ref(), visible.get(*key), "get {key:?}");
        }
        let mut found = Map::new();
        let mut visit = |key: &[u8], value: state::Stamped| {
            found.insert(key.to_vec(), (value.timestamp, value.value.to_vec()));
            ControlFlow::Continue(())
        };
        let all = Bound::Unbounded;
        self.store
            .scan(all, all, Direction::Forward, &mut visit)
            .unwrap();
        assert_eq!(found, visible);
    }

    /// Sweeping to the end leaves what can be seen, and nothing in the backend beside it.
    fn finish(mut self) {
        while self.store.sweep(3).unwrap() > 0 {}
        self.commit();
        while !self.store.apply(3).unwrap() {}
        self.check();
        assert_eq!(self.model.replayed(), self.model.visible());
        let visible = self.model.visible();
        assert_eq!(rows(self.database, "rows"), visible.len());
        let order = rows(self.database, "order");
        assert!(order >= visible.len(), "{order}");
        // What is left of the order lies ahead.
        self.store.expire_before(1_000);
        let mut left = order;
        while left > 0 {
            let looked_at = self.store.sweep(4).unwrap();
            assert!(looked_at > 0, "{left} rows are not found");
            left -= looked_at;
        }
        assert_eq!(self.store.sweep(4).unwrap(), 0);
    }
}

fn rows(database: &dyn Database, tree: &str) -> usize {
    let mut rows = 0;
    let mut count = |_: &[u8], _: &[u8]| {
        rows += 1;
        ControlFlow::Continue(())
    };
    let (tree, all) = (database.tree(tree).unwrap(), Bound::Unbounded);
    tree.scan(all, all, Direction::Forward, &mut count).unwrap();
    rows
}

fn run(database: &dyn Database, actions: &[Action]) {
    let store = open(database);
    let mut run = Run {
        database,
        store,
        model: Model::default(),
        count: 0,
    };
    run.store.expire_before(0);
    run.commit();
    for action in actions {
        run.step(action);
        run.check();
    }
    run.finish();
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    prop::collection::vec(action(), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_expiring_store_shows_what_has_not_expired(actions in actions()) {
        run(&MemoryDatabase::default(), &actions);
    }
}

macro_rules! on {
    ($name:ident, $backend:expr) => {
        mod $name {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

                #[test]
                fn an_expiring_store_shows_what_has_not_expired(actions in actions()) {
                    let directory = tempfile::tempdir().unwrap();
                    let options = DatabaseOptions { cache_bytes: 1 << 20 };
                    run(&*$backend.open(directory.path(), &options).unwrap(), &actions);
                }
            }
        }
    };
}

on!(sled, Backend::Sled);
#[cfg(feature = "fjall")]
on!(fjall, Backend::Fjall);
#[cfg(feature = "redb")]
on!(redb, Backend::Redb);
