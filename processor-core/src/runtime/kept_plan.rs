//! The plan that an application runs by, kept on the log, and the gate that a start passes with another one.
//!
//! ```text
//!  <application>-plan   one partition, compacted; key "plan", value JSON: plan, resets, retired
//!  <state>/plan.json    the same, for a log that has lost the topic
//! ```
//! The record is part of the first transaction of a thread that starts with a plan of its own, so it says what the last
//! committed run was, and an instance without a volume finds it. A start compares (`plan::diff`) and refuses what is
//! unsafe; nothing has been touched then. A store that is reset is emptied here, before any thread starts: its changelog
//! is deleted, and its **count of resets** goes up, which is part of its [layout](layout), so that rows which other
//! instances have on disk are not taken for the new ones. Resets are sequenced by a transactional id of their own: of two
//! instances that start at once, one is fenced and looks again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::clock::{Clock, Deadline, SystemClock};
use crate::config::StreamsConfig;
use crate::log::{
    Consumer, ConsumerConfig, ErrorClass, Isolation, Log, LogError, OffsetReset, Polled, Producer,
    ProducerConfig, ProducerRecord, TopicPartition,
};
use crate::plan::diff::{Change, Subject, Verdict, compare};
use crate::plan::{APPLICATION, TopologyPlan};
use crate::topology::StoreKind;

use super::{StreamsError, changelog};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Key of the one record.
pub(crate) const KEY: &[u8] = b"plan";

/// Name of the topic that keeps the plan.
pub(crate) fn plan_topic(application_id: &str) -> String {
    format!("{application_id}-plan")
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// With the partitions that topics had.
    pub plan: TopologyPlan,
    /// How often stores were reset.
    #[serde(default)]
    pub resets: BTreeMap<String, u32>,
    /// Stores of earlier plans, whose changelogs may still be there.
    #[serde(default)]
    pub retired: BTreeSet<String>,
}

/// What a start may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Passed {
    /// What is to be kept from now on; the same as before where nothing changed.
    pub kept: Kept,
    /// Whether it differs from what was kept.
    pub changed: bool,
    /// Stores to empty first.
    pub reset: Vec<String>,
}

/// Decides whether an application with `kept` may start with `now`. `accepted` names stores that may be emptied, and
/// `drained` says of an internal topic of the old plan whether it was read to its end.
///
/// # Errors
/// With what cannot be, a sentence for each change.
pub(crate) fn decide(
    kept: Option<Kept>,
    now: TopologyPlan,
    accepted: &[String],
    drained: &BTreeSet<String>,
) -> Result<Passed, Vec<String>> {
    let Some(kept) = kept else {
        let kept = Kept {
            plan: now,
            resets: BTreeMap::new(),
            retired: BTreeSet::new(),
        };
        return Ok(Passed {
            kept,
            changed: true,
            reset: Vec::new(),
        });
    };
    let mut refused = Vec::new();
    let mut reset = Vec::new();
    for change in changes(&kept, &now) {
        match (&change.verdict, &change.subject) {
            (Verdict::Safe, _) => {}
            (Verdict::Reset, Subject::Store(store)) if accepted.contains(store) => {
                reset.push(store.clone());
            }
            (Verdict::Drain, Subject::Topic(topic)) if drained.contains(topic) => {}
            _ => refused.push(change.to_string()),
        }
    }
    if !refused.is_empty() {
        return Err(refused);
    }
    let changed = kept.plan != now;
    let mut resets = kept.resets;
    for store in &reset {
        *resets.entry(store.clone()).or_default() += 1;
    }
    let before = kept.plan.stores.into_iter().map(|store| store.name);
    let mut retired: BTreeSet<String> = kept.retired.into_iter().chain(before).collect();
    retired.retain(|store| now.store(store).is_none());
    Ok(Passed {
        kept: Kept {
            plan: now,
            resets,
            retired,
        },
        changed,
        reset,
    })
}

/// What changes, with what only the history of plans knows: a store that comes back finds what it left.
fn changes(kept: &Kept, now: &TopologyPlan) -> Vec<Change> {
    let mut changes = compare(&kept.plan, now).changes;
    for change in &mut changes {
        if let Subject::Store(store) = &change.subject
            && kept.retired.contains(store)
            // One that is rebuilt from its topic has missed nothing.
            && !now.store(store).is_some_and(|store| now.is_read_back(store))
        {
            change.verdict = Verdict::Reset;
            change.what = "is back".to_owned();
            change.reason =
                "its changelog has its rows as they were when it was last part of the topology, and it has missed what was read since"
                    .to_owned();
            change.advice = Some(format!(
                "give it another name, or have it start empty: `accept_reset(\"{store}\")`"
            ));
        }
    }
    changes
}

/// Internal topics whose records the new plan could lose.
fn to_drain(kept: &Kept, now: &TopologyPlan) -> Vec<String> {
    let changes = compare(&kept.plan, now).changes.into_iter();
    changes
        .filter(|change| change.verdict == Verdict::Drain)
        .filter_map(|change| match change.subject {
            Subject::Topic(topic) => Some(topic),
            _ => None,
        })
        .collect()
}

/// What the rows of a store on disk must have been written as to be taken for those of this one.
pub(crate) fn layout(name: &str, kind: StoreKind, changelog: &str, resets: u32) -> u64 {
    xxh3_64(format!("{name}:{kind:?}:{changelog}:{resets}").as_bytes())
}

/// The gate.
pub(crate) struct Gate<'a> {
    pub log: &'a dyn Log,
    pub config: &'a StreamsConfig,
    pub clock: &'a dyn Clock,
}

impl Gate<'_> {
    /// Lets an application with the plan `now` pass, after the resets that it was allowed.
    ///
    /// # Errors
    /// [`StreamsError::UnsafeChanges`], or when the log does not answer.
    pub(crate) fn pass(&self, now: &TopologyPlan) -> Result<Passed, StreamsError> {
        let passed = self.decide(now)?;
        if passed.reset.is_empty() {
            return Ok(passed);
        }
        let deadline = Deadline::after(TIMEOUT);
        loop {
            match self.reset(now) {
                Err(StreamsError::Log(error))
                    if error.class == ErrorClass::Fenced && !deadline.passed() =>
                {
                    tracing::info!(
                        "another instance resets stores at the same time; looking again"
                    );
                }
                result => return result,
            }
        }
    }

    fn decide(&self, now: &TopologyPlan) -> Result<Passed, StreamsError> {
        let kept = match self.kept_on_log()? {
            Some(kept) => Some(kept),
            None => self.kept_in_directory()?,
        };
        let mut drained = BTreeSet::new();
        if let Some(kept) = &kept {
            for topic in to_drain(kept, now) {
                if self.is_drained(&topic)? {
                    drained.insert(topic);
                }
            }
        }
        let application_id = &self.config.application_id;
        decide(kept, now.clone(), &self.config.accept_reset, &drained).map_err(|changes| {
            let resolve = |change: String| change.replace(APPLICATION, application_id);
            StreamsError::UnsafeChanges {
                application_id: application_id.clone(),
                changes: changes.into_iter().map(resolve).collect(),
            }
        })
    }

    /// Empties stores and keeps the new plan, alone: whoever else does so is fenced, or fences this instance.
    fn reset(&self, now: &TopologyPlan) -> Result<Passed, StreamsError> {
        let topic = plan_topic(&self.config.application_id);
        let timeout = self.config.transaction_timeout;
        let mut producer = self.log.producer(ProducerConfig {
            transactional_id: Some(topic.clone()),
            transaction_timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            ..Default::default()
        })?;
        let deadline = Deadline::after(timeout + TIMEOUT);
        loop {
            match producer.init_transactions(TIMEOUT) {
                Err(error) if error.class == ErrorClass::Retriable && !deadline.passed() => {
                    SystemClock.pass(Duration::from_millis(100));
                }
                result => break result?,
            }
        }
        // IMPORTANT: after the others are fenced, since one of them may have been through by now.
        let mut passed = self.decide(now)?;
        if passed.reset.is_empty() {
            return Ok(passed);
        }
        producer.begin_transaction()?;
        for store in &passed.reset {
            tracing::warn!(
                store,
                "the store is reset, as its change was accepted: its changelog is deleted"
            );
            self.delete(&changelog(&self.config.application_id, store))?;
        }
        let value = encoded(&passed.kept);
        producer.send(ProducerRecord {
            topic: &topic,
            partition: 0,
            timestamp: self.clock.now_ms(),
            key: Some(KEY),
            value: Some(&value),
            headers: &[],
        })?;
        producer.begin_commit(Vec::new(), None)?;
        await_commit(&mut *producer)?;
        passed.changed = false;
        keep_in_directory(self.config.state_dir.as_deref(), &value);
        Ok(passed)
    }

    /// Deletes a topic and waits until it is gone, so that it is made again and not found.
    fn delete(&self, topic: &str) -> Result<(), StreamsError> {
        self.log.delete_topics(&[topic])?;
        let deadline = Deadline::after(TIMEOUT);
        while self.log.partitions(topic)?.is_some() {
            if deadline.passed() {
                let what = format!("topic {topic} is still there {TIMEOUT:?} after it was deleted");
                return Err(LogError::fatal(what).into());
            }
            SystemClock.pass(Duration::from_millis(50));
        }
        Ok(())
    }

    fn kept_on_log(&self) -> Result<Option<Kept>, StreamsError> {
        let topic = plan_topic(&self.config.application_id);
        if self.log.partitions(&topic)?.is_none() {
            return Ok(None);
        }
        let partition = TopicPartition::new(topic.as_str(), 0);
        let mut consumer = self.log.consumer(ConsumerConfig {
            reset: OffsetReset::Earliest,
            ..Default::default()
        })?;
        let begin = consumer.beginning_offset(&partition, TIMEOUT)?;
        let end = consumer.end_offset(&partition, Isolation::ReadCommitted, TIMEOUT)?;
        let mut last = None;
        if begin < end {
            last = last_value(&mut *consumer, &partition, begin, end)?;
        }
        consumer.close();
        let Some(value) = last else {
            return Ok(None);
        };
        decoded(&value, &topic).map(Some)
    }

    fn kept_in_directory(&self) -> Result<Option<Kept>, StreamsError> {
        let Some(path) = self.config.state_dir.as_deref().map(file) else {
            return Ok(None);
        };
        match std::fs::read(&path) {
            Ok(value) => decoded(&value, &path.display().to_string()).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StreamsError::Directory { path, source }),
        }
    }

    /// Whether the group has read the internal topic `topic` of a plan to its end.
    fn is_drained(&self, topic: &str) -> Result<bool, StreamsError> {
        let topic = topic.replace(APPLICATION, &self.config.application_id);
        let partitions = self.log.partitions(&topic)?.unwrap_or(0);
        let partitions: Vec<TopicPartition> = (0..partitions)
            .map(|partition| TopicPartition::new(topic.as_str(), partition))
            .collect();
        if partitions.is_empty() {
            return Ok(true);
        }
        let consumer = self.log.consumer(ConsumerConfig {
            group: Some(self.config.application_id.clone()),
            ..Default::default()
        })?;
        let committed = consumer.committed(&partitions, TIMEOUT)?;
        let mut is_drained = true;
        for (partition, committed) in partitions.iter().zip(committed) {
            let begin = consumer.beginning_offset(partition, TIMEOUT)?;
            let end = consumer.end_offset(partition, Isolation::ReadUncommitted, TIMEOUT)?;
            let read = committed.map_or(begin, |committed| committed.offset);
            is_drained &= read >= end;
        }
        consumer.close();
        Ok(is_drained)
    }
}

/// The value of the last record with the key.
fn last_value(
    consumer: &mut dyn Consumer,
    partition: &TopicPartition,
    begin: i64,
    end: i64,
) -> Result<Option<Vec<u8>>, StreamsError> {
    consumer.assign(&[(partition.clone(), Some(begin))])?;
    let deadline = Deadline::after(TIMEOUT);
    let mut last = None;
    while consumer.position(partition)?.unwrap_or(begin) < end {
        if deadline.passed() {
            let what = format!("{partition} could not be read to offset {end} in {TIMEOUT:?}");
            return Err(LogError::fatal(what).into());
        }
        if let Polled::Records(batches) = consumer.poll(Duration::from_millis(100))? {
            let records = batches.into_iter().flat_map(|batch| batch.records);
            for record in records.filter(|record| record.key.as_deref() == Some(KEY)) {
                last = record.value.map(|value| value.to_vec());
            }
        }
    }
    Ok(last)
}

fn await_commit(producer: &mut dyn Producer) -> Result<(), StreamsError> {
    let deadline = Deadline::after(TIMEOUT);
    while producer.poll_commit(Duration::from_millis(100))?.is_none() {
        if deadline.passed() {
            let what = format!("the new plan could not be committed in {TIMEOUT:?}; start again");
            return Err(LogError::fatal(what).into());
        }
    }
    Ok(())
}

/// The stored form.
pub(crate) fn encoded(kept: &Kept) -> Vec<u8> {
    serde_json::to_vec(kept).expect("a plan has text keys and whole numbers only")
}

fn decoded(value: &[u8], place: &str) -> Result<Kept, StreamsError> {
    serde_json::from_slice(value).map_err(|source| StreamsError::KeptPlan {
        place: place.to_owned(),
        source,
    })
}

fn file(directory: &Path) -> PathBuf {
    directory.join("plan.json")
}

/// Keeps what is committed beside the stores. Without it a start still has the log's copy.
pub(crate) fn keep_in_directory(directory: Option<&Path>, value: &[u8]) {
    let Some(path) = directory.map(file) else {
        return;
    };
    let beside = path.with_extension("json.new");
    let written = std::fs::write(&beside, value).and_then(|()| std::fs::rename(&beside, &path));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "the plan could not be kept beside the stores");
    }
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_any(bytes: &[u8]) {
    const PLACE: &str = "topic fuzzed-plan";
    let kept = match decoded(bytes, PLACE) {
        Ok(kept) => kept,
        Err(error) => return assert!(error.to_string().contains(PLACE), "{error}"),
    };
    assert_eq!(decoded(&encoded(&kept), PLACE).ok().as_ref(), Some(&kept));
    let same = kept.plan.clone();
    let mut other = same.clone();
    other.stores.pop();
    other.topics.pop();
    other.sub_topologies.pop();
    let _ = decide(Some(kept.clone()), other.clone(), &[], &BTreeSet::new());
    let _ = decide(
        Some(Kept {
            plan: other,
            ..kept
        }),
        same,
        &[],
        &BTreeSet::new(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsl::{Consumed, StreamsBuilder};
    use crate::serde::{int64, utf8};

    fn counting(stores: &[&str]) -> TopologyPlan {
        let builder = StreamsBuilder::new("words");
        let words = builder.stream("words", Consumed::new(utf8(), int64()));
        for store in stores {
            words.group_by_key().count(store);
        }
        builder.build().unwrap().plan()
    }

    fn table() -> TopologyPlan {
        let builder = StreamsBuilder::new("words");
        builder.table("words", "counts", Consumed::new(utf8(), int64()));
        builder.build().unwrap().plan()
    }

    fn decide_on(
        kept: Option<Kept>,
        now: TopologyPlan,
        accepted: &[&str],
    ) -> Result<Passed, Vec<String>> {
        let accepted: Vec<String> = accepted.iter().map(|name| (*name).to_owned()).collect();
        decide(kept, now, &accepted, &BTreeSet::new())
    }

    #[test]
    fn the_first_plan_and_the_same_one_again_pass() {
        let first = decide_on(None, counting(&["counts"]), &[]).unwrap();
        assert!(first.changed && first.reset.is_empty());
        let again = decide_on(Some(first.kept.clone()), counting(&["counts"]), &[]).unwrap();
        assert!(!again.changed);
        assert_eq!(again.kept, first.kept);
    }

    #[test]
    fn an_unsafe_change_is_refused_until_its_reset_is_accepted_and_counted_then() {
        let kept = decide_on(None, counting(&["counts"]), &[]).unwrap().kept;
        let refused = decide_on(Some(kept.clone()), table(), &["other"]).unwrap_err();
        assert_eq!(refused.len(), 1, "{refused:?}");
        let passed = decide_on(Some(kept), table(), &["counts"]).unwrap();
        assert_eq!(passed.reset, ["counts"]);
        assert_eq!(passed.kept.resets["counts"], 1);
        let back = decide_on(Some(passed.kept), counting(&["counts"]), &["counts"]).unwrap();
        assert_eq!(back.kept.resets["counts"], 2);
    }

    #[test]
    fn what_is_accepted_and_does_not_change_is_not_reset() {
        let kept = decide_on(None, counting(&["counts"]), &[]).unwrap().kept;
        let passed = decide_on(
            Some(kept),
            counting(&["counts", "more"]),
            &["counts", "more"],
        );
        assert_eq!(passed.unwrap().reset, [""; 0]);
    }

    #[test]
    fn a_store_that_comes_back_finds_old_rows_and_is_refused() {
        let kept = decide_on(None, counting(&["counts", "more"]), &[])
            .unwrap()
            .kept;
        let without = decide_on(Some(kept), counting(&["counts"]), &[])
            .unwrap()
            .kept;
        assert_eq!(without.retired, BTreeSet::from(["more".to_owned()]));
        let refused = decide_on(Some(without.clone()), counting(&["counts", "more"]), &[]);
        assert!(refused.unwrap_err()[0].starts_with("store 'more' is back: "));
        let passed = decide_on(Some(without), counting(&["counts", "more"]), &["more"]).unwrap();
        assert_eq!(
            (passed.reset, passed.kept.retired),
            (vec!["more".to_owned()], BTreeSet::new())
        );
    }

    #[test]
    fn a_layout_is_that_of_name_kind_changelog_and_resets() {
        let kind = StoreKind::KeyValue;
        let known = layout("counts", kind, "app-counts-changelog", 0);
        let window = StoreKind::Window { retention_ms: 1 };
        for other in [
            layout("count", kind, "app-counts-changelog", 0),
            layout("counts", window, "app-counts-changelog", 0),
            layout("counts", kind, "counts", 0),
            layout("counts", kind, "app-counts-changelog", 1),
        ] {
            assert_ne!(known, other);
        }
    }
}
