//! What every kind of store promises, whatever its backend.

use std::ops::Bound;

use super::{GO, tree};
use crate::{
    Change, Database, Direction, JoinStore, JoinStoreOptions, KeyValueStore, Put, SessionStore,
    SessionStoreOptions, Store, VersionedStore, WindowStore, WindowStoreOptions,
};

/// Commits what is open and applies it.
fn commit(store: &mut dyn Store) {
    store.seal(&mut |_| {}).expect("nothing is in flight");
    store.settle();
    while !store.apply(3).expect("the backend takes a batch") {}
}

pub(super) fn a_key_value_store_commits_and_aborts(database: &dyn Database) {
    let mut store = KeyValueStore::open("kv", tree(database, "kv"));
    let value = |store: &KeyValueStore, key: &[u8]| {
        store
            .get(key)
            .expect("read")
            .map(|found| (found.timestamp, found.value.to_vec()))
    };
    store.put(b"a", b"1", 10).expect("put");
    store.put(b"b", b"1", 11).expect("put");
    store.put(b"a", b"2", 12).expect("put");
    let mut changes = Vec::new();
    store
        .seal(&mut |change| {
            changes.push((
                change.key.to_vec(),
                change.value.map(<[u8]>::to_vec),
                change.timestamp,
            ));
        })
        .expect("sealed");
    let expected = [
        (b"a".to_vec(), Some(b"2".to_vec()), 12),
        (b"b".to_vec(), Some(b"1".to_vec()), 11),
    ];
    assert_eq!(changes, expected);
    store
        .delete(b"a", 13)
        .expect("deleted while a commit is in flight");
    assert!(store.seal(&mut |_| {}).is_err(), "one commit at a time");
    assert_eq!(value(&store, b"a"), None);
    store.settle();
    assert!(store.apply(100).expect("applied"));
    assert_eq!(value(&store, b"a"), None, "the delete is still open");
    store.discard();
    assert_eq!(value(&store, b"a"), Some((12, b"2".to_vec())));
    store.delete(b"a", 14).expect("deleted");
    commit(&mut store);
    drop(store);
    let store = KeyValueStore::open("kv", tree(database, "kv"));
    assert_eq!(value(&store, b"a"), None);
    assert_eq!(value(&store, b"b"), Some((11, b"1".to_vec())));
}

pub(super) fn a_window_store_expires_exactly(database: &dyn Database) {
    let options = WindowStoreOptions {
        retention_ms: 100,
        segment_ms: 50,
    };
    let open = || WindowStore::open("w", tree(database, "w"), options.clone()).expect("opened");
    let starts = |store: &WindowStore| {
        let mut starts = Vec::new();
        let mut visit = |start, _| {
            starts.push(start);
            GO
        };
        store
            .fetch(b"k", i64::MIN, i64::MAX, &mut visit)
            .expect("fetched");
        starts
    };
    let mut store = open();
    for start in (-100..200).step_by(10) {
        store.put(b"k", start, b"v", start).expect("put");
        store.put(b"kk", start, b"v", start).expect("put");
    }
    commit(&mut store);
    store.expire_before(71);
    assert_eq!(starts(&store).first(), Some(&80), "the horizon is exact");
    assert_eq!(store.get(b"k", 70).expect("read"), None);
    store
        .put(b"k", 70, b"late", 70)
        .expect("a late put is ignored");
    assert_eq!(store.get(b"k", 70).expect("read"), None);
    store.discard();
    assert_eq!(
        starts(&store).first(),
        Some(&-100),
        "an abort takes the horizon back"
    );
    store.expire_before(71);
    for _ in 0..20 {
        commit(&mut store);
    }
    drop(store);
    let store = open();
    assert_eq!(
        starts(&store).first(),
        Some(&50),
        "whole segments are deleted"
    );
    let mut all = Vec::new();
    let mut visit = |key: &[u8], start, _| {
        all.push((start, key.to_vec()));
        GO
    };
    store.fetch_all(60, 70, &mut visit).expect("fetched");
    let (k, kk) = (b"k".to_vec(), b"kk".to_vec());
    assert_eq!(all, [(60, k.clone()), (60, kk.clone()), (70, k), (70, kk)]);
}

fn joined(store: &JoinStore, from: i64, to: i64) -> Vec<(i64, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let mut visit = |timestamp, sequence, value: &[u8]| {
        found.push((timestamp, sequence, value.to_vec()));
        GO
    };
    store.fetch(b"k", from, to, &mut visit).expect("fetched");
    found
}

pub(super) fn a_join_store_keeps_repeated_timestamps(database: &dyn Database) {
    let options = JoinStoreOptions { segment_ms: 100 };
    let open = || JoinStore::open("j", tree(database, "j"), options.clone()).expect("opened");
    let mut store = open();
    assert_eq!(store.append(b"k", 5, 7, b"a").expect("appended"), 7);
    assert_eq!(store.append(b"k", 5, 7, b"b").expect("appended"), 8);
    commit(&mut store);
    assert_eq!(
        store.append(b"k", 5, 7, b"c").expect("appended"),
        9,
        "the backend is asked too"
    );
    store.append(b"k", 105, 0, b"d").expect("appended");
    let mut changes: Vec<Vec<u8>> = Vec::new();
    store
        .seal(&mut |change: Change<'_>| changes.push(change.key.to_vec()))
        .expect("sealed");
    assert_eq!(changes[0], b"k\0\0\0\0\0\0\0\x05\0\0\0\x09");
    store.settle();
    while !store.apply(1).expect("applied") {}
    drop(store);
    let mut store = open();
    // A smaller hint, of another topic: still after all that came before.
    assert_eq!(store.append(b"k", 5, 2, b"e").expect("appended"), 10);
    let expected = [
        (5, 7, "a"),
        (5, 8, "b"),
        (5, 9, "c"),
        (5, 10, "e"),
        (105, 0, "d"),
    ];
    let expected = expected.map(|(t, s, v)| (t, s, v.as_bytes().to_vec()));
    assert_eq!(joined(&store, 0, 200), expected);
    assert_eq!(joined(&store, 6, 105), expected[4..]);
    store.expire_before(6);
    assert_eq!(joined(&store, 0, 200), expected[4..]);
}

pub(super) fn a_hot_join_key_spans_blocks(database: &dyn Database) {
    let options = JoinStoreOptions {
        segment_ms: 1_000_000,
    };
    let mut store = JoinStore::open("hot", tree(database, "hot"), options).expect("opened");
    let mut expected = Vec::new();
    for round in 0..20 {
        for n in 0..50 {
            // Every tenth is late, into blocks already full.
            let late = if n % 10 == 0 { 500 } else { 0 };
            let (timestamp, value) = (round * 100 + n - late, vec![n as u8; 100]);
            let sequence = store.append(b"k", timestamp, 0, &value).expect("appended");
            expected.push((timestamp, sequence, value));
        }
        commit(&mut store);
    }
    expected.sort();
    assert_eq!(joined(&store, i64::MIN, i64::MAX), expected);
    let some: Vec<_> = expected
        .iter()
        .filter(|row| (300..=700).contains(&row.0))
        .cloned()
        .collect();
    assert_eq!(joined(&store, 300, 700), some);
    for (timestamp, sequence, value) in &expected {
        let mut key = b"k".to_vec();
        key.extend_from_slice(&timestamp.to_be_bytes());
        key.extend_from_slice(&sequence.to_be_bytes());
        let change = Change {
            key: &key,
            value: Some(value),
            timestamp: *timestamp,
        };
        store.restore(change).expect("restored");
    }
    while !store.apply(7).expect("applied") {}
    assert_eq!(
        joined(&store, i64::MIN, i64::MAX),
        expected,
        "replaying changes nothing"
    );
}

pub(super) fn a_session_store_finds_overlaps(database: &dyn Database) {
    let options = SessionStoreOptions { segment_ms: 10 };
    let open = || SessionStore::open("s", tree(database, "s"), options.clone()).expect("opened");
    let find = |store: &SessionStore, from, to| {
        let mut found = Vec::new();
        let mut visit = |start, end, _| {
            found.push((start, end));
            GO
        };
        store.find(b"k", from, to, &mut visit).expect("found");
        found
    };
    let mut store = open();
    for (start, end) in [(0, 4), (10, 30), (35, 35), (50, 60)] {
        store.put(b"k", start, end, b"v", end).expect("put");
    }
    commit(&mut store);
    assert_eq!(find(&store, 5, 35), [(10, 30), (35, 35)]);
    store.remove(b"k", 10, 30, 40).expect("removed");
    assert_eq!(find(&store, 0, 100), [(0, 4), (35, 35), (50, 60)]);
    commit(&mut store);
    store.expire_before(5);
    assert_eq!(find(&store, 0, 100), [(35, 35), (50, 60)]);
    drop(store);
    assert_eq!(find(&open(), 35, 50), [(35, 35), (50, 60)]);
    assert!(open().get(b"k", 50, 60).expect("read").is_some());
}

pub(super) fn a_versioned_store_keeps_history(database: &dyn Database) {
    let open = || VersionedStore::open("v", tree(database, "v")).expect("opened");
    let put = |store: &mut VersionedStore, value: Option<&[u8]>, at| {
        store.put(b"k", value, at).expect("put")
    };
    let as_of = |store: &VersionedStore, at| {
        let found = store.as_of(b"k", at).expect("read");
        found.map(|found| (found.timestamp, found.value.to_vec()))
    };
    let mut store = open();
    assert_eq!(put(&mut store, Some(b"a"), 10), Put::Latest(None));
    commit(&mut store);
    let before = match put(&mut store, None, 30) {
        Put::Latest(before) => before.map(|before| before.value.to_vec()),
        other => panic!("{other:?}"),
    };
    assert_eq!(before.as_deref(), Some(&b"a"[..]));
    assert_eq!(put(&mut store, Some(b"b"), 40), Put::Latest(None));
    assert_eq!(put(&mut store, Some(b"late"), 20), Put::Superseded);
    let mut changes = Vec::new();
    let mut note = |change: Change<'_>| changes.push((change.timestamp, change.value.is_some()));
    store.seal(&mut note).expect("sealed");
    assert_eq!(changes, [(20, true), (30, false), (40, true)]);
    store.settle();
    while !store.apply(1).expect("applied") {}
    assert_eq!(put(&mut store, Some(b"later"), 15), Put::Superseded);
    let mut changes = Vec::new();
    let mut note = |change: Change<'_>| changes.push(change.timestamp);
    store.seal(&mut note).expect("sealed");
    assert_eq!(changes, [15, 20, 40], "what ends it, and the latest last");
    store.discard();
    let visible = [
        (9, None),
        (10, Some(10)),
        (29, Some(20)),
        (30, None),
        (41, Some(40)),
    ];
    for (at, expected) in visible {
        assert_eq!(as_of(&store, at).map(|found| found.0), expected, "{at}");
    }
    store.expire_before(29);
    assert_eq!(as_of(&store, 28), None, "the horizon is exact");
    assert_eq!(as_of(&store, 29), Some((20, b"late".to_vec())));
    assert_eq!(put(&mut store, Some(b"x"), 28), Put::Expired);
    store.discard();
    assert!(
        as_of(&store, 28).is_some(),
        "an abort takes the horizon back"
    );
    store.expire_before(50);
    for _ in 0..20 {
        commit(&mut store);
    }
    assert_eq!(
        as_of(&store, 45),
        Some((40, b"b".to_vec())),
        "the latest stays"
    );
    drop(store);
    let mut rows = 0;
    let all = (Bound::Unbounded, Bound::Unbounded);
    let count = &mut |_: &[u8], _: &[u8]| {
        rows += 1;
        GO
    };
    let swept = tree(database, "v").scan(all.0, all.1, Direction::Forward, count);
    swept.expect("scanned");
    assert_eq!(rows, 1, "what nobody sees is deleted");
    assert_eq!(as_of(&open(), 45), Some((40, b"b".to_vec())));
}

pub(super) fn a_cleared_store_is_empty(database: &dyn Database) {
    let mut store = KeyValueStore::open("c", tree(database, "c"));
    store.put(b"a", b"1", 1).expect("put");
    commit(&mut store);
    store.put(b"b", b"1", 1).expect("put");
    store.clear().expect("cleared");
    assert_eq!(store.get(b"a").expect("read"), None);
    assert_eq!(store.get(b"b").expect("read"), None);
    assert_eq!(store.dirty_bytes() + store.settled_bytes(), 0);
}
