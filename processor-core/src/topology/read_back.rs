//! Tables that are rebuilt from the topic that they read, which takes the place of a changelog.

use std::sync::Arc;

use crate::error::Result;
use crate::log::ConsumerRecord;

/// What a record of a table's topic does to the rows of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    /// It is the row now: the bytes of key and value are in the buffers.
    Put,
    /// There is no row any more: the bytes of the key are in the first buffer.
    Delete,
    /// Nothing: it has no key.
    Ignored,
}

/// Says what a record did to the rows when it was processed, and writes the bytes of key and value into the buffers, which
/// are empty. Fails where the record could not be decoded.
pub(crate) type ReadRow =
    Arc<dyn Fn(&ConsumerRecord, &mut Vec<u8>, &mut Vec<u8>) -> Result<Row> + Send + Sync>;

/// How a table is rebuilt from its topic.
#[derive(Clone)]
pub(crate) struct ReadBack {
    /// The topic, which is the user's.
    pub topic: String,
    pub row: ReadRow,
}
