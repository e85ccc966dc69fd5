//! How far restores have come, for whoever wants to know.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::clock::elapsed_ms;
use crate::log::{ConsumerRecord, Offset, TopicPartition};

/// How often a restore that takes long says how far it has come.
const TELL_INTERVAL_MS: i64 = 10_000;

/// A store that is being brought up to what is committed, or a standby copy that is kept there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Name of the store.
    pub store: String,
    /// The changelog that is read.
    pub changelog: TopicPartition,
    /// Where reading began: the offset in the store's marker, or the first one of the changelog.
    pub from: Offset,
    /// Where the changelog ended when the restore began. For a copy: when the log was last asked, at the begin and every
    /// [`apply_interval`](crate::StreamsConfig::apply_interval).
    pub to: Offset,
    /// How far it has come: between `from` and `to`, or for a copy, at `from` or behind. Offsets have gaps, so this counts no
    /// records.
    pub position: Offset,
    /// Records read so far.
    pub records: u64,
    /// Their keys and values, in bytes.
    pub bytes: u64,
    /// How long it has taken, in ms.
    pub elapsed_ms: i64,
}

impl RestoreProgress {
    /// How many records are still to be read, at most: offsets have gaps.
    #[must_use]
    pub fn records_behind(&self) -> u64 {
        u64::try_from(self.to - self.position).unwrap_or(0)
    }

    /// Records a second, so far.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    pub fn records_per_second(&self) -> f64 {
        self.records as f64 * 1_000.0 / self.elapsed_ms.max(1) as f64
    }
}

/// The restores that are under way, or the copies that are kept.
#[derive(Debug)]
pub(crate) struct Restores {
    /// What is said of their begin and end, and whether they have one in sight.
    told: Told,
    under_way: Mutex<BTreeMap<TopicPartition, UnderWay>>,
    records: AtomicU64,
    bytes: AtomicU64,
    broken_off: AtomicU64,
}

/// What is told of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// They come to an end, and say now and then how far they are.
    Restores,
    /// They go on and on.
    Copies,
}

#[derive(Debug)]
struct UnderWay {
    progress: RestoreProgress,
    began_ms: i64,
    told_ms: i64,
}

impl Restores {
    pub(crate) fn new(told: Told) -> Self {
        Self {
            told,
            under_way: Mutex::default(),
            records: AtomicU64::default(),
            bytes: AtomicU64::default(),
            broken_off: AtomicU64::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, UnderWay>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(
        &self,
        store: String,
        changelog: &TopicPartition,
        offsets: Range<Offset>,
        now_ms: i64,
    ) {
        let what = self.told.begin();
        tracing::info!(store, %changelog, from = offsets.start, to = offsets.end, "{what}");
        let progress = RestoreProgress {
            store,
            changelog: changelog.clone(),
            from: offsets.start,
            to: offsets.end,
            position: offsets.start,
            records: 0,
            bytes: 0,
            elapsed_ms: 0,
        };
        let under_way = UnderWay {
            progress,
            began_ms: now_ms,
            told_ms: now_ms,
        };
        self.lock().insert(changelog.clone(), under_way);
    }

    /// These were read, and taken in.
    pub(crate) fn read(&self, changelog: &TopicPartition, records: &[ConsumerRecord]) {
        let size = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let sizes = records
            .iter()
            .map(|record| size(&record.key) + size(&record.value));
        let (records, bytes) = (records.len() as u64, sizes.sum::<usize>() as u64);
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(under_way) = self.lock().get_mut(changelog) {
            under_way.progress.records += records;
            under_way.progress.bytes += bytes;
        }
    }

    /// Records of all of them.
    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Their keys and values, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The changelog of a copy ends there now.
    pub(crate) fn ends_at(&self, changelog: &TopicPartition, end: Offset) {
        if let Some(under_way) = self.lock().get_mut(changelog) {
            under_way.progress.to = end.max(under_way.progress.position);
        }
    }

    pub(crate) fn reach(&self, changelog: &TopicPartition, position: Offset, now_ms: i64) {
        if let Some(under_way) = self.lock().get_mut(changelog) {
            let progress = &mut under_way.progress;
            match self.told {
                Told::Restores => progress.position = position.min(progress.to),
                Told::Copies => {
                    progress.position = position;
                    progress.to = progress.to.max(position);
                }
            }
            if now_ms > under_way.began_ms {
                progress.elapsed_ms = now_ms - under_way.began_ms;
            }
            let is_due = elapsed_ms(under_way.told_ms, now_ms) >= TELL_INTERVAL_MS;
            if is_due && self.told == Told::Restores {
                under_way.told_ms = now_ms;
                tell(progress, self.told.begin());
            }
        }
    }

    pub(crate) fn end(&self, changelog: &TopicPartition) {
        if let Some(under_way) = self.lock().remove(changelog) {
            tell(&under_way.progress, self.told.end());
        }
    }

    /// A restore was given up before its end.
    pub(crate) fn broken_off(&self) {
        self.broken_off.fetch_add(1, Ordering::Relaxed);
    }

    /// How many restores of tasks were given up before their end.
    pub(crate) fn count_broken_off(&self) -> u64 {
        self.broken_off.load(Ordering::Relaxed)
    }

    pub(crate) fn under_way(&self) -> Vec<RestoreProgress> {
        let under_way = self.lock();
        under_way.values().map(|u| u.progress.clone()).collect()
    }
}

impl Told {
    fn begin(self) -> &'static str {
        match self {
            Self::Restores => "restoring",
            Self::Copies => "keeping a copy",
        }
    }

    fn end(self) -> &'static str {
        match self {
            Self::Restores => "no longer restoring",
            Self::Copies => "no longer keeping a copy",
        }
    }
}

fn tell(progress: &RestoreProgress, what: &str) {
    let RestoreProgress {
        store,
        changelog,
        from,
        to,
        position,
        records,
        bytes,
        elapsed_ms,
    } = progress;
    let per_second = progress.records_per_second();
    tracing::info!(store, %changelog, from, to, position, records, bytes, elapsed_ms, per_second, "{what}");
}
