//! A join in a task: probes the other side, keeps the record, gives up what can no longer match.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;

use state::JoinStore;

use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::{Context, Fanout, OperatorTime, Process, Wake};
use crate::record::{Data, Record};
use crate::serde::{Serde, SerdeError, SharedSerde};

use super::pending::Pending;
use super::{Input, Join, JoinWindows, Outer};
use crate::dsl::late::LateBranch;

pub(super) struct Side<V> {
    pub store: Rc<RefCell<JoinStore>>,
    pub value: SharedSerde<V>,
}

/// Both inputs of a join in a task.
pub(super) struct JoinNode<K, V, W, R> {
    pub name: String,
    pub windows: JoinWindows,
    pub outer: Outer,
    pub join: Join<K, V, W, R>,
    /// The time, as the left input moves it.
    pub time: OperatorTime,
    /// The same, as the right input moves it.
    pub right_time: OperatorTime,
    pub key: SharedSerde<K>,
    pub left: Side<V>,
    pub right: Side<W>,
    /// Both sides are one stream, and their records in one store.
    pub one_store: bool,
    pub pending: Option<Pending>,
    pub key_buffer: Vec<u8>,
    pub value_buffer: Vec<u8>,
    pub results: Fanout<K, R>,
    pub late_left: LateBranch<K, V>,
    pub late_right: LateBranch<K, W>,
}

pub(super) struct LeftInput<K, V, W, R>(pub Rc<RefCell<JoinNode<K, V, W, R>>>);
pub(super) struct RightInput<K, V, W, R>(pub Rc<RefCell<JoinNode<K, V, W, R>>>);

impl<K: Data, V: Data, W: Data, R: Data> Process<K, V> for LeftInput<K, V, W, R> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        let mut node = self.0.borrow_mut();
        let node = &mut *node;
        let moved = node.time.observe(record.timestamp, context);
        node.expire_if(moved);
        if node.left.value.is_null(&record.value) {
            return dropped("null value");
        }
        if node.key.is_null(&record.key) {
            return if node.outer.left {
                let join = &node.join;
                let result = record.map_value(|key, value| join(key, Some(value), None));
                node.results.forward(context, result)
            } else {
                dropped("null key")
            };
        }
        node.give_up_closed(context, record.timestamp)?;
        let (timestamp, now) = (record.timestamp, node.time.now());
        let window = node.windows.around_left(timestamp);
        if timestamp < node.windows.left_open_from(now) {
            return node
                .late_left
                .take(context, record, |_, value| value, window, now);
        }
        encode(&*node.key, &record.key, &mut node.key_buffer, &node.name)?;
        encode(
            &*node.left.value,
            &record.value,
            &mut node.value_buffer,
            &node.name,
        )?;
        let probe = Probe {
            name: &node.name,
            key: &node.key_buffer,
            from: window.0,
            to: window.1,
            side: Input::Right,
            skips_one_sided: node.skips_one_sided(Input::Right),
        };
        let (join, results) = (&node.join, &mut node.results);
        let matched = probe.run(&node.right, node.pending.as_mut(), |other_time, other| {
            let value = join(&record.key, Some(record.value.clone()), Some(other));
            results.forward(
                context,
                Record {
                    key: record.key.clone(),
                    value,
                    timestamp: timestamp.max(other_time),
                    headers: record.headers.clone(),
                },
            )
        })?;
        let sequence = node.left.store.borrow_mut().append(
            &node.key_buffer,
            timestamp,
            node.sequence(context, timestamp),
            &node.value_buffer,
        )?;
        if node.outer.left && !matched {
            node.wait(Input::Left, timestamp, sequence)?;
        }
        Ok(())
    }
}

impl<K: Data, V: Data, W: Data, R: Data> Process<K, W> for RightInput<K, V, W, R> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, W>) -> Result {
        let mut node = self.0.borrow_mut();
        let node = &mut *node;
        let moved = node.right_time.observe(record.timestamp, context);
        node.expire_if(moved);
        if node.right.value.is_null(&record.value) {
            return dropped("null value");
        }
        if node.key.is_null(&record.key) {
            return if node.outer.right {
                let join = &node.join;
                let result = record.map_value(|key, value| join(key, None, Some(value)));
                node.results.forward(context, result)
            } else {
                dropped("null key")
            };
        }
        node.give_up_closed(context, record.timestamp)?;
        let (timestamp, now) = (record.timestamp, node.time.now());
        let window = node.windows.around_right(timestamp);
        if timestamp < node.windows.right_open_from(now) {
            return node
                .late_right
                .take(context, record, |_, value| value, window, now);
        }
        encode(&*node.key, &record.key, &mut node.key_buffer, &node.name)?;
        encode(
            &*node.right.value,
            &record.value,
            &mut node.value_buffer,
            &node.name,
        )?;
        let probe = Probe {
            name: &node.name,
            key: &node.key_buffer,
            from: window.0,
            to: window.1,
            side: Input::Left,
            skips_one_sided: node.skips_one_sided(Input::Left),
        };
        let (join, results) = (&node.join, &mut node.results);
        let matched = probe.run(&node.left, node.pending.as_mut(), |other_time, other| {
            let value = join(&record.key, Some(other), Some(record.value.clone()));
            results.forward(
                context,
                Record {
                    key: record.key.clone(),
                    value,
                    timestamp: timestamp.max(other_time),
                    headers: record.headers.clone(),
                },
            )
        })?;
        if node.one_store && timestamp >= node.windows.left_open_from(now) {
            // It is there, since it came as a left record first.
            return Ok(());
        }
        let sequence = node.right.store.borrow_mut().append(
            &node.key_buffer,
            timestamp,
            node.sequence(context, timestamp),
            &node.value_buffer,
        )?;
        if node.outer.right && !matched {
            node.wait(Input::Right, timestamp, sequence)?;
        }
        Ok(())
    }
}

impl<K: Data, V: Data, W: Data, R: Data> Wake for JoinNode<K, V, W, R> {
    fn advance(&mut self, context: &mut Context<'_>, time: Timestamp) -> Result {
        let moved = [&self.time, &self.right_time].map(|of| of.observe(time, context));
        self.expire_if(moved.contains(&true));
        self.give_up_closed(context, self.time.now())
    }
}

impl<K: Data, V: Data, W: Data, R: Data> JoinNode<K, V, W, R> {
    /// Takes notice of a record's time; when it moves time forward, lets go of what can no longer be joined.
    fn expire_if(&mut self, moved: bool) {
        if moved {
            let (left_from, right_from) = self.windows.met_from(self.outer, self.time.now());
            self.left.store.borrow_mut().expire_before(left_from);
            self.right.store.borrow_mut().expire_before(right_from);
        }
    }

    /// Emits what can no longer match, if the record at hand, at `timestamp`, is at stream time.
    fn give_up_closed(&mut self, context: &mut Context<'_>, timestamp: Timestamp) -> Result {
        let now = self.time.now();
        if timestamp < now {
            return Ok(());
        }
        let left_open_from = self.windows.left_open_from(now);
        let right_open_from = self.windows.right_open_from(now);
        if let Some(pending) = &mut self.pending {
            for entry in pending.take_closed(left_open_from, right_open_from)? {
                let fault = |error| broken(&self.name, error);
                let key = self.key.deserialize(&entry.key).map_err(fault)?;
                let value = match entry.side {
                    Input::Left => {
                        let left = self.left.value.deserialize(&entry.value).map_err(fault)?;
                        (self.join)(&key, Some(left), None)
                    }
                    Input::Right => {
                        let right = self.right.value.deserialize(&entry.value).map_err(fault)?;
                        (self.join)(&key, None, Some(right))
                    }
                };
                self.results
                    .forward(context, Record::new(key, value, entry.timestamp))?;
            }
        }
        Ok(())
    }

    /// The duplicate number of the record at hand, at `timestamp`. In a store for both sides it tells whether the record
    /// was in time for one of them only.
    fn sequence(&self, context: &Context<'_>, timestamp: Timestamp) -> u32 {
        let sequence = sequence_of(context);
        if !self.one_store {
            return sequence;
        }
        let now = self.time.now();
        let (left, right) = (
            self.windows.left_open_from(now),
            self.windows.right_open_from(now),
        );
        if timestamp < left.max(right) {
            sequence | ONE_SIDED
        } else {
            sequence & !ONE_SIDED
        }
    }

    /// Whether records that were in time for one side only are not on `side`: they are on the one that closes later.
    fn skips_one_sided(&self, side: Input) -> bool {
        let (left, right) = (
            self.windows.left_open_from(0),
            self.windows.right_open_from(0),
        );
        self.one_store
            && match side {
                Input::Left => left > right,
                Input::Right => right > left,
            }
    }

    /// Keeps the record at hand until its window closes or a partner comes.
    fn wait(&mut self, side: Input, timestamp: Timestamp, sequence: u32) -> Result {
        let pending = self
            .pending
            .as_mut()
            .expect("outer joins have a pending store");
        pending.add(
            side,
            timestamp,
            sequence,
            &self.key_buffer,
            &self.value_buffer,
        )
    }
}

/// A look into the other side's buffer.
struct Probe<'a> {
    name: &'a str,
    key: &'a [u8],
    from: Timestamp,
    to: Timestamp,
    /// The side that is looked at.
    side: Input,
    /// It does not have the records of its store that were in time for one side only.
    skips_one_sided: bool,
}

impl Probe<'_> {
    /// Calls `emit` for every partner, and takes it from the unmatched ones. Whether there was any.
    fn run<O>(
        &self,
        other: &Side<O>,
        mut pending: Option<&mut Pending>,
        mut emit: impl FnMut(Timestamp, O) -> Result,
    ) -> Result<bool> {
        if self.from > self.to {
            return Ok(false);
        }
        let mut matched = false;
        let mut failed = None;
        let store = other.store.borrow();
        store.fetch(
            self.key,
            self.from,
            self.to,
            &mut |timestamp, sequence, bytes| {
                if self.skips_one_sided && sequence & ONE_SIDED != 0 {
                    return ControlFlow::Continue(());
                }
                matched = true;
                let emitted = other
                    .value
                    .deserialize(bytes)
                    .map_err(|error| broken(self.name, error))
                    .and_then(|value| match pending.as_mut() {
                        Some(pending) => {
                            pending.remove(self.side, timestamp, sequence, self.key)?;
                            emit(timestamp, value)
                        }
                        None => emit(timestamp, value),
                    });
                match emitted {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(fault) => {
                        failed = Some(fault);
                        ControlFlow::Break(())
                    }
                }
            },
        )?;
        failed.map_or(Ok(matched), Err)
    }
}

/// In a store for both sides: set in the duplicate number of a record that was in time for one side only.
const ONE_SIDED: u32 = 1 << 31;

/// Duplicate numbers follow the input offset, so that a replay writes the same entry again.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the low bits are wanted"
)]
pub(in crate::dsl) fn sequence_of(context: &Context<'_>) -> u32 {
    context.offset as u32
}

fn encode<T>(serde: &dyn Serde<T>, value: &T, buffer: &mut Vec<u8>, operator: &str) -> Result {
    buffer.clear();
    serde
        .serialize(value, buffer)
        .map_err(|error| broken(operator, error))
}

fn broken(operator: &str, error: SerdeError) -> Fault {
    Fault::serde(format_args!("a record of join {operator}"), error)
}

pub(in crate::dsl) fn dropped(reason: &'static str) -> Result {
    metrics::counter!("dropped-records", "reason" => reason).increment(1);
    Ok(())
}
