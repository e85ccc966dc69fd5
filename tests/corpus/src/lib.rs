//! The corpora of the fuzz targets in `fuzz/corpus`, for the tests of the crates that have the checks.

use std::path::Path;

/// Calls `check` with every file of the corpus of `target`. The name of each is printed before, so that the last one in the
/// output of a test that fails is the culprit.
///
/// # Panics
/// When `check` does, or there is no such corpus.
pub fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let files = std::fs::read_dir(&corpus).expect("the corpus is part of the repository");
    let mut count = 0;
    for file in files {
        let path = file.expect("a file of the corpus").path();
        eprintln!("{}", path.display());
        check(&std::fs::read(&path).expect("a file of the corpus"));
        count += 1;
    }
    assert!(count > 0, "no corpus in {}", corpus.display());
}
