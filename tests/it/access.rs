//! Access control of a real broker. Each right that an application needs is refused by itself: before it starts, while it runs,
//! and before it restores a store. It ends with a sentence that names the topic, the group or the transactional id and what to
//! allow. Once that is allowed it goes on, and each record has come once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use e2e::topics::{create, produce, values};
use e2e::{USER, tool, with_broker};
use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
use processor_core::log::Log;
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::serde::{bytes, nullable};
use processor_core::{Streams, StreamsConfig, Topology};
use xtask::stopwatch::wait_for;

const PATIENCE: Duration = Duration::from_secs(120);
const ACLS: &str = "org.apache.kafka.tools.AclCommand";

/// When a right goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    BeforeTheStart,
    WhileItRuns,
    /// Between a run and the next one, which has to restore what the first had counted.
    BetweenRuns,
}

/// A right that one application lacks. Its topics are called `<name>-in` and `<name>-out`.
struct Case {
    name: &'static str,
    gone: Gone,
    operation: &'static str,
    /// As the tool takes it: the kind of thing, and the name.
    on: (&'static str, &'static str),
    /// What the error has to say.
    says: [&'static str; 2],
}

const fn case(
    name: &'static str,
    gone: Gone,
    operation: &'static str,
    on: (&'static str, &'static str),
    says: [&'static str; 2],
) -> Case {
    Case {
        name,
        gone,
        operation,
        on,
        says,
    }
}

#[rustfmt::skip]
const CASES: [Case; 13] = {
    use Gone::{BeforeTheStart, BetweenRuns, WhileItRuns};
    const TOPIC: &str = "--topic";
    const GROUP: &str = "--group";
    const ID: &str = "--transactional-id";
    [
        case("access-a", BeforeTheStart, "Read", (TOPIC, "access-a-in"), ["'access-a-in'", "READ on the topic"]),
        case("access-b", BeforeTheStart, "Write", (TOPIC, "access-b-out"), ["access-b-out", "WRITE on the topic"]),
        case("access-c", BeforeTheStart, "Write", (TOPIC, "access-c-rows-changelog"), ["access-c-rows-changelog", "WRITE on the topic"]),
        case("access-d", BeforeTheStart, "Read", (GROUP, "access-d"), ["'access-d'", "READ on the group"]),
        case("access-e", BeforeTheStart, "Write", (ID, "access-e"), ["'access-e-", "WRITE on the transactional id"]),
        case("access-f", BeforeTheStart, "Describe", (TOPIC, "access-f-in"), ["'access-f-in'", "DESCRIBE on the topic"]),
        case("access-g", BeforeTheStart, "Create", (TOPIC, "access-g-rows-changelog"), ["'access-g-rows-changelog'", "CREATE on the topic"]),
        case("access-h", WhileItRuns, "Read", (TOPIC, "access-h-in"), ["'access-h-in'", "READ on the topic"]),
        case("access-i", WhileItRuns, "Write", (TOPIC, "access-i-out"), ["access-i-out", "WRITE on the topic"]),
        case("access-j", WhileItRuns, "Read", (GROUP, "access-j"), ["'access-j'", "READ on the group"]),
        case("access-k", WhileItRuns, "Write", (ID, "access-k"), ["'access-k-", "WRITE on the transactional id"]),
        case("access-l", WhileItRuns, "Describe", (TOPIC, "access-l-in"), ["'access-l-in'", "on the topic"]),
        case("access-m", BetweenRuns, "Read", (TOPIC, "access-m-rows-changelog"), ["'access-m-rows-changelog'", "READ on the topic"]),
    ]
};

impl Case {
    fn topic(&self, end: &str) -> String {
        format!("{}-{end}", self.name)
    }

    /// Passes its input on, over a store.
    fn topology(&self) -> Topology {
        let builder = StreamsBuilder::new("latest");
        let input = Consumed::new(bytes(), bytes());
        builder
            .table(&self.topic("in"), "rows", input)
            .to_stream()
            .to_with(
                &self.topic("out"),
                Produced::new(bytes(), nullable(bytes())),
            );
        builder.build().unwrap()
    }

    fn start(&self, log: &Arc<dyn Log>) -> Result<Streams, String> {
        let config = StreamsConfig::new(self.name);
        let streams = Streams::new(self.topology(), config, Arc::clone(log));
        let mut streams = streams.map_err(|error| error.to_string())?;
        streams.start();
        Ok(streams)
    }

    /// Waits until so many results are there.
    fn await_results(&self, log: &dyn Log, count: usize, streams: &Streams) {
        let out = self.topic("out");
        let done = wait_for(PATIENCE, || {
            assert!(!streams.stopped(), "{}: it stopped", self.name);
            (values(log, &out).len() >= count).then_some(())
        });
        done.unwrap_or_else(|| panic!("{out} has {:?}", values(log, &out)));
    }

    /// Passes if it ends, or has ended, as it should.
    fn check_refusal(&self, started: Result<Streams, String>) {
        let name = self.name;
        let error = match started {
            Err(error) => error,
            Ok(streams) => {
                let stopped = wait_for(PATIENCE, || streams.stopped().then_some(()));
                let closed = streams.close();
                assert!(stopped.is_some(), "{name} goes on trying: {closed:?}");
                closed.expect_err("it may not").to_string()
            }
        };
        for words in self.says {
            assert!(
                error.contains(words),
                "{name}: '{words}' is not in: {error}"
            );
        }
    }
}

/// The log as the application may use it; its clients look after topics often.
fn guarded() -> Arc<dyn Log> {
    let mut options = KafkaOptions::new(with_broker(|broker| broker.guarded()));
    for (name, value) in [
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanisms", "PLAIN"),
        ("sasl.username", USER),
        ("sasl.password", USER),
        ("topic.metadata.refresh.interval.ms", "500"),
    ] {
        options.properties.insert(name.to_owned(), value.to_owned());
    }
    Arc::new(KafkaLog::new(options).unwrap())
}

/// Lets the user do everything that is called like one of the applications.
fn allow_all() {
    let user = format!("User:{USER}");
    let rule = ["--add", "--allow-principal", &user, "--operation", "All"];
    let on = [
        "--topic",
        "access-",
        "--group",
        "access-",
        "--transactional-id",
        "access-",
    ];
    let prefixed = ["--resource-pattern-type", "prefixed"];
    tool(ACLS, &[&rule[..], &on, &prefixed].concat());
}

/// What all cases refuse, which counts before what is allowed.
fn refuse() {
    let user = format!("User:{USER}");
    let operations: BTreeSet<&str> = CASES.iter().map(|case| case.operation).collect();
    for operation in operations {
        let rule = ["--add", "--deny-principal", &user, "--operation", operation];
        let cases = CASES.iter().filter(|case| case.operation == operation);
        tool(ACLS, &[&rule[..], &resources(cases)].concat());
    }
}

fn refuse_no_more() {
    tool(
        ACLS,
        &[&["--remove", "--force"][..], &resources(CASES.iter())].concat(),
    );
}

/// As prefixes, since transactional ids end with the names of instance and thread.
fn resources<'c>(cases: impl Iterator<Item = &'c Case>) -> Vec<&'c str> {
    let on = cases.flat_map(|case| [case.on.0, case.on.1]);
    on.chain(["--resource-pattern-type", "prefixed"]).collect()
}

#[test]
fn each_right_that_is_refused_or_revoked_is_named_and_nothing_is_lost_or_repeated() {
    let open = KafkaLog::new(KafkaOptions::new(e2e::kafka())).unwrap();
    allow_all();
    let log = guarded();
    let mut running = BTreeMap::new();
    for case in &CASES {
        create(&open, &[&case.topic("in"), &case.topic("out")]);
        produce(&open, &case.topic("in"), [("first", 1)]);
        if case.gone != Gone::BeforeTheStart {
            running.insert(case.name, case.start(&log).unwrap());
        }
    }
    for case in &CASES {
        if let Some(streams) = running.get(case.name) {
            case.await_results(&open, 1, streams);
        }
    }
    for case in CASES.iter().filter(|case| case.gone == Gone::BetweenRuns) {
        running.remove(case.name).unwrap().close().unwrap();
    }

    refuse();
    for case in &CASES {
        produce(&open, &case.topic("in"), [("second", 2)]);
    }
    for case in &CASES {
        let started = match running.remove(case.name) {
            Some(streams) => Ok(streams),
            None => case.start(&log),
        };
        case.check_refusal(started);
    }

    refuse_no_more();
    for case in &CASES {
        let streams = case
            .start(&log)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        case.await_results(&open, 2, &streams);
        streams.close().unwrap();
        let out = values(&open, &case.topic("out"));
        assert_eq!(out, ["first", "second"], "{}", case.name);
    }
}
