//! Landing directories and demos.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use advertisex::demo::Demo;
use attribution::ConversionRules;
use processor_core::Backend;
use serde_json::Value;

/// Writes a file of a landing directory.
pub(crate) fn put(landing: &Path, path: &str, bytes: impl AsRef<[u8]>) {
    let file = landing.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, bytes).unwrap();
}

pub(crate) fn demo(landing: &Path, out: &Path) -> Demo {
    Demo {
        input: Some(landing.to_owned()),
        out: out.to_owned(),
        state: None,
        backend: Backend::default(),
        once: true,
        memory_bytes: 512 << 20,
        click_window: Duration::from_secs(30 * 60),
        conversions: ConversionRules::default(),
        grace: Duration::from_secs(5 * 60),
        id_ttl: ingest::ID_TTL,
    }
}

/// Runs a demo to its end; what it printed.
pub(crate) fn run(demo: &Demo) -> anyhow::Result<String> {
    let mut printed = String::new();
    demo.run(&AtomicBool::new(false), &mut |text| printed.push_str(text))?;
    Ok(printed)
}

/// The lines of a `.jsonl` file.
pub(crate) fn lines(out: &Path, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(out.join(file)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The buckets of `path`: lines, valid, duplicate, quarantined, late; and the file's error.
pub(crate) fn buckets(out: &Path, path: &str) -> ([u64; 5], Option<String>) {
    let text = fs::read_to_string(out.join("buckets.json")).unwrap();
    let buckets: Value = serde_json::from_str(&text).unwrap();
    let files = buckets["files"].as_array().unwrap();
    let file = files.iter().find(|file| file["path"] == path).unwrap();
    let number = |name: &str| file[name].as_u64().unwrap();
    assert_eq!(number("invalid_traffic"), 0);
    let names = ["lines", "valid", "duplicate", "quarantined", "late"];
    (
        names.map(number),
        file["file_error"].as_str().map(str::to_owned),
    )
}
