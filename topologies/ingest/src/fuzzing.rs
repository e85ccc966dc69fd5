//! What must hold for bytes that nobody of ours wrote: each function takes any bytes and panics where a promise breaks.
//!
//! The fuzzer calls this (`fuzz/README.md` has the list), and a test calls it for every file of its corpus.

use std::time::Duration;

use processor_core::log::embedded::EmbeddedLog;
use processor_core::log::{Log, NewTopic, ProducerConfig, ProducerRecord};

use crate::{CREATIVES, OBJECTS, announce};

/// A record of another program on a topic that ingest reads; the first byte chooses topic and key. An announcement goes on
/// or says which record of which topic it cannot read, and a second one does the same.
pub fn topics(data: &[u8]) {
    let Some((kind, value)) = data.split_first() else {
        return;
    };
    let topic = if kind % 2 == 0 { OBJECTS } else { CREATIVES };
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
