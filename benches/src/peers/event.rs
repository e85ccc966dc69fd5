//! The records of the workloads, with the fields of `Peer.java`.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Impression {
    pub impression_id: String,
    pub creative_id: String,
    pub campaign_id: String,
    pub user_id: String,
    pub timestamp: i64,
    pub website: String,
    pub cost_micros: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Click {
    pub click_id: String,
    pub campaign_id: String,
    pub user_id: String,
    pub timestamp: i64,
}

/// An impression and a click of the same user; campaign and time are the click's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pair {
    pub impression_id: String,
    pub click_id: String,
    pub campaign_id: String,
    pub timestamp: i64,
}

impl Pair {
    pub fn of(impression: Impression, click: Click) -> Self {
        Self {
            impression_id: impression.impression_id,
            click_id: click.click_id,
            campaign_id: click.campaign_id,
            timestamp: click.timestamp,
        }
    }
}
