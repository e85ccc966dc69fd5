//! What becomes of good and bad files.

use std::fs;
use std::io::Write;

use apache_avro::{Codec, Schema, Writer};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::BID_REQUEST_SCHEMA;

fn landing(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let file = directory.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
    directory
}

/// Lines as `number id` or `number rule field`.
fn read(path: &str, bytes: &[u8]) -> Result<Vec<String>, String> {
    read_with_warnings(path, bytes).map(|(lines, _)| lines)
}

fn read_with_warnings(path: &str, bytes: &[u8]) -> Result<(Vec<String>, Vec<String>), String> {
    let directory = landing(&[(path, bytes)]);
    let mut file = LandingFile::open(directory.path(), path).map_err(|error| error.reason)?;
    let mut lines = Vec::new();
    while let Some(Line { number, outcome }) = file.next_line().map_err(|error| error.reason)? {
        lines.push(match outcome {
            Ok(record) => format!("{number} {}", record.id()),
            Err(Rejection { rule, field, .. }) => {
                format!("{number} {rule} {}", field.unwrap_or_default())
                    .trim_end()
                    .to_owned()
            }
        });
    }
    Ok((lines, file.warnings()))
}

fn impression(id: &str) -> String {
    format!(
        r#"{{"impression_id":"{id}","creative_id":"cr","user_id":"u","timestamp":1704067200,"website":"w"}}"#
    )
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn bad_json_lines_are_rejected_one_by_one_with_their_line() {
    let text = format!(
        "{}\n\n{{\"creative_id\":\n{}\n[1]\n{}\n{}\n",
        impression("a"),
        r#"{"user_id":"u","timestamp":1704067200,"website":"w"}"#,
        r#"{"creative_id":"c","user_id":"u","timestamp":"50000-01-01T00:00:00Z","website":"w"}"#,
        impression("b"),
    );
    let lines = read("impressions/a.json", text.as_bytes()).unwrap();
    assert_eq!(
        lines,
        [
            "1 a",
            "3 malformed_json",
            "4 missing_field creative_id",
            "5 malformed_json",
            "6 timestamp_out_of_range timestamp",
            "7 b",
        ]
    );
}

#[test]
fn a_byte_that_is_not_utf8_costs_its_record_only() {
    let mut text = impression("a").into_bytes();
    text.extend_from_slice(b"\n{\"creative_id\":\"\xff\"}\n");
    text.extend_from_slice(impression("b").as_bytes());
    assert_eq!(
        read("impressions/a.json", &text).unwrap(),
        ["1 a", "2 not_utf8", "3 b"]
    );

    let csv = b"timestamp,user_id,campaign_id,click_id\n1704067200,u,c,k1\n1704067200,\xff,c,k2\n";
    assert_eq!(
        read("clicks/a.csv", csv).unwrap(),
        ["2 k1", "3 not_utf8 user_id"]
    );
}

#[test]
fn an_array_is_read_by_element_and_a_bad_one_rejected_alone() {
    let text = format!(" [ {}, {{bad}}, {} ] ", impression("a"), impression("b"));
    let lines = read("impressions/a.json", text.as_bytes()).unwrap();
    assert_eq!(lines, ["1 a", "2 malformed_json", "3 b"]);
    assert_eq!(
        read("impressions/a.json", b"[]").unwrap(),
        Vec::<String>::new()
    );
}

#[test]
fn an_array_cut_anywhere_is_a_file_error() {
    let text = format!("[{},{}]", impression("a,]}\\\"["), impression("b"));
    for end in 1..text.len() {
        let error = read("impressions/a.json", &text.as_bytes()[..end]).unwrap_err();
        assert_eq!(error, "it is truncated", "cut at {end}");
    }
    assert!(read("impressions/a.json", format!("{text}x").as_bytes()).is_err());
}

#[test]
fn an_overlong_line_is_rejected_and_the_next_one_read() {
    let text = format!(
        "{}\n{}\n{}",
        impression("a"),
        "x".repeat(3 << 20),
        impression("b")
    );
    assert_eq!(
        read("impressions/a.json", text.as_bytes()).unwrap(),
        ["1 a", "2 too_long", "3 b"]
    );
}

#[test]
fn unknown_fields_and_columns_are_ignored_and_named_once() {
    let line = impression("a").replace("\"website\"", "\"zone\":{\"x\":[1]},\"website\"");
    let (lines, warnings) =
        read_with_warnings("impressions/a.json", format!("{line}\n{line}").as_bytes()).unwrap();
    assert_eq!(
        (lines.len(), warnings),
        (2, vec!["the unknown field 'zone' is ignored".to_owned()])
    );

    let csv = b"extra,timestamp,user_id,campaign_id\n1,1704067200,u,c\n2,1704067201,u,c\n";
    let (lines, warnings) = read_with_warnings("clicks/a.csv", csv).unwrap();
    assert_eq!(
        (lines.len(), warnings),
        (2, vec!["the extra column 'extra' is ignored".to_owned()])
    );
}

#[test]
fn csv_columns_come_in_any_order_with_quotes_and_a_byte_order_mark() {
    let csv = "\u{feff}click_id,campaign_id,timestamp,user_id,website\r\n\
               k1,\"c,1\",2024-01-01T00:00:00Z,u,\"two\nlines\"\r\nk2,c,1704067200,u,null\r\n";
    assert_eq!(
        read("clicks/a.csv", csv.as_bytes()).unwrap(),
        ["2 k1", "4 k2"]
    );
}

#[test]
fn a_missing_required_column_rejects_every_row() {
    let csv = b"timestamp,campaign_id\n1704067200,c\n1704067201,c\n";
    let rejected = "missing_column user_id";
    assert_eq!(
        read("clicks/a.csv", csv).unwrap(),
        [format!("2 {rejected}"), format!("3 {rejected}")]
    );
}

#[test]
fn bad_csv_rows_are_rejected_one_by_one() {
    let csv = b"timestamp,user_id,campaign_id,conversion_type,value_micros,conversion_id\n\
                1704067200,u,c,purchase,-5,v1\n1704067200,u,c\n12,u,c,purchase,1,v2\n\
                1704067200,,c,purchase,1,v3\n1704067200,u,c,purchase,1.5,v4\n";
    assert_eq!(
        read("conversions/a.csv", csv).unwrap(),
        [
            "2 v1",
            "3 column_count",
            "4 timestamp_out_of_range timestamp",
            "5 missing_field user_id",
            "6 bad_value value_micros",
        ]
    );
}

#[test]
fn empty_files_are_file_errors_and_a_header_alone_is_none() {
    for path in ["impressions/a.json", "clicks/a.csv", "bid_requests/a.avro"] {
        assert_eq!(read(path, b"").unwrap_err(), "it is empty", "{path}");
    }
    assert_eq!(
        read("impressions/a.json", b" \n\n").unwrap_err(),
        "it is empty"
    );
    assert_eq!(
        read("clicks/a.csv.gz", &gzip(b"")).unwrap_err(),
        "it is empty"
    );
    let header = b"timestamp,user_id,campaign_id\n";
    assert_eq!(read("clicks/a.csv", header).unwrap(), Vec::<String>::new());
}

#[test]
fn a_packed_file_cut_anywhere_gives_no_record() {
    let text = format!("{}\n{}\n", impression("a"), impression("b"));
    let gz = gzip(text.as_bytes());
    assert_eq!(read("impressions/a.json.gz", &gz).unwrap(), ["1 a", "2 b"]);
    for end in 0..gz.len() {
        assert!(
            read("impressions/a.json.gz", &gz[..end]).is_err(),
            "gzip cut at {end}"
        );
    }
    let zst = zstd::encode_all(text.as_bytes(), 3).unwrap();
    assert_eq!(
        read("impressions/a.json.zst", &zst).unwrap(),
        ["1 a", "2 b"]
    );
    for end in 0..zst.len() {
        assert!(
            read("impressions/a.json.zst", &zst[..end]).is_err(),
            "zstd cut at {end}"
        );
    }
    let two_members = [gzip(impression("a").as_bytes()), gzip(b"\n"), gz].concat();
    assert_eq!(
        read("impressions/a.json.gz", &two_members).unwrap(),
        ["1 a", "2 a", "3 b"]
    );
}

fn container(requests: &[&str]) -> Vec<u8> {
    let schema = Schema::parse_str(BID_REQUEST_SCHEMA).unwrap();
    let mut writer = Writer::builder()
        .schema(&schema)
        .writer(Vec::new())
        .codec(Codec::Null)
        .marker([7; 16])
        .build()
        .unwrap();
    for request in requests {
        let request: crate::BidRequest = serde_json::from_str(request).unwrap();
        writer.append_ser(request).unwrap();
    }
    writer.into_inner().unwrap()
}

#[test]
fn a_container_cut_anywhere_is_a_file_error_or_whole() {
    let good = r#"{"id":"b1","ts":1704067200000,"exchange":"x","user":{"id":"u"}}"#;
    let old = r#"{"id":"b2","ts":5,"exchange":"x"}"#;
    let bytes = container(&[good, old]);
    let whole = ["1 b1", "2 timestamp_out_of_range ts"];
    assert_eq!(read("bid_requests/a.avro", &bytes).unwrap(), whole);
    let header = container(&[]).len();
    for end in 0..bytes.len() {
        let lines = read("bid_requests/a.avro", &bytes[..end]);
        // Behind the header comes one block: without it the container is whole and empty.
        assert_eq!(lines.is_ok(), end == header, "cut at {end}: {lines:?}");
    }
}

#[test]
fn a_block_that_claims_more_records_than_it_has_gives_those_and_one_error() {
    let bytes = container(&[r#"{"id":"b1","ts":1704067200000,"exchange":"x"}"#]);
    let header = container(&[]).len();
    assert_eq!(bytes[header], 2, "one record, in zigzag");
    // As many as there are numbers, in ten bytes.
    let claim = [&[0xfe; 1][..], &[0xff; 8], &[1]].concat();
    let forged = [&bytes[..header], &claim, &bytes[header + 1..]].concat();
    let directory = landing(&[("bid_requests/a.avro", &forged)]);
    let mut file = LandingFile::open(directory.path(), "bid_requests/a.avro").unwrap();
    assert_eq!(
        file.next_line().unwrap().unwrap().outcome.unwrap().id(),
        "b1"
    );
    let broken = file.next_line().unwrap().unwrap().outcome.unwrap_err();
    assert_eq!(broken.rule, "malformed_avro");
    let error = file.next_line().unwrap_err().to_string();
    assert!(error.contains("record 2 cannot be decoded"), "{error}");
}

#[test]
fn an_impossible_number_of_metadata_is_a_file_error() {
    // The most negative number, which has no positive one.
    let bytes = [&b"Obj\x01"[..], &[0xff; 9], &[1]].concat();
    let error = read("bid_requests/a.avro", &bytes).unwrap_err();
    assert!(
        error.contains("an impossible number of metadata"),
        "{error}"
    );
}

#[test]
fn ids_are_given_or_derived_and_numbers_count_as_text() {
    let line = r#"{"creative_id":7,"user_id":"u","timestamp":"1704067200","website":"w","cost_micros":"80"}"#;
    let directory = landing(&[("impressions/a.json", format!("{line}\n{line}").as_bytes())]);
    let mut file = LandingFile::open(directory.path(), "impressions/a.json").unwrap();
    let mut next = || file.next_line().unwrap().unwrap().outcome.unwrap();
    let (first, second) = (next(), next());
    assert_eq!(first, second);
    let LandingRecord::Impression(impression) = first else {
        panic!("an impression")
    };
    assert_eq!(
        (impression.creative_id.as_str(), impression.cost_micros),
        ("7", 80)
    );
    assert_eq!(impression.impression_id.len(), 32);
}

#[test]
fn skipping_goes_on_where_a_reader_stopped() {
    let text = format!("{}\n{{}}\n{}\n", impression("a"), impression("b"));
    let directory = landing(&[("impressions/a.json", text.as_bytes())]);
    let mut file = LandingFile::open(directory.path(), "impressions/a.json").unwrap();
    file.skip(2).unwrap();
    assert_eq!(
        file.next_line().unwrap().unwrap().outcome.unwrap().id(),
        "b"
    );
    assert_eq!(file.next_line().unwrap(), None);
}

#[test]
fn the_listing_is_in_byte_order_and_names_what_it_ignores() {
    let directory = landing(&[
        ("impressions/b.json", b"x"),
        ("impressions/B.json", b"x"),
        ("impressions/.hidden.json", b"x"),
        ("impressions/c.json.tmp", b"x"),
        ("impressions/notes.txt", b"x"),
        ("clicks/a.csv", b"y"),
        ("dims/creatives.csv", b"creative_id,campaign_id\ncr,c\n"),
        ("impression/typo.json", b"x"),
    ]);
    let listing = list(directory.path()).unwrap();
    let paths: Vec<&str> = listing
        .files
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(
        paths,
        ["clicks/a.csv", "impressions/B.json", "impressions/b.json"]
    );
    let etag_of = |path: &str| etag(directory.path(), path);
    assert_eq!(etag_of("impressions/B.json"), etag_of("impressions/b.json"));
    assert_ne!(etag_of("clicks/a.csv"), etag_of("impressions/b.json"));
    assert_eq!(etag_of("clicks/gone.csv"), "unreadable");
    let ignored: Vec<&str> = listing.ignored.iter().map(|(path, _)| &**path).collect();
    assert_eq!(ignored, ["impression", "impressions/notes.txt"]);
    assert_eq!(creatives(directory.path()).unwrap()[0].campaign_id, "c");
    assert!(campaigns(directory.path()).unwrap().is_empty());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for path in ["impressions/a.json", "clicks/a.csv", "bid_requests/a.avro", "clicks/a.csv.gz"] {
            let _ = read(path, &bytes);
        }
    }

    #[test]
    fn what_csv_writes_is_read_back(
        rows in prop::collection::vec(("[^\0]{1,12}", "[a-z,\"\n ]{1,12}"), 1..20)
    ) {
        let mut writer = ::csv::Writer::from_writer(Vec::new());
        writer.write_record(["user_id", "timestamp", "campaign_id", "click_id"]).unwrap();
        for (i, (user, campaign)) in rows.iter().enumerate() {
            let id = format!("k{i}");
            writer.write_record([user.as_str(), "1704067200", campaign, &id]).unwrap();
        }
        let bytes = writer.into_inner().unwrap();
        let directory = landing(&[("clicks/a.csv", &bytes)]);
        let mut file = LandingFile::open(directory.path(), "clicks/a.csv").unwrap();
        for (user, campaign) in &rows {
            let line = file.next_line().unwrap().unwrap();
            let absent = |text: &str| matches!(text, "" | "null" | "NULL");
            if absent(user) || absent(campaign) { continue; }
            let Ok(LandingRecord::Click(click)) = line.outcome else { panic!("{line:?}") };
            prop_assert_eq!((&click.user_id, &click.campaign_id), (user, campaign));
        }
        prop_assert_eq!(file.next_line().unwrap(), None);
    }
}
