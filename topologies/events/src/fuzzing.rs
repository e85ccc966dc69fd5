//! What must hold for bytes that nobody of ours wrote: each function takes any bytes and panics where a promise breaks.
//!
//! The fuzzer calls these (`fuzz/README.md` has the list), and a test calls them for every file of its corpora.

use std::fmt::Debug;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::landing::{self, LandingFile, Line};
use crate::timestamp::{self, EARLIEST_MS, END_MS};
use crate::{
    AttributedClick, AttributedConversion, BidRequest, CampaignMinute, Click, Conversion,
    Impression,
};

/// Files of each feed; the first byte chooses feed and packing. Some are packed here, so that what lies behind the packing
/// is reached, and some are said to be packed.
pub fn landing(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    let path = match kind % 4 {
        0 => "impressions/a.json",
        1 => "clicks/a.csv",
        2 => "conversions/a.csv",
        _ => "bid_requests/a.avro",
    };
    let (suffix, packed) = match kind / 4 % 8 {
        1 => (".gz", gzipped(bytes)),
        2 => (
            ".zst",
            zstd::encode_all(bytes, 1).expect("memory takes all"),
        ),
        3 => (".gz", bytes.to_vec()),
        4 => (".zst", bytes.to_vec()),
        _ => ("", bytes.to_vec()),
    };
    file(&format!("{path}{suffix}"), &packed);
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

/// Every record is an event that keeps the contract, or says which rule it breaks; reading a file again, or from the middle
/// on, gives the same; a file that cannot be read says so by its name.
fn file(path: &str, bytes: &[u8]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join(path);
    fs::create_dir_all(file.parent().expect("it has a feed")).expect("a directory");
    fs::write(file, bytes).expect("a file in the temporary directory");
    let Some(lines) = lines(directory.path(), path, 0) else {
        return;
    };
    for line in &lines {
        match &line.outcome {
            Ok(record) => {
                assert!(!record.id().is_empty());
                assert!((EARLIEST_MS..END_MS).contains(&record.timestamp()));
            }
            Err(rejection) => {
                assert!(!rejection.rule.is_empty() && !rejection.reason.is_empty());
            }
        }
    }
    // A lone CR ends a row of CSV and no line, so two rows may stand in one.
    assert!(lines.windows(2).all(|two| two[0].number <= two[1].number));
    let half = lines.len() / 2;
    let rest = self::lines(directory.path(), path, half);
    assert_eq!(rest.as_deref(), Some(&lines[half..]));
}

/// The records behind the first `skipped`; none when the file cannot be read.
fn lines(root: &Path, path: &str, skipped: usize) -> Option<Vec<Line>> {
    let mut file = match LandingFile::open(root, path) {
        Ok(file) => file,
        Err(error) => {
            assert_eq!(error.path, path);
            assert!(!error.reason.is_empty());
            return None;
        }
    };
    let skipped = u64::try_from(skipped).expect("a count");
    file.skip(skipped).expect("they were there a moment ago");
    let mut lines = Vec::new();
    // A damaged block is an error behind the records before it.
    while let Ok(Some(line)) = file.next_line() {
        lines.push(line);
        assert!(lines.len() < 1 << 20, "no input of the fuzzer has as many");
    }
    Some(lines)
}

/// Dimensions, times as text, and the values of topics; the first byte chooses.
pub fn values(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % 9 {
        0 => dimensions(bytes),
        1 => {
            if let Ok(text) = std::str::from_utf8(bytes) {
                time(text);
            }
        }
        2 => survives::<Impression>(bytes),
        3 => survives::<Click>(bytes),
        4 => survives::<Conversion>(bytes),
        5 => survives::<BidRequest>(bytes),
        6 => survives::<AttributedClick>(bytes),
        7 => survives::<AttributedConversion>(bytes),
        _ => survives::<CampaignMinute>(bytes),
    }
}

fn dimensions(bytes: &[u8]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dims = directory.path().join("dims");
    fs::create_dir_all(&dims).expect("a directory");
    for name in ["creatives.csv", "campaigns.csv"] {
        fs::write(dims.join(name), bytes).expect("a file in the temporary directory");
    }
    let creatives = landing::creatives(directory.path()).map(drop);
    let campaigns = landing::campaigns(directory.path()).map(drop);
    for (name, read) in [("creatives", creatives), ("campaigns", campaigns)] {
        if let Err(error) = read {
            assert_eq!(error.path, format!("dims/{name}.csv"));
        }
    }
}

fn time(text: &str) {
    match timestamp::parse(text) {
        Ok(ms) => {
            assert!((EARLIEST_MS..END_MS).contains(&ms));
            assert_eq!(timestamp::parse(&ms.to_string()), Ok(ms));
        }
        Err(error) => assert!(error.to_string().len() < 300, "{error}"),
    }
}

fn survives<T: Serialize + DeserializeOwned + Debug>(json: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(json) else {
        return;
    };
    let written = serde_json::to_vec(&value).expect("it was JSON");
    let again: T = serde_json::from_slice(&written).expect("it was written a moment ago");
    assert_eq!(format!("{again:?}"), format!("{value:?}"));
}

#[cfg(test)]
mod tests {
    use corpus::replay;

    #[test]
    fn the_corpus_of_landing_files_breaks_no_promise() {
        replay("landing", super::landing);
    }

    #[test]
    fn the_corpus_of_values_breaks_no_promise() {
        replay("values", super::values);
    }
}
