//! The join in a task: all sides in one store, and their times.

use std::cell::RefCell;
use std::ops::{Bound, ControlFlow};
use std::rc::Rc;
use std::sync::Arc;

use state::{Direction, JoinStore, KeyValueStore};

use crate::dsl::late::LateBranch;
use crate::dsl::lateness::{InputTimes, TimedInputs};
use crate::dsl::stream_join::node::{dropped, sequence_of};
use crate::dsl::stream_join::pending::{ordered, timestamp_of};
use crate::error::{Fault, Result};
use crate::log::{Headers, Timestamp};
use crate::processor::{Context, Fanout, Process};
use crate::record::{Data, Record};
use crate::serde::{SerdeError, SharedSerde};

use super::combinations::{Choice, Row, complete_with_last, largest_from, latest};
use super::window::JoinAllWindow;

/// Makes a result of the bytes that were chosen, one part for each side.
pub type Decode<R> = Arc<dyn Fn(&[Option<&[u8]>]) -> Result<R, SerdeError> + Send + Sync>;

/// All sides of a join in a task.
pub(super) struct JoinAllNode<K, R> {
    pub name: String,
    pub window: JoinAllWindow,
    /// One for each side.
    pub times: InputTimes,
    pub sides: usize,
    pub key: SharedSerde<K>,
    pub decode: Decode<R>,
    /// By key and time, each `side (1) ‖ value`.
    pub rows: Rc<RefCell<JoinStore>>,
    /// Where results wait for their window: `time (8, sorts like the number) ‖ key` of the rows that may be the earliest of
    /// one.
    pub open: Option<Open>,
    pub results: Fanout<K, R>,
    pub key_buffer: Vec<u8>,
    pub value_buffer: Vec<u8>,
}

/// One side of a join.
pub(super) struct SideInput<K, R, V> {
    pub node: Rc<RefCell<JoinAllNode<K, R>>>,
    pub side: usize,
    pub value: SharedSerde<V>,
    pub late: LateBranch<K, V>,
}

impl<K: Data, R: Data, V: Data> Process<K, V> for SideInput<K, R, V> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        let mut node = self.node.borrow_mut();
        let node = &mut *node;
        if node.key.is_null(&record.key) {
            return dropped("null key");
        }
        if self.value.is_null(&record.value) {
            return dropped("null value");
        }
        let (side, timestamp) = (self.side, record.timestamp);
        let moved = node.times.observe(side, timestamp, context);
        if timestamp < node.times.in_time_from(side) {
            let now = node.times.time_of(side);
            let window = node.around(timestamp);
            return self
                .late
                .take(context, record, |_, value| value, window, now);
        }
        node.key_buffer.clear();
        let fault = |error| broken(&node.name, error);
        node.key
            .serialize(&record.key, &mut node.key_buffer)
            .map_err(fault)?;
        node.value_buffer.clear();
        node.value_buffer
            .push(u8::try_from(side).expect("there are few sides"));
        self.value
            .serialize(&record.value, &mut node.value_buffer)
            .map_err(fault)?;
        match node.open {
            Some(_) => node.wait(timestamp)?,
            None => node.complete(&record, context)?,
        }
        let mut rows = node.rows.borrow_mut();
        let (key, sequence) = (&node.key_buffer, sequence_of(context));
        rows.append(key, timestamp, sequence, &node.value_buffer)?;
        drop(rows);
        if moved {
            node.move_on(context)?;
        }
        Ok(())
    }
}

impl<K: Data, R: Data> JoinAllNode<K, R> {
    /// The times of records that may be joined with one at `timestamp`, both included.
    fn around(&self, timestamp: Timestamp) -> (Timestamp, Timestamp) {
        let window_ms = self.window.window_ms;
        (
            timestamp.saturating_sub(window_ms),
            timestamp.saturating_add(window_ms),
        )
    }

    /// Emits what the record at hand, whose bytes are in the buffers, completes.
    fn complete<V>(&mut self, record: &Record<K, V>, context: &mut Context<'_>) -> Result {
        let (from, to) = self.around(record.timestamp);
        let mut group = self.group(from, to)?;
        let kept = group.push(record.timestamp, &self.value_buffer, self.sides);
        kept.ok_or_else(|| not_a_row(&self.name))?;
        let choices = complete_with_last(&group.rows, self.sides, self.window.window_ms);
        for choice in choices {
            let key = record.key.clone();
            self.emit(key, &group, &choice, record.headers.clone(), context)?;
        }
        Ok(())
    }

    /// Keeps in mind that a result may begin at `timestamp`, with the key in the buffer.
    fn wait(&mut self, timestamp: Timestamp) -> Result {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        open.add(timestamp, &self.key_buffer)
    }

    /// What nothing can meet any more; a result that is still to come may begin a window after what is before it.
    pub(super) fn expire(&mut self) {
        let (closed_before, _) = self.around(self.times.all_in_time_from());
        let needed_from = match self.open {
            Some(_) => self.around(closed_before).0,
            None => closed_before,
        };
        self.rows.borrow_mut().expire_before(needed_from);
    }

    /// The rows of the key in the buffer, by time.
    fn group(&self, from: Timestamp, to: Timestamp) -> Result<Group> {
        let (mut group, mut whole) = (Group::default(), true);
        let rows = self.rows.borrow();
        rows.fetch(
            &self.key_buffer,
            from,
            to,
            &mut |timestamp, _, row| match group.push(timestamp, row, self.sides) {
                Some(()) => ControlFlow::Continue(()),
                None => {
                    whole = false;
                    ControlFlow::Break(())
                }
            },
        )?;
        match whole {
            true => Ok(group),
            false => Err(not_a_row(&self.name)),
        }
    }

    fn emit(
        &mut self,
        key: K,
        group: &Group,
        choice: &Choice,
        headers: Headers,
        context: &mut Context<'_>,
    ) -> Result {
        let part = |number: &Option<usize>| number.map(|number| &group.values[number][..]);
        let parts: Vec<Option<&[u8]>> = choice.iter().map(part).collect();
        let value = (self.decode)(&parts).map_err(|error| broken(&self.name, error))?;
        let timestamp = latest(&group.rows, choice);
        self.results.forward(
            context,
            Record {
                key,
                value,
                timestamp,
                headers,
            },
        )
    }
}

impl<K: Data, R: Data> TimedInputs for JoinAllNode<K, R> {
    fn times(&mut self) -> &mut InputTimes {
        &mut self.times
    }

    fn move_on(&mut self, context: &mut Context<'_>) -> Result {
        let (closed_before, _) = self.around(self.times.all_in_time_from());
        let closed = match &mut self.open {
            Some(open) => open.take_before(closed_before, &self.name)?,
            None => Vec::new(),
        };
        for (timestamp, key_bytes) in closed {
            self.key_buffer.clear();
            self.key_buffer.extend_from_slice(&key_bytes);
            let (from, to) = self.around(timestamp);
            let group = self.group(from, to)?;
            let (sides, window_ms) = (self.sides, self.window.window_ms);
            for choice in largest_from(&group.rows, sides, window_ms, timestamp) {
                let key = self.key.deserialize(&key_bytes);
                let key = key.map_err(|error| broken(&self.name, error))?;
                self.emit(key, &group, &choice, Headers::new(), context)?;
            }
        }
        self.expire();
        Ok(())
    }
}

/// Rows of one key with the bytes of their values.
#[derive(Default)]
struct Group {
    rows: Vec<Row>,
    values: Vec<Vec<u8>>,
}

impl Group {
    /// Adds a row; none when it is not one of a join of so many sides.
    fn push(&mut self, timestamp: Timestamp, row: &[u8], sides: usize) -> Option<()> {
        let (side, value) = row.split_first()?;
        let side = usize::from(*side);
        if side >= sides {
            return None;
        }
        self.rows.push(Row { side, timestamp });
        self.values.push(value.to_vec());
        Some(())
    }
}

/// The times at which results may begin that have not left.
pub(super) struct Open {
    store: Rc<RefCell<KeyValueStore>>,
    /// Nothing is earlier; saves a scan for most records.
    earliest: Timestamp,
}

impl Open {
    pub(super) fn read(store: Rc<RefCell<KeyValueStore>>) -> Result<Self> {
        let mut open = Self {
            store,
            earliest: Timestamp::MAX,
        };
        open.earliest = open.first()?;
        Ok(open)
    }

    fn first(&self) -> Result<Timestamp> {
        let mut first = Timestamp::MAX;
        let all = (Bound::Unbounded, Bound::Unbounded);
        let store = self.store.borrow();
        store.scan(all.0, all.1, Direction::Forward, &mut |key, _| {
            first = timestamp_of(key);
            ControlFlow::Break(())
        })?;
        Ok(first)
    }

    fn add(&mut self, timestamp: Timestamp, key: &[u8]) -> Result {
        let mut bytes = ordered(timestamp).to_vec();
        bytes.extend_from_slice(key);
        self.store.borrow_mut().put(&bytes, &[], timestamp)?;
        self.earliest = timestamp.min(self.earliest);
        Ok(())
    }

    /// Takes out what lies before `end`, by time, then key.
    fn take_before(&mut self, end: Timestamp, operator: &str) -> Result<Vec<(Timestamp, Vec<u8>)>> {
        if self.earliest >= end {
            return Ok(Vec::new());
        }
        let mut taken = Vec::new();
        let mut store = self.store.borrow_mut();
        let bound = ordered(end);
        let (from, to) = (Bound::Unbounded, Bound::Excluded(&bound[..]));
        store.scan(from, to, Direction::Forward, &mut |key, _| {
            taken.push(key.to_vec());
            ControlFlow::Continue(())
        })?;
        for key in &taken {
            store.delete(key, timestamp_of(key))?;
        }
        drop(store);
        self.earliest = self.first()?;
        let place = |key: Vec<u8>| Some((timestamp_of(&key), key.get(8..)?.to_vec()));
        let places: Option<Vec<_>> = taken.into_iter().map(place).collect();
        places.ok_or_else(|| not_a_row(operator))
    }
}

fn not_a_row(operator: &str) -> Fault {
    let error = SerdeError::new("the bytes are not what such a join keeps");
    broken(operator, error)
}

fn broken(operator: &str, error: SerdeError) -> Fault {
    Fault::serde(format_args!("a record of join {operator}"), error)
}
