//! Lines of landing files against the records that came of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use events::landing::LandingRecord;
use events::{Click, Conversion, Feed, Impression};
use ingest::{BID_REQUESTS, CLICKS, CONVERSIONS, FILES, FileReport, IMPRESSIONS, OBJECTS};
use ingest::{LandingObject, QUARANTINE, Quarantined};
use processor_core::log::{ConsumerRecord, Log};
use serde::Serialize;

use super::landing::{self, Creatives, FeedFiles, Verdict};
use super::{Audit, Check, Outcome, Part, Place, Report, Settings, Tally, VerifyError};
use super::{each, each_record};
use crate::progress::grouped;

/// In the order in which they are reported.
const FEEDS: [Feed; 4] = [
    Feed::Impressions,
    Feed::Clicks,
    Feed::Conversions,
    Feed::BidRequests,
];

/// Reports of files by path.
type Files = BTreeMap<String, FileReport>;

/// Checks files, the valid records of each feed, and what was kept aside.
pub(super) fn check(
    log: &dyn Log,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let mut unreadable = Tally::default();
    let mut objects: Vec<LandingObject> = Vec::new();
    each(log, OBJECTS, &mut unreadable, &mut |_, _, object| {
        objects.push(object);
    })?;
    let mut files = Files::new();
    each(
        log,
        FILES,
        &mut unreadable,
        &mut |_, _, file: FileReport| {
            files.insert(file.path.clone(), file);
        },
    )?;
    let mut check = Check::new("files", "");
    check.tally("records that are none of ingest's", &unreadable);
    read_to_their_end(&objects, &files, &mut check);
    let found = match &settings.landing {
        Some(root) => {
            let directory = || root.clone();
            let failed = |source| VerifyError::Landing {
                directory: directory(),
                source,
            };
            let creatives = landing::creatives(root).map_err(failed)?;
            not_announced(root, &objects, report).map_err(failed)?;
            let recount = Recount {
                log,
                settings,
                files: &files,
                creatives: &creatives,
            };
            recount.feeds(root, &objects, &mut check)?
        }
        None => {
            report.notes.push(
                "without the landing directory (--input) lines are not read again: what files hold is taken from their reports"
                    .to_owned(),
            );
            by_reports(log, settings, &files)?
        }
    };
    let lines: u64 = files.values().map(|file| file.lines).sum();
    check.counted = format!("{} files, {} lines", grouped(files.len()), grouped(lines));
    report.push(check);
    for check in found {
        report.push(check);
    }
    Ok(())
}

/// Every announced file has a last report, and its buckets add up.
fn read_to_their_end(objects: &[LandingObject], files: &Files, check: &mut Check) {
    let announced: BTreeSet<&str> = objects.iter().map(|o| &*o.path).collect();
    for path in &announced {
        match files.get(*path) {
            None => check
                .findings
                .push(format!("{path} is announced and was not read")),
            Some(file) if !file.finished => check.findings.push(format!(
                "{path} is still being read, {} lines so far: wait, and verify again",
                file.lines
            )),
            Some(_) => {}
        }
    }
    for file in files.values() {
        if !announced.contains(&*file.path) {
            let path = &file.path;
            check
                .findings
                .push(format!("{path} was read and never announced"));
        }
        let buckets = [
            file.valid,
            file.duplicate,
            file.quarantined,
            file.invalid_traffic,
            file.late,
        ];
        let sum: u64 = buckets.iter().sum();
        if sum != file.lines {
            check.findings.push(format!(
                "the buckets of {} add up to {sum}, and it has {} lines",
                file.path, file.lines
            ));
        }
    }
}

fn not_announced(
    root: &std::path::Path,
    objects: &[LandingObject],
    report: &mut Report,
) -> std::io::Result<()> {
    let announced: BTreeSet<&str> = objects.iter().map(|o| &*o.path).collect();
    let listing = events::landing::list(root)?;
    let new = listing
        .files
        .iter()
        .filter(|file| !announced.contains(&*file.path));
    let new: Vec<&str> = new.map(|file| &*file.path).collect();
    if let Some(first) = new.first() {
        let count = grouped(new.len());
        report.notes.push(format!(
            "{count} files are not announced yet, such as {first}"
        ));
    }
    Ok(())
}

/// The topic of a feed's valid records.
fn topic_of(feed: Feed) -> &'static str {
    match feed {
        Feed::Impressions => IMPRESSIONS,
        Feed::Clicks => CLICKS,
        Feed::Conversions => CONVERSIONS,
        Feed::BidRequests => BID_REQUESTS,
    }
}

fn valid_in(files: &Files, feed: Feed) -> u64 {
    let of_feed = files
        .values()
        .filter(|file| Feed::of_path(&file.path) == Some(feed));
    of_feed.map(|file| file.valid).sum()
}

fn check_of(feed: Feed, outcome: &Outcome, unreadable: &Tally, what: &str) -> Check {
    let (expected, found) = (grouped(outcome.expected), grouped(outcome.found));
    let mut check = Check::new(
        topic_of(feed),
        format!("{expected} {what}, {found} records"),
    );
    check.tally("records that are none of this topic", unreadable);
    check.outcome(outcome);
    check
}

/// Lines are read again, and everything follows from them.
struct Recount<'a> {
    log: &'a dyn Log,
    settings: &'a Settings,
    files: &'a Files,
    creatives: &'a Creatives,
}

impl Recount<'_> {
    fn feeds(
        &self,
        root: &std::path::Path,
        objects: &[LandingObject],
        check: &mut Check,
    ) -> Result<Vec<Check>, VerifyError> {
        let mut checks = Vec::new();
        let mut aside = Audit::new(Part::WHOLE);
        for feed in FEEDS {
            let files = FeedFiles {
                root,
                objects: &landing::of_feed(objects, feed),
                creatives: self.creatives,
                rules: self.settings.rules(),
            };
            checks.push(self.feed(feed, &files, &mut aside, check)?);
        }
        let mut unreadable = Tally::default();
        each(
            self.log,
            QUARANTINE,
            &mut unreadable,
            &mut |_, at, kept: Quarantined| {
                // Line 0 is said of a file as a whole.
                if kept.line > 0 {
                    let line = format!("{}:{}", kept.path, kept.line);
                    aside.find(&line, kept.rule.as_bytes(), at);
                }
            },
        )?;
        let outcome = aside.outcome();
        let counted = format!(
            "{} lines that break the contract, {} records",
            grouped(outcome.expected),
            grouped(outcome.found)
        );
        let mut kept = Check::new(QUARANTINE, counted);
        kept.tally("records that are none of this topic", &unreadable);
        kept.outcome(&outcome);
        checks.push(kept);
        Ok(checks)
    }

    fn feed(
        &self,
        feed: Feed,
        files: &FeedFiles<'_>,
        aside: &mut Audit,
        check: &mut Check,
    ) -> Result<Check, VerifyError> {
        let mut recounted: HashMap<String, FileReport> = HashMap::new();
        let (mut sum, mut unreadable) = (Outcome::default(), Tally::default());
        for part in Part::within(valid_in(self.files, feed), self.settings.memory_bytes) {
            let mut audit = Audit::new(part);
            let mut refused = Vec::new();
            files.read(
                part,
                &mut recounted,
                &mut refused,
                &mut |path, line, verdict| {
                    let at = Place::Line {
                        path: path.to_owned(),
                        line,
                    };
                    match verdict {
                        Verdict::Valid(record) => {
                            audit.expect(record.id(), &content_of(record), &at)
                        }
                        Verdict::Quarantined(rule) => {
                            aside.expect(&format!("{path}:{line}"), rule.as_bytes(), &at);
                        }
                        Verdict::Counted => {}
                    }
                },
            );
            if part.number == 0 {
                check.findings.append(&mut refused);
            }
            unreadable = Tally::default();
            find(self.log, feed, &mut unreadable, &mut |id, content, at| {
                audit.find(id, content, at);
            })?;
            sum.merge(audit.outcome());
        }
        self.compare(&recounted, check);
        Ok(check_of(feed, &sum, &unreadable, "valid lines"))
    }

    /// The buckets of files by recount against those that were reported.
    fn compare(&self, recounted: &HashMap<String, FileReport>, check: &mut Check) {
        let mut paths: Vec<&String> = recounted.keys().collect();
        paths.sort();
        for path in paths {
            let (ours, Some(theirs)) = (&recounted[path], self.files.get(path)) else {
                continue;
            };
            if ours.file_error.is_some() != theirs.file_error.is_some() {
                let say = |error: &Option<String>| error.clone().unwrap_or("usable".to_owned());
                let (ours, theirs) = (say(&ours.file_error), say(&theirs.file_error));
                check
                    .findings
                    .push(format!("{path} is {ours}; its report says {theirs}"));
            }
            for (bucket, ours, theirs) in [
                ("lines", ours.lines, theirs.lines),
                ("valid", ours.valid, theirs.valid),
                ("duplicate", ours.duplicate, theirs.duplicate),
                ("quarantined", ours.quarantined, theirs.quarantined),
                ("late", ours.late, theirs.late),
            ] {
                if ours != theirs {
                    check.findings.push(format!(
                        "{path} has {ours} {bucket} by recount; its report says {theirs}"
                    ));
                }
            }
        }
    }
}

/// Nothing is known of lines but how many there are.
fn by_reports(
    log: &dyn Log,
    settings: &Settings,
    files: &Files,
) -> Result<Vec<Check>, VerifyError> {
    let mut checks = Vec::new();
    for feed in FEEDS {
        let expected = valid_in(files, feed);
        let (mut sum, mut unreadable) = (Outcome::default(), Tally::default());
        for part in Part::within(expected, settings.memory_bytes) {
            let mut audit = Audit::new(part);
            unreadable = Tally::default();
            find(log, feed, &mut unreadable, &mut |id, _, at| {
                audit.find_once(id, at)
            })?;
            sum.merge(audit.outcome());
        }
        let found = sum.found;
        sum.expected = expected;
        let mut check = check_of(feed, &sum, &unreadable, "valid by the reports");
        if found != expected {
            check.findings.push(format!(
                "the reports of files say {expected} valid lines, and there are {found} records"
            ));
        }
        checks.push(check);
    }
    let mut kept: BTreeMap<String, u64> = BTreeMap::new();
    let (mut audit, mut unreadable) = (Audit::new(Part::WHOLE), Tally::default());
    each(
        log,
        QUARANTINE,
        &mut unreadable,
        &mut |_, at, record: Quarantined| {
            if record.line > 0 {
                audit.find_once(&format!("{}:{}", record.path, record.line), at);
                *kept.entry(record.path).or_default() += 1;
            }
        },
    )?;
    let outcome = audit.outcome();
    let mut check = Check::new(QUARANTINE, format!("{} records", grouped(outcome.found)));
    check.tally("records that are none of this topic", &unreadable);
    check.outcome(&outcome);
    for file in files.values() {
        let kept = kept.get(&file.path).copied().unwrap_or_default();
        if kept != file.quarantined {
            check.findings.push(format!(
                "{} has {} quarantined lines by its report, and {kept} are kept",
                file.path, file.quarantined
            ));
        }
    }
    checks.push(check);
    Ok(checks)
}

/// What must be in a topic for a valid line: key, time and value.
fn content_of(record: &LandingRecord) -> Vec<u8> {
    match record {
        LandingRecord::Impression(event) => content(&event.user_id, event.ts_ms, &json(event)),
        LandingRecord::Click(event) => content(&event.user_id, event.ts_ms, &json(event)),
        LandingRecord::Conversion(event) => content(&event.user_id, event.ts_ms, &json(event)),
        LandingRecord::BidRequest(request) => {
            content(request.user_id().unwrap_or(&request.id), request.ts, b"")
        }
    }
}

fn json(event: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(event).expect("an event has text keys")
}

fn content(key: &str, timestamp: i64, value: &[u8]) -> Vec<u8> {
    let mut content = timestamp.to_be_bytes().to_vec();
    content.extend_from_slice(&(key.len() as u64).to_be_bytes());
    content.extend_from_slice(key.as_bytes());
    content.extend_from_slice(value);
    content
}

/// Hands the id, content and place of each record of a feed's topic to `found`.
fn find(
    log: &dyn Log,
    feed: Feed,
    unreadable: &mut Tally,
    found: &mut dyn FnMut(&str, &[u8], &Place),
) -> Result<(), VerifyError> {
    each_record(log, topic_of(feed), &mut |_, at, record: ConsumerRecord| {
        let value = record.value.as_deref().unwrap_or_default();
        let id = match feed {
            Feed::Impressions => id_of(value, |event: Impression| event.impression_id),
            Feed::Clicks => id_of(value, |event: Click| event.click_id),
            Feed::Conversions => id_of(value, |event: Conversion| event.conversion_id),
            Feed::BidRequests => bid_request_id(value),
        };
        let key = record
            .key
            .as_deref()
            .and_then(|key| std::str::from_utf8(key).ok());
        let (Some(id), Some(key)) = (id, key) else {
            return unreadable.add(None, at);
        };
        // Of a bid request there are the id, the key and the time; its value is Avro, and its schema is elsewhere.
        let value = if feed == Feed::BidRequests {
            b""
        } else {
            value
        };
        found(&id, &content(key, record.timestamp, value), at);
    })?;
    Ok(())
}

fn id_of<T: serde::de::DeserializeOwned>(value: &[u8], id: fn(T) -> String) -> Option<String> {
    serde_json::from_slice(value).ok().map(id)
}

/// The first field of the datum behind the frame of a schema registry: a length, zigzag in groups of seven bits, and text.
fn bid_request_id(value: &[u8]) -> Option<String> {
    let ([0, ..], mut datum) = value.split_first_chunk::<5>()? else {
        return None;
    };
    let mut zigzag = 0_u64;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = datum.split_first()?;
        datum = rest;
        zigzag |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let length = usize::try_from(zigzag / 2)
                .ok()
                .filter(|_| zigzag.is_multiple_of(2))?;
            return String::from_utf8(datum.get(..length)?.to_vec()).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_bid_request_is_the_first_field_behind_the_frame() {
        assert_eq!(
            bid_request_id(b"\0\0\0\0\x01\x04b1rest").as_deref(),
            Some("b1")
        );
        let long = "x".repeat(100);
        let framed = [&b"\0\0\0\0\x01\xc8\x01"[..], long.as_bytes()].concat();
        assert_eq!(bid_request_id(&framed), Some(long));
        for broken in [
            &b""[..],
            b"\x01\0\0\0\x01\x02b",
            b"\0\0\0\0\x01\x04b",
            b"\0\0\0\0\x01\x03b",
        ] {
            assert_eq!(bid_request_id(broken), None, "{broken:?}");
        }
    }
}
