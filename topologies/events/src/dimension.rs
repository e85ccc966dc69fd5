//! Dimensions: what ids stand for.

use serde::{Deserialize, Serialize};

/// A creative, and the campaign it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creative {
    /// The creative.
    pub creative_id: String,
    /// Its campaign.
    pub campaign_id: String,
    /// Its advertiser.
    #[serde(default)]
    pub advertiser_id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// A campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Campaign {
    /// The campaign.
    pub campaign_id: String,
    /// Its advertiser.
    #[serde(default)]
    pub advertiser_id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its first moment, as the source writes it.
    #[serde(default)]
    pub start: String,
    /// Its last moment, as the source writes it.
    #[serde(default)]
    pub end: String,
    /// Its budget in micros.
    #[serde(default)]
    pub budget_micros: Option<i64>,
}
