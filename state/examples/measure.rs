//! Measures the stores:
//! `cargo run --release -p state --features fjall,redb --example measure -- [--backend BACKEND] [NAME…]`.
//! Linux only: rates are per second of CPU time of the thread that owns the stores, and of the whole process with the
//! threads of the storage engine.
//!
//! Names: overlay, apply, count, window, join. All of them when none is given. One line per result.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHasher;
use state::{
    Backend, Database, DatabaseOptions, JoinStore, JoinStoreOptions, KeyValueStore, Store,
    WindowStore, WindowStoreOptions,
};

/// As in the `advertisex` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const COMMIT: u64 = 25_000;
const MINUTE: i64 = 60_000;

type Measure = fn(Backend);

fn main() {
    let mut chosen: Vec<String> = std::env::args().skip(1).collect();
    let mut backend = Backend::default();
    if let Some(at) = chosen.iter().position(|choice| choice == "--backend") {
        let named = chosen.drain(at..).nth(1);
        let named = named.and_then(|name| name.parse().ok());
        backend = named.expect("--backend, then sled, fjall or redb, after the names");
    }
    let all: [(&str, Measure); 5] = [
        ("overlay", |_| overlay()),
        ("apply", apply),
        ("count", count),
        ("window", window),
        ("join", join),
    ];
    for (name, measure) in all {
        if chosen.is_empty() || chosen.iter().any(|choice| choice == name) {
            measure(backend);
        }
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}

/// User ids as they come: 16 hex digits, in no order.
fn user(n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (at, digit) in key.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(mixed >> (4 * at) & 15) as usize];
    }
    key
}

/// Seconds this thread has been running on a core; a busy machine changes it less than the wall clock.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split(' ')
        .next()
        .and_then(|ns| ns.parse::<f64>().ok())
        .expect("nanoseconds")
        / 1e9
}

/// User and system time of all threads; the kernel counts them in hundredths.
fn process_cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = text.rsplit_once(')').expect("a name in parentheses");
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks
        .map(|ticks| ticks.parse::<f64>().expect("ticks"))
        .sum::<f64>()
        / 100.0
}

#[expect(clippy::print_stdout, reason = "results")]
fn report(name: &str, count: u64, run: impl FnOnce()) {
    let (start, start_all) = (cpu_seconds(), process_cpu_seconds());
    run();
    let (seconds, all) = (cpu_seconds() - start, process_cpu_seconds() - start_all);
    println!(
        "{name:<66} {:>9.0} per CPU second, {:>9.0} with the engine's threads",
        count as f64 / seconds,
        count as f64 / all
    );
}

fn open(backend: Backend) -> (tempfile::TempDir, Arc<dyn Database>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = DatabaseOptions {
        cache_bytes: 256 << 20,
    };
    let database = backend.open(directory.path(), &options).expect("opened");
    (directory, database)
}

fn commit(store: &mut dyn Store, settled_budget: usize) {
    let mut changes = 0u64;
    store
        .seal(&mut |change| changes += change.key.len() as u64)
        .expect("sealed");
    store.settle();
    if store.settled_bytes() > settled_budget {
        while !store.apply(2_000).expect("applied") {}
    }
    std::hint::black_box(changes);
}

/// The table of one generation: a get and a put for each of many updates, then the keys in order.
fn overlay() {
    for keys in [10_000, 300_000] {
        let mut random = Random(7);
        let updates: Vec<Bytes> = (0..2_000_000)
            .map(|_| Bytes::copy_from_slice(&user(random.below(keys))))
            .collect();
        let value = Bytes::from_static(b"0123456789abcdef");
        report(
            &format!("overlay, B-tree, {keys} keys"),
            updates.len() as u64,
            || {
                let mut map: BTreeMap<Bytes, Bytes> = BTreeMap::new();
                for key in &updates {
                    std::hint::black_box(map.get(&key[..]));
                    map.insert(key.clone(), value.clone());
                }
                std::hint::black_box(map.keys().count());
            },
        );
        report(
            &format!("overlay, hash then sort, {keys} keys"),
            updates.len() as u64,
            || {
                let mut map: HashMap<Bytes, Bytes, BuildHasherDefault<FxHasher>> =
                    HashMap::default();
                for key in &updates {
                    std::hint::black_box(map.get(&key[..]));
                    map.insert(key.clone(), value.clone());
                }
                let mut sorted: Vec<_> = map.iter().collect();
                sorted.sort_unstable();
                std::hint::black_box(sorted.len());
            },
        );
    }
}

/// Batches of 2,000 straight into a tree of a million keys, 40-byte values.
fn apply(backend: Backend) {
    const KEYS: u64 = 1_000_000;
    let row = |n: u64| {
        (
            Bytes::copy_from_slice(&user(n)),
            Some(Bytes::from_static(&[7; 40])),
        )
    };
    let mut sorted: Vec<_> = (0..KEYS).map(row).collect();
    sorted.sort();
    let (_directory, database) = open(backend);
    let mut tree = database.tree("t").expect("opened");
    report("apply, new keys, all sorted", KEYS, || {
        sorted
            .chunks(2_000)
            .for_each(|batch| tree.apply(batch).expect("applied"));
    });
    report("apply, overwrite, all sorted", KEYS, || {
        sorted
            .chunks(2_000)
            .for_each(|batch| tree.apply(batch).expect("applied"));
    });
    for (name, group) in [
        ("random", 1),
        ("sorted by 25,000", 25_000),
        ("sorted by 250,000", 250_000),
    ] {
        let mut random = Random(11);
        let mut rows: Vec<_> = (0..KEYS).map(|_| row(random.below(KEYS))).collect();
        rows.chunks_mut(group).for_each(|rows| rows.sort());
        report(&format!("apply, overwrite, {name}"), KEYS, || {
            rows.chunks(2_000)
                .for_each(|batch| tree.apply(batch).expect("applied"));
        });
    }
    let mut random = Random(13);
    report("get, random, present", KEYS, || {
        for _ in 0..KEYS {
            std::hint::black_box(tree.get(&user(random.below(KEYS))).expect("read"));
        }
    });
    report("get, random, absent", KEYS, || {
        for _ in 0..KEYS {
            std::hint::black_box(tree.get(&user(KEYS + random.below(KEYS))).expect("read"));
        }
    });
}

/// A count by key: a get and a put per record.
fn count(backend: Backend) {
    const RECORDS: u64 = 1_000_000;
    for (keys, settled) in [(100_000, 16), (1_000_000, 16), (1_000_000, 64)] {
        let (_directory, database) = open(backend);
        let mut store = KeyValueStore::open("s", database.tree("s").expect("opened"));
        let mut random = Random(17);
        let name = format!("count, {keys} keys, {settled} MiB settled");
        report(&name, RECORDS, || {
            for n in 0..RECORDS {
                let key = user(random.below(keys));
                let seen = store.get(&key).expect("read");
                let seen = seen.map_or(0, |found| {
                    u64::from_be_bytes(found.value[..].try_into().expect("a count"))
                });
                store
                    .put(&key, &(seen + 1).to_be_bytes(), n as i64)
                    .expect("put");
                if n % COMMIT == 0 {
                    commit(&mut store, settled << 20);
                }
            }
        });
    }
}

/// A tumbling count by key and minute, 100,000 records a minute, ten minutes of retention.
fn window(backend: Backend) {
    const RECORDS: u64 = 1_000_000;
    for (keys, settled) in [(10_000, 16), (100_000, 16)] {
        let (_directory, database) = open(backend);
        let options = WindowStoreOptions {
            retention_ms: 5 * MINUTE,
            segment_ms: MINUTE,
        };
        let tree = database.tree("s").expect("opened");
        let mut store = WindowStore::open("s", tree, options).expect("opened");
        let mut random = Random(19);
        let name = format!("window, {keys} keys, {settled} MiB settled");
        report(&name, RECORDS, || {
            for n in 0..RECORDS {
                let (key, time) = (user(random.below(keys)), (n * 6 / 10) as i64);
                let start = time - time % MINUTE;
                let seen = store.get(&key, start).expect("read");
                let seen = seen.map_or(0, |found| {
                    u64::from_be_bytes(found.value[..].try_into().expect("a count"))
                });
                store
                    .put(&key, start, &(seen + 1).to_be_bytes(), time)
                    .expect("put");
                store.expire_before(time - 5 * MINUTE);
                if n % COMMIT == 0 {
                    commit(&mut store, settled << 20);
                }
            }
        });
    }
}

/// Both sides of a join: an append on one side and a probe of 30 minutes on the other per record;
/// a million records in 60 minutes of event time, so that half of it expires.
fn join(backend: Backend) {
    const RECORDS: u64 = 1_000_000;
    for (keys, settled) in [
        (10_000, 16),
        (100_000, 16),
        (100_000, 64),
        (100_000, 256),
        (1_000_000, 256),
    ] {
        let (_directory, database) = open(backend);
        let side = |name: &str| {
            let tree = database.tree(name).expect("opened");
            let options = JoinStoreOptions {
                segment_ms: 30 * MINUTE,
            };
            JoinStore::open(name, tree, options).expect("opened")
        };
        let (mut left, mut right) = (side("left"), side("right"));
        let mut random = Random(23);
        let mut matches = 0u64;
        let name = format!("join, {keys} keys, 2 × {settled} MiB settled");
        report(&name, RECORDS, || {
            for n in 0..RECORDS {
                let (key, time) = (user(random.below(keys)), (n * 36 / 10) as i64);
                let (own, other) = match n % 4 {
                    0 => (&mut right, &left),
                    _ => (&mut left, &right),
                };
                let mut visit = |_, _, _: &[u8]| {
                    matches += 1;
                    ControlFlow::Continue(())
                };
                other
                    .fetch(&key, time - 30 * MINUTE, time, &mut visit)
                    .expect("fetched");
                own.append(&key, time, n as u32, &[7; 60])
                    .expect("appended");
                left.expire_before(time - 35 * MINUTE);
                right.expire_before(time - 35 * MINUTE);
                if n % COMMIT == 0 {
                    commit(&mut left, settled << 20);
                    commit(&mut right, settled << 20);
                }
            }
        });
        std::hint::black_box(matches);
    }
}
