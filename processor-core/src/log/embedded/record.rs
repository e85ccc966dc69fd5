//! A record inside a batch.
//!
//! ```text
//! varint   offset − base offset
//! zigzag   timestamp − base timestamp (wrapping)
//! bytes?   key          bytes?: varint 0 for null, else length + 1, then the bytes
//! bytes?   value
//! varint   number of headers, each: varint name length, name, bytes? value
//! ```

use std::sync::Arc;

use bytes::Bytes;

use crate::log::{ConsumerRecord, Header, Headers};

const MALFORMED: &str = "malformed record";

/// Header names already seen, so that a name is allocated once per reader.
#[derive(Debug, Default)]
pub(super) struct HeaderNames(Vec<Arc<str>>);

impl HeaderNames {
    /// More names than this are not headers but data in the wrong place; they are not kept.
    const MOST: usize = 64;

    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| &***known == name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        if self.0.len() < Self::MOST {
            self.0.push(name.clone());
        }
        name
    }
}

/// An upper bound of the encoded size.
pub(super) fn bound(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) -> usize {
    let headers: usize = headers
        .iter()
        .map(|h| h.name.len() + h.value.as_ref().map_or(0, Bytes::len) + 20)
        .sum();
    key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers + 50
}

/// Appends a record to `out`.
#[inline]
pub(super) fn encode(
    out: &mut Vec<u8>,
    delta: u32,
    since_base: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[Header],
) {
    put_varint(out, u64::from(delta));
    put_varint(out, ((since_base << 1) ^ (since_base >> 63)) as u64);
    put_bytes(out, key);
    put_bytes(out, value);
    put_varint(out, headers.len() as u64);
    for header in headers {
        put_varint(out, header.name.len() as u64);
        out.extend_from_slice(header.name.as_bytes());
        put_bytes(out, header.value.as_deref());
    }
}

/// Decodes the record at `at`; offset and timestamp are still relative. Also returns where the next one starts.
#[inline]
pub(super) fn decode(
    batch: &Bytes,
    at: usize,
    names: &mut HeaderNames,
) -> Result<(ConsumerRecord, usize), &'static str> {
    let mut reader = Reader { batch, at };
    let delta = reader.varint()?;
    let timestamp = reader.varint()?;
    let record = ConsumerRecord {
        offset: i64::try_from(delta).map_err(|_| MALFORMED)?,
        timestamp: (timestamp >> 1) as i64 ^ -((timestamp & 1) as i64),
        key: reader.bytes()?,
        value: reader.bytes()?,
        headers: reader.headers(names)?,
    };
    Ok((record, reader.at))
}

/// Appends `value` in groups of seven bits, lowest first.
#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => out.push(0),
        Some(bytes) => {
            put_varint(out, bytes.len() as u64 + 1);
            out.extend_from_slice(bytes);
        }
    }
}

struct Reader<'a> {
    batch: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    #[inline]
    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.batch.get(self.at).ok_or(MALFORMED)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(MALFORMED)
    }

    /// Steps over `len` bytes and returns where they start.
    #[inline]
    fn span(&mut self, len: u64) -> Result<usize, &'static str> {
        let start = self.at;
        let len = usize::try_from(len).map_err(|_| MALFORMED)?;
        self.at = start.checked_add(len).ok_or(MALFORMED)?;
        if self.at > self.batch.len() {
            return Err(MALFORMED);
        }
        Ok(start)
    }

    #[inline]
    fn bytes(&mut self) -> Result<Option<Bytes>, &'static str> {
        let tagged = self.varint()?;
        if tagged == 0 {
            return Ok(None);
        }
        let start = self.span(tagged - 1)?;
        Ok(Some(self.batch.slice(start..self.at)))
    }

    #[inline]
    fn headers(&mut self, names: &mut HeaderNames) -> Result<Headers, &'static str> {
        let count = self.varint()?;
        let mut headers = Headers::new();
        for _ in 0..count {
            let len = self.varint()?;
            let start = self.span(len)?;
            let name = std::str::from_utf8(&self.batch[start..self.at]).map_err(|_| MALFORMED)?;
            headers.push(Header {
                name: names.get(name),
                value: self.bytes()?,
            });
        }
        Ok(headers)
    }
}
