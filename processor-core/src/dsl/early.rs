//! Results of windows before they close: after so many records, or after so much of event time.
//!
//! What a window still has to say, and since when, is in a store beside that of the windows, so it survives a restart.
//! When a result leaves follows from the records and their times alone.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use state::WindowStore;

use crate::clock::millis;
use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::Instantiation;
use crate::serde::SerdeError;
use crate::topology::StoreId;

use super::window_rows::WindowRows;

/// When a window gives a result before it closes: see [`emit_early`](super::TimeWindowedStream::emit_early).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarlyFire {
    records: Option<u64>,
    every_ms: Option<i64>,
}

impl EarlyFire {
    /// With each `records`-th record of the window since its last result. At least 1.
    #[must_use]
    pub fn every_records(records: u64) -> Self {
        Self {
            records: Some(records),
            every_ms: None,
        }
    }

    /// When stream time has moved by `time` since the first record of the window that is in no result yet. At least a
    /// millisecond.
    #[must_use]
    pub fn every(time: Duration) -> Self {
        Self {
            records: None,
            every_ms: Some(millis(time)),
        }
    }

    /// Also when stream time has moved by `time` since the first record that is in no result yet: whichever comes first.
    #[must_use]
    pub fn or_every(self, time: Duration) -> Self {
        Self {
            every_ms: Some(millis(time)),
            ..self
        }
    }

    /// Why there can be no such results, if so.
    pub(crate) fn problem(self) -> Option<String> {
        let never = self.records == Some(0) || self.every_ms == Some(0);
        never.then(|| {
            "early results come every 1 record or more, or every millisecond or more".to_owned()
        })
    }
}

/// The early results of an aggregation in a task.
pub(crate) struct Early {
    operator: String,
    fire: EarlyFire,
    store: Rc<RefCell<WindowStore>>,
    /// When windows are due that have something to say, with their start and the bytes of their key.
    due: BTreeSet<(Timestamp, Timestamp, Vec<u8>)>,
    buffer: Vec<u8>,
}

impl Early {
    /// As it was when the task last committed, for windows that start at `open_from` or later.
    pub(crate) fn restore(
        instantiation: &Instantiation<'_>,
        operator: &str,
        (fire, store): (EarlyFire, StoreId),
        open_from: Timestamp,
    ) -> Result<Self> {
        let store = WindowStore::of(instantiation, store)?;
        store.borrow_mut().restore_horizon(open_from);
        let mut early = Self {
            operator: operator.to_owned(),
            fire,
            store: Rc::clone(&store),
            due: BTreeSet::new(),
            buffer: Vec::new(),
        };
        let mut keys = Vec::new();
        store
            .borrow()
            .each(&mut |(start, _), key| keys.push((start, key.to_vec())))?;
        for (start, key) in keys {
            if let Some(due) = early.row(&key, start)?.due {
                early.due.insert((due, start, key));
            }
        }
        Ok(early)
    }

    /// Takes notice of a record in a window, while stream time is `now`; whether the window gives a result at once.
    pub(crate) fn note(&mut self, key: &[u8], start: Timestamp, now: Timestamp) -> Result<bool> {
        let mut row = self.row(key, start)?;
        row.records += 1;
        let fires = self.fire.records.is_some_and(|limit| row.records >= limit);
        if !fires && row.due.is_none() {
            row.due = self
                .fire
                .every_ms
                .map(|every_ms| now.saturating_add(every_ms));
            self.due
                .extend(row.due.map(|due| (due, start, key.to_vec())));
        }
        self.put(key, start, &row)?;
        Ok(fires)
    }

    /// Takes notice that a window gives `result`; what it gave before.
    pub(crate) fn fired(
        &mut self,
        key: &[u8],
        start: Timestamp,
        result: &[u8],
    ) -> Result<Option<Bytes>> {
        let before = self.row(key, start)?;
        self.forget(before.due, key, start);
        let row = Row {
            records: 0,
            due: None,
            result: Some(Bytes::copy_from_slice(result)),
        };
        self.put(key, start, &row)?;
        Ok(before.result)
    }

    /// Takes notice that a window closes; what it gave last.
    pub(crate) fn closed(&mut self, key: &[u8], start: Timestamp) -> Result<Option<Bytes>> {
        let row = self.row(key, start)?;
        self.forget(row.due, key, start);
        Ok(row.result)
    }

    /// The next window, by the time at which it is due, its start, then its key, that is due at `now`.
    pub(crate) fn next_due(&self, now: Timestamp) -> Option<(Timestamp, Vec<u8>)> {
        let (due, start, key) = self.due.first()?;
        (*due <= now).then(|| (*start, key.clone()))
    }

    pub(crate) fn expire_before(&self, start: Timestamp) {
        self.store.borrow_mut().expire_before(start);
    }

    fn forget(&mut self, due: Option<Timestamp>, key: &[u8], start: Timestamp) {
        if let Some(due) = due {
            self.due.remove(&(due, start, key.to_vec()));
        }
    }

    fn row(&self, key: &[u8], start: Timestamp) -> Result<Row> {
        let Some(row) = self.store.borrow().get(key, start)? else {
            return Ok(Row::default());
        };
        Row::decode(&row.value).ok_or_else(|| {
            let error = SerdeError::new("the bytes are not what early results keep");
            Fault::serde(
                format_args!("a row of aggregation {}", self.operator),
                error,
            )
        })
    }

    fn put(&mut self, key: &[u8], start: Timestamp, row: &Row) -> Result {
        row.encode(&mut self.buffer);
        let mut store = self.store.borrow_mut();
        store.put(key, start, &self.buffer, start)?;
        Ok(())
    }
}

/// What is kept of a window that gives early results:
///
/// ```text
/// records since its last result (8, big endian) ‖ when it is due (8), −1 if it has nothing to say ‖ its last result, if any:
/// 1 ‖ aggregate
/// ```
#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    records: u64,
    due: Option<Timestamp>,
    result: Option<Bytes>,
}

impl Row {
    fn encode(&self, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&self.records.to_be_bytes());
        into.extend_from_slice(&self.due.unwrap_or(-1).to_be_bytes());
        if let Some(result) = &self.result {
            into.push(1);
            into.extend_from_slice(result);
        }
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        let (records, rest) = bytes.split_first_chunk::<8>()?;
        let (due, rest) = rest.split_first_chunk::<8>()?;
        let due = Timestamp::from_be_bytes(*due);
        let result = match rest.first() {
            None => None,
            Some(1) => Some(bytes.slice(17..)),
            Some(_) => return None,
        };
        Some(Self {
            records: u64::from_be_bytes(*records),
            due: (due >= 0).then_some(due),
            result,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_survive(
            records in any::<u64>(),
            due in prop::option::of(0..i64::MAX),
            result in prop::option::of(prop::collection::vec(any::<u8>(), 0..10)),
        ) {
            let row = Row { records, due, result: result.map(Bytes::from) };
            let mut bytes = Vec::new();
            row.encode(&mut bytes);
            prop_assert_eq!(Row::decode(&Bytes::from(bytes)), Some(row));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Row::decode(&Bytes::from(bytes));
        }
    }
}
