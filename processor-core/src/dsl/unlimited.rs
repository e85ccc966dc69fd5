//! One window without an end: everything from a point in time on.
//!
//! The window never closes: no record is late, nothing expires, and there is no final result. What lies before its start
//! is ignored and counted as dropped.
//!
//! Source of the semantics: Kafka Streams' `UnlimitedWindows`.

use std::iter::StepBy;
use std::ops::RangeInclusive;

use crate::log::Timestamp;

/// A window without an end: see [`UnlimitedWindows::from`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnlimitedWindows {
    pub(crate) start_ms: Timestamp,
}

impl UnlimitedWindows {
    /// The one window of all records from `start` on, in epoch milliseconds.
    ///
    /// Its end, in [`Windowed`](crate::Windowed) and for [`windowed`](crate::serde::windowed), is `i64::MAX`. Its state
    /// is kept for ever; with [`emit_final`](super::TimeWindowedStream::emit_final) a topology does not build, since
    /// there is no final result.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, UnlimitedWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("sales");
    /// let since_the_launch = UnlimitedWindows::from(1_000);
    /// builder
    ///     .stream("sales", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by(since_the_launch)
    ///     .reduce("sold", |a, b| a + b)
    ///     .to_stream()
    ///     .to("sold");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let sales = driver.input("sales", utf8(), int64());
    /// for (items, time) in [(1, 999), (2, 1_000), (4, 900_000), (8, 1_001)] {
    ///     sales.pipe(&mut driver, "pen".to_owned(), items, time);
    /// }
    /// let sold = driver.output("sold", windowed(utf8(), i64::MAX), int64());
    /// let sold: Vec<_> = sold.read(&mut driver).into_iter().map(|r| (r.key.start, r.value)).collect();
    /// assert_eq!(sold, [(1_000, 2), (1_000, 6), (1_000, 14)]);
    /// ```
    #[must_use]
    pub fn from(start: Timestamp) -> Self {
        Self { start_ms: start }
    }

    /// The start of the window if `timestamp` lies in it.
    pub(crate) fn starts_of(self, timestamp: Timestamp) -> StepBy<RangeInclusive<Timestamp>> {
        let window = if timestamp < self.start_ms {
            RangeInclusive::new(1, 0)
        } else {
            self.start_ms..=self.start_ms
        };
        window.step_by(1)
    }
}
