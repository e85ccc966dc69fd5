//! Hopping windows put together from panes, so that a record updates one aggregate and not one for each of its windows.
//!
//! A pane is as long as the greatest common divisor of the windows' size and advance: every window consists of whole
//! panes. The store holds the aggregates of panes, and those of a window are combined when it is emitted. That is once, at
//! its close; with each update, every record would combine all panes of all its windows.
//!
//! What comes out is what there would be without panes, if the combiner keeps its promise: adding values to an aggregate
//! one by one, in any order, is the same as combining the aggregates of some of them. A reducer or an adder that looks at
//! the order does not, so panes are used for counts, for sums, and where a topology says so.
//!
//! A record that is late for some of its windows goes into the pane that its others share: those it is late for have been
//! emitted then, or are before it goes in.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use state::WindowStore;

use crate::error::{Fault, Result};
use crate::log::{Headers, Timestamp};
use crate::processor::Context;
use crate::record::{Data, Record, Windowed};
use crate::serde::{SharedSerde, windowed};
use crate::topology::StoreKind;

use super::aggregation::{Adder, Aggregation, Inputs, Wired};
use super::encoding::Encoding;
use super::finals::{Emit, Finals};
use super::time_windows::TimeWindows;
use super::view::{Look, View};
use super::window_rows::Place;
use super::windowed::WindowedTable;
use super::windowing::{Arrival, Closing, Update, Windowing, WindowingPlan};

/// What the aggregates of two panes give together.
pub(crate) type Combine<A> = Arc<dyn Fn(A, A) -> A + Send + Sync>;

/// Windows as panes, where these are fewer than the windows that a record is in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panes {
    windows: TimeWindows,
    pane_ms: i64,
}

impl Panes {
    /// The panes of `windows`, if they overlap.
    pub(crate) fn of(windows: TimeWindows) -> Option<Self> {
        let overlap = windows.problem().is_none() && windows.advance_ms < windows.size_ms;
        overlap.then(|| Self {
            windows,
            pane_ms: greatest_common_divisor(windows.size_ms, windows.advance_ms),
        })
    }

    /// Start of the pane that holds `timestamp`.
    fn pane_of(self, timestamp: Timestamp) -> Timestamp {
        timestamp.max(0) / self.pane_ms * self.pane_ms
    }

    /// Start and end of a window; the end is not part of it.
    fn window_at(self, start: Timestamp) -> (Timestamp, Timestamp) {
        (start, start.saturating_add(self.windows.size_ms))
    }

    /// The first start of a window at `from` or later.
    fn start_from(self, from: Timestamp) -> Timestamp {
        let (from, advance_ms) = (from.max(0), self.windows.advance_ms);
        let behind = from % advance_ms;
        if behind == 0 {
            from
        } else {
            from.saturating_add(advance_ms - behind)
        }
    }

    /// The first start of a window at `from` or later that holds the first of `panes` there; it may hold more.
    fn next_window(self, panes: &Finals, from: Timestamp) -> Option<Timestamp> {
        let start = self.start_from(from);
        let pane = panes.first_from(start)?;
        let first_with_it = self.windows.starts_of(pane).next()?;
        Some(start.max(first_with_it))
    }
}

impl Closing for Panes {
    fn open_from(self, time: Timestamp) -> Timestamp {
        self.windows.open_from(time)
    }

    fn bounds(self, (start, _): Place) -> (Timestamp, Timestamp) {
        self.window_at(start)
    }
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

/// An aggregation of `inputs` over windows that are emitted when they close, called `name`.
pub(crate) fn aggregate<K: Data, A: Data, L: Data>(
    inputs: &Inputs<K, A, L>,
    name: &str,
    serde: SharedSerde<A>,
    panes: Panes,
    combine: Combine<A>,
) -> WindowedTable<K, L, A> {
    let windows = panes.windows;
    let retention_ms = windows.size_ms.saturating_add(windows.grace_ms);
    let store = StoreKind::Window { retention_ms };
    // Rows of panes are no rows of windows, so the store has another name.
    let store = (format!("{name}-panes"), store);
    let Some(wired) = Wired::with_store(inputs, name, "windowed aggregate", store) else {
        return WindowedTable::detached(&inputs.origin());
    };
    let parameters = [
        ("advance_ms", windows.advance_ms),
        ("pane_ms", panes.pane_ms),
        ("size_ms", windows.size_ms),
    ];
    wired.describe(&serde, &parameters);
    let windowing = WindowingPlan::new(name, &wired, Emit::Finals, Arc::clone(&serde));
    let (key, store) = (Arc::clone(&wired.key), wired.store);
    let windowed_key = Arc::new(windowed(Arc::clone(&key), windows.size_ms));
    let closes_after_ms = Some(windows.grace_ms);
    let mut outputs = windowing.outputs::<WindowStore>(&wired, windowed_key, closes_after_ms);
    let (operator, combine_rows) = (name.to_owned(), Arc::clone(&combine));
    outputs.table.view = Some(View::new(vec![store], move |instantiation| {
        Ok(PaneRows {
            panes,
            store: instantiation.window(store)?,
            encoding: Encoding::new(&operator, Arc::clone(&key), Arc::clone(&serde)),
            combine: Arc::clone(&combine_rows),
        })
    }));
    wired.attach(move |instantiation| {
        Ok(Aggregation::Panes(PaneAggregate {
            panes,
            windowing: windowing.open(instantiation, store, panes)?,
            combine: Arc::clone(&combine),
        }))
    });
    WindowedTable::of(outputs)
}

/// An aggregation over panes in a task.
pub(crate) struct PaneAggregate<K, A, L> {
    panes: Panes,
    /// Its rows are panes, and so are the places of its final results.
    windowing: Windowing<K, A, L, WindowStore>,
    combine: Combine<A>,
}

impl<K: Data, A: Data, L: Data> PaneAggregate<K, A, L> {
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
            .arrive(context, adder.input, timestamp, self.panes);

        let mut is_in_time = false;
        for start in self.panes.windows.starts_of(timestamp) {
            if start >= open_from {
                is_in_time = true;
                break;
            }
            let window = self.panes.window_at(start);
            let late = &mut self.windowing.late;
            late.take(context, record.clone(), &*adder.show, window, time)?;
        }
        // IMPORTANT: before the record goes into its pane, since it may be late for windows that close now.
        if moved {
            self.close_before(context, open_from)?;
        }
        if is_in_time {
            self.add(record, adder)?;
        }
        Ok(())
    }

    /// Time has moved without a record.
    pub(crate) fn advance(&mut self, context: &mut Context<'_>, time: Timestamp) -> Result {
        if self.windowing.time.observe(time, context) {
            self.close_before(context, self.windowing.open_from(self.panes))?;
        }
        Ok(())
    }

    fn add<V>(&mut self, record: Record<K, V>, adder: &Adder<K, V, A, L>) -> Result {
        let Record {
            key,
            value,
            timestamp,
            ..
        } = record;
        let pane = self.panes.pane_of(timestamp);
        let windowing = &mut self.windowing;
        windowing.encoding.encode_key(&key)?;
        let mut store = windowing.store.borrow_mut();
        let before = store.get(&windowing.encoding.key_buffer, pane)?;
        let latest = before
            .as_ref()
            .map_or(timestamp, |before| before.timestamp.max(timestamp));
        let before = before
            .map(|before| windowing.encoding.decode(&before))
            .transpose()?;
        let is_new = before.is_none();
        let new = (adder.add)(&key, value, before);
        let (key_bytes, bytes) = windowing.encoding.encode(&new)?;
        store.put(key_bytes, pane, bytes, latest)?;
        drop(store);
        if let Some(panes) = &mut windowing.finals
            && is_new
        {
            panes.add((pane, 0), &windowing.encoding.key_buffer);
        }
        Ok(())
    }

    /// Emits the windows that start before `open_from`, by start, then key, and expires the panes there.
    fn close_before(&mut self, context: &mut Context<'_>, open_from: Timestamp) -> Result {
        let mut from = self.windowing.still_open_from(Timestamp::MIN);
        while let Some(start) = self.next_window(from).filter(|start| *start < open_from) {
            let (start, end) = self.panes.window_at(start);
            let panes = self.windowing.finals.iter();
            let keys: BTreeSet<Vec<u8>> = panes
                .flat_map(|panes| panes.keys_between(start, end))
                .map(<[u8]>::to_vec)
                .collect();
            for key in keys {
                self.emit(context, &key, (start, end))?;
            }
            from = start.saturating_add(1);
        }
        if let Some(panes) = &mut self.windowing.finals {
            panes.take_closed(open_from);
        }
        self.windowing.expire_before(open_from);
        Ok(())
    }

    fn next_window(&self, from: Timestamp) -> Option<Timestamp> {
        let panes = self.windowing.finals.as_ref()?;
        self.panes.next_window(panes, from)
    }

    fn emit(
        &mut self,
        context: &mut Context<'_>,
        key: &[u8],
        (start, end): (Timestamp, Timestamp),
    ) -> Result {
        let windowing = &mut self.windowing;
        let whole = whole(
            &windowing.store.borrow(),
            &windowing.encoding,
            &self.combine,
            key,
            (start, end),
        )?;
        let Some((value, timestamp)) = whole else {
            return Ok(());
        };
        let key = windowing.encoding.decode_key(key)?;
        let update = Update {
            key: Windowed { key, start, end },
            new: Some(value),
            old: None,
            is_new: false,
            timestamp,
            headers: Headers::new(),
        };
        windowing.forward(context, update)
    }
}

/// The aggregate of a key's panes from `start` to before `end`, in order of time, with the largest timestamp in them.
fn whole<K, A>(
    store: &WindowStore,
    encoding: &Encoding<K, A>,
    combine: &Combine<A>,
    key: &[u8],
    (start, end): (Timestamp, Timestamp),
) -> Result<Option<(A, Timestamp)>> {
    let (mut whole, mut failed): (Option<(A, Timestamp)>, Option<Fault>) = (None, None);
    store.fetch(key, start, end.saturating_sub(1), &mut |_, row| {
        let value = match encoding.decode(&row) {
            Ok(value) => value,
            Err(fault) => {
                failed = Some(fault);
                return ControlFlow::Break(());
            }
        };
        whole = Some(match whole.take() {
            Some((before, latest)) => (combine(before, value), latest.max(row.timestamp)),
            None => (value, row.timestamp),
        });
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(whole), Err)
}

/// The windows of an aggregation over panes, as a join with its table looks them up.
struct PaneRows<K, A> {
    panes: Panes,
    store: Rc<RefCell<WindowStore>>,
    encoding: Encoding<K, A>,
    combine: Combine<A>,
}

impl<K, A> Look<Windowed<K>, A> for PaneRows<K, A> {
    fn get(&mut self, key: &Windowed<K>) -> Result<Option<(A, Timestamp)>> {
        let store = self.store.borrow();
        if key.start < store.horizon() {
            return Ok(None);
        }
        self.encoding.encode_key(&key.key)?;
        whole(
            &store,
            &self.encoding,
            &self.combine,
            &self.encoding.key_buffer,
            self.panes.window_at(key.start),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_window_consists_of_whole_panes() {
        let panes = |size, advance| {
            let (size, advance) = (Duration::from_millis(size), Duration::from_millis(advance));
            let windows = TimeWindows::hopping(size, advance).grace(Duration::ZERO);
            Panes::of(windows).map(|panes| panes.pane_ms)
        };
        assert_eq!(panes(60, 1), Some(1));
        assert_eq!(panes(60, 20), Some(20));
        assert_eq!(panes(10, 4), Some(2));
        assert_eq!(panes(10, 3), Some(1));
        assert_eq!(panes(10, 10), None);
    }
}
