//! Landing files, record by record.
//!
//! A file is verified **before** its first record is handed out: a compressed one is unpacked to its end, a JSON array and
//! an Avro container are walked to theirs, in constant memory. So a truncated file gives a [`FileError`] and not half of
//! its records. After that each record is either an event or a [`Rejection`] that names the rule it breaks; one bad
//! record never stops the file.
//!
//! | feed | format | records |
//! |---|---|---|
//! | impressions | newline-delimited JSON, or one JSON array | lines that are not blank, or elements |
//! | clicks, conversions | CSV with a header, columns in any order | rows |
//! | bid requests | Avro object container | records |
//!
//! Any file may end in `.gz` or `.zst`.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use crate::{BidRequest, Click, Conversion, Feed, Impression};

mod avro;
mod csv;
mod dims;
mod fields;
mod json;
mod listing;
mod source;

pub use dims::{campaigns, creatives};
pub use listing::{ListedFile, Listing, UNREADABLE, etag, list};

/// A file that cannot be read at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct FileError {
    /// Path relative to the landing directory.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// A record that breaks the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Name of the broken rule, such as `malformed_json` or `missing_field`.
    pub rule: &'static str,
    /// The field that breaks it, where one does.
    pub field: Option<String>,
    /// What is wrong, in a sentence.
    pub reason: String,
    /// The record's bytes as they stand in the file; empty for Avro.
    pub original: Vec<u8>,
}

impl Rejection {
    fn new(rule: &'static str, reason: impl Into<String>) -> Self {
        Self {
            rule,
            field: None,
            reason: reason.into(),
            original: Vec::new(),
        }
    }

    fn of_field(rule: &'static str, field: &str, reason: impl Into<String>) -> Self {
        Self {
            field: Some(field.to_owned()),
            ..Self::new(rule, reason)
        }
    }

    fn with_original(mut self, original: &[u8]) -> Self {
        self.original = original.to_vec();
        self
    }
}

/// An event of any feed.
#[derive(Debug, Clone, PartialEq)]
pub enum LandingRecord {
    /// From `impressions/`.
    Impression(Impression),
    /// From `clicks/`.
    Click(Click),
    /// From `conversions/`.
    Conversion(Conversion),
    /// From `bid_requests/`.
    BidRequest(Box<BidRequest>),
}

impl LandingRecord {
    /// The event's id, given or derived.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Impression(impression) => &impression.impression_id,
            Self::Click(click) => &click.click_id,
            Self::Conversion(conversion) => &conversion.conversion_id,
            Self::BidRequest(request) => &request.id,
        }
    }

    /// The event's time in epoch milliseconds.
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        match self {
            Self::Impression(impression) => impression.ts_ms,
            Self::Click(click) => click.ts_ms,
            Self::Conversion(conversion) => conversion.ts_ms,
            Self::BidRequest(request) => request.ts,
        }
    }
}

/// A record and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// From 1: the line it starts on, or its position in an array or container.
    pub number: u64,
    /// The event, or what is wrong with it.
    pub outcome: Result<LandingRecord, Rejection>,
}

/// Hands out the records of one format.
trait Records {
    /// The next record; `None` at the end.
    fn next(&mut self) -> Result<Option<Line>, FileError>;
    /// What was ignored, each said once.
    fn warnings(&self) -> Vec<String>;
}

/// An open landing file whose end has been seen.
pub struct LandingFile {
    records: Box<dyn Records>,
}

impl LandingFile {
    /// Verifies and opens the file at `path`, relative to `root`.
    ///
    /// # Errors
    /// When it is empty, truncated, damaged, unreadable or of no known feed.
    pub fn open(root: &Path, path: &str) -> Result<Self, FileError> {
        let location = Location {
            file: root.join(path),
            path: path.to_owned(),
        };
        let feed = Feed::of_path(path)
            .ok_or_else(|| location.error("its directory and suffix belong to no feed"))?;
        let records: Box<dyn Records> = match feed {
            Feed::Impressions => json::open(&location)?,
            Feed::Clicks | Feed::Conversions => Box::new(csv::CsvRecords::open(&location, feed)?),
            Feed::BidRequests => Box::new(avro::AvroRecords::open(&location)?),
        };
        Ok(Self { records })
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// When the file changed under us and can no longer be read.
    pub fn next_line(&mut self) -> Result<Option<Line>, FileError> {
        self.records.next()
    }

    /// Steps over `count` records, or to the end if there are fewer.
    ///
    /// # Errors
    /// As for [`next_line`](Self::next_line).
    pub fn skip(&mut self, count: u64) -> Result<(), FileError> {
        for _ in 0..count {
            if self.records.next()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// What was ignored so far: unknown fields and columns, each once.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.records.warnings()
    }
}

/// A file, and what it is called in messages.
#[derive(Debug, Clone)]
struct Location {
    file: PathBuf,
    path: String,
}

impl Location {
    fn error(&self, reason: impl std::fmt::Display) -> FileError {
        FileError {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }

    fn open(&self) -> Result<Box<dyn BufRead>, FileError> {
        source::open(&self.file).map_err(|error| self.error(source::explain(&error)))
    }
}

#[cfg(test)]
mod tests;
