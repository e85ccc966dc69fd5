//! The results of a run as tables for people.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;

use events::{AttributedConversion, TouchKind};
use ingest::FileReport;

use crate::progress::grouped;
use crate::results::Results;

/// Campaigns in the table; the files have all.
const CAMPAIGNS: usize = 20;
/// Rules and file errors that are listed.
const LISTED: usize = 10;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Campaign {
    impressions: i64,
    clicks: i64,
    spend_micros: i64,
    attributed: i64,
}

/// Campaigns by impressions, what was attributed, how every record of every feed ended, and where the files are.
#[must_use]
pub fn summary(results: &Results, out: &Path) -> String {
    let mut text = String::new();
    write_all(&mut text, results, out).expect("a string takes everything");
    text
}

fn write_all(text: &mut String, results: &Results, out: &Path) -> fmt::Result {
    campaigns(text, results)?;
    let credited = results
        .attributed_clicks
        .iter()
        .filter(|click| click.impression_id.is_some())
        .count();
    writeln!(
        text,
        "\n{} clicks: {} credited to an impression, {} to none",
        grouped(results.attributed_clicks.len()),
        grouped(credited),
        grouped(results.attributed_clicks.len() - credited),
    )?;
    conversions(text, &results.attributed_conversions)?;
    writeln!(text)?;
    buckets(text, &results.files)?;
    troubles(text, results)?;
    writeln!(
        text,
        "\nresults in {}: attributed_clicks.jsonl, attributed_conversions.jsonl, campaign_minutes.jsonl, buckets.json, quarantine.jsonl",
        out.display()
    )
}

/// Nothing where there are none.
fn conversions(text: &mut String, conversions: &[AttributedConversion]) -> fmt::Result {
    if conversions.is_empty() {
        return Ok(());
    }
    let credited_to = |touch: TouchKind| {
        let first = |conversion: &&AttributedConversion| {
            conversion
                .credits
                .first()
                .is_some_and(|credit| credit.touch == touch)
        };
        conversions.iter().filter(first).count()
    };
    let (clicks, views) = (
        credited_to(TouchKind::Click),
        credited_to(TouchKind::Impression),
    );
    writeln!(
        text,
        "{} conversions: {} credited to clicks, {} to views, {} to none",
        grouped(conversions.len()),
        grouped(clicks),
        grouped(views),
        grouped(conversions.len() - clicks - views),
    )
}

fn campaigns(text: &mut String, results: &Results) -> fmt::Result {
    let mut rows: BTreeMap<&str, Campaign> = BTreeMap::new();
    for minute in &results.campaign_minutes {
        let row = rows.entry(&minute.campaign_id).or_default();
        row.impressions += minute.impressions;
        row.clicks += minute.clicks;
        row.spend_micros += minute.spend_micros;
    }
    for click in &results.attributed_clicks {
        if click.impression_id.is_some() {
            rows.entry(&click.campaign_id).or_default().attributed += 1;
        }
    }
    let mut rows: Vec<(&str, Campaign)> = rows.into_iter().collect();
    rows.sort_by_key(|(_, row)| -row.impressions);
    writeln!(
        text,
        "{:<24}{:>13}{:>10}{:>9}{:>18}{:>12}",
        "campaign", "impressions", "clicks", "CTR", "spend (micros)", "attributed"
    )?;
    for (campaign, row) in rows.iter().take(CAMPAIGNS) {
        writeln!(
            text,
            "{:<24}{:>13}{:>10}{:>9}{:>18}{:>12}",
            shortened(campaign, 23),
            grouped(row.impressions),
            grouped(row.clicks),
            ctr(row.clicks, row.impressions),
            grouped(row.spend_micros),
            grouped(row.attributed),
        )?;
    }
    if rows.len() > CAMPAIGNS {
        writeln!(text, "… and {} more campaigns", rows.len() - CAMPAIGNS)?;
    }
    Ok(())
}

/// Clicks per impression in percent; nothing where there are no impressions.
fn ctr(clicks: i64, impressions: i64) -> String {
    if impressions == 0 {
        return "–".to_owned();
    }
    let basis_points = clicks.saturating_mul(10_000) / impressions;
    format!("{}.{:02} %", basis_points / 100, basis_points % 100)
}

fn buckets(text: &mut String, files: &[FileReport]) -> fmt::Result {
    let mut feeds: BTreeMap<&str, (u64, FileReport)> = BTreeMap::new();
    for file in files {
        let feed = file.path.split('/').next().unwrap_or_default();
        let (count, sum) = feeds.entry(feed).or_default();
        *count += 1;
        sum.lines += file.lines;
        sum.valid += file.valid;
        sum.duplicate += file.duplicate;
        sum.quarantined += file.quarantined;
        sum.invalid_traffic += file.invalid_traffic;
        sum.late += file.late;
    }
    writeln!(
        text,
        "{:<14}{:>7}{:>13}{:>13}{:>11}{:>13}{:>17}{:>9}",
        "feed", "files", "lines", "valid", "duplicate", "quarantined", "invalid traffic", "late"
    )?;
    for (feed, (files, sum)) in feeds {
        writeln!(
            text,
            "{feed:<14}{files:>7}{:>13}{:>13}{:>11}{:>13}{:>17}{:>9}",
            grouped(sum.lines),
            grouped(sum.valid),
            grouped(sum.duplicate),
            grouped(sum.quarantined),
            grouped(sum.invalid_traffic),
            grouped(sum.late),
        )?;
    }
    Ok(())
}

/// Files that could not be read, warnings, and the rules that records broke.
fn troubles(text: &mut String, results: &Results) -> fmt::Result {
    let mut lines: Vec<String> = Vec::new();
    for file in &results.files {
        let error = file
            .file_error
            .iter()
            .map(|error| format!("not usable: {error}"));
        let warnings = file.warnings.iter().cloned();
        lines.extend(
            error
                .chain(warnings)
                .map(|what| format!("{}: {what}", file.path)),
        );
    }
    let mut rules: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    for record in &results.quarantined {
        let (count, _) = rules.entry(&record.rule).or_insert_with(|| {
            let example = format!("{}:{}: {}", record.path, record.line, record.reason);
            (0, example)
        });
        *count += 1;
    }
    let mut by_rule: Vec<_> = rules.into_iter().collect();
    by_rule.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    lines.extend(by_rule.into_iter().map(|(rule, (number, example))| {
        format!(
            "quarantined by {rule}: {}, first {}",
            grouped(number),
            shortened(&example, 140)
        )
    }));
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(text)?;
    for line in lines.iter().take(LISTED) {
        writeln!(text, "! {line}")?;
    }
    if lines.len() > LISTED {
        writeln!(
            text,
            "! … and {} more, see buckets.json and quarantine.jsonl",
            lines.len() - LISTED
        )?;
    }
    Ok(())
}

fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        text.to_owned()
    } else {
        text.chars().take(length - 1).chain(['…']).collect()
    }
}
