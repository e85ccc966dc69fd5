//! What a killed process leaves behind, and how the next one opens it.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn segment(dir: &Path) -> PathBuf {
    dir.join("topics/t/0/00000000000000000000.log")
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn cut(path: &Path, len: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

/// A log whose process was killed: nothing is closed in order, and a copy of its files is what is left.
struct Killed {
    dir: tempfile::TempDir,
}

impl Killed {
    fn new() -> (Self, EmbeddedLog) {
        let dir = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(dir.path()).unwrap();
        topic(&log, "t", 1);
        (Self { dir }, log)
    }

    fn file(&self) -> u64 {
        len(&segment(self.dir.path()))
    }

    fn journal(&self) -> u64 {
        len(&self.dir.path().join("journal"))
    }

    /// What is left when the partition file had `file` bytes and the journal `journal`.
    fn at(&self, file: u64, journal: u64) -> (tempfile::TempDir, Result<EmbeddedLog, LogError>) {
        let dir = tempfile::tempdir().unwrap();
        copy(self.dir.path(), dir.path());
        cut(&segment(dir.path()), file);
        cut(&dir.path().join("journal"), journal);
        let log = EmbeddedLog::open(dir.path());
        (dir, log)
    }
}

fn offset(offset: Offset) -> CommittedOffset {
    CommittedOffset {
        offset,
        metadata: String::new(),
    }
}

fn group_reader(log: &EmbeddedLog) -> Box<dyn Consumer> {
    log.consumer(ConsumerConfig {
        group: Some("g".into()),
        ..ConsumerConfig::default()
    })
    .unwrap()
}

fn committed(log: &EmbeddedLog) -> Option<Offset> {
    let t = [TopicPartition::new("t", 0)];
    let found = group_reader(log).committed(&t, Duration::ZERO).unwrap();
    found[0].as_ref().map(|c| c.offset)
}

/// Sends `values` and `next` as the group's offset in one transaction.
fn transaction(log: &EmbeddedLog, producer: &mut dyn Producer, values: &[&str], next: Offset) {
    producer.begin_transaction().unwrap();
    for value in values {
        producer.send(record("t", value.as_bytes())).unwrap();
    }
    let metadata = group_reader(log).group_metadata().unwrap();
    let offsets = vec![(TopicPartition::new("t", 0), offset(next))];
    producer.begin_commit(offsets, Some(metadata)).unwrap();
    producer.poll_commit(Duration::ZERO).unwrap().unwrap();
}

const SEEN: Isolation = Isolation::ReadCommitted;

#[test]
fn a_kill_at_any_byte_shows_all_of_a_transaction_or_nothing() {
    let (killed, log) = Killed::new();
    let mut producer = producer(&log, "p");
    transaction(&log, &mut *producer, &["a", "b"], 1);
    let (file, journal) = (killed.file(), killed.journal());
    producer.begin_transaction().unwrap();
    producer.send(record("t", b"c")).unwrap();
    producer.flush(Duration::ZERO).unwrap();
    let data = killed.file();
    let metadata = group_reader(&log).group_metadata().unwrap();
    let offsets = vec![(TopicPartition::new("t", 0), offset(2))];
    producer.begin_commit(offsets, Some(metadata)).unwrap();
    assert_eq!(
        (killed.file(), killed.journal()),
        (data, journal),
        "nothing is decided"
    );
    producer.poll_commit(Duration::ZERO).unwrap().unwrap();
    let (marked, decided) = (killed.file(), killed.journal());
    // In the order of the writes: records, decision, marker.
    let records = (file..=data).map(|at| (at, journal, false));
    let decision = (journal + 1..=decided).map(|at| (data, at, at == decided));
    let marker = (data + 1..=marked).map(|at| (at, decided, true));
    for (file, journal, done) in records.chain(decision).chain(marker) {
        let (_dir, log) = killed.at(file, journal);
        let log = log.unwrap_or_else(|e| panic!("{file} {journal}: {e}"));
        let expected: &[&str] = if done { &["a", "b", "c"] } else { &["a", "b"] };
        assert_eq!(
            read_all(&log, "t", SEEN),
            expected,
            "file {file} journal {journal}"
        );
        assert_eq!(committed(&log), Some(1 + i64::from(done)));
        let t = TopicPartition::new("t", 0);
        let reader = group_reader(&log);
        let end = |isolation| reader.end_offset(&t, isolation, Duration::ZERO).unwrap();
        assert_eq!(
            end(SEEN),
            end(Isolation::ReadUncommitted),
            "nothing stays open"
        );
    }
}

#[test]
fn markers_the_journal_does_not_know_do_not_count() {
    let (killed, log) = Killed::new();
    let mut producer = producer(&log, "p");
    transaction(&log, &mut *producer, &["a"], 1);
    let journal = killed.journal();
    transaction(&log, &mut *producer, &["b"], 2);
    let (dir, log) = killed.at(killed.file(), journal);
    let log = log.unwrap();
    assert_eq!(
        (read_all(&log, "t", SEEN), committed(&log)),
        (vec!["a".into()], Some(1))
    );
    drop(log);
    let log = EmbeddedLog::open(dir.path()).unwrap();
    assert_eq!(read_all(&log, "t", SEEN), ["a"], "and it stays so");
}

#[test]
fn committed_records_that_are_missing_are_an_error() {
    let (killed, log) = Killed::new();
    let mut producer = producer(&log, "p");
    transaction(&log, &mut *producer, &["a"], 1);
    let error = killed.at(3, killed.journal()).1.unwrap_err().to_string();
    assert!(
        error.contains("t-0") && error.contains("lost power"),
        "{error}"
    );
}

/// A log that begins a new file every few records.
fn small_files() -> (TempDir, EmbeddedLog) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 200,
        ..Options::default()
    };
    let log = EmbeddedLog::open_with(dir.path(), options).unwrap();
    (dir, log)
}

#[test]
fn damage_inside_is_an_error_that_names_the_place() {
    let (dir, log) = small_files();
    topic(&log, "t", 1);
    let mut producer = log.producer(ProducerConfig::default()).unwrap();
    for _ in 0..5 {
        producer.send(record("t", &[7; 100])).unwrap();
        producer.flush(Duration::ZERO).unwrap();
    }
    drop((producer, log));
    let mut bytes = fs::read(segment(dir.path())).unwrap();
    bytes[20] ^= 1;
    fs::write(segment(dir.path()), bytes).unwrap();
    let error = EmbeddedLog::open(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("00000000000000000000.log is damaged at byte 0"),
        "{error}"
    );
}

/// What a start says of a directory in which this happened.
fn refused(dir: &Path) -> String {
    let error = EmbeddedLog::open(dir).unwrap_err().to_string();
    assert!(
        error.contains("delete it and read the inputs anew"),
        "{error}"
    );
    error
}

#[test]
fn a_journal_that_is_damaged_or_gone_aborts_nothing() {
    let (killed, log) = Killed::new();
    let mut producer = producer(&log, "p");
    for next in 1..4 {
        transaction(&log, &mut *producer, &["a"], next);
    }
    let original = fs::read(killed.dir.path().join("journal")).unwrap();
    let damage = |bytes: Option<Vec<u8>>| {
        let dir = tempfile::tempdir().unwrap();
        copy(killed.dir.path(), dir.path());
        let journal = dir.path().join("journal");
        match bytes {
            Some(bytes) => fs::write(&journal, bytes).unwrap(),
            None => fs::remove_file(&journal).unwrap(),
        }
        let error = refused(dir.path());
        assert!(error.contains(journal.to_str().unwrap()), "{error}");
        fs::write(&journal, &original).unwrap();
        let log = EmbeddedLog::open(dir.path()).unwrap();
        assert_eq!(read_all(&log, "t", SEEN), ["a"; 3], "and nothing was lost");
        assert_eq!(committed(&log), Some(3));
        error
    };
    for byte in [0, 5, 20, original.len() / 2, original.len() - 1] {
        let mut flipped = original.clone();
        flipped[byte] ^= 1;
        let error = damage(Some(flipped));
        assert!(error.contains("is damaged at byte"), "{error}");
    }
    for nothing in [None, Some(Vec::new()), Some(vec![0; 100])] {
        let error = damage(nothing);
        assert!(error.contains("missing or empty"), "{error}");
    }
}

/// Three transactions that only a snapshot knows of.
fn settled() -> Killed {
    let (killed, log) = Killed::new();
    let mut producer = producer(&log, "p");
    for next in 1..4 {
        transaction(&log, &mut *producer, &["a", "b"], next);
    }
    drop((producer, log));
    drop(EmbeddedLog::open(killed.dir.path()).unwrap());
    killed
}

#[test]
fn any_other_bit_in_the_file_that_is_appended_to_is_an_error_that_names_the_place() {
    let killed = settled();
    let path = segment(killed.dir.path());
    let original = fs::read(&path).unwrap();
    for byte in 0..original.len() {
        let mut flipped = original.clone();
        flipped[byte] ^= 1 << (byte % 8);
        fs::write(&path, &flipped).unwrap();
        let error = refused(killed.dir.path());
        let says = format!("{} is damaged at byte ", path.display());
        let (_, place) = error.split_once(&says).unwrap_or_else(|| panic!("{error}"));
        let (place, _) = place.split_once(':').unwrap();
        assert!(place.parse::<usize>().unwrap() <= byte, "{byte}: {error}");
        assert_eq!(fs::read(&path).unwrap(), flipped, "it is left as it is");
    }
    fs::write(&path, &original).unwrap();
    let log = EmbeddedLog::open(killed.dir.path()).unwrap();
    assert_eq!(read_all(&log, "t", SEEN), ["a", "b"].repeat(3));
}

#[test]
fn what_a_snapshot_knows_of_is_missed_wherever_its_file_is_cut() {
    let killed = settled();
    let (file, journal) = (killed.file(), killed.journal());
    drop(killed.at(file, journal).1.unwrap());
    for at in 0..file {
        let (dir, opened) = killed.at(at, journal);
        drop(opened.expect_err("cut"));
        let error = refused(dir.path());
        assert!(error.contains("t-0 ends at offset"), "{at}: {error}");
    }
}

#[test]
fn a_snapshot_of_an_older_program_says_nothing_of_ends() {
    let killed = settled();
    let path = killed.dir.path().join("journal");
    let mut journal = Vec::new();
    let entry = br#"{"snapshot":{"next_transaction":4}}"#;
    super::super::journal::frame(entry, &mut journal);
    fs::write(path, journal).unwrap();
    let log = EmbeddedLog::open(killed.dir.path()).unwrap();
    assert_eq!(read_all(&log, "t", SEEN), ["a", "b"].repeat(3));
}

#[test]
fn a_namesake_of_a_deleted_topic_need_not_be_as_long() {
    let killed = settled();
    let log = EmbeddedLog::open(killed.dir.path()).unwrap();
    log.delete_topics(&["t"]).unwrap();
    topic(&log, "t", 1);
    drop(log);
    let log = EmbeddedLog::open(killed.dir.path()).unwrap();
    assert!(read_all(&log, "t", SEEN).is_empty());
}

#[test]
fn a_topic_is_not_made_anew_while_the_journal_counts_on_its_namesake() {
    let killed = settled();
    let log = EmbeddedLog::open(killed.dir.path()).unwrap();
    let mut state = log.0.lock().unwrap();
    state.storage.as_mut().unwrap().journal.break_disk();
    drop(state);
    log.delete_topics(&["t"]).unwrap_err();
    log.create_topics(&[NewTopic::new("t", 1)]).unwrap_err();
    drop(log);
    let log = EmbeddedLog::open(killed.dir.path()).unwrap();
    assert!(log.topics().unwrap().is_empty());
}

#[test]
fn compacted_files_take_their_places_on_the_disk_one_by_one() {
    let (dir, log) = small_files();
    let compacted = NewTopic::new("t", 1).cleanup(Cleanup::Compact);
    log.create_topics(&[compacted]).unwrap();
    let mut producer = log.producer(ProducerConfig::default()).unwrap();
    for _ in 0..2 {
        producer.send(record("t", &[0; 100])).unwrap();
        producer.flush(Duration::ZERO).unwrap();
    }
    let cleaned = forced(dir.path(), || log.clean().unwrap());
    assert_eq!(cleaned, ["topics/t/0"; 2]);
}

#[test]
fn blocks_that_never_came_to_the_disk_are_a_torn_end() {
    let (killed, log) = Killed::new();
    let mut producer = producer(&log, "p");
    transaction(&log, &mut *producer, &["a"], 1);
    let committed = killed.file();
    producer.begin_transaction().unwrap();
    producer.send(record("t", &[b'v'; 20_000])).unwrap();
    producer.flush(Duration::ZERO).unwrap();
    let end = killed.file();
    for written in [committed, 4_096, 8_192, 16_384] {
        let dir = tempfile::tempdir().unwrap();
        copy(killed.dir.path(), dir.path());
        cut(&segment(dir.path()), written);
        cut(&segment(dir.path()), end);
        let log = EmbeddedLog::open(dir.path()).unwrap();
        assert_eq!(read_all(&log, "t", SEEN), ["a"], "{written}");
        assert_eq!(len(&segment(dir.path())), committed, "{written}");
    }
}

/// What `f` forces to the disk, as names in `dir`.
fn forced(dir: &Path, f: impl FnOnce()) -> Vec<String> {
    files::forced::take();
    f();
    let name = |path: PathBuf| {
        let inside = path.strip_prefix(dir).unwrap();
        inside.to_str().unwrap().replace("00000000000000000", "")
    };
    files::forced::take().into_iter().map(name).collect()
}

#[test]
fn a_snapshot_reaches_the_disk_after_what_it_says_of_partitions() {
    let (killed, log) = Killed::new();
    let dir = killed.dir.path();
    let mut producer = producer(&log, "p");
    let written = forced(dir, || transaction(&log, &mut *producer, &["a"], 1));
    assert_eq!(written, [""; 0], "nothing is forced without `sync`");
    let snapshot = || log.0.lock().unwrap().snapshot().unwrap();
    assert_eq!(forced(dir, snapshot), ["topics/t/0/000.log", ""]);
    assert_eq!(forced(dir, snapshot), [""], "it is there");
    transaction(&log, &mut *producer, &["a"], 1);
    drop((producer, log));
    let open = || drop(EmbeddedLog::open(dir).unwrap());
    let all = ["topics/t/0/000.log", "topics/t/0", ""];
    assert_eq!(forced(dir, open), all, "whoever wrote it");
    assert_eq!(forced(dir, open), [""]);
}

#[test]
fn a_missing_list_of_topics_deletes_nothing() {
    let killed = settled();
    let topics = killed.dir.path().join("topics.json");
    let original = fs::read(&topics).unwrap();
    fs::remove_file(&topics).unwrap();
    let error = refused(killed.dir.path());
    assert!(error.contains("topics.json is missing"), "{error}");
    fs::write(&topics, original).unwrap();
    let log = EmbeddedLog::open(killed.dir.path()).unwrap();
    assert_eq!(read_all(&log, "t", SEEN), ["a", "b"].repeat(3));
}

#[test]
fn a_topic_that_a_kill_left_half_made_is_no_loss() {
    for listed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        drop(EmbeddedLog::open(dir.path()).unwrap());
        assert!(dir.path().join("topics.json").exists(), "from the start");
        if !listed {
            fs::remove_file(dir.path().join("topics.json")).unwrap();
        }
        fs::create_dir_all(dir.path().join("topics/t/0")).unwrap();
        fs::write(segment(dir.path()), b"").unwrap();
        let log = EmbeddedLog::open(dir.path()).unwrap();
        assert!(log.topics().unwrap().is_empty());
        assert!(!dir.path().join("topics/t").exists());
    }
}

#[test]
fn any_missing_file_of_a_partition_is_an_error_that_names_the_place() {
    let (dir, log) = small_files();
    topic(&log, "t", 1);
    let mut producer = producer(&log, "p");
    for _ in 0..4 {
        transaction(&log, &mut *producer, &["a"], 1);
    }
    drop((producer, log));
    drop(EmbeddedLog::open(dir.path()).unwrap());
    let files = fs::read_dir(dir.path().join("topics/t/0")).unwrap();
    let files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    assert!(files.len() > 3, "{files:?}");
    for file in &files {
        let bytes = fs::read(file).unwrap();
        fs::remove_file(file).unwrap();
        let error = refused(dir.path());
        assert!(
            error.contains("t-0 ends at") || error.contains("topics/t/0"),
            "{error}"
        );
        fs::write(file, bytes).unwrap();
    }
    assert_eq!(
        read_all(&EmbeddedLog::open(dir.path()).unwrap(), "t", SEEN),
        ["a"; 4]
    );
    for file in &files {
        fs::remove_file(file).unwrap();
    }
    let error = refused(dir.path());
    assert!(error.contains("topics/t/0 has no files"), "{error}");
    fs::remove_dir(dir.path().join("topics/t/0")).unwrap();
    let error = refused(dir.path());
    assert!(error.contains("topics/t/0 has no files"), "{error}");
}

#[test]
fn a_new_topic_is_on_the_disk_before_the_list_says_so() {
    let (killed, log) = Killed::new();
    let made = forced(killed.dir.path(), || topic(&log, "new", 2));
    let all = ["topics/new/0", "topics/new/1", "topics/new", "topics", ""];
    assert_eq!(made, all);
}

#[test]
fn a_synced_commit_reaches_the_disk_with_every_file_it_has_filled() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 300,
        sync: true,
        ..Options::default()
    };
    let log = EmbeddedLog::open_with(dir.path(), options).unwrap();
    topic(&log, "t", 1);
    let mut producer = producer(&log, "p");
    producer.begin_transaction().unwrap();
    let written = forced(dir.path(), || {
        for _ in 0..3 {
            producer.send(record("t", &[0; 100])).unwrap();
            producer.flush(Duration::ZERO).unwrap();
        }
    });
    assert_eq!(written, [""; 0], "nothing is committed");
    let written = forced(dir.path(), || drop(commit(&mut *producer)));
    let all = [
        "topics/t/0/000.log",
        "topics/t/0/001.log",
        "topics/t/0/002.log",
        "topics/t/0",
        "journal",
    ];
    assert_eq!(written, all);
}

#[test]
fn zeros_behind_the_journal_are_a_write_that_never_came() {
    let (killed, log) = Killed::new();
    let mut producer = producer(&log, "p");
    transaction(&log, &mut *producer, &["a"], 1);
    let (dir, opened) = killed.at(killed.file(), killed.journal());
    drop(opened.unwrap());
    let journal = dir.path().join("journal");
    cut(&journal, len(&journal) + 1_000);
    let log = EmbeddedLog::open(dir.path()).unwrap();
    assert_eq!(
        (read_all(&log, "t", SEEN), committed(&log)),
        (vec!["a".into()], Some(1))
    );
}

#[test]
fn reopening_goes_on_where_it_was() {
    let (killed, log) = Killed::new();
    let mut first = producer(&log, "p");
    transaction(&log, &mut *first, &["a"], 1);
    drop((first, log));
    for round in 0..3 {
        let log = EmbeddedLog::open(killed.dir.path()).unwrap();
        assert_eq!(log.topics().unwrap(), ["t"]);
        assert_eq!(committed(&log), Some(1 + round));
        let mut producer = producer(&log, "p");
        transaction(&log, &mut *producer, &["b"], 2 + round);
        let all = read_all(&log, "t", SEEN);
        assert_eq!(all.len() as i64, 2 + round);
        let mut reader = reader(&log, "t");
        let offsets = offsets(reader.poll(Duration::ZERO).unwrap());
        assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
    }
}

#[test]
fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path()).unwrap();
    let error = EmbeddedLog::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    drop(log);
    EmbeddedLog::open(dir.path()).unwrap();
}

#[test]
fn a_deleted_topic_leaves_nothing_to_its_namesake() {
    let (killed, log) = Killed::new();
    let mut producer = producer(&log, "p");
    transaction(&log, &mut *producer, &["a"], 1);
    log.delete_topics(&["t"]).unwrap();
    topic(&log, "t", 1);
    assert_eq!(committed(&log), None);
    drop((producer, log));
    let log = EmbeddedLog::open(killed.dir.path()).unwrap();
    assert!(read_all(&log, "t", Isolation::ReadUncommitted).is_empty());
    assert_eq!(committed(&log), None);
}

#[test]
fn offsets_inside_a_transaction_go_with_their_topic() {
    let (killed, log) = Killed::new();
    let mut producer = producer(&log, "p");
    producer.begin_transaction().unwrap();
    let metadata = group_reader(&log).group_metadata().unwrap();
    let offsets = vec![(TopicPartition::new("t", 0), offset(7))];
    producer.begin_commit(offsets, Some(metadata)).unwrap();
    log.delete_topics(&["t"]).unwrap();
    topic(&log, "t", 1);
    producer.poll_commit(Duration::ZERO).unwrap().unwrap();
    assert_eq!(committed(&log), None, "it is another topic");
    drop((producer, log));
    let log = EmbeddedLog::open(killed.dir.path()).unwrap();
    assert_eq!(committed(&log), None);
}

#[test]
fn records_are_read_from_files_when_memory_forgot_them() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 4_000,
        tail_bytes: 1_000,
        ..Options::default()
    };
    let log = EmbeddedLog::open_with(dir.path(), options).unwrap();
    topic(&log, "t", 1);
    let mut producer = producer(&log, "p");
    let mut expected = Vec::new();
    for round in 0..300 {
        producer.begin_transaction().unwrap();
        let values: Vec<String> = (0..3).map(|n| format!("{round}-{n}")).collect();
        for value in &values {
            producer.send(record("t", value.as_bytes())).unwrap();
        }
        if round % 3 == 2 {
            producer.flush(Duration::ZERO).unwrap();
            producer.abort_transaction(Duration::ZERO).unwrap();
        } else {
            commit(&mut *producer);
            expected.extend(values);
        }
    }
    assert!(fs::read_dir(dir.path().join("topics/t/0")).unwrap().count() > 10);
    assert_eq!(read_all(&log, "t", SEEN), expected);
    drop((producer, log));
    let log = EmbeddedLog::open(dir.path()).unwrap();
    assert_eq!(read_all(&log, "t", SEEN), expected);
}

#[test]
fn a_journal_that_cannot_be_written_decides_nothing() {
    let (killed, log) = Killed::new();
    let mut older = producer(&log, "p");
    transaction(&log, &mut *older, &["a"], 1);
    older.begin_transaction().unwrap();
    older.send(record("t", b"b")).unwrap();
    older.begin_commit(Vec::new(), None).unwrap();
    let storage = |f: fn(&mut journal::Journal)| {
        f(&mut log.0.lock().unwrap().storage.as_mut().unwrap().journal);
    };
    storage(journal::Journal::break_disk);
    let refused = older.poll_commit(Duration::ZERO).unwrap_err();
    assert_eq!(refused.class, ErrorClass::Uncertain, "{refused}");
    let refused = older.abort_transaction(Duration::ZERO).unwrap_err();
    assert_eq!(
        refused.class,
        ErrorClass::Fatal,
        "an abort might contradict the file"
    );
    let mut newer = log
        .producer(ProducerConfig {
            transactional_id: Some("p".into()),
            ..ProducerConfig::default()
        })
        .unwrap();
    let refused = newer.init_transactions(Duration::ZERO).unwrap_err();
    assert!(refused.message.contains("restart"), "{refused}");
    assert_eq!(read_all(&log, "t", SEEN), ["a"]);
    drop((older, newer, log));
    let log = EmbeddedLog::open(killed.dir.path()).unwrap();
    assert_eq!(read_all(&log, "t", SEEN), ["a"]);
}

#[test]
fn a_long_journal_is_compacted_and_loses_nothing() {
    let (killed, log) = Killed::new();
    let t = TopicPartition::new("t", 0);
    let mut owner = group_reader(&log);
    let mut before = 0;
    let mut commits = 0;
    while killed.journal() >= before {
        before = killed.journal();
        assert!(before < 5 << 20, "not compacted");
        let metadata = "m".repeat(4_096);
        let offset = CommittedOffset {
            offset: commits,
            metadata,
        };
        owner.commit(&[(t.clone(), offset)]).unwrap();
        commits += 1;
    }
    drop((owner, log));
    let log = EmbeddedLog::open(killed.dir.path()).unwrap();
    assert_eq!(
        committed(&log),
        Some(commits - 1),
        "also the one that made it too long"
    );
}

#[test]
fn synced_commits_survive_too() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        sync: true,
        ..Options::default()
    };
    let log = EmbeddedLog::open_with(dir.path(), options.clone()).unwrap();
    topic(&log, "t", 1);
    let mut producer = producer(&log, "p");
    transaction(&log, &mut *producer, &["a"], 1);
    drop((producer, log));
    let log = EmbeddedLog::open_with(dir.path(), options).unwrap();
    assert_eq!(
        (read_all(&log, "t", SEEN), committed(&log)),
        (vec!["a".into()], Some(1))
    );
}

#[test]
fn numbers_that_no_log_gave_are_damage_of_the_journal_and_no_overflow() {
    let most = u64::MAX;
    for entry in [
        format!(r#"{{"snapshot":{{"next_transaction":{most}}}}}"#),
        format!(r#"{{"claim":{{"id":"p","epoch":{most}}}}}"#),
        format!(r#"{{"commit":{{"transaction":{most},"ends":[],"offsets":[]}}}}"#),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Vec::new();
        crate::log::embedded::journal::frame(entry.as_bytes(), &mut journal);
        fs::write(dir.path().join("journal"), &journal).unwrap();
        let error = EmbeddedLog::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("journal is damaged"), "{entry}: {error}");
    }
}

#[test]
fn a_file_that_begins_before_the_one_before_it_ends_is_an_error_that_names_it() {
    let (killed, log) = Killed::new();
    let mut producer = log.producer(ProducerConfig::default()).unwrap();
    for value in ["a", "b", "c"] {
        producer.send(record("t", value.as_bytes())).unwrap();
    }
    producer.flush(Duration::ZERO).unwrap();
    let (dir, opened) = killed.at(killed.file(), killed.journal());
    drop(opened.unwrap());
    let second = dir.path().join("topics/t/0/00000000000000000001.log");
    fs::copy(segment(dir.path()), &second).unwrap();
    let error = EmbeddedLog::open(dir.path()).unwrap_err().to_string();
    let says = "00000000000000000001.log begins at offset 1, but the file before it ends at 3";
    assert!(error.contains(says), "{error}");
}
