//! Aggregations over sessions: runs of a key's records that are not further apart than a gap.
//!
//! A session `[start, end]` begins with its first record and ends with its last; a record belongs to it when it is at
//! most the gap before its start or after its end. Sessions that a record brings together become one, whose aggregate is
//! merged from theirs. A session takes records until stream time, the largest timestamp of all keys, is more than
//! `gap + grace` past its end. A record that can only begin a session which would be closed is late and goes to the late
//! branch. Records with a null key or value neither count nor move time.
//!
//! For each record there come, in this order: a deletion of each session that it extends or merges, by time, then the
//! session that they became. Each has the session's end as its timestamp. Where the record does not change a session's
//! bounds because all lies at one timestamp, the session is overwritten without a deletion. Or each session is emitted
//! once, when it closes ([`emit_final`](SessionWindowedStream::emit_final)), or now and then before that as well
//! ([`emit_early`](SessionWindowedStream::emit_early)).
//!
//! Source of the semantics: Kafka Streams' `KStreamSessionWindowAggregate`, with these deliberate differences. Null
//! values are ignored, as its documentation says and its code does not. A session that ends exactly `gap + grace` before
//! stream time is still open and can be extended; there its store has forgotten it. An overwritten session is forwarded
//! with its old value, so that an aggregation of the table below subtracts it. Final results are not delayed by the wall
//! clock, and none is lost when time leaps.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use state::SessionStore;

use crate::clock::millis;
use crate::error::Result;
use crate::log::{Headers, Timestamp};
use crate::processor::Context;
use crate::record::{Data, Record, Windowed};
use crate::serde::{Serde, SharedSerde, int64, session_windowed};
use crate::topology::StoreKind;

use super::aggregation::{Adder, Aggregation, Inputs, Origin, Wired};
use super::early::{EarlyFire, Part};
use super::finals::Emit;
use super::grouped::KGroupedStream;
use super::late::Late;
use super::window_rows::Place;
use super::windowing::{Arrival, Closing, Outputs, Update, Windowing, WindowingPlan};
use super::{KStream, KTable, Partitioned};

/// What makes a session: see [`SessionWindows::gap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionWindows {
    gap_ms: i64,
    grace_ms: i64,
}

/// Sessions that still need their grace, which has no default: how late may a record be?
#[derive(Debug, Clone, Copy)]
pub struct SessionsWithoutGrace {
    gap_ms: i64,
}

impl SessionWindows {
    /// Sessions whose records are at most `gap` apart.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::SessionWindows;
    /// let visits = SessionWindows::gap(Duration::from_secs(1_800)).grace(Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn gap(gap: Duration) -> SessionsWithoutGrace {
        SessionsWithoutGrace {
            gap_ms: millis(gap),
        }
    }

    /// How long after its end a session is kept.
    fn retention_ms(self) -> i64 {
        self.gap_ms.saturating_add(self.grace_ms)
    }
}

/// Sessions are placed by their ends.
impl Closing for SessionWindows {
    fn open_from(self, time: Timestamp) -> Timestamp {
        time.saturating_sub(self.retention_ms())
    }

    fn bounds(self, (end, start): Place) -> (Timestamp, Timestamp) {
        (start, end)
    }
}

impl SessionsWithoutGrace {
    /// How long after the gap, in stream time, a session still takes records.
    #[must_use]
    pub fn grace(self, grace: Duration) -> SessionWindows {
        SessionWindows {
            gap_ms: self.gap_ms,
            grace_ms: millis(grace),
        }
    }
}

/// A grouped stream cut into sessions.
pub struct SessionWindowedStream<'a, K, V> {
    grouped: &'a KGroupedStream<K, V>,
    windows: SessionWindows,
    emit: Emit,
}

/// The aggregates of sessions, and the records that came too late for them.
pub struct SessionTable<K, V, A> {
    table: KTable<Windowed<K>, A>,
    late: KStream<K, Late<V>, Partitioned>,
}

impl<K: Data, V: Data, A: Data> SessionTable<K, V, A> {
    fn of(outputs: Outputs<K, A, V>) -> Self {
        let Outputs { table, late, .. } = outputs;
        Self { table, late }
    }

    /// Stands in after a problem that `build` reports.
    fn detached(origin: &Origin) -> Self {
        Self {
            table: KTable::detached(&origin.silent::<K, V, Partitioned>()),
            late: origin.silent(),
        }
    }

    /// Every change of every session, `None` for one that was extended or merged into another. With
    /// [`emit_final`](SessionWindowedStream::emit_final) every session once, with
    /// [`emit_early`](SessionWindowedStream::emit_early) some before.
    ///
    /// Its key is written as `key ‖ end (8 bytes, big endian) ‖ start (8)`: see [`session_windowed`].
    ///
    /// Keys are never null, and late records give none. No store and no topic is made. Source of the semantics:
    /// `KTable#toStream` of an aggregation of sessions in Kafka Streams.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, SessionWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, session_windowed, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// let visits = SessionWindows::gap(Duration::from_millis(10)).grace(Duration::ZERO);
    /// let pages = builder.stream("pages", Consumed::new(utf8(), int64())).group_by_key();
    /// pages.windowed_by_session(visits).count("pages-per-visit").to_stream().to("visits");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let pages = driver.input("pages", utf8(), int64());
    /// for time in [0, 8] {
    ///     pages.pipe(&mut driver, "ann".to_owned(), 1, time);
    /// }
    /// let changes = driver.output("visits", session_windowed(utf8()), nullable(int64())).read(&mut driver);
    /// let changes: Vec<_> = changes.into_iter().map(|r| (r.key.start, r.key.end, r.value)).collect();
    /// assert_eq!(changes, [(0, 0, Some(1)), (0, 0, None), (0, 8, Some(2))]);
    /// ```
    #[must_use]
    pub fn to_stream(&self) -> KStream<Windowed<K>, Option<A>, Partitioned> {
        self.table.to_stream()
    }

    /// The aggregates as a table, whose key is key and session. A session that is closed keeps the value that it had, but
    /// cannot be looked up any more.
    ///
    /// It is the store of the aggregation; no other store and no topic is made. Keys and rows are never null, and late
    /// records do not reach it. Source of the semantics: Kafka Streams, where an aggregation of sessions is such a
    /// table.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, Grouped, SessionWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// let visits = SessionWindows::gap(Duration::from_millis(10)).grace(Duration::ZERO);
    /// let pages = builder
    ///     .stream("pages", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by_session(visits)
    ///     .emit_final()
    ///     .count("pages-per-visit");
    /// // How many visits each user has made.
    /// pages
    ///     .table()
    ///     .group_by(|visit, pages| (visit.key.clone(), *pages), Grouped::by(utf8()).value(int64()))
    ///     .count("visits-per-user")
    ///     .to_stream()
    ///     .to("visits");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let pages = driver.input("pages", utf8(), int64());
    /// for time in [0, 8, 50, 100] {
    ///     pages.pipe(&mut driver, "ann".to_owned(), 1, time);
    /// }
    /// let visits = driver.output("visits", utf8(), nullable(int64())).read_key_values(&mut driver);
    /// assert_eq!(visits, [1, 2].map(|visits| ("ann".to_owned(), Some(visits))));
    /// ```
    #[must_use]
    pub fn table(&self) -> KTable<Windowed<K>, A> {
        self.table.clone()
    }

    /// Records that came too late for any session; the window that is named is what the record alone would have made.
    /// Without a consumer they are counted as dropped.
    ///
    /// They keep their key, timestamp and headers. No store and no topic is made. Kafka Streams drops such records.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, Produced, SessionWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// let visits = SessionWindows::gap(Duration::from_millis(10)).grace(Duration::from_millis(5));
    /// let counts = builder
    ///     .stream("pages", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by_session(visits)
    ///     .count("pages-per-visit");
    /// counts
    ///     .late()
    ///     .map_values(|_, late| late.stream_time - late.window_end)
    ///     .to_with("late-by", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let pages = driver.input("pages", utf8(), int64());
    /// for (user, time) in [("ann", 100), ("bob", 85), ("bob", 70)] {
    ///     pages.pipe(&mut driver, user.to_owned(), 1, time);
    /// }
    /// // The session of 85 is open until time is beyond 100.
    /// let late_by = driver.output("late-by", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(late_by, [("bob".to_owned(), 30)]);
    /// ```
    #[must_use]
    pub fn late(&self) -> KStream<K, Late<V>, Partitioned> {
        self.late.clone()
    }
}

impl<K: Data, V: Data> KGroupedStream<K, V> {
    /// Groups the records of each key by sessions of event time: runs of records with no more than a gap between them.
    ///
    /// This by itself makes nothing: the aggregation that follows has the name and the store.
    /// [`count`](SessionWindowedStream::count) has an example.
    ///
    /// Nulls, late records and topics are those of the aggregation. Source of the semantics: Kafka Streams'
    /// `KGroupedStream#windowedBy(SessionWindows)`.
    pub fn windowed_by_session(&self, windows: SessionWindows) -> SessionWindowedStream<'_, K, V> {
        SessionWindowedStream {
            grouped: self,
            windows,
            emit: Emit::Updates,
        }
    }
}

impl<K: Data, V: Data> SessionWindowedStream<'_, K, V> {
    /// Emits each session once, when stream time is more than the gap and the grace past its end, instead of at each
    /// change.
    ///
    /// The record that closes sessions is itself counted first. Then they leave in order of their end, their start, then
    /// the bytes of their key, each with its end as timestamp and without headers. They leave at that record whatever the
    /// wall clock says, and exactly once, through restarts and crashes, where the application is exactly-once. What the
    /// last records leave open stays open until more come.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, SessionWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, session_windowed, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// let visits = SessionWindows::gap(Duration::from_millis(10)).grace(Duration::ZERO);
    /// builder
    ///     .stream("pages", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by_session(visits)
    ///     .emit_final()
    ///     .count("pages-per-visit")
    ///     .to_stream()
    ///     .to("visits");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let pages = driver.input("pages", utf8(), int64());
    /// for (user, time) in [("ann", 0), ("ann", 8), ("bob", 18), ("bob", 19)] {
    ///     pages.pipe(&mut driver, user.to_owned(), 1, time);
    /// }
    /// let out = driver.output("visits", session_windowed(utf8()), nullable(int64()));
    /// let out: Vec<_> = out.read(&mut driver).into_iter().map(|r| (r.key.start, r.key.end, r.value)).collect();
    /// assert_eq!(out, [(0, 8, Some(2))]);
    /// ```
    #[must_use]
    pub fn emit_final(self) -> Self {
        Self {
            emit: Emit::Finals,
            ..self
        }
    }

    /// Emits results of sessions before they close as well, as `fire` says, and each session once more when it closes.
    ///
    /// Records are counted, and time is measured, for each session by itself, from its first record that is in no result
    /// yet. Where a record makes one session of several, or a longer one of one, the new session has their records in no
    /// result yet together, and is due when the first of them was. What was said of the old ones stands for so long: right
    /// before the next result of the new session, early or final, there comes a deletion of each, by time, with the
    /// session's end as timestamp. So what stands in the [table](SessionTable::table) has each record at most once, and a
    /// record that was in a result is in one until the session is gone. A result that has the same bounds as the one
    /// before overwrites it without a deletion.
    ///
    /// Otherwise it is as in [`TimeWindowedStream::emit_early`](super::TimeWindowedStream::emit_early); results have the
    /// session's end as timestamp, and come in order of it where they are due at one time. What is in no result yet, and
    /// what stands, is remembered in the session store `<name>-early`, which every record writes.
    ///
    /// Kafka Streams has it for each record only: a deletion of the old session, then the new one. An early trigger of
    /// Flink's DataStream API does not take back what it gave of sessions that have merged since.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, EarlyFire, SessionWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, session_windowed, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// let visits = SessionWindows::gap(Duration::from_millis(10)).grace(Duration::from_millis(100));
    /// builder
    ///     .stream("pages", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by_session(visits)
    ///     .emit_early(EarlyFire::every_records(2))
    ///     .count("pages-per-visit")
    ///     .to_stream()
    ///     .to("visits");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let pages = driver.input("pages", utf8(), int64());
    /// for time in [0, 8, 30, 35, 18, 20] {
    ///     pages.pipe(&mut driver, "ann".to_owned(), 1, time);
    /// }
    /// let out = driver.output("visits", session_windowed(utf8()), nullable(int64()));
    /// let out: Vec<_> = out.read(&mut driver).into_iter().map(|r| (r.key.start, r.key.end, r.value)).collect();
    /// assert_eq!(out[..2], [(0, 8, Some(2)), (30, 35, Some(2))]);
    /// // The last two records make one session of the two, and are enough for a result.
    /// assert_eq!(out[2..], [(0, 8, None), (30, 35, None), (0, 35, Some(6))]);
    /// ```
    #[must_use]
    pub fn emit_early(self, fire: EarlyFire) -> Self {
        Self {
            emit: Emit::Early(fire),
            ..self
        }
    }

    /// Counts the records of each key and session, in the session store `name`.
    ///
    /// Emits, for each record in time, a deletion of every session that it extends or merges, by time, then the session
    /// that they became; or each session once: see [`emit_final`](Self::emit_final). All have the session's end as
    /// timestamp. Records with a null key or value are ignored, and counted as dropped; late ones come out of
    /// [`late`](SessionTable::late). A group whose key may have changed goes through the topic
    /// `<application id>-<name>-repartition` first. The store's changelog is `<application id>-<name>-changelog`.
    /// Semantics of Kafka Streams' `KStreamSessionWindowAggregate`; the page of the module says where they differ.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, SessionWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, session_windowed, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// let visits = SessionWindows::gap(Duration::from_millis(10)).grace(Duration::ZERO);
    /// builder
    ///     .stream("pages", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by_session(visits)
    ///     .count("pages-per-visit")
    ///     .to_stream()
    ///     .to("visits");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let pages = driver.input("pages", utf8(), int64());
    /// pages.pipe(&mut driver, "ann".to_owned(), 1, 0);
    /// pages.pipe(&mut driver, "ann".to_owned(), 1, 8);
    /// let out = driver.output("visits", session_windowed(utf8()), nullable(int64()));
    /// let out: Vec<_> = out.read(&mut driver).into_iter().map(|r| (r.key.start, r.key.end, r.value)).collect();
    /// assert_eq!(out, [(0, 0, Some(1)), (0, 0, None), (0, 8, Some(2))]);
    /// ```
    pub fn count(&self, name: &str) -> SessionTable<K, V, i64> {
        self.aggregate(
            name,
            int64(),
            || 0,
            |_, _, count| count + 1,
            |_, a, b| a + b,
        )
    }

    /// Combines the values of each key and session, in the session store `name`; the first value is taken as it is.
    /// Sessions that become one are combined by time, then the record's value. What it emits, nulls, late records,
    /// topic, changelog and the source of the semantics are as for [`count`](Self::count).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, SessionWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, session_windowed, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("trips");
    /// let trips = SessionWindows::gap(Duration::from_millis(10)).grace(Duration::from_millis(100));
    /// builder
    ///     .stream("fares", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by_session(trips)
    ///     .reduce("spent", |a, b| a + b)
    ///     .to_stream()
    ///     .to("spent");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let fares = driver.input("fares", utf8(), int64());
    /// for (fare, time) in [(3, 0), (4, 20), (5, 10)] {
    ///     fares.pipe(&mut driver, "ann".to_owned(), fare, time);
    /// }
    /// let out = driver.output("spent", session_windowed(utf8()), nullable(int64()));
    /// let out: Vec<_> = out.read(&mut driver).into_iter().map(|r| (r.key.start, r.key.end, r.value)).collect();
    /// // The last one joins the two.
    /// assert_eq!(out[..2], [(0, 0, Some(3)), (20, 20, Some(4))]);
    /// assert_eq!(out[2..], [(0, 0, None), (20, 20, None), (0, 20, Some(12))]);
    /// ```
    pub fn reduce(
        &self,
        name: &str,
        combine: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> SessionTable<K, V, V> {
        let Some(value) = self.grouped.upstream().value.clone() else {
            self.grouped.missing(name, "value");
            return SessionTable::detached(&self.grouped.origin());
        };
        let combine = Arc::new(combine);
        let merge = Arc::clone(&combine);
        let fold = move |before: Option<V>, value: V| match before {
            Some(before) => combine(before, value),
            None => value,
        };
        let merge = move |_: &K, before: Option<V>, value: V| match before {
            Some(before) => merge(before, value),
            None => value,
        };
        self.aggregate_optional(
            name,
            value,
            move |_, value, before| fold(before, value),
            merge,
        )
    }

    /// Folds the values of each key and session into an aggregate that starts with `initial`, in the session store
    /// `name`. `merge` brings the aggregates of two sessions together: what there is so far, from `initial` on, and the
    /// next session by time.
    ///
    /// What it emits, nulls, late records, topic, changelog and the source of the semantics are as for
    /// [`count`](Self::count).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, SessionWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, session_windowed, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// let visits = SessionWindows::gap(Duration::from_secs(1_800)).grace(Duration::from_secs(60));
    /// builder
    ///     .stream("offers", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by_session(visits)
    ///     .emit_final()
    ///     .aggregate("dearest", int64(), || 0, |_, price, max| max.max(price), |_, a, b| a.max(b))
    ///     .to_stream()
    ///     .to("dearest");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let offers = driver.input("offers", utf8(), int64());
    /// for (price, time) in [(7, 0), (9, 60_000), (8, 86_400_000)] {
    ///     offers.pipe(&mut driver, "ann".to_owned(), price, time);
    /// }
    /// let dearest = driver.output("dearest", session_windowed(utf8()), nullable(int64()));
    /// let dearest: Vec<_> = dearest.read(&mut driver).into_iter().map(|r| (r.key.end, r.value)).collect();
    /// assert_eq!(dearest, [(60_000, Some(9))]);
    /// ```
    pub fn aggregate<A: Data>(
        &self,
        name: &str,
        serde: impl Serde<A> + 'static,
        initial: impl Fn() -> A + Send + Sync + 'static,
        add: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
        merge: impl Fn(&K, A, A) -> A + Send + Sync + 'static,
    ) -> SessionTable<K, V, A> {
        let initial = Arc::new(initial);
        let first = Arc::clone(&initial);
        self.aggregate_optional(
            name,
            Arc::new(serde),
            move |key, value, before| add(key, value, before.unwrap_or_else(|| initial())),
            move |key, before, next| merge(key, before.unwrap_or_else(|| first()), next),
        )
    }

    fn aggregate_optional<A: Data>(
        &self,
        name: &str,
        serde: SharedSerde<A>,
        add: impl Fn(&K, V, Option<A>) -> A + Send + Sync + 'static,
        merge: impl Fn(&K, Option<A>, A) -> A + Send + Sync + 'static,
    ) -> SessionTable<K, V, A> {
        let inputs = self.grouped.input(Adder::new(add));
        aggregate(
            &inputs,
            name,
            serde,
            Arc::new(merge),
            self.windows,
            self.emit,
        )
    }
}

/// The aggregate of two sessions by time; there is none before the first.
pub(crate) type Merge<K, A> = Arc<dyn Fn(&K, Option<A>, A) -> A + Send + Sync>;

/// An aggregation of `inputs` over sessions, called `name`.
pub(crate) fn aggregate<K: Data, A: Data, L: Data>(
    inputs: &Inputs<K, A, L>,
    name: &str,
    serde: SharedSerde<A>,
    merge: Merge<K, A>,
    windows: SessionWindows,
    emit: Emit,
) -> SessionTable<K, L, A> {
    let origin = inputs.origin();
    if origin.refuses(name, emit) {
        return SessionTable::detached(&origin);
    }
    let retention_ms = windows.retention_ms();
    let store = StoreKind::Session { retention_ms };
    let Some(wired) = Wired::new(inputs, name, "session aggregate", store) else {
        return SessionTable::detached(&origin);
    };
    wired.describe(&serde, &[("gap_ms", windows.gap_ms)]);
    let windowing = WindowingPlan::new(name, &wired, emit, serde);
    let windowed_key = session_windowed(Arc::clone(&wired.key));
    // A session's end is part of it.
    let closes_after_ms = retention_ms.saturating_add(1);
    let outputs =
        windowing.outputs::<SessionStore>(&wired, Arc::new(windowed_key), Some(closes_after_ms));
    let store = wired.store;
    wired.attach(move |instantiation| {
        Ok(Aggregation::Sessions(SessionAggregate {
            windows,
            windowing: windowing.open(instantiation, store, windows)?,
            merge: Arc::clone(&merge),
        }))
    });
    SessionTable::of(outputs)
}

/// A session as the store has it.
struct Found<A> {
    start: Timestamp,
    end: Timestamp,
    value: A,
}

/// An aggregation over sessions in a task.
pub(crate) struct SessionAggregate<K, A, L> {
    windows: SessionWindows,
    windowing: Windowing<K, A, L, SessionStore>,
    merge: Merge<K, A>,
}

impl<K: Data, A: Data, L: Data> SessionAggregate<K, A, L> {
    pub(crate) fn take<V: Data>(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, V>,
        adder: &Adder<K, V, A, L>,
    ) -> Result {
        let timestamp = record.timestamp;
        let Arrival {
            time,
            open_from,
            moved,
        } = self
            .windowing
            .arrive(context, adder.input, timestamp, self.windows);
        self.windowing.encoding.encode_key(&record.key)?;

        let found = self.find(timestamp, open_from)?;
        if found.is_empty() && timestamp < open_from {
            let window = (timestamp, timestamp);
            let late = &mut self.windowing.late;
            late.take(context, record, &*adder.show, window, time)?;
        } else {
            self.add_to(context, found, record, adder)?;
        }

        match moved {
            true => self.windowing.close_passed(context, self.windows),
            false => Ok(()),
        }
    }

    /// Time has moved without a record.
    pub(crate) fn advance(&mut self, context: &mut Context<'_>, time: Timestamp) -> Result {
        self.windowing.advance(context, time, self.windows)
    }

    /// The open sessions, by time, that a record at `timestamp` belongs to; its key is in the buffer.
    fn find(&self, timestamp: Timestamp, open_from: Timestamp) -> Result<Vec<Found<A>>> {
        let earliest_end = timestamp.saturating_sub(self.windows.gap_ms).max(open_from);
        let latest_start = timestamp.saturating_add(self.windows.gap_ms);
        let encoding = &self.windowing.encoding;
        let (mut found, mut failed) = (Vec::new(), None);
        self.windowing.store.borrow().find(
            &encoding.key_buffer,
            earliest_end,
            latest_start,
            &mut |start, end, row| match encoding.decode(&row) {
                Ok(value) => {
                    found.push(Found { start, end, value });
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        failed.map_or(Ok(found), Err)
    }

    /// Makes one session of the record, whose key is in the buffer, and those it was found to belong to.
    fn add_to<V>(
        &mut self,
        context: &mut Context<'_>,
        found: Vec<Found<A>>,
        record: Record<K, V>,
        adder: &Adder<K, V, A, L>,
    ) -> Result {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        let bounds = |(start, end): (Timestamp, Timestamp), session: &Found<A>| {
            (start.min(session.start), end.max(session.end))
        };
        let (start, end) = found.iter().fold((timestamp, timestamp), bounds);
        let overwrites = (start, end) == (timestamp, timestamp);

        let (mut aggregate, mut overwritten) = (None, None);
        let mut parts = Vec::new();
        for session in found {
            aggregate = Some((self.merge)(&key, aggregate, session.value.clone()));
            if overwrites {
                overwritten = Some(session.value);
            } else {
                parts.extend(self.retract(context, &key, session, &headers)?);
            }
        }

        let new = (adder.add)(&key, value, aggregate);
        let windowing = &mut self.windowing;
        let (key_bytes, bytes) = windowing.encoding.encode(&new)?;
        let mut store = windowing.store.borrow_mut();
        store.put(key_bytes, start, end, bytes, end)?;
        drop(store);
        if let Some(early) = &mut windowing.early
            && !parts.is_empty()
        {
            early.put_in(key_bytes, (end, start), parts)?;
        }
        let session = Update {
            key: Windowed { key, start, end },
            new: Some(new),
            old: overwritten,
            is_new: true,
            timestamp: end,
            headers,
        };
        windowing.updated(context, session)
    }

    /// Removes a session of the key in the buffer, which goes into another. What it still has to say comes back.
    fn retract(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        session: Found<A>,
        headers: &Headers,
    ) -> Result<Option<Part>> {
        let Found { start, end, value } = session;
        let windowing = &mut self.windowing;
        let key_bytes = &windowing.encoding.key_buffer;
        let mut store = windowing.store.borrow_mut();
        store.remove(key_bytes, start, end, end)?;
        drop(store);
        if let Some(finals) = &mut windowing.finals {
            finals.remove((end, start), key_bytes);
            let early = windowing.early.as_mut();
            return early
                .map(|early| early.take_out(key_bytes, (end, start)))
                .transpose();
        }
        let key = key.clone();
        let deletion = Update {
            key: Windowed { key, start, end },
            new: None,
            old: Some(value),
            is_new: false,
            timestamp: end,
            headers: headers.clone(),
        };
        windowing.forward(context, deletion)?;
        Ok(None)
    }
}
