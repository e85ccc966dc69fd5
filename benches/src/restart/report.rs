//! The results: medians over the rounds, as a table and as JSON. A contestant that failed once has none.
#![expect(clippy::print_stdout, reason = "results go to standard output")]

use std::fmt::Write as _;
use std::time::Duration;

use processor_core::Backend;
use serde_json::{Value, json};

use super::contestant::Contestant;
use super::kind::Kind;
use super::turn::Restart;

pub(super) struct Report {
    kind: Kind,
    backend: Backend,
    state_bytes: u64,
    turns: Vec<TurnReport>,
}

struct TurnReport {
    contestant: Contestant,
    restarts: Vec<Restart>,
    failure: Option<String>,
}

impl Report {
    pub fn new(kind: Kind, backend: Backend, state_bytes: u64) -> Self {
        Self {
            kind,
            backend,
            state_bytes,
            turns: Vec::new(),
        }
    }

    pub fn add(
        &mut self,
        contestant: Contestant,
        restarts: Vec<Restart>,
        failure: Option<anyhow::Error>,
    ) {
        let failure = failure.map(|error| format!("{error:#}"));
        if let Some(failure) = &failure {
            eprintln!("{contestant} failed: {failure}");
        }
        self.turns.push(TurnReport {
            contestant,
            restarts,
            failure,
        });
    }

    pub fn failed(&self, contestant: Contestant) -> bool {
        let mut turns = self.turns.iter();
        turns.any(|turn| turn.contestant == contestant && turn.failure.is_some())
    }

    pub fn print(&self, as_json: bool) {
        if as_json {
            eprint!("{}", self.table());
            println!("{}", self.json());
        } else {
            print!("{}", self.table());
        }
    }

    fn json(&self) -> Value {
        let first = |contestant| self.median(contestant, |restart| Some(ms(restart.seen.first)));
        let all = |contestant| self.median(contestant, |restart| Some(ms(restart.seen.all)));
        let (ours, fixed) = (
            first(Contestant::Ours),
            first(Contestant::KafkaStreamsStatic),
        );
        json!({
            "state": self.kind.name(),
            "state_bytes": self.state_bytes,
            "backend": self.backend.name(),
            "ours_ms": ours,
            "kafka_streams_ms": first(Contestant::KafkaStreams),
            "kafka_streams_static_ms": fixed,
            "kafka_streams_transactional_ms": first(Contestant::KafkaStreamsTransactional),
            "ratio": ratio(fixed, ours),
            "ours_all_partitions_ms": all(Contestant::Ours),
            "kafka_streams_all_partitions_ms": all(Contestant::KafkaStreams),
            "restored_records": self.median(Contestant::Ours, |restart| restart.told.restored_records),
            "restored_bytes": self.median(Contestant::Ours, |restart| restart.told.restored_bytes),
            "open_ms": self.median(Contestant::Ours, |restart| restart.told.open_ms),
            "ours_cpu_ms": self.median(Contestant::Ours, |restart| Some(cpu_ms(restart))),
            "kafka_streams_cpu_ms": self.median(Contestant::KafkaStreams, |restart| Some(cpu_ms(restart))),
            "restarts": self.each_restart(),
            "failures": self.failures(),
        })
    }

    fn each_restart(&self) -> Value {
        let turns = self.turns.iter().map(|turn| {
            let times = turn.restarts.iter().map(|restart| ms(restart.seen.first));
            (
                turn.contestant.name().to_owned(),
                times.collect::<Vec<_>>().into(),
            )
        });
        Value::Object(turns.collect())
    }

    fn failures(&self) -> Value {
        let failed = self.turns.iter().filter_map(|turn| {
            let first_line = turn.failure.as_ref()?.lines().next().unwrap_or_default();
            Some((turn.contestant.name().to_owned(), first_line.into()))
        });
        Value::Object(failed.collect())
    }

    fn median(
        &self,
        contestant: Contestant,
        value: impl Fn(&Restart) -> Option<u64>,
    ) -> Option<u64> {
        let turn = self
            .turns
            .iter()
            .find(|turn| turn.contestant == contestant && turn.failure.is_none())?;
        let mut values: Vec<u64> = turn.restarts.iter().filter_map(value).collect();
        values.sort_unstable();
        values.get(values.len().checked_sub(1)? / 2).copied()
    }

    fn table(&self) -> String {
        let mut table = format!(
            "\n{} bytes of state; ms from the start of the process to the first new committed result\n\n\
             | contestant | median | each restart | of all partitions | CPU ms |\n|---|--:|--:|--:|--:|\n",
            self.state_bytes
        );
        for turn in &self.turns {
            let list = |value: fn(&Restart) -> u64| {
                let values = turn
                    .restarts
                    .iter()
                    .map(|restart| value(restart).to_string());
                values.collect::<Vec<_>>().join(", ")
            };
            let median = self.median(turn.contestant, |restart| Some(ms(restart.seen.first)));
            writeln!(
                table,
                "| {} | {} | {} | {} | {} |",
                turn.contestant,
                median.map_or("failed".to_owned(), |ms| ms.to_string()),
                list(|restart| ms(restart.seen.first)),
                list(|restart| ms(restart.seen.all)),
                list(cpu_ms),
            )
            .expect("writing to a string cannot fail");
        }
        table
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn cpu_ms(restart: &Restart) -> u64 {
    Duration::try_from_secs_f64(restart.usage.cpu_seconds).map_or(0, ms)
}

/// How often `ours` fits into `theirs`, to a hundredth.
fn ratio(theirs: Option<u64>, ours: Option<u64>) -> Option<f64> {
    let hundredths = (theirs? * 100).checked_div(ours?)?;
    Some(f64::from(u32::try_from(hundredths).ok()?) / 100.0)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use crate::usage::Usage;

    use super::super::observer::Seen;
    use super::super::turn::Told;
    use super::*;

    fn restart(first_ms: u64) -> Restart {
        Restart {
            seen: Seen {
                first: Duration::from_millis(first_ms),
                all: Duration::from_millis(first_ms + 100),
            },
            usage: Usage {
                cpu_seconds: 0.25,
                peak_resident_mib: 64.0,
            },
            told: Told {
                restored_records: Some(10),
                restored_bytes: Some(1_000),
                open_ms: Some(first_ms / 2),
            },
        }
    }

    fn report() -> Report {
        let mut report = Report::new(Kind::Table, Backend::Sled, 1_000);
        report.add(Contestant::Ours, [900, 300, 500].map(restart).into(), None);
        report
    }

    #[test]
    fn medians_and_their_ratio_are_reported() {
        let mut report = report();
        report.add(Contestant::KafkaStreamsStatic, vec![restart(1_250)], None);
        let json = report.json();
        assert_eq!(json["ours_ms"], 500);
        assert_eq!(json["kafka_streams_static_ms"], 1_250);
        assert_eq!(json["ratio"], 2.5);
        assert_eq!(json["restored_bytes"], 1_000);
        assert_eq!(json["open_ms"], 250);
        assert!(json["kafka_streams_ms"].is_null());
        assert!(
            report
                .table()
                .contains("| ours | 500 | 900, 300, 500 | 1000, 400, 600 | 250, 250, 250 |")
        );
    }

    #[test]
    fn who_failed_once_has_no_number_and_no_ratio() {
        let mut report = report();
        let failure = Some(anyhow!("thread died\nat x").context("restart 2 failed"));
        report.add(
            Contestant::KafkaStreamsStatic,
            vec![restart(1_250)],
            failure,
        );
        let json = report.json();
        assert!(json["kafka_streams_static_ms"].is_null() && json["ratio"].is_null());
        assert_eq!(
            json["failures"]["kafka-streams-static"],
            "restart 2 failed: thread died"
        );
        assert!(report.failed(Contestant::KafkaStreamsStatic) && !report.failed(Contestant::Ours));
    }
}
