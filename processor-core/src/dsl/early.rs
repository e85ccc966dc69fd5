//! Results of windows before they close: after so many records, or after so much of event time.
//!
//! What a window still has to say, and since when, is in a store beside that of the windows, so it survives a restart.
//! When a result leaves follows from the records and their times alone.
//!
//! Sessions grow and merge, and a session that went into another is no more. What it has to say the new one says: their
//! records count together, and the new session is due when the first of them was. What was said of it stands until then;
//! it is taken back right before the result that takes its place, so whoever adds results up never misses records in
//! between.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::millis;
use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::Instantiation;
use crate::serde::SerdeError;
use crate::topology::StoreId;

use super::window_rows::{Place, WindowRows};

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
pub(crate) struct Early<S> {
    operator: String,
    fire: EarlyFire,
    store: Rc<RefCell<S>>,
    /// When windows are due that have something to say, with their place and the bytes of their key.
    due: BTreeSet<(Timestamp, Place, Vec<u8>)>,
    buffer: Vec<u8>,
}

impl<S: WindowRows> Early<S> {
    /// As it was when the task last committed, for windows whose place is `open_from` or later.
    pub(crate) fn restore(
        instantiation: &Instantiation<'_>,
        operator: &str,
        (fire, store): (EarlyFire, StoreId),
        open_from: Timestamp,
    ) -> Result<Self> {
        let store = S::of(instantiation, store)?;
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
            .each(&mut |place, key| keys.push((place, key.to_vec())))?;
        for (place, key) in keys {
            if let Some(due) = early.row(&key, place)?.due {
                early.due.insert((due, place, key));
            }
        }
        Ok(early)
    }

    /// Takes notice of a record in a window, while stream time is `now`; whether the window gives a result at once.
    pub(crate) fn note(&mut self, key: &[u8], place: Place, now: Timestamp) -> Result<bool> {
        let mut row = self.row(key, place)?;
        row.records += 1;
        let fires = self.fire.records.is_some_and(|limit| row.records >= limit);
        if !fires && row.due.is_none() {
            row.due = self
                .fire
                .every_ms
                .map(|every_ms| now.saturating_add(every_ms));
            self.due
                .extend(row.due.map(|due| (due, place, key.to_vec())));
        }
        self.put(key, place, &row)?;
        Ok(fires)
    }

    /// Takes notice that a window gives `result`; what stood before.
    pub(crate) fn fired(&mut self, key: &[u8], place: Place, result: &[u8]) -> Result<Said> {
        let before = self.row(key, place)?;
        self.forget(before.due, key, place);
        let said = Said {
            absorbed: Vec::new(),
            result: Some(Bytes::copy_from_slice(result)),
        };
        let row = Row {
            records: 0,
            due: None,
            said,
        };
        self.put(key, place, &row)?;
        Ok(before.said)
    }

    /// Takes notice that a window closes; what stands.
    pub(crate) fn closed(&mut self, key: &[u8], place: Place) -> Result<Said> {
        let row = self.row(key, place)?;
        self.forget(row.due, key, place);
        Ok(row.said)
    }

    /// Takes out a window that goes into another one.
    pub(crate) fn take_out(&mut self, key: &[u8], place: Place) -> Result<Part> {
        let row = self.row(key, place)?;
        self.forget(row.due, key, place);
        self.store.borrow_mut().remove(key, place)?;
        Ok(Part { place, row })
    }

    /// Puts in the window that others have become. One of them may be this one.
    pub(crate) fn put_in(&mut self, key: &[u8], place: Place, parts: Vec<Part>) -> Result {
        let mut whole = Row::default();
        for Part { place: of, row } in parts {
            whole.records += row.records;
            whole.due = whole.due.into_iter().chain(row.due).min();
            whole.said.absorbed.extend(row.said.absorbed);
            match row.said.result {
                Some(result) if of == place => whole.said.result = Some(result),
                Some(result) => whole.said.absorbed.push((of, result)),
                None => {}
            }
        }
        whole.said.absorbed.sort_unstable();
        self.due
            .extend(whole.due.map(|due| (due, place, key.to_vec())));
        self.put(key, place, &whole)
    }

    /// The next window, by the time at which it is due, its place, then its key, that is due at `now`.
    pub(crate) fn next_due(&self, now: Timestamp) -> Option<(Place, Vec<u8>)> {
        let (due, place, key) = self.due.first()?;
        (*due <= now).then(|| (*place, key.clone()))
    }

    pub(crate) fn expire_before(&self, from: Timestamp) {
        self.store.borrow_mut().expire_before(from);
    }

    fn forget(&mut self, due: Option<Timestamp>, key: &[u8], place: Place) {
        if let Some(due) = due {
            self.due.remove(&(due, place, key.to_vec()));
        }
    }

    fn row(&self, key: &[u8], place: Place) -> Result<Row> {
        let Some(row) = self.store.borrow().row(key, place)? else {
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

    fn put(&mut self, key: &[u8], place: Place, row: &Row) -> Result {
        row.encode(&mut self.buffer);
        let mut store = self.store.borrow_mut();
        store.put(key, place, &self.buffer)?;
        Ok(())
    }
}

/// A window that went into another one, with what it had to say.
pub(crate) struct Part {
    place: Place,
    row: Row,
}

/// Results that stand: of a window, and of those that have become part of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// By time.
    pub absorbed: Vec<(Place, Bytes)>,
    pub result: Option<Bytes>,
}

/// What is kept of a window that gives early results:
///
/// ```text
/// records since its last result (8, big endian) ‖ when it is due (8), −1 if it has nothing to say
/// ‖ results of sessions that it has absorbed, if any: 2 ‖ how many (4) ‖ each: end (8) ‖ start (8) ‖ length (4) ‖ aggregate
/// ‖ its last result, if any: 1 ‖ aggregate
/// ```
#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    records: u64,
    due: Option<Timestamp>,
    said: Said,
}

impl Row {
    fn encode(&self, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&self.records.to_be_bytes());
        into.extend_from_slice(&self.due.unwrap_or(-1).to_be_bytes());
        let Said { absorbed, result } = &self.said;
        // NOTE: a record of Kafka has room for neither 4 G sessions nor an aggregate of 4 GiB.
        if !absorbed.is_empty() {
            into.push(2);
            into.extend_from_slice(&(absorbed.len() as u32).to_be_bytes());
        }
        for ((end, start), result) in absorbed {
            into.extend_from_slice(&end.to_be_bytes());
            into.extend_from_slice(&start.to_be_bytes());
            into.extend_from_slice(&(result.len() as u32).to_be_bytes());
            into.extend_from_slice(result);
        }
        if let Some(result) = result {
            into.push(1);
            into.extend_from_slice(result);
        }
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        let mut rest = bytes.clone();
        let records = u64::from_be_bytes(take(&mut rest)?);
        let due = Timestamp::from_be_bytes(take(&mut rest)?);
        let mut said = Said::default();
        if rest.first() == Some(&2) {
            rest = rest.slice(1..);
            for _ in 0..u32::from_be_bytes(take(&mut rest)?) {
                let end = Timestamp::from_be_bytes(take(&mut rest)?);
                let start = Timestamp::from_be_bytes(take(&mut rest)?);
                let length = usize::try_from(u32::from_be_bytes(take(&mut rest)?)).ok()?;
                if length > rest.len() {
                    return None;
                }
                said.absorbed.push(((end, start), rest.split_to(length)));
            }
        }
        said.result = match rest.first() {
            None => None,
            Some(1) => Some(rest.slice(1..)),
            Some(_) => return None,
        };
        Some(Self {
            records,
            due: (due >= 0).then_some(due),
            said,
        })
    }
}

/// The first bytes, which are taken off.
fn take<const N: usize>(rest: &mut Bytes) -> Option<[u8; N]> {
    let first = *rest.first_chunk::<N>()?;
    *rest = rest.slice(N..);
    Some(first)
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &Bytes) {
    if let Some(row) = Row::decode(bytes) {
        let mut written = Vec::new();
        row.encode(&mut written);
        assert_eq!(Row::decode(&Bytes::from(written)), Some(row));
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
            absorbed in prop::collection::vec(
                (any::<Place>(), prop::collection::vec(any::<u8>(), 0..10)),
                0..3,
            ),
            result in prop::option::of(prop::collection::vec(any::<u8>(), 0..10)),
        ) {
            let absorbed = absorbed.into_iter().map(|(place, bytes)| (place, Bytes::from(bytes)));
            let said = Said { absorbed: absorbed.collect(), result: result.map(Bytes::from) };
            let row = Row { records, due, said };
            let mut bytes = Vec::new();
            row.encode(&mut bytes);
            prop_assert_eq!(Row::decode(&Bytes::from(bytes)), Some(row));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            check_any(&Bytes::from(bytes));
        }
    }
}
