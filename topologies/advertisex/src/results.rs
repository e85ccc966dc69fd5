//! Result files: views of the committed topics, rebuilt whole and renamed into place.
//!
//! | file | holds | order |
//! |---|---|---|
//! | `attributed_clicks.jsonl` | one object per click that has a result | by click id |
//! | `attributed_conversions.jsonl` | one object per conversion that has a result | by conversion id |
//! | `campaign_minutes.jsonl` | one object per campaign and minute | by campaign, then minute |
//! | `buckets.json` | what became of the records of each file | by path |
//! | `quarantine.jsonl` | records that broke the contract: file, line, rule, reason | by path, then line |

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use attribution::{
    ATTRIBUTED_CLICKS, ATTRIBUTED_CONVERSIONS, Attribution, ConversionAttribution, Status,
};
use campaign_metrics::CAMPAIGN_MINUTES;
use events::{AttributedClick, AttributedConversion, CampaignMinute, TouchCredit};
use ingest::{FILES, FileReport, QUARANTINE, Quarantined};
use processor_core::log::{Log, LogError, read_to_end};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Everything that has been committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Results {
    /// By click id: the final result, or the last provisional one where there is none.
    pub attributed_clicks: Vec<AttributedClick>,
    /// By conversion id: the final result, or the last provisional one where there is none.
    pub attributed_conversions: Vec<AttributedConversion>,
    /// By campaign, then minute.
    pub campaign_minutes: Vec<CampaignMinute>,
    /// By path.
    pub files: Vec<FileReport>,
    /// By path, then line.
    pub quarantined: Vec<Quarantined>,
}

/// Why results could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// The topics could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Results {
    /// Reads the topics to where they end now.
    ///
    /// # Errors
    /// When the log does not answer, or a topic holds something else.
    pub fn read(log: &dyn Log) -> Result<Self, LogError> {
        let mut clicks: BTreeMap<String, Attribution> = BTreeMap::new();
        each(log, ATTRIBUTED_CLICKS, |result: Attribution| {
            let known = clicks.get(&result.click.click_id);
            if known.is_none_or(|known| known.status == Status::Provisional) {
                clicks.insert(result.click.click_id.clone(), result);
            }
        })?;
        let mut conversions: BTreeMap<String, ConversionAttribution> = BTreeMap::new();
        each(
            log,
            ATTRIBUTED_CONVERSIONS,
            |result: ConversionAttribution| {
                let known = conversions.get(&result.conversion.conversion_id);
                if known.is_none_or(|known| known.revision < result.revision) {
                    conversions.insert(result.conversion.conversion_id.clone(), result);
                }
            },
        )?;
        let mut minutes = BTreeMap::new();
        each(log, CAMPAIGN_MINUTES, |minute: CampaignMinute| {
            minutes.insert((minute.campaign_id.clone(), minute.minute_start_ms), minute);
        })?;
        let mut files = BTreeMap::new();
        each(log, FILES, |report: FileReport| {
            files.insert(report.path.clone(), report);
        })?;
        let mut quarantined: Vec<Quarantined> = Vec::new();
        each(log, QUARANTINE, |record| quarantined.push(record))?;
        quarantined.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
        Ok(Self {
            attributed_clicks: clicks.into_values().map(|result| result.click).collect(),
            attributed_conversions: conversions
                .into_values()
                .map(|result| result.conversion)
                .collect(),
            campaign_minutes: minutes.into_values().collect(),
            files: files.into_values().collect(),
            quarantined,
        })
    }

    /// Writes the files into `directory`, each beside its place first, so that a reader sees the old one or the new.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), ResultsError> {
        let clicks = self.attributed_clicks.iter().map(AttributedRow::from);
        write_lines(&directory.join("attributed_clicks.jsonl"), clicks)?;
        let conversions = self.attributed_conversions.iter().map(ConversionRow::from);
        write_lines(&directory.join("attributed_conversions.jsonl"), conversions)?;
        write_lines(
            &directory.join("campaign_minutes.jsonl"),
            &self.campaign_minutes,
        )?;
        write_lines(&directory.join("quarantine.jsonl"), &self.quarantined)?;
        let files: Vec<BucketsRow<'_>> = self.files.iter().map(BucketsRow::from).collect();
        replace(&directory.join("buckets.json"), |into| {
            serde_json::to_writer_pretty(&mut *into, &serde_json::json!({ "files": files }))?;
            into.write_all(b"\n")
        })
    }
}

/// A line of `attributed_clicks.jsonl`.
#[derive(Serialize)]
struct AttributedRow<'a> {
    click_id: &'a str,
    campaign_id: &'a str,
    click_ts: i64,
    impression_id: Option<&'a str>,
    impression_ts: Option<i64>,
}

impl<'a> From<&'a AttributedClick> for AttributedRow<'a> {
    fn from(click: &'a AttributedClick) -> Self {
        Self {
            click_id: &click.click_id,
            campaign_id: &click.campaign_id,
            click_ts: click.click_ts,
            impression_id: click.impression_id.as_deref(),
            impression_ts: click.impression_ts,
        }
    }
}

/// A line of `attributed_conversions.jsonl`.
#[derive(Serialize)]
struct ConversionRow<'a> {
    conversion_id: &'a str,
    campaign_id: &'a str,
    conversion_type: &'a str,
    conversion_ts: i64,
    value_micros: i64,
    currency: Option<&'a str>,
    credits: &'a [TouchCredit],
    truncated: usize,
}

impl<'a> From<&'a AttributedConversion> for ConversionRow<'a> {
    fn from(conversion: &'a AttributedConversion) -> Self {
        Self {
            conversion_id: &conversion.conversion_id,
            campaign_id: &conversion.campaign_id,
            conversion_type: &conversion.conversion_type,
            conversion_ts: conversion.conversion_ts,
            value_micros: conversion.value_micros,
            currency: conversion.currency.as_deref(),
            credits: &conversion.credits,
            truncated: conversion.truncated,
        }
    }
}

/// An entry of `buckets.json`.
#[derive(Serialize)]
struct BucketsRow<'a> {
    path: &'a str,
    lines: u64,
    valid: u64,
    duplicate: u64,
    quarantined: u64,
    invalid_traffic: u64,
    late: u64,
    file_error: Option<&'a str>,
}

impl<'a> From<&'a FileReport> for BucketsRow<'a> {
    fn from(report: &'a FileReport) -> Self {
        Self {
            path: &report.path,
            lines: report.lines,
            valid: report.valid,
            duplicate: report.duplicate,
            quarantined: report.quarantined,
            invalid_traffic: report.invalid_traffic,
            late: report.late,
            file_error: report.file_error.as_deref(),
        }
    }
}

fn each<T: DeserializeOwned>(
    log: &dyn Log,
    topic: &str,
    mut visit: impl FnMut(T),
) -> Result<(), LogError> {
    read_to_end(log, topic, &mut |record| {
        let Some(value) = &record.value else {
            return Ok(());
        };
        let value = serde_json::from_slice(value).map_err(|error| {
            let offset = record.offset;
            LogError::fatal(format!(
                "topic '{topic}' holds something else at offset {offset}: {error}"
            ))
        })?;
        visit(value);
        Ok(())
    })
}

fn write_lines<T: Serialize>(
    path: &Path,
    rows: impl IntoIterator<Item = T>,
) -> Result<(), ResultsError> {
    replace(path, |into| {
        for row in rows {
            serde_json::to_writer(&mut *into, &row)?;
            into.write_all(b"\n")?;
        }
        Ok(())
    })
}

fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), ResultsError> {
    let beside = path.with_extension("new");
    let written = (|| {
        let mut file = BufWriter::new(File::create(&beside)?);
        write(&mut file)?;
        file.into_inner()?.sync_all()?;
        fs::rename(&beside, path)
    })();
    written.map_err(|source| ResultsError::Write {
        path: path.to_owned(),
        source,
    })
}
