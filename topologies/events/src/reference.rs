//! The results that a landing directory must give, by a plain model that holds everything in memory.
//!
//! It follows the definitions word by word and shares nothing with the topologies but the reading of files, so that tests
//! can hold one against the other. Not for large inputs.

mod conversions;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::landing::{self, LandingFile, LandingRecord};
use crate::{AttributedClick, AttributedConversion, CampaignMinute, Click, Feed, Impression};

pub use conversions::Sharing;

/// The rules that results follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Definitions {
    /// How long before a click an impression may be to be credited with it, in ms.
    pub click_window_ms: i64,
    /// How far below the largest timestamp before it in its feed a record may be, in ms.
    pub grace_ms: i64,
    /// How long before a conversion a click may be to be credited with it, in ms.
    pub conversion_click_window_ms: i64,
    /// The same for an impression; it counts where there is no such click.
    pub conversion_view_window_ms: i64,
    /// How the touches of a conversion share it.
    pub sharing: Sharing,
}

impl Default for Definitions {
    fn default() -> Self {
        const DAY_MS: i64 = 24 * 60 * 60_000;
        Self {
            click_window_ms: 30 * 60_000,
            grace_ms: 5 * 60_000,
            conversion_click_window_ms: 7 * DAY_MS,
            conversion_view_window_ms: DAY_MS,
            sharing: Sharing::Last,
        }
    }
}

/// What became of the records of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileBuckets {
    /// Path relative to the landing directory.
    pub path: String,
    /// All records; the buckets add up to it.
    pub lines: u64,
    /// Records that count.
    pub valid: u64,
    /// Records whose id was seen before in the feed.
    pub duplicate: u64,
    /// Records that break the contract.
    pub quarantined: u64,
    /// Records of robots and fraud; nothing decides that yet.
    pub invalid_traffic: u64,
    /// Records too far below the largest timestamp before them.
    pub late: u64,
    /// Why the file could not be read.
    pub file_error: Option<String>,
}

/// Everything that follows from a landing directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Truth {
    /// One for each valid click, by click id.
    pub attributed_clicks: Vec<AttributedClick>,
    /// One for each valid conversion, by conversion id.
    pub attributed_conversions: Vec<AttributedConversion>,
    /// By campaign, then minute.
    pub campaign_minutes: Vec<CampaignMinute>,
    /// By path.
    pub files: Vec<FileBuckets>,
}

/// Evaluates the landing directory at `root`.
///
/// # Errors
/// When the directory or its dimensions cannot be read.
pub fn evaluate(root: &Path, definitions: &Definitions) -> io::Result<Truth> {
    let grace_ms = definitions.grace_ms;
    let creatives: HashMap<String, String> = landing::creatives(root)
        .map_err(io::Error::other)?
        .into_iter()
        .map(|creative| (creative.creative_id, creative.campaign_id))
        .collect();
    let mut truth = Truth::default();
    let mut impressions = Vec::new();
    let mut clicks = Vec::new();
    let mut conversions = Vec::new();
    let listing = landing::list(root)?;
    for feed in Feed::ALL {
        let mut seen = HashSet::new();
        let mut latest = i64::MIN;
        for file in listing.files.iter().filter(|file| file.feed == feed) {
            let mut buckets = FileBuckets {
                path: file.path.clone(),
                ..FileBuckets::default()
            };
            let mut lines = match LandingFile::open(root, &file.path) {
                Ok(lines) => lines,
                Err(error) => {
                    buckets.file_error = Some(error.reason);
                    truth.files.push(buckets);
                    continue;
                }
            };
            while let Some(line) = lines.next_line().map_err(io::Error::other)? {
                buckets.lines += 1;
                let Some(record) = line.outcome.ok().and_then(|r| in_campaign(r, &creatives))
                else {
                    buckets.quarantined += 1;
                    continue;
                };
                let before = latest;
                latest = latest.max(record.timestamp());
                if !seen.insert(record.id().to_owned()) {
                    buckets.duplicate += 1;
                } else if record.timestamp() < before.saturating_sub(grace_ms) {
                    buckets.late += 1;
                } else {
                    buckets.valid += 1;
                    match record {
                        LandingRecord::Impression(impression) => impressions.push(impression),
                        LandingRecord::Click(click) => clicks.push(click),
                        LandingRecord::Conversion(conversion) => conversions.push(conversion),
                        LandingRecord::BidRequest(_) => {}
                    }
                }
            }
            truth.files.push(buckets);
        }
    }
    truth.attributed_clicks = attribute(&impressions, &clicks, definitions.click_window_ms);
    truth.attributed_conversions =
        conversions::attribute(&impressions, &clicks, &conversions, definitions);
    truth.campaign_minutes = minutes(&impressions, &clicks);
    Ok(truth)
}

/// The record with its campaign: an impression that names none has that of its creative. `None` if the creative is unknown.
#[must_use]
pub fn in_campaign(
    record: LandingRecord,
    creatives: &HashMap<String, String>,
) -> Option<LandingRecord> {
    match record {
        LandingRecord::Impression(mut impression) => {
            if impression.campaign_id.is_none() {
                impression.campaign_id = Some(creatives.get(&impression.creative_id)?.clone());
            }
            Some(LandingRecord::Impression(impression))
        }
        other => Some(other),
    }
}

fn attribute(impressions: &[Impression], clicks: &[Click], window_ms: i64) -> Vec<AttributedClick> {
    let mut by_pair: HashMap<(&str, &str), Vec<(i64, &str)>> = HashMap::new();
    for impression in impressions {
        let touch = (impression.ts_ms, impression.impression_id.as_str());
        by_pair
            .entry((&impression.user_id, impression.campaign()))
            .or_default()
            .push(touch);
    }
    let mut results: Vec<AttributedClick> = clicks
        .iter()
        .map(|click| {
            let touches = by_pair.get(&(click.user_id.as_str(), click.campaign_id.as_str()));
            let credited = touches
                .into_iter()
                .flatten()
                .filter(|(ts, _)| (click.ts_ms - window_ms..=click.ts_ms).contains(ts))
                .max();
            AttributedClick {
                click_id: click.click_id.clone(),
                campaign_id: click.campaign_id.clone(),
                user_id: click.user_id.clone(),
                click_ts: click.ts_ms,
                impression_id: credited.map(|(_, id)| (*id).to_owned()),
                impression_ts: credited.map(|(ts, _)| *ts),
            }
        })
        .collect();
    results.sort_by(|a, b| a.click_id.cmp(&b.click_id));
    results
}

fn minutes(impressions: &[Impression], clicks: &[Click]) -> Vec<CampaignMinute> {
    let mut rows: BTreeMap<(&str, i64), CampaignMinute> = BTreeMap::new();
    let start = |ts: i64| ts.div_euclid(60_000) * 60_000;
    for impression in impressions {
        let row = rows
            .entry((impression.campaign(), start(impression.ts_ms)))
            .or_default();
        row.impressions += 1;
        row.spend_micros += impression.cost_micros;
    }
    for click in clicks {
        rows.entry((&click.campaign_id, start(click.ts_ms)))
            .or_default()
            .clicks += 1;
    }
    rows.into_iter()
        .map(|((campaign, minute_start_ms), row)| CampaignMinute {
            campaign_id: campaign.to_owned(),
            minute_start_ms,
            ..row
        })
        .collect()
}
