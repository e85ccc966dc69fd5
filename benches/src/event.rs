//! The records of the workloads, with the fields of `Peer.java` and `Restart.java`.

use serde::{Deserialize, Serialize};

use crate::random::Random;

const CAMPAIGNS: i64 = 200;
const CREATIVES: i64 = 2_000;
const WEBSITES: i64 = 500;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Impression {
    pub impression_id: String,
    pub creative_id: String,
    pub campaign_id: String,
    pub user_id: String,
    pub timestamp: i64,
    pub website: String,
    pub cost_micros: i64,
}

impl Impression {
    /// One of `user_id` at `timestamp`, the rest drawn.
    pub fn drawn(random: &mut Random, user_id: &str, timestamp: i64) -> Self {
        Self {
            campaign_id: format!("campaign-{:03}", random.between(0, CAMPAIGNS - 1)),
            impression_id: format!("{:016x}", random.next()),
            creative_id: format!("creative-{:04}", random.between(0, CREATIVES - 1)),
            user_id: user_id.to_owned(),
            timestamp,
            website: format!("site-{:03}.example", random.between(0, WEBSITES - 1)),
            cost_micros: random.between(100, 20_000),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Click {
    pub click_id: String,
    pub campaign_id: String,
    pub user_id: String,
    pub timestamp: i64,
}

/// An impression and a click of the same user; campaign and time are the click's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pair {
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
