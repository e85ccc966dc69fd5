//! Joins of two streams over a window of event time: inner, left and outer.
//!
//! A left record at `t` meets right records in `[t − before, t + after]`, both ends included. Its window is closed once
//! stream time is beyond `t + after + grace`; a right record's, once it is beyond `t + before + grace`; a bound that is
//! negative counts as 0 there. Stream time is the largest timestamp of both inputs.
//!
//! Source of the semantics: Kafka Streams' `KStreamKStreamJoin`, with two deliberate differences.
//! - A record whose own window is closed is late: it goes to the late branch and meets nothing (Kafka Streams joins
//!   whatever its store still holds, KAFKA-16123). One in time meets every partner within the window, closed or not.
//! - An unmatched record waits for its window *and grace*, and a record of an outer side meets nobody once its window is
//!   closed, so an unmatched result is final (KAFKA-19536).
//!
//! Unmatched results leave when a record with key and value comes at stream time and their window is closed: before that
//! record is joined, by timestamp, right side first, then key.

use std::cell::RefCell;
use std::ops::{Bound, ControlFlow, Deref, RangeInclusive};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use state::{Direction, JoinStore, KeyValueStore};

use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::{Context, Fanout, OperatorTime, Process};
use crate::record::{Data, Record};
use crate::serde::{Serde, SerdeError, SharedSerde};
use crate::topology::{NodeKind, StoreId, StoreKind};

use super::lineage::{Lineage, Partitioned};
use super::outlet::Outlet;
use super::time_windows::millis;
use super::windowed::Late;
use super::{KStream, Keyless, repartition};

/// How far apart two records may be to be joined: see [`JoinWindows::of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinWindows {
    before_ms: i64,
    after_ms: i64,
    grace_ms: i64,
}

/// A join window that still needs its grace, which has no default: how late may a record be?
#[derive(Debug, Clone, Copy)]
pub struct JoinWithoutGrace {
    before_ms: i64,
    after_ms: i64,
}

impl JoinWindows {
    /// Right records from `difference` before to `difference` after the left one.
    #[must_use]
    pub fn of(difference: Duration) -> JoinWithoutGrace {
        Self::between(difference, difference)
    }

    /// Right records from `before` before to `after` after the left one, both ends included.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::JoinWindows;
    /// // A click belongs to an impression of the 30 minutes before it.
    /// let windows = JoinWindows::between(Duration::ZERO, Duration::from_secs(30 * 60))
    ///     .grace(Duration::from_secs(5 * 60));
    /// ```
    #[must_use]
    pub fn between(before: Duration, after: Duration) -> JoinWithoutGrace {
        JoinWithoutGrace {
            before_ms: millis(before),
            after_ms: millis(after),
        }
    }

    /// Right records that are so many milliseconds later than the left one; negative is earlier. So a window may lie
    /// wholly after the left record, or before it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::JoinWindows;
    /// // A return belongs to an order if it comes a day later at the earliest, and two weeks at the latest.
    /// const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
    /// let windows = JoinWindows::later_by_ms(DAY_MS..=14 * DAY_MS).grace(Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn later_by_ms(differences: RangeInclusive<i64>) -> JoinWithoutGrace {
        JoinWithoutGrace {
            before_ms: differences.start().saturating_neg(),
            after_ms: *differences.end(),
        }
    }
}

impl JoinWithoutGrace {
    /// How long after its window, in stream time, a record may still be joined.
    #[must_use]
    pub fn grace(self, grace: Duration) -> JoinWindows {
        let Self {
            before_ms,
            after_ms,
        } = self;
        JoinWindows {
            before_ms,
            after_ms,
            grace_ms: millis(grace),
        }
    }
}

impl JoinWindows {
    /// The least timestamp of a left record that is still open at `time`.
    fn left_open_from(self, time: Timestamp) -> Timestamp {
        time.saturating_sub(self.after_ms.max(0))
            .saturating_sub(self.grace_ms)
    }

    /// The least timestamp of a right record that is still open at `time`.
    fn right_open_from(self, time: Timestamp) -> Timestamp {
        time.saturating_sub(self.before_ms.max(0))
            .saturating_sub(self.grace_ms)
    }

    /// The least timestamps of left and right records that may still be met at `time`.
    fn met_from(self, outer: Outer, time: Timestamp) -> (Timestamp, Timestamp) {
        let kept_from = time.saturating_sub(self.retention_ms());
        let left = if outer.left {
            self.left_open_from(time)
        } else {
            kept_from
        };
        let right = if outer.right {
            self.right_open_from(time)
        } else {
            kept_from
        };
        (left, right)
    }

    /// Timestamps of the right records that a left one at `timestamp` meets, both included.
    fn around_left(self, timestamp: Timestamp) -> (Timestamp, Timestamp) {
        (
            timestamp.saturating_sub(self.before_ms),
            timestamp.saturating_add(self.after_ms),
        )
    }

    /// Timestamps of the left records that a right one at `timestamp` meets, both included.
    fn around_right(self, timestamp: Timestamp) -> (Timestamp, Timestamp) {
        (
            timestamp.saturating_sub(self.after_ms),
            timestamp.saturating_add(self.before_ms),
        )
    }

    /// How long both sides are kept: so long may a record in time meet an older one.
    fn retention_ms(self) -> i64 {
        self.before_ms
            .max(0)
            .saturating_add(self.after_ms.max(0))
            .saturating_add(self.grace_ms)
    }
}

/// The results of a join, and the records that came too late for it.
pub struct Joined<K, V, W, R> {
    results: KStream<K, R, Partitioned>,
    late_left: KStream<K, Late<V>, Partitioned>,
    late_right: KStream<K, Late<W>, Partitioned>,
}

impl<K: Data, V: Data, W: Data, R: Data> Joined<K, V, W, R> {
    /// Left records that came after their window had closed. Without a consumer they are counted as dropped.
    #[must_use]
    pub fn late_left(&self) -> KStream<K, Late<V>, Partitioned> {
        self.late_left.clone()
    }

    /// Right records that came after their window had closed.
    #[must_use]
    pub fn late_right(&self) -> KStream<K, Late<W>, Partitioned> {
        self.late_right.clone()
    }
}

impl<K, V, W, R> Deref for Joined<K, V, W, R> {
    type Target = KStream<K, R, Partitioned>;

    fn deref(&self) -> &Self::Target {
        &self.results
    }
}

/// Which sides emit without a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outer {
    left: bool,
    right: bool,
}

type Join<K, V, W, R> = Arc<dyn Fn(&K, Option<V>, Option<W>) -> R + Send + Sync>;

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    /// Joins each pair of records with equal keys that lie within the windows. The result has the later timestamp of
    /// the two; records with a null key or value are dropped.
    ///
    /// Keeps both sides in the stores `<name>-this` and `<name>-other`. Both streams must be co-partitioned; one whose
    /// key may have changed is sent through a repartition topic (`<name>-left`, `<name>-right`) first.
    pub fn join<W: Data, R: Data, M: Lineage>(
        &self,
        name: &str,
        other: &KStream<K, W, M>,
        windows: JoinWindows,
        join: impl Fn(&K, V, W) -> R + Send + Sync + 'static,
    ) -> Joined<K, V, W, R> {
        let both = move |key: &K, left: Option<V>, right: Option<W>| match (left, right) {
            (Some(left), Some(right)) => join(key, left, right),
            _ => unreachable!("an inner join emits pairs only"),
        };
        self.join_streams(
            name,
            other,
            windows,
            Outer {
                left: false,
                right: false,
            },
            Arc::new(both),
        )
    }

    /// Like [`join`](Self::join), and a left record that met nothing until its window and grace were over is joined
    /// with `None`, once, with its own timestamp. A left record with a null key is joined with `None` at once.
    pub fn left_join<W: Data, R: Data, M: Lineage>(
        &self,
        name: &str,
        other: &KStream<K, W, M>,
        windows: JoinWindows,
        join: impl Fn(&K, V, Option<W>) -> R + Send + Sync + 'static,
    ) -> Joined<K, V, W, R> {
        let left_always = move |key: &K, left: Option<V>, right: Option<W>| match left {
            Some(left) => join(key, left, right),
            None => unreachable!("a left join emits no right record alone"),
        };
        let outer = Outer {
            left: true,
            right: false,
        };
        self.join_streams(name, other, windows, outer, Arc::new(left_always))
    }

    /// Like [`left_join`](Self::left_join), for both sides.
    pub fn outer_join<W: Data, R: Data, M: Lineage>(
        &self,
        name: &str,
        other: &KStream<K, W, M>,
        windows: JoinWindows,
        join: impl Fn(&K, Option<V>, Option<W>) -> R + Send + Sync + 'static,
    ) -> Joined<K, V, W, R> {
        self.join_streams(
            name,
            other,
            windows,
            Outer {
                left: true,
                right: true,
            },
            Arc::new(join),
        )
    }

    fn join_streams<W: Data, R: Data, M: Lineage>(
        &self,
        name: &str,
        other: &KStream<K, W, M>,
        windows: JoinWindows,
        outer: Outer,
        join: Join<K, V, W, R>,
    ) -> Joined<K, V, W, R> {
        let left = self.partitioned(&format!("{name}-left"));
        let right = other.partitioned(&format!("{name}-right"));
        let results = Outlet::<K, R>::new();
        let (late_left, late_right) = (Outlet::<K, Late<V>>::new(), Outlet::<K, Late<W>>::new());

        let retention_ms = windows.retention_ms();
        let (node, stores) = {
            let mut plan = self.plan.borrow_mut();
            let stores = Stores {
                left: plan.add_store(&format!("{name}-this"), StoreKind::Join { retention_ms }),
                right: plan.add_store(&format!("{name}-other"), StoreKind::Join { retention_ms }),
                pending: (outer.left || outer.right)
                    .then(|| plan.add_store(&format!("{name}-pending"), StoreKind::KeyValue)),
            };
            let ids = [stores.left, stores.right]
                .into_iter()
                .chain(stores.pending)
                .collect();
            let parents = vec![left.node, right.node];
            let kind = NodeKind::Operator("stream-stream join");
            let node = plan.add_node(name.to_owned(), kind, parents.clone(), ids);
            plan.copartitioned.push((name.to_owned(), parents));
            (node, stores)
        };
        let plan = &self.plan;
        let joined = Joined {
            results: KStream::new(
                Rc::clone(plan),
                node,
                Arc::clone(&results),
                left.key.clone(),
                None,
            ),
            late_left: KStream::new(
                Rc::clone(plan),
                node,
                Arc::clone(&late_left),
                left.key.clone(),
                None,
            ),
            late_right: KStream::new(
                Rc::clone(plan),
                node,
                Arc::clone(&late_right),
                left.key.clone(),
                None,
            ),
        };
        let (Some(key), Some(left_serde), Some(right_serde)) =
            (left.key.clone(), left.value.clone(), right.value.clone())
        else {
            plan.borrow_mut().problems.push(format!(
                "join '{name}' needs serdes for the key and both values; an operator changed a type, so send the \
                 stream through `repartition` with its serdes first"
            ));
            return joined;
        };

        let name = name.to_owned();
        let shared = Arc::new(
            move |instantiation: &mut crate::processor::Instantiation<'_>| {
                instantiation.shared(node, |instantiation| {
                    let time = OperatorTime::new(instantiation.times, &name);
                    let left_store = instantiation.join(stores.left)?;
                    let right_store = instantiation.join(stores.right)?;
                    // What had expired before a restart stays so: a probe must not find it again.
                    let (left_from, right_from) = windows.met_from(outer, time.now());
                    left_store.borrow_mut().restore_horizon(left_from);
                    right_store.borrow_mut().restore_horizon(right_from);
                    Ok(Rc::new(RefCell::new(JoinNode {
                        name: name.clone(),
                        windows,
                        outer,
                        join: Arc::clone(&join),
                        time,
                        key: Arc::clone(&key),
                        left: Side {
                            store: left_store,
                            value: Arc::clone(&left_serde),
                        },
                        right: Side {
                            store: right_store,
                            value: Arc::clone(&right_serde),
                        },
                        pending: match stores.pending {
                            Some(store) => Some(Pending::open(instantiation.key_value(store)?)?),
                            None => None,
                        },
                        key_buffer: Vec::new(),
                        value_buffer: Vec::new(),
                        results: results.instantiate(instantiation)?,
                        late_left: late_left.instantiate(instantiation)?,
                        late_right: late_right.instantiate(instantiation)?,
                    })))
                })
            },
        );
        let for_right = Arc::clone(&shared);
        left.outlet
            .attach(move |instantiation| Ok(Box::new(LeftInput(shared(instantiation)?))));
        right
            .outlet
            .attach(move |instantiation| Ok(Box::new(RightInput(for_right(instantiation)?))));
        joined
    }

    /// This stream, repartitioned under `name` if its key may have changed; with its records without a key, since those
    /// move time too.
    pub(crate) fn partitioned(&self, name: &str) -> KStream<K, V, Partitioned> {
        let as_it_is = || {
            let (plan, outlet) = (Rc::clone(&self.plan), Arc::clone(&self.outlet));
            KStream::new(
                plan,
                self.node,
                outlet,
                self.key.clone(),
                self.value.clone(),
            )
        };
        if !L::MUST_REPARTITION {
            return as_it_is();
        }
        match (self.key.clone(), self.value.clone()) {
            (Some(key), Some(value)) => repartition(self, name, key, value, None, Keyless::Kept),
            _ => {
                self.plan.borrow_mut().problems.push(format!(
                    "'{name}' must be repartitioned, but has no serdes, since an operator changed a type; use \
                     `repartition(\"{name}\", key serde, value serde, None)` before it"
                ));
                as_it_is()
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Stores {
    left: StoreId,
    right: StoreId,
    pending: Option<StoreId>,
}

struct Side<V> {
    store: Rc<RefCell<JoinStore>>,
    value: SharedSerde<V>,
}

/// A side, in the order in which unmatched results of one timestamp leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Right = 0,
    Left = 1,
}

/// Both inputs of a join in a task.
struct JoinNode<K, V, W, R> {
    name: String,
    windows: JoinWindows,
    outer: Outer,
    join: Join<K, V, W, R>,
    time: OperatorTime,
    key: SharedSerde<K>,
    left: Side<V>,
    right: Side<W>,
    pending: Option<Pending>,
    key_buffer: Vec<u8>,
    value_buffer: Vec<u8>,
    results: Fanout<K, R>,
    late_left: Fanout<K, Late<V>>,
    late_right: Fanout<K, Late<W>>,
}

struct LeftInput<K, V, W, R>(Rc<RefCell<JoinNode<K, V, W, R>>>);
struct RightInput<K, V, W, R>(Rc<RefCell<JoinNode<K, V, W, R>>>);

impl<K: Data, V: Data, W: Data, R: Data> Process<K, V> for LeftInput<K, V, W, R> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        let mut node = self.0.borrow_mut();
        let node = &mut *node;
        node.move_time(context, record.timestamp);
        if node.left.value.is_null(&record.value) {
            return dropped("null value");
        }
        if node.key.is_null(&record.key) {
            return if node.outer.left {
                let Record {
                    key,
                    value,
                    timestamp,
                    headers,
                } = record;
                let value = (node.join)(&key, Some(value), None);
                node.results.forward(
                    context,
                    Record {
                        key,
                        value,
                        timestamp,
                        headers,
                    },
                )
            } else {
                dropped("null key")
            };
        }
        node.give_up_closed(context, record.timestamp)?;
        let (timestamp, now) = (record.timestamp, node.time.now());
        let window = node.windows.around_left(timestamp);
        if timestamp < node.windows.left_open_from(now) {
            return late(
                &node.name,
                &mut node.late_left,
                context,
                record,
                window,
                now,
            );
        }
        encode(&*node.key, &record.key, &mut node.key_buffer, &node.name)?;
        encode(
            &*node.left.value,
            &record.value,
            &mut node.value_buffer,
            &node.name,
        )?;
        let probe = Probe {
            name: &node.name,
            key: &node.key_buffer,
            from: window.0,
            to: window.1,
            side: Input::Right,
        };
        let (join, results) = (&node.join, &mut node.results);
        let matched = probe.run(&node.right, node.pending.as_mut(), |other_time, other| {
            let value = join(&record.key, Some(record.value.clone()), Some(other));
            results.forward(
                context,
                Record {
                    key: record.key.clone(),
                    value,
                    timestamp: timestamp.max(other_time),
                    headers: record.headers.clone(),
                },
            )
        })?;
        let sequence = node.left.store.borrow_mut().append(
            &node.key_buffer,
            timestamp,
            sequence_of(context),
            &node.value_buffer,
        )?;
        if node.outer.left && !matched {
            node.wait(Input::Left, timestamp, sequence)?;
        }
        Ok(())
    }
}

impl<K: Data, V: Data, W: Data, R: Data> Process<K, W> for RightInput<K, V, W, R> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, W>) -> Result {
        let mut node = self.0.borrow_mut();
        let node = &mut *node;
        node.move_time(context, record.timestamp);
        if node.right.value.is_null(&record.value) {
            return dropped("null value");
        }
        if node.key.is_null(&record.key) {
            return if node.outer.right {
                let Record {
                    key,
                    value,
                    timestamp,
                    headers,
                } = record;
                let value = (node.join)(&key, None, Some(value));
                node.results.forward(
                    context,
                    Record {
                        key,
                        value,
                        timestamp,
                        headers,
                    },
                )
            } else {
                dropped("null key")
            };
        }
        node.give_up_closed(context, record.timestamp)?;
        let (timestamp, now) = (record.timestamp, node.time.now());
        let window = node.windows.around_right(timestamp);
        if timestamp < node.windows.right_open_from(now) {
            return late(
                &node.name,
                &mut node.late_right,
                context,
                record,
                window,
                now,
            );
        }
        encode(&*node.key, &record.key, &mut node.key_buffer, &node.name)?;
        encode(
            &*node.right.value,
            &record.value,
            &mut node.value_buffer,
            &node.name,
        )?;
        let probe = Probe {
            name: &node.name,
            key: &node.key_buffer,
            from: window.0,
            to: window.1,
            side: Input::Left,
        };
        let (join, results) = (&node.join, &mut node.results);
        let matched = probe.run(&node.left, node.pending.as_mut(), |other_time, other| {
            let value = join(&record.key, Some(other), Some(record.value.clone()));
            results.forward(
                context,
                Record {
                    key: record.key.clone(),
                    value,
                    timestamp: timestamp.max(other_time),
                    headers: record.headers.clone(),
                },
            )
        })?;
        let sequence = node.right.store.borrow_mut().append(
            &node.key_buffer,
            timestamp,
            sequence_of(context),
            &node.value_buffer,
        )?;
        if node.outer.right && !matched {
            node.wait(Input::Right, timestamp, sequence)?;
        }
        Ok(())
    }
}

impl<K: Data, V: Data, W: Data, R: Data> JoinNode<K, V, W, R> {
    /// Takes notice of a record's time; when it moves time forward, lets go of what can no longer be joined.
    fn move_time(&mut self, context: &Context<'_>, timestamp: Timestamp) {
        if self.time.observe(timestamp, context) {
            let (left_from, right_from) = self.windows.met_from(self.outer, self.time.now());
            self.left.store.borrow_mut().expire_before(left_from);
            self.right.store.borrow_mut().expire_before(right_from);
        }
    }

    /// Emits what can no longer match, if the record at hand, at `timestamp`, is at stream time.
    fn give_up_closed(&mut self, context: &mut Context<'_>, timestamp: Timestamp) -> Result {
        let now = self.time.now();
        if timestamp < now {
            return Ok(());
        }
        let left_open_from = self.windows.left_open_from(now);
        let right_open_from = self.windows.right_open_from(now);
        if let Some(pending) = &mut self.pending {
            for entry in pending.take_closed(left_open_from, right_open_from)? {
                let fault = |error| broken(&self.name, error);
                let key = self.key.deserialize(&entry.key).map_err(fault)?;
                let value = match entry.side {
                    Input::Left => {
                        let left = self.left.value.deserialize(&entry.value).map_err(fault)?;
                        (self.join)(&key, Some(left), None)
                    }
                    Input::Right => {
                        let right = self.right.value.deserialize(&entry.value).map_err(fault)?;
                        (self.join)(&key, None, Some(right))
                    }
                };
                self.results
                    .forward(context, Record::new(key, value, entry.timestamp))?;
            }
        }
        Ok(())
    }

    /// Keeps the record at hand until its window closes or a partner comes.
    fn wait(&mut self, side: Input, timestamp: Timestamp, sequence: u32) -> Result {
        let pending = self
            .pending
            .as_mut()
            .expect("outer joins have a pending store");
        pending.add(
            side,
            timestamp,
            sequence,
            &self.key_buffer,
            &self.value_buffer,
        )
    }
}

/// A look into the other side's buffer.
struct Probe<'a> {
    name: &'a str,
    key: &'a [u8],
    from: Timestamp,
    to: Timestamp,
    /// The side that is looked at.
    side: Input,
}

impl Probe<'_> {
    /// Calls `emit` for every partner, and takes it from the unmatched ones. Whether there was any.
    fn run<O>(
        &self,
        other: &Side<O>,
        mut pending: Option<&mut Pending>,
        mut emit: impl FnMut(Timestamp, O) -> Result,
    ) -> Result<bool> {
        if self.from > self.to {
            return Ok(false);
        }
        let mut matched = false;
        let mut failed = None;
        let store = other.store.borrow();
        store.fetch(
            self.key,
            self.from,
            self.to,
            &mut |timestamp, sequence, bytes| {
                matched = true;
                let emitted = other
                    .value
                    .deserialize(bytes)
                    .map_err(|error| broken(self.name, error))
                    .and_then(|value| match pending.as_mut() {
                        Some(pending) => {
                            pending.remove(self.side, timestamp, sequence, self.key)?;
                            emit(timestamp, value)
                        }
                        None => emit(timestamp, value),
                    });
                match emitted {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(fault) => {
                        failed = Some(fault);
                        ControlFlow::Break(())
                    }
                }
            },
        )?;
        failed.map_or(Ok(matched), Err)
    }
}

/// Records without a partner so far, in the order in which they close:
/// `timestamp (8) ‖ side (1: 0 right, 1 left) ‖ key ‖ sequence (4)`.
struct Pending {
    store: Rc<RefCell<KeyValueStore>>,
    /// No entry is older than this; saves a scan for every record that finds nothing to emit.
    earliest: Timestamp,
    buffer: Vec<u8>,
}

struct PendingEntry {
    timestamp: Timestamp,
    side: Input,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Pending {
    fn open(store: Rc<RefCell<KeyValueStore>>) -> Result<Self> {
        let mut pending = Self {
            store,
            earliest: Timestamp::MAX,
            buffer: Vec::new(),
        };
        pending.earliest = pending.first_timestamp()?;
        Ok(pending)
    }

    fn first_timestamp(&self) -> Result<Timestamp> {
        let mut first = Timestamp::MAX;
        let (from, to) = (Bound::Unbounded, Bound::Unbounded);
        self.store
            .borrow()
            .scan(from, to, Direction::Forward, &mut |key, _| {
                first = timestamp_of(key);
                ControlFlow::Break(())
            })?;
        Ok(first)
    }

    fn encode(&mut self, side: Input, timestamp: Timestamp, sequence: u32, key: &[u8]) {
        self.buffer.clear();
        self.buffer.extend_from_slice(&ordered(timestamp));
        self.buffer.push(side as u8);
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(&sequence.to_be_bytes());
    }

    fn add(
        &mut self,
        side: Input,
        timestamp: Timestamp,
        sequence: u32,
        key: &[u8],
        value: &[u8],
    ) -> Result {
        self.encode(side, timestamp, sequence, key);
        self.store
            .borrow_mut()
            .put(&self.buffer, value, timestamp)?;
        self.earliest = self.earliest.min(timestamp);
        Ok(())
    }

    /// Asks first, since a blind delete would cost a tombstone in the changelog for every match.
    fn remove(&mut self, side: Input, timestamp: Timestamp, sequence: u32, key: &[u8]) -> Result {
        self.encode(side, timestamp, sequence, key);
        let mut store = self.store.borrow_mut();
        if store.get(&self.buffer)?.is_some() {
            store.delete(&self.buffer, timestamp)?;
        }
        Ok(())
    }

    /// Takes out the left entries before `left_open_from` and the right ones before `right_open_from`.
    fn take_closed(
        &mut self,
        left_open_from: Timestamp,
        right_open_from: Timestamp,
    ) -> Result<Vec<PendingEntry>> {
        let bound = left_open_from.max(right_open_from);
        if self.earliest >= bound {
            return Ok(Vec::new());
        }
        let mut closed = Vec::new();
        let mut store_keys = Vec::new();
        let mut earliest = Timestamp::MAX;
        let end = ordered(bound);
        let mut store = self.store.borrow_mut();
        let (from, to) = (Bound::Unbounded, Bound::Excluded(&end[..]));
        store.scan(from, to, Direction::Forward, &mut |bytes, stamped| {
            let timestamp = timestamp_of(bytes);
            let (side, open_from) = match bytes[8] {
                0 => (Input::Right, right_open_from),
                _ => (Input::Left, left_open_from),
            };
            if timestamp < open_from {
                let key = bytes[9..bytes.len() - 4].to_vec();
                closed.push(PendingEntry {
                    timestamp,
                    side,
                    key,
                    value: stamped.value.to_vec(),
                });
                store_keys.push((bytes.to_vec(), timestamp));
            } else {
                earliest = earliest.min(timestamp);
            }
            ControlFlow::Continue(())
        })?;
        for (key, timestamp) in store_keys {
            store.delete(&key, timestamp)?;
        }
        drop(store);
        // Entries at or after the bound were not looked at.
        self.earliest = earliest.min(self.first_timestamp()?);
        Ok(closed)
    }
}

/// A timestamp whose bytes sort like the number, negative ones included.
fn ordered(timestamp: Timestamp) -> [u8; 8] {
    (timestamp.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn timestamp_of(pending_key: &[u8]) -> Timestamp {
    let bytes = pending_key.first_chunk::<8>().copied().unwrap_or_default();
    (u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()
}

/// Duplicate numbers follow the input offset, so that a replay writes the same entry again.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the low bits are wanted"
)]
fn sequence_of(context: &Context<'_>) -> u32 {
    context.offset as u32
}

fn encode<T>(serde: &dyn Serde<T>, value: &T, buffer: &mut Vec<u8>, operator: &str) -> Result {
    buffer.clear();
    serde
        .serialize(value, buffer)
        .map_err(|error| broken(operator, error))
}

fn broken(operator: &str, error: SerdeError) -> Fault {
    Fault::serde(format_args!("a record of join {operator}"), error)
}

fn dropped(reason: &'static str) -> Result {
    metrics::counter!("dropped-records", "reason" => reason).increment(1);
    Ok(())
}

fn late<K: Data, V: Data>(
    operator: &str,
    branch: &mut Fanout<K, Late<V>>,
    context: &mut Context<'_>,
    record: Record<K, V>,
    (window_start, window_end): (Timestamp, Timestamp),
    stream_time: Timestamp,
) -> Result {
    if branch.is_empty() {
        tracing::debug!(
            operator,
            timestamp = record.timestamp,
            stream_time,
            "a late record is dropped; take `late_left()` or `late_right()` to keep it"
        );
        return dropped("late");
    }
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
    branch.forward(
        context,
        Record {
            key,
            value,
            timestamp,
            headers,
        },
    )
}
