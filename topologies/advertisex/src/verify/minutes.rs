//! Campaign minutes against a recount of impressions and clicks.

use std::collections::BTreeMap;

use campaign_metrics::CAMPAIGN_MINUTES;
use events::{CampaignMinute, Click, Impression};
use ingest::{CLICKS, IMPRESSIONS};
use processor_core::log::Log;

use super::{Check, Place, Report, Tally, VerifyError, each};
use crate::progress::grouped;

const MINUTE_MS: i64 = 60_000;

/// Impressions, clicks and spend in micros.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Numbers {
    impressions: i64,
    clicks: i64,
    spend_micros: i64,
}

/// By campaign and first millisecond of the minute.
type Minutes<T> = BTreeMap<(String, i64), T>;

/// The last row of each campaign and minute is what a recount gives, and there is one for each.
pub(super) fn check(log: &dyn Log, report: &mut Report) -> Result<(), VerifyError> {
    let recounted = recount(log)?;
    let mut rows: Minutes<(Numbers, Place)> = BTreeMap::new();
    let mut unreadable = Tally::default();
    each(
        log,
        CAMPAIGN_MINUTES,
        &mut unreadable,
        &mut |_, at, row: CampaignMinute| {
            let numbers = Numbers {
                impressions: row.impressions,
                clicks: row.clicks,
                spend_micros: row.spend_micros,
            };
            let minute = (row.campaign_id, row.minute_start_ms);
            rows.insert(minute, (numbers, at.clone()));
        },
    )?;
    let mut check = Check::new(CAMPAIGN_MINUTES, format!("{} rows", grouped(rows.len())));
    check.tally("records that are none of this topic", &unreadable);
    for ((campaign, minute), ours) in &recounted {
        match rows.get(&(campaign.clone(), *minute)) {
            Some((theirs, _)) if theirs == ours => {}
            Some((theirs, at)) => check.findings.push(format!(
                "campaign {campaign}, minute {minute}: {} by recount, {} in {at}",
                ours.say(),
                theirs.say()
            )),
            None => check.findings.push(format!(
                "campaign {campaign}, minute {minute}: {} by recount, and there is no row",
                ours.say()
            )),
        }
    }
    let foreign = rows
        .iter()
        .filter(|(minute, _)| !recounted.contains_key(*minute));
    for ((campaign, minute), (theirs, at)) in foreign {
        check.findings.push(format!(
            "campaign {campaign}, minute {minute}: nothing by recount, {} in {at}",
            theirs.say()
        ));
    }
    report.push(check);
    Ok(())
}

impl Numbers {
    fn say(self) -> String {
        format!(
            "{} impressions, {} clicks and {} micros",
            self.impressions, self.clicks, self.spend_micros
        )
    }
}

fn recount(log: &dyn Log) -> Result<Minutes<Numbers>, VerifyError> {
    let mut minutes: Minutes<Numbers> = BTreeMap::new();
    // What is none of these topics is a finding of their own checks.
    let mut elsewhere = Tally::default();
    let minute = |ts: i64| ts.div_euclid(MINUTE_MS) * MINUTE_MS;
    each(
        log,
        IMPRESSIONS,
        &mut elsewhere,
        &mut |_, _, shown: Impression| {
            let campaign = shown.campaign().to_owned();
            let numbers = minutes.entry((campaign, minute(shown.ts_ms))).or_default();
            numbers.impressions += 1;
            numbers.spend_micros = numbers.spend_micros.saturating_add(shown.cost_micros);
        },
    )?;
    each(log, CLICKS, &mut elsewhere, &mut |_, _, click: Click| {
        let minute = (click.campaign_id, minute(click.ts_ms));
        minutes.entry(minute).or_default().clicks += 1;
    })?;
    Ok(minutes)
}
