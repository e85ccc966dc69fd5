//! What an attribution says of a conversion.

use serde::{Deserialize, Serialize};

use crate::log::Timestamp;

/// Whether a result can still change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttributionStatus {
    /// The first result; it can change.
    Provisional,
    /// Replaces an earlier result; it can change.
    Revised,
    /// Will not change.
    Final,
}

/// A conversion with the touches that are credited with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributed<C, T> {
    /// Whether it can still change.
    pub status: AttributionStatus,
    /// 1 for the first result of the conversion, and one more for each that follows; the greatest one counts.
    pub revision: u32,
    /// The conversion.
    pub conversion: C,
    /// The touches on its path, the earliest first. None if there was no eligible touch. Of models that credit one touch,
    /// that one alone.
    pub credits: Vec<Credit<T>>,
    /// Eligible touches that were left out of the path, since it was full.
    pub truncated: usize,
}

/// What a touch has of a conversion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit<T> {
    /// Name of its touch stream.
    pub stream: String,
    /// Its id.
    pub touch_id: String,
    /// Its time in epoch milliseconds.
    pub timestamp: Timestamp,
    /// Its campaign.
    pub campaign: String,
    /// What was kept of it.
    pub value: T,
    /// Its part of the conversion's value in micros. These add up to the value exactly.
    pub credit_micros: i64,
    /// Its part of the conversion itself, in millionths. These add up to 1,000,000.
    pub share_millionths: i64,
}
