//! Streams are joined by their keys, so both have the same type of key.

use std::time::Duration;

use processor_core::dsl::{Consumed, JoinWindows, StreamsBuilder};
use processor_core::serde::{int64, utf8};

fn main() {
    let builder = StreamsBuilder::new("wrong");
    let by_user = builder.stream("by-user", Consumed::new(utf8(), int64()));
    let by_number = builder.stream("by-number", Consumed::new(int64(), int64()));
    let windows = JoinWindows::of(Duration::from_secs(1)).grace(Duration::ZERO);
    by_user.join("join", &by_number, windows, |_, left, right| left + right);
}
