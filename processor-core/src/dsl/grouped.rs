//! A grouped stream, and the aggregations over all of its records.
//!
//! Semantics of Kafka Streams' `KStreamAggregate`: records with a null key or value are dropped; each record emits the
//! new aggregate of its key, with the largest timestamp that went into it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use state::KeyValueStore;

use crate::error::Result;
use crate::processor::{Context, Fanout};
use crate::record::{Change, Data, Record};
use crate::serde::{Serde, SharedSerde, int64};
use crate::topology::StoreKind;

use super::aggregation::{Adder, Aggregation, GroupInput, Inputs, Origin, Wired};
use super::encoding::Encoding;
use super::lineage::{Lineage, Partitioned};
use super::outlet::Outlet;
use super::repartition::{Keyless, repartition_once};
use super::table::KTable;
use super::windowed::TimeWindowedStream;
use super::windows::Windows;
use super::{KStream, Rekeyed};

/// Serdes of a group with another key.
pub struct Grouped<K, V> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: Option<SharedSerde<V>>,
}

impl<K, V> Grouped<K, V> {
    /// Groups by a key with this serde; the value keeps the serde it has.
    pub fn by(key: impl Serde<K> + 'static) -> Self {
        Self {
            key: Arc::new(key),
            value: None,
        }
    }

    /// The value's serde, needed where its type changed since the source.
    #[must_use]
    pub fn value(mut self, value: impl Serde<V> + 'static) -> Self {
        self.value = Some(Arc::new(value));
        self
    }
}

/// A stream grouped by key, ready to be aggregated.
pub struct KGroupedStream<K, V> {
    stream: KStream<K, V, Rekeyed>,
    must_repartition: bool,
}

impl<K, V> Clone for KGroupedStream<K, V> {
    fn clone(&self) -> Self {
        Self {
            stream: self.stream.clone(),
            must_repartition: self.must_repartition,
        }
    }
}

/// A stream with all that an aggregation needs: partitioned by key, with serdes.
pub(crate) struct Keyed<K, V> {
    pub stream: KStream<K, V, Partitioned>,
    pub key: SharedSerde<K>,
    pub value: Option<SharedSerde<V>>,
}

impl<K: Data, V: Data> KGroupedStream<K, V> {
    pub(crate) fn of<L: Lineage>(
        stream: &KStream<K, V, L>,
        key: Option<SharedSerde<K>>,
        value: Option<SharedSerde<V>>,
    ) -> Self {
        let outlet = Arc::clone(&stream.outlet);
        let stream = KStream::new(Rc::clone(&stream.plan), stream.node, outlet, key, value);
        Self {
            stream,
            must_repartition: L::MUST_REPARTITION,
        }
    }

    /// Counts the records of each key, in the key-value store `name`.
    ///
    /// Emits the new count after every record, also one that comes out of order: nothing is late here. Its timestamp is the
    /// largest of the records that it counts, its headers are those of the last. Records with a null key or value are
    /// ignored, and counted as dropped. The count of a key is kept for ever.
    ///
    /// A group whose key may have changed goes through the topic `<application id>-<name>-repartition` first, which needs
    /// serdes for key and value; without them, or under a name that is taken, the topology does not build. The store's
    /// changelog is `<application id>-<name>-changelog`. Semantics of Kafka Streams' `KStreamAggregate`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("words");
    /// builder
    ///     .stream("words", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .count("counts")
    ///     .to_stream()
    ///     .to("counts");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let words = driver.input("words", utf8(), int64());
    /// for (word, time) in [("to", 5), ("be", 6), ("to", 3)] {
    ///     words.pipe(&mut driver, word.to_owned(), 1, time);
    /// }
    /// let counts = driver.output("counts", utf8(), nullable(int64()));
    /// let counts: Vec<_> = counts.read(&mut driver).into_iter().map(|r| (r.key, r.value, r.timestamp)).collect();
    /// assert_eq!(
    ///     counts,
    ///     [("to".to_owned(), Some(1), 5), ("be".to_owned(), Some(1), 6), ("to".to_owned(), Some(2), 5)]
    /// );
    /// ```
    pub fn count(&self, name: &str) -> KTable<K, i64> {
        self.aggregate(name, int64(), || 0, |_, _, count| count + 1)
    }

    /// Combines the values of each key, in the key-value store `name`; the first value is taken as it is. The store needs
    /// the value's serde.
    ///
    /// Emits the new value after every record. Records with a null key or value are dropped and counted, and nothing is
    /// late. Headers, timestamps, topic, changelog and the source of the semantics are those of [`count`](Self::count).
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// builder
    ///     .stream("bids", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .reduce("highest", |a, b| a.max(b))
    ///     .to_stream()
    ///     .to("highest");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// for (bid, time) in [(70, 0), (50, 1), (90, 2)] {
    ///     bids.pipe(&mut driver, "vase".to_owned(), bid, time);
    /// }
    /// let highest = driver.output("highest", utf8(), nullable(int64()));
    /// let highest: Vec<_> = highest.read(&mut driver).into_iter().filter_map(|r| r.value).collect();
    /// assert_eq!(highest, [70, 70, 90]);
    /// ```
    pub fn reduce(
        &self,
        name: &str,
        combine: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> KTable<K, V> {
        let Some(value) = self.stream.value.clone() else {
            self.missing(name, "value");
            return KTable::detached(&self.stream);
        };
        let add = move |_: &K, value: V, before: Option<V>| match before {
            Some(before) => combine(before, value),
            None => value,
        };
        self.aggregate_optional(name, value, add)
    }

    /// Folds the values of each key into an aggregate that starts with `initial`, in the key-value store `name`, whose
    /// values `serde` reads and writes.
    ///
    /// Emits the new aggregate after every record. Records with a null key or value are dropped and counted, and
    /// nothing is late. Headers, timestamps, topic, changelog and the source of the semantics are those of
    /// [`count`](Self::count). Aggregations of several groups of different types begin with [`cogroup`](Self::cogroup).
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// builder
    ///     .stream("visits", Consumed::new(utf8(), utf8()))
    ///     .group_by_key()
    ///     .aggregate("paths", utf8(), String::new, |_, page, path| path + "/" + &page)
    ///     .to_stream()
    ///     .to("paths");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let visits = driver.input("visits", utf8(), utf8());
    /// for page in ["home", "shop"] {
    ///     visits.pipe(&mut driver, "ann".to_owned(), page.to_owned(), 0);
    /// }
    /// let paths = driver.output("paths", utf8(), nullable(utf8()));
    /// let paths: Vec<_> = paths.read(&mut driver).into_iter().filter_map(|r| r.value).collect();
    /// assert_eq!(paths, ["/home", "/home/shop"]);
    /// ```
    pub fn aggregate<A: Data>(
        &self,
        name: &str,
        serde: impl Serde<A> + 'static,
        initial: impl Fn() -> A + Send + Sync + 'static,
        add: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KTable<K, A> {
        let add = move |key: &K, value: V, before: Option<A>| {
            add(key, value, before.unwrap_or_else(&initial))
        };
        self.aggregate_optional(name, Arc::new(serde), add)
    }

    /// Groups the records of each key by windows of event time: tumbling and hopping ones
    /// ([`TimeWindows`](super::TimeWindows)), sliding ones ([`SlidingWindows`](super::SlidingWindows)), or one without an
    /// end ([`UnlimitedWindows`](super::UnlimitedWindows)). Each of them has an example.
    ///
    /// This by itself makes nothing: the aggregation that follows has the name and the store. Sessions are another method,
    /// [`windowed_by_session`](Self::windowed_by_session), since their aggregates must be merged, and so are windows of so
    /// many records, [`windowed_by_count`](Self::windowed_by_count), since they know no time.
    ///
    /// Nulls, late records and topics are those of the aggregation. Source of the semantics: Kafka Streams'
    /// `KGroupedStream#windowedBy`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows, UnlimitedWindows};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("clicks");
    /// let clicks = builder.stream("clicks", Consumed::new(utf8(), int64())).group_by_key();
    /// let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::from_secs(5));
    /// clicks.windowed_by(minutes).count("clicks-per-minute").to_stream().to("per-minute");
    /// clicks.windowed_by(UnlimitedWindows::from(60_000)).count("clicks-since").to_stream().to("since");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let clicks = driver.input("clicks", utf8(), int64());
    /// for time in [59_999, 60_000, 180_000] {
    ///     clicks.pipe(&mut driver, "page".to_owned(), 1, time);
    /// }
    /// let per_minute = driver.output("per-minute", windowed(utf8(), 60_000), int64()).read(&mut driver);
    /// let per_minute: Vec<_> = per_minute.into_iter().map(|r| (r.key.start, r.value)).collect();
    /// assert_eq!(per_minute, [(0, 1), (60_000, 1), (180_000, 1)]);
    /// let since = driver.output("since", windowed(utf8(), 60_000), int64()).read(&mut driver);
    /// assert_eq!(since.into_iter().map(|r| r.value).collect::<Vec<_>>(), [1, 2]);
    /// ```
    pub fn windowed_by(&self, windows: impl Into<Windows>) -> TimeWindowedStream<'_, K, V> {
        TimeWindowedStream::new(self, windows.into())
    }

    fn aggregate_optional<A: Data>(
        &self,
        name: &str,
        serde: SharedSerde<A>,
        add: impl Fn(&K, V, Option<A>) -> A + Send + Sync + 'static,
    ) -> KTable<K, A> {
        let inputs = self.input(Adder::new(add));
        aggregate(&inputs, name, serde)
    }

    /// The group as what an aggregation takes.
    pub(crate) fn input<A: Data>(&self, adder: Adder<K, V, A, V>) -> Inputs<K, A, V> {
        let group = self.clone();
        Inputs {
            first: Box::new(GroupInput { group, adder }),
            others: Vec::new(),
        }
    }

    pub(crate) fn origin(&self) -> Origin {
        Origin {
            plan: Rc::clone(&self.stream.plan),
            node: self.stream.node,
        }
    }

    /// The stream with its key's serde, repartitioned under `name` if it must be.
    pub(crate) fn keyed(&self, name: &str) -> Option<Keyed<K, V>> {
        let Some(key) = self.stream.key.clone() else {
            self.missing(name, "key");
            return None;
        };
        let value = self.stream.value.clone();
        let stream = if self.must_repartition {
            let Some(value) = value.clone() else {
                self.missing(name, "value");
                return None;
            };
            repartition_once(
                &self.stream,
                name,
                Arc::clone(&key),
                value,
                Keyless::Dropped,
            )
        } else {
            let stream = &self.stream;
            let outlet = Arc::clone(&stream.outlet);
            KStream::new(Rc::clone(&stream.plan), stream.node, outlet, None, None)
        };
        Some(Keyed { stream, key, value })
    }

    pub(crate) fn missing(&self, name: &str, part: &str) {
        self.stream.plan.borrow_mut().problems.push(format!(
            "'{name}' has no serde for its {part}, whose type was changed by an operator; use \
             `group_by(…, Grouped::by(key serde).value(value serde))`"
        ));
    }

    pub(crate) fn upstream(&self) -> &KStream<K, V, Rekeyed> {
        &self.stream
    }
}

/// An aggregation of all records of `inputs`, called `name`.
pub(crate) fn aggregate<K: Data, A: Data, L: Data>(
    inputs: &Inputs<K, A, L>,
    name: &str,
    serde: SharedSerde<A>,
) -> KTable<K, A> {
    let Some(wired) = Wired::new(inputs, name, "aggregate", StoreKind::KeyValue) else {
        return KTable::detached(&inputs.origin().silent::<K, A, Partitioned>());
    };
    wired.describe(&serde, &[]);
    let outlet = Outlet::<K, Change<A>>::new();
    let (below, operator) = (Arc::clone(&outlet), name.to_owned());
    let (plan, node, store) = (Rc::clone(&wired.plan), wired.node, wired.store);
    let (key, key_serde, value_serde) = (
        Arc::clone(&wired.key),
        Arc::clone(&wired.key),
        Arc::clone(&serde),
    );
    wired.attach(move |instantiation| {
        Ok(Aggregation::Plain(PlainAggregate::new(
            instantiation.key_value(store)?,
            Encoding::new(&operator, Arc::clone(&key_serde), Arc::clone(&value_serde)),
            below.instantiate(instantiation)?,
        )))
    });
    KTable::stored(plan, node, outlet, (store, name), key, serde)
}

/// The aggregates of an unwindowed aggregation in a task.
pub(crate) struct PlainAggregate<K, A> {
    store: Rc<RefCell<KeyValueStore>>,
    encoding: Encoding<K, A>,
    children: Fanout<K, Change<A>>,
}

impl<K: Data, A: Data> PlainAggregate<K, A> {
    pub(crate) fn new(
        store: Rc<RefCell<KeyValueStore>>,
        encoding: Encoding<K, A>,
        children: Fanout<K, Change<A>>,
    ) -> Self {
        Self {
            store,
            encoding,
            children,
        }
    }

    pub(crate) fn take<V, L>(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, V>,
        adder: &Adder<K, V, A, L>,
    ) -> Result {
        let (record, value) = record.take_value();
        self.update(context, record, |key, before| {
            Some((adder.add)(key, value, before))
        })
    }

    /// Replaces the aggregate of the record's key by what `next` makes of it, and forwards the change; none deletes it.
    pub(crate) fn update(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, ()>,
        next: impl FnOnce(&K, Option<A>) -> Option<A>,
    ) -> Result {
        let Record {
            key,
            value: (),
            timestamp,
            headers,
        } = record;
        self.encoding.encode_key(&key)?;
        let mut store = self.store.borrow_mut();
        let before = store.get(&self.encoding.key_buffer)?;
        let timestamp = before
            .as_ref()
            .map_or(timestamp, |before| before.timestamp.max(timestamp));
        let old = before
            .map(|before| self.encoding.decode(&before))
            .transpose()?;
        let new = next(&key, old.clone());
        match &new {
            Some(new) => {
                let (key_bytes, bytes) = self.encoding.encode(new)?;
                store.put(key_bytes, bytes, timestamp)?;
            }
            None => store.delete(&self.encoding.key_buffer, timestamp)?,
        }
        drop(store);
        self.children.forward(
            context,
            Record {
                key,
                value: Change { new, old },
                timestamp,
                headers,
            },
        )
    }
}

/// Whether `value` is null; without a serde the type has no null.
pub(crate) fn is_null<V>(serde: Option<&SharedSerde<V>>, value: &V) -> bool {
    serde.is_some_and(|serde| serde.is_null(value))
}
