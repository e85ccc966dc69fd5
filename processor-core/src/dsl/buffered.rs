//! Parts of records that wait in a store, as bytes.
//!
//! ```text
//! a part    0 for nothing, or 1 ‖ length (4, big endian) ‖ bytes
//! headers   for each header: name ‖ value, to the end
//! ```

use std::sync::Arc;

use bytes::Bytes;

use crate::log::{Header, Headers};

/// Appends a part.
pub(crate) fn put(bytes: Option<&[u8]>, into: &mut Vec<u8>) {
    into.push(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        let length = u32::try_from(bytes.len()).expect("a Kafka record is smaller than 4 GiB");
        into.extend_from_slice(&length.to_be_bytes());
        into.extend_from_slice(bytes);
    }
}

/// Takes a part off the front; none when there is none.
pub(crate) fn take(bytes: &mut Bytes) -> Option<Option<Bytes>> {
    let (present, rest) = bytes.split_first()?;
    if *present == 0 {
        *bytes = bytes.slice(1..);
        return Some(None);
    }
    let length = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    let end = usize::try_from(length).ok()?.checked_add(5)?;
    if end > bytes.len() {
        return None;
    }
    let taken = bytes.slice(5..end);
    *bytes = bytes.slice(end..);
    Some(Some(taken))
}

/// Appends headers.
pub(crate) fn put_headers(headers: &Headers, into: &mut Vec<u8>) {
    for header in headers {
        put(Some(header.name.as_bytes()), into);
        put(header.value.as_deref(), into);
    }
}

/// Reads what is left as headers.
pub(crate) fn take_headers(mut rest: Bytes) -> Option<Headers> {
    let mut headers = Headers::new();
    while !rest.is_empty() {
        let name = take(&mut rest)??;
        headers.push(Header {
            name: Arc::from(std::str::from_utf8(&name).ok()?),
            value: take(&mut rest)?,
        });
    }
    Some(headers)
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &Bytes) {
    if let Some(headers) = take_headers(bytes.clone()) {
        let mut written = Vec::new();
        put_headers(&headers, &mut written);
        assert_eq!(take_headers(written.into()), Some(headers));
    }
}
