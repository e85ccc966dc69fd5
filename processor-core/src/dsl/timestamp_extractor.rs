//! Where the event time of a record comes from.

use std::sync::Arc;

use crate::log::Timestamp;
use crate::processor::NO_TIME;
use crate::record::{Data, Record};

type ByRecord<K, V> = Arc<dyn Fn(&Record<K, V>) -> Timestamp + Send + Sync>;
type ByRecordAndTime<K, V> = Arc<dyn Fn(&Record<K, V>, Timestamp) -> Timestamp + Send + Sync>;

/// Where the event time of a source's records comes from, and what becomes of a record whose time is invalid, that is,
/// negative. The extractors of Kafka Streams under their names:
///
/// | Kafka Streams | here |
/// |---|---|
/// | `FailOnInvalidTimestamp`, the default | [`fail_on_invalid`](Self::fail_on_invalid) |
/// | `LogAndSkipOnInvalidTimestamp` | [`log_and_skip_on_invalid`](Self::log_and_skip_on_invalid) |
/// | `UsePartitionTimeOnInvalidTimestamp` | [`use_partition_time_on_invalid`](Self::use_partition_time_on_invalid) |
/// | `WallclockTimestampExtractor` | [`wall_clock`](Self::wall_clock) |
/// | a class of one's own | [`by`](Self::by), or [`Consumed::timestamp`](super::Consumed::timestamp) |
///
/// A record that *fails* goes to [`on_bad_record`](crate::StreamsConfig::on_bad_record), which stops the thread, skips the
/// record, or sends it to the dead letter topic. The *partition time* is the largest event time of the records taken from
/// the partition before; it survives restarts. Unlike there, what a function of one's own returns is treated by the same
/// choice of three: failing, [`or_skip`](Self::or_skip) or [`or_partition_time`](Self::or_partition_time).
///
/// ```
/// # use processor_core::Record;
/// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder, TimestampExtractor};
/// # use processor_core::serde::{int64, utf8};
/// # use processor_core::testing::TopologyTestDriver;
/// # let builder = StreamsBuilder::new("measured");
/// // The value is when it was measured; what was not measured counts as of the time before it.
/// let measured = TimestampExtractor::by(|record: &Record<String, i64>, _| record.value).or_partition_time();
/// builder
///     .stream("in", Consumed::new(utf8(), int64()).timestamp_extractor(measured))
///     .to("out");
/// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
/// # let input = driver.input("in", utf8(), int64());
/// for value in [500, -1, 700] {
///     input.pipe(&mut driver, "a".to_owned(), value, 0);
/// }
/// let out = driver.output("out", utf8(), int64()).read(&mut driver);
/// let times: Vec<i64> = out.iter().map(|record| record.timestamp).collect();
/// assert_eq!(times, [500, 500, 700]);
/// ```
pub struct TimestampExtractor<K, V> {
    from: Origin<K, V>,
    invalid: Invalid,
}

enum Origin<K, V> {
    Log,
    WallClock,
    Record(ByRecord<K, V>),
    RecordAndTime(ByRecordAndTime<K, V>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Invalid {
    Fails,
    IsSkipped,
    TakesPartitionTime,
}

/// What an extractor makes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extracted {
    At(Timestamp),
    /// The record is to be skipped; the invalid time.
    Skipped(Timestamp),
    Invalid(Timestamp),
}

impl<K, V> TimestampExtractor<K, V> {
    fn new(from: Origin<K, V>, invalid: Invalid) -> Self {
        Self { from, invalid }
    }

    /// The timestamp that the log has for the record. One that is invalid fails the record.
    #[must_use]
    pub fn fail_on_invalid() -> Self {
        Self::new(Origin::Log, Invalid::Fails)
    }

    /// The timestamp that the log has for the record. A record whose timestamp is invalid is skipped: with a warning in the
    /// log, and counted in `dropped-records` with the reason `invalid timestamp`.
    #[must_use]
    pub fn log_and_skip_on_invalid() -> Self {
        Self::fail_on_invalid().or_skip()
    }

    /// The timestamp that the log has for the record, or the partition time where that is invalid. Before the first valid
    /// one there is no partition time, and the record fails.
    #[must_use]
    pub fn use_partition_time_on_invalid() -> Self {
        Self::fail_on_invalid().or_partition_time()
    }

    /// The wall clock when the record comes to the head of its queue. So event time is processing time: what is late and
    /// which window a record belongs to depends on when it is read, and a record that is read again after a failure gets
    /// another time.
    #[must_use]
    pub fn wall_clock() -> Self {
        Self::new(Origin::WallClock, Invalid::Fails)
    }

    /// What `extract` makes of the record, which has the timestamp that the log has for it, and of the partition time,
    /// which is −1 before the first record. A negative time fails the record.
    pub fn by(
        extract: impl Fn(&Record<K, V>, Timestamp) -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        Self::new(Origin::RecordAndTime(Arc::new(extract)), Invalid::Fails)
    }

    pub(crate) fn by_record(
        extract: impl Fn(&Record<K, V>) -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        Self::new(Origin::Record(Arc::new(extract)), Invalid::Fails)
    }

    /// The same, but a record with an invalid time is skipped, as with
    /// [`log_and_skip_on_invalid`](Self::log_and_skip_on_invalid).
    #[must_use]
    pub fn or_skip(self) -> Self {
        Self::new(self.from, Invalid::IsSkipped)
    }

    /// The same, but a record with an invalid time takes the partition time, as with
    /// [`use_partition_time_on_invalid`](Self::use_partition_time_on_invalid).
    #[must_use]
    pub fn or_partition_time(self) -> Self {
        Self::new(self.from, Invalid::TakesPartitionTime)
    }

    /// Whether it is [`fail_on_invalid`](Self::fail_on_invalid).
    pub(crate) fn is_fail_on_invalid(&self) -> bool {
        self.invalid == Invalid::Fails && matches!(self.from, Origin::Log)
    }

    /// Whether it asks for the partition time.
    pub(crate) fn wants_partition_time(&self) -> bool {
        self.invalid == Invalid::TakesPartitionTime || matches!(self.from, Origin::RecordAndTime(_))
    }

    pub(crate) fn extract(
        &self,
        record: &Record<K, V>,
        partition_time: Timestamp,
        wall_ms: i64,
    ) -> Extracted {
        let time = match &self.from {
            Origin::Log => record.timestamp,
            Origin::WallClock => wall_ms,
            Origin::Record(extract) => extract(record),
            Origin::RecordAndTime(extract) => extract(record, partition_time),
        };
        match self.invalid {
            _ if time >= 0 => Extracted::At(time),
            Invalid::IsSkipped => Extracted::Skipped(time),
            Invalid::TakesPartitionTime if partition_time != NO_TIME => {
                Extracted::At(partition_time)
            }
            Invalid::Fails | Invalid::TakesPartitionTime => Extracted::Invalid(time),
        }
    }
}

impl<K: Data, V: Data> TimestampExtractor<K, V> {
    /// The same for values that may be null: those have the timestamp that the log has for them.
    pub(crate) fn of_nullable(self) -> TimestampExtractor<K, Option<V>> {
        fn with_value<K: Data, V: Data>(record: &Record<K, Option<V>>) -> Option<Record<K, V>> {
            let value = record.value.clone()?;
            Some(record.clone().with_value(value))
        }
        let from = match self.from {
            Origin::Log => Origin::Log,
            Origin::WallClock => Origin::WallClock,
            Origin::Record(extract) => Origin::Record(Arc::new(move |record| {
                with_value(record).map_or(record.timestamp, |record| extract(&record))
            })),
            Origin::RecordAndTime(extract) => {
                Origin::RecordAndTime(Arc::new(move |record, time| {
                    with_value(record).map_or(record.timestamp, |record| extract(&record, time))
                }))
            }
        };
        TimestampExtractor::new(from, self.invalid)
    }
}

impl<K, V> Clone for TimestampExtractor<K, V> {
    fn clone(&self) -> Self {
        let from = match &self.from {
            Origin::Log => Origin::Log,
            Origin::WallClock => Origin::WallClock,
            Origin::Record(extract) => Origin::Record(Arc::clone(extract)),
            Origin::RecordAndTime(extract) => Origin::RecordAndTime(Arc::clone(extract)),
        };
        Self::new(from, self.invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extract(extractor: &TimestampExtractor<(), i64>, time: Timestamp) -> [Extracted; 2] {
        let record = Record::new((), 7, time);
        [NO_TIME, 40].map(|partition_time| extractor.extract(&record, partition_time, 90))
    }

    #[test]
    fn each_extractor_does_as_its_name_says() {
        use Extracted::{At, Invalid, Skipped};
        type Extractor = TimestampExtractor<(), i64>;
        let fail = Extractor::fail_on_invalid();
        assert_eq!(extract(&fail, 5), [At(5), At(5)]);
        assert_eq!(extract(&fail, -5), [Invalid(-5), Invalid(-5)]);
        let skip = Extractor::log_and_skip_on_invalid();
        assert_eq!(extract(&skip, 0), [At(0), At(0)]);
        assert_eq!(extract(&skip, -1), [Skipped(-1), Skipped(-1)]);
        let last = Extractor::use_partition_time_on_invalid();
        assert_eq!(extract(&last, 5), [At(5), At(5)]);
        assert_eq!(extract(&last, -5), [Invalid(-5), At(40)]);
        let clock = Extractor::wall_clock();
        assert_eq!(extract(&clock, -5), [At(90), At(90)]);
        let own = Extractor::by(|record, time| record.value.min(time));
        assert_eq!(extract(&own, 5), [Invalid(-1), At(7)]);
        assert_eq!(extract(&own.or_skip(), 5), [Skipped(-1), At(7)]);
    }

    #[test]
    fn a_table_s_deletions_have_the_timestamp_of_the_log() {
        let own = TimestampExtractor::<(), i64>::by_record(|record| record.value).of_nullable();
        let at = |value| own.extract(&Record::new((), value, 3), NO_TIME, 0);
        assert_eq!(at(Some(7)), Extracted::At(7));
        assert_eq!(at(None), Extracted::At(3));
    }
}
