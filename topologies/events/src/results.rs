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
