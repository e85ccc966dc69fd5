//! Measures hopping windows with final results, kept one by one and put together from panes:
//! `cargo run --release -p processor-core --no-default-features --example panes [RECORDS]`.
//!
//! Linux only: seconds are CPU time of the whole process, with the embedded log in memory and stores (sled) on disk.

use std::sync::Arc;
use std::time::Duration;

use processor_core::dsl::{Consumed, StreamsBuilder, TimeWindows};
use processor_core::log::embedded::EmbeddedLog;
use processor_core::log::{Log, NewTopic, ProducerConfig, ProducerRecord};
use processor_core::serde::{int64, utf8};
use processor_core::{Streams, StreamsConfig, Topology};

/// A window is a minute.
const SIZE: Duration = Duration::from_secs(60);
/// Event time of the whole input: four windows.
const SPAN_MS: u64 = 240_000;

#[derive(Clone, Copy)]
enum Form {
    Windows,
    Panes,
}

#[expect(clippy::print_stdout, reason = "results")]
fn main() {
    let records = std::env::args().nth(1).map_or(40_000, |records| {
        records.parse().expect("the number of records")
    });
    println!("size/advance  records of a key a window   windows, CPU s   panes, CPU s");
    for (windows, keys) in [(10, 1_000), (10, 100), (60, 1_000), (60, 100)] {
        let seconds = |form| run(form, windows, records, keys);
        let density = records / keys / 4;
        let (plain, panes) = (seconds(Form::Windows), seconds(Form::Panes));
        println!("{windows:>12}  {density:>26}  {plain:>15.2}  {panes:>13.2}");
    }
}

/// CPU seconds for one run.
fn run(form: Form, windows: u32, records: u64, keys: u64) -> f64 {
    let log = EmbeddedLog::in_memory();
    let topics = [NewTopic::new("in", 1), NewTopic::new("out", 1)];
    log.create_topics(&topics).expect("topics");
    write(&log, records, keys);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut config = StreamsConfig::new("panes").state_dir(directory.path());
    // A crowded machine may take long for a transaction.
    config.transaction_timeout = Duration::from_secs(3_600);
    let mut streams =
        Streams::new(topology(form, windows), config, Arc::new(log)).expect("streams");
    let before = cpu_seconds();
    streams.run_to_end().expect("a run");
    cpu_seconds() - before
}

fn topology(form: Form, windows: u32) -> Topology {
    let builder = StreamsBuilder::new("panes");
    let hopping = TimeWindows::hopping(SIZE, SIZE / windows).grace(Duration::ZERO);
    let grouped = builder
        .stream("in", Consumed::new(utf8(), int64()))
        .group_by_key();
    let finals = grouped.windowed_by(hopping).emit_final();
    let counts = match form {
        Form::Panes => finals.count("counts"),
        // An aggregation that says nothing of combining is kept window by window.
        Form::Windows => finals.aggregate("counts", int64(), || 0, |_, _, count| count + 1),
    };
    counts.to_stream().to("out");
    builder.build().expect("a topology")
}

/// Records in order of time, of keys in no order.
fn write(log: &EmbeddedLog, records: u64, keys: u64) {
    let mut producer = log.producer(ProducerConfig::default()).expect("a producer");
    for number in 0..records {
        let user = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys;
        let timestamp = i64::try_from(number * SPAN_MS / records).expect("a time");
        let (key, value) = (format!("user-{user}"), 1_i64.to_be_bytes());
        let record = ProducerRecord {
            topic: "in",
            partition: 0,
            timestamp,
            key: Some(key.as_bytes()),
            value: Some(&value),
            headers: &[],
        };
        producer.send(record).expect("a record sent");
    }
    producer.flush(Duration::from_secs(60)).expect("a flush");
}

/// CPU time of this process, in user and system mode.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = text.rsplit_once(')').expect("a name in brackets");
    let ticks = |field: &str| field.parse::<f64>().expect("clock ticks");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // Fields 14 and 15, in hundredths of a second.
    (ticks(fields[11]) + ticks(fields[12])) / 100.0
}
