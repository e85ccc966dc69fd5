//! Newline-delimited JSON, and one JSON array.
//!
//! An array is cut into its elements by brackets and quotes, so an element that is not JSON is rejected alone while the
//! array around it holds.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead, ErrorKind};

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::Feed;

use super::fields::{Fields, MAX_FIELDS, Text, names};
use super::{FileError, LandingRecord, Line, Location, Records, Rejection, source};

/// A longer record is rejected, and not kept in memory.
const MAX_RECORD: usize = 1 << 20;
/// Unknown fields that are reported by name.
const MAX_WARNINGS: usize = 20;

/// Verifies and opens a file of impressions.
pub(super) fn open(location: &Location) -> Result<Box<dyn Records>, FileError> {
    let failed = |error: io::Error| location.error(source::explain(&error));
    if !source::verify(location.open()?).map_err(failed)? {
        return Err(location.error("it is empty"));
    }
    let mut reader = location.open()?;
    skip_bom(&mut reader).map_err(failed)?;
    let (blank_lines, first) = skip_blank(&mut reader).map_err(failed)?;
    if first != Some(b'[') {
        let state = Ndjson {
            reader,
            line: blank_lines,
            buffer: Vec::new(),
        };
        return Ok(Box::new(JsonRecords::new(location, Format::Lines(state))));
    }
    // The first pass only shows that the array is whole.
    let mut array = Array::new(reader);
    while array.next_element().map_err(failed)? {}
    let mut reader = location.open()?;
    skip_bom(&mut reader).map_err(failed)?;
    skip_blank(&mut reader).map_err(failed)?;
    Ok(Box::new(JsonRecords::new(
        location,
        Format::Array(Array::new(reader)),
    )))
}

fn skip_bom(reader: &mut dyn BufRead) -> io::Result<()> {
    if reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    Ok(())
}

/// Steps over white space; how many lines that were, and the byte that follows.
fn skip_blank(reader: &mut dyn BufRead) -> io::Result<(u64, Option<u8>)> {
    let mut lines = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let Some(&byte) = buffer.first() else {
            return Ok((lines, None));
        };
        if !byte.is_ascii_whitespace() {
            return Ok((lines, Some(byte)));
        }
        lines += u64::from(byte == b'\n');
        reader.consume(1);
    }
}

struct JsonRecords {
    location: Location,
    format: Format,
    unknown: BTreeSet<String>,
}

enum Format {
    Lines(Ndjson),
    Array(Array),
}

impl JsonRecords {
    fn new(location: &Location, format: Format) -> Self {
        Self {
            location: location.clone(),
            format,
            unknown: BTreeSet::new(),
        }
    }
}

impl Records for JsonRecords {
    fn next(&mut self) -> Result<Option<Line>, FileError> {
        let advanced = match &mut self.format {
            Format::Lines(lines) => lines.next_line(),
            Format::Array(array) => array.next_element(),
        };
        if !advanced.map_err(|error| self.location.error(source::explain(&error)))? {
            return Ok(None);
        }
        let (number, bytes) = match &self.format {
            Format::Lines(lines) => (lines.line, &lines.buffer),
            Format::Array(array) => (array.number, &array.buffer),
        };
        let outcome = if bytes.len() > MAX_RECORD {
            let reason = format!("the record is longer than {MAX_RECORD} bytes");
            Err(Rejection::new("too_long", reason).with_original(&bytes[..1_000]))
        } else {
            parse(bytes, &mut self.unknown).map_err(|rejection| rejection.with_original(bytes))
        };
        Ok(Some(Line { number, outcome }))
    }

    fn warnings(&self) -> Vec<String> {
        let warn = |name: &String| format!("the unknown field '{name}' is ignored");
        self.unknown.iter().map(warn).collect()
    }
}

/// Lines that are not blank.
struct Ndjson {
    reader: Box<dyn BufRead>,
    line: u64,
    buffer: Vec<u8>,
}

impl Ndjson {
    /// Reads the next record into the buffer, cut off behind [`MAX_RECORD`]; false at the end.
    fn next_line(&mut self) -> io::Result<bool> {
        loop {
            self.buffer.clear();
            if !read_line(&mut *self.reader, &mut self.buffer)? {
                return Ok(false);
            }
            self.line += 1;
            if self.buffer.iter().any(|byte| !byte.is_ascii_whitespace()) {
                return Ok(true);
            }
        }
    }
}

/// Reads up to the next line end, keeping no more than [`MAX_RECORD`] + 1 bytes.
fn read_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    let mut any = false;
    loop {
        let buffer = match reader.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if buffer.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(buffer.len());
        let room = (MAX_RECORD + 1).saturating_sub(line.len());
        line.extend_from_slice(&buffer[..taken.min(room)]);
        reader.consume(end.map_or(taken, |end| end + 1));
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Elements of an array.
struct Array {
    reader: Box<dyn BufRead>,
    number: u64,
    buffer: Vec<u8>,
    state: ArrayState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ArrayState {
    Start,
    Inside,
    Ended,
}

impl Array {
    fn new(reader: Box<dyn BufRead>) -> Self {
        Self {
            reader,
            number: 0,
            buffer: Vec::new(),
            state: ArrayState::Start,
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let byte = self.reader.fill_buf()?.first().copied();
        let byte = byte.ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))?;
        self.reader.consume(1);
        Ok(byte)
    }

    /// Reads the next element into the buffer; false at the end of an array after which nothing but white space comes.
    fn next_element(&mut self) -> io::Result<bool> {
        self.buffer.clear();
        match self.state {
            ArrayState::Ended => return Ok(false),
            ArrayState::Start => {
                self.byte()?;
                let (_, next) = skip_blank(&mut *self.reader)?;
                self.state = ArrayState::Inside;
                if next == Some(b']') {
                    self.byte()?;
                    return self.end();
                }
            }
            ArrayState::Inside => {}
        }
        if self.element()? == b']' {
            self.state = ArrayState::Ended;
            self.end()?;
        }
        self.number += 1;
        Ok(true)
    }

    /// Reads up to the comma or bracket that ends the element, and returns that.
    fn element(&mut self) -> io::Result<u8> {
        let (mut depth, mut quoted, mut escaped) = (0_u32, false, false);
        loop {
            let byte = self.byte()?;
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'[' | b'{' => depth += 1,
                b']' | b'}' if depth > 0 => depth -= 1,
                b',' | b']' if depth == 0 => return Ok(byte),
                _ => {}
            }
            if self.buffer.len() <= MAX_RECORD {
                self.buffer.push(byte);
            }
        }
    }

    fn end(&mut self) -> io::Result<bool> {
        self.state = ArrayState::Ended;
        match skip_blank(&mut *self.reader)? {
            (_, None) => Ok(false),
            (_, Some(_)) => Err(io::Error::new(
                ErrorKind::InvalidData,
                "something follows the JSON array",
            )),
        }
    }
}

/// Parses one record, noting fields that are not known.
fn parse(bytes: &[u8], unknown: &mut BTreeSet<String>) -> Result<LandingRecord, Rejection> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let reason = format!("byte {} is not UTF-8", error.valid_up_to() + 1);
        Rejection::new("not_utf8", reason)
    })?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let values = deserializer
        .deserialize_map(RecordVisitor {
            names: names(Feed::Impressions),
            unknown,
        })
        .and_then(|values| deserializer.end().map(|()| values))
        .map_err(|error| Rejection::new("malformed_json", format!("not a JSON object: {error}")))?;
    let mut fields = Fields::new(Feed::Impressions);
    for (index, value) in values.into_iter().enumerate() {
        fields.set(index, value);
    }
    fields.into_record()
}

struct RecordVisitor<'u> {
    names: &'static [&'static str],
    unknown: &'u mut BTreeSet<String>,
}

impl<'de> Visitor<'de> for RecordVisitor<'_> {
    type Value = [Text<'de>; MAX_FIELDS];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [const { Text::Absent }; MAX_FIELDS];
        while let Some(name) = map.next_key::<Name<'de>>()? {
            match self.names.iter().position(|known| *known == name.0) {
                Some(index) => values[index] = map.next_value_seed(TextSeed)?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                    if self.unknown.len() < MAX_WARNINGS && !self.unknown.contains(&*name.0) {
                        self.unknown.insert(name.0.into_owned());
                    }
                }
            }
        }
        Ok(values)
    }
}

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads any JSON value as a text.
struct TextSeed;

impl<'de> serde::de::DeserializeSeed<'de> for TextSeed {
    type Value = Text<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Text<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextSeed {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text::given(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text::given(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Text<'de>, E> {
        Ok(Text::given(number.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Text<'de>, E> {
        Ok(Text::given(number.to_string()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text<'de>, E> {
        Ok(Text::Wrong)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text<'de>, E> {
        Ok(Text::Wrong)
    }

    fn visit_unit<E>(self) -> Result<Text<'de>, E> {
        Ok(Text::Absent)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text<'de>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::Wrong)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::Wrong)
    }
}
