//! What must hold for bytes that nobody of ours wrote: each function takes any bytes and panics where a promise breaks.
//!
//! The fuzzer calls this (`fuzz/README.md` has the list), and a test calls it for every file of its corpus.

use std::fmt::Debug;
use std::time::Duration;

use processor_core::log::embedded::EmbeddedLog;
use processor_core::log::{Log, NewTopic, ProducerConfig, ProducerRecord};
use processor_core::serde::{Serde, json};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::reader::FeedProgress;
use crate::{CREATIVES, FileReport, OBJECTS, announce};

/// A record of another program on a topic that ingest reads, or a value in one of its stores; the first byte chooses.
pub fn topics(data: &[u8]) {
    let Some((kind, value)) = data.split_first() else {
        return;
    };
    match kind % 8 {
        6 => stored::<FeedProgress>(value),
        7 => stored::<FileReport>(value),
        _ => topic(*kind, value),
    }
}

/// A value that is read is written and read as the same, and an error says something.
fn stored<T: Serialize + DeserializeOwned + PartialEq + Debug + Send + Sync>(bytes: &[u8]) {
    let serde = json::<T>();
    match serde.deserialize(bytes) {
        Ok(value) => {
            let mut written = Vec::new();
            serde.serialize(&value, &mut written).expect("it was read");
            assert_eq!(serde.deserialize(&written).expect("it is ours"), value);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The first byte chooses topic and key. An announcement goes on or says which record of which topic it cannot read, and a
/// second one does the same.
fn topic(kind: u8, value: &[u8]) {
    let topic = if kind.is_multiple_of(2) {
        OBJECTS
    } else {
        CREATIVES
    };
    let (key, value) = match kind / 2 % 4 {
        0 => (value, None),
        _ => (&b"key"[..], Some(value)),
    };
    let log = EmbeddedLog::in_memory();
    log.create_topics(&[NewTopic::new(OBJECTS, 1), NewTopic::new(CREATIVES, 1)])
        .expect("new topics in memory");
    let mut producer = log.producer(ProducerConfig::default()).expect("in memory");
    let sent = producer.send(ProducerRecord {
        topic,
        partition: 0,
        timestamp: 0,
        key: Some(key),
        value,
        headers: &[],
    });
    sent.expect("the topic is there");
    producer.flush(Duration::ZERO).expect("in memory");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let landing = directory.path().join("clicks");
    std::fs::create_dir_all(&landing).expect("a directory");
    std::fs::write(landing.join("a.csv"), "timestamp\n").expect("a file");
    match announce(&log, directory.path()) {
        Ok(first) => {
            assert!(first.files.len() <= 1);
            let second = announce(&log, directory.path()).expect("it read the topic before");
            assert!(second.files.is_empty(), "announced once");
            assert_eq!(second.creatives, 0, "the dimension is published");
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(topic) && text.contains("offset 0"), "{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_of_topics_breaks_no_promise() {
        corpus::replay("ingest_topics", super::topics);
    }
}
