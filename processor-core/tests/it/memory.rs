//! One budget for memory: what is counted stays within it, whatever comes, and nothing is lost by that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use processor_core::dsl::{Consumed, Grouped, Produced, StreamsBuilder};
use processor_core::partitioner::partition_for;
use processor_core::serde::{Serde, SerdeError, nullable, utf8};
use processor_core::{MemoryPlan, Stores, Streams, StreamsConfig, StreamsError, Topology};
use proptest::prelude::*;

use crate::support::faulty_log::{FaultyLog, Script};
use crate::support::world::World;

/// The least that one thread may have.
const BUDGET: u64 = 32 << 20;
const PARTITIONS: i32 = 2;
const LARGEST: usize = 1 << 20;

/// The latest value of each key, directly and behind a repartition by another key.
fn latest() -> Topology {
    let builder = StreamsBuilder::new("latest");
    let stream = builder.stream("in", Consumed::new(utf8(), utf8()));
    stream
        .group_by_key()
        .reduce("by-key", |_, new| new)
        .to_stream()
        .to_with("latest", Produced::new(utf8(), nullable(utf8())));
    stream
        .group_by(|_, value| value[..1].to_owned(), Grouped::by(utf8()))
        .reduce("by-value", |_, new| new);
    builder.build().unwrap()
}

/// What is counted, and a record on its way through: it may be in a store, in its changelog and in results at once, while
/// another one is read.
fn bound(plan: &MemoryPlan) -> usize {
    let shares = [
        plan.dirty_bytes,
        plan.settled_bytes,
        plan.waiting_bytes,
        plan.queue_bytes,
        plan.fetch_bytes,
    ];
    shares.iter().sum::<usize>() + 4 * LARGEST
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn what_is_counted_stays_within_the_budget(
        records in prop::collection::vec((0..20_u8, prop_oneof![4 => 1..50_000_usize, 1 => 1..LARGEST - 1_000]), 100..300),
        slow_commits in 0..4_usize,
    ) {
        let world = World::new(&[("in", PARTITIONS), ("latest", PARTITIONS)]);
        let directory = tempfile::tempdir().unwrap();
        let mut expected = BTreeMap::new();
        for (n, (key, size)) in records.iter().enumerate() {
            let (key, letter) = (format!("k{key}"), char::from(b'a' + (n % 26) as u8));
            let value = letter.to_string().repeat(*size);
            let partition = partition_for(key.as_bytes(), PARTITIONS);
            world.write("in", partition, Some(&key), Some(&value), n as i64);
            expected.insert(key, (letter, *size));
        }
        let log = FaultyLog {
            inner: world.log.clone(),
            script: Script::slow_commits(slow_commits),
            max_poll_records: 0,
        };
        let config = StreamsConfig {
            memory_bytes: BUDGET,
            // Only the budget makes anything happen.
            commit_interval: Duration::from_secs(1_000_000),
            apply_interval: Duration::from_secs(1_000_000),
            state_dir: Some(directory.path().to_owned()),
            ..StreamsConfig::new("app")
        };
        let mut streams = world.streams_on(Arc::new(log), &latest(), config);
        streams.run_to_end().unwrap();
        let most = streams.memory_peak();
        let plan = MemoryPlan::of(BUDGET, 1, Stores::OnDisk).unwrap();
        prop_assert!(most <= bound(&plan), "{most} bytes were held, more than {}", bound(&plan));

        let mut latest = BTreeMap::new();
        for record in world.read("latest") {
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
            let value = text(record.value.as_deref());
            latest.insert(text(record.key.as_deref()), (value.chars().next().unwrap(), value.len()));
        }
        prop_assert_eq!(latest, expected);
    }
}

/// Text that cannot be decoded for the first so many times.
struct NotReadyFor(AtomicUsize);

impl Serde<String> for NotReadyFor {
    fn serialize(&self, value: &String, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        utf8().serialize(value, into)
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<String, SerdeError> {
        let fewer = |left: usize| left.checked_sub(1);
        let refused = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer);
        match refused {
            Ok(_) => Err(SerdeError::not_ready("the schema is on its way")),
            Err(_) => utf8().deserialize(bytes),
        }
    }
}

#[test]
fn a_partition_that_waits_is_paused_by_its_bytes() {
    let world = World::new(&[("in", 1), ("lengths", 1)]);
    let value = "v".repeat(100_000);
    for n in 0..400 {
        world.write("in", 0, Some("k"), Some(&value), n);
    }
    let builder = StreamsBuilder::new("lengths");
    let values = NotReadyFor(AtomicUsize::new(100));
    builder
        .stream("in", Consumed::new(utf8(), values))
        .map_values(|_, value| value.len().to_string())
        .to_with("lengths", Produced::new(utf8(), utf8()));
    let config = StreamsConfig {
        memory_bytes: BUDGET,
        ..StreamsConfig::new("app")
    };
    let mut streams = world.streams(&builder.build().unwrap(), config);
    streams.run_to_end().unwrap();
    assert_eq!(world.read_values("lengths"), vec!["100000"; 400]);
    let plan = MemoryPlan::of(BUDGET, 1, Stores::None).unwrap();
    let (peak, most) = (
        streams.memory_peak(),
        plan.queue_bytes + plan.fetch_bytes + 4 * LARGEST,
    );
    assert!(most < 30_000_000 && peak <= most, "{peak} of {most}");
    assert!(peak > plan.queue_bytes, "nothing had to wait: {peak}");
}

#[test]
fn a_budget_that_is_too_small_is_refused_with_the_one_that_would_do() {
    let world = World::new(&[("in", 1), ("latest", 1)]);
    let config = StreamsConfig {
        memory_bytes: 100 << 20,
        threads: 4,
        ..StreamsConfig::new("app")
    };
    let log = Arc::new(world.log.clone());
    let Err(error) = Streams::new(latest(), config, log) else {
        panic!("it started");
    };
    assert!(matches!(error, StreamsError::TooLittleMemory { .. }));
    let error = error.to_string();
    assert!(error.contains("`memory_bytes` is 104857600"), "{error}");
    assert!(error.contains("set it to 134217728 at least"), "{error}");
}
