//! Markers: whole, or not there.

use proptest::prelude::*;
use state::{Database, Marker, MemoryDatabase, StateError, read_marker};

fn marker() -> impl Strategy<Value = Marker> {
    let map = || prop::collection::btree_map(".{0,12}", any::<i64>(), 0..5);
    (map(), map(), map(), any::<u64>()).prop_map(
        |(changelog_offsets, input_offsets, stream_times, format_hash)| Marker {
            changelog_offsets,
            input_offsets,
            stream_times,
            format_hash,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_marker_comes_back_as_it_went(marker in marker()) {
        prop_assert_eq!(Marker::decode(&marker.encode()), Some(marker));
    }

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(Marker::decode(&bytes), None);
    }

    /// A right checksum over a wrong body: lengths and counts are checked on their own.
    #[test]
    fn a_damaged_body_never_panics(
        marker in marker(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut body = marker.encode();
        body.truncate(body.len() - 4);
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        body.truncate(keep.index(body.len()) + 1);
        let crc = crc32fast::hash(&body);
        body.extend_from_slice(&crc.to_be_bytes());
        let _ = Marker::decode(&body);
    }

    #[test]
    fn a_torn_marker_is_refused(marker in marker(), keep in any::<prop::sample::Index>()) {
        let bytes = marker.encode();
        prop_assert_eq!(Marker::decode(&bytes[..keep.index(bytes.len())]), None);
    }
}

#[test]
fn a_marker_that_does_not_check_out_is_an_error_not_an_absence() {
    let database = MemoryDatabase::default();
    let mut tree = database.tree("__markers").unwrap();
    tree.apply(&[("task".into(), Some("torn".into()))]).unwrap();
    assert!(matches!(
        read_marker(&database, "task"),
        Err(StateError::Corrupt { .. })
    ));
}
