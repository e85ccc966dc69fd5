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

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use state::WindowStore;

use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::{Context, Fanout, OperatorTime, Process};
use crate::record::{Change, Data, Record, Windowed};
use crate::serde::{Serde, SerdeError, SharedSerde, int64, windowed};
use crate::topology::{NodeKind, StoreKind};

use super::finals::{Emit, Finals};
use super::grouped::{KGroupedStream, Keyed, is_null};
use super::old_values::OldValues;
use super::outlet::Outlet;
use super::time_windows::TimeWindows;
use super::view::{Look, View};
use super::{KStream, KTable, Partitioned};

/// A record that came after its window had closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late<V> {
    /// The record's value.
    pub value: V,
    /// Start of the window it was meant for, in epoch milliseconds.
    pub window_start: Timestamp,
    /// End of that window.
    pub window_end: Timestamp,
    /// The operator's stream time when it came.
    pub stream_time: Timestamp,
}

/// A grouped stream cut into windows.
pub struct TimeWindowedStream<'a, K, V> {
    grouped: &'a KGroupedStream<K, V>,
    windows: TimeWindows,
    emit: Emit,
}

/// The aggregates of a windowed stream, and the records that came too late for them.
pub struct WindowedTable<K, V, A> {
    updates: KStream<Windowed<K>, A, Partitioned>,
    table: KTable<Windowed<K>, A>,
    late: KStream<K, Late<V>, Partitioned>,
}

impl<K: Data, V: Data, A: Data> WindowedTable<K, V, A> {
    /// Every update of every window: emitted after each record, with the largest timestamp in the window. With
    /// [`emit_final`](TimeWindowedStream::emit_final) the last one of every window.
    #[must_use]
    pub fn to_stream(&self) -> KStream<Windowed<K>, A, Partitioned> {
        self.updates.clone()
    }

    /// The aggregates as a table, whose key is key and window. A window that is closed keeps the value that it had, but
    /// cannot be looked up any more.
    #[must_use]
    pub fn table(&self) -> KTable<Windowed<K>, A> {
        self.table.clone()
    }

    /// Records that came after their window had closed, once for each such window. Without a consumer they are counted
    /// as dropped.
    #[must_use]
    pub fn late(&self) -> KStream<K, Late<V>, Partitioned> {
        self.late.clone()
    }
}

impl<'a, K: Data, V: Data> TimeWindowedStream<'a, K, V> {
    pub(crate) fn new(grouped: &'a KGroupedStream<K, V>, windows: TimeWindows) -> Self {
        Self {
            grouped,
            windows,
            emit: Emit::Updates,
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

    /// Counts the records of each key and window, in the window store `name`.
    pub fn count(&self, name: &str) -> WindowedTable<K, V, i64> {
        self.aggregate(name, int64(), || 0, |_, _, count| count + 1)
    }

    /// Combines the values of each key and window, in the window store `name`; the first value is taken as it is.
    pub fn reduce(
        &self,
        name: &str,
        combine: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> WindowedTable<K, V, V> {
        let Some(value) = self.grouped.upstream().value.clone() else {
            self.grouped.missing(name, "value");
            return self.detached();
        };
        self.aggregate_optional(name, value, move |_, value, before| match before {
            Some(before) => combine(before, value),
            None => value,
        })
    }

    /// Folds the values of each key and window into an aggregate that starts with `initial`, in the window store `name`.
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

    fn aggregate_optional<A: Data>(
        &self,
        name: &str,
        serde: SharedSerde<A>,
        add: impl Fn(&K, V, Option<A>) -> A + Send + Sync + 'static,
    ) -> WindowedTable<K, V, A> {
        if let Some(problem) = self.windows.problem() {
            let plan = &self.grouped.upstream().plan;
            plan.borrow_mut()
                .problems
                .push(format!("'{name}': {problem}"));
            return self.detached();
        }
        let Some(Keyed { stream, key, value }) = self.grouped.keyed(name) else {
            return self.detached();
        };
        let (windows, emit) = (self.windows, self.emit);
        let updates = Outlet::<Windowed<K>, A>::new();
        let changes = Outlet::<Windowed<K>, Change<A>>::new();
        let late = Outlet::<K, Late<V>>::new();
        let (node, store) = {
            let mut plan = stream.plan.borrow_mut();
            let retention_ms = windows.size_ms.saturating_add(windows.grace_ms);
            let store = plan.add_store(name, StoreKind::Window { retention_ms });
            let kind = NodeKind::Operator("windowed aggregate");
            let node = plan.add_node(name.to_owned(), kind, vec![stream.node], vec![store]);
            (node, store)
        };
        let below = (
            Arc::clone(&updates),
            Arc::clone(&changes),
            Arc::clone(&late),
        );
        let (operator, add) = (name.to_owned(), Arc::new(add));
        let (key_serde, aggregate_serde) = (Arc::clone(&key), Arc::clone(&serde));
        stream.outlet.attach(move |instantiation| {
            let time = OperatorTime::new(instantiation.times, &operator);
            let store = instantiation.window(store)?;
            let mut open_from = windows.open_from(time.now());
            let mut finals = None;
            if emit == Emit::Finals {
                let restored = Finals::restore(instantiation, &operator, open_from);
                open_from = restored.emitted();
                finals = Some(restored);
            }
            // What had expired before a restart stays so.
            store.borrow_mut().restore_horizon(open_from);
            if let Some(finals) = &mut finals {
                let (store, all) = (store.borrow(), (Timestamp::MIN, Timestamp::MAX));
                store.fetch_all(all.0, all.1, &mut |key, start, _| {
                    finals.add(start, 0, key);
                    ControlFlow::Continue(())
                })?;
            }
            Ok(Box::new(WindowAggregate {
                time,
                operator: operator.clone(),
                windows,
                store,
                finals,
                key: Arc::clone(&key_serde),
                value: value.clone(),
                serde: Arc::clone(&aggregate_serde),
                add: Arc::clone(&add),
                key_buffer: Vec::new(),
                value_buffer: Vec::new(),
                updates: below.0.instantiate(instantiation)?,
                changes: below.1.instantiate(instantiation)?,
                late: below.2.instantiate(instantiation)?,
            }))
        });
        let windowed_key: SharedSerde<Windowed<K>> =
            Arc::new(windowed(Arc::clone(&key), windows.size_ms));
        let (rows_key, rows_value, rows_name) =
            (Arc::clone(&key), Arc::clone(&serde), name.to_owned());
        let view = View::new(vec![store], move |instantiation| {
            Ok(WindowRows {
                name: rows_name.clone(),
                store: instantiation.window(store)?,
                key: Arc::clone(&rows_key),
                value: Arc::clone(&rows_value),
                buffer: Vec::new(),
            })
        });
        let plan = &stream.plan;
        WindowedTable {
            updates: KStream::new(
                Rc::clone(plan),
                node,
                updates,
                Some(Arc::clone(&windowed_key)),
                Some(Arc::clone(&serde)),
            ),
            table: KTable {
                plan: Rc::clone(plan),
                node,
                outlet: changes,
                view: Some(view),
                key: Some(windowed_key),
                value: Some(serde),
                old_values: OldValues::default(),
                closes_after_ms: Some(windows.grace_ms),
            },
            late: KStream::new(Rc::clone(plan), node, late, Some(key), None),
        }
    }

    /// Stands in after a problem that `build` reports.
    fn detached<A: Data>(&self) -> WindowedTable<K, V, A> {
        let upstream = self.grouped.upstream();
        let (plan, node) = (&upstream.plan, upstream.node);
        WindowedTable {
            updates: KStream::new(Rc::clone(plan), node, Outlet::new(), None, None),
            table: KTable::detached(upstream),
            late: KStream::new(Rc::clone(plan), node, Outlet::new(), None, None),
        }
    }
}

/// A windowed aggregation in a task.
struct WindowAggregate<K, V, A, F> {
    operator: String,
    windows: TimeWindows,
    store: Rc<RefCell<WindowStore>>,
    time: OperatorTime,
    /// Where windows are emitted as they close.
    finals: Option<Finals>,
    key: SharedSerde<K>,
    value: Option<SharedSerde<V>>,
    serde: SharedSerde<A>,
    add: Arc<F>,
    key_buffer: Vec<u8>,
    value_buffer: Vec<u8>,
    updates: Fanout<Windowed<K>, A>,
    changes: Fanout<Windowed<K>, Change<A>>,
    late: Fanout<K, Late<V>>,
}

impl<K, V, A, F> Process<K, V> for WindowAggregate<K, V, A, F>
where
    K: Data,
    V: Data,
    A: Data,
    F: Fn(&K, V, Option<A>) -> A,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        if self.key.is_null(&record.key) || is_null(self.value.as_ref(), &record.value) {
            metrics::counter!("dropped-records", "reason" => "null key or value").increment(1);
            return Ok(());
        }
        let moved = self.time.observe(record.timestamp, context);
        let emitted = self.finals.as_ref().map_or(Timestamp::MIN, Finals::emitted);
        let open_from = self.windows.open_from(self.time.now()).max(emitted);
        self.key_buffer.clear();
        self.key
            .serialize(&record.key, &mut self.key_buffer)
            .map_err(|error| self.fault("key", error))?;

        // All but the last window of a record need a copy of it.
        let mut record = Some(record);
        let timestamp = record.as_ref().map_or(0, |record| record.timestamp);
        let mut starts = self.windows.starts_of(timestamp).peekable();
        while let Some(start) = starts.next() {
            let record = if starts.peek().is_some() {
                record.clone()
            } else {
                record.take()
            };
            let record = record.expect("taken at the last window");
            if start < open_from {
                self.too_late(context, record, start)?;
            } else {
                self.update(context, record, start)?;
            }
        }

        if moved {
            self.emit_closed(context, open_from)?;
            self.store.borrow_mut().expire_before(open_from);
        }
        Ok(())
    }
}

impl<K, V, A, F> WindowAggregate<K, V, A, F>
where
    K: Data,
    V: Data,
    A: Data,
    F: Fn(&K, V, Option<A>) -> A,
{
    /// Adds the record, whose key is in the buffer, to a window.
    fn update(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, V>,
        start: Timestamp,
    ) -> Result {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        let mut store = self.store.borrow_mut();
        let before = store.get(&self.key_buffer, start)?;
        let timestamp = before
            .as_ref()
            .map_or(timestamp, |b| b.timestamp.max(timestamp));
        let old = before
            .map(|before| self.serde.deserialize(&before.value))
            .transpose()
            .map_err(|error| self.fault("value", error))?;
        let is_new = old.is_none();
        let forwarded_old = match &old {
            Some(old) if !self.changes.is_empty() => Some(old.clone()),
            _ => None,
        };
        let new = (self.add)(&key, value, old);
        self.value_buffer.clear();
        self.serde
            .serialize(&new, &mut self.value_buffer)
            .map_err(|error| self.fault("value", error))?;
        store.put(&self.key_buffer, start, &self.value_buffer, timestamp)?;
        drop(store);
        if let Some(finals) = &mut self.finals {
            if is_new {
                finals.add(start, 0, &self.key_buffer);
            }
            return Ok(());
        }
        let end = self.windows.end_of(start);
        let update = Record {
            key: Windowed { key, start, end },
            value: new,
            timestamp,
            headers,
        };
        self.forward(context, update, forwarded_old)
    }

    /// Emits what is closed, now that windows are open from `open_from`.
    fn emit_closed(&mut self, context: &mut Context<'_>, open_from: Timestamp) -> Result {
        let Some(finals) = &mut self.finals else {
            return Ok(());
        };
        for (start, _, bytes) in finals.take_closed(open_from) {
            let row = self.store.borrow().get(&bytes, start)?;
            let row = row.expect("an open window is in the store");
            let key = self
                .key
                .deserialize(&bytes)
                .map_err(|error| self.fault("key", error))?;
            let value = self
                .serde
                .deserialize(&row.value)
                .map_err(|error| self.fault("value", error))?;
            let end = self.windows.end_of(start);
            let key = Windowed { key, start, end };
            self.forward(context, Record::new(key, value, row.timestamp), None)?;
        }
        Ok(())
    }

    fn forward(
        &mut self,
        context: &mut Context<'_>,
        update: Record<Windowed<K>, A>,
        old: Option<A>,
    ) -> Result {
        if !self.changes.is_empty() {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = update.clone();
            let value = Change {
                new: Some(value),
                old,
            };
            self.changes.forward(
                context,
                Record {
                    key,
                    value,
                    timestamp,
                    headers,
                },
            )?;
        }
        self.updates.forward(context, update)
    }
}

impl<K: Data, V: Data, A, F> WindowAggregate<K, V, A, F> {
    fn fault(&self, part: &str, error: SerdeError) -> Fault {
        let what = format_args!("a {part} of aggregation {}", self.operator);
        Fault::serde(what, error)
    }

    fn too_late(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, V>,
        window_start: Timestamp,
    ) -> Result {
        let window_end = self.windows.end_of(window_start);
        if self.late.is_empty() {
            metrics::counter!("dropped-records", "reason" => "late").increment(1);
            tracing::debug!(
                operator = %self.operator, timestamp = record.timestamp, window_start,
                stream_time = self.time.now(), "a late record is dropped; take `late()` to keep it"
            );
            return Ok(());
        }
        let stream_time = self.time.now();
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        let value = Late {
            value,
            window_start,
            window_end,
            stream_time,
        };
        self.late.forward(
            context,
            Record {
                key,
                value,
                timestamp,
                headers,
            },
        )
    }
}

/// The windows of an aggregation, as a join with its table looks them up.
struct WindowRows<K, A> {
    name: String,
    store: Rc<RefCell<WindowStore>>,
    key: SharedSerde<K>,
    value: SharedSerde<A>,
    buffer: Vec<u8>,
}

impl<K, A> Look<Windowed<K>, A> for WindowRows<K, A> {
    fn get(&mut self, key: &Windowed<K>) -> Result<Option<(A, Timestamp)>> {
        let fault = |part: &str, error| {
            Fault::serde(format_args!("a {part} of table {}", self.name), error)
        };
        self.buffer.clear();
        self.key
            .serialize(&key.key, &mut self.buffer)
            .map_err(|error| fault("key", error))?;
        let Some(row) = self.store.borrow().get(&self.buffer, key.start)? else {
            return Ok(None);
        };
        let value = self
            .value
            .deserialize(&row.value)
            .map_err(|error| fault("value", error))?;
        Ok(Some((value, row.timestamp)))
    }
}
