//! Which tables are rebuilt from the topic that they read, and how: the [optimiser](super::StreamsBuilder::optimize)
//! saves them their changelog.
//!
//! A restore reads the topic up to the committed offset of the task's input, no further: what lies beyond is input. It
//! makes of each record what processing made of it: the same key and value bytes, since both decode and encode, the
//! record's timestamp, and nothing of a record without a key or of one that cannot be decoded and was passed over. So
//! only tables whose rows follow from the bytes of the topic alone are rebuilt like this. One whose times come from
//! elsewhere, which begins at the end of its topic, or whose records may be held back or given up for the sake of time or
//! of a serde that was not ready, keeps a changelog.
//!
//! Source of the semantics: Kafka Streams' `reuse.ktable.source.topics`. There the bytes of the topic become rows as they
//! are, undecoded ones too (KAFKA-8037), versioned tables included, and nobody looks whether the topic is compacted.

use std::sync::Arc;

use crate::error::Fault;
use crate::log::OffsetReset;
use crate::record::Data;
use crate::task::{decode, invalid_time};
use crate::topology::{ReadBack, ReadRow, Row};

use super::Consumed;

/// How the table that reads `topic` is rebuilt from it; nothing if its rows do not follow from the topic alone.
pub(crate) fn read_back<K: Data, V: Data>(
    topic: &str,
    consumed: &Consumed<K, Option<V>>,
) -> Option<ReadBack> {
    let Consumed {
        key,
        value,
        reset,
        time,
    } = consumed;
    let follows = *reset == OffsetReset::Earliest
        && time.extractor.is_fail_on_invalid()
        && time.future_bound.is_none()
        && !key.may_wait()
        && !value.may_wait();
    if !follows {
        return None;
    }
    let (key, value) = (Arc::clone(key), Arc::clone(value));
    let row: ReadRow = Arc::new(move |raw, key_bytes, value_bytes| {
        let fault = |part: &str, error| {
            Fault::serde(format_args!("the {part} of a row cannot be written"), error)
        };
        let (record_key, record_value) = decode(raw, &*key, &*value)?;
        if raw.timestamp < 0 {
            return Err(invalid_time(raw.timestamp));
        }
        if key.is_null(&record_key) {
            return Ok(Row::Ignored);
        }
        key.serialize(&record_key, key_bytes)
            .map_err(|error| fault("key", error))?;
        if value.is_null(&record_value) {
            return Ok(Row::Delete);
        }
        value
            .serialize(&record_value, value_bytes)
            .map_err(|error| fault("value", error))?;
        Ok(Row::Put)
    });
    Some(ReadBack {
        topic: topic.to_owned(),
        row,
    })
}
