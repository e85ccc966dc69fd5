//! A stream is joined with a table by its key; to look up another one, select it first.

use processor_core::dsl::{Consumed, StreamsBuilder};
use processor_core::serde::{int64, utf8};

fn main() {
    let builder = StreamsBuilder::new("wrong");
    let clicks = builder.stream("clicks", Consumed::new(utf8(), int64()));
    let campaigns = builder.table("campaigns", "campaigns", Consumed::new(int64(), utf8()));
    clicks.join_table("named", &campaigns, |_, _, name| name);
}
