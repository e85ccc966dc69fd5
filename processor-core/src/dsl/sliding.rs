//! Aggregations over sliding windows: one for each different set of records that are at most a difference apart.
//!
//! A window is `[start, start + difference]`, both ends included. A record at `t` makes the window that ends with it,
//! `[t − difference, t]`, and once there are records in it the one right behind it, `[t + 1, t + 1 + difference]`. No
//! window starts below 0: records before `difference` share `[0, difference]`. Each record updates all windows that hold
//! it; each update is emitted at once, or each window once, when it closes: see
//! [`emit_final`](super::TimeWindowedStream::emit_final).
//!
//! A window takes records until stream time, the largest timestamp of all keys, is more than the grace past its end. A
//! record that comes too late for its own window, which ends with it, goes to the late branch once; it still counts in
//! the windows that end later and are open, also in those that are made later. Records with a null key or value neither
//! count nor move time.
//!
//! For one record, updates come in this order: windows that are there, the latest first; then, as far as they are new,
//! the window behind the record before it, its own window, and the window behind it. Records before `difference`: windows
//! that are there but `[0, difference]`, the earliest first; the window behind it, the one behind the record before it,
//! and `[0, difference]`.
//!
//! **How.** A new window holds a part of what a window before it holds, so its aggregate is taken from there: always from
//! one that holds just the records that are wanted. For this, windows are kept in the store for two differences after
//! they closed, hidden, and records that are late for them still go in.
//!
//! Source of the semantics: Kafka Streams' `KStreamSlidingWindowAggregate` (KIP-450), with these deliberate differences. A
//! record that is late for its own window is in all later ones; there it is missing from those that are made after it
//! came, since closed windows did not take it. Windows are kept as long as new ones can be made from them; there a
//! millisecond less. A new window has no old value; there it has that of the window it was made from. Final results are
//! not delayed by the wall clock, and none is lost when time leaps.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use state::{Stamped, WindowStore};

use crate::clock::millis;
use crate::error::Result;
use crate::log::Timestamp;
use crate::processor::Context;
use crate::record::{Data, Record, Windowed};
use crate::serde::{SharedSerde, windowed};
use crate::topology::StoreKind;

use super::aggregation::{Adder, Aggregation, Inputs, Wired};
use super::finals::Emit;
use super::window_rows::Place;
use super::windowed::WindowedTable;
use super::windowing::{Arrival, Closing, Update, Windowing, WindowingPlan};

/// How far apart the records of a window may be: see [`SlidingWindows::of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlidingWindows {
    difference_ms: i64,
    grace_ms: i64,
}

/// Sliding windows that still need their grace, which has no default: how late may a record be?
#[derive(Debug, Clone, Copy)]
pub struct SlidingWithoutGrace {
    difference_ms: i64,
}

impl SlidingWindows {
    /// Windows whose records are at most `difference` apart: a new one wherever one record more, or one less, is in it.
    ///
    /// A window is `[start, start + difference]`, both ends included, and is read and written with the serde
    /// [`windowed(key serde, difference)`](crate::serde::windowed). A record at `t` is in the window that ends with it,
    /// `[t − difference, t]`, and, with the records that come after it, in more.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, SlidingWindows, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8, windowed};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("logins");
    /// let close_together = SlidingWindows::of(Duration::from_millis(10)).grace(Duration::ZERO);
    /// builder
    ///     .stream("failures", Consumed::new(utf8(), int64()))
    ///     .group_by_key()
    ///     .windowed_by(close_together)
    ///     .count("failures-together")
    ///     .to_stream()
    ///     .to("together");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let failures = driver.input("failures", utf8(), int64());
    /// for time in [100, 107, 115] {
    ///     failures.pipe(&mut driver, "ann".to_owned(), 1, time);
    /// }
    /// let out = driver.output("together", windowed(utf8(), 10), int64());
    /// let out: Vec<_> = out.read(&mut driver).into_iter().map(|r| (r.key.start, r.key.end, r.value)).collect();
    /// assert_eq!(
    ///     out,
    ///     [
    ///         (90, 100, 1),                             // 100
    ///         (101, 111, 1), (97, 107, 2),              // 107; 100 and 107
    ///         (108, 118, 1), (105, 115, 2),             // 115; 107 and 115
    ///     ]
    /// );
    /// ```
    #[must_use]
    pub fn of(difference: Duration) -> SlidingWithoutGrace {
        SlidingWithoutGrace {
            difference_ms: millis(difference),
        }
    }

    /// The least start of a window that is still open at `time`.
    fn end_of(self, start: Timestamp) -> Timestamp {
        start.saturating_add(self.difference_ms)
    }

    /// Start of the window that ends with a record.
    fn own_start(self, timestamp: Timestamp) -> Timestamp {
        timestamp.saturating_sub(self.difference_ms).max(0)
    }

    /// How long windows are kept after they closed: a record that is in time lies at most a difference before the end of
    /// what is open, and the windows that its own are made from start up to two differences before it.
    fn kept_ms(self) -> i64 {
        self.difference_ms.saturating_mul(2)
    }
}

impl Closing for SlidingWindows {
    fn open_from(self, time: Timestamp) -> Timestamp {
        time.saturating_sub(self.grace_ms)
            .saturating_sub(self.difference_ms)
    }

    fn bounds(self, (start, _): Place) -> (Timestamp, Timestamp) {
        (start, self.end_of(start))
    }
}

impl SlidingWithoutGrace {
    /// How long after its end, in stream time, a window still takes records.
    #[must_use]
    pub fn grace(self, grace: Duration) -> SlidingWindows {
        SlidingWindows {
            difference_ms: self.difference_ms,
            grace_ms: millis(grace),
        }
    }
}

/// An aggregation of `inputs` over sliding windows, called `name`.
pub(crate) fn aggregate<K: Data, A: Data, L: Data>(
    inputs: &Inputs<K, A, L>,
    name: &str,
    serde: SharedSerde<A>,
    windows: SlidingWindows,
    emit: Emit,
) -> WindowedTable<K, L, A> {
    let open_ms = windows.difference_ms.saturating_add(windows.grace_ms);
    let retention_ms = open_ms.saturating_add(windows.kept_ms());
    let store = StoreKind::Window { retention_ms };
    let Some(wired) = Wired::new(inputs, name, "sliding aggregate", store) else {
        return WindowedTable::detached(&inputs.origin());
    };
    wired.describe(&serde, &[("difference_ms", windows.difference_ms)]);
    let windowing = WindowingPlan::new(name, &wired, emit, serde).keeping(windows.kept_ms());
    let windowed_key = windowed(Arc::clone(&wired.key), windows.difference_ms);
    // A window's end is part of it.
    let closes_after_ms = windows.grace_ms.saturating_add(1);
    let outputs =
        windowing.outputs::<WindowStore>(&wired, Arc::new(windowed_key), Some(closes_after_ms));
    let store = wired.store;
    wired.attach(move |instantiation| {
        Ok(Aggregation::Sliding(SlidingAggregate {
            windows,
            windowing: windowing.open(instantiation, store, windows)?,
        }))
    });
    WindowedTable::of(outputs)
}

/// An aggregation over sliding windows in a task.
pub(crate) struct SlidingAggregate<K, A, L> {
    windows: SlidingWindows,
    windowing: Windowing<K, A, L, WindowStore>,
}

impl<K: Data, A: Data, L: Data> SlidingAggregate<K, A, L> {
    pub(crate) fn take<V: Data>(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, V>,
        adder: &Adder<K, V, A, L>,
    ) -> Result {
        let timestamp = record.timestamp;
        let Arrival {
            time,
            open_from,
            moved,
        } = self
            .windowing
            .arrive(context, adder.input, timestamp, self.windows);
        self.windowing.encoding.encode_key(&record.key)?;

        let own = self.windows.own_start(timestamp);
        if own < open_from {
            let window = (own, self.windows.end_of(own));
            let late = &mut self.windowing.late;
            late.take(context, record.clone(), &*adder.show, window, time)?;
        }
        // The last window that can hold it starts with it.
        if timestamp >= open_from {
            self.add(context, record, open_from, adder)?;
        }

        match moved {
            true => self.windowing.close_passed(context, self.windows),
            false => Ok(()),
        }
    }

    /// Time has moved without a record.
    pub(crate) fn advance(&mut self, context: &mut Context<'_>, time: Timestamp) -> Result {
        self.windowing.advance(context, time, self.windows)
    }

    /// Adds the record, whose key is in the buffer, to the windows that hold it, and makes those that are new.
    fn add<V: Data>(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, V>,
        open_from: Timestamp,
        adder: &Adder<K, V, A, L>,
    ) -> Result {
        let found = self.find(record.timestamp)?;
        let steps = steps(self.windows, record.timestamp, &found);
        let last = steps.len().saturating_sub(1);
        let mut record = Some(record);
        let mut made = None;
        for (number, Step { start, of, adds }) in steps.into_iter().enumerate() {
            // All but the last step need a copy of the record.
            let taken = if number < last {
                record.clone()
            } else {
                record.take()
            };
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = taken.expect("taken at the last step");
            let of = of.map(|of| &found[of]);
            // Its own window may be the one behind the record before it. Then it comes twice, as in Kafka Streams.
            let again = made.replace(start) == Some(start);
            let is_new = !again && of.is_none_or(|of| of.start != start);
            let encoding = &mut self.windowing.encoding;
            let before = of.map(|of| encoding.decode(&of.row)).transpose()?;
            let has_table = self.windowing.has_table();
            let mut old = before.as_ref().filter(|_| has_table && !is_new).cloned();
            let latest = of.map_or(timestamp, |of| of.row.timestamp.max(timestamp));
            let new = match before {
                Some(before) if !adds => before,
                before => (adder.add)(&key, value, before),
            };
            if again && !self.windowing.emits_updates() {
                continue;
            }
            if again && has_table {
                old = Some(new.clone());
            }
            let (key_bytes, bytes) = self.windowing.encoding.encode(&new)?;
            let mut store = self.windowing.store.borrow_mut();
            store.put(key_bytes, start, bytes, latest)?;
            drop(store);
            if start < open_from {
                continue;
            }
            let end = self.windows.end_of(start);
            let update = Update {
                key: Windowed { key, start, end },
                new: Some(new),
                old,
                is_new,
                timestamp: latest,
                headers,
            };
            self.windowing.updated(context, update)?;
        }
        Ok(())
    }

    /// The windows of the key in the buffer that say which windows a record at `timestamp` changes and makes, by start.
    fn find(&self, timestamp: Timestamp) -> Result<Vec<Found>> {
        let from = timestamp.saturating_sub(self.windows.kept_ms()).max(0);
        let to = timestamp.saturating_add(1);
        let mut found = Vec::new();
        let store = self.windowing.store.borrow();
        let key = &self.windowing.encoding.key_buffer;
        store.fetch(key, from, to, &mut |start, row| {
            found.push(Found { start, row });
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }
}

/// A window as the store has it; its timestamp is the largest in it.
struct Found {
    start: Timestamp,
    row: Stamped,
}

/// What becomes of a window.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    start: Timestamp,
    /// The window whose aggregate, before the record, it begins with: itself if it is there. By number; none for nothing.
    of: Option<usize>,
    /// Whether the record is in it.
    adds: bool,
}

/// What a record at `timestamp` does to the windows of its key, in the order in which it shows.
fn steps(windows: SlidingWindows, timestamp: Timestamp, found: &[Found]) -> Vec<Step> {
    if timestamp < windows.difference_ms {
        return early_steps(timestamp, found);
    }
    let is_there = |start| found.iter().any(|window| window.start == start);
    let own = timestamp - windows.difference_ms;
    let mut steps = Vec::new();
    // The timestamp before this one; the latest windows without and with this one.
    let (mut previous, mut before, mut around) = (None, None, None);
    for (number, window) in found.iter().enumerate().rev() {
        let latest = window.row.timestamp;
        if window.start > timestamp {
            continue;
        }
        if window.start < own {
            (previous, before) = (Some(latest), Some(number));
            break;
        }
        steps.push(Step {
            start: window.start,
            of: Some(number),
            adds: true,
        });
        if window.start > own {
            around.get_or_insert(number);
        } else if latest == timestamp {
            // There was a record at this timestamp, so all windows are there.
            return steps;
        } else {
            previous = Some(latest);
        }
    }
    let behind_previous = previous.map(|previous| previous + 1);
    let behind_previous = behind_previous.filter(|start| *start >= own && !is_there(*start));
    steps.extend(behind_previous.map(alone));
    if !is_there(own) {
        let of = before.filter(|_| previous.is_some_and(|previous| previous >= own));
        steps.push(Step {
            start: own,
            of,
            adds: true,
        });
    }
    steps.extend(behind(timestamp, around, found));
    steps
}

/// The same for a record that shares the window from 0 on.
fn early_steps(timestamp: Timestamp, found: &[Found]) -> Vec<Step> {
    let is_there = |start| found.iter().any(|window| window.start == start);
    let mut steps = Vec::new();
    let (mut shared, mut around) = (None, None);
    for (number, window) in found.iter().enumerate() {
        if window.start == 0 {
            shared = Some(number);
        } else if window.start <= timestamp {
            around = Some(number);
            steps.push(Step {
                start: window.start,
                of: Some(number),
                adds: true,
            });
        }
    }
    steps.extend(behind(timestamp, around.or(shared), found));
    // Where a later one is in the shared window, it has made the window behind the previous one.
    let previous = shared.map(|shared| found[shared].row.timestamp);
    let behind_previous = previous
        .filter(|previous| *previous < timestamp)
        .map(|previous| previous + 1);
    steps.extend(behind_previous.filter(|start| !is_there(*start)).map(alone));
    steps.push(Step {
        start: 0,
        of: shared,
        adds: true,
    });
    steps
}

/// A new window that holds the record and nothing else.
fn alone(start: Timestamp) -> Step {
    Step {
        start,
        of: None,
        adds: true,
    }
}

/// The window behind a record, if it is new and not empty: what `around`, the latest window that holds the record's
/// timestamp, has in it is later than the record, or nothing is.
fn behind(timestamp: Timestamp, around: Option<usize>, found: &[Found]) -> Option<Step> {
    let start = timestamp + 1;
    let around = around.filter(|around| found[*around].row.timestamp > timestamp)?;
    let is_there = found.iter().any(|window| window.start == start);
    (!is_there).then_some(Step {
        start,
        of: Some(around),
        adds: false,
    })
}
