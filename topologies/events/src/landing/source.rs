//! The bytes of a file, unpacked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

const BUFFER: usize = 128 << 10;

/// Opens `file`, unpacking `.gz` and `.zst`.
pub(super) fn open(file: &Path) -> io::Result<Box<dyn BufRead>> {
    let opened = File::open(file)?;
    if !opened.metadata()?.is_file() {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    let raw = BufReader::with_capacity(BUFFER, opened);
    Ok(match file.extension().and_then(|suffix| suffix.to_str()) {
        Some("gz") => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(raw))),
        Some("zst") => {
            let unpacked = zstd::Decoder::with_buffer(raw)?;
            Box::new(BufReader::with_capacity(BUFFER, unpacked))
        }
        _ => Box::new(raw),
    })
}

/// Reads to the end. Whether there was anything but white space.
pub(super) fn verify(mut reader: impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER];
    let mut anything = false;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(anything),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        anything = anything
            || buffer[..count]
                .iter()
                .any(|byte| !byte.is_ascii_whitespace());
    }
}

/// What is wrong with a file, for people.
pub(super) fn explain(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof => "it is truncated".to_owned(),
        ErrorKind::NotFound => "it is not there (any more)".to_owned(),
        ErrorKind::PermissionDenied => "it may not be read; check its permissions".to_owned(),
        ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::Other => {
            format!("it is truncated or damaged: {error}")
        }
        _ => format!("it cannot be read: {error}"),
    }
}
