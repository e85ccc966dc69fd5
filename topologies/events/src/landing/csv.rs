//! CSV with a header, its columns in any order.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use csv::{ByteRecord, Reader, ReaderBuilder};

use crate::Feed;

use super::fields::{Fields, Text, names, required};
use super::{FileError, Line, Location, Records, Rejection, source};

/// A header is not longer, in bytes.
const MAX_HEADER: u64 = 64 << 10;

/// Rows of a CSV file.
pub(super) struct CsvRecords {
    location: Location,
    feed: Feed,
    reader: Reader<Box<dyn BufRead>>,
    /// For each column the field it holds.
    columns: Vec<Option<usize>>,
    /// What is wrong with the header; then no row can be taken.
    header_fault: Option<Rejection>,
    warnings: Vec<String>,
    row: ByteRecord,
    /// Lines end in CR LF. The reader ends a row at the CR, so it counts the LF for the row that follows. A lone CR ends a row as
    /// well, and no line: what follows it in such a file has the number of the next line.
    crlf: bool,
}

impl CsvRecords {
    /// Verifies and opens a file of clicks or conversions.
    pub(super) fn open(location: &Location, feed: Feed) -> Result<Self, FileError> {
        let whole = source::verify(location.open()?);
        if !whole.map_err(|error| location.error(source::explain(&error)))? {
            return Err(location.error("it is empty"));
        }
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(location.open()?);
        let mut header = ByteRecord::new();
        reader
            .read_byte_record(&mut header)
            .map_err(|error| location.error(format_args!("its header cannot be read: {error}")))?;

        let mut records = Self {
            location: location.clone(),
            feed,
            reader,
            columns: Vec::new(),
            header_fault: None,
            warnings: Vec::new(),
            row: ByteRecord::new(),
            crlf: ends_in_crlf(&mut *location.open()?)
                .map_err(|error| location.error(source::explain(&error)))?,
        };
        records.read_header(&header);
        Ok(records)
    }

    fn read_header(&mut self, header: &ByteRecord) {
        let known = names(self.feed);
        for (i, name) in header.iter().enumerate() {
            let name = if i == 0 {
                name.strip_prefix(b"\xef\xbb\xbf").unwrap_or(name)
            } else {
                name
            };
            let name = String::from_utf8_lossy(name);
            let field = known.iter().position(|known| *known == name.trim());
            match field {
                None => self
                    .warnings
                    .push(format!("the extra column '{}' is ignored", name.trim())),
                Some(field) if self.columns.contains(&Some(field)) => {
                    let reason = format!("the column {} stands twice in the header", known[field]);
                    self.header_fault =
                        Some(Rejection::of_field("repeated_column", known[field], reason));
                }
                Some(_) => {}
            }
            self.columns.push(field);
        }
        let missing = (0..required(self.feed)).find(|field| !self.columns.contains(&Some(*field)));
        if let Some(field) = missing {
            let reason = format!(
                "the required column {} is missing in the header",
                known[field]
            );
            self.header_fault = Some(Rejection::of_field("missing_column", known[field], reason));
        }
    }

    fn parse(&self) -> Result<super::LandingRecord, Rejection> {
        if let Some(fault) = &self.header_fault {
            return Err(fault.clone());
        }
        if self.row.len() != self.columns.len() {
            let reason = format!(
                "the row has {} fields, the header {}",
                self.row.len(),
                self.columns.len()
            );
            return Err(Rejection::new("column_count", reason));
        }
        let mut fields = Fields::new(self.feed);
        for (value, field) in self.row.iter().zip(&self.columns) {
            let Some(field) = *field else { continue };
            let text = std::str::from_utf8(value).map_err(|_| {
                let name = names(self.feed)[field];
                Rejection::of_field("not_utf8", name, format!("{name} is not UTF-8"))
            })?;
            fields.set(field, Text::given(Cow::Borrowed(text)));
        }
        fields.into_record()
    }

    /// The row as it may have stood in the file.
    fn original(&self) -> Vec<u8> {
        self.row.iter().collect::<Vec<_>>().join(&b',')
    }
}

impl Records for CsvRecords {
    fn next(&mut self) -> Result<Option<Line>, FileError> {
        match self.reader.read_byte_record(&mut self.row) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let line = self.row.position().map_or(0, csv::Position::line);
                let number = line + u64::from(self.crlf);
                let outcome = self
                    .parse()
                    .map_err(|rejection| rejection.with_original(&self.original()));
                Ok(Some(Line { number, outcome }))
            }
            Err(error) => Err(self
                .location
                .error(format_args!("it cannot be read on: {error}"))),
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }
}

/// Whether the first line does.
fn ends_in_crlf(reader: &mut dyn BufRead) -> io::Result<bool> {
    let mut line = Vec::new();
    reader.take(MAX_HEADER).read_until(b'\n', &mut line)?;
    Ok(line.ends_with(b"\r\n"))
}
