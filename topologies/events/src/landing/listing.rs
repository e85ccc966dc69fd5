//! Which files there are.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::UNIX_EPOCH;

use xxhash_rust::xxh3::Xxh3;

use crate::Feed;

/// What may stand beside the feeds: dimensions, and the truth of a generated directory.
const BESIDE: [&str; 2] = ["dims", "truth"];

/// A file of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// Path relative to the landing directory, with `/`.
    pub path: String,
    /// Its feed.
    pub feed: Feed,
    /// Its size as it lies there.
    pub bytes: u64,
    /// When it was last changed, in epoch milliseconds, as the file system has it.
    pub modified_ms: i64,
}

/// What a landing directory holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Files of feeds, by path in byte order.
    pub files: Vec<ListedFile>,
    /// Files that are none, with the reason.
    pub ignored: Vec<(String, String)>,
}

/// Lists the feeds under `root`. Hidden files and `*.tmp` are taken for unfinished and skipped without a word.
///
/// # Errors
/// When a directory cannot be read.
pub fn list(root: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for feed in Feed::ALL {
        let directory = root.join(feed.name());
        if directory.is_dir() {
            walk(&directory, feed.name(), &mut listing)?;
        }
    }
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_known = Feed::ALL.iter().any(|feed| feed.name() == name) || BESIDE.contains(&&*name);
        if !is_known && !name.starts_with('.') {
            let reason = "no feed lands there (impressions, clicks, conversions, bid_requests)";
            listing.ignored.push((name, reason.to_owned()));
        }
    }
    listing.files.sort_by(|a, b| a.path.cmp(&b.path));
    listing.ignored.sort();
    Ok(listing)
}

fn walk(directory: &Path, relative: &str, listing: &mut Listing) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{relative}/{name}");
        if name.starts_with('.') || name.ends_with(".tmp") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &path, listing)?;
        } else if let Some(feed) = Feed::of_path(&path) {
            // A file that cannot be read is listed all the same: its reader says why.
            let metadata = entry.metadata().ok();
            listing.files.push(ListedFile {
                path,
                feed,
                bytes: metadata.as_ref().map_or(0, fs::Metadata::len),
                modified_ms: metadata.as_ref().map_or(0, modified_ms),
            });
        } else {
            let reason = "its suffix is none that this feed has".to_owned();
            listing.ignored.push((path, reason));
        }
    }
    Ok(())
}

fn modified_ms(metadata: &fs::Metadata) -> i64 {
    let since_epoch = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since_epoch.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// What [`etag`] calls a file that cannot be read; its reader says why.
pub const UNREADABLE: &str = "unreadable";

/// Hash of a file's bytes: the same file found again, or copied over with the same content, has the same.
#[must_use]
pub fn etag(root: &Path, path: &str) -> String {
    hash(&root.join(path)).unwrap_or_else(|_| UNREADABLE.to_owned())
}

fn hash(file: &Path) -> io::Result<String> {
    let mut file = fs::File::open(file)?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:032x}", hash.digest128())),
            count => hash.update(&buffer[..count]),
        }
    }
}
