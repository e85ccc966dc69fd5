//! Timers of keys: a processor is called back for a key at a time, in event time or by the wall clock.
//!
//! A timer is a key and a time. Setting it twice is setting it once; it fires once, at the time or after it, and is gone
//! then. Timers are rows of a store with a changelog, so they survive restarts and move with their partition; their keys
//! and times are held in memory besides. Rows sort by time, then by the bytes of the key, and in that order timers fire:
//!
//! ```text
//!  clock (1: 0 event time, 1 wall clock) ‖ time (8, sign bit flipped) ‖ key  →  nothing
//! ```

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::rc::Rc;
use std::sync::Arc;

use state::{Direction, KeyValueStore, StateError};

use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::serde::{SharedSerde, deserialize_nullable, serialize_nullable};
use crate::topology::StoreId;

use super::store::Attachment;
use super::{Instantiation, StoreSet};

/// When a timer fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// When the largest timestamp of the records that reached the processor is this or later, in epoch milliseconds:
    /// right after the record that made it so, whatever the wall clock says. Behind a repartition topic that time is the
    /// slowest upstream task's.
    EventTime(Timestamp),
    /// When the wall clock shows this or later, in epoch milliseconds, with or without records.
    WallClock(Timestamp),
}

/// A timer that fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fired<K> {
    /// The key it was set for.
    pub key: K,
    /// The time it was set for.
    pub timer: Timer,
    /// The event time or wall-clock time that it is now, in epoch milliseconds.
    pub now: Timestamp,
}

/// Timers of the plan: see [`StreamsBuilder::timers`](crate::dsl::StreamsBuilder::timers).
pub struct TimersHandle<K> {
    id: StoreId,
    name: String,
    key: SharedSerde<K>,
}

impl<K> TimersHandle<K> {
    pub(crate) fn new(id: StoreId, name: &str, key: SharedSerde<K>) -> Self {
        Self {
            id,
            name: name.to_owned(),
            key,
        }
    }
}

impl<K: 'static> StoreSet for TimersHandle<K> {
    type Opened = Timers<K>;

    fn ids(&self) -> Vec<StoreId> {
        vec![self.id]
    }

    fn timer_keys(&self) -> Vec<std::any::TypeId> {
        vec![std::any::TypeId::of::<K>()]
    }

    fn open(&self, instantiation: &Instantiation<'_>) -> Result<Timers<K>> {
        let queue = TimerQueue::restore(instantiation.key_value(self.id)?)?;
        let timers = Timers {
            name: self.name.clone(),
            queue: Rc::new(RefCell::new(queue)),
            key: Arc::clone(&self.key),
            key_buffer: Vec::new(),
        };
        let attached: Box<dyn Any> = Box::new(timers.share());
        instantiation.attach(Attachment::Timers(attached));
        Ok(timers)
    }
}

/// The timers of a processor, to set and to cancel. They call [`Processor::on_timer`](super::Processor::on_timer).
///
/// Like a store they are part of the task's transaction.
pub struct Timers<K> {
    name: String,
    queue: Rc<RefCell<TimerQueue>>,
    key: SharedSerde<K>,
    key_buffer: Vec<u8>,
}

impl<K> Timers<K> {
    fn share(&self) -> Self {
        Self {
            name: self.name.clone(),
            queue: Rc::clone(&self.queue),
            key: Arc::clone(&self.key),
            key_buffer: Vec::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Sets a timer. One whose time has come already fires after the record or callback at hand.
    ///
    /// # Errors
    /// When the key is null or has no bytes, or the store fails.
    pub fn set(&mut self, key: &K, timer: Timer) -> Result {
        let key = encode(&self.name, &*self.key, key, &mut self.key_buffer)?;
        Ok(self.queue.borrow_mut().set(timer, key)?)
    }

    /// Takes a timer back; whether it was set.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub fn cancel(&mut self, key: &K, timer: Timer) -> Result<bool> {
        let key = encode(&self.name, &*self.key, key, &mut self.key_buffer)?;
        Ok(self.queue.borrow_mut().cancel(timer, key)?)
    }

    /// Takes the earliest event timer that is due at `now`.
    pub(crate) fn due_event(&self, now: Timestamp) -> Result<Option<Fired<K>>> {
        self.due(Timer::EventTime(Timestamp::MIN), now)
    }

    /// Takes the earliest wall-clock timer that is due at `now`.
    pub(crate) fn due_wall(&self, now: Timestamp) -> Result<Option<Fired<K>>> {
        self.due(Timer::WallClock(Timestamp::MIN), now)
    }

    fn due(&self, first: Timer, now: Timestamp) -> Result<Option<Fired<K>>> {
        let Some((timer, key)) = self.queue.borrow_mut().take_due(first, now)? else {
            return Ok(None);
        };
        let key = deserialize_nullable(&*self.key, Some(&key))
            .map_err(|error| Fault::serde(format_args!("a key of timers {}", self.name), error))?;
        Ok(Some(Fired { key, timer, now }))
    }
}

fn encode<'a, K>(
    name: &str,
    serde: &dyn crate::serde::Serde<K>,
    key: &K,
    buffer: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    let bytes = serialize_nullable(serde, key, buffer)
        .map_err(|error| Fault::serde(format_args!("a key of timers {name}"), error))?;
    bytes.ok_or_else(|| Fault::user(name, "a null key can have no timer"))
}

/// The timers of a task, as bytes.
struct TimerQueue {
    store: Rc<RefCell<KeyValueStore>>,
    waiting: BTreeSet<(Timer, Vec<u8>)>,
    row: Vec<u8>,
}

impl TimerQueue {
    fn restore(store: Rc<RefCell<KeyValueStore>>) -> Result<Self> {
        let mut waiting = BTreeSet::new();
        let mut torn = false;
        let mut read = |row: &[u8], _| {
            match parse(row) {
                Some((timer, key)) => waiting.extend([(timer, key.to_vec())]),
                None => torn = true,
            }
            ControlFlow::Continue(())
        };
        let (all, forward) = (Bound::Unbounded, Direction::Forward);
        store.borrow().scan(all, all, forward, &mut read)?;
        if torn {
            return Err(StateError::Corrupt {
                store: state::Store::name(&*store.borrow()).to_owned(),
                detail: "a row is not a timer".to_owned(),
            }
            .into());
        }
        Ok(Self {
            store,
            waiting,
            row: Vec::new(),
        })
    }

    fn set(&mut self, timer: Timer, key: &[u8]) -> std::result::Result<(), StateError> {
        if self.waiting.insert((timer, key.to_vec())) {
            write_row(&mut self.row, timer, key);
            let time = changelog_time(timer);
            self.store.borrow_mut().put(&self.row, &[], time)?;
        }
        Ok(())
    }

    fn cancel(&mut self, timer: Timer, key: &[u8]) -> std::result::Result<bool, StateError> {
        if !self.waiting.remove(&(timer, key.to_vec())) {
            return Ok(false);
        }
        write_row(&mut self.row, timer, key);
        let time = changelog_time(timer);
        self.store.borrow_mut().delete(&self.row, time)?;
        Ok(true)
    }

    /// Takes the earliest timer of the clock of `first` whose time is `now` or earlier.
    fn take_due(
        &mut self,
        first: Timer,
        now: Timestamp,
    ) -> std::result::Result<Option<(Timer, Vec<u8>)>, StateError> {
        let mut after = self.waiting.range((first, Vec::new())..);
        let due = match (first, after.next()) {
            (Timer::EventTime(_), Some(due @ (Timer::EventTime(time), _))) if *time <= now => due,
            (Timer::WallClock(_), Some(due @ (Timer::WallClock(time), _))) if *time <= now => due,
            _ => return Ok(None),
        };
        let due = due.clone();
        self.cancel(due.0, &due.1)?;
        Ok(Some(due))
    }
}

/// Kafka has no records from before 1970.
fn changelog_time(timer: Timer) -> Timestamp {
    let (Timer::EventTime(time) | Timer::WallClock(time)) = timer;
    time.max(0)
}

fn write_row(row: &mut Vec<u8>, timer: Timer, key: &[u8]) {
    let (clock, time) = match timer {
        Timer::EventTime(time) => (0, time),
        Timer::WallClock(time) => (1, time),
    };
    row.clear();
    row.push(clock);
    row.extend_from_slice(&(time.cast_unsigned() ^ 1 << 63).to_be_bytes());
    row.extend_from_slice(key);
}

fn parse(row: &[u8]) -> Option<(Timer, &[u8])> {
    let (clock, rest) = row.split_first()?;
    let (time, key) = rest.split_first_chunk::<8>()?;
    let time = (u64::from_be_bytes(*time) ^ 1 << 63).cast_signed();
    match clock {
        0 => Some((Timer::EventTime(time), key)),
        1 => Some((Timer::WallClock(time), key)),
        _ => None,
    }
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_any(bytes: &[u8]) {
    if let Some((timer, key)) = parse(bytes) {
        let mut written = Vec::new();
        write_row(&mut written, timer, key);
        assert_eq!(written, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_sort_as_timers_do_and_are_read_back() {
        let mut timers = Vec::new();
        for time in [Timestamp::MIN, -1, 0, 1, 255, 256, Timestamp::MAX] {
            for key in [&b""[..], b"a", b"ab", b"b"] {
                timers.push((Timer::WallClock(time), key));
                timers.push((Timer::EventTime(time), key));
            }
        }
        let row = |(timer, key): &(Timer, &[u8])| {
            let mut row = Vec::new();
            write_row(&mut row, *timer, key);
            row
        };
        let mut rows: Vec<Vec<u8>> = timers.iter().map(row).collect();
        rows.sort();
        timers.sort();
        let read: Vec<_> = rows.iter().map(|row| parse(row).unwrap()).collect();
        assert_eq!(read, timers);
    }

    #[test]
    fn what_is_no_timer_is_not_read_as_one() {
        for row in [
            &b""[..],
            b"\0",
            b"\0\0\0\0\0\0\0\0",
            b"\x02\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(parse(row), None, "{row:?}");
        }
    }
}
