//! Measures the storage engines at size:
//! `cargo run --release -p state --features fjall,redb --example engines -- BACKEND GIGABYTES [--minutes M] [--memory GIB] [--dir DIR]`.
//! Linux only.
//!
//! Fills one tree with that many bytes of keys and values, in order, then updates rows at random, in the groups and batches
//! in which a stream thread applies them; reads; is killed with SIGKILL while it updates; and is opened again, after the kill
//! and after a close, with its files in the page cache and without. Every part is a process of its own, so its CPU time and
//! peak memory are its own, threads of the engine included. What takes longer than the limit (10 minutes), or more
//! memory than there is for it (6 GiB), ends there and says so.
#![expect(
    clippy::print_stdout,
    reason = "results, and the talk between the processes"
)]

use std::io::{BufRead, BufReader};
use std::ops::{Bound, ControlFlow};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use state::{Backend, Database, DatabaseOptions, Direction, MAX_BATCH, Tree};

/// As in the `advertisex` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The default of `StreamsConfig::state_cache_bytes`.
const CACHE: u64 = 128 << 20;
/// Rows that a stream thread applies at once: 64 MiB, the default of `StreamsConfig::apply_bytes`.
const GROUP: u64 = 250_000;
const UPDATES: u64 = 2_000_000;
const READS: u64 = 200_000;
const SCANS: u64 = 50_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).cloned()
    };
    let backend: Backend = arguments
        .first()
        .and_then(|name| name.parse().ok())
        .expect("the first argument is a backend: sled, fjall or redb");
    let gigabytes: f64 = arguments
        .get(1)
        .and_then(|number| number.parse().ok())
        .expect("the second argument is a number of gigabytes");
    let number = |name: &str, otherwise: u64| {
        value(name).map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let run = Run {
        backend,
        bytes: (gigabytes * 1e9) as u64,
        limit: Duration::from_secs(60 * number("--minutes", 10)),
        memory: number("--memory", 6) << 30,
    };
    match (value("--part").as_deref(), value("--dir")) {
        (Some("fill"), Some(path)) => run.fill(Path::new(&path)),
        (Some("open"), Some(path)) => run.open_again(Path::new(&path)),
        (_, parent) => run.measure(&parent.map_or_else(std::env::temp_dir, PathBuf::from)),
    }
}

struct Run {
    backend: Backend,
    bytes: u64,
    limit: Duration,
    memory: u64,
}

impl Run {
    /// Starts the parts, one after the other.
    fn measure(&self, parent: &Path) {
        let directory = tempfile::tempdir_in(parent).expect("a temporary directory");
        let path = directory.path();
        println!(
            "{}, {:.1} GB, cache {} MiB",
            self.backend,
            self.bytes as f64 / 1e9,
            CACHE >> 20
        );
        let mut child = self.part("fill", path);
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut batches = 0;
        for line in lines.map_while(Result::ok) {
            match line.as_str() {
                "batch" => batches += 1,
                text => println!("{text}"),
            }
            // In the middle of the second group.
            if batches == 200 {
                child.kill().expect("it can be killed");
                break;
            }
        }
        drop(child.wait());
        println!(
            "on disk after the kill: {:.2} GB",
            disk_bytes(path) as f64 / 1e9
        );
        self.open("after the kill", path);
        self.open("after a close", path);
        evict(path);
        self.open("after a close, not in the page cache", path);
    }

    fn part(&self, part: &str, path: &Path) -> Child {
        let minutes = self.limit.as_secs() / 60;
        Command::new(std::env::current_exe().expect("it has a path"))
            .args([self.backend.name(), &format!("{}", self.bytes as f64 / 1e9)])
            .args(["--minutes", &minutes.to_string()])
            .args(["--memory", &(self.memory >> 30).to_string()])
            .args(["--part", part])
            .arg("--dir")
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be started")
    }

    fn open(&self, name: &str, path: &Path) {
        let child = self.part("open", path);
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout);
        println!("open {name}: {}", text.trim());
    }

    fn database(&self, path: &Path) -> std::sync::Arc<dyn Database> {
        let options = DatabaseOptions { cache_bytes: CACHE };
        self.backend
            .open(&path.join("stores"), &options)
            .expect("it opens")
    }

    fn open_again(&self, path: &Path) {
        let watch = Watch::start();
        let database = self.database(path);
        let tree = database.tree("rows").expect("it opens");
        std::hint::black_box(tree.get(&key(1)).expect("read"));
        let opened = watch.report();
        drop((tree, database));
        println!("{opened}, closed by {}", watch.report());
    }

    fn fill(&self, path: &Path) {
        let database = self.database(path);
        let mut tree = database.tree("rows").expect("it opens");
        let watch = Watch::start();
        let (mut rows, mut bytes) = (0, 0);
        let mut stopped = None;
        while bytes < self.bytes && stopped.is_none() {
            let batch: Vec<_> = (rows..rows + MAX_BATCH as u64).map(|n| row(n, 0)).collect();
            bytes += size(&batch);
            rows += batch.len() as u64;
            tree.apply(&batch).expect("applied");
            if rows % GROUP == 0 {
                database.sync().expect("synced");
                stopped = self.too_much(&watch);
            }
        }
        database.sync().expect("synced");
        if let Some(why) = stopped {
            println!("stopped at {:.2} GB: {why}", bytes as f64 / 1e9);
        }
        println!("insert in order: {}", watch.rate(rows, bytes));
        println!("{}", space(path, bytes));

        let mut random = Random(7);
        let watch = Watch::start();
        let mut updated = (0, 0);
        while updated.0 < UPDATES && self.too_much(&watch).is_none() {
            updated.1 += update(&mut *tree, rows, &mut random, &mut || {});
            updated.0 += GROUP;
            database.sync().expect("synced");
        }
        println!("update at random: {}", watch.rate(updated.0, updated.1));
        println!("{}", space(path, bytes));
        read(&*tree, rows);
        println!("peak memory: {:.2} GB", memory("VmHWM:") as f64 / 1e9);
        println!("{}", space(path, bytes));
        // Until it is killed.
        loop {
            update(&mut *tree, rows, &mut random, &mut || println!("batch"));
            database.sync().expect("synced");
        }
    }

    fn too_much(&self, watch: &Watch) -> Option<String> {
        let memory = memory("VmRSS:");
        if memory > self.memory {
            return Some(format!("{:.1} GB of memory", memory as f64 / 1e9));
        }
        let late = watch.wall() > self.limit;
        late.then(|| format!("{} minutes", self.limit.as_secs() / 60))
    }
}

/// Updates a group of rows, sorted, in batches; their bytes.
fn update(tree: &mut dyn Tree, rows: u64, random: &mut Random, done: &mut dyn FnMut()) -> u64 {
    let mut chosen: Vec<u64> = (0..GROUP).map(|_| random.below(rows)).collect();
    chosen.sort_unstable();
    chosen.dedup();
    let mut bytes = 0;
    for numbers in chosen.chunks(MAX_BATCH) {
        let version = random.next();
        let batch: Vec<_> = numbers.iter().map(|n| row(*n, version)).collect();
        bytes += size(&batch);
        tree.apply(&batch).expect("applied");
        done();
    }
    bytes
}

fn read(tree: &dyn Tree, rows: u64) {
    let mut random = Random(11);
    let watch = Watch::start();
    for _ in 0..READS {
        let found = tree.get(&key(random.below(rows))).expect("read");
        assert!(found.is_some(), "the row is there");
    }
    println!("get, present: {}", watch.rate(READS, 0));
    let watch = Watch::start();
    for _ in 0..READS {
        let mut absent = key(random.below(rows));
        absent.push(b'-');
        assert!(tree.get(&absent).expect("read").is_none());
    }
    println!("get, absent: {}", watch.rate(READS, 0));
    let watch = Watch::start();
    for _ in 0..SCANS {
        let from = key(random.below(rows));
        let mut left = 20;
        let mut visit = |_: &[u8], _: &[u8]| {
            left -= 1;
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        let from = Bound::Included(&from[..]);
        tree.scan(from, Bound::Unbounded, Direction::Forward, &mut visit)
            .expect("scanned");
    }
    println!("scan of 20 rows: {}", watch.rate(SCANS, 0));
}

/// Keys ascend with `n`: as the keys of stores, text with a prefix in common.
fn key(n: u64) -> Vec<u8> {
    format!("user-{:02}/{n:012}", n / 10_000_000).into_bytes()
}

/// A row of 100 to 300 bytes, as JSON with ids in it; it compresses to about a half.
fn row(n: u64, version: u64) -> (Bytes, Option<Bytes>) {
    let mut random = Random((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version);
    let (a, b, c) = (random.next(), random.next(), random.next());
    let mut value = format!(
        "{{\"impression_id\":\"{a:016x}{b:016x}\",\"user_id\":\"{n:012}\",\"campaign_id\":\"campaign-{:03}\",\
         \"cost_micros\":{}",
        c % 1_000,
        b % 1_000_000
    );
    for _ in 0..random.below(9) {
        value.push_str(&format!(",\"{:012x}\"", random.next() >> 16));
    }
    value.push('}');
    (key(n).into(), Some(value.into()))
}

fn size(batch: &[(Bytes, Option<Bytes>)]) -> u64 {
    let size =
        |(key, value): &(Bytes, Option<Bytes>)| key.len() + value.as_ref().map_or(0, Bytes::len);
    batch.iter().map(size).sum::<usize>() as u64
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

/// Time since it was started: wall, CPU of this process with the threads of the engine, CPU of this thread alone.
struct Watch {
    started: Instant,
    cpu: f64,
    own: f64,
}

impl Watch {
    #[expect(clippy::disallowed_methods, reason = "a stopwatch")]
    fn start() -> Self {
        Self {
            started: Instant::now(),
            cpu: cpu_seconds(),
            own: own_cpu_seconds(),
        }
    }

    fn wall(&self) -> Duration {
        self.started.elapsed()
    }

    fn report(&self) -> String {
        let (wall, cpu) = (self.wall().as_secs_f64(), cpu_seconds() - self.cpu);
        format!("{wall:.2} s, {cpu:.2} CPU s")
    }

    fn rate(&self, count: u64, bytes: u64) -> String {
        let (wall, cpu) = (self.wall().as_secs_f64(), cpu_seconds() - self.cpu);
        let own = own_cpu_seconds() - self.own;
        let per = |seconds: f64| count as f64 / seconds / 1e3;
        format!(
            "{:.0} k/CPU s, {:.0} k/CPU s of its thread, {:.0} k/s, {:.1} MB/s ({count} in {wall:.1} s, {cpu:.1} CPU s, \
             {own:.1} of its thread)",
            per(cpu),
            per(own),
            per(wall),
            bytes as f64 / wall / 1e6
        )
    }
}

fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = text.rsplit_once(')').expect("a name in parentheses");
    let ticks = |n: usize| {
        let field = fields.split_whitespace().nth(n);
        field.and_then(|ticks| ticks.parse::<f64>().ok())
    };
    // User and system time, in hundredths of a second on Linux.
    (ticks(11).expect("ticks") + ticks(12).expect("ticks")) / 100.0
}

fn own_cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok());
    nanoseconds.expect("nanoseconds") / 1e9
}

fn memory(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.expect("a size in KiB") << 10
}

fn files(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let parts = paths.flat_map(|path| match path.is_dir() {
        true => files(&path),
        false => vec![path],
    });
    parts.collect()
}

/// Bytes in use; a file may go while it is looked at.
fn disk_bytes(path: &Path) -> u64 {
    let blocks = files(path).into_iter();
    let blocks = blocks.filter_map(|path| Some(path.metadata().ok()?.blocks()));
    512 * blocks.sum::<u64>()
}

fn space(path: &Path, bytes: u64) -> String {
    let used = disk_bytes(path);
    format!(
        "on disk: {:.2} GB, {:.2} of the logical bytes",
        used as f64 / 1e9,
        used as f64 / bytes as f64
    )
}

/// Drops the files from the page cache.
fn evict(path: &Path) {
    for file in files(path) {
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", file.display()))
            .args(["iflag=nocache", "count=0", "status=none"]);
        assert!(dd.status().expect("dd is there").success());
    }
}
