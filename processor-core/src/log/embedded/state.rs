//! Everything the log knows, behind one lock: pure state transitions, with the time passed in and no waiting.
//!
//! Clients in `consumer` and `producer` take the lock, call one of these, and wait outside if they must. That makes
//! any interleaving of calls a sequence of transitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Options;
use super::directory::Directory;
use super::group::{Group, Identity, MemberId, TopicSizes};
use super::journal::{Entry, Journal, rows};
use super::partition::Partition;
use super::transactions::Transactions;
use crate::log::{CommittedOffset, LogError, NewTopic, TopicPartition};

/// Handle of a partition; never used again after its topic is deleted.
pub(super) type PartitionId = usize;

/// A topic and its partitions.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) config: NewTopic,
    pub(super) partitions: Vec<PartitionId>,
}

/// Where a durable log is kept.
#[derive(Debug)]
pub(super) struct Storage {
    pub(super) directory: Directory,
    pub(super) journal: Journal,
}

/// The state of a log.
pub(super) struct State {
    pub(super) options: Options,
    pub(super) topics: BTreeMap<Arc<str>, Topic>,
    pub(super) partitions: Vec<Option<Partition>>,
    pub(super) groups: BTreeMap<Arc<str>, Group>,
    pub(super) transactions: Transactions,
    /// `None` in memory.
    pub(super) storage: Option<Storage>,
    next_member: MemberId,
    /// Partitions that started a new file and may be worth cleaning.
    pub(super) rolled: Vec<PartitionId>,
    /// Threads that wait for a change.
    pub(super) waiting: usize,
}

impl State {
    pub(super) fn in_memory(options: Options) -> Self {
        Self {
            options,
            topics: BTreeMap::new(),
            partitions: Vec::new(),
            groups: BTreeMap::new(),
            transactions: Transactions::default(),
            storage: None,
            next_member: 1,
            rolled: Vec::new(),
            waiting: 0,
        }
    }

    /// What the passing of time does: transactions time out, sessions expire. True when something changed.
    pub(super) fn tick(&mut self, now_ms: i64) -> bool {
        self.write_due_markers();
        let timed_out = self.abort_timed_out(now_ms);
        let oldest_ms = now_ms.saturating_sub(self.options.session_timeout_ms());
        let mut expired = false;
        for group in self.groups.values_mut() {
            if group.any_unseen_since(oldest_ms) {
                group.expire(oldest_ms, &sizes(&self.topics));
                expired = true;
            }
        }
        timed_out || expired
    }

    pub(super) fn create_topics(&mut self, topics: &[NewTopic]) -> Result<(), LogError> {
        for new in topics {
            check_name(&new.name)?;
            if new.partitions < 1 {
                return Err(LogError::fatal(format!(
                    "topic `{}` needs at least one partition, not {}",
                    new.name, new.partitions
                )));
            }
            if let Some(old) = self.topics.get(new.name.as_str())
                && old.config.partitions != new.partitions
            {
                return Err(LogError::fatal(format!(
                    "topic `{}` exists with {} partitions, not {}; delete it or ask for as many",
                    new.name, old.config.partitions, new.partitions
                )));
            }
        }
        for new in topics {
            if !self.topics.contains_key(new.name.as_str()) {
                self.create_topic(new)?;
            }
        }
        Ok(())
    }

    fn create_topic(&mut self, new: &NewTopic) -> Result<(), LogError> {
        let name: Arc<str> = new.name.as_str().into();
        // A deletion may have failed to say so, and the journal knew more of the namesake than this topic has.
        self.record(&Entry::Forget {
            topic: new.name.clone(),
        })?;
        if let Some(storage) = &self.storage {
            storage.directory.remove_topic(&name)?;
        }
        let mut partitions = Vec::new();
        for number in 0..new.partitions {
            let tp = TopicPartition::new(name.clone(), number);
            partitions.push(Some(match &self.storage {
                None => Partition::in_memory(tp),
                Some(storage) => {
                    let dir = storage.directory.partition(&name, number);
                    Partition::create(tp, dir, self.options.limits())?
                }
            }));
        }
        if let Some(storage) = &self.storage {
            partitions
                .iter_mut()
                .flatten()
                .try_for_each(Partition::sync)?;
            storage.directory.force_topic(&name)?;
            let known = self.topics.values().map(|topic| &topic.config);
            storage.directory.write_topics(known.chain([new]))?;
        }
        let first = self.partitions.len();
        self.partitions.extend(partitions);
        let topic = Topic {
            config: new.clone(),
            partitions: (first..self.partitions.len()).collect(),
        };
        self.topics.insert(name.clone(), topic);
        self.topic_changed(&name);
        Ok(())
    }

    pub(super) fn delete_topic(&mut self, name: &str) -> Result<(), LogError> {
        if !self.topics.contains_key(name) {
            return Ok(());
        }
        if let Some(storage) = &mut self.storage {
            let left = self.topics.values().map(|topic| &topic.config);
            storage
                .directory
                .write_topics(left.filter(|config| config.name != name))?;
        }
        let topic = self.topics.remove(name).expect("checked above");
        for id in topic.partitions {
            self.partitions[id] = None;
            self.transactions.forget_partition(id);
        }
        for group in self.groups.values_mut() {
            group.forget_topic(name);
        }
        self.topic_changed(name);
        self.record(&Entry::Forget {
            topic: name.to_owned(),
        })?;
        match &self.storage {
            Some(storage) => storage.directory.remove_topic(name),
            None => Ok(()),
        }
    }

    /// Writes a journal entry, if there is a journal.
    pub(super) fn record(&mut self, entry: &Entry) -> Result<(), LogError> {
        let sync = self.options.sync;
        match &mut self.storage {
            Some(storage) => storage.journal.append(entry, sync),
            None => Ok(()),
        }
    }

    /// Compacts the journal when that pays. A failure is no harm: the journal goes on growing.
    pub(super) fn compact_journal(&mut self) {
        let large = self.storage.as_ref().is_some_and(|s| s.journal.is_large());
        if large && let Err(error) = self.snapshot() {
            tracing::warn!(%error, "journal not compacted");
        }
    }

    fn topic_changed(&mut self, name: &str) {
        let sizes = sizes(&self.topics);
        for group in self.groups.values_mut() {
            group.topic_changed(name, &sizes);
        }
    }

    /// The handle of a partition.
    pub(super) fn find(&self, topic: &str, partition: i32) -> Result<PartitionId, LogError> {
        let Some(known) = self.topics.get(topic) else {
            return Err(LogError::fatal(format!(
                "there is no topic `{topic}`; create it first"
            )));
        };
        usize::try_from(partition)
            .ok()
            .and_then(|p| known.partitions.get(p).copied())
            .ok_or_else(|| {
                LogError::fatal(format!(
                    "topic `{topic}` has {} partitions, there is no partition {partition}",
                    known.partitions.len()
                ))
            })
    }

    /// The partition behind a handle, `None` once its topic is deleted.
    pub(super) fn partition(&self, id: PartitionId) -> Option<&Partition> {
        self.partitions[id].as_ref()
    }

    pub(super) fn partition_mut(&mut self, id: PartitionId) -> Option<&mut Partition> {
        self.partitions[id].as_mut()
    }

    /// The group called `name`, made when it is new, and the sizes of all topics.
    pub(super) fn group(&mut self, name: &Arc<str>) -> (&mut Group, TopicSizes) {
        let sizes = sizes(&self.topics);
        let group = self
            .groups
            .entry(name.clone())
            .or_insert_with(|| Group::new(name.clone()));
        (group, sizes)
    }

    /// Commits offsets outside a transaction.
    pub(super) fn commit_offsets(
        &mut self,
        identity: &Identity,
        offsets: &[(TopicPartition, CommittedOffset)],
    ) -> Result<(), LogError> {
        let (group, _) = self.group(&identity.group);
        group.check(identity)?;
        self.record(&Entry::Offsets {
            group: identity.group.to_string(),
            offsets: rows(offsets.iter().map(|(tp, offset)| (tp, offset))),
        })?;
        self.group(&identity.group)
            .0
            .commit(offsets.iter().cloned());
        self.compact_journal();
        Ok(())
    }

    pub(super) fn new_member(&mut self) -> MemberId {
        self.next_member += 1;
        self.next_member - 1
    }
}

fn sizes(topics: &BTreeMap<Arc<str>, Topic>) -> TopicSizes {
    topics
        .iter()
        .map(|(name, topic)| (name.clone(), topic.config.partitions))
        .collect()
}

/// Kafka's rule for topic names, which also makes them good directory names.
pub(super) fn check_name(name: &str) -> Result<(), LogError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 249 || matches!(name, "." | "..") || !name.chars().all(legal)
    {
        return Err(LogError::fatal(format!(
            "`{name}` is no topic name: 1 to 249 of a-z A-Z 0-9 . _ -, and neither `.` nor `..`"
        )));
    }
    Ok(())
}
