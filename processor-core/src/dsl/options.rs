//! Options of sources and sinks.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::millis;
use crate::log::{OffsetReset, Timestamp};
use crate::record::{Data, Record};
use crate::serde::{Serde, SharedSerde};
use crate::task::{FutureBound, IdleRule, Meanwhile};

use super::TimestampExtractor;

/// How a topic is read.
pub struct Consumed<K, V> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) reset: OffsetReset,
    pub(crate) time: InputTime<K, V>,
}

/// What a source makes of time.
pub(crate) struct InputTime<K, V> {
    pub extractor: TimestampExtractor<K, V>,
    pub idle: Option<IdleRule>,
    pub future_bound: Option<FutureBound>,
}

impl<K, V> Clone for InputTime<K, V> {
    fn clone(&self) -> Self {
        Self {
            extractor: self.extractor.clone(),
            idle: self.idle,
            future_bound: self.future_bound,
        }
    }
}

impl<K, V> Consumed<K, V> {
    /// Reads with these serdes, takes the record's own timestamp and starts at the earliest offset.
    pub fn new(key: impl Serde<K> + 'static, value: impl Serde<V> + 'static) -> Self {
        Self::of(Arc::new(key), Arc::new(value))
    }

    pub(crate) fn of(key: SharedSerde<K>, value: SharedSerde<V>) -> Self {
        Self {
            key,
            value,
            reset: OffsetReset::Earliest,
            time: InputTime {
                extractor: TimestampExtractor::fail_on_invalid(),
                idle: None,
                future_bound: None,
            },
        }
    }

    /// Takes the event time, in epoch milliseconds, from the record. A negative time fails the record. Short for the
    /// extractor of such a function; see [`TimestampExtractor`] for other ways.
    #[must_use]
    pub fn timestamp(
        self,
        extract: impl Fn(&Record<K, V>) -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        self.timestamp_extractor(TimestampExtractor::by_record(extract))
    }

    /// Where the event time of a record comes from. Without it: [`TimestampExtractor::fail_on_invalid`].
    #[must_use]
    pub fn timestamp_extractor(mut self, extractor: TimestampExtractor<K, V>) -> Self {
        self.time.extractor = extractor;
        self
    }

    /// Where to start without a committed offset.
    #[must_use]
    pub fn reset(mut self, reset: OffsetReset) -> Self {
        self.reset = reset;
        self
    }

    /// A partition of this topic is *idle* when the log confirms that there is nothing more to read **and** `bound` of wall
    /// clock has passed since its last record, or since its task was opened. It is so until the next record. Without this
    /// setting or [`advance_when_idle`](Self::advance_when_idle) no partition ever is; a later call of either replaces the
    /// earlier one.
    ///
    /// **What it does.** Nobody waits for an idle partition:
    ///
    /// - Behind a repartition topic time is the minimum over the tasks that write it. A task whose inputs are all idle is
    ///   left out of that, also if it never had a record; it says so with a marker in the topic. Results that were held
    ///   back for it come without another record. When all of them are idle, time is the largest that any of them had.
    /// - Operators that are fed by the topic directly have the largest timestamp for their time, so there is nothing to
    ///   leave out: their windows close at the next record, and not before. Use `advance_when_idle` if that is too late.
    ///
    /// A record that comes later is judged by the time that the operator has come to: it may be late, and then goes where
    /// late records go.
    ///
    /// **What is deterministic.** That a partition is idle follows from the wall clock, so two runs over the same input may
    /// differ in what they find late. But it is decided once: the marker is a record, and what it does is committed with it,
    /// so restarts and readers of the topic find the same. After a restart what was idle still is, and the clock starts anew.
    ///
    /// Too small a bound makes late what a slow producer still has to write. A bound of zero counts as a millisecond.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::StreamsConfig;
    /// # use processor_core::dsl::{Consumed, Grouped, Produced, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits-by-page");
    /// let visits = Consumed::new(utf8(), utf8()).idle_after(Duration::from_secs(30));
    /// builder
    ///     .stream("visits", visits)
    ///     .group_by(|_, page| page.clone(), Grouped::by(utf8()))
    ///     .windowed_by(TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::ZERO))
    ///     .emit_final()
    ///     .count("visits-by-page")
    ///     .to_stream()
    ///     .map(|window, count| (window.key, count))
    ///     .to_with("counts", Produced::new(utf8(), int64()));
    /// # let topology = builder.build().unwrap();
    /// // Two partitions, and all records have one key: the other partition never has any.
    /// let mut driver = TopologyTestDriver::with(topology, StreamsConfig::new("app"), 2).unwrap();
    /// let visits = driver.input("visits", utf8(), utf8());
    /// let counts = driver.output("counts", utf8(), int64());
    /// for time in [1, 2, 11] {
    ///     visits.pipe(&mut driver, "ann".to_owned(), "home".to_owned(), time);
    /// }
    /// assert_eq!(counts.read_key_values(&mut driver), []);
    /// driver.advance_wall_clock(Duration::from_secs(30));
    /// assert_eq!(counts.read_key_values(&mut driver), [("home".to_owned(), 2)]);
    /// ```
    #[must_use]
    pub fn idle_after(self, bound: Duration) -> Self {
        self.idle(bound, Meanwhile::Stands)
    }

    /// Like [`idle_after`](Self::idle_after), and while a partition is idle its event time goes on at the pace of the wall
    /// clock, from its last record on: after 30 s without a record it is 30 s later. So windows close, joins give up, and
    /// suppressions let go without another record, and stream-time punctuations fire. An operator with several inputs moves
    /// when all of them are idle, to the latest of their times; an input with `idle_after` alone only stops holding the
    /// others up. A partition that never had a record has no time that could go on.
    ///
    /// Time moves in steps of `bound`, at the first look at the input after each; every step is a commit.
    ///
    /// This is for inputs whose event time is close to the wall clock. With an old feed, time only ever moves by what the
    /// clock does. What was said about determinism holds here too: which records come too late depends on the wall clock;
    /// what was decided is committed with the results it caused, and so survives a restart.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder, TimeWindows};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("visits");
    /// let visits = Consumed::new(utf8(), utf8()).advance_when_idle(Duration::from_millis(50));
    /// let counts = builder
    ///     .stream("visits", visits)
    ///     .group_by_key()
    ///     .windowed_by(TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::ZERO))
    ///     .emit_final()
    ///     .count("visits-by-user");
    /// counts
    ///     .to_stream()
    ///     .map(|window, count| (window.key, count))
    ///     .to_with("counts", Produced::new(utf8(), int64()));
    /// counts.late().map_values(|_, late| late.stream_time).to_with("late", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let visits = driver.input("visits", utf8(), utf8());
    /// # let (counts, late) = (driver.output("counts", utf8(), int64()), driver.output("late", utf8(), int64()));
    /// visits.pipe(&mut driver, "ann".to_owned(), "home".to_owned(), 1_003);
    /// driver.advance_wall_clock(Duration::from_millis(49));
    /// assert_eq!(counts.read_key_values(&mut driver), []);
    /// driver.advance_wall_clock(Duration::from_millis(1));
    /// assert_eq!(counts.read_key_values(&mut driver), [("ann".to_owned(), 1)]);
    ///
    /// // Whoever comes after that is too late: it is 1,053.
    /// visits.pipe(&mut driver, "ann".to_owned(), "home".to_owned(), 1_004);
    /// assert_eq!(late.read_key_values(&mut driver), [("ann".to_owned(), 1_053)]);
    /// ```
    #[must_use]
    pub fn advance_when_idle(self, bound: Duration) -> Self {
        self.idle(bound, Meanwhile::GoesOn)
    }

    /// Keeps records whose timestamps are far ahead of their feed from moving time: one record of 2026 in a feed of 2019
    /// would close its windows and make everything behind it late.
    ///
    /// **The rule.** A record that is at most `ahead` above the *partition time*, the largest timestamp taken from its
    /// partition before, is taken at once; as old as it likes. One that is further ahead is held, and with it what lies
    /// behind it, until the next records of the partition decide: a record that is not more than `ahead` below it speaks for
    /// it, any other against it. With `confirmed_by` votes for it, the feed has really jumped (it was paused for a month,
    /// say) and the record is taken. With as many against it, it is a *stray*: it goes to
    /// [`on_bad_record`](crate::StreamsConfig::on_bad_record), with the reason `future timestamp`, and moves no time. So at
    /// most `2 * confirmed_by − 1` records are looked at; those without a valid timestamp have no vote, and if that leaves
    /// it undecided, more votes for it than against it are needed.
    ///
    /// The first record of a partition is ahead of nothing that is known, so it always waits for the same votes; where they
    /// are equal it is taken. At the [end of a bounded run](crate::Streams::run_to_end) the votes that are there decide: a
    /// last record that is too far ahead, and that nothing speaks for, is a stray.
    ///
    /// **What it costs.** A record that is held waits for up to `2 * confirmed_by − 1` further records of its partition, for as
    /// long as the feed takes to bring them, and so does everything behind it. Other partitions go on, and what lies before
    /// it is committed. A record that is near costs a comparison. More votes make strays in a row less likely to pass for a
    /// jump. `ahead` should be above the pauses that a feed usually has, so that these cost no wait.
    ///
    /// **What it depends on.** Only on the records of the partition, in the order of their offsets, and on the partition
    /// time, which is committed with the offsets: so replays, restarts and crashes decide the same. The one exception is
    /// the moment at which a bounded run ends. With [`advance_when_idle`](Self::advance_when_idle) the partition time is
    /// what the clock has made of it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, FutureBound, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # use processor_core::{OnBadRecord, StreamsConfig};
    /// # let builder = StreamsBuilder::new("bounded");
    /// let bound = FutureBound { ahead: Duration::from_millis(1_000), confirmed_by: 2 };
    /// builder.stream("in", Consumed::new(utf8(), int64()).future_bound(bound)).to("out");
    /// # let topology = builder.build().unwrap();
    /// let config = StreamsConfig { on_bad_record: OnBadRecord::Skip, ..StreamsConfig::new("app") };
    /// # let mut driver = TopologyTestDriver::with(topology, config, 1).unwrap();
    /// # let input = driver.input("in", utf8(), int64());
    /// # let out = driver.output("out", utf8(), int64());
    /// # let mut times = |driver: &mut TopologyTestDriver| -> Vec<i64> {
    /// #     out.read(driver).into_iter().map(|record| record.timestamp).collect()
    /// # };
    /// // The first three records agree; the next one is held, and refuted by the two behind it.
    /// for time in [10, 20, 30, 900_000, 40, 50] {
    ///     input.pipe(&mut driver, "a".to_owned(), 1, time);
    /// }
    /// assert_eq!(times(&mut driver), [10, 20, 30, 40, 50]);
    /// // Here the feed itself has jumped.
    /// for time in [900_000, 900_010, 900_020] {
    ///     input.pipe(&mut driver, "a".to_owned(), 1, time);
    /// }
    /// assert_eq!(times(&mut driver), [900_000, 900_010, 900_020]);
    /// ```
    #[must_use]
    pub fn future_bound(mut self, bound: FutureBound) -> Self {
        self.time.future_bound = Some(bound);
        self
    }

    fn idle(mut self, bound: Duration, meanwhile: Meanwhile) -> Self {
        self.time.idle = Some(IdleRule {
            after_ms: millis(bound).max(1),
            meanwhile,
        });
        self
    }
}

impl<K: Data, V: Data> Consumed<K, V> {
    /// The same for a topic whose null values delete.
    pub(crate) fn nullable(self) -> Consumed<K, Option<V>> {
        Consumed {
            key: self.key,
            value: Arc::new(crate::serde::nullable(self.value)),
            reset: self.reset,
            time: InputTime {
                extractor: self.time.extractor.of_nullable(),
                idle: self.time.idle,
                future_bound: self.time.future_bound,
            },
        }
    }
}

impl<K, V> Clone for Consumed<K, V> {
    fn clone(&self) -> Self {
        Self {
            key: Arc::clone(&self.key),
            value: Arc::clone(&self.value),
            reset: self.reset,
            time: self.time.clone(),
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
