//! How a broker is set up, and the settings that come of it.

use std::fmt::Write as _;
use std::path::Path;

use super::Ports;
use crate::jars::KAFKA_VERSION;

const GUARDED: &str = "GUARDED";

/// How a broker is set up.
#[derive(Debug, Clone)]
pub struct Options {
    pub(super) kafka_version: String,
    pub(super) heap: String,
    pub(super) first_port: Option<u16>,
    listeners: Vec<Listener>,
    users: Vec<String>,
    settings: Vec<(String, String)>,
}

/// A further listener for clients.
#[derive(Debug, Clone)]
struct Listener {
    name: String,
    port: u16,
    advertised: u16,
    protocol: &'static str,
}

impl Default for Options {
    /// The version of the benchmarks, 1 GiB of heap, any free ports, no settings beside ours.
    fn default() -> Self {
        Self {
            kafka_version: KAFKA_VERSION.to_owned(),
            heap: "1g".to_owned(),
            first_port: None,
            listeners: Vec::new(),
            users: Vec::new(),
            settings: Vec::new(),
        }
    }
}

impl Options {
    /// Another Kafka version.
    pub fn kafka_version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.kafka_version);
        self
    }

    /// Another maximum heap, as Java writes it: `512m`, `2g`.
    pub fn heap(mut self, heap: &str) -> Self {
        heap.clone_into(&mut self.heap);
        self
    }

    /// Takes `port` for clients if it is free, else the next free port above it.
    pub fn first_port(mut self, port: u16) -> Self {
        self.first_port = Some(port);
        self
    }

    /// A further listener on `port`, whose clients are told to connect to `advertised`: so a proxy there sees all that
    /// they send. `name` is in capitals.
    pub fn listener(mut self, name: &str, port: u16, advertised: u16) -> Self {
        self.listeners.push(Listener {
            name: name.to_owned(),
            port,
            advertised,
            protocol: "PLAINTEXT",
        });
        self
    }

    /// Access control: a further listener, [`guarded`](super::Broker::guarded), on which these users say who they are by SASL/PLAIN, each with
    /// the name as the password. They may do what the access control lists allow; the other listeners allow everything.
    pub fn users(mut self, names: &[&str]) -> Self {
        self.users = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// One line of `server.properties`; wins over ours.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The text of `server.properties`, for data in the directory `data`.
    pub(super) fn properties(&self, ports: Ports, data: &Path) -> String {
        let Ports {
            clients,
            controller,
            guarded,
        } = ports;
        let guarded = (!self.users.is_empty()).then(|| Listener {
            name: GUARDED.to_owned(),
            port: guarded,
            advertised: guarded,
            protocol: "SASL_PLAINTEXT",
        });
        let each = |show: fn(&Listener) -> String| -> String {
            let listeners = self.listeners.iter().chain(&guarded);
            listeners.map(show).collect()
        };
        let mut text = format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{clients},CONTROLLER://127.0.0.1:{controller}{listening}
advertised.listeners=PLAINTEXT://127.0.0.1:{clients}{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
{OUR_SETTINGS}",
            listening = each(|l| format!(",{}://127.0.0.1:{}", l.name, l.port)),
            advertised = each(|l| format!(",{}://127.0.0.1:{}", l.name, l.advertised)),
            protocols = each(|l| format!(",{}:{}", l.name, l.protocol)),
            data = data.display()
        );
        if guarded.is_some() {
            text += &access_control(&self.users);
        }
        // Of two lines with one key, Java's reader takes the last.
        for (key, value) in &self.settings {
            writeln!(text, "{key}={value}").expect("writing to a string cannot fail");
        }
        text
    }
}

fn access_control(users: &[String]) -> String {
    let users = users.iter().map(|user| format!(" user_{user}=\"{user}\""));
    format!(
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
# Whoever comes over a listener that does not ask, the broker itself among them.
super.users=User:ANONYMOUS
listener.name.{listener}.sasl.enabled.mechanisms=PLAIN
listener.name.{listener}.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required{users};
",
        listener = GUARDED.to_lowercase(),
        users = users.collect::<String>()
    )
}

const OUR_SETTINGS: &str = "\
# One node.
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# Few internal partitions: each costs memory, files and start-up time.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=1
log.cleaner.dedupe.buffer.size=16777216
# Groups form at once instead of waiting three seconds for more members.
group.initial.rebalance.delay.ms=0
# Retention goes by the records' own time: past-dated events would be deleted before they are read.
log.retention.ms=-1
# A mistyped topic is an error.
auto.create.topics.enable=false
";
