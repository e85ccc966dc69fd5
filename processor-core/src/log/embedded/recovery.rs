//! Opening a durable log: reads the journal, walks the partitions, and ends every transaction the last process left
//! without a marker, as the journal decided.
//!
//! **Torn or damaged.** What a killed process leaves, the beginning of a last write, is cut off. What it cannot leave is
//! an error that names the file and changes nothing: a batch or an entry that is none with something behind it, a file
//! that is missing (`segments.rs`, `directory.rs`), a partition that ends before the journal says. Not noticed is a
//! missing file that compaction had been through, with such files on both sides, or the first ones of a topic with a
//! retention; nor, before it is read, another bit in the records of a batch far from the end.

use std::path::Path;
use std::sync::Arc;

use super::Options;
use super::batch::Kind;
use super::directory::Directory;
use super::files::RESTORE;
use super::group::Group;
use super::journal::{Entry, Journal, Replayed, rows};
use super::partition::Partition;
use super::state::{State, Storage, Topic};
use super::transactions::DueMarker;
use crate::log::{Isolation, LogError, NewTopic, TopicPartition};

impl State {
    /// The log in `root`, made if it is missing.
    pub(super) fn open(root: &Path, options: Options) -> Result<Self, LogError> {
        let directory = Directory::lock(root)?;
        let topics = directory.read_topics()?;
        let (journal, replayed) = Journal::open(directory.journal())?;
        if !topics.is_empty() {
            journal.check_there()?;
        }
        let mut state = Self::in_memory(options);
        for topic in topics {
            state.open_topic(&directory, topic, &replayed)?;
        }
        state.check_nothing_is_missing(&replayed)?;
        state.storage = Some(Storage { directory, journal });
        state.settle(&replayed);
        state.restore(replayed);
        state.write_due_markers();
        state.snapshot()?;
        Ok(state)
    }

    fn open_topic(
        &mut self,
        directory: &Directory,
        config: NewTopic,
        replayed: &Replayed,
    ) -> Result<(), LogError> {
        let name: Arc<str> = config.name.as_str().into();
        let first = self.partitions.len();
        for number in 0..config.partitions {
            let partition = Partition::open(
                TopicPartition::new(name.clone(), number),
                directory.partition(&name, number),
                self.options.limits(),
                replayed,
            )?;
            if partition.start() > 0 && config.retention_ms.is_none() {
                return Err(LogError::fatal(format!(
                    "{} begins at offset {}, although nothing is ever removed from it: its first file is missing; {RESTORE}",
                    directory.partition(&name, number).display(),
                    partition.start()
                )));
            }
            self.partitions.push(Some(partition));
        }
        let partitions = (first..self.partitions.len()).collect();
        self.topics.insert(name, Topic { config, partitions });
        Ok(())
    }

    /// A killed process cannot lose what it wrote; a machine that lost power can, and so can whoever handles the files.
    fn check_nothing_is_missing(&self, replayed: &Replayed) -> Result<(), LogError> {
        for (tp, known) in &replayed.ends {
            let partition = self.find(&tp.topic, tp.partition).ok();
            let end = partition
                .and_then(|id| self.partition(id))
                .map(|partition| partition.end(Isolation::ReadUncommitted));
            if let Some(end) = end
                && end < *known
            {
                return Err(LogError::fatal(format!(
                    "{tp} ends at offset {end}, but the journal knows of records up to {known}: a file is missing or \
                     cut, or the machine lost power, which `sync` would survive; {RESTORE}"
                )));
            }
        }
        Ok(())
    }

    /// Makes the missing markers due.
    fn settle(&mut self, replayed: &Replayed) {
        let mut next = replayed.next_transaction;
        for (id, partition) in self.partitions.iter().enumerate() {
            let partition = partition.as_ref().expect("just opened");
            next = next.max(partition.greatest_transaction() + 1);
            for transaction in partition.open_transactions() {
                let committed = replayed.committed.contains(&transaction);
                let kind = if committed { Kind::Commit } else { Kind::Abort };
                tracing::info!(partition = %partition.name(), transaction, ?kind, "transaction of the last run ended");
                self.transactions.due.push(DueMarker {
                    partition: id,
                    transaction,
                    kind,
                });
            }
        }
        self.transactions.next = next;
    }

    fn restore(&mut self, replayed: Replayed) {
        for (id, epoch) in replayed.epochs {
            self.transactions.restore(id.into(), epoch);
        }
        for (name, offsets) in replayed.offsets {
            let name: Arc<str> = name.into();
            let mut group = Group::new(name.clone());
            let topics = &self.topics;
            group.commit(
                offsets
                    .into_iter()
                    .filter(|(tp, _)| topics.contains_key(&tp.topic)),
            );
            self.groups.insert(name, group);
        }
    }

    /// Replaces the journal by what still counts. It reaches the disk, so what it says of the partitions has to as well.
    pub(super) fn snapshot(&mut self) -> Result<(), LogError> {
        let mut ends = Vec::new();
        for partition in self.partitions.iter_mut().flatten() {
            partition.sync()?;
            let (name, end) = (partition.name(), partition.end(Isolation::ReadUncommitted));
            if end > 0 {
                ends.push((name.topic.to_string(), name.partition, end));
            }
        }
        let mut entries = vec![Entry::Snapshot {
            next_transaction: self.transactions.next,
            ends,
        }];
        entries.extend(self.transactions.epochs().map(|(id, epoch)| Entry::Claim {
            id: id.to_string(),
            epoch,
        }));
        for (name, group) in &self.groups {
            entries.push(Entry::Offsets {
                group: name.to_string(),
                offsets: rows(group.offsets()),
            });
        }
        for transaction in self.transactions.committed_without_marker() {
            entries.push(Entry::Commit {
                transaction,
                ends: Vec::new(),
                offsets: Vec::new(),
            });
        }
        match &mut self.storage {
            Some(storage) => storage.journal.replace(&entries),
            None => Ok(()),
        }
    }
}
