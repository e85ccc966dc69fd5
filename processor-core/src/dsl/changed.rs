//! A change of a table as bytes.

use crate::error::Result;
use crate::record::{Change, Data};
use crate::serde::{Serde, SerdeError, SharedSerde};

/// A change on its way through a repartition topic, as Kafka Streams writes it since 3.5.
///
/// ```text
/// old only   old ‖ 0
/// new only   new ‖ 1
/// both       length of new (zigzag varint) ‖ new ‖ old ‖ 2
/// ```
pub(crate) struct Changed<V>(pub SharedSerde<V>);

const OLD: u8 = 0;
const NEW: u8 = 1;
const BOTH: u8 = 2;

impl<V: Data> Serde<Change<V>> for Changed<V> {
    fn format(&self) -> Option<String> {
        Some(format!("change of {}", self.0.format()?))
    }

    fn serialize(&self, change: &Change<V>, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        let kind = match (&change.new, &change.old) {
            (None, None) => return Err(SerdeError::new("a change has an old or a new value")),
            (None, Some(old)) => {
                self.0.serialize(old, into)?;
                OLD
            }
            (Some(new), None) => {
                self.0.serialize(new, into)?;
                NEW
            }
            (Some(new), Some(old)) => {
                let mut bytes = Vec::new();
                self.0.serialize(new, &mut bytes)?;
                write_length(bytes.len(), into);
                into.append(&mut bytes);
                self.0.serialize(old, into)?;
                BOTH
            }
        };
        into.push(kind);
        Ok(())
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<Change<V>, SerdeError> {
        let value = |bytes| self.0.deserialize(bytes).map(Some);
        let broken = || SerdeError::new("not a change of a table");
        match bytes.split_last().ok_or_else(broken)? {
            (&OLD, old) => Ok(Change {
                new: None,
                old: value(old)?,
            }),
            (&NEW, new) => Ok(Change {
                new: value(new)?,
                old: None,
            }),
            (&BOTH, both) => {
                let (length, values) = read_length(both).ok_or_else(broken)?;
                let (new, old) = values.split_at_checked(length).ok_or_else(broken)?;
                Ok(Change {
                    new: value(new)?,
                    old: value(old)?,
                })
            }
            (kind, _) => Err(SerdeError::new(format_args!(
                "a change of the unknown kind {kind}"
            ))),
        }
    }
}

/// Seven bits a byte, the lowest first; shifted by one, as zigzag does with numbers that are not negative.
fn write_length(length: usize, into: &mut Vec<u8>) {
    let mut left = length << 1;
    while left >= 0x80 {
        into.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    into.push(left as u8);
}

fn read_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0_u32;
    for (i, byte) in (0..5).zip(bytes) {
        number |= u32::from(byte & 0x7f).checked_shl(7 * i)?;
        if byte & 0x80 == 0 {
            let length = usize::try_from(number >> 1).ok()?;
            return Some((length, &bytes[usize::try_from(i).ok()? + 1..]));
        }
    }
    None
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &[u8]) {
    let text = std::sync::Arc::new(crate::serde::utf8());
    crate::fuzzing::survives(&Changed::<String>(text), bytes);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::serde::utf8;

    fn changed() -> Changed<String> {
        Changed(Arc::new(utf8()))
    }

    fn change(new: Option<&str>, old: Option<&str>) -> Change<String> {
        Change {
            new: new.map(str::to_owned),
            old: old.map(str::to_owned),
        }
    }

    #[test]
    fn changes_are_written_as_kafka_streams_writes_them() {
        // What `ChangedSerializer` of Kafka Streams 4.3.1 gives.
        for (change, bytes) in [
            (change(Some("new"), None), &b"new\x01"[..]),
            (change(None, Some("oldie")), b"oldie\x00"),
            (change(Some("new"), Some("oldie")), b"\x06newoldie\x02"),
        ] {
            let mut written = Vec::new();
            changed().serialize(&change, &mut written).unwrap();
            assert_eq!(written, bytes);
            assert_eq!(changed().deserialize(bytes).unwrap(), change);
        }
        let nothing = change(None, None);
        assert!(changed().serialize(&nothing, &mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn long_values_survive(new in ".{0,300}", old in ".{0,300}") {
            let change = change(Some(&new), Some(&old));
            let mut bytes = Vec::new();
            changed().serialize(&change, &mut bytes).unwrap();
            prop_assert_eq!(changed().deserialize(&bytes).unwrap(), change);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            check_any(&bytes);
        }
    }
}
