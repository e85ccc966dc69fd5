//! Aggregations over windows of so many records.
//!
//! The records of a key are numbered from 0, in the order in which they come, whatever their timestamps are. A window
//! holds the records from one number on, and is full with its last one. There is no time in it, so no record is late. Each
//! window gives one result, with the record that fills it; or one with each of its records: see
//! [`emit_updates`](CountWindowedStream::emit_updates). Records with a null key or value do not count.
//!
//! How many records a key had, and the windows that are not full, are in one row of the store. It is kept for ever, so
//! keys should not be without end.
//!
//! Kafka Streams has no such windows. The numbers are those of a key's records in the order of one task: behind a
//! repartition topic it is the order in that topic.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use state::KeyValueStore;

use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::{Context, Fanout};
use crate::record::{Data, Record, Windowed};
use crate::serde::{Serde, SerdeError, SharedSerde, windowed};
use crate::topology::StoreKind;

use super::aggregation::{Adder, Aggregation, Wired};
use super::encoding::Encoding;
use super::outlet::Outlet;
use super::{KGroupedStream, KStream, Partitioned};

/// Windows of so many records: see [`CountWindows::tumbling`] and [`CountWindows::hopping`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountWindows {
    size: i64,
    advance: i64,
}

impl CountWindows {
    /// Windows of `size` records that follow each other.
    #[must_use]
    pub fn tumbling(size: u32) -> Self {
        Self::hopping(size, size)
    }

    /// Windows of `size` records, a new one with every `advance`-th record. `advance` is at least 1 and at most `size`; a
    /// topology with any other does not build. Every record is in `size / advance` of them, and writes as many aggregates.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, CountWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("last-three");
    /// builder
    ///     .stream("bids", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by_count(CountWindows::hopping(3, 1))
    ///     .reduce("highest-of-three", |a, b| a.max(b))
    ///     .to("highest");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// for bid in [9, 4, 5, 1, 2] {
    ///     bids.pipe(&mut driver, "vase".to_owned(), bid, 0);
    /// }
    /// let highest = driver.output("highest", windowed(utf8(), 3), int64());
    /// let highest: Vec<_> = highest.read(&mut driver).into_iter().map(|r| (r.key.start, r.value)).collect();
    /// assert_eq!(highest, [(0, 9), (1, 5), (2, 5)]);
    /// ```
    #[must_use]
    pub fn hopping(size: u32, advance: u32) -> Self {
        Self {
            size: size.into(),
            advance: advance.into(),
        }
    }

    /// Why there can be no such windows, if so.
    fn problem(self) -> Option<String> {
        let Self { size, advance } = self;
        (advance < 1 || advance > size).then(|| {
            format!(
                "windows of {size} records cannot advance by {advance}; use at least 1 and at most their size"
            )
        })
    }
}

/// A grouped stream cut into windows of so many records.
pub struct CountWindowedStream<'a, K, V> {
    grouped: &'a KGroupedStream<K, V>,
    windows: CountWindows,
    updates: bool,
}

impl<K: Data, V: Data> KGroupedStream<K, V> {
    /// Groups the records of each key by their number, in the order in which they come.
    ///
    /// By itself it makes nothing: the aggregation that follows has the name and the store.
    ///
    /// Nulls and topics are those of the aggregation; nothing is late. Not in Kafka Streams; Flink's `countWindow`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, CountWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("dozens");
    /// let eggs = builder.stream("eggs", Consumed::new(utf8(), int64())).group_by_key();
    /// eggs.windowed_by_count(CountWindows::tumbling(2)).reduce("pairs", |a, b| a + b).to("pairs");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let eggs = driver.input("eggs", utf8(), int64());
    /// for weight in [50, 61, 48] {
    ///     eggs.pipe(&mut driver, "hen".to_owned(), weight, 0);
    /// }
    /// let pairs = driver.output("pairs", windowed(utf8(), 2), int64()).read(&mut driver);
    /// assert_eq!(pairs.into_iter().map(|r| r.value).collect::<Vec<_>>(), [111]);
    /// ```
    pub fn windowed_by_count(&self, windows: CountWindows) -> CountWindowedStream<'_, K, V> {
        CountWindowedStream {
            grouped: self,
            windows,
            updates: false,
        }
    }
}

impl<K: Data, V: Data> CountWindowedStream<'_, K, V> {
    /// Emits each window with each of its records, instead of once, with its last.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, CountWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("dozens");
    /// builder
    ///     .stream("eggs", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by_count(CountWindows::tumbling(2))
    ///     .emit_updates()
    ///     .reduce("pairs", |a, b| a + b)
    ///     .to("pairs");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let eggs = driver.input("eggs", utf8(), int64());
    /// for weight in [50, 60, 55] {
    ///     eggs.pipe(&mut driver, "hen".to_owned(), weight, 0);
    /// }
    /// let pairs = driver.output("pairs", windowed(utf8(), 2), int64());
    /// let pairs: Vec<_> = pairs.read(&mut driver).into_iter().map(|r| (r.key.start, r.value)).collect();
    /// assert_eq!(pairs, [(0, 50), (0, 110), (2, 55)]);
    /// ```
    #[must_use]
    pub fn emit_updates(self) -> Self {
        Self {
            updates: true,
            ..self
        }
    }

    /// Combines the values of each key and window, in the key-value store `name`; the first value is taken as it is.
    ///
    /// The result has the largest timestamp in the window, and the headers of the record that it comes with. Its key has
    /// the number of the window's first record as start, and as end the number behind its last:
    /// [`windowed(key serde, size)`](crate::serde::windowed) reads and writes it. Where one record fills several windows,
    /// the earliest comes first.
    ///
    /// Records with a null key or value do not count, and are dropped and counted; nothing is late. A group whose key
    /// may have changed goes through the topic `<application id>-<name>-repartition` first. The store's changelog is
    /// `<application id>-<name>-changelog`. Kafka Streams has no such windows.
    ///
    /// # Errors
    /// [`build`](super::StreamsBuilder::build) refuses windows that [cannot be](CountWindows::hopping), a name that is
    /// used twice, and a group without the serdes that it needs.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, CountWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// builder
    ///     .stream("bids", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by_count(CountWindows::tumbling(2))
    ///     .reduce("highest-of-two", |a, b| a.max(b))
    ///     .to("highest");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// for (bid, time) in [(70, 9), (50, 3), (90, 10)] {
    ///     bids.pipe(&mut driver, "vase".to_owned(), bid, time);
    /// }
    /// let highest = driver.output("highest", windowed(utf8(), 2), int64()).read(&mut driver);
    /// let highest: Vec<_> = highest.into_iter().map(|r| (r.key.start, r.key.end, r.value, r.timestamp)).collect();
    /// // The third bid is in a window that is not full.
    /// assert_eq!(highest, [(0, 2, 70, 9)]);
    /// ```
    pub fn reduce(
        &self,
        name: &str,
        combine: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> KStream<Windowed<K>, V, Partitioned> {
        let Some(value) = self.grouped.upstream().value.clone() else {
            self.grouped.missing(name, "value");
            return self.grouped.origin().silent();
        };
        self.aggregate_optional(name, value, move |_, value, before| match before {
            Some(before) => combine(before, value),
            None => value,
        })
    }

    /// Folds the values of each key and window into an aggregate that starts with `initial`, in the key-value store
    /// `name`. Results, nulls, topic, changelog and errors are as for [`reduce`](Self::reduce).
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, CountWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("batches");
    /// builder
    ///     .stream("lines", Consumed::new(utf8(), utf8()))
    ///     .group_by_key()
    ///     .windowed_by_count(CountWindows::tumbling(2))
    ///     .aggregate("batches", utf8(), String::new, |_, line, batch| batch + &line + ";")
    ///     .to("batches");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let lines = driver.input("lines", utf8(), utf8());
    /// for line in ["a", "b", "c"] {
    ///     lines.pipe(&mut driver, "file".to_owned(), line.to_owned(), 0);
    /// }
    /// let batches = driver.output("batches", windowed(utf8(), 2), utf8());
    /// let batches: Vec<_> = batches.read(&mut driver).into_iter().map(|r| r.value).collect();
    /// assert_eq!(batches, ["a;b;"]);
    /// ```
    pub fn aggregate<A: Data>(
        &self,
        name: &str,
        serde: impl Serde<A> + 'static,
        initial: impl Fn() -> A + Send + Sync + 'static,
        add: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KStream<Windowed<K>, A, Partitioned> {
        self.aggregate_optional(name, Arc::new(serde), move |key, value, before| {
            add(key, value, before.unwrap_or_else(&initial))
        })
    }

    fn aggregate_optional<A: Data>(
        &self,
        name: &str,
        serde: SharedSerde<A>,
        add: impl Fn(&K, V, Option<A>) -> A + Send + Sync + 'static,
    ) -> KStream<Windowed<K>, A, Partitioned> {
        let origin = self.grouped.origin();
        if let Some(problem) = self.windows.problem() {
            origin.problem(name, &problem);
            return origin.silent();
        }
        let inputs = self.grouped.input(Adder::new(add));
        let kind = "count-window aggregate";
        let Some(wired) = Wired::new(&inputs, name, kind, StoreKind::KeyValue) else {
            return origin.silent();
        };
        let (windows, updates) = (self.windows, self.updates);
        let parameters = [("advance", windows.advance), ("size", windows.size)];
        let (plan, node, store) = (Rc::clone(&wired.plan), wired.node, wired.store);
        plan.borrow_mut().describe_node(node, &parameters);
        let windowed_key = windowed(Arc::clone(&wired.key), windows.size);
        let outlet = Outlet::<Windowed<K>, A>::new();
        let (below, operator) = (Arc::clone(&outlet), name.to_owned());
        let (key_serde, value_serde) = (Arc::clone(&wired.key), Arc::clone(&serde));
        wired.attach(move |instantiation| {
            Ok(Aggregation::Counted(CountAggregate {
                windows,
                updates,
                store: instantiation.key_value(store)?,
                encoding: Encoding::new(
                    &operator,
                    Arc::clone(&key_serde),
                    Arc::clone(&value_serde),
                ),
                row_buffer: Vec::new(),
                children: below.instantiate(instantiation)?,
            }))
        });
        let windowed_key: SharedSerde<Windowed<K>> = Arc::new(windowed_key);
        KStream::new(plan, node, outlet, Some(windowed_key), Some(serde))
    }
}

/// An aggregation over windows of so many records in a task.
pub(crate) struct CountAggregate<K, A> {
    windows: CountWindows,
    /// Each update is emitted.
    updates: bool,
    store: Rc<RefCell<KeyValueStore>>,
    encoding: Encoding<K, A>,
    row_buffer: Vec<u8>,
    children: Fanout<Windowed<K>, A>,
}

impl<K: Data, A: Data> CountAggregate<K, A> {
    pub(crate) fn take<V: Data, L>(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, V>,
        adder: &Adder<K, V, A, L>,
    ) -> Result {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        self.encoding.encode_key(&key)?;
        let row = self.store.borrow().get(&self.encoding.key_buffer)?;
        let row = row.map(|row| Row::decode(&row.value).ok_or_else(|| self.broken()));
        let mut row = row.transpose()?.unwrap_or_default();
        row.begin(self.windows);

        let mut results = Vec::new();
        let (mut value, last) = (Some(value), row.open.len().saturating_sub(1));
        for (number, window) in row.open.iter_mut().enumerate() {
            // All but the last window need a copy of the value.
            let value = if number < last {
                value.clone()
            } else {
                value.take()
            };
            let value = value.expect("taken at the last window");
            let before = window.aggregate.as_deref();
            let before = before
                .map(|before| self.encoding.decode_value(before))
                .transpose()?;
            let new = (adder.add)(&key, value, before);
            window.latest = window.latest.max(timestamp);
            let is_full = row.seen - window.start >= self.windows.size;
            if !is_full {
                let (_, bytes) = self.encoding.encode(&new)?;
                window.aggregate = Some(Bytes::copy_from_slice(bytes));
            }
            if is_full || self.updates {
                results.push((window.start, window.latest, new));
            }
        }
        row.open
            .retain(|window| row.seen - window.start < self.windows.size);
        row.encode(&mut self.row_buffer);
        let mut store = self.store.borrow_mut();
        store.put(&self.encoding.key_buffer, &self.row_buffer, timestamp)?;
        drop(store);

        for (start, latest, value) in results {
            let key = Windowed {
                key: key.clone(),
                start,
                end: start.saturating_add(self.windows.size),
            };
            let result = Record {
                key,
                value,
                timestamp: latest,
                headers: headers.clone(),
            };
            self.children.forward(context, result)?;
        }
        Ok(())
    }

    fn broken(&self) -> Fault {
        let error = SerdeError::new("the bytes are not what windows of records keep");
        let operator = &self.encoding.operator;
        Fault::serde(format_args!("a row of aggregation {operator}"), error)
    }
}

/// What is kept of a key:
///
/// ```text
/// records so far (8, big endian) ‖ for each window that is not full, the earliest first:
/// number of its first record (8) ‖ largest timestamp (8) ‖ length (4) ‖ aggregate
/// ```
#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    seen: i64,
    open: Vec<OpenWindow>,
}

#[derive(Debug, PartialEq, Eq)]
struct OpenWindow {
    start: i64,
    latest: Timestamp,
    /// Nothing before the first record.
    aggregate: Option<Bytes>,
}

impl Row {
    /// Counts a record, and opens the window that it begins, if any.
    fn begin(&mut self, windows: CountWindows) {
        if self.seen % windows.advance == 0 {
            self.open.push(OpenWindow {
                start: self.seen,
                latest: Timestamp::MIN,
                aggregate: None,
            });
        }
        self.seen += 1;
    }

    fn encode(&self, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&self.seen.to_be_bytes());
        for window in &self.open {
            let aggregate = window.aggregate.as_deref().unwrap_or_default();
            let length =
                u32::try_from(aggregate.len()).expect("a Kafka record is smaller than 4 GiB");
            into.extend_from_slice(&window.start.to_be_bytes());
            into.extend_from_slice(&window.latest.to_be_bytes());
            into.extend_from_slice(&length.to_be_bytes());
            into.extend_from_slice(aggregate);
        }
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        let seen = i64::from_be_bytes(*bytes.first_chunk::<8>()?);
        let (mut rest, mut open) = (bytes.slice(8..), Vec::new());
        while !rest.is_empty() {
            let (start, tail) = rest.split_first_chunk::<8>()?;
            let (latest, tail) = tail.split_first_chunk::<8>()?;
            let (length, tail) = tail.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let (start, latest) = (i64::from_be_bytes(*start), i64::from_be_bytes(*latest));
            if length > tail.len() {
                return None;
            }
            open.push(OpenWindow {
                start,
                latest,
                aggregate: Some(rest.slice(20..20 + length)),
            });
            rest = rest.slice(20 + length..);
        }
        Some(Self { seen, open })
    }
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &Bytes) {
    if let Some(row) = Row::decode(bytes) {
        let mut written = Vec::new();
        row.encode(&mut written);
        assert_eq!(written, *bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_survive(
            seen in any::<i64>(),
            open in prop::collection::vec(
                (any::<i64>(), any::<i64>(), prop::collection::vec(any::<u8>(), 0..10)),
                0..4,
            ),
        ) {
            let window = |(start, latest, bytes): (_, _, Vec<u8>)| {
                OpenWindow { start, latest, aggregate: Some(Bytes::from(bytes)) }
            };
            let row = Row { seen, open: open.into_iter().map(window).collect() };
            let mut bytes = Vec::new();
            row.encode(&mut bytes);
            prop_assert_eq!(Row::decode(&Bytes::from(bytes)), Some(row));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            check_any(&Bytes::from(bytes));
        }
    }
}
