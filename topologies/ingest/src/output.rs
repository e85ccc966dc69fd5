//! What ingest writes.

use events::{BidRequest, Click, Conversion, Impression};
use serde::{Deserialize, Serialize};

/// A record that broke the contract, with what it takes to find and repair it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Path of the file, relative to the landing directory.
    pub path: String,
    /// Line or record number in it, from 1; 0 when it is about the file as a whole.
    pub line: u64,
    /// Name of the broken rule.
    pub rule: String,
    /// Field that broke it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong, in a sentence.
    pub reason: String,
    /// The record as it was, with bytes that are not UTF-8 replaced.
    pub original: String,
}

/// What became of the records of a file, as far as it has been read: one report for each portion, the last one when it is
/// finished.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Path, relative to the landing directory.
    pub path: String,
    /// Whether all of it has been read, or all that can be.
    #[serde(default)]
    pub finished: bool,
    /// Records read; a CSV header is none. The buckets below add up to it.
    pub lines: u64,
    /// Records that went on.
    pub valid: u64,
    /// Records whose id was seen before in the feed.
    pub duplicate: u64,
    /// Records that broke the contract.
    pub quarantined: u64,
    /// Records of robots and fraud; nothing decides that yet.
    pub invalid_traffic: u64,
    /// Records too far below the largest timestamp before them.
    pub late: u64,
    /// Why the file could not be read at all.
    pub file_error: Option<String>,
    /// What was ignored, each said once for the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One output of the reader.
#[derive(Debug, Clone)]
pub(crate) enum Ingested {
    Impression(Impression),
    Click(Click),
    Conversion(Conversion),
    BidRequest(Box<BidRequest>),
    Quarantined(Quarantined),
    File(FileReport),
}

impl Ingested {
    pub(crate) fn impression(self) -> Option<Impression> {
        match self {
            Self::Impression(impression) => Some(impression),
            _ => None,
        }
    }

    pub(crate) fn click(self) -> Option<Click> {
        match self {
            Self::Click(click) => Some(click),
            _ => None,
        }
    }

    pub(crate) fn conversion(self) -> Option<Conversion> {
        match self {
            Self::Conversion(conversion) => Some(conversion),
            _ => None,
        }
    }

    pub(crate) fn bid_request(self) -> Option<BidRequest> {
        match self {
            Self::BidRequest(request) => Some(*request),
            _ => None,
        }
    }

    pub(crate) fn quarantined(self) -> Option<Quarantined> {
        match self {
            Self::Quarantined(quarantined) => Some(quarantined),
            _ => None,
        }
    }

    pub(crate) fn file(self) -> Option<FileReport> {
        match self {
            Self::File(report) => Some(report),
            _ => None,
        }
    }
}
