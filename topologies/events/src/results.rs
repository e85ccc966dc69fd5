//! What comes of events.

use serde::{Deserialize, Serialize};

/// A click with the impression it is credited to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributedClick {
    /// The click.
    pub click_id: String,
    /// Its campaign.
    pub campaign_id: String,
    /// Its user.
    pub user_id: String,
    /// When it happened, in epoch milliseconds.
    pub click_ts: i64,
    /// The credited impression, if there is one.
    pub impression_id: Option<String>,
    /// When that was shown, in epoch milliseconds.
    pub impression_ts: Option<i64>,
}

/// A conversion with the touches that share it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributedConversion {
    /// The conversion.
    pub conversion_id: String,
    /// Its campaign.
    pub campaign_id: String,
    /// Its user.
    pub user_id: String,
    /// What it was.
    pub conversion_type: String,
    /// When it happened, in epoch milliseconds.
    pub conversion_ts: i64,
    /// Its value in micros.
    pub value_micros: i64,
    /// Currency of the value.
    pub currency: Option<String>,
    /// The touches, the earliest first; their credits add up to the value.
    pub credits: Vec<TouchCredit>,
    /// Touches that were left out, since there were too many.
    pub truncated: usize,
}

/// What a touch has of a conversion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TouchCredit {
    /// What it is.
    pub touch: TouchKind,
    /// Its id in its feed.
    pub touch_id: String,
    /// When it happened, in epoch milliseconds.
    pub touch_ts: i64,
    /// Its part of the value, in micros.
    pub credit_micros: i64,
}

/// What a conversion may be credited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TouchKind {
    /// A click.
    Click,
    /// An impression, that is, a view.
    Impression,
}

/// What a campaign did in a minute of event time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CampaignMinute {
    /// The campaign.
    pub campaign_id: String,
    /// First millisecond of the minute, since the epoch.
    pub minute_start_ms: i64,
    /// Ads shown.
    pub impressions: i64,
    /// Ads clicked.
    pub clicks: i64,
    /// Cost of the impressions, in micros.
    pub spend_micros: i64,
}
