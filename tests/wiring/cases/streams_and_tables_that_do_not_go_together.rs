//! Merged streams carry the same records; what asks for windows asks for a table of them.

use processor_core::dsl::{Buffer, Consumed, StreamsBuilder};
use processor_core::serde::{int64, utf8};

fn main() {
    let builder = StreamsBuilder::new("wrong");
    let clicks = builder.stream("clicks", Consumed::new(utf8(), int64()));
    let texts = builder.stream("texts", Consumed::new(utf8(), utf8()));
    clicks.merge(&texts).to("out");
    let counts = clicks.group_by_key().count("counts");
    counts.suppress_until_window_closes("finals", Buffer::unbounded());
}
