//! The self-audit, and whether it notices: runs that hold, and copies of their topics with one record changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use advertisex::verify::{Report, Settings, verify};
use events::generator::{GeneratorConfig, generate};
use processor_core::log::embedded::EmbeddedLog;
use processor_core::log::{
    ConsumerRecord, Log, NewTopic, ProducerConfig, ProducerRecord, TopicPartition,
    read_partition_to_end,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{demo, put, run};

fn dirty(seed: u64) -> GeneratorConfig {
    GeneratorConfig {
        seed,
        impressions: 1_500,
        users: 100,
        click_rate: 0.2,
        conversion_rate: 0.3,
        bid_requests: 40,
        duplicate_rate: 0.02,
        malformed_rate: 0.02,
        late_rate: 0.01,
        disorder_ms: 60_000,
        // Over half an hour, so that most results are final.
        per_second: 1,
        ..GeneratorConfig::default()
    }
}

fn settings(landing: Option<&Path>) -> Settings {
    Settings {
        landing: landing.map(Path::to_owned),
        click_window: Duration::from_secs(30 * 60),
        grace: Duration::from_secs(5 * 60),
        id_ttl: ingest::ID_TTL,
        memory_bytes: 1 << 30,
    }
}

/// A landing directory, and a demo over it that has come to its end.
struct Ran {
    directory: TempDir,
}

impl Ran {
    fn dirty(seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ran = Self { directory };
        generate(&ran.landing(), &dirty(seed)).unwrap();
        run(&demo(&ran.landing(), &ran.out())).unwrap();
        ran
    }

    fn landing(&self) -> PathBuf {
        self.directory.path().join("landing")
    }

    fn out(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    fn log(&self) -> EmbeddedLog {
        EmbeddedLog::open(&self.out().join("state/log")).unwrap()
    }

    fn verify(&self) -> Report {
        verify(&self.log(), &settings(Some(&self.landing()))).unwrap()
    }
}

/// Topics by name: partition and record, in their order.
type Topics = BTreeMap<String, Vec<(i32, ConsumerRecord)>>;

fn topics(log: &EmbeddedLog) -> Topics {
    let mut topics = Topics::new();
    for name in log.topics().unwrap() {
        let records = topics.entry(name.clone()).or_default();
        for partition in 0..log.partitions(&name).unwrap().unwrap() {
            let of = TopicPartition::new(&*name, partition);
            read_partition_to_end(log, &of, &mut |record| {
                records.push((partition, record));
                Ok(())
            })
            .unwrap();
        }
    }
    topics
}

fn write(topics: &Topics, log: &EmbeddedLog) {
    let new: Vec<NewTopic> = topics.keys().map(|name| NewTopic::new(name, 2)).collect();
    log.create_topics(&new).unwrap();
    let mut producer = log.producer(ProducerConfig::default()).unwrap();
    for (topic, records) in topics {
        for (partition, record) in records {
            let sent = ProducerRecord {
                topic,
                partition: *partition,
                timestamp: record.timestamp,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: &record.headers,
            };
            producer.send(sent).unwrap();
        }
    }
    producer.flush(Duration::from_secs(10)).unwrap();
}

fn copy(topics: &Topics) -> EmbeddedLog {
    let log = EmbeddedLog::in_memory();
    write(topics, &log);
    log
}

/// The findings of a check.
fn findings(report: &Report, check: &str) -> String {
    let found = report.checks.iter().find(|found| found.name == check);
    found.unwrap().findings.join("\n")
}

fn json(record: &ConsumerRecord) -> Value {
    serde_json::from_slice(record.value.as_deref().unwrap()).unwrap()
}

/// Where the last record is that fits.
fn last(records: &[(i32, ConsumerRecord)], fits: impl Fn(&Value) -> bool) -> usize {
    let at = records.iter().rposition(|(_, record)| fits(&json(record)));
    at.expect("the input has one")
}

fn first(records: &[(i32, ConsumerRecord)], fits: impl Fn(&Value) -> bool) -> usize {
    let at = records.iter().position(|(_, record)| fits(&json(record)));
    at.expect("the input has one")
}

fn set(record: &mut ConsumerRecord, field: &str, value: Value) {
    let mut changed = json(record);
    let place = changed.pointer_mut(field).expect("the record has it");
    *place = value;
    record.value = Some(serde_json::to_vec(&changed).unwrap().into());
}

#[test]
fn a_run_holds_in_one_part_and_in_many_and_without_the_landing_directory() {
    for seed in [1, 2] {
        let ran = Ran::dirty(seed);
        let report = ran.verify();
        assert!(report.holds, "{report}");
        assert_eq!(report.notes, [""; 0]);
        let log = ran.log();
        let in_parts = Settings {
            // For some hundred ids at a time.
            memory_bytes: 64 << 10,
            ..settings(Some(&ran.landing()))
        };
        assert_eq!(verify(&log, &in_parts).unwrap(), report);
        let blind = verify(&log, &settings(None)).unwrap();
        assert!(blind.holds, "{blind}");
        assert!(blind.notes[0].contains("lines are not read again"));
        // Copies hold as well, so that what the other tests find is what they changed.
        let copied = verify(&copy(&topics(&log)), &settings(Some(&ran.landing()))).unwrap();
        assert_eq!(copied, report);
    }
}

#[test]
fn runs_that_go_on_with_new_files_hold_and_files_that_are_not_announced_are_told() {
    let ran = Ran::dirty(3);
    put(
        &ran.landing(),
        "clicks/zz.csv",
        "timestamp,user_id,campaign_id,click_id\n2024-01-03T00:00:01Z,new user,c-0,new\n",
    );
    let report = ran.verify();
    assert!(report.holds, "{report}");
    assert_eq!(
        report.notes,
        ["1 files are not announced yet, such as clicks/zz.csv"]
    );
    run(&demo(&ran.landing(), &ran.out())).unwrap();
    let report = ran.verify();
    assert!(report.holds && report.notes.is_empty(), "{report}");
}

#[test]
fn a_record_that_is_dropped_repeated_or_altered_is_noticed_in_every_topic_of_lines() {
    let ran = Ran::dirty(4);
    let original = topics(&ran.log());
    let settings = settings(Some(&ran.landing()));
    for (topic, field) in [
        ("impressions", "/website"),
        ("clicks", "/user_id"),
        ("conversions", "/conversion_type"),
        ("quarantine", "/rule"),
        ("bid-requests", ""),
    ] {
        let at = original[topic].len() / 2;
        let mut dropped = original.clone();
        dropped.get_mut(topic).unwrap().remove(at);
        let report = verify(&copy(&dropped), &settings).unwrap();
        let found = findings(&report, topic);
        assert!(
            !report.holds && found.starts_with("1 lost, such as that of "),
            "{topic}: {found}"
        );

        let mut repeated = original.clone();
        let again = repeated[topic][at].clone();
        repeated.get_mut(topic).unwrap().push(again);
        let report = verify(&copy(&repeated), &settings).unwrap();
        let found = findings(&report, topic);
        assert!(
            !report.holds && found.starts_with("1 duplicated, such as "),
            "{topic}: {found}"
        );
        assert!(found.contains(&format!("in {topic}-")), "{topic}: {found}");

        let mut altered = original.clone();
        let record = &mut altered.get_mut(topic).unwrap()[at].1;
        match field {
            "" => record.timestamp += 1,
            field => set(record, field, "x".into()),
        }
        let report = verify(&copy(&altered), &settings).unwrap();
        let found = findings(&report, topic);
        assert!(
            !report.holds && found.starts_with("1 altered, such as "),
            "{topic}: {found}"
        );
    }
}

/// What is done to a record of a topic that fits, and what must be said.
struct Mutation {
    topic: &'static str,
    fits: fn(&Value) -> bool,
    mutate: fn(&mut Vec<(i32, ConsumerRecord)>, usize),
    says: &'static str,
}

fn drop_it(records: &mut Vec<(i32, ConsumerRecord)>, at: usize) {
    records.remove(at);
}

fn repeat_it(records: &mut Vec<(i32, ConsumerRecord)>, at: usize) {
    records.insert(at, records[at].clone());
}

/// All of its key.
fn drop_its_key(records: &mut Vec<(i32, ConsumerRecord)>, at: usize) {
    let key = records[at].1.key.clone();
    records.retain(|(_, record)| record.key != key);
}

#[test]
fn a_result_that_is_dropped_repeated_or_altered_is_noticed() {
    let is_final = |value: &Value| value["status"] == "final";
    let credited =
        |value: &Value| value["status"] == "final" && value["impression_id"] != Value::Null;
    let shared =
        |value: &Value| value["status"] == "final" && value["credits"] != serde_json::json!([]);
    let any = |_: &Value| true;
    let mutations = [
        Mutation {
            topic: "attributed-clicks",
            fits: is_final,
            mutate: drop_its_key,
            says: "1 clicks without a result, such as that of clicks-",
        },
        Mutation {
            topic: "attributed-clicks",
            fits: is_final,
            mutate: repeat_it,
            says: "1 results too many, such as ",
        },
        Mutation {
            topic: "attributed-clicks",
            fits: credited,
            mutate: |records, at| set(&mut records[at].1, "/impression_id", Value::Null),
            says: "1 results that are not those of a recount",
        },
        Mutation {
            topic: "attributed-clicks",
            fits: is_final,
            mutate: |records, at| set(&mut records[at].1, "/click_id", "x".into()),
            says: "1 results of clicks that there are not, such as x in attributed-clicks-",
        },
        Mutation {
            topic: "attributed-conversions",
            fits: is_final,
            mutate: drop_its_key,
            says: "1 conversions without a result, such as that of conversions-",
        },
        Mutation {
            topic: "attributed-conversions",
            fits: is_final,
            mutate: repeat_it,
            says: "1 results too many or out of their order",
        },
        Mutation {
            topic: "attributed-conversions",
            fits: shared,
            mutate: |records, at| set(&mut records[at].1, "/credits/0/credit_micros", 1.into()),
            says: "1 results whose credits do not add up",
        },
        Mutation {
            topic: "attributed-conversions",
            fits: shared,
            mutate: |records, at| set(&mut records[at].1, "/credits/0/touch_id", "x".into()),
            says: "1 credits of touches that there are not",
        },
        Mutation {
            topic: "attributed-conversions",
            fits: is_final,
            mutate: |records, at| set(&mut records[at].1, "/conversion_type", "x".into()),
            says: "1 results that are not of their conversion",
        },
        Mutation {
            topic: "campaign-minutes",
            fits: any,
            mutate: drop_its_key,
            says: "by recount, and there is no row",
        },
        Mutation {
            topic: "campaign-minutes",
            fits: any,
            mutate: |records, at| set(&mut records[at].1, "/spend_micros", 1.into()),
            says: "clicks and 1 micros in campaign-minutes-",
        },
        Mutation {
            topic: "campaign-minutes",
            fits: any,
            mutate: |records, at| set(&mut records[at].1, "/campaign_id", "x".into()),
            says: "campaign x, minute ",
        },
    ];
    let ran = Ran::dirty(5);
    let original = topics(&ran.log());
    let settings = settings(Some(&ran.landing()));
    for mutation in mutations {
        let mut topics = original.clone();
        let records = topics.get_mut(mutation.topic).unwrap();
        let at = match mutation.topic {
            // The last row of a minute counts.
            "campaign-minutes" => last(records, mutation.fits),
            // The last clicks and conversions could be open still.
            _ => first(records, mutation.fits),
        };
        (mutation.mutate)(records, at);
        let report = verify(&copy(&topics), &settings).unwrap();
        let found = findings(&report, mutation.topic);
        let says = mutation.says;
        assert!(!report.holds && found.contains(says), "{says}: {found}");
        let others = report
            .checks
            .iter()
            .filter(|check| check.name != mutation.topic);
        for other in others {
            assert!(
                other.holds(),
                "{says}: {}: {:?}",
                other.name,
                other.findings
            );
        }
    }
}

#[test]
fn files_and_reports_that_do_not_agree_are_noticed() {
    let ran = Ran::dirty(6);
    let original = topics(&ran.log());
    let settings = settings(Some(&ran.landing()));
    let finished = |value: &Value| value["finished"] == true && value["valid"] != 0;
    for (topic, mutate, says) in [
        (
            "landing-objects",
            drop_it as fn(&mut Vec<_>, usize),
            "was read and never announced",
        ),
        (
            "landing-files",
            drop_its_key,
            "is announced and was not read",
        ),
        (
            "landing-files",
            |records, at| set(&mut records[at].1, "/finished", false.into()),
            "is still being read",
        ),
        (
            "landing-files",
            |records, at| {
                set(&mut records[at].1, "/valid", 1.into());
                set(&mut records[at].1, "/lines", 1.into());
            },
            "valid by recount; its report says 1",
        ),
        (
            "landing-files",
            |records, at| set(&mut records[at].1, "/file_error", "torn".into()),
            "is usable; its report says torn",
        ),
    ] {
        let mut topics = original.clone();
        let records = topics.get_mut(topic).unwrap();
        let at = match topic {
            "landing-objects" => 0,
            _ => last(records, finished),
        };
        mutate(records, at);
        let report = verify(&copy(&topics), &settings).unwrap();
        let found = findings(&report, "files");
        assert!(!report.holds && found.contains(says), "{says}: {found}");
    }
    // A file that is not any more what was announced.
    let impressions = std::fs::read_dir(ran.landing().join("impressions")).unwrap();
    let path = impressions.last().unwrap().unwrap().path();
    std::fs::write(&path, "{}\n").unwrap();
    let found = findings(&ran.verify(), "files");
    assert!(
        found.contains("is gone or has changed since it was announced"),
        "{found}"
    );
}

#[test]
fn what_is_missing_is_noticed_without_the_landing_directory() {
    let ran = Ran::dirty(7);
    let original = topics(&ran.log());
    for (topic, says) in [
        ("impressions", "the reports of files say "),
        ("bid-requests", "the reports of files say "),
        ("quarantine", "quarantined lines by its report, and "),
    ] {
        let mut topics = original.clone();
        topics.get_mut(topic).unwrap().pop();
        let report = verify(&copy(&topics), &settings(None)).unwrap();
        let found = findings(&report, topic);
        assert!(!report.holds && found.contains(says), "{topic}: {found}");
    }
}

fn advertisex(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_advertisex"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn the_command_line_says_in_words_json_and_exit_code_what_holds() {
    let ran = Ran::dirty(8);
    let (landing, out) = (ran.landing(), ran.out());
    let [landing, out] = [&landing, &out].map(|path| path.to_str().unwrap());
    let whole = advertisex(&["verify", "--input", landing, "--out", out]);
    let text = String::from_utf8(whole.stdout).unwrap();
    assert_eq!(whole.status.code(), Some(0), "{text}");
    assert!(text.ends_with("verified: all 9 checks hold\n"), "{text}");

    let mut topics = topics(&ran.log());
    topics.get_mut("clicks").unwrap().pop();
    let broken = ran.directory.path().join("broken");
    write(
        &topics,
        &EmbeddedLog::open(&broken.join("state/log")).unwrap(),
    );
    let broken = broken.to_str().unwrap();
    let refused = advertisex(&["verify", "--input", landing, "--out", broken]);
    let text = String::from_utf8(refused.stdout).unwrap();
    assert_eq!(refused.status.code(), Some(3), "{text}");
    assert!(text.contains("1 lost, such as that of clicks/"), "{text}");
    assert!(text.contains("NOT verified: "), "{text}");
    let refused = advertisex(&["verify", "--input", landing, "--out", broken, "--json"]);
    let report: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(
        (refused.status.code(), &report["holds"]),
        (Some(3), &Value::Bool(false))
    );

    let nowhere = ran.directory.path().join("nowhere");
    let failed = advertisex(&["verify", "--out", nowhere.to_str().unwrap()]);
    let text = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(text.contains("run `advertisex demo` first"), "{text}");
}
