//! Groups: who owns what, and where the group has got to.

use std::time::Duration;

use super::clients::{
    Member, PATIENCE, abort, append, at, begin_with, commit, create, finish, in_group, member,
    read, reader, send, settle_all, tp, transactional, values,
};
use crate::clock::Deadline;
use crate::log::{
    CommittedOffset, Consumer, ConsumerConfig, ErrorClass, GroupMetadata, Isolation, Log, LogError,
    Polled, Producer, TopicPartition,
};

fn committed(consumer: &dyn Consumer, partition: &TopicPartition) -> Option<CommittedOffset> {
    let mut offsets = consumer
        .committed(std::slice::from_ref(partition), PATIENCE)
        .expect("committed");
    offsets.pop().expect("one for one")
}

/// Commits `offsets` in the running transaction.
fn commit_with(
    producer: &mut dyn Producer,
    offsets: Vec<(TopicPartition, CommittedOffset)>,
    group: GroupMetadata,
) {
    producer
        .begin_commit(offsets, Some(group))
        .expect("begin_commit");
    finish(producer);
}

pub(super) fn offsets_appear_with_their_transaction(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    let mut member = member(log, prefix, &[&t.topic]);
    member.settle(1);
    let other = in_group(log, prefix);
    assert_eq!(committed(&*other, &t), None);
    let mut producer = transactional(log, &format!("{prefix}-p"));
    producer.begin_transaction().expect("begin");
    let group = member.consumer.group_metadata().expect("metadata");
    producer
        .begin_commit(vec![(t.clone(), at(5, "five"))], Some(group))
        .expect("begin_commit");
    match other.committed(std::slice::from_ref(&t), Duration::from_secs(1)) {
        // The commit may not have reached the log yet, or be over already.
        Ok(offsets) => assert!(
            offsets == [None] || offsets == [Some(at(5, "five"))],
            "{offsets:?}"
        ),
        Err(error) => assert_eq!(error.class, ErrorClass::Retriable, "{error}"),
    }
    finish(&mut *producer);
    assert_eq!(committed(&*other, &t), Some(at(5, "five")));
}

pub(super) fn aborted_offsets_are_gone(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    append(log, &t, &["a", "b"]);
    let mut member = member(log, prefix, &[&t.topic]);
    member.settle(1);
    let metadata = |m: &Member| m.consumer.group_metadata().expect("metadata");
    let mut producer = transactional(log, &format!("{prefix}-p"));
    producer.begin_transaction().expect("begin");
    commit_with(
        &mut *producer,
        vec![(t.clone(), at(1, ""))],
        metadata(&member),
    );
    begin_with(&mut *producer, &t, &["d"]);
    commit_with(
        &mut *producer,
        vec![(t.clone(), at(2, ""))],
        metadata(&member),
    );
    assert_eq!(committed(&*member.consumer, &t), Some(at(2, "")));
}

pub(super) fn metadata_of_four_kilobytes_comes_back(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    let mut member = member(log, prefix, &[&t.topic]);
    member.settle(1);
    let text: String = ('a'..='z').cycle().take(4_096).collect();
    let mut producer = transactional(log, &format!("{prefix}-p"));
    producer.begin_transaction().expect("begin");
    let group = member.consumer.group_metadata().expect("metadata");
    commit_with(&mut *producer, vec![(t.clone(), at(1, &text))], group);
    assert_eq!(committed(&*member.consumer, &t), Some(at(1, &text)));
}

pub(super) fn offsets_are_committed_without_a_transaction(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 2);
    let mut member = member(log, prefix, &[&topic]);
    member.settle(2);
    let offsets = [(tp(&topic, 0), at(3, "x"))];
    member.consumer.commit(&offsets).expect("commit");
    let both = [tp(&topic, 0), tp(&topic, 1)];
    let found = member
        .consumer
        .committed(&both, PATIENCE)
        .expect("committed");
    assert_eq!(found, [Some(at(3, "x")), None], "in the order asked");
}

pub(super) fn a_lone_member_gets_everything(log: &dyn Log, prefix: &str) {
    let (a, b) = (format!("{prefix}-a"), format!("{prefix}-b"));
    create(log, &a, 2);
    create(log, &b, 1);
    append(log, &tp(&a, 0), &["waits for the assign"]);
    let mut member = member(log, prefix, &[&a, &b]);
    member.settle(3);
    assert_eq!(member.owned, [tp(&a, 0), tp(&a, 1), tp(&b, 0)]);
    let deadline = Deadline::after(PATIENCE);
    while member.seen.is_empty() {
        assert!(!deadline.passed(), "no records");
        member.step(|_| {});
    }
    member.consumer.close();
    let mut next = super::clients::member(log, prefix, &[&a, &b]);
    next.settle(3);
}

pub(super) fn a_member_takes_its_partitions_in_parts(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    let (first, second) = (tp(&topic, 0), tp(&topic, 1));
    create(log, &topic, 2);
    append(log, &first, &["a", "b"]);
    append(log, &second, &["x", "y"]);
    let mut consumer = in_group(log, prefix);
    consumer.subscribe(&[&topic]).expect("subscribe");
    let deadline = Deadline::after(PATIENCE);
    while !matches!(
        consumer.poll(Duration::from_millis(100)).expect("poll"),
        Polled::Assigned(partitions) if partitions.len() == 2
    ) {
        assert!(!deadline.passed(), "nothing assigned");
    }
    // The answer to the group; where to read from is not known yet.
    consumer.assign(&[]).expect("assign nothing");
    super::clients::expect_silence(&mut *consumer);
    consumer
        .assign(&[(second.clone(), Some(1))])
        .expect("assign");
    assert_eq!(values(&read(&mut *consumer, 1)), ["y"]);
    consumer
        .assign(&[(first.clone(), Some(0))])
        .expect("assign");
    assert_eq!(values(&read(&mut *consumer, 2)), ["a", "b"]);
    append(log, &second, &["z"]);
    assert_eq!(values(&read(&mut *consumer, 1)), ["z"], "and y not again");
    consumer
        .assign(&[(second.clone(), Some(1))])
        .expect("assign again");
    assert_eq!(consumer.position(&second).expect("assigned"), Some(1));
    assert_eq!(values(&read(&mut *consumer, 2)), ["y", "z"]);
    // A pause, a resume and a seek go together, as after an abort.
    consumer.pause(std::slice::from_ref(&first)).expect("pause");
    append(log, &first, &["c"]);
    super::clients::expect_silence(&mut *consumer);
    consumer
        .resume(std::slice::from_ref(&first))
        .expect("resume");
    consumer.seek(&first, 1).expect("seek");
    assert_eq!(values(&read(&mut *consumer, 2)), ["b", "c"]);
    consumer.close();
    // It has left, so somebody else gets everything.
    let mut next = super::clients::member(log, prefix, &[&topic]);
    next.settle(2);
}

pub(super) fn co_partitioned_topics_go_together(log: &dyn Log, prefix: &str) {
    let (a, b) = (format!("{prefix}-a"), format!("{prefix}-b"));
    create(log, &a, 3);
    create(log, &b, 3);
    let mut first = member(log, prefix, &[&a, &b]);
    first.settle(6);
    let mut second = member(log, prefix, &[&a, &b]);
    settle_all(&mut [&mut first, &mut second], |members| {
        let owned: usize = members.iter().map(|m| m.owned.len()).sum();
        owned == 6 && members.iter().all(|m| !m.owned.is_empty())
    });
    for member in [&first, &second] {
        let numbers = |topic: &str| -> Vec<i32> {
            let of_topic = member.owned.iter().filter(|p| &*p.topic == topic);
            of_topic.map(|p| p.partition).collect()
        };
        assert_eq!(numbers(&a), numbers(&b));
    }
    assert!(first.owned.iter().all(|p| !second.owned.contains(p)));
}

/// Moves what the member has seen to `done`, in one transaction with its offsets.
fn commit_seen(member: &mut Member, producer: &mut dyn Producer, done: &TopicPartition) {
    if member.seen.is_empty() {
        return;
    }
    producer.begin_transaction().expect("begin");
    for value in std::mem::take(&mut member.seen).into_values().flatten() {
        send(producer, done, &value);
    }
    let group = member.consumer.group_metadata().expect("metadata");
    commit_with(producer, member.offsets(), group);
}

pub(super) fn nothing_is_lost_or_doubled_from_one_member_to_two_and_back(
    log: &dyn Log,
    prefix: &str,
) {
    let input = format!("{prefix}-in");
    let done = tp(&format!("{prefix}-out"), 0);
    create(log, &input, 4);
    create(log, &done.topic, 1);
    let mut sent = Vec::new();
    let mut feed = |round: usize| {
        for partition in 0..4 {
            let values: Vec<String> = (0..5).map(|n| format!("{round}-{partition}-{n}")).collect();
            let texts: Vec<&str> = values.iter().map(String::as_str).collect();
            append(log, &tp(&input, partition), &texts);
            sent.extend(values);
        }
    };
    let mut producers = [0, 1].map(|n| transactional(log, &format!("{prefix}-p{n}")));
    let run = |member: &mut Member, producer: &mut Box<dyn Producer>| {
        member.step(|m| commit_seen(m, &mut **producer, &done));
        commit_seen(member, &mut **producer, &done);
    };
    feed(0);
    let mut first = member(log, prefix, &[&input]);
    first.settle(4);
    let mut second = member(log, prefix, &[&input]);
    let deadline = Deadline::after(PATIENCE);
    while (first.owned.len(), second.owned.len()) != (2, 2) {
        assert!(
            !deadline.passed(),
            "two members do not share the partitions"
        );
        run(&mut first, &mut producers[0]);
        run(&mut second, &mut producers[1]);
    }
    feed(1);
    for _ in 0..5 {
        run(&mut first, &mut producers[0]);
        run(&mut second, &mut producers[1]);
    }
    first.consumer.close();
    while second.owned.len() != 4 {
        assert!(
            !deadline.passed(),
            "the one that is left does not get everything"
        );
        run(&mut second, &mut producers[1]);
    }
    feed(2);
    let mut output = reader(log, Isolation::ReadCommitted, std::slice::from_ref(&done));
    let mut seen = Vec::new();
    while seen.len() < sent.len() {
        assert!(
            !deadline.passed(),
            "{} of {} arrived",
            seen.len(),
            sent.len()
        );
        run(&mut second, &mut producers[1]);
        seen.extend(values(&super::clients::poll_records(&mut *output)));
    }
    super::clients::expect_silence(&mut *output);
    sent.sort();
    seen.sort();
    assert_eq!(seen, sent);
}

pub(super) fn stale_group_metadata_is_refused(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 2);
    let mut first = member(log, prefix, &[&topic]);
    first.settle(2);
    let stale = first.consumer.group_metadata().expect("metadata");
    let mut second = member(log, prefix, &[&topic]);
    settle_all(&mut [&mut first, &mut second], |members| {
        members.iter().all(|m| m.owned.len() == 1)
    });
    let mut producer = transactional(log, &format!("{prefix}-p"));
    let t = first.owned[0].clone();
    begin_with(&mut *producer, &t, &["refused with its offsets"]);
    let refused = commit_or(&mut *producer, vec![(t.clone(), at(1, ""))], stale)
        .expect_err("the group has rebalanced");
    assert_eq!(refused.class, ErrorClass::Abortable, "{refused}");
    abort(&mut *producer);
    assert_eq!(committed(&*first.consumer, &t), None);
    begin_with(&mut *producer, &t, &["fresh"]);
    let fresh = first.consumer.group_metadata().expect("metadata");
    commit_or(&mut *producer, vec![(t.clone(), at(1, ""))], fresh).expect("fresh metadata");
    let mut consumer = reader(log, Isolation::ReadCommitted, &[t]);
    assert_eq!(values(&read(&mut *consumer, 1)), ["fresh"]);
}

fn commit_or(
    producer: &mut dyn Producer,
    offsets: Vec<(TopicPartition, CommittedOffset)>,
    group: GroupMetadata,
) -> Result<(), LogError> {
    producer.begin_commit(offsets, Some(group))?;
    let deadline = Deadline::after(PATIENCE);
    while producer.poll_commit(deadline.remaining())?.is_none() {
        assert!(!deadline.passed(), "no outcome of the commit");
    }
    Ok(())
}

pub(super) fn an_aborted_batch_is_read_again(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    append(log, &t, &["a", "b"]);
    let mut member = member(log, prefix, &[&t.topic]);
    member.settle(1);
    let seen = |member: &mut Member, count: usize| {
        let deadline = Deadline::after(PATIENCE);
        while member.seen.get(&t).map_or(0, Vec::len) < count {
            assert!(!deadline.passed(), "{:?} is all that came", member.seen);
            member.step(|_| {});
        }
        member.seen.remove(&t).expect("just seen")
    };
    assert_eq!(seen(&mut member, 2), ["a", "b"]);
    let done = tp(&t.topic, 0);
    let mut producer = transactional(log, &format!("{prefix}-p"));
    begin_with(&mut *producer, &done, &["half done"]);
    abort(&mut *producer);
    let from = committed(&*member.consumer, &t).map_or(0, |c| c.offset);
    member.consumer.seek(&t, from).expect("seek");
    assert_eq!(seen(&mut member, 2), ["a", "b"]);
    producer.begin_transaction().expect("begin");
    let group = member.consumer.group_metadata().expect("metadata");
    commit_with(&mut *producer, member.offsets(), group);
    assert!(committed(&*member.consumer, &t).is_some_and(|c| c.offset >= 2));
}

fn static_member(log: &dyn Log, group: &str, instance: &str, topic: &str) -> Member {
    let config = ConsumerConfig {
        group: Some(group.to_owned()),
        instance_id: Some(instance.to_owned()),
        ..ConsumerConfig::default()
    };
    let mut consumer = log.consumer(config).expect("consumer");
    consumer.subscribe(&[topic]).expect("subscribe");
    Member::new(consumer)
}

pub(super) fn a_static_member_comes_back_to_its_partitions(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 4);
    let mut one = static_member(log, prefix, "one", &topic);
    one.settle(4);
    let mut two = static_member(log, prefix, "two", &topic);
    settle_all(&mut [&mut one, &mut two], |members| {
        members.iter().all(|m| m.owned.len() == 2)
    });
    let (owned, assignments) = (one.owned.clone(), two.assignments);
    one.consumer.close();
    let mut again = static_member(log, prefix, "one", &topic);
    settle_all(&mut [&mut again, &mut two], |members| {
        members[0].owned.len() == 2
    });
    assert_eq!(again.owned, owned);
    two.step(|_| {});
    assert_eq!(two.assignments, assignments, "the other one did not notice");
}

pub(super) fn a_second_static_member_fences_the_first(log: &dyn Log, prefix: &str) {
    let topic = format!("{prefix}-t");
    create(log, &topic, 1);
    let mut first = static_member(log, prefix, "same", &topic);
    first.settle(1);
    // A log may take the first time for a mistake: what it had is lost, and it joins again.
    let mut once_more = true;
    let refused = loop {
        let mut second = static_member(log, prefix, "same", &topic);
        second.settle(1);
        match lost_or_fenced(&mut first) {
            Err(error) => break error,
            Ok(()) => assert!(std::mem::take(&mut once_more), "it joins again and again"),
        }
        first.settle(1);
    };
    assert_eq!(refused.class, ErrorClass::Fenced, "{refused}");
}

/// Waits until a member hears that its place is taken.
fn lost_or_fenced(member: &mut Member) -> Result<(), LogError> {
    let deadline = Deadline::after(PATIENCE);
    loop {
        if let Polled::Revoked { partitions, lost } =
            member.consumer.poll(Duration::from_millis(100))?
        {
            member.consumer.release(&partitions)?;
            member.owned.retain(|owned| !partitions.contains(owned));
            if lost {
                return Ok(());
            }
        }
        assert!(!deadline.passed(), "the older member is not fenced");
    }
}

pub(super) fn a_group_resumes_where_it_committed(log: &dyn Log, prefix: &str) {
    let t = tp(&format!("{prefix}-t"), 0);
    create(log, &t.topic, 1);
    append(log, &t, &["done", "next"]);
    let mut before = member(log, prefix, &[&t.topic]);
    before.settle(1);
    let mut producer = transactional(log, &format!("{prefix}-p"));
    producer.begin_transaction().expect("begin");
    let group = before.consumer.group_metadata().expect("metadata");
    commit_with(&mut *producer, vec![(t.clone(), at(1, ""))], group);
    before.consumer.close();
    let mut after = member(log, prefix, &[&t.topic]);
    let deadline = Deadline::after(PATIENCE);
    while after.seen.is_empty() {
        assert!(!deadline.passed(), "nothing came");
        after.step(|_| {});
    }
    assert_eq!(after.seen[&t], ["next"]);
    begin_with(&mut *producer, &t, &["more"]);
    commit(&mut *producer);
}
