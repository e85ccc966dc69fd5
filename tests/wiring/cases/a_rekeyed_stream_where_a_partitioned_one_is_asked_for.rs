//! A function that relies on the key's partition asks for it in its type.

use processor_core::dsl::{Consumed, KStream, StreamsBuilder};
use processor_core::serde::{int64, utf8};

fn per_partition(_: &KStream<String, i64>) {}

fn main() {
    let builder = StreamsBuilder::new("wrong");
    let clicks = builder.stream("clicks", Consumed::new(utf8(), int64()));
    per_partition(&clicks.select_key(|_, campaign| campaign.to_string()));
}
