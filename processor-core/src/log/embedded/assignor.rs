//! The `range` assignor: equal partition numbers of co-partitioned topics go to the same member.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::log::TopicPartition;

/// Spreads `topics` (name → number of partitions) over `members`, each with its subscription, in order: the first
/// members get one partition more where the numbers do not divide. The result has one entry per member.
pub(crate) fn range(
    members: &[Vec<Arc<str>>],
    topics: &BTreeMap<Arc<str>, i32>,
) -> Vec<Vec<TopicPartition>> {
    let mut assignment = vec![Vec::new(); members.len()];
    for (topic, &partitions) in topics {
        let interested: Vec<usize> = (0..members.len())
            .filter(|&m| members[m].contains(topic))
            .collect();
        let mut from = 0;
        for (position, &member) in interested.iter().enumerate() {
            let left = (interested.len() - position) as i32;
            let take = (partitions - from + left - 1) / left;
            assignment[member]
                .extend((from..from + take).map(|p| TopicPartition::new(topic.clone(), p)));
            from += take;
        }
    }
    assignment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn co_partitioned_topics_land_together() {
        let both: Vec<Arc<str>> = vec!["a".into(), "b".into()];
        let topics = BTreeMap::from([("a".into(), 5), ("b".into(), 5), ("c".into(), 1)]);
        let assigned = range(&[both.clone(), both], &topics);
        let numbers = |m: usize, t: &str| -> Vec<i32> {
            let of_topic = assigned[m].iter().filter(|tp| &*tp.topic == t);
            of_topic.map(|tp| tp.partition).collect()
        };
        assert_eq!(numbers(0, "a"), [0, 1, 2]);
        assert_eq!(numbers(1, "a"), [3, 4]);
        assert_eq!(numbers(0, "a"), numbers(0, "b"));
        assert_eq!(numbers(1, "a"), numbers(1, "b"));
    }

    #[test]
    fn more_members_than_partitions_leaves_some_empty() {
        let members = vec![vec!["a".into()]; 3];
        let assigned = range(&members, &BTreeMap::from([("a".into(), 2)]));
        assert_eq!(assigned.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 0]);
    }
}
