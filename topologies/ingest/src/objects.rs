//! The objects of a landing directory, and how they are announced.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use events::landing::{self, FileError, UNREADABLE};
use events::{Creative, Feed};
use processor_core::log::{Log, LogError, Producer, ProducerConfig, ProducerRecord, read_to_end};
use processor_core::partitioner::partition_for;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{CREATIVES, OBJECTS};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandingObject {
    /// Its feed; also the key of its announcement.
    pub feed: Feed,
    /// Path relative to the landing directory, with `/`.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// When it was last changed, in epoch milliseconds.
    pub modified_ms: i64,
    /// Hash of its bytes.
    pub etag: String,
}

/// Why a landing directory could not be announced.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The directory cannot be listed.
    #[error("cannot list the landing directory {directory}: {source}")]
    Listing {
        /// The directory.
        directory: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A dimension file is not usable; nothing was announced, since impressions would miss their campaigns.
    #[error("dimension file {0}")]
    Dimension(#[from] FileError),
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What [`announce`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announced {
    /// Files that were new, by path.
    pub files: Vec<String>,
    /// Creatives that were new, changed or gone.
    pub creatives: usize,
    /// Files that belong to no feed, with the reason.
    pub ignored: Vec<(String, String)>,
}

/// Publishes what is new in the landing directory: first its creatives, then its files, by path in byte order.
///
/// May be called again, by several instances and after a crash at any point: what was announced before is not announced
/// again, and a file announced twice is read once.
///
/// # Errors
/// When the directory or a dimension file cannot be read, or the log refuses.
pub fn announce(log: &dyn Log, landing: &Path) -> Result<Announced, AnnounceError> {
    let listing = landing::list(landing).map_err(|source| AnnounceError::Listing {
        directory: landing.display().to_string(),
        source,
    })?;
    let creatives = landing::creatives(landing)?;
    let mut producer = log.producer(ProducerConfig::default())?;
    let changed = publish_creatives(log, &mut *producer, creatives)?;

    let known = read_latest(log, OBJECTS, |object: &LandingObject| object.path.clone())?;
    let mut announced = Announced {
        creatives: changed,
        ignored: listing.ignored,
        ..Announced::default()
    };
    for file in listing.files {
        let before = known.get(&file.path);
        // Permissions may change without a trace in size and time, so what could not be read is looked at again.
        if before.is_some_and(|object| {
            (object.bytes, object.modified_ms) == (file.bytes, file.modified_ms)
                && object.etag != UNREADABLE
        }) {
            continue;
        }
        let etag = landing::etag(landing, &file.path);
        if before.is_some_and(|object| object.etag == etag) {
            continue;
        }
        announced.files.push(file.path.clone());
        let object = LandingObject {
            feed: file.feed,
            path: file.path,
            bytes: file.bytes,
            modified_ms: file.modified_ms,
            etag,
        };
        send(
            log,
            &mut *producer,
            OBJECTS,
            object.feed.name(),
            Some(&object),
            object.modified_ms,
        )?;
    }
    producer.flush(TIMEOUT)?;
    Ok(announced)
}

/// Brings [`CREATIVES`] up to the dimension; returns how many keys changed.
fn publish_creatives(
    log: &dyn Log,
    producer: &mut dyn Producer,
    creatives: Vec<Creative>,
) -> Result<usize, AnnounceError> {
    let mut published = read_latest(log, CREATIVES, |creative: &Creative| {
        creative.creative_id.clone()
    })?;
    // The last row of a creative counts, as it would in a table.
    let wanted: BTreeMap<String, Creative> = creatives
        .into_iter()
        .map(|creative| (creative.creative_id.clone(), creative))
        .collect();
    let mut changed = 0;
    for (id, creative) in &wanted {
        if published.remove(id).as_ref() != Some(creative) {
            send(log, producer, CREATIVES, id, Some(creative), 0)?;
            changed += 1;
        }
    }
    for id in published.keys() {
        send::<Creative>(log, producer, CREATIVES, id, None, 0)?;
        changed += 1;
    }
    producer.flush(TIMEOUT)?;
    Ok(changed)
}

fn send<T: Serialize>(
    log: &dyn Log,
    producer: &mut dyn Producer,
    topic: &str,
    key: &str,
    value: Option<&T>,
    timestamp: i64,
) -> Result<(), LogError> {
    let partitions = log.partitions(topic)?.unwrap_or(1);
    let value = value
        .map(serde_json::to_vec)
        .transpose()
        .map_err(|error| LogError::fatal(format!("a record for topic '{topic}': {error}")))?;
    producer.send(ProducerRecord {
        topic,
        partition: partition_for(key.as_bytes(), partitions),
        timestamp,
        key: Some(key.as_bytes()),
        value: value.as_deref(),
        headers: &[],
    })
}

/// The last value of each key of `topic`, by the name that `name` gives it; deleted keys are not in it.
fn read_latest<T: DeserializeOwned>(
    log: &dyn Log,
    topic: &str,
    name: impl Fn(&T) -> String,
) -> Result<HashMap<String, T>, LogError> {
    let mut latest = HashMap::new();
    read_to_end(log, topic, &mut |record| {
        let unfit = |error: &dyn std::fmt::Display| {
            LogError::fatal(format!(
                "topic '{topic}' holds a record at offset {} that ingest did not write ({error}); use another topic or application",
                record.offset
            ))
        };
        match &record.value {
            Some(value) => {
                let value: T = serde_json::from_slice(value).map_err(|error| unfit(&error))?;
                latest.insert(name(&value), value);
            }
            None => {
                let key = record.key.as_deref().unwrap_or_default();
                latest.remove(std::str::from_utf8(key).map_err(|error| unfit(&error))?);
            }
        }
        Ok(())
    })?;
    Ok(latest)
}
