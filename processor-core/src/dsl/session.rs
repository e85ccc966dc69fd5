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
//! once, when it closes: see [`emit_final`](SessionWindowedStream::emit_final).
//!
//! Source of the semantics: Kafka Streams' `KStreamSessionWindowAggregate`, with these deliberate differences. Null
//! values are ignored, as its documentation says and its code does not. A session that ends exactly `gap + grace` before
//! stream time is still open and can be extended; there its store has forgotten it. An overwritten session is forwarded
//! with its old value, so that an aggregation of the table below subtracts it. Final results are not delayed by the wall
//! clock, and none is lost when time leaps.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use state::SessionStore;

use crate::clock::millis;
use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::{Context, Fanout, OperatorTime, Process};
use crate::record::{Change, Data, Record, Windowed};
use crate::serde::{Serde, SerdeError, SharedSerde, int64, session_windowed};
use crate::topology::{NodeKind, StoreKind};

use super::finals::{Emit, Finals};
use super::grouped::{KGroupedStream, Keyed, is_null};
use super::old_values::OldValues;
use super::outlet::Outlet;
use super::view::{Look, View};
use super::windowed::Late;
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

    /// The least end of a session that is still open at `time`.
    fn open_from(self, time: Timestamp) -> Timestamp {
        time.saturating_sub(self.retention_ms())
    }

    /// How long after its end a session is kept.
    fn retention_ms(self) -> i64 {
        self.gap_ms.saturating_add(self.grace_ms)
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
    /// Every change of every session, `None` for one that was extended or merged into another. With
    /// [`emit_final`](SessionWindowedStream::emit_final) every session once.
    ///
    /// Its key is written as `key ‖ end (8 bytes, big endian) ‖ start (8)`: see [`session_windowed`].
    #[must_use]
    pub fn to_stream(&self) -> KStream<Windowed<K>, Option<A>, Partitioned> {
        self.table.to_stream()
    }

    /// The aggregates as a table, whose key is key and session. A session that is closed keeps the value that it had, but
    /// cannot be looked up any more.
    #[must_use]
    pub fn table(&self) -> KTable<Windowed<K>, A> {
        self.table.clone()
    }

    /// Records that came too late for any session; the window that is named is what the record alone would have made.
    /// Without a consumer they are counted as dropped.
    #[must_use]
    pub fn late(&self) -> KStream<K, Late<V>, Partitioned> {
        self.late.clone()
    }
}

impl<K: Data, V: Data> KGroupedStream<K, V> {
    /// Groups the records of each key by sessions of event time.
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
    #[must_use]
    pub fn emit_final(self) -> Self {
        Self {
            emit: Emit::Finals,
            ..self
        }
    }

    /// Counts the records of each key and session, in the session store `name`.
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
    pub fn reduce(
        &self,
        name: &str,
        combine: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> SessionTable<K, V, V> {
        let Some(value) = self.grouped.upstream().value.clone() else {
            self.grouped.missing(name, "value");
            return self.detached();
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
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, SessionWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # let builder = StreamsBuilder::new("visits");
    /// let visits = SessionWindows::gap(Duration::from_secs(1_800)).grace(Duration::from_secs(60));
    /// let dearest = builder
    ///     .stream("offers", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by_session(visits)
    ///     .emit_final()
    ///     .aggregate("dearest", int64(), || 0, |_, price, max| max.max(price), |_, a, b| a.max(b));
    /// # dearest.to_stream().to("dearest"); builder.build().unwrap();
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
        let Some(Keyed { stream, key, value }) = self.grouped.keyed(name) else {
            return self.detached();
        };
        let (windows, emit) = (self.windows, self.emit);
        let changes = Outlet::<Windowed<K>, Change<A>>::new();
        let late = Outlet::<K, Late<V>>::new();
        let (node, store) = {
            let mut plan = stream.plan.borrow_mut();
            let retention_ms = windows.retention_ms();
            let store = plan.add_store(name, StoreKind::Session { retention_ms });
            let kind = NodeKind::Operator("session aggregate");
            let node = plan.add_node(name.to_owned(), kind, vec![stream.node], vec![store]);
            (node, store)
        };
        let below = (Arc::clone(&changes), Arc::clone(&late));
        let (operator, add, merge) = (name.to_owned(), Arc::new(add), Arc::new(merge));
        let (key_serde, aggregate_serde) = (Arc::clone(&key), Arc::clone(&serde));
        stream.outlet.attach(move |instantiation| {
            let time = OperatorTime::new(instantiation.times, &operator);
            let store = instantiation.session(store)?;
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
                store.find_all(all.0, all.1, &mut |key, start, end, _| {
                    finals.add(end, start, key);
                    ControlFlow::Continue(())
                })?;
            }
            Ok(Box::new(SessionAggregate {
                operator: operator.clone(),
                windows,
                store,
                time,
                finals,
                key: Arc::clone(&key_serde),
                value: value.clone(),
                serde: Arc::clone(&aggregate_serde),
                add: Arc::clone(&add),
                merge: Arc::clone(&merge),
                key_buffer: Vec::new(),
                value_buffer: Vec::new(),
                changes: below.0.instantiate(instantiation)?,
                late: below.1.instantiate(instantiation)?,
            }))
        });
        let windowed_key: SharedSerde<Windowed<K>> = Arc::new(session_windowed(Arc::clone(&key)));
        let (rows_key, rows_value, rows_name) =
            (Arc::clone(&key), Arc::clone(&serde), name.to_owned());
        let view = View::new(vec![store], move |instantiation| {
            Ok(SessionRows {
                name: rows_name.clone(),
                store: instantiation.session(store)?,
                key: Arc::clone(&rows_key),
                value: Arc::clone(&rows_value),
                buffer: Vec::new(),
            })
        });
        let plan = &stream.plan;
        SessionTable {
            table: KTable {
                plan: Rc::clone(plan),
                node,
                outlet: changes,
                view: Some(view),
                key: Some(windowed_key),
                value: Some(serde),
                old_values: OldValues::default(),
                // A session's end is part of it.
                closes_after_ms: Some(windows.retention_ms().saturating_add(1)),
            },
            late: KStream::new(Rc::clone(plan), node, late, Some(key), None),
        }
    }

    /// Stands in after a problem that `build` reports.
    fn detached<A: Data>(&self) -> SessionTable<K, V, A> {
        let upstream = self.grouped.upstream();
        let (plan, node) = (&upstream.plan, upstream.node);
        SessionTable {
            table: KTable::detached(upstream),
            late: KStream::new(Rc::clone(plan), node, Outlet::new(), None, None),
        }
    }
}

/// A session as the store has it.
struct Found<A> {
    start: Timestamp,
    end: Timestamp,
    value: A,
}

/// An aggregation over sessions in a task.
struct SessionAggregate<K, V, A, F, M> {
    operator: String,
    windows: SessionWindows,
    store: Rc<RefCell<SessionStore>>,
    time: OperatorTime,
    /// Where sessions are emitted as they close.
    finals: Option<Finals>,
    key: SharedSerde<K>,
    value: Option<SharedSerde<V>>,
    serde: SharedSerde<A>,
    add: Arc<F>,
    merge: Arc<M>,
    key_buffer: Vec<u8>,
    value_buffer: Vec<u8>,
    changes: Fanout<Windowed<K>, Change<A>>,
    late: Fanout<K, Late<V>>,
}

impl<K, V, A, F, M> Process<K, V> for SessionAggregate<K, V, A, F, M>
where
    K: Data,
    V: Data,
    A: Data,
    F: Fn(&K, V, Option<A>) -> A,
    M: Fn(&K, Option<A>, A) -> A,
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

        let found = self.find(record.timestamp, open_from)?;
        if found.is_empty() && record.timestamp < open_from {
            self.too_late(context, record)?;
        } else {
            self.add_to(context, found, record)?;
        }

        if moved {
            self.emit_closed(context, open_from)?;
            self.store.borrow_mut().expire_before(open_from);
        }
        Ok(())
    }
}

impl<K, V, A, F, M> SessionAggregate<K, V, A, F, M>
where
    K: Data,
    V: Data,
    A: Data,
    F: Fn(&K, V, Option<A>) -> A,
    M: Fn(&K, Option<A>, A) -> A,
{
    /// The open sessions, by time, that a record at `timestamp` belongs to; its key is in the buffer.
    fn find(&self, timestamp: Timestamp, open_from: Timestamp) -> Result<Vec<Found<A>>> {
        let earliest_end = timestamp.saturating_sub(self.windows.gap_ms).max(open_from);
        let latest_start = timestamp.saturating_add(self.windows.gap_ms);
        let (mut found, mut failed) = (Vec::new(), None);
        self.store.borrow().find(
            &self.key_buffer,
            earliest_end,
            latest_start,
            &mut |start, end, row| match self.serde.deserialize(&row.value) {
                Ok(value) => {
                    found.push(Found { start, end, value });
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(self.fault("value", error));
                    ControlFlow::Break(())
                }
            },
        )?;
        failed.map_or(Ok(found), Err)
    }

    /// Makes one session of the record, whose key is in the buffer, and those it was found to belong to.
    fn add_to(
        &mut self,
        context: &mut Context<'_>,
        found: Vec<Found<A>>,
        record: Record<K, V>,
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
        for session in found {
            let Found {
                start,
                end,
                value: old,
            } = session;
            aggregate = Some((self.merge)(&key, aggregate, old.clone()));
            if overwrites {
                overwritten = Some(old);
                continue;
            }
            let mut store = self.store.borrow_mut();
            store.remove(&self.key_buffer, start, end, end)?;
            drop(store);
            if let Some(finals) = &mut self.finals {
                finals.remove(end, start, &self.key_buffer);
                continue;
            }
            let key = key.clone();
            let deletion = Record {
                key: Windowed { key, start, end },
                value: Change {
                    new: None,
                    old: Some(old),
                },
                timestamp: end,
                headers: headers.clone(),
            };
            self.changes.forward(context, deletion)?;
        }

        let new = (self.add)(&key, value, aggregate);
        self.value_buffer.clear();
        self.serde
            .serialize(&new, &mut self.value_buffer)
            .map_err(|error| self.fault("value", error))?;
        let mut store = self.store.borrow_mut();
        store.put(&self.key_buffer, start, end, &self.value_buffer, end)?;
        drop(store);
        if let Some(finals) = &mut self.finals {
            finals.add(end, start, &self.key_buffer);
            return Ok(());
        }
        let session = Record {
            key: Windowed { key, start, end },
            value: Change {
                new: Some(new),
                old: overwritten,
            },
            timestamp: end,
            headers,
        };
        self.changes.forward(context, session)
    }

    /// Emits what is closed, now that sessions are open whose end is not before `open_from`.
    fn emit_closed(&mut self, context: &mut Context<'_>, open_from: Timestamp) -> Result {
        let Some(finals) = &mut self.finals else {
            return Ok(());
        };
        for (end, start, bytes) in finals.take_closed(open_from) {
            let row = self.store.borrow().get(&bytes, start, end)?;
            let row = row.expect("an open session is in the store");
            let key = self
                .key
                .deserialize(&bytes)
                .map_err(|error| self.fault("key", error))?;
            let value = self
                .serde
                .deserialize(&row.value)
                .map_err(|error| self.fault("value", error))?;
            let change = Change {
                new: Some(value),
                old: None,
            };
            let key = Windowed { key, start, end };
            self.changes
                .forward(context, Record::new(key, change, end))?;
        }
        Ok(())
    }
}

impl<K: Data, V: Data, A, F, M> SessionAggregate<K, V, A, F, M> {
    fn fault(&self, part: &str, error: SerdeError) -> Fault {
        let what = format_args!("a {part} of aggregation {}", self.operator);
        Fault::serde(what, error)
    }

    fn too_late(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        let stream_time = self.time.now();
        if self.late.is_empty() {
            metrics::counter!("dropped-records", "reason" => "late").increment(1);
            tracing::debug!(
                operator = %self.operator, timestamp = record.timestamp, stream_time,
                "a late record is dropped; take `late()` to keep it"
            );
            return Ok(());
        }
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        let value = Late {
            value,
            window_start: timestamp,
            window_end: timestamp,
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

/// The sessions of an aggregation, as a join with its table looks them up.
struct SessionRows<K, A> {
    name: String,
    store: Rc<RefCell<SessionStore>>,
    key: SharedSerde<K>,
    value: SharedSerde<A>,
    buffer: Vec<u8>,
}

impl<K, A> Look<Windowed<K>, A> for SessionRows<K, A> {
    fn get(&mut self, key: &Windowed<K>) -> Result<Option<(A, Timestamp)>> {
        let fault = |part: &str, error| {
            Fault::serde(format_args!("a {part} of table {}", self.name), error)
        };
        self.buffer.clear();
        self.key
            .serialize(&key.key, &mut self.buffer)
            .map_err(|error| fault("key", error))?;
        let row = self.store.borrow().get(&self.buffer, key.start, key.end)?;
        let Some(row) = row else {
            return Ok(None);
        };
        let value = self
            .value
            .deserialize(&row.value)
            .map_err(|error| fault("value", error))?;
        Ok(Some((value, key.end)))
    }
}
