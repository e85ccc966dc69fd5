//! Avro with schema registries that are really there: a server, and a topic of a Kafka broker.

use std::sync::Arc;
use std::time::Duration;

use e2e::topics::{self, create};
use processor_core::clock::{Clock as _, Deadline, SystemClock};
use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
use processor_core::log::Log;
use processor_core::log::embedded::EmbeddedLog;
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::serde::registry::{
    Lookup, RegistryError, SchemaId, SchemaRegistry, ServerRegistry, ServerRegistryOptions,
    TopicRegistry, TopicRegistryOptions,
};
use processor_core::serde::{AvroSchema, Serde, registered_avro, utf8};
use processor_core::{Streams, StreamsConfig};
use serde::{Deserialize, Serialize};
use xtask::registry::Registry;

/// What producers write today.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Click {
    ad: String,
    cost: i32,
}

const CLICK: &str = r#"{"type":"record","name":"Click","fields":[
    {"name":"ad","type":"string"},
    {"name":"cost","type":"int"}]}"#;

/// What the application reads and writes: a wider number under a better name, and a field with a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Click")]
struct Click2 {
    ad: String,
    cost_micros: i64,
    country: Option<String>,
}

const CLICK_2: &str = r#"{"type":"record","name":"Click","fields":[
    {"name":"ad","type":"string"},
    {"name":"cost_micros","aliases":["cost"],"type":"long"},
    {"name":"country","type":["null","string"],"default":null}]}"#;

fn click(n: i32) -> Click {
    Click {
        ad: format!("ad-{n}"),
        cost: n,
    }
}

fn schema(text: &str) -> AvroSchema {
    AvroSchema::parse(text).unwrap()
}

fn server(url: &str) -> Arc<dyn SchemaRegistry> {
    Arc::new(ServerRegistry::new(&ServerRegistryOptions::new(url)).unwrap())
}

/// The final answer of a lookup.
fn settled(registry: &dyn SchemaRegistry, id: SchemaId) -> Lookup {
    let deadline = Deadline::after(Duration::from_secs(30));
    loop {
        match registry.schema(id) {
            Lookup::Pending if !deadline.passed() => SystemClock.pass(Duration::from_millis(5)),
            answer => return answer,
        }
    }
}

fn produce(log: &dyn Log, topic: &str, clicks: &dyn Serde<Click>, numbers: std::ops::Range<i32>) {
    let record = |n| {
        let mut value = Vec::new();
        clicks.serialize(&click(n), &mut value).unwrap();
        (value, i64::from(n))
    };
    topics::produce(log, topic, numbers.map(record));
}

/// Reads clicks of all versions and writes those that cost something in the new one.
fn application(registry: &Arc<dyn SchemaRegistry>, log: &Arc<dyn Log>, topic: &str) -> Streams {
    let clicks = |subject: String| {
        registered_avro::<Click2>(Arc::clone(registry), subject, CLICK_2).unwrap()
    };
    let builder = StreamsBuilder::new("paid-clicks");
    builder
        .stream(
            topic,
            Consumed::new(utf8(), clicks(format!("{topic}-value"))),
        )
        .filter(|_, click| click.cost_micros > 0)
        .to_with(
            &format!("paid-{topic}"),
            Produced::new(utf8(), clicks(format!("paid-{topic}-value"))),
        );
    let config = StreamsConfig::new(format!("{topic}-application"));
    Streams::new(builder.build().unwrap(), config, Arc::clone(log)).unwrap()
}

fn paid(registry: &Arc<dyn SchemaRegistry>, log: &dyn Log, topic: &str) -> Vec<Click2> {
    let topic = format!("paid-{topic}");
    let subject = format!("{topic}-value");
    let serde = registered_avro::<Click2>(Arc::clone(registry), subject, CLICK_2).unwrap();
    let clicks = topics::values(log, &topic);
    clicks
        .iter()
        .map(|value| serde.deserialize(value).unwrap())
        .collect()
}

fn expected(numbers: std::ops::Range<i32>) -> Vec<Click2> {
    let read = |n| Click2 {
        ad: format!("ad-{n}"),
        cost_micros: i64::from(n),
        country: None,
    };
    numbers.map(read).collect()
}

/// One server for all of this: it takes seconds to start.
#[test]
fn a_server_registers_finds_refuses_and_feeds_an_application() {
    let dir = tempfile::tempdir().unwrap();
    let running = Registry::start(dir.path()).unwrap();
    let url = running.url();

    registers_and_finds(&url);
    refuses(&url);
    feeds_an_application(&url);
    is_waited_for(&running);
}

fn registers_and_finds(url: &str) {
    let writer = server(url);
    let id = writer.register("seen-value", schema(CLICK)).unwrap();
    assert_eq!(writer.schema(id), Lookup::Known(schema(CLICK)));
    assert_eq!(writer.register("seen-value", schema(CLICK)).unwrap(), id);

    let reader = server(url);
    assert_eq!(reader.schema(id), Lookup::Pending);
    assert_eq!(settled(&*reader, id), Lookup::Known(schema(CLICK)));
    match settled(&*reader, SchemaId(4_711)) {
        Lookup::Unknown(reason) => assert!(reason.contains("4711"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let next = reader.register("seen-value", schema(CLICK_2)).unwrap();
    assert_ne!(next, id);
}

fn refuses(url: &str) {
    let registry = server(url);
    let of_a_field = |field: &str| {
        schema(&format!(
            r#"{{"type":"record","name":"R","fields":[{{"name":"{field}","type":"int"}}]}}"#
        ))
    };
    registry.register("refused-value", of_a_field("a")).unwrap();
    let refusal = registry
        .register("refused-value", of_a_field("b"))
        .unwrap_err();
    assert!(
        matches!(refusal, RegistryError::Incompatible { .. }),
        "{refusal:?}"
    );
    let text = refusal.to_string();
    assert!(
        text.contains("'refused-value'") && text.contains("/fields/0"),
        "{text}"
    );
    // What the application sees of it: an error that is no reason to wait.
    let serde = registered_avro::<Click>(registry, "refused-value", CLICK).unwrap();
    let error = serde.serialize(&click(1), &mut Vec::new()).unwrap_err();
    assert!(!error.is_not_ready(), "{error}");
}

fn feeds_an_application(url: &str) {
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::in_memory());
    create(&*log, &["fed", "paid-fed"]);
    let producer = registered_avro::<Click>(server(url), "fed-value", CLICK).unwrap();
    produce(&*log, "fed", &producer, 0..100);

    // A client of its own: it has to ask for the schema that the producer registered.
    let registry = server(url);
    application(&registry, &log, "fed").run_to_end().unwrap();
    assert_eq!(paid(&registry, &*log, "fed"), expected(1..100));
}

/// The server does not answer when the records are read, and does later.
fn is_waited_for(running: &Registry) {
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::in_memory());
    create(&*log, &["waited", "paid-waited"]);
    let producer = registered_avro::<Click>(server(&running.url()), "waited-value", CLICK);
    produce(&*log, "waited", &producer.unwrap(), 1..10);

    running.pause().unwrap();
    let registry = server(&running.url());
    let mut application = application(&registry, &log, "waited");
    application.start();
    SystemClock.pass(Duration::from_millis(500));
    assert!(!application.stopped());
    assert_eq!(application.records_taken(), 0);

    running.resume().unwrap();
    let deadline = Deadline::after(Duration::from_secs(30));
    while paid(&registry, &*log, "waited").len() < 9 && !deadline.passed() {
        SystemClock.pass(Duration::from_millis(20));
    }
    application.close().unwrap();
    assert_eq!(paid(&registry, &*log, "waited"), expected(1..10));
}

#[test]
fn a_topic_of_a_real_broker_is_a_registry() {
    let log: Arc<dyn Log> = Arc::new(KafkaLog::new(KafkaOptions::new(e2e::kafka())).unwrap());
    let options = TopicRegistryOptions {
        topic: "topic-registry-schemas".to_owned(),
        ..Default::default()
    };
    let open = || TopicRegistry::open(Arc::clone(&log), &options).unwrap();
    create(&*log, &["topic-registry", "paid-topic-registry"]);

    // Registrars that meet: one id for one schema, whoever comes first.
    let ids: Vec<(usize, SchemaId)> = std::thread::scope(|scope| {
        let register = |shift: usize| {
            let registry = open();
            (0..4).map(move |n| {
                let n = (n + shift) % 4;
                let fixed = format!(r#"{{"type":"fixed","name":"F{n}","size":4}}"#);
                (
                    n,
                    registry.register(&format!("f{n}"), schema(&fixed)).unwrap(),
                )
            })
        };
        let other = scope.spawn(move || register(2).collect::<Vec<_>>());
        let mine: Vec<_> = register(0).collect();
        mine.into_iter().chain(other.join().unwrap()).collect()
    });
    let id_of = |n| ids.iter().filter(move |(m, _)| *m == n).map(|(_, id)| id.0);
    let mut seen: Vec<u32> = (0..4).flat_map(id_of).collect();
    seen.dedup();
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3, 4], "{ids:?}");

    let writer: Arc<dyn SchemaRegistry> = Arc::new(open());
    let reader: Arc<dyn SchemaRegistry> = Arc::new(open());
    let producer = registered_avro::<Click>(writer, "topic-registry-value", CLICK).unwrap();
    produce(&*log, "topic-registry", &producer, 0..100);
    application(&reader, &log, "topic-registry")
        .run_to_end()
        .unwrap();
    assert_eq!(paid(&reader, &*log, "topic-registry"), expected(1..100));
}
