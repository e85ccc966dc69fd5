//! Histories that the sweep of a versioned store once got wrong, as short as they can be.
//!
//! A deletion may only be swept out if no older version of its key can come to light: one that was put late and still
//! waits to be applied, or one that was applied behind the place at which a sweep in portions goes on.

use state::{Database, MemoryDatabase, Store, VersionedStore};

fn store(database: &MemoryDatabase) -> VersionedStore {
    VersionedStore::open("versions", database.tree("versions").unwrap()).unwrap()
}

fn commit(store: &mut VersionedStore) {
    store.seal(&mut |_| {}).unwrap();
    store.settle();
}

/// The value that the last version of `a`, a deletion, must not leave standing.
fn latest(store: &VersionedStore) -> Option<Vec<u8>> {
    store
        .latest(b"a")
        .unwrap()
        .map(|found| found.value.to_vec())
}

#[test]
fn a_deletion_is_kept_while_an_older_version_of_its_key_waits() {
    let database = MemoryDatabase::default();
    let mut store = store(&database);
    store.put(b"a", None, 5).unwrap();
    commit(&mut store);
    while !store.apply(10).unwrap() {}
    store.put(b"a", Some(b"late"), 3).unwrap();
    // The shorter key is applied first, so the late version waits when the deletion is looked at.
    store.put(b"", Some(b"first"), 9).unwrap();
    store.expire_before(6);
    commit(&mut store);
    assert!(!store.apply(1).unwrap());
    assert_eq!(latest(&store), None);
    while !store.apply(1).unwrap() {}
    assert_eq!(latest(&store), None);
}

#[test]
fn a_deletion_at_which_a_sweep_goes_on_is_kept_for_what_was_applied_behind_it_meanwhile() {
    let database = MemoryDatabase::default();
    let mut store = store(&database);
    store.put(b"A", Some(b"before"), 9).unwrap();
    store.put(b"B", Some(b"before"), 9).unwrap();
    store.put(b"a", None, 5).unwrap();
    commit(&mut store);
    while !store.apply(10).unwrap() {}
    store.put(b"a", Some(b"late"), 3).unwrap();
    store.put(b"", Some(b"first"), 9).unwrap();
    store.expire_before(6);
    commit(&mut store);
    // One row is written and four are looked at, of which the deletion is the last.
    assert!(!store.apply(1).unwrap());
    // The late version is written before it, and the sweep goes on behind that.
    assert!(store.apply(1).unwrap());
    assert_eq!(latest(&store), None);
    // The next sweep finds both.
    store.expire_before(8);
    commit(&mut store);
    store.put(b"", Some(b"again"), 9).unwrap();
    commit(&mut store);
    while !store.apply(1).unwrap() {}
    assert_eq!(latest(&store), None);
}
