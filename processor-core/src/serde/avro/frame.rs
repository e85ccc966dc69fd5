//! Confluent's wire format.
//!
//! ```text
//!   0        1                          5
//!   ┌────────┬──────────────────────────┬──────────────
//!   │ 0      │ schema id (big endian)   │ datum …
//!   └────────┴──────────────────────────┴──────────────
//! ```

use crate::serde::SerdeError;
use crate::serde::registry::SchemaId;

const MAGIC: u8 = 0;

/// Begins a frame; the datum follows.
pub(super) fn begin(id: SchemaId, into: &mut Vec<u8>) {
    into.push(MAGIC);
    into.extend_from_slice(&id.0.to_be_bytes());
}

/// The schema id and the datum of a frame.
pub(super) fn split(bytes: &[u8]) -> Result<(SchemaId, &[u8]), SerdeError> {
    match bytes.split_first_chunk::<5>() {
        Some(([MAGIC, id @ ..], datum)) => Ok((SchemaId(u32::from_be_bytes(*id)), datum)),
        _ if bytes.first().is_some_and(|magic| *magic != MAGIC) => {
            Err(SerdeError::new(format_args!(
                "the first byte is {:#04x} and not 0, so this is not Confluent's wire format; was it written without a \
                 schema registry?",
                bytes[0]
            )))
        }
        _ => Err(SerdeError::new(format_args!(
            "{} bytes are too few for a schema id; Confluent's wire format begins with 5",
            bytes.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_a_zero_and_the_id_in_big_endian_before_the_datum() {
        let mut bytes = Vec::new();
        begin(SchemaId(0x0102_0304), &mut bytes);
        bytes.extend_from_slice(b"xy");
        assert_eq!(bytes, [0, 1, 2, 3, 4, b'x', b'y']);
        assert_eq!(split(&bytes).unwrap(), (SchemaId(0x0102_0304), &b"xy"[..]));
    }

    #[test]
    fn what_is_no_frame_says_why() {
        let refusal = |bytes: &[u8]| split(bytes).unwrap_err().to_string();
        assert!(refusal(b"{\"a\":1}").contains("0x7b"));
        assert!(refusal(&[0, 0, 0]).contains("3 bytes"));
        assert!(refusal(&[]).contains("0 bytes"));
    }
}
