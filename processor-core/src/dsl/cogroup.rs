//! Several groups, of different types of values, in one aggregation: each group has an adder of its own, and all of them
//! share one aggregate of a key.
//!
//! Everything else is as for one group: what is null is ignored, each record gives an update or each window its final
//! result, late records go to a branch.
//!
//! **Time.** Where each update is emitted, each group has a stream time of its own, by which its records are late, as in
//! Kafka Streams. The store they share goes by the furthest: of a window that it has forgotten, a record of a group that
//! is behind, and in time there, gives the aggregate that it alone makes, and leaves nothing behind. Take a grace that
//! covers how far groups may be apart. Where each window is emitted once, at its close, there is one time for all: the
//! largest timestamp of any of their records, and what comes later is late.
//!
//! The groups must be co-partitioned. One whose key may have changed goes through a repartition topic first, which is
//! called `<application id>-<name>-<its number, from 1>-repartition`.
//!
//! Source of the semantics: Kafka Streams' `CogroupedKStream` (KIP-150), which emits updates only; final results are ours.

use std::sync::Arc;

use crate::record::Data;
use crate::serde::Serde;

use super::aggregation::{Adder, GroupInput, Input, Inputs};
use super::early::EarlyFire;
use super::finals::Emit;
use super::session::{SessionTable, SessionWindows};
use super::windowed::WindowedTable;
use super::windows::Windows;
use super::{KGroupedStream, KTable, grouped, session, windowed};

type Initial<A> = Arc<dyn Fn() -> A + Send + Sync>;

/// A group with its adder, before it is known what an aggregate begins with.
type Member<K, A> = Arc<dyn Fn(&Initial<A>) -> Box<dyn Input<K, A, A>>>;

/// Groups that are to be aggregated together: see [`KGroupedStream::cogroup`].
pub struct CogroupedStream<K, A> {
    first: Member<K, A>,
    others: Vec<Member<K, A>>,
}

impl<K: Data, V: Data> KGroupedStream<K, V> {
    /// Begins an aggregation of several groups: `add` is what a value of this one does to the aggregate they share.
    ///
    /// By itself it emits nothing and makes nothing: nulls, late records, topics and stores are those of the
    /// aggregation. Source of the semantics: KIP-150.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("accounts");
    /// let paid_in = builder.stream("paid-in", Consumed::new(utf8(), int64())).group_by_key();
    /// let notes = builder.stream("notes", Consumed::new(utf8(), utf8())).group_by_key();
    /// paid_in
    ///     .cogroup(|_, amount, account: String| format!("{account}+{amount}"))
    ///     .cogroup(&notes, |_, note, account| format!("{account} ({note})"))
    ///     .aggregate("accounts", utf8(), String::new)
    ///     .to_stream()
    ///     .to("accounts");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let paid_in = driver.input("paid-in", utf8(), int64());
    /// # let notes = driver.input("notes", utf8(), utf8());
    /// paid_in.pipe(&mut driver, "ann".to_owned(), 5, 0);
    /// notes.pipe(&mut driver, "ann".to_owned(), "rent".to_owned(), 1);
    /// let accounts = driver.output("accounts", utf8(), nullable(utf8()));
    /// let accounts: Vec<_> = accounts.read(&mut driver).into_iter().filter_map(|r| r.value).collect();
    /// assert_eq!(accounts, ["+5", "+5 (rent)"]);
    /// ```
    #[must_use]
    pub fn cogroup<A: Data>(
        &self,
        add: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> CogroupedStream<K, A> {
        CogroupedStream {
            first: member(self, add),
            others: Vec::new(),
        }
    }
}

fn member<K: Data, V: Data, A: Data>(
    group: &KGroupedStream<K, V>,
    add: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
) -> Member<K, A> {
    let (group, add) = (group.clone(), Arc::new(add));
    Arc::new(move |initial| {
        let (add, initial) = (Arc::clone(&add), Arc::clone(initial));
        let (add_late, initial_late) = (Arc::clone(&add), Arc::clone(&initial));
        Box::new(GroupInput {
            group: group.clone(),
            adder: Adder {
                add: Arc::new(move |key: &K, value, before: Option<A>| {
                    add(key, value, before.unwrap_or_else(|| initial()))
                }),
                show: Arc::new(move |key: &K, value| add_late(key, value, initial_late())),
                input: 0,
            },
        })
    })
}

impl<K: Data, A: Data> CogroupedStream<K, A> {
    /// Takes another group in: `add` is what a value of it does to the aggregate they share.
    ///
    /// By itself it emits nothing and makes nothing. The groups must be co-partitioned. [`KGroupedStream::cogroup`] has
    /// an example.
    #[must_use]
    pub fn cogroup<V: Data>(
        mut self,
        group: &KGroupedStream<K, V>,
        add: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> Self {
        self.others.push(member(group, add));
        self
    }

    /// Aggregates the values of each key, from `initial` on, in the key-value store `name`.
    ///
    /// Each record gives the new aggregate of its key, with the largest timestamp that went into it. Records with a null
    /// key or value are ignored, and counted as dropped.
    ///
    /// Nothing is late. Its changelog is `<application id>-<name>-changelog`. Groups whose key may have changed go
    /// through `<application id>-<name>-<their number, from 1>-repartition`, or `<application id>-<name>-repartition`
    /// where there is one group only. Source of the semantics: Kafka Streams' `CogroupedKStream#aggregate` (KIP-150).
    ///
    /// # Errors
    /// [`build`](super::StreamsBuilder::build) refuses a name that is used twice, and a group without the serdes that
    /// it needs; the start refuses groups with unequal partition counts.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("accounts");
    /// let paid_in = builder.stream("paid-in", Consumed::new(utf8(), int64())).group_by_key();
    /// let paid_out = builder.stream("paid-out", Consumed::new(utf8(), int64())).group_by_key();
    /// paid_in
    ///     .cogroup(|_, amount, balance: i64| balance + amount)
    ///     .cogroup(&paid_out, |_, amount, balance| balance - amount)
    ///     .aggregate("balances", int64(), || 0)
    ///     .to_stream()
    ///     .to("balances");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let paid_in = driver.input("paid-in", utf8(), int64());
    /// # let paid_out = driver.input("paid-out", utf8(), int64());
    /// paid_in.pipe(&mut driver, "ann".to_owned(), 9, 5);
    /// paid_out.pipe(&mut driver, "ann".to_owned(), 2, 3);
    /// let balances = driver.output("balances", utf8(), nullable(int64())).read(&mut driver);
    /// let balances: Vec<_> = balances.into_iter().map(|r| (r.value, r.timestamp)).collect();
    /// assert_eq!(balances, [(Some(9), 5), (Some(7), 5)]);
    /// ```
    pub fn aggregate(
        &self,
        name: &str,
        serde: impl Serde<A> + 'static,
        initial: impl Fn() -> A + Send + Sync + 'static,
    ) -> KTable<K, A> {
        grouped::aggregate(&self.inputs(initial), name, Arc::new(serde))
    }

    /// Groups the records of each key by windows of event time, as [`KGroupedStream::windowed_by`].
    ///
    /// By itself it emits nothing and makes nothing; [`aggregate`](WindowedCogroup::aggregate) says what null keys, null values
    /// and late records do, and has an example with final results.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("traffic");
    /// # let bytes = builder.stream("bytes", Consumed::new(utf8(), int64())).group_by_key();
    /// # let visits = builder.stream("visits", Consumed::new(utf8(), int64())).group_by_key();
    /// let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::ZERO);
    /// bytes
    ///     .cogroup(|_, bytes, cost: i64| cost + bytes)
    ///     .cogroup(&visits, |_, _, cost| cost + 1_000)
    ///     .windowed_by(minutes)
    ///     .aggregate("cost", int64(), || 0)
    ///     .to_stream()
    ///     .to("cost");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bytes = driver.input("bytes", utf8(), int64());
    /// # let visits = driver.input("visits", utf8(), int64());
    /// bytes.pipe(&mut driver, "ann".to_owned(), 5, 0);
    /// visits.pipe(&mut driver, "ann".to_owned(), 1, 59_999);
    /// visits.pipe(&mut driver, "ann".to_owned(), 1, 60_000);
    /// let cost = driver.output("cost", windowed(utf8(), 60_000), int64()).read(&mut driver);
    /// let cost: Vec<_> = cost.into_iter().map(|r| (r.key.start, r.value)).collect();
    /// assert_eq!(cost, [(0, 5), (0, 1_005), (60_000, 1_000)]);
    /// ```
    #[must_use]
    pub fn windowed_by(&self, windows: impl Into<Windows>) -> WindowedCogroup<'_, K, A> {
        WindowedCogroup {
            groups: self,
            windows: windows.into(),
            emit: Emit::Updates,
        }
    }

    /// Groups the records of each key by sessions of event time, as [`KGroupedStream::windowed_by_session`].
    ///
    /// By itself it emits nothing and makes nothing; [`aggregate`](SessionCogroup::aggregate) says what null keys, null values
    /// and late records do, and has an example.
    #[must_use]
    pub fn windowed_by_session(&self, windows: SessionWindows) -> SessionCogroup<'_, K, A> {
        SessionCogroup {
            groups: self,
            windows,
            emit: Emit::Updates,
        }
    }

    fn inputs(&self, initial: impl Fn() -> A + Send + Sync + 'static) -> Inputs<K, A, A> {
        let initial: Initial<A> = Arc::new(initial);
        Inputs {
            first: (self.first)(&initial),
            others: self.others.iter().map(|member| member(&initial)).collect(),
        }
    }
}

/// Groups that are aggregated together, cut into windows.
pub struct WindowedCogroup<'a, K, A> {
    groups: &'a CogroupedStream<K, A>,
    windows: Windows,
    emit: Emit,
}

impl<K: Data, A: Data> WindowedCogroup<'_, K, A> {
    /// Emits each window once, when it closes, as
    /// [`TimeWindowedStream::emit_final`](super::TimeWindowedStream::emit_final) does. Kafka Streams cannot.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("traffic");
    /// # let bytes = builder.stream("bytes", Consumed::new(utf8(), int64())).group_by_key();
    /// # let visits = builder.stream("visits", Consumed::new(utf8(), int64())).group_by_key();
    /// let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::ZERO);
    /// bytes
    ///     .cogroup(|_, bytes, cost: i64| cost + bytes)
    ///     .cogroup(&visits, |_, _, cost| cost + 1_000)
    ///     .windowed_by(minutes)
    ///     .emit_final()
    ///     .aggregate("cost", int64(), || 0)
    ///     .to_stream()
    ///     .to("cost");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bytes = driver.input("bytes", utf8(), int64());
    /// # let visits = driver.input("visits", utf8(), int64());
    /// bytes.pipe(&mut driver, "ann".to_owned(), 5, 0);
    /// visits.pipe(&mut driver, "ann".to_owned(), 1, 30_000);
    /// bytes.pipe(&mut driver, "ann".to_owned(), 7, 40_000);
    /// visits.pipe(&mut driver, "ann".to_owned(), 1, 200_000);
    /// let cost = driver.output("cost", windowed(utf8(), 60_000), int64()).read(&mut driver);
    /// let cost: Vec<_> = cost.into_iter().map(|r| (r.key.start, r.value)).collect();
    /// assert_eq!(cost, [(0, 1_012)]);
    /// ```
    #[must_use]
    pub fn emit_final(self) -> Self {
        Self {
            emit: Emit::Finals,
            ..self
        }
    }

    /// Emits what a window holds before it closes, from time to time, and once more when it closes, as
    /// [`TimeWindowedStream::emit_early`](super::TimeWindowedStream::emit_early) does.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, EarlyFire, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("traffic");
    /// # let bytes = builder.stream("bytes", Consumed::new(utf8(), int64())).group_by_key();
    /// # let visits = builder.stream("visits", Consumed::new(utf8(), int64())).group_by_key();
    /// let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::ZERO);
    /// bytes
    ///     .cogroup(|_, bytes, cost: i64| cost + bytes)
    ///     .cogroup(&visits, |_, _, cost| cost + 1_000)
    ///     .windowed_by(minutes)
    ///     .emit_early(EarlyFire::every_records(2))
    ///     .aggregate("cost", int64(), || 0)
    ///     .to_stream()
    ///     .to("cost");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bytes = driver.input("bytes", utf8(), int64());
    /// # let visits = driver.input("visits", utf8(), int64());
    /// bytes.pipe(&mut driver, "ann".to_owned(), 5, 0);
    /// visits.pipe(&mut driver, "ann".to_owned(), 1, 30_000);
    /// bytes.pipe(&mut driver, "ann".to_owned(), 7, 40_000);
    /// visits.pipe(&mut driver, "ann".to_owned(), 1, 200_000);
    /// let cost = driver.output("cost", windowed(utf8(), 60_000), int64()).read(&mut driver);
    /// let cost: Vec<_> = cost.into_iter().map(|r| (r.key.start, r.value)).collect();
    /// assert_eq!(cost, [(0, 1_005), (0, 1_012)]);
    /// ```
    #[must_use]
    pub fn emit_early(self, fire: EarlyFire) -> Self {
        Self {
            emit: Emit::Early(fire),
            ..self
        }
    }

    /// Aggregates the values of each key and window, from `initial` on, in the window store `name`.
    ///
    /// A late record comes out of [`late`](WindowedTable::late) as the aggregate that it would have made alone, since that
    /// is a type which all groups have.
    ///
    /// Records with a null key or value are ignored, and counted as dropped. Repartition topics and the changelog are
    /// named as for [windows of one group](super::TimeWindowedStream::count) and
    /// [several groups](CogroupedStream::aggregate). Source of the semantics: KIP-150.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("traffic");
    /// let bytes = builder.stream("bytes", Consumed::new(utf8(), int64())).group_by_key();
    /// let visits = builder.stream("visits", Consumed::new(utf8(), utf8())).group_by_key();
    /// let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::ZERO);
    /// bytes
    ///     .cogroup(|_, bytes, cost: i64| cost + bytes)
    ///     .cogroup(&visits, |_, _, cost| cost + 1_000)
    ///     .windowed_by(minutes)
    ///     .emit_final()
    ///     .aggregate("cost", int64(), || 0)
    ///     .to_stream()
    ///     .to("cost");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bytes = driver.input("bytes", utf8(), int64());
    /// # let visits = driver.input("visits", utf8(), utf8());
    /// bytes.pipe(&mut driver, "ann".to_owned(), 5, 0);
    /// visits.pipe(&mut driver, "ann".to_owned(), "/".to_owned(), 59_999);
    /// visits.pipe(&mut driver, "bob".to_owned(), "/".to_owned(), 60_000);
    /// let cost = driver.output("cost", windowed(utf8(), 60_000), int64());
    /// let cost: Vec<_> = cost.read(&mut driver).into_iter().map(|r| (r.key.key, r.value)).collect();
    /// assert_eq!(cost, [("ann".to_owned(), 1_005)]);
    /// ```
    pub fn aggregate(
        &self,
        name: &str,
        serde: impl Serde<A> + 'static,
        initial: impl Fn() -> A + Send + Sync + 'static,
    ) -> WindowedTable<K, A, A> {
        let inputs = self.groups.inputs(initial);
        windowed::aggregate(&inputs, name, Arc::new(serde), self.windows, self.emit)
    }
}

/// Groups that are aggregated together, cut into sessions.
pub struct SessionCogroup<'a, K, A> {
    groups: &'a CogroupedStream<K, A>,
    windows: SessionWindows,
    emit: Emit,
}

impl<K: Data, A: Data> SessionCogroup<'_, K, A> {
    /// Emits each session once, when it closes, as
    /// [`SessionWindowedStream::emit_final`](super::SessionWindowedStream::emit_final) does. Kafka Streams cannot.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, SessionWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, session_windowed, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("traffic");
    /// # let bytes = builder.stream("bytes", Consumed::new(utf8(), int64())).group_by_key();
    /// # let visits = builder.stream("visits", Consumed::new(utf8(), int64())).group_by_key();
    /// let sessions = SessionWindows::gap(Duration::from_secs(60)).grace(Duration::ZERO);
    /// bytes
    ///     .cogroup(|_, bytes, cost: i64| cost + bytes)
    ///     .cogroup(&visits, |_, _, cost| cost + 1_000)
    ///     .windowed_by_session(sessions)
    ///     .emit_final()
    ///     .aggregate("cost", int64(), || 0, |_, a, b| a + b)
    ///     .to_stream()
    ///     .to("cost");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bytes = driver.input("bytes", utf8(), int64());
    /// # let visits = driver.input("visits", utf8(), int64());
    /// bytes.pipe(&mut driver, "ann".to_owned(), 5, 0);
    /// visits.pipe(&mut driver, "ann".to_owned(), 1, 30_000);
    /// bytes.pipe(&mut driver, "ann".to_owned(), 7, 40_000);
    /// visits.pipe(&mut driver, "ann".to_owned(), 1, 200_000);
    /// let cost = driver.output("cost", session_windowed(utf8()), nullable(int64())).read(&mut driver);
    /// let cost: Vec<_> = cost.into_iter().map(|r| (r.key.start, r.key.end, r.value)).collect();
    /// assert_eq!(cost, [(0, 40_000, Some(1_012))]);
    /// ```
    #[must_use]
    pub fn emit_final(self) -> Self {
        Self {
            emit: Emit::Finals,
            ..self
        }
    }

    /// Emits results of sessions before they close as well, as
    /// [`SessionWindowedStream::emit_early`](super::SessionWindowedStream::emit_early) does.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, EarlyFire, SessionWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, session_windowed, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("traffic");
    /// # let bytes = builder.stream("bytes", Consumed::new(utf8(), int64())).group_by_key();
    /// # let visits = builder.stream("visits", Consumed::new(utf8(), int64())).group_by_key();
    /// let sessions = SessionWindows::gap(Duration::from_secs(60)).grace(Duration::ZERO);
    /// bytes
    ///     .cogroup(|_, bytes, cost: i64| cost + bytes)
    ///     .cogroup(&visits, |_, _, cost| cost + 1_000)
    ///     .windowed_by_session(sessions)
    ///     .emit_early(EarlyFire::every_records(2))
    ///     .aggregate("cost", int64(), || 0, |_, a, b| a + b)
    ///     .to_stream()
    ///     .to("cost");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bytes = driver.input("bytes", utf8(), int64());
    /// # let visits = driver.input("visits", utf8(), int64());
    /// bytes.pipe(&mut driver, "ann".to_owned(), 5, 0);
    /// visits.pipe(&mut driver, "ann".to_owned(), 1, 30_000);
    /// bytes.pipe(&mut driver, "ann".to_owned(), 7, 40_000);
    /// visits.pipe(&mut driver, "ann".to_owned(), 1, 200_000);
    /// let cost = driver.output("cost", session_windowed(utf8()), nullable(int64())).read(&mut driver);
    /// let cost: Vec<_> = cost.into_iter().map(|r| (r.key.start, r.key.end, r.value)).collect();
    /// assert_eq!(cost, [(0, 30_000, Some(1_005)), (0, 30_000, None), (0, 40_000, Some(1_012))]);
    /// ```
    #[must_use]
    pub fn emit_early(self, fire: EarlyFire) -> Self {
        Self {
            emit: Emit::Early(fire),
            ..self
        }
    }

    /// Aggregates the values of each key and session, from `initial` on, in the session store `name`. `merge` brings the
    /// aggregates of two sessions together: what there is so far, from `initial` on, and the next session by time.
    ///
    /// A late record comes out of [`late`](SessionTable::late) as the aggregate that it would have made alone.
    ///
    /// Records with a null key or value are ignored, and counted as dropped. Repartition topics and the changelog are
    /// named as for [sessions of one group](super::SessionWindowedStream::count) and
    /// [several groups](CogroupedStream::aggregate). Source of the semantics: KIP-150.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, SessionWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, session_windowed, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// let views = builder.stream("views", Consumed::new(utf8(), int64())).group_by_key();
    /// let orders = builder.stream("orders", Consumed::new(utf8(), utf8())).group_by_key();
    /// let visits = SessionWindows::gap(Duration::from_secs(1_800)).grace(Duration::ZERO);
    /// views
    ///     .cogroup(|_, _, points: i64| points + 1)
    ///     .cogroup(&orders, |_, _, points| points + 100)
    ///     .windowed_by_session(visits)
    ///     .emit_final()
    ///     .aggregate("points", int64(), || 0, |_, a, b| a + b)
    ///     .to_stream()
    ///     .to("points");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let views = driver.input("views", utf8(), int64());
    /// # let orders = driver.input("orders", utf8(), utf8());
    /// views.pipe(&mut driver, "ann".to_owned(), 1, 0);
    /// orders.pipe(&mut driver, "ann".to_owned(), "pen".to_owned(), 60_000);
    /// views.pipe(&mut driver, "bob".to_owned(), 1, 86_400_000);
    /// let points = driver.output("points", session_windowed(utf8()), nullable(int64()));
    /// let points: Vec<_> = points.read(&mut driver).into_iter().map(|r| (r.key.end, r.value)).collect();
    /// assert_eq!(points, [(60_000, Some(101))]);
    /// ```
    pub fn aggregate(
        &self,
        name: &str,
        serde: impl Serde<A> + 'static,
        initial: impl Fn() -> A + Send + Sync + 'static,
        merge: impl Fn(&K, A, A) -> A + Send + Sync + 'static,
    ) -> SessionTable<K, A, A> {
        let initial: Initial<A> = Arc::new(initial);
        let first = Arc::clone(&initial);
        let inputs = self.groups.inputs(move || initial());
        let merge = move |key: &K, before: Option<A>, next| {
            merge(key, before.unwrap_or_else(|| first()), next)
        };
        let (serde, merge) = (Arc::new(serde), Arc::new(merge));
        session::aggregate(&inputs, name, serde, merge, self.windows, self.emit)
    }
}
