//! How late a record may be has no default.

use std::time::Duration;

use processor_core::dsl::{Consumed, JoinWindows, SessionWindows, StreamsBuilder, TimeWindows};
use processor_core::serde::{int64, utf8};

fn main() {
    let builder = StreamsBuilder::new("wrong");
    let clicks = builder.stream("clicks", Consumed::new(utf8(), int64()));
    let minute = Duration::from_secs(60);
    clicks.group_by_key().windowed_by(TimeWindows::tumbling(minute));
    clicks.group_by_key().windowed_by_session(SessionWindows::gap(minute));
    clicks.join("join", &clicks, JoinWindows::of(minute), |_, a, b| a + b);
}
