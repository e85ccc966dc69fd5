//! The bytes of an aggregation's keys and aggregates.

use state::Stamped;

use crate::error::{Fault, Result};
use crate::serde::{SerdeError, SharedSerde};

/// Bytes to keys and aggregates, and back.
pub(crate) struct Encoding<K, A> {
    pub(crate) operator: String,
    key: SharedSerde<K>,
    value: SharedSerde<A>,
    /// The key of the record at hand.
    pub(crate) key_buffer: Vec<u8>,
    value_buffer: Vec<u8>,
}

impl<K, A> Encoding<K, A> {
    pub(crate) fn new(operator: &str, key: SharedSerde<K>, value: SharedSerde<A>) -> Self {
        Self {
            operator: operator.to_owned(),
            key,
            value,
            key_buffer: Vec::new(),
            value_buffer: Vec::new(),
        }
    }

    /// Puts the key into its buffer.
    pub(crate) fn encode_key(&mut self, key: &K) -> Result {
        self.key_buffer.clear();
        self.key
            .serialize(key, &mut self.key_buffer)
            .map_err(|error| self.fault("key", error))
    }

    pub(crate) fn decode_key(&self, key: &[u8]) -> Result<K> {
        self.key
            .deserialize(key)
            .map_err(|error| self.fault("key", error))
    }

    /// The bytes of an aggregate, and of the key in its buffer.
    pub(crate) fn encode(&mut self, value: &A) -> Result<(&[u8], &[u8])> {
        self.value_buffer.clear();
        self.value
            .serialize(value, &mut self.value_buffer)
            .map_err(|error| self.fault("value", error))?;
        Ok((&self.key_buffer, &self.value_buffer))
    }

    pub(crate) fn decode(&self, row: &Stamped) -> Result<A> {
        self.decode_value(&row.value)
    }

    pub(crate) fn decode_value(&self, value: &[u8]) -> Result<A> {
        self.value
            .deserialize(value)
            .map_err(|error| self.fault("value", error))
    }

    fn fault(&self, part: &str, error: SerdeError) -> Fault {
        let what = format_args!("a {part} of aggregation {}", self.operator);
        Fault::serde(what, error)
    }
}
