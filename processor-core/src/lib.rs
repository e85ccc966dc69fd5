//! A Kafka Streams-class stream processor: typed topologies, exactly-once, embedded or real Kafka.

pub mod clock;
pub mod log;
