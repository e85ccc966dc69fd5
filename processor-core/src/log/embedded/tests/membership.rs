//! Sessions that expire, by a clock that is moved.

use super::*;

fn member(log: &EmbeddedLog, instance: Option<&str>) -> Box<dyn Consumer> {
    let mut consumer = log
        .consumer(ConsumerConfig {
            group: Some("g".into()),
            instance_id: instance.map(Into::into),
            ..ConsumerConfig::default()
        })
        .unwrap();
    consumer.subscribe(&["t", "u"]).unwrap();
    consumer
}

/// Answers group events until all members have nothing to say, and returns what each was given.
fn settle(members: &mut [Box<dyn Consumer>]) -> Vec<Vec<TopicPartition>> {
    let mut owned = vec![Vec::new(); members.len()];
    for _ in 0..2 * members.len() + 2 {
        for (member, owned) in members.iter_mut().zip(&mut owned) {
            match member.poll(Duration::ZERO).unwrap() {
                Polled::Assigned(partitions) => {
                    let from: Vec<_> = partitions.iter().map(|p| (p.clone(), None)).collect();
                    member.assign(&from).unwrap();
                    *owned = partitions;
                }
                Polled::Revoked { partitions, .. } => {
                    member.release(&partitions).unwrap();
                    owned.clear();
                }
                Polled::Nothing | Polled::Records(_) => {}
            }
        }
    }
    owned
}

#[test]
fn an_expired_lone_member_cannot_commit_what_it_lost() {
    let clock = ManualClock::at(0);
    let log = EmbeddedLog::in_memory_with(Arc::new(clock.clone()));
    topic(&log, "t", 1);
    let mut lone = [member(&log, None)];
    assert_eq!(settle(&mut lone)[0].len(), 1);
    clock.advance(Duration::from_secs(61));
    let Polled::Revoked { lost: true, .. } = lone[0].poll(Duration::ZERO).unwrap() else {
        panic!("its session is over");
    };
    let t = TopicPartition::new("t", 0);
    let offset = CommittedOffset {
        offset: 1,
        metadata: String::new(),
    };
    let refused = lone[0].commit(&[(t.clone(), offset)]).unwrap_err();
    assert_eq!(refused.class, ErrorClass::Abortable);
    lone[0].release(&[t]).unwrap();
    assert_eq!(settle(&mut lone)[0].len(), 1, "it joins again");
}

#[test]
fn a_static_member_that_stays_away_loses_its_place() {
    let clock = ManualClock::at(0);
    let log = EmbeddedLog::in_memory_with(Arc::new(clock.clone()));
    topic(&log, "t", 2);
    let mut members = vec![member(&log, Some("a")), member(&log, Some("b"))];
    let owned = settle(&mut members);
    assert_eq!(owned.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
    members.remove(0).close();
    clock.advance(Duration::from_secs(40));
    assert!(matches!(
        members[0].poll(Duration::ZERO),
        Ok(Polled::Nothing)
    ));
    clock.advance(Duration::from_secs(40));
    assert_eq!(settle(&mut members)[0].len(), 2);
}

#[test]
fn a_new_topic_is_shared_out() {
    let log = EmbeddedLog::in_memory_with(Arc::new(ManualClock::at(0)));
    topic(&log, "t", 2);
    let mut members = vec![member(&log, None), member(&log, None)];
    settle(&mut members);
    topic(&log, "u", 2);
    let owned = settle(&mut members);
    for (n, owned) in owned.iter().enumerate() {
        let n = n as i32;
        assert_eq!(
            *owned,
            [TopicPartition::new("t", n), TopicPartition::new("u", n)]
        );
    }
    log.delete_topics(&["t"]).unwrap();
    let owned = settle(&mut members);
    assert_eq!(owned[1], [TopicPartition::new("u", 1)]);
}

#[test]
fn the_same_calls_give_the_same_results() {
    let run = || {
        let log = EmbeddedLog::in_memory_with(Arc::new(ManualClock::at(0)));
        topic(&log, "t", 5);
        topic(&log, "u", 3);
        let mut trace = Vec::new();
        let mut members = vec![member(&log, None), member(&log, Some("s"))];
        let mut producer = log.producer(ProducerConfig::default()).unwrap();
        for round in 0..20 {
            if round == 8 {
                members.push(member(&log, None));
            }
            if round == 14 {
                members.remove(0).close();
            }
            for partition in 0..5 {
                let value = [round, partition as u8];
                let record = ProducerRecord {
                    partition,
                    ..record("t", &value)
                };
                producer.send(record).unwrap();
            }
            producer.flush(Duration::ZERO).unwrap();
            for member in &mut members {
                let polled = member.poll(Duration::ZERO).unwrap();
                trace.push(format!("{polled:?}"));
                match polled {
                    Polled::Assigned(p) => {
                        let from: Vec<_> = p.iter().map(|p| (p.clone(), None)).collect();
                        member.assign(&from).unwrap();
                    }
                    Polled::Revoked { partitions, .. } => member.release(&partitions).unwrap(),
                    _ => {}
                }
            }
        }
        trace
    };
    let first = run();
    assert!(first.iter().any(|t| t.starts_with("Records")));
    assert_eq!(first, run());
}

#[test]
fn an_expired_member_loses_its_partitions_and_joins_again() {
    let clock = ManualClock::at(0);
    let log = EmbeddedLog::in_memory_with(Arc::new(clock.clone()));
    topic(&log, "t", 2);
    let member = || member(&log, None);
    let mut first = member();
    let Polled::Assigned(all) = first.poll(Duration::ZERO).unwrap() else {
        panic!("a lone member is assigned at its first poll");
    };
    assert_eq!(all.len(), 2);
    let mut second = member();
    assert!(matches!(second.poll(Duration::ZERO), Ok(Polled::Nothing)));
    clock.advance(Duration::from_secs(59));
    assert!(matches!(second.poll(Duration::ZERO), Ok(Polled::Nothing)));
    clock.advance(Duration::from_secs(2));
    let Polled::Assigned(taken) = second.poll(Duration::ZERO).unwrap() else {
        panic!("the first member has expired");
    };
    assert_eq!(taken, all);
    let Polled::Revoked { partitions, lost } = first.poll(Duration::ZERO).unwrap() else {
        panic!("it lost its partitions");
    };
    assert!(lost);
    let offset = CommittedOffset {
        offset: 1,
        metadata: String::new(),
    };
    let refused = first.commit(&[(all[0].clone(), offset)]).unwrap_err();
    assert_eq!(refused.class, ErrorClass::Abortable);
    first.release(&partitions).unwrap();
    assert!(matches!(first.poll(Duration::ZERO), Ok(Polled::Nothing)));
    let Polled::Revoked { partitions, lost } = second.poll(Duration::ZERO).unwrap() else {
        panic!("the first member is back");
    };
    assert!(!lost);
    second.release(&partitions).unwrap();
    for member in [&mut first, &mut second] {
        assert!(matches!(member.poll(Duration::ZERO), Ok(Polled::Assigned(p)) if p.len() == 1));
    }
}
