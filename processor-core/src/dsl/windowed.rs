//! Aggregations over tumbling windows of event time.
//!
//! A window `[start, end)` is aligned to the epoch. It takes records until stream time reaches `end + grace`; a record
//! that comes later goes to the late branch. Source of the semantics: Kafka Streams'
//! `KStreamWindowAggregate`, but null values are ignored, as its documentation says and its code does not.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use state::WindowStore;

use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::{Context, Fanout, OperatorTime, Process};
use crate::record::{Data, Record, Windowed};
use crate::serde::{Serde, SharedSerde, int64, windowed};
use crate::topology::{NodeKind, StoreKind};

use super::grouped::{KGroupedStream, Keyed, is_null};
use super::outlet::Outlet;
use super::{KStream, Partitioned};

/// Windows of a fixed size: see [`TimeWindows::tumbling`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeWindows {
    pub(crate) size_ms: i64,
    pub(crate) grace_ms: i64,
}

/// Windows that still need their grace, which has no default: how late may a record be?
#[derive(Debug, Clone, Copy)]
pub struct WithoutGrace {
    size_ms: i64,
}

impl TimeWindows {
    /// Windows of `size` that follow each other without overlap: `[n·size, (n+1)·size)`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::TimeWindows;
    /// let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::from_secs(5));
    /// ```
    #[must_use]
    pub fn tumbling(size: Duration) -> WithoutGrace {
        WithoutGrace {
            size_ms: millis(size).max(1),
        }
    }

    /// The window that holds `timestamp`.
    fn window_of(self, timestamp: Timestamp) -> (Timestamp, Timestamp) {
        let start = timestamp.max(0) / self.size_ms * self.size_ms;
        (start, start.saturating_add(self.size_ms))
    }

    /// The least start of a window that is still open at `time`.
    fn open_from(self, time: Timestamp) -> Timestamp {
        let closed = time
            .saturating_sub(self.grace_ms)
            .saturating_sub(self.size_ms);
        closed.saturating_add(1)
    }
}

impl WithoutGrace {
    /// How long after its end, in stream time, a window still takes records.
    #[must_use]
    pub fn grace(self, grace: Duration) -> TimeWindows {
        TimeWindows {
            size_ms: self.size_ms,
            grace_ms: millis(grace),
        }
    }
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

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
}

/// The aggregates of a windowed stream, and the records that came too late for them.
pub struct WindowedTable<K, V, A> {
    updates: KStream<Windowed<K>, A, Partitioned>,
    late: KStream<K, Late<V>, Partitioned>,
}

impl<K: Data, V: Data, A: Data> WindowedTable<K, V, A> {
    /// Every update of every window: emitted after each record, with the largest timestamp in the window.
    #[must_use]
    pub fn to_stream(&self) -> KStream<Windowed<K>, A, Partitioned> {
        self.updates.clone()
    }

    /// Records that came after their window had closed. Without a consumer they are counted as dropped.
    #[must_use]
    pub fn late(&self) -> KStream<K, Late<V>, Partitioned> {
        self.late.clone()
    }
}

impl<'a, K: Data, V: Data> TimeWindowedStream<'a, K, V> {
    pub(crate) fn new(grouped: &'a KGroupedStream<K, V>, windows: TimeWindows) -> Self {
        Self { grouped, windows }
    }

    /// Counts the records of each key and window, in the store `name`.
    pub fn count(&self, name: &str) -> WindowedTable<K, V, i64> {
        self.aggregate(name, int64(), || 0, |_, _, count| count + 1)
    }

    /// Combines the values of each key and window; the first value is taken as it is.
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

    /// Folds the values of each key and window into an aggregate that starts with `initial`.
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
        let Some(Keyed { stream, key, value }) = self.grouped.keyed(name) else {
            return self.detached();
        };
        let windows = self.windows;
        let updates = Outlet::<Windowed<K>, A>::new();
        let late = Outlet::<K, Late<V>>::new();
        let (node, store) = {
            let mut plan = stream.plan.borrow_mut();
            let retention_ms = windows.size_ms.saturating_add(windows.grace_ms);
            let store = plan.add_store(name, StoreKind::Window { retention_ms });
            let kind = NodeKind::Operator("windowed aggregate");
            let node = plan.add_node(name.to_owned(), kind, vec![stream.node], vec![store]);
            (node, store)
        };
        let (updates_below, late_below) = (Arc::clone(&updates), Arc::clone(&late));
        let (operator, add) = (name.to_owned(), Arc::new(add));
        let (key_serde, aggregate_serde) = (Arc::clone(&key), Arc::clone(&serde));
        stream.outlet.attach(move |instantiation| {
            let time = OperatorTime::new(instantiation.times, &operator);
            let store = instantiation.window(store)?;
            // What had expired before a restart stays so.
            store
                .borrow_mut()
                .restore_horizon(windows.open_from(time.now()));
            Ok(Box::new(WindowAggregate {
                time,
                operator: operator.clone(),
                windows,
                store,
                key: Arc::clone(&key_serde),
                value: value.clone(),
                serde: Arc::clone(&aggregate_serde),
                add: Arc::clone(&add),
                key_buffer: Vec::new(),
                value_buffer: Vec::new(),
                updates: updates_below.instantiate(instantiation)?,
                late: late_below.instantiate(instantiation)?,
            }))
        });
        let windowed_key: SharedSerde<Windowed<K>> =
            Arc::new(windowed(Arc::clone(&key), windows.size_ms));
        let plan = &stream.plan;
        WindowedTable {
            updates: KStream::new(
                Rc::clone(plan),
                node,
                updates,
                Some(windowed_key),
                Some(serde),
            ),
            late: KStream::new(Rc::clone(plan), node, late, Some(key), None),
        }
    }

    /// Stands in after a problem that `build` reports.
    fn detached<A: Data>(&self) -> WindowedTable<K, V, A> {
        let upstream = self.grouped.upstream();
        let (plan, node) = (&upstream.plan, upstream.node);
        WindowedTable {
            updates: KStream::new(Rc::clone(plan), node, Outlet::new(), None, None),
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
    key: SharedSerde<K>,
    value: Option<SharedSerde<V>>,
    serde: SharedSerde<A>,
    add: Arc<F>,
    key_buffer: Vec<u8>,
    value_buffer: Vec<u8>,
    updates: Fanout<Windowed<K>, A>,
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
        let open_from = self.windows.open_from(self.time.now());
        if moved {
            self.store.borrow_mut().expire_before(open_from);
        }
        let (start, end) = self.windows.window_of(record.timestamp);
        if start < open_from {
            return self.too_late(context, record, start, end);
        }

        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        let fault = |part: &str, error| {
            Fault::serde(
                format_args!("a {part} of aggregation {}", self.operator),
                error,
            )
        };
        self.key_buffer.clear();
        self.key
            .serialize(&key, &mut self.key_buffer)
            .map_err(|error| fault("key", error))?;

        let mut store = self.store.borrow_mut();
        let before = store.get(&self.key_buffer, start)?;
        let timestamp = before
            .as_ref()
            .map_or(timestamp, |b| b.timestamp.max(timestamp));
        let old = before
            .map(|before| self.serde.deserialize(&before.value))
            .transpose()
            .map_err(|error| fault("value", error))?;
        let new = (self.add)(&key, value, old);
        self.value_buffer.clear();
        self.serde
            .serialize(&new, &mut self.value_buffer)
            .map_err(|error| fault("value", error))?;
        store.put(&self.key_buffer, start, &self.value_buffer, timestamp)?;
        drop(store);

        let key = Windowed { key, start, end };
        self.updates.forward(
            context,
            Record {
                key,
                value: new,
                timestamp,
                headers,
            },
        )
    }
}

impl<K: Data, V: Data, A, F> WindowAggregate<K, V, A, F> {
    fn too_late(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, V>,
        window_start: Timestamp,
        window_end: Timestamp,
    ) -> Result {
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
