//! What becomes of a dead instance's stores.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use processor_core::testing::simulation::Draw;

/// Flips bits of a file of the stores below `state`, or cuts it short. Whether there was anything to damage.
///
/// # Errors
/// When a file cannot be changed.
pub fn corrupt(state: &Path, draw: &mut Draw) -> Result<bool> {
    let mut files = Vec::new();
    collect(&state.join("stores"), &mut files);
    files.retain(|file| fs::metadata(file).is_ok_and(|file| file.len() > 0));
    if files.is_empty() {
        return Ok(false);
    }
    files.sort();
    // One of them: where all are damaged, the first that is looked at tells.
    let file = draw.of_these(&files);
    let done = if draw.one_in(3) {
        cut(file, draw)
    } else {
        flip(file, draw)
    };
    done.with_context(|| format!("cannot damage {}", file.display()))?;
    Ok(true)
}

fn flip(file: &Path, draw: &mut Draw) -> io::Result<()> {
    let mut bytes = fs::read(file)?;
    // A single one may escape sled, see `state/tests/it/quarantine.rs`.
    for _ in 0..16 + draw.below(64) {
        let at = draw.index(bytes.len());
        bytes[at] ^= 1 << draw.below(8);
    }
    fs::write(file, bytes)
}

fn cut(file: &Path, draw: &mut Draw) -> io::Result<()> {
    let file = fs::File::options().write(true).open(file)?;
    let length = file.metadata()?.len();
    file.set_len(draw.below(length))
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
