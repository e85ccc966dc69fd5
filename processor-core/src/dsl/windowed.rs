//! Aggregations over tumbling and hopping windows of event time.
//!
//! A record counts in every window that holds its timestamp and is open. A window takes records until stream time, the
//! largest timestamp of all keys, reaches `end + grace`; for each window that it comes too late for, a record goes to the
//! late branch once, and its other windows are updated all the same. Records with a null key or value neither count nor
//! move time. Each update is emitted at once, or each window once, when it closes: see
//! [`emit_final`](TimeWindowedStream::emit_final).
//!
//! Source of the semantics: Kafka Streams' `KStreamWindowAggregate`, with two deliberate differences. Null values are
//! ignored, as its documentation says and its code does not. Final results follow from the input alone: they are not
//! delayed by the wall clock, and none is lost when time leaps.

use std::sync::Arc;

use crate::record::{Data, Windowed};
use crate::serde::{Serde, SharedSerde, int64};

use super::aggregation::{Adder, Inputs, Origin};
use super::early::EarlyFire;
use super::finals::Emit;
use super::grouped::KGroupedStream;
use super::late::Late;
use super::panes::Panes;
use super::windowing::Outputs;
use super::windows::{FixedWindows, Kind, Windows};
use super::{KStream, KTable, Partitioned, panes, sliding, window_aggregate};

/// A grouped stream cut into windows.
pub struct TimeWindowedStream<'a, K, V> {
    grouped: &'a KGroupedStream<K, V>,
    windows: Windows,
    emit: Emit,
    order: Order,
}

/// Whether a reducer may look at the order of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Matters,
    DoesNotMatter,
}

/// The aggregates of a windowed stream, and the records that came too late for them.
pub struct WindowedTable<K, V, A> {
    updates: KStream<Windowed<K>, A, Partitioned>,
    table: KTable<Windowed<K>, A>,
    late: KStream<K, Late<V>, Partitioned>,
}

impl<K: Data, V: Data, A: Data> WindowedTable<K, V, A> {
    pub(crate) fn of(outputs: Outputs<K, A, V>) -> Self {
        let Outputs {
            updates,
            table,
            late,
        } = outputs;
        Self {
            updates,
            table,
            late,
        }
    }

    /// Stands in after a problem that `build` reports.
    pub(crate) fn detached(origin: &Origin) -> Self {
        Self {
            updates: origin.silent(),
            table: KTable::detached(&origin.silent::<K, V, Partitioned>()),
            late: origin.silent(),
        }
    }

    /// Every update of every window: emitted after each record, with the largest timestamp in the window. With
    /// [`emit_final`](TimeWindowedStream::emit_final) the last one of every window, with
    /// [`emit_early`](TimeWindowedStream::emit_early) some of them.
    ///
    /// Its key is written as `key ‖ start (8 bytes, big endian)`: see [`windowed`](crate::serde::windowed).
    ///
    /// Keys and values are never null, and late records give none. No store and no topic is made. Source of the semantics:
    /// `KTable#toStream` of a windowed aggregation in Kafka Streams.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("clicks");
    /// let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::ZERO);
    /// let clicks = builder.stream("clicks", Consumed::new(utf8(), int64())).group_by_key();
    /// clicks.windowed_by(minutes).count("clicks-per-minute").to_stream().to("per-minute");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let clicks = driver.input("clicks", utf8(), int64());
    /// for time in [10, 5, 60_000] {
    ///     clicks.pipe(&mut driver, "page".to_owned(), 1, time);
    /// }
    /// let updates = driver.output("per-minute", windowed(utf8(), 60_000), int64()).read(&mut driver);
    /// let updates: Vec<_> = updates.into_iter().map(|r| (r.key.start, r.value, r.timestamp)).collect();
    /// assert_eq!(updates, [(0, 1, 10), (0, 2, 10), (60_000, 1, 60_000)]);
    /// ```
    #[must_use]
    pub fn to_stream(&self) -> KStream<Windowed<K>, A, Partitioned> {
        self.updates.clone()
    }

    /// The aggregates as a table, whose key is key and window. A window that is closed keeps the value that it had, but
    /// cannot be looked up any more.
    ///
    /// It is the store of the aggregation; no other store and no topic is made. Keys and rows are never null, and late
    /// records do not reach it. Source of the semantics: Kafka Streams, where a windowed aggregation is such a table.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, nullable, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("clicks");
    /// let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::ZERO);
    /// let counts = builder
    ///     .stream("clicks", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by(minutes)
    ///     .count("clicks-per-minute");
    /// counts.table().map_values(|_, clicks| clicks * 60).with_value_serde(int64()).to_stream().to("per-hour");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let clicks = driver.input("clicks", utf8(), int64());
    /// for time in [0, 59_999, 60_000] {
    ///     clicks.pipe(&mut driver, "page".to_owned(), 1, time);
    /// }
    /// let per_hour = driver.output("per-hour", windowed(utf8(), 60_000), nullable(int64()));
    /// let per_hour: Vec<_> = per_hour.read(&mut driver).into_iter().map(|r| (r.key.start, r.value)).collect();
    /// assert_eq!(per_hour, [(0, Some(60)), (0, Some(120)), (60_000, Some(60))]);
    /// ```
    #[must_use]
    pub fn table(&self) -> KTable<Windowed<K>, A> {
        self.table.clone()
    }

    /// Records that came after their window had closed, once for each such window; of sliding windows only for the one
    /// that ends with the record. Without a consumer they are counted as dropped.
    ///
    /// They keep their key, timestamp and headers. No store and no topic is made. Kafka Streams drops such records.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("clicks");
    /// let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::from_secs(5));
    /// let counts = builder
    ///     .stream("clicks", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by(minutes)
    ///     .count("clicks-per-minute");
    /// counts
    ///     .late()
    ///     .map_values(|_, late| late.stream_time - late.window_end)
    ///     .to_with("late-by", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let clicks = driver.input("clicks", utf8(), int64());
    /// for time in [0, 64_999, 1_000, 65_000, 2_000] {
    ///     clicks.pipe(&mut driver, "page".to_owned(), 1, time);
    /// }
    /// let late_by = driver.output("late-by", utf8(), int64());
    /// assert_eq!(late_by.read_key_values(&mut driver), [("page".to_owned(), 5_000)]);
    /// ```
    #[must_use]
    pub fn late(&self) -> KStream<K, Late<V>, Partitioned> {
        self.late.clone()
    }
}

impl<'a, K: Data, V: Data> TimeWindowedStream<'a, K, V> {
    pub(crate) fn new(grouped: &'a KGroupedStream<K, V>, windows: Windows) -> Self {
        Self {
            grouped,
            windows,
            emit: Emit::Updates,
            order: Order::Matters,
        }
    }

    /// Emits each window once, when stream time has reached its end and the grace after it, instead of at each update.
    ///
    /// The record that closes windows is itself counted first. Then they leave in order of their start, then of the
    /// bytes of their key, each with the largest timestamp in it and without headers. They leave at that record whatever
    /// the wall clock says, and exactly once, through restarts and crashes, where the application is exactly-once. What
    /// the last records leave open stays open until more come.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("clicks");
    /// let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::ZERO);
    /// builder
    ///     .stream("clicks", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by(minutes)
    ///     .emit_final()
    ///     .count("clicks-per-minute")
    ///     .to_stream()
    ///     .to("minutes");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let clicks = driver.input("clicks", utf8(), int64());
    /// for time in [0, 59_999, 60_000] {
    ///     clicks.pipe(&mut driver, "page".to_owned(), 1, time);
    /// }
    /// let minutes = driver.output("minutes", windowed(utf8(), 60_000), int64());
    /// let counts: Vec<i64> = minutes.read(&mut driver).into_iter().map(|r| r.value).collect();
    /// assert_eq!(counts, [2]);
    /// ```
    #[must_use]
    pub fn emit_final(self) -> Self {
        Self {
            emit: Emit::Finals,
            ..self
        }
    }

    /// Emits what a window holds before it closes, from time to time, and once more when it closes, instead of at each
    /// update.
    ///
    /// `fire` says when: after so many records, or so much of stream time, that are in no result of the window yet. A
    /// window that gets no more records gives no more results until it closes; then it gives its final one, in any case.
    /// A window without an end ([`UnlimitedWindows`](super::UnlimitedWindows)) has no final one.
    ///
    /// For one record: it is counted, and where it is the last of its number its windows give their results, the
    /// earliest first. If time has moved, then come the final results of what closed, as
    /// [`emit_final`](Self::emit_final) orders them, and the results that are due by time: by the time at which they are
    /// due, the start of the window, then the bytes of the key. All have the largest timestamp in the window and no
    /// headers. So they follow from the records alone, whatever the wall clock, commits and restarts do. In the
    /// [table](WindowedTable::table) the old value is the result before.
    ///
    /// What is in no result yet is remembered in the window store `<name>-early`, which every record writes.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, EarlyFire, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("clicks");
    /// let hours = TimeWindows::tumbling(Duration::from_secs(3_600)).grace(Duration::ZERO);
    /// builder
    ///     .stream("clicks", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by(hours)
    ///     .emit_early(EarlyFire::every_records(3).or_every(Duration::from_secs(60)))
    ///     .count("clicks-per-hour")
    ///     .to_stream()
    ///     .to("hours");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let clicks = driver.input("clicks", utf8(), int64());
    /// # let hours = driver.output("hours", windowed(utf8(), 3_600_000), int64());
    /// let minute = 60_000;
    /// for (time, results) in [
    ///     (0, vec![]),
    ///     (1, vec![]),
    ///     (2, vec![3]),               // the third record
    ///     (1_000, vec![]),
    ///     (1_000 + minute, vec![5]),  // a minute since 1,000
    ///     (3 * minute, vec![]),
    ///     (60 * minute, vec![6]),     // the hour is over
    /// ] {
    ///     clicks.pipe(&mut driver, "page".to_owned(), 1, time);
    ///     let counts: Vec<i64> = hours.read(&mut driver).into_iter().map(|r| r.value).collect();
    ///     assert_eq!(counts, results);
    /// }
    /// ```
    #[must_use]
    pub fn emit_early(self, fire: EarlyFire) -> Self {
        Self {
            emit: Emit::Early(fire),
            ..self
        }
    }

    /// Promises that [`reduce`](Self::reduce) gives the same whatever the order of the values is, and however they are
    /// grouped: that its reducer is commutative and associative, as a sum or a maximum is.
    ///
    /// Then hopping windows that are emitted once ([`emit_final`](Self::emit_final)) are put together from panes: a record
    /// updates one aggregate, not one for each of its `size / advance` windows. The results are the same; the store is
    /// called `<name>-panes`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("highest");
    /// // The highest bid of the last hour, every minute.
    /// let hours = TimeWindows::hopping(Duration::from_secs(3_600), Duration::from_secs(60));
    /// builder
    ///     .stream("bids", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by(hours.grace(Duration::ZERO))
    ///     .emit_final()
    ///     .in_any_order()
    ///     .reduce("highest", |a, b| a.max(b))
    ///     .to_stream()
    ///     .to("highest-bids");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// let minute = 60_000;
    /// for (bid, time) in [(70, 0), (50, 30 * minute), (20, 61 * minute)] {
    ///     bids.pipe(&mut driver, "vase".to_owned(), bid, time);
    /// }
    /// let out = driver.output("highest-bids", windowed(utf8(), 60 * minute), int64());
    /// let out: Vec<_> = out.read(&mut driver).into_iter().map(|r| (r.key.start / minute, r.value)).collect();
    /// assert_eq!(out, [(0, 70), (1, 50)]);
    /// ```
    #[must_use]
    pub fn in_any_order(self) -> Self {
        Self {
            order: Order::DoesNotMatter,
            ..self
        }
    }

    /// Counts the records of each key and window, in the window store `name`.
    ///
    /// Emits each update: one for every record in time, with the largest timestamp in the window and the record's headers.
    /// Or what [`emit_final`](Self::emit_final) or [`emit_early`](Self::emit_early) say. Records with a null key or value
    /// are ignored, and counted as dropped; late ones come out of [`late`](WindowedTable::late). A group whose key may have
    /// changed goes through the topic `<application id>-<name>-repartition` first. The store's changelog is
    /// `<application id>-<name>-changelog`; hopping windows that are emitted once are put together from
    /// [panes](Self::in_any_order), in `<name>-panes`.
    ///
    /// Its semantics are those of Kafka Streams' `KStreamWindowAggregate`, or `KStreamSlidingWindowAggregate`; the pages of
    /// the windows say where they differ.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("clicks");
    /// let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::from_secs(5));
    /// builder
    ///     .stream("clicks", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by(minutes)
    ///     .count("clicks-per-minute")
    ///     .to_stream()
    ///     .to("minutes");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let clicks = driver.input("clicks", utf8(), int64());
    /// for time in [0, 64_999, 1_000, 65_000, 2_000] {
    ///     clicks.pipe(&mut driver, "page".to_owned(), 1, time);
    /// }
    /// let minutes = driver.output("minutes", windowed(utf8(), 60_000), int64());
    /// let counts: Vec<_> = minutes.read(&mut driver).into_iter().map(|r| (r.key.start, r.value)).collect();
    /// // The last one came after its window had closed.
    /// assert_eq!(counts, [(0, 1), (60_000, 1), (0, 2), (60_000, 2)]);
    /// ```
    pub fn count(&self, name: &str) -> WindowedTable<K, V, i64> {
        let add = |_: &K, _, count: Option<i64>| count.unwrap_or(0) + 1;
        self.combined(name, Arc::new(int64()), add, |a, b| a + b)
    }

    /// Adds up a number of each record, which `amount` takes from it, for each key and window, in the window store
    /// `name`; a sum beyond the ends of `i64` wraps around. What it emits, nulls, late records, topic, changelog and
    /// the source of the semantics are as for [`count`](Self::count).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("lengths");
    /// let windows = TimeWindows::hopping(Duration::from_millis(10), Duration::from_millis(5));
    /// builder
    ///     .stream("lines", Consumed::new(utf8(), utf8()))
    ///     .group_by_key()
    ///     .windowed_by(windows.grace(Duration::ZERO))
    ///     .emit_final()
    ///     .sum("letters", |_, line| line.len() as i64)
    ///     .to_stream()
    ///     .to("letters");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let lines = driver.input("lines", utf8(), utf8());
    /// for (line, time) in [("one", 3), ("three", 7), ("", 15)] {
    ///     lines.pipe(&mut driver, "file".to_owned(), line.to_owned(), time);
    /// }
    /// let letters = driver.output("letters", windowed(utf8(), 10), int64());
    /// let letters: Vec<_> = letters.read(&mut driver).into_iter().map(|r| (r.key.start, r.value)).collect();
    /// assert_eq!(letters, [(0, 8), (5, 5)]);
    /// ```
    pub fn sum(
        &self,
        name: &str,
        amount: impl Fn(&K, &V) -> i64 + Send + Sync + 'static,
    ) -> WindowedTable<K, V, i64> {
        let add = move |key: &K, value: V, sum: Option<i64>| {
            sum.unwrap_or(0).wrapping_add(amount(key, &value))
        };
        self.combined(name, Arc::new(int64()), add, i64::wrapping_add)
    }

    /// Combines the values of each key and window, in the window store `name`; the first value is taken as it is. Its
    /// aggregates need the value's serde. What it emits, nulls, late records, topic, changelog and the source of the
    /// semantics are as for [`count`](Self::count).
    ///
    /// The reducer may look at the order of the values, which is that in which they come; if it does not,
    /// [`in_any_order`](Self::in_any_order) may save work.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("latest");
    /// let windows = TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::ZERO);
    /// builder
    ///     .stream("prices", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by(windows)
    ///     .reduce("latest", |_, latest| latest)
    ///     .to_stream()
    ///     .to("latest-prices");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), int64());
    /// prices.pipe(&mut driver, "pen".to_owned(), 7, 8);
    /// prices.pipe(&mut driver, "pen".to_owned(), 5, 3);
    /// let out = driver.output("latest-prices", windowed(utf8(), 10), int64());
    /// let out: Vec<_> = out.read(&mut driver).into_iter().map(|r| (r.value, r.timestamp)).collect();
    /// assert_eq!(out, [(7, 8), (5, 8)]);
    /// ```
    pub fn reduce(
        &self,
        name: &str,
        combine: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> WindowedTable<K, V, V> {
        let Some(value) = self.grouped.upstream().value.clone() else {
            self.grouped.missing(name, "value");
            return WindowedTable::detached(&self.grouped.origin());
        };
        let combine = Arc::new(combine);
        let combine_panes = Arc::clone(&combine);
        let add = move |_: &K, value, before| match before {
            Some(before) => combine(before, value),
            None => value,
        };
        match self.order {
            Order::Matters => self.aggregate_optional(name, value, add),
            Order::DoesNotMatter => {
                self.combined(name, value, add, move |a, b| combine_panes(a, b))
            }
        }
    }

    /// Folds the values of each key and window into an aggregate that starts with `initial`, in the window store
    /// `name`. What it emits, nulls, late records, topic, changelog and the source of the semantics are as for
    /// [`count`](Self::count).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("highest");
    /// let windows = TimeWindows::hopping(Duration::from_millis(10), Duration::from_millis(5));
    /// builder
    ///     .stream("bids", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by(windows.grace(Duration::ZERO))
    ///     .aggregate("highest", int64(), || 0, |_, bid, highest| highest.max(bid))
    ///     .to_stream()
    ///     .to("highest-bids");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 3);
    /// bids.pipe(&mut driver, "vase".to_owned(), 50, 7);
    /// let out = driver.output("highest-bids", windowed(utf8(), 10), int64());
    /// let updates: Vec<_> = out.read(&mut driver).into_iter().map(|r| (r.key.start, r.value)).collect();
    /// assert_eq!(updates, [(0, 70), (0, 70), (5, 50)]);
    /// ```
    pub fn aggregate<A: Data>(
        &self,
        name: &str,
        serde: impl Serde<A> + 'static,
        initial: impl Fn() -> A + Send + Sync + 'static,
        add: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> WindowedTable<K, V, A> {
        self.aggregate_optional(name, Arc::new(serde), move |key, value, before| {
            add(key, value, before.unwrap_or_else(&initial))
        })
    }

    /// Folds the values of each key and window, as [`aggregate`](Self::aggregate) does, where aggregates can be combined:
    /// `combine` must give what adding the values of both to one aggregate gives, in any order.
    ///
    /// Then hopping windows that are emitted once ([`emit_final`](Self::emit_final)) are put together from panes: a record
    /// updates one aggregate, not one for each of its `size / advance` windows. The results are the same; the store is
    /// called `<name>-panes`. Elsewhere `combine` is not used.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("kinds");
    /// let windows = TimeWindows::hopping(Duration::from_millis(10), Duration::from_millis(5));
    /// builder
    ///     .stream("bits", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by(windows.grace(Duration::ZERO))
    ///     .emit_final()
    ///     .aggregate_combining("seen", int64(), || 0, |_, bit, seen| seen | 1 << bit, |a, b| a | b)
    ///     .to_stream()
    ///     .to("seen");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bits = driver.input("bits", utf8(), int64());
    /// for (bit, time) in [(0, 3), (2, 7), (0, 15)] {
    ///     bits.pipe(&mut driver, "mask".to_owned(), bit, time);
    /// }
    /// let seen = driver.output("seen", windowed(utf8(), 10), int64());
    /// let seen: Vec<_> = seen.read(&mut driver).into_iter().map(|r| (r.key.start, r.value)).collect();
    /// assert_eq!(seen, [(0, 0b101), (5, 0b100)]);
    /// ```
    pub fn aggregate_combining<A: Data>(
        &self,
        name: &str,
        serde: impl Serde<A> + 'static,
        initial: impl Fn() -> A + Send + Sync + 'static,
        add: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
        combine: impl Fn(A, A) -> A + Send + Sync + 'static,
    ) -> WindowedTable<K, V, A> {
        let add = move |key: &K, value: V, before: Option<A>| {
            add(key, value, before.unwrap_or_else(&initial))
        };
        self.combined(name, Arc::new(serde), add, combine)
    }

    /// An aggregation whose aggregates can be combined, of panes if that is less work.
    fn combined<A: Data>(
        &self,
        name: &str,
        serde: SharedSerde<A>,
        add: impl Fn(&K, V, Option<A>) -> A + Send + Sync + 'static,
        combine: impl Fn(A, A) -> A + Send + Sync + 'static,
    ) -> WindowedTable<K, V, A> {
        if self.emit == Emit::Finals
            && let Kind::Fixed(FixedWindows::Aligned(windows)) = self.windows.0
            && let Some(panes) = Panes::of(windows)
        {
            let inputs = self.grouped.input(Adder::new(add));
            return panes::aggregate(&inputs, name, serde, panes, Arc::new(combine));
        }
        self.aggregate_optional(name, serde, add)
    }

    fn aggregate_optional<A: Data>(
        &self,
        name: &str,
        serde: SharedSerde<A>,
        add: impl Fn(&K, V, Option<A>) -> A + Send + Sync + 'static,
    ) -> WindowedTable<K, V, A> {
        let inputs = self.grouped.input(Adder::new(add));
        aggregate(&inputs, name, serde, self.windows, self.emit)
    }
}

/// An aggregation of `inputs` over windows, called `name`.
pub(crate) fn aggregate<K: Data, A: Data, L: Data>(
    inputs: &Inputs<K, A, L>,
    name: &str,
    serde: SharedSerde<A>,
    windows: Windows,
    emit: Emit,
) -> WindowedTable<K, L, A> {
    let origin = inputs.origin();
    if origin.refuses(name, emit) {
        return WindowedTable::detached(&origin);
    }
    match windows.0 {
        Kind::Fixed(windows) => window_aggregate::aggregate(inputs, name, serde, windows, emit),
        Kind::Sliding(windows) => sliding::aggregate(inputs, name, serde, windows, emit),
    }
}
