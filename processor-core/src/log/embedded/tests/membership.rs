//! Sessions that expire, by a clock that is moved.

use super::*;

#[test]
fn an_expired_member_loses_its_partitions_and_joins_again() {
    let clock = ManualClock::at(0);
    let log = EmbeddedLog::in_memory_with(Arc::new(clock.clone()));
    topic(&log, "t", 2);
    let member = || {
        let mut consumer = log
            .consumer(ConsumerConfig {
                group: Some("g".into()),
                ..ConsumerConfig::default()
            })
            .unwrap();
        consumer.subscribe(&["t"]).unwrap();
        consumer
    };
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
