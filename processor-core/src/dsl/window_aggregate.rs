//! An aggregation whose windows lie where they lie, whatever records there are: tumbling, hopping and unlimited ones. The
//! contract is that of [`windowed`](super::windowed).

use std::sync::Arc;

use state::WindowStore;

use crate::error::Result;
use crate::log::Timestamp;
use crate::processor::Context;
use crate::record::{Data, Record, Windowed};
use crate::serde::{SharedSerde, windowed};
use crate::topology::StoreKind;

use super::aggregation::{Adder, Aggregation, Inputs, Wired};
use super::finals::Emit;
use super::windowed::WindowedTable;
use super::windowing::{Arrival, Update, Windowing, WindowingPlan};
use super::windows::FixedWindows;

/// An aggregation of `inputs` over windows, called `name`.
pub(crate) fn aggregate<K: Data, A: Data, L: Data>(
    inputs: &Inputs<K, A, L>,
    name: &str,
    serde: SharedSerde<A>,
    windows: FixedWindows,
    emit: Emit,
) -> WindowedTable<K, L, A> {
    let origin = inputs.origin();
    let closes_after_ms = windows.closes_after_ms();
    let endless = "its window never closes, so it has no final result; emit each update";
    let problem = match (emit, closes_after_ms) {
        (Emit::Finals, None) => Some(endless.to_owned()),
        _ => windows.problem(),
    };
    if let Some(problem) = problem {
        origin.problem(name, &problem);
        return WindowedTable::detached(&origin);
    }
    let retention_ms = windows
        .size_ms()
        .saturating_add(closes_after_ms.unwrap_or(0));
    let store = StoreKind::Window { retention_ms };
    let Some(wired) = Wired::new(inputs, name, "windowed aggregate", store) else {
        return WindowedTable::detached(&origin);
    };
    wired.describe(&serde, &windows.parameters());
    let mut windowing = WindowingPlan::new(name, &wired, emit, serde);
    if closes_after_ms.is_none() {
        windowing = windowing.endless();
    }
    let windowed_key = windowed(Arc::clone(&wired.key), windows.size_ms());
    let outputs = windowing.outputs::<WindowStore>(&wired, Arc::new(windowed_key), closes_after_ms);
    let store = wired.store;
    wired.attach(move |instantiation| {
        Ok(Aggregation::Windows(WindowAggregate {
            windows,
            windowing: windowing.open(instantiation, store, windows)?,
        }))
    });
    WindowedTable::of(outputs)
}

/// A windowed aggregation in a task.
pub(crate) struct WindowAggregate<K, A, L> {
    windows: FixedWindows,
    windowing: Windowing<K, A, L, WindowStore>,
}

impl<K: Data, A: Data, L: Data> WindowAggregate<K, A, L> {
    pub(crate) fn take<V: Data>(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, V>,
        adder: &Adder<K, V, A, L>,
    ) -> Result {
        let Arrival {
            time,
            open_from,
            moved,
        } = self
            .windowing
            .arrive(context, adder.input, record.timestamp, self.windows);
        self.windowing.encoding.encode_key(&record.key)?;

        // All but the last window of a record need a copy of it.
        let timestamp = record.timestamp;
        let mut record = Some(record);
        let mut starts = self.windows.starts_of(timestamp).peekable();
        if starts.peek().is_none() {
            metrics::counter!("dropped-records", "reason" => "before all windows").increment(1);
        }
        while let Some(start) = starts.next() {
            let record = if starts.peek().is_some() {
                record.clone()
            } else {
                record.take()
            };
            let record = record.expect("taken at the last window");
            if start < open_from {
                let window = (start, self.windows.end_of(start));
                let late = &mut self.windowing.late;
                late.take(context, record, &*adder.show, window, time)?;
            } else {
                self.update(context, record, start, adder)?;
            }
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

    /// Adds the record, whose key is in the buffer, to a window.
    fn update<V>(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, V>,
        start: Timestamp,
        adder: &Adder<K, V, A, L>,
    ) -> Result {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        let windowing = &mut self.windowing;
        let mut store = windowing.store.borrow_mut();
        let before = store.get(&windowing.encoding.key_buffer, start)?;
        let timestamp = before
            .as_ref()
            .map_or(timestamp, |before| before.timestamp.max(timestamp));
        let before = before
            .map(|before| windowing.encoding.decode(&before))
            .transpose()?;
        let is_new = before.is_none();
        let old = before.as_ref().filter(|_| windowing.has_table()).cloned();
        let new = (adder.add)(&key, value, before);
        let (key_bytes, bytes) = windowing.encoding.encode(&new)?;
        store.put(key_bytes, start, bytes, timestamp)?;
        drop(store);
        let end = self.windows.end_of(start);
        let update = Update {
            key: Windowed { key, start, end },
            new: Some(new),
            old,
            is_new,
            timestamp,
            headers,
        };
        windowing.updated(context, update)
    }
}
