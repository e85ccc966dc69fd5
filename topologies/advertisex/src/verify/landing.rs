//! Landing files, read once more: which bucket each line belongs to, by the definitions.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use events::Feed;
use events::landing::{self, LandingFile, LandingRecord};
use events::reference::in_campaign;
use ingest::{FileReport, LandingObject};
use xxhash_rust::xxh3::xxh3_128;

use super::Part;

/// The rules that decide.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// How far below the largest timestamp before it in its feed a record may be, in ms.
    pub grace_ms: i64,
    /// How long an id is remembered, in ms of the feed's time.
    pub id_ttl_ms: i64,
}

/// What a line is.
pub(super) enum Verdict<'a> {
    /// It goes on.
    Valid(&'a LandingRecord),
    /// It is kept aside, for this rule.
    Quarantined(&'static str),
    /// It is counted only.
    Counted,
}

/// Campaigns by creative.
pub(super) type Creatives = HashMap<String, String>;

pub(super) fn creatives(root: &Path) -> io::Result<Creatives> {
    let rows = landing::creatives(root).map_err(io::Error::other)?;
    let pair = |row: events::Creative| (row.creative_id, row.campaign_id);
    Ok(rows.into_iter().map(pair).collect())
}

/// The files of a feed in the order in which they were announced.
pub(super) struct FeedFiles<'a> {
    pub root: &'a Path,
    pub objects: &'a [LandingObject],
    pub creatives: &'a Creatives,
    pub rules: Rules,
}

impl FeedFiles<'_> {
    /// Reads the lines whose ids are in `part`, and all those without, in the first part. What became of the files is
    /// added to `reports`, and why they cannot be verified to `refused`.
    pub(super) fn read(
        &self,
        part: Part,
        reports: &mut HashMap<String, FileReport>,
        refused: &mut Vec<String>,
        visit: &mut dyn FnMut(&str, u64, Verdict<'_>),
    ) {
        let mut ids = Ids::new(self.rules.id_ttl_ms);
        let mut latest: Option<i64> = None;
        for object in self.objects {
            let path = &object.path;
            let report = reports.entry(path.clone()).or_default();
            if landing::etag(self.root, path) != object.etag {
                refused.push(format!(
                    "{path} is gone or has changed since it was announced"
                ));
                continue;
            }
            let mut file = match LandingFile::open(self.root, path) {
                Ok(file) => file,
                Err(error) => {
                    report.file_error = Some(error.reason);
                    continue;
                }
            };
            loop {
                let line = match file.next_line() {
                    Ok(Some(line)) => line,
                    Ok(None) => break,
                    Err(error) => {
                        report.file_error = Some(error.reason);
                        break;
                    }
                };
                let record = match line.outcome {
                    Ok(record) => in_campaign(record, self.creatives).ok_or("dim_missing"),
                    Err(rejection) => Err(rejection.rule),
                };
                let record = match record {
                    Ok(record) => record,
                    Err(rule) => {
                        if part.number == 0 {
                            report.lines += 1;
                            report.quarantined += 1;
                            visit(path, line.number, Verdict::Quarantined(rule));
                        }
                        continue;
                    }
                };
                let (before, timestamp) = (latest, record.timestamp());
                let read_at = before.map_or(timestamp, |before| before.max(timestamp));
                latest = Some(read_at);
                if !part.holds(record.id().as_bytes()) {
                    ids.pass(read_at);
                    continue;
                }
                report.lines += 1;
                let floor = before.map(|before| before.saturating_sub(self.rules.grace_ms));
                if !ids.is_first(record.id(), read_at) {
                    report.duplicate += 1;
                    visit(path, line.number, Verdict::Counted);
                } else if floor.is_some_and(|floor| timestamp < floor) {
                    report.late += 1;
                    visit(path, line.number, Verdict::Counted);
                } else {
                    report.valid += 1;
                    visit(path, line.number, Verdict::Valid(&record));
                }
            }
        }
    }
}

/// The ids that a feed has brought, for as long as they are remembered.
struct Ids {
    ttl_ms: i64,
    /// When each was read, in the feed's time.
    read_at: HashMap<u128, i64>,
    /// The latest of them.
    latest: i64,
    /// How many there may be before those that are forgotten are looked for.
    sweep_at: usize,
}

impl Ids {
    fn new(ttl_ms: i64) -> Self {
        Self {
            ttl_ms,
            read_at: HashMap::new(),
            latest: i64::MIN,
            sweep_at: 1 << 16,
        }
    }

    fn horizon(&self) -> i64 {
        self.latest.saturating_sub(self.ttl_ms)
    }

    /// Whether an id comes the first time, as far as is remembered.
    fn is_first(&mut self, id: &str, read_at: i64) -> bool {
        let horizon = self.horizon();
        let hash = xxh3_128(id.as_bytes());
        if self.read_at.get(&hash).is_some_and(|at| *at >= horizon) {
            return false;
        }
        self.pass(read_at);
        self.read_at.insert(hash, read_at);
        true
    }

    /// An id that is looked at in another part, and moves the time all the same.
    fn pass(&mut self, read_at: i64) {
        self.latest = self.latest.max(read_at);
        if self.read_at.len() >= self.sweep_at {
            let horizon = self.horizon();
            self.read_at.retain(|_, at| *at >= horizon);
            self.sweep_at = (2 * self.read_at.len()).max(1 << 16);
        }
    }
}

/// The first announcement of each path counts, and one that could be read before one that could not.
pub(super) fn of_feed(objects: &[LandingObject], feed: Feed) -> Vec<LandingObject> {
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut counting: Vec<Option<&LandingObject>> = Vec::new();
    for object in objects.iter().filter(|object| object.feed == feed) {
        if let Some(at) = known.get(&*object.path).copied() {
            // One that could not be read was read where it was announced again.
            if counting[at].is_some_and(|before| before.etag != landing::UNREADABLE) {
                continue;
            }
            counting[at] = None;
        }
        known.insert(&object.path, counting.len());
        counting.push(Some(object));
    }
    counting.into_iter().flatten().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_remembered_for_its_time_and_not_longer() {
        let mut ids = Ids::new(100);
        assert!(ids.is_first("a", 1_000));
        assert!(!ids.is_first("a", 1_050));
        assert!(ids.is_first("b", 1_100));
        assert!(!ids.is_first("a", 1_100), "read 100 ms ago");
        assert!(ids.is_first("c", 1_101));
        assert!(ids.is_first("a", 1_101), "forgotten");
    }
}
