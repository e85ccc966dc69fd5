//! Joins of a stream with a versioned table that wait: until stream time is past a record by the grace, so that versions
//! that come late are still seen.
//!
//! A record waits in a buffer until the stream time of the join, the largest timestamp of the records that waited, is its
//! own plus the grace. Then it is joined with the row as of its time. What is due at once leaves by timestamp, then by the
//! bytes of the key, then in the order in which it came.
//!
//! - A record that comes after its time is late: it goes to the late branch and is not joined. Kafka Streams joins it at
//!   once, though its documentation says that it is dropped.
//! - A record with a null value is dropped. One with a null key waits for nothing: a left join emits it at once, with
//!   `None`, an inner join drops it. Kafka Streams fails on it in a left join. Neither moves time.
//!
//! Source of the semantics: KIP-923 and Kafka Streams' `KStreamKTableJoinProcessor` and
//! `RocksDBTimeOrderedKeyValueBuffer`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow, Deref};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use state::{Direction, KeyValueStore};

use crate::clock::millis;
use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::{Context, Fanout, OperatorTime, Process, SharedNode, Wake};
use crate::record::{Data, Record};
use crate::serde::{SerdeError, SharedSerde};
use crate::topology::{NodeKind, StoreKind};

use super::late::LateBranch;
use super::lineage::{Lineage, Partitioned};
use super::outlet::Outlet;
use super::view::LookAsOf;
use super::{KStream, Late, VersionedTable, buffered};

/// The results of a join with a versioned table that waits, and the records that came too late for it.
pub struct JoinedAsOf<K, V, R> {
    results: KStream<K, R, Partitioned>,
    late: KStream<K, Late<V>, Partitioned>,
}

impl<K: Data, V: Data, R: Data> JoinedAsOf<K, V, R> {
    /// Records that came when stream time was past them by more than the grace; start and end of the window they missed
    /// are their timestamp. Without a consumer they are counted as dropped.
    ///
    /// They keep their key, timestamp and headers. No store and no topic is made. Kafka Streams joins such records at
    /// once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// # let a_day = Duration::from_secs(24 * 60 * 60);
    /// # let prices = builder.versioned_table("prices", "prices", a_day, Consumed::new(utf8(), int64()));
    /// # let sales = builder.stream("sales", Consumed::new(utf8(), int64()));
    /// let grace = Duration::from_millis(50);
    /// let revenue = sales.join_table_as_of_with_grace("revenue", &prices, grace, |_, pieces, price| pieces * price);
    /// revenue.late().map_values(|_, late| late.value).to_with("late-sales", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let sales = driver.input("sales", utf8(), int64());
    /// // 49 comes when time is past it by 51.
    /// for (pieces, time) in [(1, 100), (2, 50), (7, 49)] {
    ///     sales.pipe(&mut driver, "pen".to_owned(), pieces, time);
    /// }
    /// let late = driver.output("late-sales", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(late, [("pen".to_owned(), 7)]);
    /// ```
    #[must_use]
    pub fn late(&self) -> KStream<K, Late<V>, Partitioned> {
        self.late.clone()
    }
}

impl<K, V, R> Deref for JoinedAsOf<K, V, R> {
    type Target = KStream<K, R, Partitioned>;

    fn deref(&self) -> &Self::Target {
        &self.results
    }
}

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    /// Like [`join_table_as_of`](Self::join_table_as_of), but a record waits until stream time is past it by `grace`, and
    /// sees versions of the table that come until then.
    ///
    /// Emits what is due when a record comes that moves stream time, with its own timestamp and headers: by timestamp,
    /// then key, then arrival. Records with a null key or value are dropped. A record that comes later than `grace` goes
    /// to [`late`](JoinedAsOf::late) and is not joined.
    ///
    /// What waits is in the key-value store `<name>-buffer`, so the stream needs its serdes. A stream whose key may have
    /// changed is sent through `<application id>-<name>-repartition` first. The table's history must be as long as the
    /// grace, else the topology does not build; a table without history is refused by the compiler. Source of the
    /// semantics: KIP-923.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// let a_day = Duration::from_secs(24 * 60 * 60);
    /// let prices = builder.versioned_table("prices", "prices", a_day, Consumed::new(utf8(), int64()));
    /// let sales = builder.stream("sales", Consumed::new(utf8(), int64()));
    /// let grace = Duration::from_millis(50);
    /// let revenue = sales.join_table_as_of_with_grace("revenue", &prices, grace, |_, pieces, price| pieces * price);
    /// revenue.to_with("revenue", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), int64());
    /// # let sales = driver.input("sales", utf8(), int64());
    /// prices.pipe(&mut driver, "pen".to_owned(), 2, 0);
    /// sales.pipe(&mut driver, "pen".to_owned(), 10, 100);
    /// // A price that was in force before the sale, and comes after it.
    /// prices.pipe(&mut driver, "pen".to_owned(), 3, 90);
    /// sales.pipe(&mut driver, "pen".to_owned(), 1, 150);
    /// let revenue = driver.output("revenue", utf8(), int64());
    /// assert_eq!(revenue.read_key_values(&mut driver), [("pen".to_owned(), 30)]);
    /// ```
    pub fn join_table_as_of_with_grace<W: Data, R: Data>(
        &self,
        name: &str,
        table: &VersionedTable<K, W>,
        grace: Duration,
        join: impl Fn(&K, V, W) -> R + Send + Sync + 'static,
    ) -> JoinedAsOf<K, V, R> {
        self.wait_for(name, table, millis(grace), move |key, value, found| {
            found.map(|w| join(key, value, w))
        })
    }

    /// Like [`join_table_as_of_with_grace`](Self::join_table_as_of_with_grace), but a record without a match is joined
    /// with `None`, and one with a null key is so at once.
    ///
    /// Late records, store, topic and the source of the semantics are as there.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// # let a_day = Duration::from_secs(24 * 60 * 60);
    /// # let prices = builder.versioned_table("prices", "prices", a_day, Consumed::new(utf8(), int64()));
    /// # let sales = builder.stream("sales", Consumed::new(utf8(), int64()));
    /// let grace = Duration::from_millis(50);
    /// let revenue = sales.left_join_table_as_of_with_grace("revenue", &prices, grace, |_, pieces, price| {
    ///     pieces * price.unwrap_or(1)
    /// });
    /// revenue.to_with("revenue", Produced::new(utf8(), int64()));
    /// revenue.late().map_values(|_, late| late.value).to_with("late", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let sales = driver.input("sales", utf8(), int64());
    /// // 49 comes when time is past it by 51.
    /// for (pieces, time) in [(10, 50), (1, 100), (7, 49)] {
    ///     sales.pipe(&mut driver, "pen".to_owned(), pieces, time);
    /// }
    /// let pen = "pen".to_owned();
    /// let revenue = driver.output("revenue", utf8(), int64());
    /// assert_eq!(revenue.read_key_values(&mut driver), [(pen.clone(), 10)]);
    /// let late = driver.output("late", utf8(), int64());
    /// assert_eq!(late.read_key_values(&mut driver), [(pen, 7)]);
    /// ```
    pub fn left_join_table_as_of_with_grace<W: Data, R: Data>(
        &self,
        name: &str,
        table: &VersionedTable<K, W>,
        grace: Duration,
        join: impl Fn(&K, V, Option<W>) -> R + Send + Sync + 'static,
    ) -> JoinedAsOf<K, V, R> {
        self.wait_for(name, table, millis(grace), move |key, value, found| {
            Some(join(key, value, found))
        })
    }

    fn wait_for<W: Data, R: Data>(
        &self,
        name: &str,
        table: &VersionedTable<K, W>,
        grace_ms: i64,
        join: impl Fn(&K, V, Option<W>) -> Option<R> + Send + Sync + 'static,
    ) -> JoinedAsOf<K, V, R> {
        let stream = self.partitioned(name);
        let (results, late) = (Outlet::<K, R>::new(), Outlet::<K, Late<V>>::new());
        let (node, store) = {
            let mut plan = self.plan.borrow_mut();
            if table.history_ms < grace_ms {
                let history_ms = table.history_ms;
                plan.problems.push(format!(
                    "join '{name}' waits {grace_ms} ms for versions, but its table keeps {history_ms} ms of them; give \
                     it a longer history or the join a shorter grace"
                ));
            }
            let store = plan.add_store(&format!("{name}-buffer"), StoreKind::KeyValue);
            let stores = [vec![store], table.history.stores.clone()].concat();
            let kind = NodeKind::Operator("stream-table join");
            let node = plan.add_node(name.to_owned(), kind, vec![stream.node], stores);
            plan.describe_node(node, &[("grace_ms", grace_ms)]);
            let sides = vec![stream.node, table.latest.node];
            plan.copartitioned.push((name.to_owned(), sides));
            (node, store)
        };
        let key = stream.key.clone();
        let of = |plan, outlet| KStream::new(Rc::clone(plan), node, outlet, key.clone(), None);
        let joined = JoinedAsOf {
            results: of(&self.plan, Arc::clone(&results)),
            late: KStream::new(
                Rc::clone(&self.plan),
                node,
                Arc::clone(&late),
                key.clone(),
                None,
            ),
        };
        let (Some(key), Some(value)) = (stream.key.clone(), stream.value.clone()) else {
            self.plan.borrow_mut().problems.push(format!(
                "join '{name}' keeps records that wait, but its stream has no serdes, since an operator changed a type; \
                 use `with_serdes(key serde, value serde)` before it"
            ));
            return joined;
        };
        let (operator, history, join) = (name.to_owned(), table.history.clone(), Arc::new(join));
        stream.outlet.attach(move |instantiation| {
            let time = OperatorTime::new(instantiation.times, &operator);
            let (key, value) = (Arc::clone(&key), Arc::clone(&value));
            let store = instantiation.key_value(store)?;
            let node = GraceJoin {
                waiting: Waiting::read(&operator, store, key, value)?,
                grace_ms,
                time,
                table: history.open(instantiation)?,
                join: Arc::clone(&join),
                results: results.instantiate(instantiation)?,
                late: LateBranch::new(&operator, late.instantiate(instantiation)?),
            };
            let node = Rc::new(RefCell::new(node));
            instantiation.wakes.push(Rc::clone(&node) as _);
            Ok(Box::new(SharedNode(node)))
        });
        joined
    }
}

/// The join in a task.
struct GraceJoin<K, V, W, R, J> {
    waiting: Waiting<K, V>,
    grace_ms: i64,
    time: OperatorTime,
    table: Box<dyn LookAsOf<K, W>>,
    join: Arc<J>,
    results: Fanout<K, R>,
    late: LateBranch<K, V>,
}

impl<K, V, W, R, J> Process<K, V> for GraceJoin<K, V, W, R, J>
where
    K: Data,
    V: Data,
    R: Data,
    J: Fn(&K, V, Option<W>) -> Option<R>,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        if self.waiting.value.is_null(&record.value) {
            metrics::counter!("dropped-records", "reason" => "null value").increment(1);
            return Ok(());
        }
        if self.waiting.key.is_null(&record.key) {
            return self.emit(context, record, None);
        }
        let time = record.timestamp;
        if time < self.due_until() {
            let now = self.time.now();
            let late = &mut self.late;
            return late.take(context, record, |_, value| value, (time, time), now);
        }
        self.waiting.put(record)?;
        self.time.observe(time, context);
        self.emit_due(context)
    }
}

impl<K, V, W, R, J> Wake for GraceJoin<K, V, W, R, J>
where
    K: Data,
    V: Data,
    R: Data,
    J: Fn(&K, V, Option<W>) -> Option<R>,
{
    fn advance(&mut self, context: &mut Context<'_>, time: Timestamp) -> Result {
        if self.time.observe(time, context) {
            self.emit_due(context)?;
        }
        Ok(())
    }
}

impl<K, V, W, R, J> GraceJoin<K, V, W, R, J>
where
    K: Data,
    V: Data,
    R: Data,
    J: Fn(&K, V, Option<W>) -> Option<R>,
{
    /// Up to which timestamp records are due, that one included.
    fn due_until(&self) -> Timestamp {
        self.time.now().saturating_sub(self.grace_ms)
    }

    fn emit_due(&mut self, context: &mut Context<'_>) -> Result {
        for record in self.waiting.take_until(self.due_until())? {
            let found = self.table.get_as_of(&record.key, record.timestamp)?;
            self.emit(context, record, found)?;
        }
        Ok(())
    }

    fn emit(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, V>,
        found: Option<W>,
    ) -> Result {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        match (self.join)(&key, value, found) {
            Some(value) => self.results.forward(
                context,
                Record {
                    key,
                    value,
                    timestamp,
                    headers,
                },
            ),
            None => Ok(()),
        }
    }
}

/// The records that wait, in a key-value store:
///
/// ```text
/// timestamp (8, sorted as numbers) ‖ key ‖ number (8)   →   value ‖ headers, as in `buffered.rs`
/// ```
/// The number tells records of one key and time apart, in the order in which they came.
struct Waiting<K, V> {
    operator: String,
    store: Rc<RefCell<KeyValueStore>>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    /// How many there are of each time.
    times: BTreeMap<Timestamp, usize>,
    next_number: u64,
    row_key: Vec<u8>,
    row: Vec<u8>,
    value_buffer: Vec<u8>,
}

impl<K: Data, V: Data> Waiting<K, V> {
    /// What a store holds.
    fn read(
        operator: &str,
        store: Rc<RefCell<KeyValueStore>>,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Result<Self> {
        let mut waiting = Self {
            operator: operator.to_owned(),
            store,
            key,
            value,
            times: BTreeMap::new(),
            next_number: 0,
            row_key: Vec::new(),
            row: Vec::new(),
            value_buffer: Vec::new(),
        };
        for (key, _) in waiting.rows(Bound::Unbounded)? {
            let (timestamp, _, number) = split(&key).ok_or_else(|| waiting.broken())?;
            *waiting.times.entry(timestamp).or_default() += 1;
            waiting.next_number = waiting.next_number.max(number.saturating_add(1));
        }
        Ok(waiting)
    }

    fn put(&mut self, record: Record<K, V>) -> Result {
        self.row_key.clear();
        self.row_key.extend_from_slice(&sorted(record.timestamp));
        self.key
            .serialize(&record.key, &mut self.row_key)
            .map_err(|error| self.fault("key", error))?;
        self.row_key
            .extend_from_slice(&self.next_number.to_be_bytes());
        self.value_buffer.clear();
        self.value
            .serialize(&record.value, &mut self.value_buffer)
            .map_err(|error| self.fault("value", error))?;
        self.row.clear();
        buffered::put(Some(&self.value_buffer), &mut self.row);
        buffered::put_headers(&record.headers, &mut self.row);
        let mut store = self.store.borrow_mut();
        store.put(&self.row_key, &self.row, record.timestamp)?;
        self.next_number += 1;
        *self.times.entry(record.timestamp).or_default() += 1;
        Ok(())
    }

    /// Takes the records out that wait since `until` or longer.
    fn take_until(&mut self, until: Timestamp) -> Result<Vec<Record<K, V>>> {
        if self
            .times
            .first_key_value()
            .is_none_or(|(first, _)| *first > until)
        {
            return Ok(Vec::new());
        }
        self.times = match until.checked_add(1) {
            Some(next) => self.times.split_off(&next),
            None => BTreeMap::new(),
        };
        let end = until.checked_add(1).map(sorted);
        let end = end
            .as_ref()
            .map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
        let mut records = Vec::new();
        for (row_key, row) in self.rows(end)? {
            let (timestamp, key, _) = split(&row_key).ok_or_else(|| self.broken())?;
            let mut rest = row;
            let value = buffered::take(&mut rest).flatten();
            let value = value.ok_or_else(|| self.broken())?;
            records.push(Record {
                key: self
                    .key
                    .deserialize(key)
                    .map_err(|error| self.fault("key", error))?,
                value: self
                    .value
                    .deserialize(&value)
                    .map_err(|error| self.fault("value", error))?,
                timestamp,
                headers: buffered::take_headers(rest).ok_or_else(|| self.broken())?,
            });
            self.store.borrow_mut().delete(&row_key, timestamp)?;
        }
        Ok(records)
    }

    fn rows(&self, end: Bound<&[u8]>) -> Result<Vec<(Vec<u8>, Bytes)>> {
        let mut rows = Vec::new();
        let mut visit = |key: &[u8], row: state::Stamped| {
            rows.push((key.to_vec(), row.value));
            ControlFlow::Continue(())
        };
        self.store
            .borrow()
            .scan(Bound::Unbounded, end, Direction::Forward, &mut visit)?;
        Ok(rows)
    }

    fn fault(&self, part: &str, error: SerdeError) -> Fault {
        let what = format_args!("a {part} that waits in join {}", self.operator);
        Fault::serde(what, error)
    }

    fn broken(&self) -> Fault {
        self.fault(
            "record",
            SerdeError::new("the bytes are not what such a join keeps"),
        )
    }
}

/// A timestamp as bytes that sort as numbers do.
fn sorted(timestamp: Timestamp) -> [u8; 8] {
    (timestamp.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// Timestamp, key and number of a row.
fn split(row_key: &[u8]) -> Option<(Timestamp, &[u8], u64)> {
    let (timestamp, rest) = row_key.split_first_chunk::<8>()?;
    let (key, number) = rest.split_last_chunk::<8>()?;
    let timestamp = (u64::from_be_bytes(*timestamp) ^ (1 << 63)).cast_signed();
    Some((timestamp, key, u64::from_be_bytes(*number)))
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &[u8]) {
    if let Some((timestamp, key, number)) = split(bytes) {
        let written = [&sorted(timestamp)[..], key, &number.to_be_bytes()].concat();
        assert_eq!(written, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_sort_by_time_then_key_then_number() {
        let row = |timestamp, key: &str, number: u64| {
            [
                &sorted(timestamp)[..],
                key.as_bytes(),
                &number.to_be_bytes(),
            ]
            .concat()
        };
        let rows = [
            row(-1, "b", 9),
            row(0, "a", 300),
            row(0, "ab", 2),
            row(0, "b", 1),
            row(256, "a", 0),
        ];
        assert!(rows.is_sorted());
        assert_eq!(split(&rows[1]), Some((0, &b"a"[..], 300)));
        assert_eq!(split(&rows[0][..15]), None);
    }
}
