//! Instances that come and go on a real broker, under load: every input record counts once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use e2e::topics::send_one;
use processor_core::clock::{Clock as _, SystemClock};
use processor_core::dsl::{Consumed, StreamsBuilder};
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::log::{
    Consumer, ConsumerConfig, ErrorClass, Log, LogError, NewTopic, Polled, ProducerConfig,
    TopicPartition,
};
use processor_core::serde::{Serde as _, int64, utf8};
use processor_core::{Streams, StreamsConfig, Topology};
use xtask::stopwatch::wait_for;

const PARTITIONS: i32 = 6;
const KEYS: u64 = 40;
const PATIENCE: Duration = Duration::from_secs(120);

/// How instances are members of their group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Membership {
    Dynamic,
    Static,
    /// As `Static`, with a session that outlasts a restart on a busy machine.
    Pod,
    /// The protocol of KIP-848, with the broker's range assignor.
    Consumer,
}

/// An application on a real broker: it counts the records of each key of one topic, while it reads another beside it.
struct Application {
    name: &'static str,
    membership: Membership,
    log: Arc<dyn Log>,
    written: AtomicU64,
    results: Mutex<Results>,
}

/// The counts that were committed, by key, in their order, and who reads on.
struct Results {
    reader: Box<dyn Consumer>,
    counts: BTreeMap<String, Vec<i64>>,
}

impl Application {
    fn new(name: &'static str, membership: Membership) -> Self {
        let mut options = KafkaOptions::new(e2e::kafka());
        let property = match membership {
            Membership::Consumer => ("group.protocol", "consumer"),
            Membership::Pod => ("session.timeout.ms", "60000"),
            _ => ("session.timeout.ms", "6000"),
        };
        options
            .properties
            .insert(property.0.to_owned(), property.1.to_owned());
        let log: Arc<dyn Log> = Arc::new(KafkaLog::new(options).unwrap());
        let topics: Vec<_> = ["in", "out"]
            .iter()
            .map(|topic| NewTopic::new(format!("{name}-{topic}"), PARTITIONS))
            .collect();
        log.create_topics(&topics).unwrap();
        let mut reader = log.consumer(ConsumerConfig::default()).unwrap();
        let out = format!("{name}-out");
        let all = (0..PARTITIONS).map(|n| (TopicPartition::new(out.as_str(), n), Some(0)));
        reader.assign(&all.collect::<Vec<_>>()).unwrap();
        Self {
            name,
            membership,
            log,
            written: AtomicU64::new(0),
            results: Mutex::new(Results {
                reader,
                counts: BTreeMap::new(),
            }),
        }
    }

    fn topology(&self) -> Topology {
        let builder = StreamsBuilder::new("counts");
        builder
            .stream(&format!("{}-in", self.name), Consumed::new(utf8(), int64()))
            .group_by_key()
            .count("count")
            .to_stream()
            .to(&format!("{}-out", self.name));
        builder.build().unwrap()
    }

    /// Starts the instance of this ordinal, with its state below `directory`.
    fn start(&self, directory: &Path, ordinal: usize) -> Streams {
        let config = StreamsConfig {
            instance: Some(format!("{}-{ordinal}", self.name)),
            static_membership: matches!(self.membership, Membership::Static | Membership::Pod),
            ..StreamsConfig::new(format!("{}-application", self.name))
        };
        let config = config.state_dir(directory.join(ordinal.to_string()));
        let mut streams = Streams::new(self.topology(), config, Arc::clone(&self.log)).unwrap();
        streams.start();
        streams
    }

    /// Writes records of all keys in turn, until `stop` or so many.
    fn feed(&self, most: u64, stop: &AtomicBool) {
        let topic = format!("{}-in", self.name);
        let mut producer = self.log.producer(ProducerConfig::default()).unwrap();
        let mut fed = 0;
        while fed < most && !stop.load(Ordering::SeqCst) {
            for _ in 0..KEYS {
                let number = self.written.fetch_add(1, Ordering::SeqCst);
                send_one(&mut *producer, &topic, PARTITIONS, KEYS, number);
                fed += 1;
            }
            producer.flush(Duration::from_secs(30)).unwrap();
            SystemClock.pass(Duration::from_millis(10));
        }
    }

    /// The counts that are committed by now.
    fn counts(&self) -> BTreeMap<String, Vec<i64>> {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let Results { reader, counts } = &mut *results;
        while let Polled::Records(batches) = reader.poll(Duration::from_millis(50)).unwrap() {
            for record in batches.into_iter().flat_map(|batch| batch.records) {
                let key = utf8().deserialize(&record.key.unwrap()).unwrap();
                let count = int64().deserialize(&record.value.unwrap()).unwrap();
                counts.entry(key).or_default().push(count);
            }
        }
        counts.clone()
    }

    fn committed(&self) -> u64 {
        let counts = self.counts();
        counts.values().map(|counts| counts.len() as u64).sum()
    }

    /// Waits until so many results are committed.
    fn await_committed(&self, least: u64, running: &[&Streams]) {
        let done = wait_for(PATIENCE, || {
            let stopped = running.iter().any(|streams| streams.stopped());
            assert!(!stopped, "an instance stopped: see its log");
            (self.committed() >= least).then_some(())
        });
        let committed = self.committed();
        done.unwrap_or_else(|| panic!("{committed} of {least} results after {PATIENCE:?}"));
    }

    /// Waits until everything written by now is committed.
    fn await_all_committed(&self, running: &[&Streams]) {
        self.await_committed(self.written.load(Ordering::SeqCst), running);
    }

    /// Every record that was written has counted once: no count is missing, none comes twice, all are in order.
    fn check(&self) {
        let written = self.written.load(Ordering::SeqCst);
        for (key, counts) in self.counts() {
            let expected: Vec<i64> = (1..).take(counts.len()).collect();
            assert_eq!(counts, expected, "{key}");
        }
        assert_eq!(self.committed(), written);
    }
}

/// One instance, then three, then one, while records come all the time.
fn one_three_one(name: &'static str, membership: Membership) {
    let directory = tempfile::tempdir().unwrap();
    let application = Application::new(name, membership);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let feeder = scope.spawn(|| application.feed(u64::MAX, &stop));
        let first = application.start(directory.path(), 0);
        application.await_committed(500, &[&first]);
        let second = application.start(directory.path(), 1);
        let third = application.start(directory.path(), 2);
        let shared = wait_for(PATIENCE, || {
            let all = [&first, &second, &third];
            let taken = all.map(Streams::records_taken);
            assert!(!all.iter().any(|s| s.stopped()), "an instance stopped");
            taken.iter().all(|taken| *taken > 200).then_some(())
        });
        let taken = [&first, &second, &third].map(Streams::records_taken);
        assert!(shared.is_some(), "the work is not shared: {taken:?}");
        second.close().unwrap();
        third.close().unwrap();
        // Static members keep their place for a session, and what comes meanwhile waits.
        application.await_all_committed(&[&first]);
        stop.store(true, Ordering::SeqCst);
        feeder.join().unwrap();
        application.await_all_committed(&[&first]);
        first.close().unwrap();
    });
    application.check();
}

#[test]
fn dynamic_members_that_come_and_go_lose_and_repeat_nothing() {
    one_three_one("dynamic", Membership::Dynamic);
}

#[test]
fn static_members_that_come_and_go_lose_and_repeat_nothing() {
    one_three_one("static", Membership::Static);
}

#[test]
fn members_of_the_consumer_protocol_that_come_and_go_lose_and_repeat_nothing() {
    one_three_one("consumer", Membership::Consumer);
}

/// What a pod of a StatefulSet with a volume does: same name, same directory.
#[test]
fn a_static_member_that_is_back_has_its_tasks_and_its_state_without_a_restore() {
    let directory = tempfile::tempdir().unwrap();
    let application = Application::new("pod", Membership::Pod);
    let never = AtomicBool::new(false);
    let other = application.start(directory.path(), 0);
    let pod = application.start(directory.path(), 1);
    // The first one alone may have counted all of these before the group has room for the second.
    application.feed(4_000, &never);
    let shared = wait_for(PATIENCE, || {
        application.feed(KEYS, &never);
        (pod.records_taken() > 500).then_some(())
    });
    assert!(shared.is_some(), "it got no tasks");
    application.await_all_committed(&[&other, &pod]);
    let restored_by_other = other.records_restored();
    pod.close().unwrap();
    let pod = application.start(directory.path(), 1);
    application.feed(4_000, &never);
    application.await_all_committed(&[&other, &pod]);
    assert!(pod.records_taken() > 500, "it did not get its tasks back");
    assert_eq!(pod.records_restored(), 0, "its marker says all");
    assert_eq!(
        other.records_restored(),
        restored_by_other,
        "the other one was not disturbed"
    );
    // The same name in another directory, as if the volume was lost: everything comes from the changelogs.
    pod.close().unwrap();
    let pod = application.start(&directory.path().join("new-volume"), 1);
    application.feed(400, &never);
    application.await_all_committed(&[&other, &pod]);
    // Fewer than were counted, since a commit writes each key once.
    assert!(pod.records_restored() > 100, "{}", pod.records_restored());
    pod.close().unwrap();
    other.close().unwrap();
    application.check();
}

/// A member of the group `fenced` on a topic of two partitions, called `pod`.
fn pod(log: &KafkaLog) -> Box<dyn Consumer> {
    let mut consumer = log
        .consumer(ConsumerConfig {
            group: Some("fenced".to_owned()),
            instance_id: Some("pod".to_owned()),
            ..ConsumerConfig::default()
        })
        .unwrap();
    consumer.subscribe(&["fenced-in"]).unwrap();
    consumer
}

/// Waits for a rebalance, and answers it: the partitions that were given, or none where they are lost.
fn rebalanced(consumer: &mut dyn Consumer) -> Result<usize, LogError> {
    let answered = wait_for(PATIENCE, || {
        match consumer.poll(Duration::from_millis(100)) {
            Err(error) => Some(Err(error)),
            Ok(Polled::Assigned(partitions)) => {
                let starts: Vec<_> = partitions.into_iter().map(|p| (p, Some(0))).collect();
                consumer.assign(&starts).unwrap();
                Some(Ok(starts.len()))
            }
            Ok(Polled::Revoked { partitions, lost }) => {
                assert!(
                    lost,
                    "{partitions:?} are another member's, so nothing may be committed"
                );
                consumer.release(&partitions).unwrap();
                Some(Ok(0))
            }
            Ok(Polled::Nothing | Polled::Records(_)) => None,
        }
    });
    answered.expect("no rebalance")
}

/// A request to join that the broker took twice leaves a member of this name that nobody is.
#[test]
fn a_static_member_that_is_fenced_takes_its_place_back_once() {
    let mut options = KafkaOptions::new(e2e::kafka());
    for (name, value) in [
        ("session.timeout.ms", "6000"),
        ("heartbeat.interval.ms", "300"),
    ] {
        options.properties.insert(name.to_owned(), value.to_owned());
    }
    let log = KafkaLog::new(options).unwrap();
    log.create_topics(&[NewTopic::new("fenced-in", 2)]).unwrap();
    let mut member = pod(&log);
    assert_eq!(rebalanced(&mut *member).unwrap(), 2);
    let mut other = pod(&log);
    assert_eq!(rebalanced(&mut *other).unwrap(), 2);
    other.close();
    assert_eq!(rebalanced(&mut *member).unwrap(), 0, "what it had is lost");
    assert_eq!(rebalanced(&mut *member).unwrap(), 2, "and given again");

    let mut successor = pod(&log);
    assert_eq!(rebalanced(&mut *successor).unwrap(), 2);
    let error = rebalanced(&mut *member).unwrap_err();
    assert_eq!(error.class, ErrorClass::Fenced, "{error}");
    assert!(error.message.contains("took over"), "{error}");
}

#[test]
fn of_two_instances_with_one_name_one_ends_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let application = Application::new("twins", Membership::Static);
    let never = AtomicBool::new(false);
    let elder = application.start(&directory.path().join("elder"), 0);
    application.feed(400, &never);
    application.await_committed(400, &[&elder]);
    let younger = application.start(&directory.path().join("younger"), 0);
    let ended = wait_for(PATIENCE, || {
        application.feed(KEYS, &never);
        (elder.stopped() || younger.stopped()).then_some(())
    });
    assert!(ended.is_some(), "both go on under one name");
    let (gone, stays) = match elder.stopped() {
        true => (elder, younger),
        false => (younger, elder),
    };
    let error = gone.close().unwrap_err().to_string();
    assert!(error.contains("took over"), "{error}");
    application.await_all_committed(&[&stays]);
    stays.close().unwrap();
    application.check();
}

/// A member of a group of its own that has been given its partition.
fn member(protocol: &str) -> Box<dyn Consumer> {
    let mut options = KafkaOptions::new(e2e::kafka());
    let properties = [
        ("group.protocol", protocol),
        ("session.timeout.ms", "6000"),
        ("max.poll.interval.ms", "6000"),
    ];
    // A session of the newer protocol is the broker's to time.
    let ours = |(name, _): &(&str, &str)| protocol == "classic" || *name != "session.timeout.ms";
    let properties = properties.into_iter().filter(ours);
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    options.properties.extend(properties.map(owned));
    let log = KafkaLog::new(options).unwrap();
    let topic = format!("unanswered-{protocol}");
    log.create_topics(&[NewTopic::new(&topic, 1)]).unwrap();
    let config = ConsumerConfig {
        group: Some(topic.clone()),
        ..ConsumerConfig::default()
    };
    let mut member = log.consumer(config).unwrap();
    member.subscribe(&[&topic]).unwrap();
    let given = wait_for(PATIENCE, || {
        match member.poll(Duration::from_millis(100)).unwrap() {
            Polled::Assigned(partitions) => Some(partitions),
            _ => None,
        }
    });
    let given = given.expect("it is given its partition").into_iter();
    let from: Vec<_> = given.map(|partition| (partition, None)).collect();
    member.assign(&from).unwrap();
    member
}

#[test]
fn a_member_that_never_gave_up_what_it_lost_can_be_closed() {
    let mut members = ["classic", "consumer"].map(member);
    // Longer than it may go without a poll.
    wait_for(Duration::from_secs(8), || None::<()>);
    for member in &mut members {
        let lost = wait_for(PATIENCE, || {
            let polled = member.poll(Duration::from_millis(100)).unwrap();
            matches!(polled, Polled::Revoked { lost: true, .. }).then_some(())
        });
        lost.expect("what it had is lost");
    }
    // Each on a thread of its own, so that one that hangs holds up nothing but itself.
    let closing = members.map(|member| {
        let (closed, is_closed) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            member.close();
            let _ = closed.send(());
        });
        is_closed
    });
    for is_closed in closing {
        is_closed.recv_timeout(PATIENCE).expect("closing it ends");
    }
}
