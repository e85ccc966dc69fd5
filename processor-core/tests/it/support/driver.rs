//! Short ways to a test driver.

use processor_core::Topology;
use processor_core::dsl::{Consumed, StreamsBuilder};
use processor_core::serde::{int64, nullable, utf8};
use processor_core::testing::TopologyTestDriver;

/// A driver of what `describe` builds, with one partition for every topic.
pub fn driver(describe: impl FnOnce(&StreamsBuilder)) -> TopologyTestDriver {
    TopologyTestDriver::new(topology(describe)).unwrap()
}

pub fn topology(describe: impl FnOnce(&StreamsBuilder)) -> Topology {
    let builder = StreamsBuilder::new("under-test");
    describe(&builder);
    builder.build().unwrap()
}

/// Text to number.
pub fn numbers() -> Consumed<String, i64> {
    Consumed::new(utf8(), int64())
}

/// Text to number, both of which may be null.
pub fn nullable_numbers() -> Consumed<Option<String>, Option<i64>> {
    Consumed::new(nullable(utf8()), nullable(int64()))
}

/// An owned text.
pub fn text(text: &str) -> String {
    text.to_owned()
}

/// `(key, number)`s as the outputs of most tests.
pub fn pairs(expected: &[(&str, i64)]) -> Vec<(String, i64)> {
    expected.iter().map(|(k, v)| (text(k), *v)).collect()
}
