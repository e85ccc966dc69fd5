//! Holding back the updates of a table: until its windows close, or for some time.
//!
//! The table's latest change of each key waits in a buffer and leaves it once, with what the table below saw last as its
//! old value. An update of a key that waits takes its place and does not wait anew; what leaves has the timestamp and
//! the headers of the latest update.
//!
//! | | leaves when stream time reaches | deletions |
//! |---|---|---|
//! | until window closes | the close of the key's window: nothing can change it any more | are not forwarded |
//! | until time limit | the timestamp of the first update that waits, plus the limit | are forwarded |
//!
//! Stream time is the largest timestamp of the records that came here, so what waits leaves only when some record comes:
//! after that record has been taken itself, by window end or first timestamp, then by the bytes of the key. A table that
//! is looked up through the buffer shows what has left it.
//!
//! Source of the semantics: Kafka Streams' `KTableSuppressProcessorSupplier`, with two deliberate differences. Sessions
//! and sliding windows leave when they are closed, not a millisecond before. The old value is what left before; there it
//! is the latest update that nobody saw, which an aggregation below would subtract.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use state::{Direction, KeyValueStore};

use crate::clock::millis;
use crate::error::{Fault, Result};
use crate::log::{Headers, Timestamp};
use crate::processor::{Context, Fanout, NO_TIME, OperatorTime, Process, Wake};
use crate::record::{Change, Data, Record, Windowed};
use crate::serde::{SerdeError, SharedSerde};
use crate::topology::{NodeKind, StoreKind};

use super::KTable;
use super::buffered;
use super::old_values::OldValues;
use super::outlet::Outlet;
use super::view::{Look, View};

/// How much a suppression may hold back. It is held in a store, and its keys in memory besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    max_records: usize,
    max_bytes: usize,
    when_full: WhenFull,
}

/// What a suppression does with more than its buffer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Lets go of the oldest before its time. No choice where only final results may leave.
    EmitEarly,
    /// Stops the task with an error.
    Stop,
}

impl Buffer {
    /// As much as comes.
    #[must_use]
    pub fn unbounded() -> Self {
        Self {
            max_records: usize::MAX,
            max_bytes: usize::MAX,
            when_full: WhenFull::Stop,
        }
    }

    /// Up to `max` keys.
    #[must_use]
    pub fn max_records(max: usize, when_full: WhenFull) -> Self {
        Self {
            max_records: max,
            when_full,
            ..Self::unbounded()
        }
    }

    /// Up to `max` bytes of keys, values and headers.
    #[must_use]
    pub fn max_bytes(max: usize, when_full: WhenFull) -> Self {
        Self {
            max_bytes: max,
            when_full,
            ..Self::unbounded()
        }
    }
}

impl<K: Data, V: Data> KTable<Windowed<K>, V> {
    /// Emits each window once, with its last value, when it is closed.
    ///
    /// The table must come from a windowed aggregation, possibly filtered, mapped or joined; when its windows close
    /// follows from theirs. A window that holds no row then says nothing. Results leave when a record comes whose
    /// timestamp, in this table, is past the close, in order of their ends. For an aggregation of a stream
    /// [`emit_final`](super::TimeWindowedStream::emit_final) does the same at the first record past the close, with less
    /// state.
    ///
    /// What waits is in the key-value store `name`. A buffer that is full cannot emit early here.
    ///
    /// Sessions and sliding windows leave when they are closed, in Kafka Streams a millisecond before. Deletions are
    /// not forwarded, tables have no null keys, and nothing is late here. Its changelog is
    /// `<application id>-<name>-changelog`. Source of the semantics: Kafka Streams' `KTable#suppress`; there the old
    /// value is the latest update, also one that nobody saw.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Buffer, Consumed, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, nullable, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("busy");
    /// let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::ZERO);
    /// builder
    ///     .stream("clicks", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by(minutes)
    ///     .count("clicks-per-minute")
    ///     .table()
    ///     .filter(|_, clicks| *clicks >= 2)
    ///     .suppress_until_window_closes("busy-minutes", Buffer::unbounded())
    ///     .to_stream()
    ///     .to("busy");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let clicks = driver.input("clicks", utf8(), int64());
    /// for time in [0, 1, 2, 60_000, 120_000, 120_001] {
    ///     clicks.pipe(&mut driver, "page".to_owned(), 1, time);
    /// }
    /// let busy = driver.output("busy", windowed(utf8(), 60_000), nullable(int64()));
    /// let busy: Vec<_> = busy.read(&mut driver).into_iter().map(|r| (r.key.start, r.value)).collect();
    /// assert_eq!(busy, [(0, Some(3))]);
    /// ```
    #[must_use]
    pub fn suppress_until_window_closes(&self, name: &str, buffer: Buffer) -> Self {
        let problem = |text: &str| {
            let problem = format!("suppression '{name}': {text}");
            self.plan.borrow_mut().problems.push(problem);
            self.clone()
        };
        let Some(closes_after_ms) = self.closes_after_ms else {
            return problem(
                "it cannot tell when windows close, since its table is not one of a windowed aggregation",
            );
        };
        let bounded = buffer.max_records < usize::MAX || buffer.max_bytes < usize::MAX;
        if bounded && buffer.when_full == WhenFull::EmitEarly {
            return problem("final results cannot leave early; use `WhenFull::Stop`");
        }
        let wait = Wait {
            ms: closes_after_ms,
            deletions: Deletions::Dropped,
        };
        self.suppressed(name, buffer, wait, |key, _| key.end)
    }
}

impl<K: Data, V: Data> KTable<K, V> {
    /// Emits at most one update of each key in `limit` of stream time: the latest, when `limit` has passed since the
    /// first one that was held back.
    ///
    /// What waits is in the key-value store `name`.
    ///
    /// Deletions are updates like any others, tables have no null keys, and nothing is late. Its changelog is
    /// `<application id>-<name>-changelog`. Source of the semantics: Kafka Streams' `KTable#suppress`; there the old
    /// value is the latest update, also one that nobody saw.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Buffer, Consumed, StreamsBuilder, WhenFull};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("calm");
    /// let buffer = Buffer::max_records(10_000, WhenFull::EmitEarly);
    /// builder
    ///     .table("prices", "prices", Consumed::new(utf8(), int64()))
    ///     .suppress_until_time_limit("calm-prices", Duration::from_millis(10), buffer)
    ///     .to_stream()
    ///     .to("calm");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), int64());
    /// for (price, time) in [(5, 0), (6, 4), (7, 9), (8, 10), (9, 15)] {
    ///     prices.pipe(&mut driver, "pen".to_owned(), price, time);
    /// }
    /// let calm = driver.output("calm", utf8(), nullable(int64()));
    /// assert_eq!(calm.read_key_values(&mut driver), [("pen".to_owned(), Some(8))]);
    /// ```
    #[must_use]
    pub fn suppress_until_time_limit(&self, name: &str, limit: Duration, buffer: Buffer) -> Self {
        let wait = Wait {
            ms: millis(limit),
            deletions: Deletions::Forwarded,
        };
        self.suppressed(name, buffer, wait, |_, timestamp| timestamp)
    }

    /// `since` says from which time on an update waits.
    fn suppressed(
        &self,
        name: &str,
        buffer: Buffer,
        wait: Wait,
        since: fn(&K, Timestamp) -> Timestamp,
    ) -> Self {
        let (Some(key), Some(value)) = (self.key.clone(), self.value.clone()) else {
            if self.view.is_some() {
                self.plan.borrow_mut().problems.push(format!(
                    "suppression '{name}' has no serdes, since an operator changed a type; use \
                     `with_serdes(key serde, value serde)` before it"
                ));
            }
            return self.clone();
        };
        self.old_values.ask();
        let outlet = Outlet::<K, Change<V>>::new();
        let (node, store) = {
            let mut plan = self.plan.borrow_mut();
            let store = plan.add_store(name, StoreKind::KeyValue);
            let kind = NodeKind::Operator("suppress");
            let node = plan.add_node(name.to_owned(), kind, vec![self.node], vec![store]);
            (node, store)
        };
        let (below, operator) = (Arc::clone(&outlet), name.to_owned());
        let (key_serde, value_serde) = (Arc::clone(&key), Arc::clone(&value));
        self.outlet.attach(move |instantiation| {
            let time = OperatorTime::new(instantiation.times, &operator);
            let store = instantiation.key_value(store)?;
            let waiting = Waiting::read(&store.borrow(), &operator)?;
            let node = Suppress {
                operator: operator.clone(),
                buffer,
                wait,
                since,
                time,
                store,
                waiting,
                key: Arc::clone(&key_serde),
                value: Arc::clone(&value_serde),
                key_buffer: Vec::new(),
                children: below.instantiate(instantiation)?,
            };
            Ok(instantiation.woken(node))
        });
        let (rows_key, rows_value, rows_name) =
            (Arc::clone(&key), Arc::clone(&value), name.to_owned());
        let view = self.view.clone().map(|above| {
            let stores = [vec![store], above.stores.clone()].concat();
            View::new(stores, move |instantiation| {
                Ok(EmittedRows {
                    name: rows_name.clone(),
                    store: instantiation.key_value(store)?,
                    above: above.open(instantiation)?,
                    key: Arc::clone(&rows_key),
                    value: Arc::clone(&rows_value),
                    buffer: Vec::new(),
                })
            })
        });
        KTable {
            plan: Rc::clone(&self.plan),
            node,
            outlet,
            view,
            key: Some(key),
            value: Some(value),
            old_values: OldValues::derived(vec![self.old_values.clone()]),
            closes_after_ms: self.closes_after_ms,
        }
    }
}

/// How long an update waits, and whether a deletion leaves.
#[derive(Debug, Clone, Copy)]
struct Wait {
    ms: i64,
    deletions: Deletions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deletions {
    Dropped,
    Forwarded,
}

/// The operator in a task.
struct Suppress<K, V> {
    operator: String,
    buffer: Buffer,
    wait: Wait,
    since: fn(&K, Timestamp) -> Timestamp,
    time: OperatorTime,
    store: Rc<RefCell<KeyValueStore>>,
    waiting: Waiting,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    key_buffer: Vec<u8>,
    children: Fanout<K, Change<V>>,
}

impl<K: Data, V: Data> Process<K, Change<V>> for Suppress<K, V> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, Change<V>>) -> Result {
        self.time.observe(record.timestamp, context);
        self.hold(record)?;
        self.let_go_due(context)?;
        while self.is_full() {
            if self.buffer.when_full == WhenFull::Stop {
                return Err(Fault::user(
                    &self.operator,
                    format!(
                        "its buffer is full: {} records of {} bytes wait; allow it more, or let it emit early",
                        self.waiting.order.len(),
                        self.waiting.bytes
                    ),
                ));
            }
            self.let_go(context)?;
        }
        Ok(())
    }
}

impl<K: Data, V: Data> Wake for Suppress<K, V> {
    fn advance(&mut self, context: &mut Context<'_>, time: Timestamp) -> Result {
        if self.time.observe(time, context) {
            self.let_go_due(context)?;
        }
        Ok(())
    }
}

impl<K: Data, V: Data> Suppress<K, V> {
    fn is_full(&self) -> bool {
        self.waiting.order.len() > self.buffer.max_records
            || self.waiting.bytes > self.buffer.max_bytes
    }

    fn fault(&self, part: &str, error: SerdeError) -> Fault {
        let what = format_args!("a {part} of suppression {}", self.operator);
        Fault::serde(what, error)
    }

    /// Puts the change into the place of its key, or at the place of its time.
    fn hold(&mut self, record: Record<K, Change<V>>) -> Result {
        let Record {
            key,
            value: Change { new, old },
            timestamp,
            headers,
        } = record;
        self.key_buffer.clear();
        self.key
            .serialize(&key, &mut self.key_buffer)
            .map_err(|error| self.fault("key", error))?;
        let mut store = self.store.borrow_mut();
        let (since, old) = match store.get(&self.key_buffer)? {
            Some(row) => {
                let row = Row::decode(&row.value).ok_or_else(|| broken(&self.operator))?;
                (row.since, row.old)
            }
            None => {
                let old = self.bytes(old.as_ref())?;
                ((self.since)(&key, timestamp), old)
            }
        };
        let row = Row {
            since,
            old,
            new: self.bytes(new.as_ref())?,
            headers,
        };
        let bytes = row.encode();
        store.put(&self.key_buffer, &bytes, timestamp)?;
        self.waiting.put(since, &self.key_buffer, bytes.len());
        Ok(())
    }

    fn bytes(&self, value: Option<&V>) -> Result<Option<Bytes>> {
        let Some(value) = value else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        self.value
            .serialize(value, &mut bytes)
            .map_err(|error| self.fault("value", error))?;
        Ok(Some(bytes.into()))
    }

    /// Emits what has waited long enough.
    fn let_go_due(&mut self, context: &mut Context<'_>) -> Result {
        let until = self.time.now().saturating_sub(self.wait.ms);
        while self.waiting.first().is_some_and(|since| since <= until) {
            self.let_go(context)?;
        }
        Ok(())
    }

    /// Emits the first that waits.
    fn let_go(&mut self, context: &mut Context<'_>) -> Result {
        let Some(bytes) = self.waiting.take_first() else {
            return Ok(());
        };
        let mut store = self.store.borrow_mut();
        let stamped = store.get(&bytes)?;
        let stamped = stamped.expect("what waits is in the store");
        let row = Row::decode(&stamped.value).ok_or_else(|| broken(&self.operator))?;
        store.delete(&bytes, stamped.timestamp)?;
        drop(store);
        if row.new.is_none() && self.wait.deletions == Deletions::Dropped {
            return Ok(());
        }
        let key = self
            .key
            .deserialize(&bytes)
            .map_err(|error| self.fault("key", error))?;
        let value = |bytes: Option<Bytes>| {
            bytes
                .map(|bytes| self.value.deserialize(&bytes))
                .transpose()
                .map_err(|error| self.fault("value", error))
        };
        let change = Change {
            new: value(row.new)?,
            old: value(row.old)?,
        };
        self.children.forward(
            context,
            Record {
                key,
                value: change,
                timestamp: stamped.timestamp,
                headers: row.headers,
            },
        )
    }
}

/// The keys that wait, in the order in which they leave, with the bytes they take.
#[derive(Default)]
struct Waiting {
    order: BTreeMap<(Timestamp, Vec<u8>), usize>,
    bytes: usize,
}

impl Waiting {
    /// What a store holds.
    fn read(store: &KeyValueStore, operator: &str) -> Result<Self> {
        let (mut waiting, mut failed) = (Self::default(), false);
        let (from, to) = (Bound::Unbounded, Bound::Unbounded);
        store.scan(
            from,
            to,
            Direction::Forward,
            &mut |key, row| match Row::decode(&row.value) {
                Some(decoded) => {
                    waiting.put(decoded.since, key, row.value.len());
                    ControlFlow::Continue(())
                }
                None => {
                    failed = true;
                    ControlFlow::Break(())
                }
            },
        )?;
        if failed {
            return Err(broken(operator));
        }
        Ok(waiting)
    }

    fn put(&mut self, since: Timestamp, key: &[u8], row: usize) {
        let bytes = key.len() + row;
        let before = self.order.insert((since, key.to_vec()), bytes);
        self.bytes = self.bytes + bytes - before.unwrap_or(0);
    }

    /// Since when the first waits.
    fn first(&self) -> Option<Timestamp> {
        self.order.keys().next().map(|(since, _)| *since)
    }

    fn take_first(&mut self) -> Option<Vec<u8>> {
        let ((_, key), bytes) = self.order.pop_first()?;
        self.bytes -= bytes;
        Some(key)
    }
}

/// What waits for a key, as it is stored:
///
/// ```text
/// since (8, big endian) ‖ old ‖ new ‖ headers, as in `buffered.rs`
/// ```
#[derive(Debug, PartialEq, Eq)]
struct Row {
    since: Timestamp,
    /// What left last.
    old: Option<Bytes>,
    new: Option<Bytes>,
    headers: Headers,
}

impl Row {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.since.to_be_bytes().to_vec();
        buffered::put(self.old.as_deref(), &mut bytes);
        buffered::put(self.new.as_deref(), &mut bytes);
        buffered::put_headers(&self.headers, &mut bytes);
        bytes
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        let since = Timestamp::from_be_bytes(*bytes.first_chunk::<8>()?);
        let mut rest = bytes.slice(8..);
        let (old, new) = (buffered::take(&mut rest)?, buffered::take(&mut rest)?);
        Some(Self {
            since,
            old,
            new,
            headers: buffered::take_headers(rest)?,
        })
    }
}

fn broken(operator: &str) -> Fault {
    let error = SerdeError::new("the bytes are not what a suppression keeps");
    Fault::serde(format_args!("a row of suppression {operator}"), error)
}

/// The rows that have left: those above, but for what still waits.
struct EmittedRows<K, V> {
    name: String,
    store: Rc<RefCell<KeyValueStore>>,
    above: Box<dyn Look<K, V>>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    buffer: Vec<u8>,
}

impl<K, V> Look<K, V> for EmittedRows<K, V> {
    fn get(&mut self, key: &K) -> Result<Option<(V, Timestamp)>> {
        let fault = |part: &str, error| {
            Fault::serde(format_args!("a {part} of suppression {}", self.name), error)
        };
        self.buffer.clear();
        self.key
            .serialize(key, &mut self.buffer)
            .map_err(|error| fault("key", error))?;
        let Some(waiting) = self.store.borrow().get(&self.buffer)? else {
            return self.above.get(key);
        };
        let row = Row::decode(&waiting.value).ok_or_else(|| broken(&self.name))?;
        let Some(old) = row.old else {
            return Ok(None);
        };
        let value = self
            .value
            .deserialize(&old)
            .map_err(|error| fault("value", error))?;
        // The table above said what the old value was, but not of when.
        Ok(Some((value, NO_TIME)))
    }
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &Bytes) {
    if let Some(row) = Row::decode(bytes) {
        assert_eq!(Row::decode(&row.encode().into()), Some(row));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::Header;

    fn optional_bytes() -> impl Strategy<Value = Option<Bytes>> {
        let bytes = prop::collection::vec(any::<u8>(), 0..10);
        prop::option::of(bytes.prop_map(Bytes::from))
    }

    proptest! {
        #[test]
        fn rows_survive(
            since in any::<i64>(),
            old in optional_bytes(),
            new in optional_bytes(),
            headers in prop::collection::vec((".{0,5}", optional_bytes()), 0..3),
        ) {
            let header = |(name, value): (String, _)| Header { name: Arc::from(name), value };
            let headers = headers.into_iter().map(header).collect();
            let row = Row { since, old, new, headers };
            let bytes = Bytes::from(row.encode());
            prop_assert_eq!(Row::decode(&bytes), Some(row));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            check_any(&Bytes::from(bytes));
        }
    }
}
