//! Records that wait for their serde: what waits with them, what goes on, and how it ends.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::dsl::{Consumed, FutureBound, Grouped, StreamsBuilder};
use crate::log::embedded::EmbeddedLog;
use crate::log::{Log, NewTopic, ProducerConfig, ProducerRecord, Timestamp, read_to_end};
use crate::serde::{Serde, SerdeError, utf8};
use crate::task::OnBadRecord;
use crate::{Streams, StreamsConfig};

use super::stream_thread::Pace;

/// Text that cannot be decoded while it is in `closed`, or for the first so many times.
#[derive(Clone, Default)]
struct Gated {
    closed: Arc<Mutex<HashSet<String>>>,
    refusals: Arc<AtomicUsize>,
    unregistered: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

impl Gated {
    fn closed_for(text: &str) -> Self {
        let gate = Self::default();
        gate.closed.lock().unwrap().insert(text.to_owned());
        gate
    }

    /// Refuses all texts, `times` times.
    fn refusing(times: usize) -> Self {
        let gate = Self::default();
        gate.refusals.store(times, Ordering::SeqCst);
        gate
    }

    fn open(&self) {
        self.closed.lock().unwrap().clear();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Serde<String> for Gated {
    fn may_wait(&self) -> bool {
        true
    }

    fn serialize(&self, value: &String, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        let fewer = |left: usize| left.checked_sub(1);
        let refused = self
            .unregistered
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer);
        if refused.is_ok() {
            return Err(SerdeError::not_ready("the registry does not answer"));
        }
        utf8().serialize(value, into)
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<String, SerdeError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let text = utf8().deserialize(bytes)?;
        let fewer = |left: usize| left.checked_sub(1);
        let refused = self
            .refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer);
        if refused.is_ok() || self.closed.lock().unwrap().contains(&text) {
            return Err(SerdeError::not_ready(format_args!(
                "the schema of {text} is on its way"
            )));
        }
        Ok(text)
    }
}

struct World {
    log: Arc<EmbeddedLog>,
}

impl World {
    fn with_topics(topics: &[&str], partitions: i32) -> Self {
        let log = Arc::new(EmbeddedLog::in_memory());
        let topics: Vec<_> = topics
            .iter()
            .map(|topic| NewTopic::new(*topic, partitions))
            .collect();
        log.create_topics(&topics).unwrap();
        Self { log }
    }

    fn send(&self, topic: &str, partition: i32, records: &[(&str, Timestamp)]) {
        let mut producer = self.log.producer(ProducerConfig::default()).unwrap();
        for (value, timestamp) in records {
            let record = ProducerRecord {
                topic,
                partition,
                timestamp: *timestamp,
                key: Some(b"k"),
                value: Some(value.as_bytes()),
                headers: &[],
            };
            producer.send(record).unwrap();
        }
        producer.flush(Duration::from_secs(1)).unwrap();
    }

    fn read(&self, topic: &str) -> Vec<String> {
        let mut values = Vec::new();
        read_to_end(&*self.log, topic, &mut |record| {
            let value = record.value.unwrap_or_default();
            values.push(String::from_utf8(value.to_vec()).unwrap());
            Ok(())
        })
        .unwrap();
        values
    }

    fn run(&self, builder: &StreamsBuilder, config: StreamsConfig) -> Streams {
        let log: Arc<dyn Log> = Arc::<EmbeddedLog>::clone(&self.log);
        Streams::new(builder.build().unwrap(), config, log).unwrap()
    }
}

/// Copies "in" to "out", one partition to the same.
fn copying(gate: &Gated) -> StreamsBuilder {
    let builder = StreamsBuilder::new("copying");
    let stream = builder.stream("in", Consumed::new(utf8(), gate.clone()));
    stream.to("out");
    builder
}

/// Rounds until `done`, each of which may wait for a few milliseconds.
fn rounds_until(streams: &mut Streams, mut done: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        let thread = streams.inline().unwrap();
        thread.round(Duration::ZERO, Pace::Eager).unwrap();
        if done() {
            return;
        }
    }
    panic!("not done after a thousand rounds");
}

#[test]
fn the_partition_of_a_record_that_waits_stops_there_and_the_other_goes_on() {
    let world = World::with_topics(&["in", "out"], 2);
    // Both partitions carry the same key; what they are is told by the values.
    world.send("in", 0, &[("a0", 1), ("late", 2), ("a2", 3)]);
    world.send("in", 1, &[("b0", 1), ("b1", 2)]);
    let gate = Gated::closed_for("late");
    let mut streams = world.run(&copying(&gate), StreamsConfig::new("app"));

    rounds_until(&mut streams, || world.read("out").len() == 3);
    world.send("in", 1, &[("b2", 3)]);
    rounds_until(&mut streams, || world.read("out").len() == 4);
    let mut seen = world.read("out");
    seen.sort();
    assert_eq!(seen, ["a0", "b0", "b1", "b2"]);

    gate.open();
    rounds_until(&mut streams, || world.read("out").len() == 6);
    let seen = world.read("out");
    let of_first: Vec<_> = seen.iter().filter(|v| !v.starts_with('b')).collect();
    assert_eq!(of_first, ["a0", "late", "a2"]);
}

#[test]
fn a_bounded_run_ends_only_when_nothing_waits_and_does_not_spin_until_then() {
    let world = World::with_topics(&["in", "out"], 1);
    world.send("in", 0, &[("a", 1), ("b", 2)]);
    let gate = Gated::refusing(20);
    let mut streams = world.run(&copying(&gate), StreamsConfig::new("app"));
    let mut rounds = 0_usize;
    let summary = streams.run_to_end_with(&mut |_| {
        rounds += 1;
        true
    });
    assert_eq!(summary.unwrap().records, 2);
    assert_eq!(world.read("out"), ["a", "b"]);
    // One question a round, and none of them in between.
    assert_eq!(gate.asked(), 22);
    assert!(rounds < 60, "{rounds} rounds");
}

#[test]
fn a_record_that_waits_too_long_stops_the_task_with_its_place_and_the_reason() {
    let world = World::with_topics(&["in", "out"], 1);
    world.send("in", 0, &[("a", 1), ("late", 2)]);
    let mut config = StreamsConfig::new("app");
    config.max_decode_wait = Duration::from_millis(20);
    let mut streams = world.run(&copying(&Gated::closed_for("late")), config);
    let error = streams.run_to_end().unwrap_err().to_string();
    assert!(error.contains("in-0 at offset 1"), "{error}");
    assert!(error.contains("waited for over 0.02 s"), "{error}");
    assert!(error.contains("schema of late"), "{error}");
}

#[test]
fn a_record_that_waits_too_long_is_skipped_where_bad_records_are() {
    let world = World::with_topics(&["in", "out"], 1);
    world.send("in", 0, &[("a", 1), ("late", 2), ("b", 3)]);
    let mut config = StreamsConfig::new("app");
    config.max_decode_wait = Duration::from_millis(20);
    config.on_bad_record = OnBadRecord::Skip;
    let mut streams = world.run(&copying(&Gated::closed_for("late")), config);
    streams.run_to_end().unwrap();
    assert_eq!(world.read("out"), ["a", "b"]);
}

/// Copies "in" to "out", without records that the next one says are far ahead of their feed.
fn bounded(gate: &Gated) -> StreamsBuilder {
    let bound = FutureBound {
        ahead: Duration::from_millis(100),
        confirmed_by: 1,
    };
    let builder = StreamsBuilder::new("bounded");
    let consumed = Consumed::new(utf8(), gate.clone()).future_bound(bound);
    builder.stream("in", consumed).to("out");
    builder
}

#[test]
fn a_record_that_is_not_ready_is_waited_for_before_it_votes() {
    let world = World::with_topics(&["in", "out"], 1);
    world.send("in", 0, &[("a", 1), ("b", 2), ("stray", 900), ("late", 3)]);
    let gate = Gated::closed_for("late");
    let mut config = StreamsConfig::new("app");
    config.on_bad_record = OnBadRecord::Skip;
    let mut streams = world.run(&bounded(&gate), config.clone());
    rounds_until(&mut streams, || world.read("out").len() == 2);
    gate.open();
    rounds_until(&mut streams, || world.read("out").len() == 3);
    assert_eq!(world.read("out"), ["a", "b", "late"]);

    // One that was waited for in vain has no vote; nothing speaks for the one before it.
    let world = World::with_topics(&["in", "out"], 1);
    world.send("in", 0, &[("a", 1), ("b", 2), ("stray", 900), ("late", 3)]);
    config.max_decode_wait = Duration::from_millis(20);
    let mut streams = world.run(&bounded(&Gated::closed_for("late")), config);
    streams.run_to_end().unwrap();
    assert_eq!(world.read("out"), ["a", "b"]);
}

#[test]
fn a_join_takes_nothing_while_an_input_waits() {
    let world = World::with_topics(&["names", "in", "out"], 1);
    world.send("names", 0, &[("ann", 5)]);
    world.send("in", 0, &[("hello", 6)]);
    let gate = Gated::refusing(10);
    let builder = StreamsBuilder::new("joining");
    let names = builder.table("names", "names", Consumed::new(utf8(), gate.clone()));
    builder
        .stream("in", Consumed::new(utf8(), utf8()))
        .left_join_table("named", &names, |_, word, name| {
            format!("{word} {}", name.as_deref().unwrap_or("nobody"))
        })
        .to_with("out", crate::dsl::Produced::new(utf8(), utf8()));
    let mut config = StreamsConfig::new("app");
    // Patience with empty inputs is another matter: this one is not empty.
    config.max_task_idle = Duration::ZERO;
    let mut streams = world.run(&builder, config);
    streams.run_to_end().unwrap();
    assert_eq!(world.read("out"), ["hello ann"]);
}

#[test]
fn a_stored_value_that_is_not_ready_is_read_again_and_counts_once() {
    let world = World::with_topics(&["in", "out"], 1);
    world.send("in", 0, &[("a", 1), ("b", 2), ("c", 3)]);
    let gate = Gated::refusing(3);
    let builder = StreamsBuilder::new("joining");
    builder
        .stream("in", Consumed::new(utf8(), utf8()))
        .group_by(|key: &String, _| key.clone(), Grouped::by(utf8()))
        .aggregate("words", gate.clone(), String::new, |_, word, all| {
            all + &word
        })
        .to_stream()
        .to("out");
    let mut streams = world.run(&builder, StreamsConfig::new("app"));
    streams.run_to_end().unwrap();
    assert_eq!(world.read("out"), ["a", "ab", "abc"]);
}

#[test]
fn a_result_whose_schema_cannot_be_registered_yet_is_sent_once() {
    let world = World::with_topics(&["in", "out"], 1);
    world.send("in", 0, &[("a", 1), ("b", 2)]);
    let gate = Gated::default();
    gate.unregistered.store(3, Ordering::SeqCst);
    let mut streams = world.run(&copying(&gate), StreamsConfig::new("app"));
    streams.run_to_end().unwrap();
    assert_eq!(world.read("out"), ["a", "b"]);
}

#[test]
fn a_stored_value_that_never_gets_ready_stops_the_task() {
    let world = World::with_topics(&["in", "out"], 1);
    world.send("in", 0, &[("a", 1), ("b", 2)]);
    let builder = StreamsBuilder::new("joining");
    builder
        .stream("in", Consumed::new(utf8(), utf8()))
        .group_by_key()
        .aggregate(
            "words",
            Gated::closed_for("a"),
            String::new,
            |_, word, all| all + &word,
        )
        .to_stream()
        .to("out");
    let mut config = StreamsConfig::new("app");
    config.max_decode_wait = Duration::from_millis(30);
    let error = world.run(&builder, config).run_to_end().unwrap_err();
    let error = error.to_string();
    assert!(error.contains("in-0 at offset 1"), "{error}");
    assert!(error.contains("schema of a"), "{error}");
}

#[test]
fn a_record_whose_stored_value_never_gets_ready_is_skipped_where_processing_errors_are() {
    let world = World::with_topics(&["in", "out"], 1);
    world.send("in", 0, &[("a", 1), ("b", 2)]);
    let builder = StreamsBuilder::new("joining");
    builder
        .stream("in", Consumed::new(utf8(), utf8()))
        .group_by_key()
        .aggregate(
            "words",
            Gated::closed_for("a"),
            String::new,
            |_, word, all| all + &word,
        )
        .to_stream()
        .to("out");
    let mut config = StreamsConfig::new("app");
    config.max_decode_wait = Duration::from_millis(30);
    config.on_processing_error = OnBadRecord::Skip;
    world.run(&builder, config).run_to_end().unwrap();
    assert_eq!(world.read("out"), ["a"]);
}

#[test]
fn a_global_table_waits_for_its_records_before_anything_is_processed() {
    let world = World::with_topics(&["names", "in", "out"], 1);
    world.send("names", 0, &[("ann", 5), ("bob", 6)]);
    world.send("in", 0, &[("hello", 1)]);
    let builder = StreamsBuilder::new("joining");
    let names = Consumed::new(utf8(), Gated::refusing(10));
    let names = builder.global_table("names", "names", names);
    builder
        .stream("in", Consumed::new(utf8(), utf8()))
        .join_global(
            "named",
            &names,
            |key, _| key.clone(),
            |_, _, word, name: String| format!("{word} {name}"),
        )
        .to_with("out", crate::dsl::Produced::new(utf8(), utf8()));
    let mut streams = world.run(&builder, StreamsConfig::new("app"));
    streams.run_to_end().unwrap();
    assert_eq!(world.read("out"), ["hello bob"]);
}
