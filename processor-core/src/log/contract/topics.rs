//! Topics are created, described and deleted.

use super::clients::{PATIENCE, create};
use crate::clock::Deadline;
use crate::log::{Log, NewTopic};

pub(super) fn topics_are_created_once(log: &dyn Log, prefix: &str) {
    let (a, b) = (format!("{prefix}-a"), format!("{prefix}-b"));
    assert_eq!(log.partitions(&a).expect("partitions"), None);
    create(log, &a, 3);
    let again = [NewTopic::new(&a, 3), NewTopic::new(&b, 1)];
    log.create_topics(&again)
        .expect("creating twice is no fault");
    assert_eq!(log.partitions(&a).expect("partitions"), Some(3));
    assert_eq!(log.partitions(&b).expect("partitions"), Some(1));
    let all = log.topics().expect("topics");
    assert!(all.contains(&a) && all.contains(&b), "{all:?}");
    assert!(all.is_sorted(), "{all:?}");
}

pub(super) fn another_partition_count_is_refused(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 2);
    let refused = log.create_topics(&[NewTopic::new(&topic, 3)]);
    let message = refused.expect_err("the count differs").to_string();
    assert!(message.contains(&topic), "names the topic: {message}");
    assert_eq!(log.partitions(&topic).expect("partitions"), Some(2));
}

pub(super) fn deleted_topics_are_gone(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 1);
    log.delete_topics(&[&topic, "no-such-topic"])
        .expect("unknown topics are skipped");
    let deadline = Deadline::after(PATIENCE);
    while log.partitions(&topic).expect("partitions").is_some() {
        assert!(!deadline.passed(), "the topic is still there");
    }
    assert!(!log.topics().expect("topics").contains(&topic));
}
