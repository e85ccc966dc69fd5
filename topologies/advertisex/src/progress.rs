//! How far a run has come, on the terminal.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use attribution::{ATTRIBUTED_CLICKS, Attribution, Status};
use ingest::{FILES, FileReport};
use processor_core::clock::Clock;
use processor_core::log::{Consumer, ConsumerConfig, Log, LogError, Polled, TopicPartition};

/// Prints a line to standard error from time to time: in place on a terminal, one below the other elsewhere. Its numbers
/// are those of committed records.
pub(crate) struct Progress<'a> {
    clock: &'a dyn Clock,
    reader: Box<dyn Consumer>,
    files: HashMap<String, FileReport>,
    finals: u64,
    in_place: bool,
    begun_ms: i64,
    said_ms: i64,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(log: &dyn Log, clock: &'a dyn Clock) -> Result<Self, LogError> {
        let now_ms = clock.now_ms();
        let mut reader = log.consumer(ConsumerConfig::default())?;
        for topic in [FILES, ATTRIBUTED_CLICKS] {
            for partition in 0..log.partitions(topic)?.unwrap_or(0) {
                reader.assign(&[(TopicPartition::new(topic, partition), Some(0))])?;
            }
        }
        Ok(Self {
            clock,
            reader,
            files: HashMap::new(),
            finals: 0,
            in_place: std::io::stderr().is_terminal(),
            begun_ms: now_ms,
            said_ms: now_ms,
        })
    }

    /// Says how far the run has come, unless it was said a moment ago.
    ///
    /// # Errors
    /// When the log does not answer.
    pub(crate) fn tick(&mut self, records: u64) -> Result<(), LogError> {
        let now_ms = self.clock.now_ms();
        let pause_ms = if self.in_place { 200 } else { 2_000 };
        if now_ms - self.said_ms >= pause_ms {
            self.said_ms = now_ms;
            self.say(records, now_ms)?;
        }
        Ok(())
    }

    /// Says it a last time, and ends the line that is updated in place.
    ///
    /// # Errors
    /// As for [`tick`](Self::tick).
    pub(crate) fn done(&mut self, records: u64) -> Result<(), LogError> {
        self.say(records, self.clock.now_ms())?;
        if self.in_place {
            eprintln!();
        }
        Ok(())
    }

    fn say(&mut self, records: u64, now_ms: i64) -> Result<(), LogError> {
        self.catch_up()?;
        let sum =
            |number: fn(&FileReport) -> u64| grouped(self.files.values().map(number).sum::<u64>());
        let line = format!(
            "{:>4} s  lines read {}  valid {}  quarantined {}  clicks final {}  records processed {}",
            (now_ms - self.begun_ms) / 1_000,
            sum(|file| file.lines),
            sum(|file| file.valid),
            sum(|file| file.quarantined),
            grouped(self.finals),
            grouped(records),
        );
        if self.in_place {
            eprint!("\r{line}\x1b[K");
            // A terminal that is gone takes no progress; the run goes on.
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
        Ok(())
    }

    /// Reads what has been committed since.
    fn catch_up(&mut self) -> Result<(), LogError> {
        while let Polled::Records(batches) = self.reader.poll(Duration::ZERO)? {
            for batch in batches {
                let is_files = *batch.partition.topic == *FILES;
                for value in batch.records.into_iter().filter_map(|record| record.value) {
                    if is_files {
                        if let Ok(report) = serde_json::from_slice::<FileReport>(&value) {
                            self.files.insert(report.path.clone(), report);
                        }
                    } else if let Ok(result) = serde_json::from_slice::<Attribution>(&value) {
                        self.finals += u64::from(result.status == Status::Final);
                    }
                }
            }
        }
        Ok(())
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: impl TryInto<i64>) -> String {
    let number = number.try_into().unwrap_or(i64::MAX);
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 {
        text.insert(0, '-');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn digits_are_grouped_by_three() {
        let texts = [0, 12, 999, 1_000, 1_234_567, -1_000].map(grouped);
        assert_eq!(texts, ["0", "12", "999", "1,000", "1,234,567", "-1,000"]);
    }
}
