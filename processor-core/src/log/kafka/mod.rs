//! The Kafka log, over librdkafka.
