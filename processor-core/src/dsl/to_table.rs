//! A stream read as the changes of a table.
//!
//! The latest record of each key is its row, in the order in which records come; their timestamps do not matter. Source
//! of the semantics: Kafka Streams' `KStream#toTable` and `KTableSource`.

use std::rc::Rc;
use std::sync::Arc;

use crate::record::Data;
use crate::serde::{Serde, SerdeError, SharedSerde};

use super::lineage::Lineage;
use super::repartition::{Keyless, repartition_once};
use super::table::TableSource;
use super::{KStream, KTable};

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    /// The latest value of each key, kept in the key-value store `store`.
    ///
    /// Emits with every record, also one whose timestamp is older than the row's: tables know no late records. A record
    /// with a null key is dropped and counted; a null value, where `V` has one, deletes its key. For a stream of
    /// optional values see [`to_table_with_deletes`](Self::to_table_with_deletes).
    ///
    /// A stream whose key may have changed is sent through `<application id>-<store>-repartition` first. The store's
    /// changelog is `<application id>-<store>-changelog`. Source of the semantics: Kafka Streams' `KStream#toTable`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("latest");
    /// let readings = builder.stream("readings", Consumed::new(utf8(), int64()));
    /// let latest = readings.filter(|_, reading| *reading >= 0).to_table("latest");
    /// latest.to_stream().to("latest");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let readings = driver.input("readings", utf8(), int64());
    /// for (reading, time) in [(3, 5), (-1, 6), (4, 2)] {
    ///     readings.pipe(&mut driver, "door".to_owned(), reading, time);
    /// }
    /// // The one that came last, though its time is earlier.
    /// assert_eq!(driver.store_get("latest", b"door"), Some((4_i64.to_be_bytes().to_vec(), 2)));
    /// # let out = driver.output("latest", utf8(), nullable(int64()));
    /// # assert_eq!(out.read(&mut driver).len(), 2);
    /// ```
    pub fn to_table(&self, store: &str) -> KTable<K, V> {
        let (key, value) = (self.key.clone(), self.value.clone());
        let is_null = value.clone();
        let read = move |value: V| match &is_null {
            Some(serde) if serde.is_null(&value) => None,
            _ => Some(value),
        };
        self.rows_in(store, key, value, read)
    }

    fn rows_in<V2: Data>(
        &self,
        store: &str,
        key: Option<SharedSerde<K>>,
        value: Option<SharedSerde<V2>>,
        read: impl Fn(V) -> Option<V2> + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        let (Some(key), Some(value), Some(stream_value)) = (key, value, self.value.clone()) else {
            self.plan.borrow_mut().problems.push(format!(
                "table '{store}' has no serdes, since an operator changed a type; use \
                 `with_serdes(key serde, value serde)` before it"
            ));
            return KTable::detached(self);
        };
        let stream = if L::MUST_REPARTITION {
            let key = Arc::clone(&key);
            repartition_once(self, store, key, stream_value, Keyless::Dropped)
        } else {
            let (plan, outlet) = (Rc::clone(&self.plan), Arc::clone(&self.outlet));
            KStream::new(plan, self.node, outlet, None, None)
        };
        let table = TableSource {
            store,
            key,
            value,
            read_back: None,
        };
        table.attach(&stream, read)
    }
}

impl<K: Data, V: Data, L: Lineage> KStream<K, Option<V>, L> {
    /// The latest value of each key, kept in the key-value store `store`: like [`to_table`](Self::to_table), but the
    /// rows are plain values, and `None` deletes a row.
    ///
    /// Null keys, late records, topic and changelog are as there.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("latest");
    /// let readings = builder.stream("readings", Consumed::new(utf8(), nullable(int64())));
    /// readings.to_table_with_deletes("latest").to_stream().to("latest");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let readings = driver.input("readings", utf8(), nullable(int64()));
    /// readings.pipe(&mut driver, "door".to_owned(), Some(3), 0);
    /// readings.pipe(&mut driver, "door".to_owned(), None, 1);
    /// assert_eq!(driver.store_get("latest", b"door"), None);
    /// ```
    pub fn to_table_with_deletes(&self, store: &str) -> KTable<K, V> {
        let value = self.value.clone().map(|optional| {
            let value: SharedSerde<V> = Arc::new(Present(optional));
            value
        });
        self.rows_in(store, self.key.clone(), value, |value| value)
    }
}

/// The serde of what an optional value holds.
struct Present<T>(SharedSerde<Option<T>>);

impl<T: Data> Serde<T> for Present<T> {
    fn format(&self) -> Option<String> {
        self.0.format()
    }

    fn may_wait(&self) -> bool {
        self.0.may_wait()
    }

    fn serialize(&self, value: &T, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        self.0.serialize(&Some(value.clone()), into)
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<T, SerdeError> {
        let value = self.0.deserialize(bytes)?;
        value.ok_or_else(|| SerdeError::new("a row of a table is never null"))
    }
}
