//! Self-audit: proves from the topics, read committed, that nothing was lost and nothing came twice.
//!
//! It shares no code with what it checks but the reading of landing files and the transport to the log. [`Audit`] is the
//! part that knows nothing of advertising.
//!
//! | check | holds when |
//! |---|---|
//! | files | each announced file was read to its end, its buckets add up, and a recount of its lines gives the same |
//! | impressions, clicks, conversions, bid requests | each valid line is one record with its content, and there are no others |
//! | quarantine | each line that breaks the contract is kept once, with its rule |
//! | attributed clicks | each click has one final result, or a provisional one while it is open, and it is the right one |
//! | attributed conversions | each conversion has one final result, revisions come once, credits add up to its value and go to touches that there are |
//! | campaign minutes | the rows are those of a recount of impressions and clicks |
//!
//! Without the landing directory the first checks go by what the reports of the files say.
//!
//! **Memory.** [`BYTES_PER_ID`] for an id of a feed, in as many parts as a [limit](Settings::memory_bytes) asks for, each of
//! which reads the feed again. Beside that, some 200 bytes for a click, a conversion, a credited touch, and a campaign and
//! minute.
//!
//! **When.** After a run has come to its end, or while instances have nothing to do: what is still under way looks lost.

mod attribution;
mod audit;
mod feeds;
mod landing;
mod minutes;
mod report;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use processor_core::clock::millis;
use processor_core::log::{ConsumerRecord, Log, LogError, TopicPartition, read_partition_to_end};
use serde::de::DeserializeOwned;

pub use audit::{Audit, BYTES_PER_ID, EXAMPLES, Example, Outcome, Part, Place, Tally};
pub use report::{Check, Report};

/// What is verified, and by which rules: those of the run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The landing directory, if it can be read here.
    pub landing: Option<PathBuf>,
    /// How long before a click an impression may be to be credited with it.
    pub click_window: Duration,
    /// How far below the largest timestamp before it in its feed a record may be.
    pub grace: Duration,
    /// How long the ids of records are remembered, in event time.
    pub id_ttl: Duration,
    /// What the ids of a feed may take in memory at a time.
    pub memory_bytes: u64,
}

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The topics could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The landing directory could not be read.
    #[error("cannot read the landing directory {directory}: {source}")]
    Landing {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There are no topics of the platform.
    #[error("there is no topic {topic}: nothing has run here; name the place of a run")]
    NothingRan {
        /// The topic.
        topic: &'static str,
    },
}

/// Verifies what is committed on `log`.
///
/// # Errors
/// When it cannot be done. What does not hold is in the report.
pub fn verify(log: &dyn Log, settings: &Settings) -> Result<Report, VerifyError> {
    if log.partitions(ingest::OBJECTS)?.is_none() {
        return Err(VerifyError::NothingRan {
            topic: ingest::OBJECTS,
        });
    }
    let mut report = Report::default();
    feeds::check(log, settings, &mut report)?;
    attribution::check_clicks(log, settings, &mut report)?;
    attribution::check_conversions(log, settings, &mut report)?;
    minutes::check(log, &mut report)?;
    Ok(report)
}

impl Settings {
    fn grace_ms(&self) -> i64 {
        millis(self.grace)
    }

    fn rules(&self) -> landing::Rules {
        landing::Rules {
            grace_ms: self.grace_ms(),
            // As ingest does: else a repeat could be valid.
            id_ttl_ms: millis(self.id_ttl).max(self.grace_ms() + 1),
        }
    }
}

/// Hands the committed records of a topic to `visit`, with their places.
fn each_record(
    log: &dyn Log,
    topic: &str,
    visit: &mut dyn FnMut(i32, &Place, ConsumerRecord),
) -> Result<(), LogError> {
    for partition in 0..log.partitions(topic)?.unwrap_or(0) {
        let of = TopicPartition::new(topic, partition);
        read_partition_to_end(log, &of, &mut |record| {
            let at = Place::Record {
                topic: topic.to_owned(),
                partition,
                offset: record.offset,
            };
            visit(partition, &at, record);
            Ok(())
        })?;
    }
    Ok(())
}

/// The same with values that are JSON; what is none is counted.
fn each<T: DeserializeOwned>(
    log: &dyn Log,
    topic: &str,
    unreadable: &mut Tally,
    visit: &mut dyn FnMut(i32, &Place, T),
) -> Result<(), LogError> {
    each_record(log, topic, &mut |partition, at, record| {
        // Nothing of the platform deletes by key but the dimension of creatives.
        let value = record.value.as_deref().unwrap_or_default();
        match serde_json::from_slice(value) {
            Ok(value) => visit(partition, at, value),
            Err(_) => unreadable.add(None, at),
        }
    })
}
