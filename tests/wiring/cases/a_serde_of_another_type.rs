//! A serde reads and writes the type that the stream has.

use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
use processor_core::serde::{int64, utf8};

fn main() {
    let builder = StreamsBuilder::new("wrong");
    let clicks = builder.stream("clicks", Consumed::new(utf8(), int64()));
    clicks.to_with("out", Produced::new(utf8(), utf8()));
    clicks.with_serdes(utf8(), utf8()).to("out");
}
