//! What goes wrong outside: a broker that refuses, topics that change under a running application, a registry that answers
//! garbage. Each ends in an error that says what is wrong where and what to do, and nothing is lost by it.
//!
//! `docs/bad-input.md` has the whole list, with the cases that need no broker.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use e2e::tool;
use e2e::topics::{create, produce, values};
use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
use processor_core::log::embedded::EmbeddedLog;
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::log::{Cleanup, ConsumerConfig, Log, NewTopic, TopicPartition};
use processor_core::serde::registry::{SchemaRegistry, ServerRegistry, ServerRegistryOptions};
use processor_core::serde::{bytes, int64, nullable, registered_avro, utf8};
use processor_core::{Streams, StreamsConfig, StreamsError, Topology};
use xtask::broker::{Broker, Options as BrokerOptions};
use xtask::stopwatch::wait_for;

const PATIENCE: Duration = Duration::from_secs(120);

/// The broker's log, by a client that notices changes of topics soon.
fn kafka() -> Arc<dyn Log> {
    let mut options = KafkaOptions::new(e2e::kafka());
    let refresh = ("topic.metadata.refresh.interval.ms", "500");
    options
        .properties
        .insert(refresh.0.to_owned(), refresh.1.to_owned());
    Arc::new(KafkaLog::new(options).unwrap())
}

fn create_with(topic: &str, setting: &str) {
    let arguments = [
        "--create",
        "--topic",
        topic,
        "--partitions",
        "1",
        "--config",
        setting,
    ];
    tool("org.apache.kafka.tools.TopicCommand", &arguments);
}

fn lengths(log: &dyn Log, topic: &str) -> Vec<usize> {
    values(log, topic).iter().map(|value| value.len()).collect()
}

fn copying(from: &str, to: &str) -> Topology {
    let builder = StreamsBuilder::new("copying");
    builder
        .stream(from, Consumed::new(bytes(), bytes()))
        .to_with(to, Produced::new(bytes(), bytes()));
    builder.build().unwrap()
}

fn counting(from: &str) -> Topology {
    let builder = StreamsBuilder::new("counting");
    builder
        .stream(from, Consumed::new(utf8(), bytes()))
        .group_by_key()
        .count("counts");
    builder.build().unwrap()
}

fn started(topology: Topology, id: &str, log: &Arc<dyn Log>) -> Streams {
    let config = StreamsConfig::new(id);
    let mut streams = Streams::new(topology, config, Arc::clone(log)).unwrap();
    streams.start();
    streams
}

/// Waits until it stops by itself; why it did.
fn why_it_stopped(streams: Streams) -> String {
    let stopped = wait_for(PATIENCE, || streams.stopped().then_some(()));
    let outcome = streams.close();
    match (stopped, outcome) {
        (Some(()), Err(error)) => error.to_string(),
        (stopped, outcome) => panic!("it did not stop by itself: {stopped:?}, {outcome:?}"),
    }
}

fn refusal(topology: Topology, id: &str, log: &Arc<dyn Log>) -> String {
    match Streams::new(topology, StreamsConfig::new(id), Arc::clone(log)) {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

#[test]
fn a_result_that_the_broker_finds_too_large_names_topic_and_setting_and_comes_later() {
    let log = kafka();
    create(&*log, &["large-in"]);
    create_with("large-out", "max.message.bytes=10000");
    // Nothing that lz4 could make smaller.
    let mut large = vec![0; 50_000];
    std::fs::File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut large)
        .unwrap();
    let records = [(b"small".to_vec(), 1), (large, 2), (b"after".to_vec(), 3)];
    produce(&*log, "large-in", records);

    let stopped = started(copying("large-in", "large-out"), "large", &log);
    let error = why_it_stopped(stopped);
    assert_says(&error, &["large-out-0", "`max.message.bytes` of the topic"]);
    assert!(!lengths(&*log, "large-out").contains(&50_000));

    let arguments = [
        "--alter",
        "--entity-type",
        "topics",
        "--entity-name",
        "large-out",
        "--add-config",
        "max.message.bytes=1000000",
    ];
    tool("kafka.admin.ConfigCommand", &arguments);
    let streams = started(copying("large-in", "large-out"), "large", &log);
    wait_for(PATIENCE, || {
        (lengths(&*log, "large-out").len() >= 3).then_some(())
    });
    streams.close().unwrap();
    assert_eq!(lengths(&*log, "large-out"), [5, 50_000, 5]);
}

#[test]
fn a_time_that_is_too_far_ahead_for_the_broker_names_topic_and_setting() {
    let log = kafka();
    create_with(
        "ahead-in",
        "message.timestamp.after.max.ms=9223372036854775807",
    );
    create(&*log, &["ahead-out"]);
    // In the year 2100.
    produce(&*log, "ahead-in", [("v", 4_102_444_800_000)]);
    let streams = started(copying("ahead-in", "ahead-out"), "ahead", &log);
    let error = why_it_stopped(streams);
    assert_says(&error, &["ahead-out-0", "`message.timestamp.after.max.ms`"]);
}

#[test]
fn partitions_that_are_added_while_it_runs_stop_it_and_a_start_says_what_stands_in_the_way() {
    let log = kafka();
    create(&*log, &["grown"]);
    produce(&*log, "grown", [("v", 1)]);
    let streams = started(counting("grown"), "grown-app", &log);
    wait_for(PATIENCE, || (streams.records_taken() == 1).then_some(())).expect("it works");
    let arguments = ["--alter", "--topic", "grown", "--partitions", "2"];
    tool("org.apache.kafka.tools.TopicCommand", &arguments);
    let error = why_it_stopped(streams);
    assert_says(
        &error,
        &["'grown' has more partitions", "which were 1", "restart"],
    );

    let error = refusal(counting("grown"), "grown-app", &log);
    assert_says(&error, &["counts", "partitions"]);
}

#[test]
fn an_input_that_is_deleted_while_it_runs_stops_it() {
    let log = kafka();
    create(&*log, &["deleted-in", "deleted-out"]);
    produce(&*log, "deleted-in", [("v", 1)]);
    let streams = started(copying("deleted-in", "deleted-out"), "deleted-app", &log);
    wait_for(PATIENCE, || (streams.records_taken() == 1).then_some(())).expect("it works");
    log.delete_topics(&["deleted-in"]).unwrap();
    let error = why_it_stopped(streams);
    assert_says(&error, &["input topic 'deleted-in' was deleted"]);
    let error = refusal(copying("deleted-in", "deleted-out"), "deleted-app", &log);
    assert_says(&error, &["'deleted-in' does not exist"]);
}

#[test]
fn an_output_that_is_deleted_while_it_runs_stops_it() {
    let log = kafka();
    create(&*log, &["copied-in", "copied-out"]);
    produce(&*log, "copied-in", [("v", 1)]);
    let streams = started(copying("copied-in", "copied-out"), "copied-app", &log);
    wait_for(PATIENCE, || {
        (!values(&*log, "copied-out").is_empty()).then_some(())
    })
    .expect("it works");
    log.delete_topics(&["copied-out"]).unwrap();
    produce(&*log, "copied-in", [("v", 2)]);
    let error = why_it_stopped(streams);
    assert_says(&error, &["output topic 'copied-out' was deleted"]);
}

#[test]
fn internal_topics_that_do_not_fit_are_refused_before_anything_is_done() {
    let log = kafka();
    create(&*log, &["kept-in"]);
    produce(&*log, "kept-in", [("v", 1)]);
    let changelog = NewTopic {
        retention_ms: Some(7 * 24 * 3_600_000),
        ..NewTopic::new("kept-app-counts-changelog", 1)
    };
    log.create_topics(std::slice::from_ref(&changelog)).unwrap();
    let Err(error) = Streams::new(
        counting("kept-in"),
        StreamsConfig::new("kept-app"),
        Arc::clone(&log),
    ) else {
        panic!("it started");
    };
    assert!(matches!(error, StreamsError::UnfitTopic { .. }), "{error}");
    let wanted = [
        "kept-app-counts-changelog",
        "retention.ms=604800000",
        "cleanup.policy=compact",
    ];
    assert_says(&error.to_string(), &wanted);

    let split = NewTopic::new("split-app-counts-changelog", 3).cleanup(Cleanup::Compact);
    log.create_topics(&[split]).unwrap();
    let error = refusal(counting("kept-in"), "split-app", &log);
    assert_says(&error, &["split-app-counts-changelog", "3 partitions"]);
}

/// Changes one byte of the batch with this value, in the only segment of a topic's partition, while its broker is stopped.
fn damage(segment: &Path, value: &[u8], change: impl FnOnce(&mut [u8], usize)) {
    let mut bytes = fs::read(segment).unwrap();
    let mut begin = 0;
    let (batch, place) = loop {
        // A batch begins with its base offset (8 bytes) and the length of what follows (4).
        let length = bytes[begin + 8..begin + 12].try_into().unwrap();
        let end = begin + 12 + u32::from_be_bytes(length) as usize;
        let mut places = bytes[begin..end].windows(value.len());
        match places.position(|bytes| bytes == value) {
            Some(place) => break (begin..end, place),
            None => begin = end,
        }
    };
    change(&mut bytes[batch], place);
    fs::write(segment, bytes).unwrap();
}

#[test]
fn a_batch_that_is_damaged_on_disk_stops_it_and_nothing_behind_it_is_committed() {
    let directory = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(directory.path(), &BrokerOptions::default()).unwrap();
    let log = KafkaLog::new(KafkaOptions::new(broker.bootstrap())).unwrap();
    let cases = ["flipped", "unknown"];
    for case in cases {
        let [from, to] = ["in", "out"].map(|topic| format!("{case}-{topic}"));
        create(&log, &[&from, &to]);
        for value in ["before", "damaged", "behind"] {
            produce(&log, &from, [(value, 1)]);
        }
    }
    broker.stop().unwrap();
    let segment = |case: &str| {
        let partition = directory.path().join(format!("data/{case}-in-0"));
        partition.join("00000000000000000000.log")
    };
    damage(&segment("flipped"), b"damaged", |batch, place| {
        batch[place] ^= 1;
    });
    // The version of the form, which no checksum covers.
    damage(&segment("unknown"), b"damaged", |batch, _| batch[16] = 9);
    broker.restart().unwrap();

    let log: Arc<dyn Log> = Arc::new(log);
    for case in cases {
        let [from, to] = ["in", "out"].map(|topic| format!("{case}-{topic}"));
        let error = why_it_stopped(started(copying(&from, &to), case, &log));
        let says = [
            "offset 1",
            &format!("{from}-0 up to offset 1"),
            "kafka-dump-log",
        ];
        assert_says(&error, &says);
        let results = values(&*log, &to);
        assert!(results.iter().all(|value| value == "before"), "{results:?}");
        let group = ConsumerConfig {
            group: Some(case.to_owned()),
            ..ConsumerConfig::default()
        };
        let group = log.consumer(group).unwrap();
        let committed = group.committed(&[TopicPartition::new(&*from, 0)], PATIENCE);
        let committed = committed.unwrap().remove(0).map_or(0, |at| at.offset);
        assert!(committed <= 1, "{case}: {committed} is committed");
    }
}

/// A server that answers everything with a page for people.
fn garbage_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 4_096]);
            let page = "<html>It works!</html>";
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
                page.len()
            );
        }
    });
    format!("http://{address}")
}

#[test]
fn a_registry_that_answers_garbage_holds_its_records_back_and_then_stops() {
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::in_memory());
    create(&*log, &["registered"]);
    // Confluent's wire format: a zero, the id of the schema, the value.
    produce(&*log, "registered", [([0, 0, 0, 0, 7, 2], 1)]);
    let url = garbage_server();
    let options = ServerRegistryOptions::new(&url);
    let registry: Arc<dyn SchemaRegistry> = Arc::new(ServerRegistry::new(&options).unwrap());
    let numbers = registered_avro::<i64>(registry, "registered-value", r#""long""#).unwrap();
    let builder = StreamsBuilder::new("numbers");
    builder
        .stream("registered", Consumed::new(nullable(utf8()), numbers))
        .group_by(
            |_, n| *n,
            processor_core::dsl::Grouped::by(int64()).value(int64()),
        )
        .count("numbers");
    let config = StreamsConfig {
        max_decode_wait: Duration::from_millis(500),
        ..StreamsConfig::new("numbers")
    };
    let mut streams = Streams::new(builder.build().unwrap(), config, Arc::clone(&log)).unwrap();
    let error = streams.run_to_end().unwrap_err().to_string();
    assert_says(
        &error,
        &["registered-0 at offset 0", "id 7", "schema registry"],
    );
}
