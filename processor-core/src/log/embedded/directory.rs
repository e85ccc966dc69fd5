//! The directory of a durable log.
//!
//! ```text
//! lock                              held while a process has the log open; names that process
//! topics.json                       the topics, replaced atomically
//! journal                           decisions and offsets, see `journal.rs`
//! topics/<topic>/<partition>/<base offset>.log
//! ```
//!
//! A topic exists when `topics.json` says so: its directories are made before and removed after, and what is left
//! over from a crash in between is removed at the next opening. The first opening writes the file, so a directory with
//! records and without it has lost it.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{RESTORE, file_error, force_names, list, replace_file};
use crate::log::{Cleanup, LogError, NewTopic};

#[derive(Serialize, Deserialize)]
struct Topics {
    version: u32,
    topics: Vec<TopicRow>,
}

#[derive(Serialize, Deserialize)]
struct TopicRow {
    name: String,
    partitions: i32,
    compact: bool,
    delete: bool,
    retention_ms: Option<i64>,
    /// Not in files of older programs, whose topics have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_compaction_lag_ms: Option<i64>,
}

const VERSION: u32 = 1;

/// A locked directory.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    lock: File,
}

impl Directory {
    /// Makes `root` if it is missing and locks it.
    pub(super) fn lock(root: &Path) -> Result<Self, LogError> {
        fs::create_dir_all(root).map_err(|e| file_error("create", root, &e))?;
        let path = root.join("lock");
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| file_error("open", &path, &e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                return Err(LogError::fatal(format!(
                    "the log in {} is in use by process {}; stop it or use another directory",
                    root.display(),
                    holder.trim()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(file_error("lock", &path, &error)),
        }
        let named = lock
            .set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        named.map_err(|e| file_error("write", &path, &e))?;
        Ok(Self {
            root: root.to_path_buf(),
            lock,
        })
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    pub(super) fn topic(&self, name: &str) -> PathBuf {
        self.root.join("topics").join(name)
    }

    pub(super) fn partition(&self, topic: &str, partition: i32) -> PathBuf {
        self.topic(topic).join(partition.to_string())
    }

    /// The topics, none at the first opening; directories of others are removed.
    pub(super) fn read_topics(&self) -> Result<Vec<NewTopic>, LogError> {
        let all = self.root.join("topics");
        fs::create_dir_all(&all).map_err(|e| file_error("create", &all, &e))?;
        let path = self.root.join("topics.json");
        let topics = match fs::read(&path) {
            Ok(bytes) => parse(&bytes).map_err(|fault| {
                LogError::fatal(format!(
                    "cannot read the topics in {}: {fault}",
                    path.display()
                ))
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if let Some(records) = find_records(&all)? {
                    return Err(LogError::fatal(format!(
                        "{} is missing, although there are records in {}; {RESTORE}",
                        path.display(),
                        records.display()
                    )));
                }
                self.write_topics(std::iter::empty())?;
                Vec::new()
            }
            Err(e) => return Err(file_error("read", &path, &e)),
        };
        for entry in list(&all)? {
            if !topics.iter().any(|t| *t.name == *entry.file_name()) {
                tracing::warn!(directory = %entry.path().display(), "left over from a deleted topic; removed");
                fs::remove_dir_all(entry.path())
                    .map_err(|e| file_error("remove", &entry.path(), &e))?;
            }
        }
        Ok(topics)
    }

    /// Replaces the list of topics.
    pub(super) fn write_topics<'a>(
        &self,
        topics: impl Iterator<Item = &'a NewTopic>,
    ) -> Result<(), LogError> {
        let topics = Topics {
            version: VERSION,
            topics: topics.map(row).collect(),
        };
        let json = serde_json::to_vec_pretty(&topics).expect("plain rows");
        replace_file(&self.root.join("topics.json"), &json).map(drop)
    }

    /// Forces the names of a topic's directories to the disk: the list of topics, once there, counts on them.
    pub(super) fn force_topic(&self, name: &str) -> Result<(), LogError> {
        force_names(&self.topic(name))?;
        force_names(&self.root.join("topics"))
    }

    /// Removes the files of a topic that is not in the list any more.
    pub(super) fn remove_topic(&self, name: &str) -> Result<(), LogError> {
        let path = self.topic(name);
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(file_error("remove", &path, &e))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Directory {
    /// Closing the file is not enough: a child process between fork and exec shares it, and with it the lock.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(directory = %self.root.display(), %error, "not unlocked");
        }
    }
}

/// A file with records, in whatever topic.
fn find_records(topics: &Path) -> Result<Option<PathBuf>, LogError> {
    let mut dirs = vec![topics.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in list(&dir)? {
            let path = entry.path();
            let metadata = entry
                .metadata()
                .map_err(|e| file_error("open", &path, &e))?;
            if metadata.is_dir() {
                dirs.push(path);
            } else if metadata.len() > 0 && path.extension().is_some_and(|e| e == "log") {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

fn row(topic: &NewTopic) -> TopicRow {
    TopicRow {
        name: topic.name.clone(),
        partitions: topic.partitions,
        compact: topic.cleanup != Cleanup::Delete,
        delete: topic.cleanup != Cleanup::Compact,
        retention_ms: topic.retention_ms,
        min_compaction_lag_ms: topic.min_compaction_lag_ms,
    }
}

fn parse(json: &[u8]) -> Result<Vec<NewTopic>, String> {
    let topics: Topics = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    if topics.version != VERSION {
        return Err(format!(
            "it has version {}, this program knows {VERSION}; use the program that wrote it",
            topics.version
        ));
    }
    let topic = |row: TopicRow| {
        super::state::check_name(&row.name).map_err(|e| e.to_string())?;
        if row.partitions < 1 {
            return Err(format!("topic `{}` has no partitions", row.name));
        }
        Ok(NewTopic {
            name: row.name,
            partitions: row.partitions,
            cleanup: match (row.compact, row.delete) {
                (false, _) => Cleanup::Delete,
                (true, false) => Cleanup::Compact,
                (true, true) => Cleanup::CompactAndDelete,
            },
            retention_ms: row.retention_ms,
            min_compaction_lag_ms: row.min_compaction_lag_ms,
            replication: 1,
        })
    };
    topics.topics.into_iter().map(topic).collect()
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(json: &[u8]) {
    let topics = match parse(json) {
        Ok(topics) => topics,
        Err(fault) => return assert!(!fault.is_empty()),
    };
    let again = Topics {
        version: VERSION,
        topics: topics.iter().map(row).collect(),
    };
    let written = serde_json::to_vec(&again).expect("plain rows");
    let again = parse(&written).expect("it was written a moment ago");
    assert_eq!(format!("{again:?}"), format!("{topics:?}"));
}
