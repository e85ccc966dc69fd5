//! What happened: impressions, clicks and conversions.

use serde::{Deserialize, Serialize};

/// An ad was shown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Impression {
    /// Id; derived from the other fields where the source gives none.
    pub impression_id: String,
    /// The creative that was shown.
    pub creative_id: String,
    /// Its campaign; filled from the creative dimension where the source gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign_id: Option<String>,
    /// Who saw it.
    pub user_id: String,
    /// When, in epoch milliseconds.
    #[serde(rename = "timestamp")]
    pub ts_ms: i64,
    /// Where.
    pub website: String,
    /// Price in micros of the account's currency; 0 where the source gives none.
    #[serde(default)]
    pub cost_micros: i64,
    /// Auction that was won.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auction_id: Option<String>,
    /// Exchange of the auction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<String>,
    /// Publisher of the website.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publisher: Option<String>,
    /// IP address of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// User agent of the browser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Country, ISO 3166.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
}

impl Impression {
    /// The campaign, or nothing where it is not known.
    #[must_use]
    pub fn campaign(&self) -> &str {
        self.campaign_id.as_deref().unwrap_or_default()
    }
}

/// An ad was clicked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Click {
    /// Id; derived from the other fields where the source gives none.
    pub click_id: String,
    /// The campaign of the ad.
    pub campaign_id: String,
    /// Who clicked.
    pub user_id: String,
    /// When, in epoch milliseconds.
    #[serde(rename = "timestamp")]
    pub ts_ms: i64,
    /// The creative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creative_id: Option<String>,
    /// The impression the source credits; attribution does not rely on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impression_id: Option<String>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub website: Option<String>,
    /// IP address of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// User agent of the browser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

/// A user did what the advertiser hoped for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Conversion {
    /// Id; derived from the other fields where the source gives none.
    pub conversion_id: String,
    /// Who.
    pub user_id: String,
    /// The campaign.
    pub campaign_id: String,
    /// When, in epoch milliseconds.
    #[serde(rename = "timestamp")]
    pub ts_ms: i64,
    /// What: for instance `purchase`.
    pub conversion_type: String,
    /// Value in micros; negative for a refund, 0 where the source gives none.
    #[serde(default)]
    pub value_micros: i64,
    /// Currency of the value, ISO 4217.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}
