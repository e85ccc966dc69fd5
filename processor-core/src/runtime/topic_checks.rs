//! Whether an internal topic that is there already keeps what it must keep.
//!
//! Internal topics are made by us, and settings may have been changed since, or the topic made by hand. What loses rows or
//! records is refused before anything is touched; what only may is warned of.

use crate::log::{Cleanup, TopicSettings};
use crate::topology::StoreKind;

/// What is wrong with the settings of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Objection {
    /// Something will be lost.
    Refuse(String),
    /// Something may be lost, or the topic grows for ever.
    Warn(String),
}

/// Whether the changelog of a store of `kind` can do with `found`, where it would have been made with `wanted`.
pub(crate) fn of_changelog(
    kind: StoreKind,
    wanted: &TopicSettings,
    found: &TopicSettings,
) -> Option<Objection> {
    let deletes = found.cleanup != Cleanup::Compact;
    if deletes && let Some(bytes) = found.retention_bytes {
        return Some(Objection::Refuse(format!(
            "retention.bytes={bytes} deletes rows that the store still has; set retention.bytes=-1"
        )));
    }
    match (kind.retention_ms(), found.retention_ms) {
        (None, Some(ms)) if deletes => Some(Objection::Refuse(format!(
            "cleanup.policy={} with retention.ms={ms} deletes rows by their age, and the store keeps them for ever; set \
             cleanup.policy=compact",
            found.cleanup.policy()
        ))),
        (None, None) if deletes => Some(Objection::Warn(format!(
            "cleanup.policy={} keeps every change for ever; set cleanup.policy=compact",
            found.cleanup.policy()
        ))),
        (Some(needed), Some(ms)) if deletes && ms < needed => Some(Objection::Refuse(format!(
            "retention.ms={ms} deletes rows that the store keeps for {needed} ms; set retention.ms={}",
            wanted.retention_ms.unwrap_or(-1)
        ))),
        (Some(_), Some(ms)) if deletes && wanted.retention_ms.is_none_or(|wanted| ms < wanted) => {
            Some(Objection::Warn(format!(
                "retention.ms={ms} may delete rows of events that are read late; set retention.ms={}",
                wanted.retention_ms.unwrap_or(-1)
            )))
        }
        _ => None,
    }
}

/// Whether a repartition topic can do with `found`.
pub(crate) fn of_repartition(found: &TopicSettings) -> Option<Objection> {
    if found.cleanup != Cleanup::Delete {
        return Some(Objection::Refuse(format!(
            "cleanup.policy={} drops records of a key but the last before they are processed; set cleanup.policy=delete",
            found.cleanup.policy()
        )));
    }
    let limits = [
        ("retention.ms", found.retention_ms),
        ("retention.bytes", found.retention_bytes),
    ];
    let (name, limit) = limits
        .into_iter()
        .find_map(|(name, limit)| Some((name, limit?)))?;
    Some(Objection::Warn(format!(
        "{name}={limit} may delete records before they are processed; set {name}=-1"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    const WINDOW: StoreKind = StoreKind::Window { retention_ms: DAY };

    fn settings(cleanup: Cleanup, retention_ms: Option<i64>) -> TopicSettings {
        TopicSettings {
            cleanup,
            retention_ms,
            retention_bytes: None,
        }
    }

    fn is_refused(objection: Option<Objection>) -> bool {
        matches!(objection, Some(Objection::Refuse(_)))
    }

    #[test]
    fn what_we_make_ourselves_is_fine() {
        let compacted = settings(Cleanup::Compact, None);
        assert_eq!(
            of_changelog(StoreKind::KeyValue, &compacted, &compacted),
            None
        );
        let windowed = settings(Cleanup::CompactAndDelete, Some(2 * DAY));
        assert_eq!(of_changelog(WINDOW, &windowed, &windowed), None);
        let join = settings(Cleanup::Delete, Some(2 * DAY));
        let kind = StoreKind::Join { retention_ms: DAY };
        assert_eq!(of_changelog(kind, &join, &join), None);
        let kept = settings(Cleanup::Delete, None);
        assert_eq!(of_changelog(kind, &kept, &kept), None);
        assert_eq!(of_repartition(&kept), None);
    }

    #[test]
    fn a_table_whose_changelog_deletes_by_age_or_size_is_refused() {
        let wanted = settings(Cleanup::Compact, None);
        for cleanup in [Cleanup::Delete, Cleanup::CompactAndDelete] {
            let found = settings(cleanup, Some(7 * DAY));
            assert!(is_refused(of_changelog(
                StoreKind::KeyValue,
                &wanted,
                &found
            )));
            let found = TopicSettings {
                retention_bytes: Some(1 << 30),
                ..settings(cleanup, None)
            };
            assert!(is_refused(of_changelog(
                StoreKind::KeyValue,
                &wanted,
                &found
            )));
        }
        // It says how long records are kept, and does not delete any.
        let found = settings(Cleanup::Compact, Some(7 * DAY));
        assert_eq!(of_changelog(StoreKind::KeyValue, &wanted, &found), None);
        let found = settings(Cleanup::Delete, None);
        let objection = of_changelog(StoreKind::KeyValue, &wanted, &found);
        assert!(matches!(objection, Some(Objection::Warn(_))));
    }

    #[test]
    fn a_window_is_refused_a_retention_shorter_than_its_own_and_warned_of_a_tight_one() {
        let wanted = settings(Cleanup::CompactAndDelete, Some(2 * DAY));
        let found = settings(Cleanup::CompactAndDelete, Some(DAY - 1));
        assert!(is_refused(of_changelog(WINDOW, &wanted, &found)));
        let found = settings(Cleanup::CompactAndDelete, Some(DAY));
        let tight = of_changelog(WINDOW, &wanted, &found);
        assert!(matches!(tight, Some(Objection::Warn(_))), "{tight:?}");
        let found = settings(Cleanup::CompactAndDelete, Some(9 * DAY));
        assert_eq!(of_changelog(WINDOW, &wanted, &found), None);
    }

    #[test]
    fn a_repartition_topic_that_compacts_is_refused_and_one_that_forgets_is_warned_of() {
        assert!(is_refused(of_repartition(&settings(
            Cleanup::Compact,
            None
        ))));
        let forgets = of_repartition(&settings(Cleanup::Delete, Some(DAY)));
        assert!(matches!(forgets, Some(Objection::Warn(_))));
    }
}
