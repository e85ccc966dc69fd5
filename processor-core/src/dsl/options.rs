//! Options of sources and sinks.

use std::sync::Arc;

use crate::log::{OffsetReset, Timestamp};
use crate::record::Record;
use crate::serde::{Serde, SharedSerde};

/// Chooses the event time of a record; it is given the record with the timestamp the log has for it.
pub type TimestampExtractor<K, V> = Arc<dyn Fn(&Record<K, V>) -> Timestamp + Send + Sync>;

/// How a topic is read.
pub struct Consumed<K, V> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) timestamp: Option<TimestampExtractor<K, V>>,
    pub(crate) reset: OffsetReset,
}

impl<K, V> Consumed<K, V> {
    /// Reads with these serdes, takes the record's own timestamp and starts at the earliest offset.
    pub fn new(key: impl Serde<K> + 'static, value: impl Serde<V> + 'static) -> Self {
        Self {
            key: Arc::new(key),
            value: Arc::new(value),
            timestamp: None,
            reset: OffsetReset::Earliest,
        }
    }

    /// Takes the event time, in epoch milliseconds, from the record. A negative time fails the record.
    #[must_use]
    pub fn timestamp(
        mut self,
        extract: impl Fn(&Record<K, V>) -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        self.timestamp = Some(Arc::new(extract));
        self
    }

    /// Where to start without a committed offset.
    #[must_use]
    pub fn reset(mut self, reset: OffsetReset) -> Self {
        self.reset = reset;
        self
    }
}

impl<K, V> Clone for Consumed<K, V> {
    fn clone(&self) -> Self {
        Self {
            key: Arc::clone(&self.key),
            value: Arc::clone(&self.value),
            timestamp: self.timestamp.clone(),
            reset: self.reset,
        }
    }
}

/// Chooses where in a topic a record goes; it is given the record and the number of partitions.
pub(crate) type Partitioner<K, V> = Arc<dyn Fn(&Record<K, V>, i32) -> Route + Send + Sync>;

/// The partitions that a record is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The one of its key, as without a partitioner.
    ByKey,
    /// This one, from 0.
    One(i32),
    /// Each of these, in this order.
    Several(Vec<i32>),
    /// Every one.
    All,
    /// None: the record ends here, and is counted in `dropped-records`.
    Nowhere,
}

/// How a stream is written where its own serdes do not fit or are not known.
pub struct Produced<K, V> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) partitioner: Option<Partitioner<K, V>>,
}

impl<K, V> Produced<K, V> {
    /// Writes with these serdes, each record to the partition of its key.
    pub fn new(key: impl Serde<K> + 'static, value: impl Serde<V> + 'static) -> Self {
        Self {
            key: Arc::new(key),
            value: Arc::new(value),
            partitioner: None,
        }
    }

    /// Lets `choose` say where each record goes; it is given the number of partitions of the topic. A partition that
    /// does not exist fails the record: [`on_processing_error`](crate::StreamsConfig::on_processing_error) decides.
    ///
    /// Whoever joins or aggregates the topic by its key expects equal keys in one partition. Same semantics as Kafka
    /// Streams' `StreamPartitioner`, with sending to several partitions and to none (KIP-837).
    ///
    /// ```
    /// # use processor_core::StreamsConfig;
    /// # use processor_core::dsl::{Consumed, Produced, Route, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("alarms");
    /// // Alarms go to every partition, whose readers each see all of them.
    /// let produced = Produced::new(utf8(), int64()).partitioner(|record, _| match record.value {
    ///     level if level >= 9 => Route::All,
    ///     0 => Route::Nowhere,
    ///     _ => Route::ByKey,
    /// });
    /// builder.stream("levels", Consumed::new(utf8(), int64())).to_with("alarms", produced);
    /// # let config = StreamsConfig::new("app");
    /// # let mut driver = TopologyTestDriver::with(builder.build().unwrap(), config, 3).unwrap();
    /// # let levels = driver.input("levels", utf8(), int64());
    /// levels.pipe(&mut driver, "boiler".to_owned(), 9, 0);
    /// levels.pipe(&mut driver, "boiler".to_owned(), 4, 1);
    /// levels.pipe(&mut driver, "boiler".to_owned(), 0, 2);
    /// let mut sent: Vec<i64> = driver
    ///     .output("alarms", utf8(), int64())
    ///     .read(&mut driver)
    ///     .into_iter()
    ///     .map(|record| record.value)
    ///     .collect();
    /// sent.sort();
    /// assert_eq!(sent, [4, 9, 9, 9]);
    /// ```
    #[must_use]
    pub fn partitioner(
        mut self,
        choose: impl Fn(&Record<K, V>, i32) -> Route + Send + Sync + 'static,
    ) -> Self {
        self.partitioner = Some(Arc::new(choose));
        self
    }
}
