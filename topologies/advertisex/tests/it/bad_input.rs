//! Bad input is quarantined with file, line and reason, and the run goes on.

use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::{buckets, demo, lines, put, run};

const DIMS: &str = "creative_id,campaign_id,advertiser_id,name\ncr,c,a,Creative\n";

fn impression(id: &str, timestamp: &str) -> String {
    format!(
        "{{\"impression_id\":\"{id}\",\"creative_id\":\"cr\",\"user_id\":\"u\",\"timestamp\":{timestamp},\"website\":\"w\"}}\n"
    )
}

/// `line rule` of the quarantined records of `path`.
fn quarantined(out: &Path, path: &str) -> Vec<String> {
    let records = lines(out, "quarantine.jsonl");
    let of_path = records.iter().filter(|record| record["path"] == path);
    of_path
        .map(|record| {
            assert!(!record["reason"].as_str().unwrap().is_empty());
            format!("{} {}", record["line"], record["rule"].as_str().unwrap())
        })
        .collect()
}

#[test]
fn every_kind_of_bad_record_is_quarantined_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (landing, out) = (
        directory.path().join("landing"),
        directory.path().join("out"),
    );
    put(&landing, "dims/creatives.csv", DIMS);
    let mut json = impression("good", "1704067200").into_bytes();
    json.extend(b"{\"impression_id\": nonsense\n");
    json.extend(impression("year 50000", "\"50000-01-01T00:00:00Z\"").bytes());
    json.extend(impression("too small", "12").bytes());
    json.extend(b"{\"creative_id\":\"cr\",\"user_id\":\"u\xff\",\"timestamp\":1704067200,\"website\":\"w\"}\n");
    json.extend(b"{\"user_id\":\"u\",\"timestamp\":1704067200,\"website\":\"w\"}\n");
    json.extend(
        impression("unknown creative", "1704067200")
            .replace("\"cr\"", "\"nobody\"")
            .bytes(),
    );
    json.extend(impression("good", "1704067201").bytes());
    json.extend(impression("also good", "1704067200123").bytes());
    put(&landing, "impressions/a.json", &json);
    put(
        &landing,
        "clicks/missing.csv",
        "timestamp,campaign_id\n1704067200,c\n1704067201,c\n",
    );
    put(
        &landing,
        "clicks/extra.csv",
        "zone,timestamp,user_id,campaign_id\nz,1704067201,u,c\n",
    );

    let printed = run(&demo(&landing, &out)).unwrap();
    assert_eq!(
        quarantined(&out, "impressions/a.json"),
        [
            "2 malformed_json",
            "3 timestamp_out_of_range",
            "4 timestamp_out_of_range",
            "5 not_utf8",
            "6 missing_field",
            "7 dim_missing",
        ]
    );
    assert_eq!(buckets(&out, "impressions/a.json"), ([9, 2, 1, 6, 0], None));
    assert_eq!(
        quarantined(&out, "clicks/missing.csv"),
        ["2 missing_column", "3 missing_column"]
    );
    assert_eq!(buckets(&out, "clicks/extra.csv"), ([1, 1, 0, 0, 0], None));
    assert_eq!(
        printed
            .matches("the extra column 'zone' is ignored")
            .count(),
        1,
        "{printed}"
    );
    let clicks = lines(&out, "attributed_clicks.jsonl");
    assert_eq!(
        (clicks.len(), &clicks[0]["impression_id"]),
        (1, &"also good".into())
    );
}

#[test]
fn a_delivery_that_is_repeated_is_a_duplicate_for_two_days_of_its_feed_and_late_after_that() {
    let directory = tempfile::tempdir().unwrap();
    let landing = directory.path().join("landing");
    put(&landing, "dims/creatives.csv", DIMS);
    let two_days = 48 * 60 * 60;
    let at = |id: &str, second: u64| impression(id, &(1_704_067_200 + second).to_string());
    let records = [
        at("a", 0),
        at("b", two_days - 1),
        at("a", 0),
        at("c", two_days),
        at("a", 0),
        at("b", two_days - 1),
    ];
    put(&landing, "impressions/a.json", records.concat());
    // Each feed has a time of its own.
    let click = |second: u64| format!("{},u,c\n", 1_704_067_200 + second);
    let clicks = [
        "timestamp,user_id,campaign_id\n".to_owned(),
        click(0),
        click(0),
    ];
    put(&landing, "clicks/a.csv", clicks.concat());
    let out = directory.path().join("out");
    run(&demo(&landing, &out)).unwrap();
    // Lines, then valid, duplicate, quarantined and late.
    assert_eq!(buckets(&out, "impressions/a.json"), ([6, 3, 2, 0, 1], None));
    assert_eq!(buckets(&out, "clicks/a.csv"), ([2, 1, 1, 0, 0], None));
}

#[test]
fn files_that_cannot_be_used_have_an_error_and_no_records() {
    let directory = tempfile::tempdir().unwrap();
    let (landing, out) = (
        directory.path().join("landing"),
        directory.path().join("out"),
    );
    put(&landing, "dims/creatives.csv", DIMS);
    put(&landing, "impressions/empty.json", "");
    let mut gz = GzEncoder::new(Vec::new(), Compression::default());
    for number in 0..1_000 {
        gz.write_all(impression(&format!("i{number}"), "1704067200").as_bytes())
            .unwrap();
    }
    let whole = gz.finish().unwrap();
    put(
        &landing,
        "impressions/truncated.json.gz",
        &whole[..whole.len() / 2],
    );
    put(&landing, "impressions/whole.json.gz", &whole);
    put(&landing, "bid_requests/broken.avro", b"Obj\x01 nonsense");
    put(&landing, "clicks/notes.txt", "not a feed's file");

    run(&demo(&landing, &out)).unwrap();
    for path in [
        "impressions/empty.json",
        "impressions/truncated.json.gz",
        "bid_requests/broken.avro",
    ] {
        let (numbers, error) = buckets(&out, path);
        assert_eq!(numbers, [0; 5], "{path}");
        assert!(error.is_some(), "{path}");
    }
    assert_eq!(
        buckets(&out, "impressions/whole.json.gz"),
        ([1_000, 1_000, 0, 0, 0], None)
    );
}

#[test]
fn a_missing_input_is_one_clear_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let error = run(&demo(&directory.path().join("nowhere"), directory.path())).unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[test]
fn a_file_that_changes_after_it_was_read_is_reported_and_not_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let (landing, out) = (
        directory.path().join("landing"),
        directory.path().join("out"),
    );
    put(&landing, "dims/creatives.csv", DIMS);
    put(
        &landing,
        "impressions/a.json",
        impression("first", "1704067200"),
    );
    run(&demo(&landing, &out)).unwrap();
    put(
        &landing,
        "impressions/a.json",
        impression("first", "1704067200") + &impression("second", "1704067201"),
    );
    run(&demo(&landing, &out)).unwrap();
    assert_eq!(buckets(&out, "impressions/a.json"), ([1, 1, 0, 0, 0], None));
    assert_eq!(quarantined(&out, "impressions/a.json"), ["0 file_changed"]);
}

#[test]
fn a_file_that_could_not_be_read_is_read_once_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let (landing, out) = (
        directory.path().join("landing"),
        directory.path().join("out"),
    );
    put(&landing, "dims/creatives.csv", DIMS);
    // A link to nowhere: listed, and unreadable even for root.
    std::fs::create_dir_all(landing.join("impressions")).unwrap();
    let (target, link) = (
        directory.path().join("later"),
        landing.join("impressions/a.json"),
    );
    std::os::unix::fs::symlink(&target, &link).unwrap();
    run(&demo(&landing, &out)).unwrap();
    let (numbers, error) = buckets(&out, "impressions/a.json");
    assert_eq!((numbers, error.is_some()), ([0; 5], true));

    std::fs::write(&target, impression("i", "1704067200")).unwrap();
    run(&demo(&landing, &out)).unwrap();
    assert_eq!(buckets(&out, "impressions/a.json"), ([1, 1, 0, 0, 0], None));
}
