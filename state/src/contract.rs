//! What every backend promises, as functions that panic when it does not.
//!
//! Run [`SUITE`] against an empty database of the backend under test. Each check uses trees of its own.

mod stores;

use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use crate::{Database, Direction, Marker, Tree, read_marker, remove_marker, write_marker};

/// A check and its name, a sentence.
pub type Check = (&'static str, fn(&dyn Database));

/// All checks.
pub const SUITE: &[Check] = &[
    (
        "a_batch_is_readable_in_order_both_ways",
        a_batch_is_readable_in_order_both_ways,
    ),
    (
        "bounds_are_kept_and_empty_ranges_are_empty",
        bounds_are_kept_and_empty_ranges_are_empty,
    ),
    (
        "a_visitor_may_read_and_may_stop",
        a_visitor_may_read_and_may_stop,
    ),
    (
        "ranges_are_removed_lowest_first_in_chunks",
        ranges_are_removed_lowest_first_in_chunks,
    ),
    (
        "trees_are_listed_dropped_and_separate",
        trees_are_listed_dropped_and_separate,
    ),
    ("markers_are_kept_per_task", markers_are_kept_per_task),
    (
        "a_key_value_store_commits_and_aborts",
        stores::a_key_value_store_commits_and_aborts,
    ),
    (
        "a_window_store_expires_exactly",
        stores::a_window_store_expires_exactly,
    ),
    (
        "a_join_store_keeps_repeated_timestamps",
        stores::a_join_store_keeps_repeated_timestamps,
    ),
    (
        "a_hot_join_key_spans_blocks",
        stores::a_hot_join_key_spans_blocks,
    ),
    (
        "a_session_store_finds_overlaps",
        stores::a_session_store_finds_overlaps,
    ),
    (
        "a_versioned_store_keeps_history",
        stores::a_versioned_store_keeps_history,
    ),
    ("a_cleared_store_is_empty", stores::a_cleared_store_is_empty),
];

/// Runs every check.
pub fn check(database: &dyn Database) {
    for (_, check) in SUITE {
        check(database);
    }
}

const GO: ControlFlow<()> = ControlFlow::Continue(());

fn tree(database: &dyn Database, name: &str) -> Box<dyn Tree> {
    database.tree(name).expect("a tree can be opened")
}

fn row(key: &str, value: &str) -> (Bytes, Option<Bytes>) {
    (
        Bytes::copy_from_slice(key.as_bytes()),
        Some(Bytes::copy_from_slice(value.as_bytes())),
    )
}

fn keys(
    tree: &dyn Tree,
    from: Bound<&[u8]>,
    to: Bound<&[u8]>,
    direction: Direction,
) -> Vec<String> {
    let mut keys = Vec::new();
    tree.scan(from, to, direction, &mut |key, _| {
        keys.push(String::from_utf8_lossy(key).into_owned());
        GO
    })
    .expect("a tree can be scanned");
    keys
}

fn a_batch_is_readable_in_order_both_ways(database: &dyn Database) {
    let mut tree = tree(database, "order");
    let rows = [row("b", "2"), row("a", "1"), row("c", "3"), row("", "0")];
    tree.apply(&rows).expect("applied");
    tree.apply(&[(Bytes::from_static(b"b"), None), row("c", "4")])
        .expect("applied");
    let all = (Bound::Unbounded, Bound::Unbounded);
    assert_eq!(
        keys(&*tree, all.0, all.1, Direction::Forward),
        ["", "a", "c"]
    );
    assert_eq!(
        keys(&*tree, all.0, all.1, Direction::Backward),
        ["c", "a", ""]
    );
    assert_eq!(tree.get(b"c").expect("read").as_deref(), Some(&b"4"[..]));
    assert_eq!(tree.get(b"b").expect("read"), None);
}

fn bounds_are_kept_and_empty_ranges_are_empty(database: &dyn Database) {
    let mut tree = tree(database, "bounds");
    let names: Vec<String> = (0..300).map(|n| format!("{n:03}")).collect();
    let rows: Vec<_> = names.iter().map(|name| row(name, "")).collect();
    tree.apply(&rows).expect("applied");
    for direction in [Direction::Forward, Direction::Backward] {
        let included = (Bound::Included(&b"100"[..]), Bound::Included(&b"250"[..]));
        assert_eq!(keys(&*tree, included.0, included.1, direction).len(), 151);
        let excluded = (Bound::Excluded(&b"100"[..]), Bound::Excluded(&b"250"[..]));
        assert_eq!(keys(&*tree, excluded.0, excluded.1, direction).len(), 149);
        for (from, to) in [
            (Bound::Included(&b"2"[..]), Bound::Included(&b"1"[..])),
            (Bound::Excluded(&b"1"[..]), Bound::Excluded(&b"1"[..])),
            (Bound::Included(&b"100"[..]), Bound::Excluded(&b"100"[..])),
        ] {
            assert_eq!(keys(&*tree, from, to, direction), [""; 0]);
        }
    }
}

fn a_visitor_may_read_and_may_stop(database: &dyn Database) {
    let mut tree = tree(database, "visit");
    tree.apply(&[row("a", "1"), row("b", "2")])
        .expect("applied");
    let mut seen = Vec::new();
    tree.scan(
        Bound::Unbounded,
        Bound::Unbounded,
        Direction::Forward,
        &mut |key, value| {
            assert_eq!(tree.get(key).expect("read").as_deref(), Some(value));
            seen.push(key.to_vec());
            ControlFlow::Break(())
        },
    )
    .expect("scanned");
    assert_eq!(seen, [b"a"]);
}

fn ranges_are_removed_lowest_first_in_chunks(database: &dyn Database) {
    let mut tree = tree(database, "remove");
    let rows: Vec<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .map(|key| row(key, ""))
        .collect();
    tree.apply(&rows).expect("applied");
    assert_eq!(tree.remove_range(b"b", b"e", 2).expect("removed"), 2);
    assert_eq!(
        keys(
            &*tree,
            Bound::Unbounded,
            Bound::Unbounded,
            Direction::Forward
        ),
        ["a", "d", "e"]
    );
    assert_eq!(tree.remove_range(b"b", b"e", 2).expect("removed"), 1);
    assert_eq!(tree.remove_range(b"b", b"e", 2).expect("removed"), 0);
    // What is written again in between is found again.
    tree.apply(&[row("b", ""), row("cc", "")]).expect("applied");
    assert_eq!(tree.remove_range(b"b", b"e", 1).expect("removed"), 1);
    assert_eq!(tree.get(b"b").expect("read"), None);
    assert_eq!(tree.remove_range(b"bb", b"e", 3).expect("removed"), 1);
    assert_eq!(tree.remove_range(b"a", b"e", 3).expect("removed"), 1);
    tree.apply(&rows[..1]).expect("applied");
    assert_eq!(tree.remove_range(b"z", b"a", 2).expect("removed"), 0);
    tree.clear().expect("cleared");
    assert_eq!(
        keys(
            &*tree,
            Bound::Unbounded,
            Bound::Unbounded,
            Direction::Forward
        ),
        [""; 0]
    );
}

fn trees_are_listed_dropped_and_separate(database: &dyn Database) {
    tree(database, "one")
        .apply(&[row("k", "1")])
        .expect("applied");
    tree(database, "two")
        .apply(&[row("k", "2")])
        .expect("applied");
    let names = database.tree_names().expect("listed");
    assert!(
        ["one", "two"]
            .iter()
            .all(|name| names.iter().any(|found| found == name))
    );
    database.drop_tree("one").expect("dropped");
    database
        .drop_tree("one")
        .expect("dropping what is not there is no error");
    assert!(
        !database
            .tree_names()
            .expect("listed")
            .iter()
            .any(|name| name == "one")
    );
    assert_eq!(tree(database, "one").get(b"k").expect("read"), None);
    assert_eq!(
        tree(database, "two").get(b"k").expect("read").as_deref(),
        Some(&b"2"[..])
    );
    database.sync().expect("synced");
}

fn markers_are_kept_per_task(database: &dyn Database) {
    let mut marker = Marker {
        format_hash: 7,
        ..Marker::default()
    };
    marker.changelog_offsets.insert("store".to_owned(), 42);
    write_marker(database, "0_1", &marker).expect("written");
    assert_eq!(read_marker(database, "0_1").expect("read"), Some(marker));
    assert_eq!(read_marker(database, "0_2").expect("read"), None);
    remove_marker(database, "0_1").expect("removed");
    assert_eq!(read_marker(database, "0_1").expect("read"), None);
}
