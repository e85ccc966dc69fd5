//! The same input gives the same bytes: topic by topic and partition by partition, in the same order, with the same keys,
//! values, timestamps and headers, whatever commits, buffers, stores, restarts and crashes there were on the way.
//!
//! All input is there when a run begins, and one thread reads it. Then this holds for everything that is fed directly, late
//! records included. Behind a repartition several upstream tasks interleave as commits come, so it holds for what is emitted
//! when it is final, if no record is later than the grace in its own partition, and but for the headers of a suppressed
//! table, which are those of the update that came last. The results of a join there are the same, but not their order. It
//! does not hold for a join with what comes of its own task's records through a repartition: those cannot be waited for.

use std::sync::Arc;
use std::time::Duration;

use processor_core::dsl::{
    Buffer, Consumed, Grouped, JoinWindows, Produced, SessionWindows, StreamsBuilder, TimeWindows,
};
use processor_core::log::{ConsumerRecord, Header, Log, ProducerConfig, ProducerRecord};
use processor_core::partitioner::partition_for;
use processor_core::serde::{int64, nullable, utf8};
use processor_core::{StreamsConfig, Topology};
use proptest::prelude::*;

use crate::support::faulty_log::{FaultyLog, Script};
use crate::support::world::World;

const PARTITIONS: i32 = 3;
/// No record is further below the largest timestamp before it in its partition.
const DISORDER_MS: i64 = 30;
const INPUTS: [&str; 3] = ["left", "right", "third"];
/// What comes out in one order.
const ORDERED: [&str; 7] = [
    "pairs",
    "late",
    "windows",
    "suppressed",
    "sessions",
    "by_value",
    "by_value_suppressed",
];
/// What comes out in any order.
const UNORDERED: &str = "mixed";

fn ms(n: i64) -> Duration {
    Duration::from_millis(n.unsigned_abs())
}

fn topology() -> Topology {
    let builder = StreamsBuilder::new("everything");
    let texts = || Consumed::new(utf8(), utf8());
    let texts_out = || Produced::new(utf8(), utf8());
    let (left, right) = (
        builder.stream("left", texts()),
        builder.stream("right", texts()),
    );

    // Fed directly, with so little grace that some records are late.
    let windows = JoinWindows::of(ms(15)).grace(ms(5));
    let show = |side: Option<String>| side.unwrap_or_else(|| "-".to_owned());
    let pairs = left.outer_join("join", &right, windows, move |_, l, r| {
        show(l) + "+" + &show(r)
    });
    pairs.to_with("pairs", texts_out());
    pairs
        .late_left()
        .map_values(|_, late| format!("{}!{}", late.value, late.stream_time))
        .to_with("late", texts_out());
    let tumbling = TimeWindows::tumbling(ms(20));
    let counts = left
        .group_by_key()
        .windowed_by(tumbling.grace(ms(5)))
        .count("windows");
    counts
        .to_stream()
        .map(|window, n| (window.key, format!("{}:{n}", window.start)))
        .to_with("windows", texts_out());
    counts
        .table()
        .suppress_until_window_closes("suppressed", Buffer::unbounded())
        .to_stream()
        .map(|window, n| (window.key, n.map(|n| format!("{}:{n}", window.start))))
        .to_with("suppressed", Produced::new(utf8(), nullable(utf8())));
    right
        .group_by_key()
        .windowed_by_session(SessionWindows::gap(ms(8)).grace(ms(5)))
        .emit_final()
        .count("sessions")
        .to_stream()
        .map(|window, n| {
            (
                window.key,
                n.map(|n| format!("{}-{}:{n}", window.start, window.end)),
            )
        })
        .to_with("sessions", Produced::new(utf8(), nullable(utf8())));

    // Behind a repartition, with grace for all disorder there is.
    let by_value = left.group_by(|_, v| v[..1].to_owned(), Grouped::by(utf8()));
    let patient = || by_value.windowed_by(tumbling.grace(ms(DISORDER_MS)));
    patient()
        .emit_final()
        .aggregate(
            "by-value",
            int64(),
            || 0,
            |_, value, sum| sum + i64::try_from(value.len()).unwrap_or(0),
        )
        .to_stream()
        .map(|window, n| (window.key, format!("{}:{n}", window.start)))
        .to_with("by_value", texts_out());
    patient()
        .count("by-value-suppressed-counts")
        .table()
        .suppress_until_window_closes("by-value-suppressed", Buffer::unbounded())
        .to_stream()
        .map(|window, n| (window.key, n.map(|n| format!("{}:{n}", window.start))))
        .to_with(
            "by_value_suppressed",
            Produced::new(utf8(), nullable(utf8())),
        );
    let rekeyed = builder
        .stream("third", texts())
        // Values begin with u to z, and keys with a to l.
        .select_key(|_, v| char::from(v.as_bytes()[0] - b'u' + b'a').to_string())
        .repartition("rekeyed", utf8(), utf8(), None);
    let patient = JoinWindows::of(ms(15)).grace(ms(10 * DISORDER_MS));
    rekeyed
        .join("mixed", &left, patient, |_, r, l| format!("{r}*{l}"))
        .to_with("mixed", texts_out());
    builder.build().unwrap()
}

/// A record of the input: which topic, key and value; how far time goes with it, and how far it lies below that.
type Step = (&'static str, char, char, i64, i64);

fn world(input: &[Step]) -> World {
    let topics: Vec<(&str, i32)> = INPUTS
        .into_iter()
        .chain([UNORDERED])
        .chain(ORDERED)
        .map(|topic| (topic, PARTITIONS))
        .collect();
    let world = World::new(&topics);
    let mut producer = world.log.producer(ProducerConfig::default()).unwrap();
    let mut now = DISORDER_MS;
    for (n, (topic, key, value, step, below)) in input.iter().enumerate() {
        now += step;
        let (key, value) = (key.to_string(), format!("{value}{n}"));
        let header = Header {
            name: Arc::from("n"),
            value: Some(n.to_string().into()),
        };
        let record = ProducerRecord {
            topic,
            partition: partition_for(key.as_bytes(), PARTITIONS),
            timestamp: now - below,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            headers: &[header],
        };
        producer.send(record).unwrap();
    }
    producer.flush(Duration::from_secs(1)).unwrap();
    world
}

/// How a run goes.
#[derive(Debug, Clone)]
struct Way {
    commit_interval: Duration,
    buffered: usize,
    polled: usize,
    /// How often a commit says that it is still in flight.
    slow_commits: usize,
    /// How many bytes may change until a commit comes early.
    commit_bytes: Option<usize>,
    apply_bytes: usize,
    on_disk: bool,
    /// After so many records the application stops, in good order or not, and starts again.
    stops: Vec<(u64, bool)>,
}

/// Everything there is in one go.
fn plainly() -> Way {
    Way {
        commit_interval: Duration::from_secs(1_000_000),
        buffered: 10_000,
        polled: 0,
        slow_commits: 0,
        commit_bytes: None,
        apply_bytes: 64 << 20,
        on_disk: false,
        stops: Vec::new(),
    }
}

fn ways() -> impl Strategy<Value = Way> {
    (
        prop::sample::select(&[0, 1_000_000][..]),
        prop::sample::select(&[1, 3, 10_000][..]),
        prop::sample::select(&[1, 5, 0][..]),
        0..3_usize,
        prop::sample::select(&[None, Some(500)][..]),
        prop::sample::select(&[1, 64 << 20][..]),
        any::<bool>(),
        prop::collection::vec((1..40_u64, any::<bool>()), 0..4),
    )
        .prop_map(
            |(
                seconds,
                buffered,
                polled,
                slow_commits,
                commit_bytes,
                apply_bytes,
                on_disk,
                stops,
            )| Way {
                commit_interval: Duration::from_secs(seconds),
                buffered,
                polled,
                slow_commits,
                commit_bytes,
                apply_bytes,
                on_disk,
                stops,
            },
        )
}

/// What came out, a line for each record.
#[derive(Debug, PartialEq, Eq)]
struct Output {
    /// By topic and partition, in order.
    ordered: Vec<String>,
    /// The offsets of those, which count the markers of transactions as well.
    offsets: Vec<i64>,
    unordered: Vec<String>,
}

impl Output {
    fn of(world: &World) -> Self {
        let (mut ordered, mut offsets) = (Vec::new(), Vec::new());
        for topic in ORDERED {
            for partition in 0..PARTITIONS {
                for record in world.read_partition(topic, partition) {
                    ordered.push(line(topic, partition, &record));
                    offsets.push(record.offset);
                }
            }
        }
        Self {
            ordered,
            offsets,
            unordered: world.read_sorted(UNORDERED),
        }
    }

    fn count(&self, topic: &str) -> usize {
        let of_topic = |line: &&String| line.split('-').next() == Some(topic);
        self.ordered.iter().filter(of_topic).count()
    }
}

fn line(topic: &str, partition: i32, record: &ConsumerRecord) -> String {
    let text = |bytes: Option<&[u8]>| {
        let bytes = bytes.unwrap_or(b"null");
        String::from_utf8_lossy(bytes).into_owned()
    };
    let headers = record.headers.iter();
    let headers: Vec<String> = headers
        // Those of the update that came last before the window closed.
        .filter(|_| topic != "by_value_suppressed")
        .map(|header| format!("{}:{}", header.name, text(header.value.as_deref())))
        .collect();
    let (key, value) = (text(record.key.as_deref()), text(record.value.as_deref()));
    format!(
        "{topic}-{partition} {key}={value}@{} {headers:?}",
        record.timestamp
    )
}

fn run(input: &[Step], way: &Way) -> Output {
    let world = world(input);
    let directory = tempfile::tempdir().unwrap();
    let start = || {
        let log = FaultyLog {
            inner: world.log.clone(),
            script: Script::slow_commits(way.slow_commits),
            max_poll_records: way.polled,
        };
        let config = StreamsConfig {
            instance: Some("one".to_owned()),
            commit_interval: way.commit_interval,
            buffered_records_per_partition: way.buffered,
            commit_bytes: way.commit_bytes,
            apply_bytes: Some(way.apply_bytes),
            state_dir: way.on_disk.then(|| directory.path().to_owned()),
            // The clock stands still, so nothing comes of waiting.
            max_task_idle: Duration::from_secs(1_000_000),
            ..StreamsConfig::new("app")
        };
        world.streams_on(Arc::new(log), &topology(), config)
    };
    for (after, in_order) in &way.stops {
        let mut streams = start();
        streams
            .run_to_end_with(&mut |taken| taken < *after)
            .unwrap();
        if *in_order {
            streams.close().unwrap();
        }
    }
    let mut streams = start();
    streams.run_to_end().unwrap();
    streams.close().unwrap();
    Output::of(&world)
}

/// The first line in which two outputs differ.
fn difference(got: &[String], expected: &[String]) -> Option<String> {
    let length = got.len().max(expected.len());
    let at = (0..length).find(|&at| got.get(at) != expected.get(at))?;
    Some(format!(
        "{:?} instead of {:?}",
        got.get(at),
        expected.get(at)
    ))
}

fn input() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        prop::sample::select(&INPUTS[..]),
        prop::char::range('a', 'l'),
        prop::char::range('u', 'z'),
        0..12_i64,
        prop_oneof![3 => 0..4_i64, 1 => 0..=DISORDER_MS],
    );
    prop::collection::vec(step, 1..150)
}

#[test]
fn an_ordinary_run_has_something_in_each_topic() {
    let input: Vec<Step> = (0..300_i64)
        .map(|n| {
            let n = (n * 7_919 + 13) % 1_009;
            let letter = |from: u8, n: i64| char::from(from + u8::try_from(n).unwrap());
            let below = if n % 7 == 0 { DISORDER_MS } else { n % 4 };
            let (key, value) = (letter(b'a', n % 12), letter(b'u', n / 12 % 6));
            (
                INPUTS[usize::try_from(n % 3).unwrap()],
                key,
                value,
                n % 9,
                below,
            )
        })
        .collect();
    let output = run(&input, &plainly());
    for topic in ORDERED {
        assert!(output.count(topic) > 2, "{topic}: {output:?}");
    }
    assert!(output.unordered.len() > 2, "{output:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn the_same_input_gives_the_same_bytes_whatever_happens_on_the_way(
        input in input(),
        ways in prop::collection::vec(ways(), 3),
    ) {
        let expected = run(&input, &plainly());
        for way in ways {
            let output = run(&input, &way);
            prop_assert_eq!(difference(&output.ordered, &expected.ordered), None, "{:?}", way);
            prop_assert_eq!(&output.unordered, &expected.unordered, "{:?}", way);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_run_that_is_repeated_is_the_same_to_the_offset(input in input(), way in ways()) {
        prop_assert_eq!(run(&input, &way), run(&input, &way));
    }
}
