//! What the two tables of a foreign-key join tell each other, as it is written to the internal topics.
//!
//! ```text
//! registration   version (1) ‖ instruction (1) ‖ partition (4) ‖ hash ‖ primary key
//! response       version (1) ‖ partition (4) ‖ hash ‖ 0, or 1 ‖ right value
//! hash           0 where the left row was deleted, or 1 ‖ xxh3 of its value's bytes (16)
//! ```
//! Numbers are big-endian. The key of a registration is the foreign key, that of a response the primary key.

use crate::record::Data;
use crate::serde::{Serde, SerdeError, SharedSerde};

const VERSION: u8 = 1;

/// The hash of a left value's bytes; none where there is no row.
pub(super) type Hash = Option<u128>;

/// What to do with the subscription of a left row. The numbers are those of Kafka Streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instruction {
    /// `DELETE_KEY_NO_PROPAGATE`: the row points elsewhere now.
    Leave = 0,
    /// `DELETE_KEY_AND_PROPAGATE`: it points nowhere; answer with a deletion.
    LeaveAndAnswer = 1,
    /// `PROPAGATE_NULL_IF_NO_FK_VAL_AVAILABLE`: keep it, and answer also where there is no right row.
    Answer = 2,
    /// `PROPAGATE_ONLY_IF_FK_VAL_AVAILABLE`: keep it, and answer if there is a right row.
    AnswerIfFound = 3,
}

impl Instruction {
    fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::Leave,
            Self::LeaveAndAnswer,
            Self::Answer,
            Self::AnswerIfFound,
        ];
        all.into_iter().find(|known| *known as u8 == byte)
    }
}

/// A left row as it registers with the foreign key that it has, or leaves the one that it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registration<K> {
    pub instruction: Instruction,
    pub hash: Hash,
    pub primary: K,
    /// Where the left row lives.
    pub partition: i32,
}

/// The right row for a left one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response<W> {
    /// Of the left value that it is for.
    pub hash: Hash,
    pub value: Option<W>,
    /// Where the left row lives.
    pub partition: i32,
}

pub(super) struct RegistrationSerde<K>(pub SharedSerde<K>);

impl<K: Data> Serde<Registration<K>> for RegistrationSerde<K> {
    fn format(&self) -> Option<String> {
        Some(format!("registration of {}", self.0.format()?))
    }

    fn serialize(&self, sent: &Registration<K>, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        into.extend_from_slice(&[VERSION, sent.instruction as u8]);
        into.extend_from_slice(&sent.partition.to_be_bytes());
        write_hash(sent.hash, into);
        self.0.serialize(&sent.primary, into)
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<Registration<K>, SerdeError> {
        let parse = || {
            let (instruction, rest) = versioned(bytes)?.split_first()?;
            let (partition, rest) = rest.split_first_chunk::<4>()?;
            let (hash, primary) = read_hash(rest)?;
            let partition = i32::from_be_bytes(*partition);
            Some((Instruction::of(*instruction)?, partition, hash, primary))
        };
        let (instruction, partition, hash, primary) =
            parse().ok_or_else(|| SerdeError::new("not a registration of a foreign-key join"))?;
        Ok(Registration {
            instruction,
            hash,
            primary: self.0.deserialize(primary)?,
            partition,
        })
    }
}

pub(super) struct ResponseSerde<W>(pub SharedSerde<W>);

impl<W: Data> Serde<Response<W>> for ResponseSerde<W> {
    fn format(&self) -> Option<String> {
        Some(format!("response with {}", self.0.format()?))
    }

    fn serialize(&self, sent: &Response<W>, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        into.push(VERSION);
        into.extend_from_slice(&sent.partition.to_be_bytes());
        write_hash(sent.hash, into);
        into.push(u8::from(sent.value.is_some()));
        match &sent.value {
            Some(value) => self.0.serialize(value, into),
            None => Ok(()),
        }
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<Response<W>, SerdeError> {
        let parse = || {
            let (partition, rest) = versioned(bytes)?.split_first_chunk::<4>()?;
            let (hash, rest) = read_hash(rest)?;
            let (present, value) = rest.split_first()?;
            let value = (*present == 1).then_some(value);
            Some((i32::from_be_bytes(*partition), hash, value))
        };
        let (partition, hash, value) =
            parse().ok_or_else(|| SerdeError::new("not a response of a foreign-key join"))?;
        Ok(Response {
            hash,
            value: value.map(|value| self.0.deserialize(value)).transpose()?,
            partition,
        })
    }
}

fn versioned(bytes: &[u8]) -> Option<&[u8]> {
    let (version, rest) = bytes.split_first()?;
    (*version == VERSION).then_some(rest)
}

pub(super) fn write_hash(hash: Hash, into: &mut Vec<u8>) {
    into.push(u8::from(hash.is_some()));
    if let Some(hash) = hash {
        into.extend_from_slice(&hash.to_be_bytes());
    }
}

/// The hash, and what comes after it.
pub(super) fn read_hash(bytes: &[u8]) -> Option<(Hash, &[u8])> {
    match bytes.split_first()? {
        (0, rest) => Some((None, rest)),
        (_, rest) => {
            let (hash, rest) = rest.split_first_chunk::<16>()?;
            Some((Some(u128::from_be_bytes(*hash)), rest))
        }
    }
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &[u8]) {
    use crate::fuzzing::survives;
    let text = || std::sync::Arc::new(crate::serde::utf8());
    survives(&RegistrationSerde::<String>(text()), bytes);
    survives(&ResponseSerde::<String>(text()), bytes);
    if let Some((hash, rest)) = read_hash(bytes) {
        let mut written = Vec::new();
        write_hash(hash, &mut written);
        written.extend_from_slice(rest);
        assert_eq!(read_hash(&written), Some((hash, rest)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::serde::utf8;

    fn instruction() -> impl Strategy<Value = Instruction> {
        (0..4_u8).prop_map(|byte| Instruction::of(byte).unwrap())
    }

    proptest! {
        #[test]
        fn messages_survive(
            instruction in instruction(),
            hash in any::<Option<u128>>(),
            partition in any::<i32>(),
            primary in ".{0,5}",
            value in prop::option::of(".{0,5}"),
        ) {
            let mut bytes = Vec::new();
            let sent = Registration { instruction, hash, primary, partition };
            let registrations = RegistrationSerde::<String>(Arc::new(utf8()));
            registrations.serialize(&sent, &mut bytes).unwrap();
            prop_assert_eq!(registrations.deserialize(&bytes).unwrap(), sent);

            bytes.clear();
            let sent = Response { hash, value, partition };
            let responses = ResponseSerde::<String>(Arc::new(utf8()));
            responses.serialize(&sent, &mut bytes).unwrap();
            prop_assert_eq!(responses.deserialize(&bytes).unwrap(), sent);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            check_any(&bytes);
        }
    }
}
