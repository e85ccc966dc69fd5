//! How to reach a cluster.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;

use crate::log::LogError;

/// Address and properties of a Kafka cluster.
#[derive(Debug, Clone, Default)]
pub struct KafkaOptions {
    /// `host:port`, several separated by commas.
    pub bootstrap: String,
    /// Further properties for librdkafka, for instance `security.protocol`. Those that the exactly-once protocol
    /// depends on are refused, and so is `check.crcs`: checksums are always verified, which costs a little CPU time.
    /// `group.protocol=consumer` has group members speak the protocol of KIP-848, with the broker's range assignor; it needs
    /// Kafka 4.0, and `session.timeout.ms` and `heartbeat.interval.ms` are the broker's then.
    pub properties: BTreeMap<String, String>,
}

/// Properties that the log sets itself; another value would break what it promises.
const OWNED: [&str; 14] = [
    "bootstrap.servers",
    "check.crcs",
    "group.id",
    "group.instance.id",
    "group.remote.assignor",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "isolation.level",
    "partition.assignment.strategy",
    "partitioner",
    "transactional.id",
    "transaction.timeout.ms",
];

impl KafkaOptions {
    /// A cluster at `bootstrap` with default properties.
    pub fn new(bootstrap: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            properties: BTreeMap::new(),
        }
    }

    /// Whether group members speak the protocol of KIP-848, in which the broker assigns.
    pub(super) fn consumer_protocol(&self) -> bool {
        let protocol = self.properties.get("group.protocol");
        protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer"))
    }

    pub(super) fn check(&self) -> Result<(), LogError> {
        match self
            .properties
            .keys()
            .find(|name| OWNED.contains(&name.as_str()))
        {
            Some(name) => Err(LogError::fatal(format!(
                "property '{name}' is set by the application itself; remove it"
            ))),
            None => Ok(()),
        }
    }

    /// The largest record that a producer takes.
    pub(super) fn message_max_bytes(&self) -> usize {
        let set = self.properties.get("message.max.bytes");
        set.and_then(|bytes| bytes.parse().ok())
            .unwrap_or(1_000_000)
    }

    /// What every client starts from.
    pub(super) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("socket.timeout.ms", "10000")
            .set("topic.metadata.refresh.interval.ms", "60000")
            // Fails a first connection fast; the default backs off up to 10 s.
            .set("reconnect.backoff.max.ms", "1000")
            .set("log_level", "4");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_that_the_protocol_owns_is_refused_by_name() {
        let mut options = KafkaOptions::new("localhost:9092");
        options
            .properties
            .insert("client.id".to_owned(), "x".to_owned());
        assert!(options.check().is_ok());
        options
            .properties
            .insert("isolation.level".to_owned(), "read_uncommitted".to_owned());
        assert!(
            options
                .check()
                .unwrap_err()
                .to_string()
                .contains("isolation.level")
        );
    }
}
