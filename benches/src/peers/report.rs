//! The results: medians over the rounds, as a table and as JSON.
#![expect(clippy::print_stdout, reason = "results go to standard output")]

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::contestant::{Cache, Contestant};
use super::turn::Measurement;
use super::workload::Workload;

/// All workloads, in the order in which they were run.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<WorkloadReport>);

/// What the turns of one workload came to.
#[derive(Debug)]
pub(super) struct WorkloadReport {
    workload: Workload,
    turns: Vec<(Contestant, Measurement)>,
}

/// Medians of one contestant.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Medians {
    records_per_second: f64,
    cpu_seconds: f64,
    peak_mib: f64,
    whole_seconds: f64,
}

/// The three that are compared.
struct Summary {
    ours: Medians,
    kafka_streams: Medians,
    raw: Medians,
    /// With which Kafka Streams was faster.
    cache: Cache,
}

impl WorkloadReport {
    pub fn new(workload: Workload) -> Self {
        Self {
            workload,
            turns: Vec::new(),
        }
    }

    pub fn add(&mut self, contestant: Contestant, measurement: Measurement) {
        self.turns.push((contestant, measurement));
    }

    fn medians(&self, contestant: Contestant) -> Option<Medians> {
        let of = |value: fn(&Measurement) -> f64| {
            let turns = self.turns.iter().filter(|(who, _)| *who == contestant);
            median(turns.map(|(_, measurement)| value(measurement)).collect())
        };
        Some(Medians {
            records_per_second: of(|m| m.finish.records_per_second())?,
            cpu_seconds: of(|m| m.usage.cpu_seconds)?,
            peak_mib: of(|m| m.usage.peak_resident_mib)?,
            whole_seconds: of(|m| m.finish.whole.as_secs_f64())?,
        })
    }

    fn summary(&self) -> Result<Summary> {
        let medians = |contestant| {
            self.medians(contestant)
                .with_context(|| format!("{contestant} has not run {}", self.workload))
        };
        let (kafka_streams, cache) = faster(
            medians(Contestant::KafkaStreams(Cache::Default))?,
            self.medians(Contestant::KafkaStreams(Cache::Off)),
        );
        Ok(Summary {
            ours: medians(Contestant::Ours)?,
            kafka_streams,
            raw: medians(Contestant::Raw)?,
            cache,
        })
    }
}

impl Summary {
    /// How many times as fast as Kafka Streams.
    fn ratio(&self, of: Medians) -> f64 {
        of.records_per_second / self.kafka_streams.records_per_second
    }

    fn rows(&self) -> [(String, Medians); 3] {
        let cache = match self.cache {
            Cache::Default => "Kafka Streams",
            Cache::Off => "Kafka Streams, no cache",
        };
        [
            ("ours".to_owned(), self.ours),
            (cache.to_owned(), self.kafka_streams),
            ("raw".to_owned(), self.raw),
        ]
    }

    fn json(&self) -> Value {
        let each = |value: fn(Medians) -> f64| {
            json!({
                "ours": value(self.ours),
                "kafka_streams": value(self.kafka_streams),
                "raw": value(self.raw),
            })
        };
        json!({
            "ours": self.ours.records_per_second.round(),
            "kafka_streams": self.kafka_streams.records_per_second.round(),
            "raw": self.raw.records_per_second.round(),
            "ratio": rounded(self.ratio(self.ours)),
            "kafka_streams_cache": match self.cache {
                Cache::Default => "default",
                Cache::Off => "off",
            },
            "cpu_seconds": each(|medians| rounded(medians.cpu_seconds)),
            "peak_mib": each(|medians| rounded(medians.peak_mib)),
            "seconds_with_start": each(|medians| rounded(medians.whole_seconds)),
        })
    }
}

impl Report {
    pub fn add(&mut self, workload: WorkloadReport) {
        self.0.push(workload);
    }

    /// The table goes to standard output, or to standard error when that is for JSON.
    pub fn print(&self, json: bool) -> Result<()> {
        let table = self.table()?;
        if json {
            eprint!("{table}");
            println!("{}", self.json()?);
        } else {
            print!("{table}");
        }
        Ok(())
    }

    fn table(&self) -> Result<String> {
        let mut table = "\n| workload | contestant | records/s | to Kafka Streams | CPU s | peak MiB | s with start |\n\
                         |---|---|--:|--:|--:|--:|--:|\n"
            .to_owned();
        for report in &self.0 {
            let summary = report.summary()?;
            for (name, medians) in summary.rows() {
                let Medians {
                    records_per_second,
                    cpu_seconds,
                    peak_mib,
                    whole_seconds,
                } = medians;
                let ratio = summary.ratio(medians);
                writeln!(
                    table,
                    "| {} | {name} | {records_per_second:.0} | {ratio:.2} | {cpu_seconds:.1} | {peak_mib:.0} | \
                     {whole_seconds:.1} |",
                    report.workload
                )
                .expect("writing to a string cannot fail");
            }
        }
        Ok(table)
    }

    fn json(&self) -> Result<Value> {
        let mut workloads = Map::new();
        for report in &self.0 {
            workloads.insert(report.workload.to_string(), report.summary()?.json());
        }
        Ok(json!({ "workloads": workloads }))
    }
}

/// Of Kafka Streams with its cache and without, the faster; without state it runs only as it comes.
fn faster(default: Medians, off: Option<Medians>) -> (Medians, Cache) {
    match off {
        Some(off) if off.records_per_second > default.records_per_second => (off, Cache::Off),
        _ => (default, Cache::Default),
    }
}

/// The value in the middle; the mean of the two in the middle of an even number.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(values[middle - 1], upper))
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::race::Finish;
    use super::*;
    use crate::usage::Usage;

    fn measurement(records: u64) -> Measurement {
        Measurement {
            finish: Finish {
                records,
                time: Duration::from_secs(1),
                whole: Duration::from_secs(2),
            },
            usage: Usage {
                cpu_seconds: 1.5,
                peak_resident_mib: 64.0,
            },
        }
    }

    fn report(turns: &[(Contestant, u64)]) -> Report {
        let mut workload = WorkloadReport::new(Workload::Count);
        for (contestant, records) in turns {
            workload.add(*contestant, measurement(*records));
        }
        Report(vec![workload])
    }

    #[test]
    fn the_median_is_not_moved_by_one_bad_round() {
        assert_eq!(median(vec![5.0, 1.0, 100.0]), Some(5.0));
        assert_eq!(median(vec![4.0, 1.0, 100.0, 2.0]), Some(3.0));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn the_faster_kafka_streams_counts() {
        let report = report(&[
            (Contestant::Ours, 300),
            (Contestant::KafkaStreams(Cache::Default), 100),
            (Contestant::KafkaStreams(Cache::Off), 200),
            (Contestant::Raw, 500),
        ]);
        let json = report.json().unwrap();
        let count = &json["workloads"]["count"];
        assert_eq!(count["ours"], 300.0);
        assert_eq!(count["kafka_streams"], 200.0);
        assert_eq!(count["raw"], 500.0);
        assert_eq!(count["ratio"], 1.5);
        assert_eq!(count["kafka_streams_cache"], "off");
        assert!(
            report
                .table()
                .unwrap()
                .contains("| count | ours | 300 | 1.50 | 1.5 | 64 | 2.0 |")
        );
    }

    #[test]
    fn a_contestant_without_a_turn_is_an_error_and_not_a_zero() {
        let report = report(&[(Contestant::Ours, 300)]);
        assert!(
            report
                .json()
                .unwrap_err()
                .to_string()
                .contains("kafka-streams")
        );
    }
}
