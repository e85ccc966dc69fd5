//! Reads the objects of the feeds that a task owns, record by record.
//!
//! A portion of records is read in each round; progress (object, record, buckets, largest timestamp) is put into a store
//! at its end, so it commits together with what the portion sent. Of several feeds the one whose time lags is read, which
//! keeps the feeds together in event time and so keeps the state of what joins them small.

use std::collections::HashMap;
use std::ops::ControlFlow;

use events::landing::{LandingFile, LandingRecord, Line, Rejection, UNREADABLE};
use events::{Creative, Feed};
use processor_core::Record;
use processor_core::error::{Fault, Result};
use processor_core::processor::{
    KeyValue, Processor, ProcessorContext, ReadOnlyKeyValue, Setup, Work,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::output::{FileReport, Ingested, Quarantined};
use crate::{Config, LandingObject};

/// Records read in a round.
const PORTION: usize = 1_000;

type Context<'a, 'c> = ProcessorContext<'a, 'c, String, Ingested>;

/// How far a feed has been read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FeedProgress {
    /// Objects announced so far; they are numbered from 0.
    announced: u64,
    /// The object to read, or to read on.
    next: u64,
    /// Largest timestamp of a record that kept the contract.
    latest_ms: Option<i64>,
    /// Buckets of the object that is being read.
    report: Option<FileReport>,
}

impl FeedProgress {
    fn has_more(&self) -> bool {
        self.next < self.announced
    }
}

/// The stores of a [`FeedReader`].
pub(crate) struct Stores {
    /// Objects by feed and number.
    pub queue: KeyValue<String, LandingObject>,
    /// Objects by path: what was announced before.
    pub known: KeyValue<String, LandingObject>,
    /// Progress by feed.
    pub progress: KeyValue<String, FeedProgress>,
    /// What each feed has brought.
    pub seen: Seen,
    /// The creative dimension, by creative.
    pub creatives: ReadOnlyKeyValue<String, Creative>,
}

/// Hashes of the ids that each feed has brought, for as long as they are remembered.
pub(crate) struct Seen {
    pub impressions: KeyValue<Vec<u8>, Vec<u8>>,
    pub clicks: KeyValue<Vec<u8>, Vec<u8>>,
    pub conversions: KeyValue<Vec<u8>, Vec<u8>>,
    pub bid_requests: KeyValue<Vec<u8>, Vec<u8>>,
}

impl Seen {
    fn of(&mut self, feed: Feed) -> &mut KeyValue<Vec<u8>, Vec<u8>> {
        match feed {
            Feed::Impressions => &mut self.impressions,
            Feed::Clicks => &mut self.clicks,
            Feed::Conversions => &mut self.conversions,
            Feed::BidRequests => &mut self.bid_requests,
        }
    }
}

/// See the [module](self).
pub(crate) struct FeedReader {
    config: Config,
    stores: Stores,
    feeds: HashMap<Feed, FeedProgress>,
    /// Open files, with the number of their object.
    open: HashMap<Feed, (u64, LandingFile)>,
}

impl FeedReader {
    pub(crate) fn new(config: Config, stores: Stores) -> Self {
        Self {
            config,
            stores,
            feeds: HashMap::new(),
            open: HashMap::new(),
        }
    }

    fn queue_key(feed: Feed, number: u64) -> String {
        format!("{feed}/{number:016x}")
    }

    /// The feed with something to read whose time lags most.
    fn lagging(&self) -> Option<Feed> {
        let waiting = self
            .feeds
            .iter()
            .filter(|(_, progress)| progress.has_more());
        waiting
            .min_by_key(|(feed, progress)| (progress.latest_ms, **feed))
            .map(|(feed, _)| *feed)
    }

    fn read_portion(&mut self, feed: Feed, context: &mut Context<'_, '_>) -> Result {
        let mut progress = self.feeds.get(&feed).cloned().unwrap_or_default();
        let object = self
            .stores
            .queue
            .get(&Self::queue_key(feed, progress.next))?
            .ok_or_else(|| {
                fault(format!(
                    "object {} of feed {feed} is not queued",
                    progress.next
                ))
            })?;
        let mut report = progress.report.take().unwrap_or_else(|| FileReport {
            path: object.path.clone(),
            ..FileReport::default()
        });
        let finished = match self.file(feed, progress.next, &object, report.lines) {
            Ok(mut file) => {
                let read = self.read_lines(&mut file, &mut progress, &mut report, context);
                report.warnings = file.warnings();
                match read? {
                    ControlFlow::Continue(()) => {
                        self.open.insert(feed, (progress.next, file));
                        false
                    }
                    ControlFlow::Break(error) => {
                        report.file_error = error;
                        true
                    }
                }
            }
            Err(reason) => {
                report.file_error = Some(reason);
                true
            }
        };
        report.finished = finished;
        let timestamp = progress.latest_ms.unwrap_or_default();
        context.forward(Record::new(
            report.path.clone(),
            Ingested::File(report.clone()),
            timestamp,
        ))?;
        if finished {
            tell(&report);
            self.stores
                .queue
                .delete(&Self::queue_key(feed, progress.next), timestamp)?;
            progress.next += 1;
        } else {
            progress.report = Some(report);
        }
        self.stores
            .progress
            .put(&feed.name().to_owned(), &progress, object.modified_ms)?;
        self.feeds.insert(feed, progress);
        Ok(())
    }

    /// The open file, or the file opened anew behind the records that were read before.
    fn file(
        &mut self,
        feed: Feed,
        number: u64,
        object: &LandingObject,
        read: u64,
    ) -> std::result::Result<LandingFile, String> {
        match self.open.remove(&feed) {
            Some((open, file)) if open == number => return Ok(file),
            _ => {}
        }
        let landing = &self.config.landing;
        if read > 0 && events::landing::etag(landing, &object.path) != object.etag {
            return Err(format!(
                "it changed after {read} records were read; land the new content under a new name"
            ));
        }
        let mut file = LandingFile::open(landing, &object.path).map_err(|error| error.reason)?;
        file.skip(read).map_err(|error| error.reason)?;
        Ok(file)
    }

    /// Reads a portion. Breaks at the end of the file, with the reason if it cannot be read on.
    fn read_lines(
        &mut self,
        file: &mut LandingFile,
        progress: &mut FeedProgress,
        report: &mut FileReport,
        context: &mut Context<'_, '_>,
    ) -> Result<ControlFlow<Option<String>>> {
        for _ in 0..PORTION {
            match file.next_line() {
                Ok(Some(line)) => self.take(line, progress, report, context)?,
                Ok(None) => return Ok(ControlFlow::Break(None)),
                Err(error) => return Ok(ControlFlow::Break(Some(error.reason))),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Puts one record into its bucket.
    fn take(
        &mut self,
        line: Line,
        progress: &mut FeedProgress,
        report: &mut FileReport,
        context: &mut Context<'_, '_>,
    ) -> Result {
        report.lines += 1;
        let record = match line.outcome {
            Ok(record) => self.in_campaign(record)?,
            Err(rejection) => Err(rejection),
        };
        let record = match record {
            Ok(record) => record,
            Err(rejection) => {
                report.quarantined += 1;
                let timestamp = progress.latest_ms.unwrap_or_default();
                let quarantined = quarantined(&report.path, line.number, rejection);
                let key = report.path.clone();
                return context.forward(Record::new(
                    key,
                    Ingested::Quarantined(quarantined),
                    timestamp,
                ));
            }
        };
        let timestamp = record.timestamp();
        let before = progress.latest_ms;
        progress.latest_ms = before.max(Some(timestamp));
        if !self.first_of_its_id(&record, before.unwrap_or(timestamp))? {
            report.duplicate += 1;
        } else if before
            .is_some_and(|before| timestamp < before.saturating_sub(self.config.grace_ms()))
        {
            report.late += 1;
        } else {
            report.valid += 1;
            let (key, value) = valid(record);
            context.forward(Record::new(key, value, timestamp))?;
        }
        Ok(())
    }

    /// Fills in the campaign of an impression that names none.
    fn in_campaign(
        &self,
        record: LandingRecord,
    ) -> Result<std::result::Result<LandingRecord, Rejection>> {
        let LandingRecord::Impression(mut impression) = record else {
            return Ok(Ok(record));
        };
        if impression.campaign_id.is_none() {
            let Some(creative) = self.stores.creatives.get(&impression.creative_id)? else {
                let reason = format!(
                    "the impression names no campaign and creative '{}' is not in dims/creatives.csv",
                    impression.creative_id
                );
                let original = serde_json::to_vec(&impression).unwrap_or_default();
                let field = Some("creative_id".to_owned());
                return Ok(Err(Rejection {
                    rule: "dim_missing",
                    field,
                    reason,
                    original,
                }));
            };
            impression.campaign_id = Some(creative.campaign_id);
        }
        Ok(Ok(LandingRecord::Impression(impression)))
    }

    /// Notes the id of a record; false when its feed had brought it before. It is remembered from the feed's time, so that
    /// one that comes late is remembered as long as any other.
    fn first_of_its_id(&mut self, record: &LandingRecord, latest_ms: i64) -> Result<bool> {
        let key = xxh3_128(record.id().as_bytes()).to_be_bytes().to_vec();
        let seen = self.stores.seen.of(feed_of(record));
        if seen.get(&key)?.is_some() {
            return Ok(false);
        }
        seen.put(&key, &Vec::new(), record.timestamp().max(latest_ms))?;
        Ok(true)
    }
}

impl Processor<String, LandingObject> for FeedReader {
    type KOut = String;
    type VOut = Ingested;

    /// Takes over what a predecessor left.
    fn init(&mut self, _: &mut Setup<'_, '_>) -> Result {
        for feed in Feed::ALL {
            if let Some(progress) = self.stores.progress.get(&feed.name().to_owned())? {
                self.feeds.insert(feed, progress);
            }
        }
        Ok(())
    }

    /// An object is announced.
    fn process(
        &mut self,
        record: Record<String, LandingObject>,
        context: &mut Context<'_, '_>,
    ) -> Result {
        let object = record.value;
        let before = self.stores.known.get(&object.path)?;
        // What could not be read before is read now.
        if let Some(before) = before.filter(|before| before.etag != UNREADABLE) {
            if before.etag == object.etag {
                return Ok(());
            }
            let reason = "the file changed after it was announced, and what it holds now is not read; \
                          land new content under a new name";
            tracing::warn!(path = %object.path, "{reason}");
            let rejection = Rejection {
                rule: "file_changed",
                field: None,
                reason: reason.to_owned(),
                original: Vec::new(),
            };
            let quarantined = quarantined(&object.path, 0, rejection);
            return context.forward(Record::new(
                object.path,
                Ingested::Quarantined(quarantined),
                record.timestamp,
            ));
        }
        let feed = object.feed;
        let mut progress = self.feeds.remove(&feed).unwrap_or_default();
        self.stores
            .known
            .put(&object.path, &object, record.timestamp)?;
        self.stores.queue.put(
            &Self::queue_key(feed, progress.announced),
            &object,
            record.timestamp,
        )?;
        progress.announced += 1;
        self.stores
            .progress
            .put(&feed.name().to_owned(), &progress, record.timestamp)?;
        self.feeds.insert(feed, progress);
        Ok(())
    }

    fn resume(&mut self, context: &mut Context<'_, '_>) -> Result<Work> {
        match self.lagging() {
            None => Ok(Work::Done),
            Some(feed) => {
                self.read_portion(feed, context)?;
                Ok(if self.lagging().is_some() {
                    Work::More
                } else {
                    Work::Done
                })
            }
        }
    }
}

fn feed_of(record: &LandingRecord) -> Feed {
    match record {
        LandingRecord::Impression(_) => Feed::Impressions,
        LandingRecord::Click(_) => Feed::Clicks,
        LandingRecord::Conversion(_) => Feed::Conversions,
        LandingRecord::BidRequest(_) => Feed::BidRequests,
    }
}

/// Key and value of a record that goes on.
fn valid(record: LandingRecord) -> (String, Ingested) {
    match record {
        LandingRecord::Impression(impression) => {
            (impression.user_id.clone(), Ingested::Impression(impression))
        }
        LandingRecord::Click(click) => (click.user_id.clone(), Ingested::Click(click)),
        LandingRecord::Conversion(conversion) => {
            (conversion.user_id.clone(), Ingested::Conversion(conversion))
        }
        LandingRecord::BidRequest(request) => {
            let key = request.user_id().unwrap_or(&request.id).to_owned();
            (key, Ingested::BidRequest(request))
        }
    }
}

fn quarantined(path: &str, line: u64, rejection: Rejection) -> Quarantined {
    Quarantined {
        path: path.to_owned(),
        line,
        rule: rejection.rule.to_owned(),
        field: rejection.field,
        reason: rejection.reason,
        original: String::from_utf8_lossy(&rejection.original).into_owned(),
    }
}

fn tell(report: &FileReport) {
    let path = &report.path;
    for warning in &report.warnings {
        tracing::warn!(%path, "{warning}");
    }
    match &report.file_error {
        Some(reason) => tracing::warn!(%path, "the file is not usable: {reason}"),
        None => tracing::debug!(%path, lines = report.lines, "the file is read"),
    }
}

fn fault(message: String) -> Fault {
    Fault::user("ingest", message)
}
