//! What a process holds at most, against the budget that it was given, with a state that is larger than that.
//!
//! The state is the latest value of each key, on disk, fed from a real broker. Each budget has a process of its own, with
//! state and internal topics of its own; then another process restores that state from its changelog, on an empty disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use processor_core::dsl::Consumed;
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::log::{Log, NewTopic, ProducerConfig, ProducerRecord};
use processor_core::partitioner::partition_for;
use processor_core::serde::{bytes, utf8};
use processor_core::testing::simulation::Draw;
use processor_core::{Backend, Streams, StreamsBuilder, StreamsConfig, Topology};
use xtask::broker::{Broker, Options};
use xtask::stopwatch::{Stopwatch, wait_for};

use crate::usage::Usage;

const TOPIC: &str = "values";
const PARTITIONS: i32 = 4;
const STORE: &str = "latest";
/// How long a process may take.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// Peak memory against budgets
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    bench: Bench,
}

#[derive(Args)]
struct Bench {
    /// Budgets in MiB
    #[arg(long, value_delimiter = ',', default_value = "64,256,1024")]
    budgets: Vec<u64>,
    /// Keys of the state
    #[arg(long, default_value_t = 150_000)]
    keys: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 8_192)]
    value_bytes: usize,
    /// Updates of random keys, after each has had its first value
    #[arg(long, default_value_t = 50_000)]
    updates: u64,
    /// Stream threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Storage engine of the state
    #[arg(long, default_value_t)]
    backend: Backend,
}

#[derive(Subcommand)]
enum Role {
    /// One process of a run
    #[command(hide = true)]
    Child(Job),
}

#[derive(Args)]
struct Job {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    budget_mib: u64,
    #[arg(long)]
    threads: usize,
    #[arg(long)]
    backend: Backend,
    #[arg(long)]
    state: PathBuf,
    /// Records to take.
    #[arg(long)]
    taken: u64,
    /// Records to restore.
    #[arg(long)]
    restored: u64,
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.role {
        None => run(&cli.bench),
        Some(Role::Child(job)) => child(job),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "results")]
fn run(bench: &Bench) -> Result<()> {
    let directory = tempfile::tempdir().context("a temporary directory")?;
    let broker = Broker::start(directory.path().join("broker"), &Options::default())?;
    let log = KafkaLog::new(KafkaOptions::new(broker.bootstrap()))?;
    log.create_topics(&[NewTopic::new(TOPIC, PARTITIONS)])?;
    write(&log, bench)?;
    let mib = (bench.keys * (bench.value_bytes as u64 + 16)) >> 20;
    println!(
        "state: {} keys, {mib} MiB; {} threads",
        bench.keys, bench.threads
    );
    println!(
        "budget MiB | what | peak resident MiB | held at most, MiB | CPU s | s | state on disk MiB"
    );
    println!("--:|---|--:|--:|--:|--:|--:");
    for &budget_mib in &bench.budgets {
        let state = directory.path().join(format!("state-{budget_mib}"));
        let mut job = Job {
            bootstrap: broker.bootstrap().to_owned(),
            budget_mib,
            threads: bench.threads,
            backend: bench.backend,
            state: state.clone(),
            taken: bench.keys + bench.updates,
            restored: 0,
        };
        println!("{budget_mib} | process {}", spawn(&job)?);
        fs::remove_dir_all(&state).context("removing the state")?;
        (job.taken, job.restored) = (0, bench.keys);
        println!("{budget_mib} | restore {}", spawn(&job)?);
        fs::remove_dir_all(&state).context("removing the state")?;
        let application = application_id(budget_mib);
        let internal = format!("{application}-{STORE}-changelog");
        log.delete_topics(&[&internal])?;
    }
    Ok(())
}

fn application_id(budget_mib: u64) -> String {
    format!("memory-{budget_mib}")
}

/// Values that do not compress: the first of each key in turn, then updates of any.
fn write(log: &KafkaLog, bench: &Bench) -> Result<()> {
    let mut draw = Draw::of(1);
    let mut producer = log.producer(ProducerConfig::default())?;
    let mut value = vec![0; bench.value_bytes];
    for number in 0..bench.keys + bench.updates {
        let key = match number < bench.keys {
            true => number,
            false => draw.number() % bench.keys,
        };
        // In no order, as users come.
        let key = format!("{:016x}", key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for chunk in value.chunks_mut(8) {
            let random = draw.number().to_be_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        producer.send(ProducerRecord {
            topic: TOPIC,
            partition: partition_for(key.as_bytes(), PARTITIONS),
            timestamp: 1_700_000_000_000 + i64::try_from(number)?,
            key: Some(key.as_bytes()),
            value: Some(&value),
            headers: &[],
        })?;
    }
    Ok(producer.flush(Duration::from_secs(600))?)
}

/// Runs `job` in a process of its own; what it says at its end.
fn spawn(job: &Job) -> Result<String> {
    let mut command = Command::new(std::env::current_exe().context("this program")?);
    command
        .args(["child", "--bootstrap", &job.bootstrap])
        .args(["--budget-mib", &job.budget_mib.to_string()])
        .args(["--threads", &job.threads.to_string()])
        .args(["--backend", &job.backend.to_string()])
        .args(["--taken", &job.taken.to_string()])
        .args(["--restored", &job.restored.to_string()])
        .arg("--state")
        .arg(&job.state)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().context("running a process")?;
    if !output.status.success() {
        bail!(
            "with {} MiB it ended with {}",
            job.budget_mib,
            output.status
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Works the input off, or restores, and says what that took.
#[expect(clippy::print_stdout, reason = "the answer to the parent")]
fn child(job: &Job) -> Result<()> {
    let watch = Stopwatch::start();
    let log = KafkaLog::new(KafkaOptions::new(&job.bootstrap))?;
    let mut config = StreamsConfig::new(application_id(job.budget_mib)).state_dir(&job.state);
    config.memory_bytes = job.budget_mib << 20;
    config.threads = job.threads;
    config.backend = job.backend;
    config.instance = Some("one".to_owned());
    let mut streams = Streams::new(topology()?, config, Arc::new(log))?;
    streams.start();
    let done = wait_for(PATIENCE, || {
        let is_done =
            streams.records_taken() >= job.taken && streams.records_restored() >= job.restored;
        (is_done || streams.stopped()).then_some(is_done)
    });
    let held = streams.memory_peak();
    streams.close()?;
    if done != Some(true) {
        bail!("it did not come to its end");
    }
    let usage = Usage::of(std::process::id())?;
    println!(
        "| {:.0} | {} | {:.0} | {:.0} | {}",
        usage.peak_resident_mib,
        held >> 20,
        usage.cpu_seconds,
        watch.elapsed().as_secs_f64(),
        disk_bytes(&job.state)? >> 20
    );
    Ok(())
}

fn topology() -> Result<Topology> {
    let builder = StreamsBuilder::new("latest-values");
    builder
        .stream(TOPIC, Consumed::new(utf8(), bytes()))
        .group_by_key()
        .reduce(STORE, |_, new| new);
    Ok(builder.build()?)
}

fn disk_bytes(directory: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(directory).context("the state directory")? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += match metadata.is_dir() {
            true => disk_bytes(&entry.path())?,
            false => metadata.len(),
        };
    }
    Ok(total)
}
