//! What holds of any bytes in the files of a log.

use std::path::Path;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use bytes::Bytes;

use super::batch::{Batch, BatchBuilder, BatchHeader, HEADER, Kind};
use super::directory;
use super::journal;
use super::record::{self, HeaderNames};
use super::{EmbeddedLog, Options};
use crate::log::{
    CommittedOffset, Consumer, ConsumerConfig, ConsumerRecord, Isolation, Log, LogError, NewTopic,
    Offset, Polled, Producer, ProducerConfig, ProducerRecord, TopicPartition,
};

/// Formats, one at a time; the first byte chooses.
pub fn formats(data: &[u8]) {
    let Some((format, bytes)) = data.split_first() else {
        return;
    };
    match format % 4 {
        0 => batch(&checked_batch(bytes).into()),
        1 => {
            let shared = Bytes::copy_from_slice(bytes);
            let decoded = record::decode(&shared, 0, &mut HeaderNames::default());
            if let Ok((_, end)) = decoded {
                assert!(end <= bytes.len());
            }
            // As it stands its checksums are hardly ever right.
            batch(&shared);
        }
        2 => journal::check_any(bytes),
        _ => directory::check_any(bytes),
    }
}

/// Gives `bytes` the length and the checksums of a batch, so that what lies behind these is reached.
fn checked_batch(bytes: &[u8]) -> Vec<u8> {
    let mut batch = bytes.to_vec();
    if batch.len() >= HEADER {
        let length = u32::try_from(batch.len() - 4).expect("the fuzzer's inputs are short");
        batch[..4].copy_from_slice(&length.to_le_bytes());
        let body = crc32fast::hash(&batch[HEADER..]);
        batch[8..12].copy_from_slice(&body.to_le_bytes());
        batch[12] = 1;
        let header = crc32fast::hash(&batch[8..HEADER]);
        batch[4..8].copy_from_slice(&header.to_le_bytes());
    }
    batch
}

/// A batch gives its records, within its offsets and in their order, or says what is wrong; what it gave is given again by
/// one that is made of it.
fn batch(bytes: &Bytes) {
    let Ok(batch) = Batch::verified(bytes) else {
        return;
    };
    let header: BatchHeader = batch.header;
    assert!(header.base <= header.last && header.last < header.next());
    let records = match all(batch) {
        Ok(records) => records,
        Err(fault) => return assert!(!fault.is_empty()),
    };
    let mut builder = BatchBuilder::new();
    for record in &records {
        assert!((header.base..=header.last).contains(&record.offset));
        builder.push_at(
            u32::try_from(record.offset - header.base).expect("within the batch"),
            record.timestamp,
            record.key.as_deref(),
            record.value.as_deref(),
            &record.headers,
        );
    }
    builder.checksum();
    let again = builder.stamp(Kind::Records, header.base, header.transaction);
    let again = Batch::verified(&again.bytes).expect("just made");
    assert_eq!(all(again), Ok(records));
}

fn all(batch: Batch) -> std::result::Result<Vec<ConsumerRecord>, &'static str> {
    let (mut records, mut names) = (batch.records(), HeaderNames::default());
    let mut all = Vec::new();
    while let Some(record) = records.next(&mut names)? {
        all.push(record);
    }
    Ok(all)
}

const TOPIC: &str = "t";

/// A directory with any files in the places of a log's: it opens, or says which file is damaged, and does not lose by
/// being opened again what it showed once; it takes a transaction, and has it when opened again.
pub fn directory(data: &[u8]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    write_files(directory.path(), &mut Unstructured::new(data)).expect("it reads zeros at the end");
    let Some(log) = opened(directory.path()) else {
        return;
    };
    let uncommitted = read(&log, Isolation::ReadUncommitted, directory.path());
    let before = read(&log, Isolation::ReadCommitted, directory.path());
    drop(log);
    let log = opened(directory.path()).expect("it opened a moment ago");
    let again = read(&log, Isolation::ReadCommitted, directory.path());
    assert_eq!(before, again, "opening decides nothing twice");
    let (Some(mut before), Some(_)) = (before, uncommitted) else {
        return;
    };
    let appended = append(&log, &mut before);
    drop(log);
    if appended.is_ok() {
        let log = opened(directory.path()).expect("it opened a moment ago");
        let after = read(&log, Isolation::ReadCommitted, directory.path());
        let values = |records: Vec<ConsumerRecord>| -> Vec<Option<Bytes>> {
            records.into_iter().map(|record| record.value).collect()
        };
        assert_eq!(after.map(values), Some(values(before)));
    }
}

/// A log that was written in order, with transactions, restarts and files that fill up, of which then one bit is another
/// one, or one file is gone: it shows all that was committed, or an error says where the damage is.
pub fn damage(data: &[u8]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let script = &mut Unstructured::new(data);
    let committed = write_history(directory.path(), script).expect("it reads zeros at the end");
    damage_one(directory.path(), script).expect("it reads zeros at the end");
    let Some(log) = opened(directory.path()) else {
        return;
    };
    let Some(records) = read(&log, Isolation::ReadCommitted, directory.path()) else {
        return;
    };
    let values: Vec<_> = records.into_iter().filter_map(|r| r.value).collect();
    assert_eq!(values, committed);
    let offset = committed_offset(&log);
    assert_eq!(offset.unwrap_or(0), committed.len() as Offset);
}

fn write_files(root: &Path, script: &mut Unstructured<'_>) -> Result<()> {
    let topics = match script.int_in_range(0..=9)? {
        0 => bytes(script, 400)?,
        compact => format!(
            r#"{{"version":1,"topics":[{{"name":"{TOPIC}","partitions":1,"compact":{},"delete":true,"retention_ms":null}}]}}"#,
            compact % 2 == 0
        )
        .into_bytes(),
    };
    write(root.join("topics.json"), &topics);
    let mut entries = Vec::new();
    for _ in 0..script.int_in_range(0..=4)? {
        match script.int_in_range(0..=7)? {
            0 => entries.extend(bytes(script, 60)?),
            1 => journal::frame(&bytes(script, 200)?, &mut entries),
            kind => journal::frame(entry(kind, script)?.as_bytes(), &mut entries),
        }
    }
    write(root.join("journal"), &entries);
    let partition = root.join("topics").join(TOPIC).join("0");
    std::fs::create_dir_all(&partition).expect("a directory");
    let mut base = 0;
    for _ in 0..script.int_in_range(0..=2)? {
        let mut segment = Vec::new();
        for _ in 0..script.int_in_range(0..=4)? {
            match script.int_in_range(0..=5)? {
                0 => segment.extend(bytes(script, 80)?),
                1 => segment.extend(checked_batch(&bytes(script, 160)?)),
                _ => segment.extend(batch_of(script)?),
            }
        }
        write(partition.join(format!("{base:020}.log")), &segment);
        base = match script.int_in_range(0..=3)? {
            0 => script.arbitrary::<i64>()?.wrapping_abs(),
            _ => base + i64::from(script.arbitrary::<u8>()?),
        };
    }
    Ok(())
}

fn write(path: std::path::PathBuf, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a file in the temporary directory");
}

/// An entry of the journal that makes sense.
fn entry(kind: u8, script: &mut Unstructured<'_>) -> Result<String> {
    let number = match script.int_in_range(0..=5)? {
        0 => script.arbitrary::<u64>()?,
        small => small,
    };
    let end = match script.int_in_range(0..=5)? {
        0 => script.arbitrary::<i64>()?,
        small => small,
    };
    Ok(match kind {
        2 if number % 2 == 1 => format!(
            r#"{{"snapshot":{{"next_transaction":{number},"ends":[["{TOPIC}",0,{end}]]}}}}"#
        ),
        // Of an older program.
        2 => format!(r#"{{"snapshot":{{"next_transaction":{number}}}}}"#),
        3 => format!(r#"{{"claim":{{"id":"p","epoch":{number}}}}}"#),
        4 => format!(r#"{{"forget":{{"topic":"{TOPIC}"}}}}"#),
        5 => format!(r#"{{"offsets":{{"group":"g","offsets":[["{TOPIC}",0,{end},"1|a=1"]]}}}}"#),
        _ => format!(
            r#"{{"commit":{{"transaction":{number},"ends":[["{TOPIC}",0,{end}]],"offsets":[]}}}}"#
        ),
    })
}

/// Writes a log, and gives the values that are committed; their number is the offset that the group has.
fn write_history(root: &Path, script: &mut Unstructured<'_>) -> Result<Vec<Bytes>> {
    let options = Options {
        segment_bytes: script.int_in_range(1..=8)? * 128,
        ..Options::default()
    };
    let open = || EmbeddedLog::open_with(root, options.clone()).expect("nothing is damaged");
    let mut log = open();
    let topic = [NewTopic::new(TOPIC, 1)];
    log.create_topics(&topic).expect("a name and a partition");
    let mut committed = Vec::new();
    for _ in 0..script.int_in_range(1..=6)? {
        let mut values = Vec::new();
        for _ in 0..script.int_in_range(1..=3)? {
            values.push(Bytes::from(bytes(script, 40)?));
        }
        let commits = script.int_in_range(0..=3)? > 0;
        transaction(&log, &values, commits.then_some(committed.len())).expect("nothing is damaged");
        if commits {
            committed.extend(values);
        }
        if script.int_in_range(0..=2)? == 0 {
            drop(log);
            log = open();
        }
    }
    Ok(committed)
}

/// Sends `values`, and commits them with the offset behind them, `before` and as many, or leaves the transaction open.
fn transaction(
    log: &EmbeddedLog,
    values: &[Bytes],
    before: Option<usize>,
) -> std::result::Result<(), LogError> {
    let mut producer = log.producer(ProducerConfig {
        transactional_id: Some("p".to_owned()),
        ..ProducerConfig::default()
    })?;
    producer.init_transactions(Duration::ZERO)?;
    producer.begin_transaction()?;
    for value in values {
        producer.send(ProducerRecord {
            topic: TOPIC,
            partition: 0,
            timestamp: 1,
            key: None,
            value: Some(value),
            headers: &[],
        })?;
        producer.flush(Duration::ZERO)?;
    }
    if let Some(before) = before {
        let offset = CommittedOffset {
            offset: (before + values.len()) as Offset,
            metadata: String::new(),
        };
        let offsets = vec![(TopicPartition::new(TOPIC, 0), offset)];
        let group = reader_of_group(log).group_metadata();
        producer.begin_commit(offsets, Some(group?))?;
        producer.poll_commit(Duration::ZERO)?;
    }
    Ok(())
}

fn reader_of_group(log: &EmbeddedLog) -> Box<dyn Consumer> {
    let config = ConsumerConfig {
        group: Some("g".to_owned()),
        ..ConsumerConfig::default()
    };
    log.consumer(config).expect("a consumer that never joins")
}

fn committed_offset(log: &EmbeddedLog) -> Option<Offset> {
    let partition = [TopicPartition::new(TOPIC, 0)];
    let found = reader_of_group(log).committed(&partition, Duration::ZERO);
    let found = found.expect("nothing is pending after an opening");
    found[0].as_ref().map(|committed| committed.offset)
}

/// Turns a bit over, or removes a file. The list of topics has no checksum: it is removed only.
fn damage_one(root: &Path, script: &mut Unstructured<'_>) -> Result<()> {
    let partition = root.join("topics").join(TOPIC).join("0");
    let segments = std::fs::read_dir(partition).expect("a directory");
    let mut files: Vec<_> = segments.map(|file| file.expect("a file").path()).collect();
    files.sort_unstable();
    files.extend([root.join("journal"), root.join("topics.json")]);
    let file = &files[script.choose_index(files.len())?];
    let mut bytes = std::fs::read(file).expect("a file");
    let removed = script.int_in_range(0..=7)? == 0;
    if removed || bytes.is_empty() || file.ends_with("topics.json") {
        std::fs::remove_file(file).expect("a file");
        return Ok(());
    }
    let at = script.choose_index(bytes.len())?;
    bytes[at] ^= 1 << script.int_in_range(0..=7)?;
    write(file.clone(), &bytes);
    Ok(())
}

/// A batch that makes sense by itself.
fn batch_of(script: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut builder = BatchBuilder::new();
    let mut delta = 0;
    for _ in 0..script.int_in_range(1..=3)? {
        let value = bytes(script, 10)?;
        builder.push_at(delta, script.arbitrary()?, None, Some(&value), &[]);
        delta += script.int_in_range(1..=3)?;
    }
    builder.checksum();
    let kind = match script.int_in_range(0..=3)? {
        0 => Kind::Commit,
        1 => Kind::Abort,
        _ => Kind::Records,
    };
    let base = match script.int_in_range(0..=9)? {
        0 => script.arbitrary::<i64>()?.wrapping_abs().max(0),
        _ => i64::from(script.arbitrary::<u8>()? % 32),
    };
    let batch = builder.stamp(kind, base, script.int_in_range(0..=3)?);
    Ok(batch.bytes.to_vec())
}

fn bytes(script: &mut Unstructured<'_>, most: usize) -> Result<Vec<u8>> {
    let length = script.int_in_range(0..=most)?.min(script.len());
    Ok(script.bytes(length)?.to_vec())
}

fn opened(root: &Path) -> Option<EmbeddedLog> {
    match EmbeddedLog::open_with(root, Options::default()) {
        Ok(log) => Some(log),
        Err(error) => {
            says_where(&error, root);
            None
        }
    }
}

/// An error of a directory names a file in it, or a partition.
fn says_where(error: &LogError, root: &Path) {
    let text = error.to_string();
    let file = root.display().to_string();
    assert!(
        text.contains(&file) || text.contains(&format!("{TOPIC}-0")),
        "{text}"
    );
}

/// What a reader sees; `None` where a batch cannot be read, which the log must say.
fn read(log: &EmbeddedLog, isolation: Isolation, root: &Path) -> Option<Vec<ConsumerRecord>> {
    let partition = TopicPartition::new(TOPIC, 0);
    if log.partitions(TOPIC).expect("it is open").is_none() {
        return Some(Vec::new());
    }
    let mut consumer = log
        .consumer(ConsumerConfig {
            isolation,
            ..ConsumerConfig::default()
        })
        .expect("a consumer without a group");
    let begin = consumer.beginning_offset(&partition, Duration::ZERO);
    let end = consumer.end_offset(&partition, isolation, Duration::ZERO);
    let (begin, end) = (begin.expect("it is open"), end.expect("it is open"));
    let assigned = consumer.assign(&[(partition.clone(), Some(begin))]);
    assigned.expect("the partition is there");
    let mut records: Vec<ConsumerRecord> = Vec::new();
    // More polls than such a log has batches: a reader that does not come on would be a bug.
    for _ in 0..1_000 {
        if consumer.position(&partition).expect("assigned") >= Some(end) {
            let ascend = records.windows(2).all(|two| two[0].offset < two[1].offset);
            assert!(ascend, "offsets ascend");
            return Some(records);
        }
        match consumer.poll(Duration::ZERO) {
            Ok(Polled::Records(batches)) => {
                records.extend(batches.into_iter().flat_map(|batch| batch.records));
            }
            Ok(_) => {}
            Err(error) => {
                says_where(&error, root);
                return None;
            }
        }
    }
    panic!("the reader never comes to offset {end}");
}

/// Appends a record in a transaction, and to `expected`.
fn append(
    log: &EmbeddedLog,
    expected: &mut Vec<ConsumerRecord>,
) -> std::result::Result<(), LogError> {
    if log.partitions(TOPIC)?.is_none() {
        return Ok(());
    }
    let mut producer: Box<dyn Producer> = log.producer(ProducerConfig {
        transactional_id: Some("p".to_owned()),
        ..ProducerConfig::default()
    })?;
    producer.init_transactions(Duration::ZERO)?;
    producer.begin_transaction()?;
    producer.send(ProducerRecord {
        topic: TOPIC,
        partition: 0,
        timestamp: 1,
        key: None,
        value: Some(b"appended"),
        headers: &[],
    })?;
    producer.begin_commit(Vec::new(), None)?;
    producer.poll_commit(Duration::ZERO)?;
    expected.push(ConsumerRecord {
        offset: 0,
        timestamp: 1,
        key: None,
        value: Some(Bytes::from_static(b"appended")),
        headers: Vec::new(),
    });
    Ok(())
}
