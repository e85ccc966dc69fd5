//! How far a run has come, on the terminal.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use attribution::ATTRIBUTED_CLICKS;
use ingest::{CLICKS, IMPRESSIONS, QUARANTINE};
use processor_core::clock::Clock;
use processor_core::log::{Consumer, ConsumerConfig, Isolation, Log, LogError, TopicPartition};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Prints a line to standard error from time to time: in place on a terminal, one below the other elsewhere.
pub(crate) struct Progress<'a> {
    log: &'a dyn Log,
    clock: &'a dyn Clock,
    reader: Box<dyn Consumer>,
    in_place: bool,
    begun_ms: i64,
    said_ms: i64,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(log: &'a dyn Log, clock: &'a dyn Clock) -> Result<Self, LogError> {
        let now_ms = clock.now_ms();
        Ok(Self {
            log,
            clock,
            reader: log.consumer(ConsumerConfig::default())?,
            in_place: std::io::stderr().is_terminal(),
            begun_ms: now_ms,
            said_ms: now_ms,
        })
    }

    /// Says how far the run has come, unless it was said a moment ago.
    pub(crate) fn tick(&mut self, records: u64) {
        let now_ms = self.clock.now_ms();
        let pause_ms = if self.in_place { 200 } else { 2_000 };
        if now_ms - self.said_ms >= pause_ms {
            self.said_ms = now_ms;
            self.say(records, now_ms);
        }
    }

    /// Ends the line that is updated in place.
    pub(crate) fn done(&mut self, records: u64) {
        self.say(records, self.clock.now_ms());
        if self.in_place {
            eprintln!();
        }
    }

    fn say(&self, records: u64, now_ms: i64) {
        let count = |topic| self.committed(topic).map_or("?".to_owned(), grouped);
        let seconds = (now_ms - self.begun_ms) / 1_000;
        let line = format!(
            "{seconds:>4} s  impressions {}  clicks {}  attributed {}  quarantined {}  records processed {}",
            count(IMPRESSIONS),
            count(CLICKS),
            count(ATTRIBUTED_CLICKS),
            count(QUARANTINE),
            grouped(i64::try_from(records).unwrap_or(i64::MAX)),
        );
        if self.in_place {
            eprint!("\r{line}\x1b[K");
            // A terminal that is gone takes no progress; the run goes on.
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    /// Committed offsets of a topic, its transaction markers included; close to its records.
    fn committed(&self, topic: &str) -> Option<i64> {
        let partitions = self.log.partitions(topic).ok()??;
        (0..partitions)
            .map(|partition| {
                let partition = TopicPartition::new(topic, partition);
                let end = self
                    .reader
                    .end_offset(&partition, Isolation::ReadCommitted, TIMEOUT);
                end.ok()
            })
            .sum()
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: i64) -> String {
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
