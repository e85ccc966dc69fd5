//! Avro object containers of bid requests.
//!
//! The reader of the Avro library takes the end of the input for the end of the data, so a container that was cut off
//! would look complete. The verification walks the blocks by their sizes and sync markers instead:
//!
//! ```text
//! "Obj" 1 ‖ metadata map ‖ sync (16) ‖ { record count ‖ byte count ‖ data ‖ sync (16) }*
//! ```

use std::io::{self, BufRead, ErrorKind, Read};
use std::sync::LazyLock;

use apache_avro::{Reader, Schema, from_value};

use crate::timestamp::{EARLIEST_MS, END_MS};
use crate::{BID_REQUEST_SCHEMA, BidRequest};

use super::{FileError, LandingRecord, Line, Location, Records, Rejection, source};

static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| Schema::parse_str(BID_REQUEST_SCHEMA).expect("the shipped schema is valid"));

/// Records of a container.
pub(super) struct AvroRecords {
    location: Location,
    values: Box<dyn Iterator<Item = Result<apache_avro::types::Value, apache_avro::Error>>>,
    number: u64,
    total: u64,
    /// A record could not be decoded: what follows it has no beginning any more.
    broken: bool,
}

impl AvroRecords {
    /// Verifies and opens a file of bid requests.
    pub(super) fn open(location: &Location) -> Result<Self, FileError> {
        let failed = |error: io::Error| location.error(source::explain(&error));
        let mut reader = location.open()?;
        if reader.fill_buf().map_err(failed)?.is_empty() {
            return Err(location.error("it is empty"));
        }
        let total = walk(&mut reader).map_err(failed)?;
        let values = Reader::builder(location.open()?)
            .reader_schema(&SCHEMA)
            .build()
            .map_err(|error| location.error(format_args!("its header cannot be read: {error}")))?;
        Ok(Self {
            location: location.clone(),
            values: Box::new(values),
            number: 0,
            total,
            broken: false,
        })
    }

    fn parse(&mut self) -> Result<LandingRecord, Rejection> {
        let value = self.values.next().unwrap_or_else(|| {
            Err(
                apache_avro::error::Details::ReadBlockMarker(ErrorKind::UnexpectedEof.into())
                    .into(),
            )
        });
        value.map_or_else(
            |error| {
                self.broken = true;
                let reason = format!("the record cannot be decoded: {error}");
                Err(Rejection::new("malformed_avro", reason))
            },
            |value| bid_request(&value),
        )
    }
}

fn bid_request(value: &apache_avro::types::Value) -> Result<LandingRecord, Rejection> {
    let request: BidRequest = from_value(value)
        .map_err(|error| Rejection::new("malformed_avro", format!("not a bid request: {error}")))?;
    if request.id.is_empty() {
        return Err(Rejection::of_field(
            "missing_field",
            "id",
            "the required field id is empty",
        ));
    }
    if !(EARLIEST_MS..END_MS).contains(&request.ts) {
        let reason = format!("ts {} lies outside the years 2000 to 2100", request.ts);
        return Err(Rejection::of_field("timestamp_out_of_range", "ts", reason));
    }
    Ok(LandingRecord::BidRequest(Box::new(request)))
}

impl Records for AvroRecords {
    fn next(&mut self) -> Result<Option<Line>, FileError> {
        if self.number == self.total {
            return Ok(None);
        }
        if self.broken {
            // Not a line for each of the records that are claimed to follow: a claim costs nothing.
            let after = self.number;
            return Err(self.location.error(format_args!(
                "record {after} cannot be decoded, so those behind it cannot be found"
            )));
        }
        self.number += 1;
        Ok(Some(Line {
            number: self.number,
            outcome: self.parse(),
        }))
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Walks a container to its end; how many records it has.
fn walk(reader: &mut dyn BufRead) -> io::Result<u64> {
    if bytes::<4>(reader)? != *b"Obj\x01" {
        return Err(invalid("it is not an Avro container"));
    }
    loop {
        let mut entries = long(reader)?;
        if entries == 0 {
            break;
        }
        if entries < 0 {
            let count = entries.checked_neg();
            entries = count.ok_or_else(|| invalid("an impossible number of metadata"))?;
            long(reader)?;
        }
        for _ in 0..entries {
            for _ in ["key", "value"] {
                let length = long(reader)?;
                skip(reader, length)?;
            }
        }
    }
    let sync = bytes::<16>(reader)?;
    let mut total = 0_u64;
    while !reader.fill_buf()?.is_empty() {
        let records =
            u64::try_from(long(reader)?).map_err(|_| invalid("a negative record count"))?;
        let length = long(reader)?;
        skip(reader, length)?;
        if bytes::<16>(reader)? != sync {
            return Err(invalid("a block does not end in the sync marker"));
        }
        total = total.saturating_add(records);
    }
    Ok(total)
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

fn bytes<const N: usize>(reader: &mut dyn BufRead) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A zigzag variable-length number.
fn long(reader: &mut dyn BufRead) -> io::Result<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let [byte] = bytes::<1>(reader)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    Err(invalid("a number does not end"))
}

fn skip(reader: &mut dyn BufRead, length: i64) -> io::Result<()> {
    let length = u64::try_from(length).map_err(|_| invalid("a negative length"))?;
    let skipped = io::copy(&mut reader.take(length), &mut io::sink())?;
    if skipped == length {
        Ok(())
    } else {
        Err(ErrorKind::UnexpectedEof.into())
    }
}
