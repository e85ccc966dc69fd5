//! What aggregations over windows of event time have in common: their store and time, where results and late records go,
//! and when results are emitted.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use state::Stamped;

use crate::error::Result;
use crate::log::{Headers, Timestamp};
use crate::processor::{Context, Fanout, Instantiation, NO_TIME, OperatorTime};
use crate::record::{Change, Data, Record, Windowed};
use crate::serde::SharedSerde;
use crate::topology::StoreId;

use super::aggregation::Wired;
use super::early::{Early, EarlyFire, Said};
use super::encoding::Encoding;
use super::finals::{Emit, Finals};
use super::late::{Late, LateBranch};
use super::old_values::OldValues;
use super::outlet::Outlet;
use super::view::View;
use super::window_rows::{Place, Rows, WindowRows};
use super::{KStream, KTable, Partitioned};

/// A windowed aggregation before there are tasks.
pub(crate) struct WindowingPlan<K, A, L> {
    operator: String,
    /// Whether windows are emitted when they close.
    finals: bool,
    early: Option<(EarlyFire, StoreId)>,
    key: SharedSerde<K>,
    value: SharedSerde<A>,
    updates: Arc<Outlet<Windowed<K>, A>>,
    changes: Arc<Outlet<Windowed<K>, Change<A>>>,
    late: Arc<Outlet<K, Late<L>>>,
    /// How long rows are kept after their windows closed; they are hidden from look-ups.
    kept_ms: i64,
    /// Inputs that have a time each; none where all have one together.
    inputs: usize,
}

/// Where the results of a windowed aggregation can be taken.
pub(crate) struct Outputs<K, A, L> {
    pub updates: KStream<Windowed<K>, A, Partitioned>,
    pub table: KTable<Windowed<K>, A>,
    pub late: KStream<K, Late<L>, Partitioned>,
}

impl<K: Data, A: Data, L: Data> WindowingPlan<K, A, L> {
    /// Writes down what is emitted, with a store for early results.
    pub(crate) fn new(
        name: &str,
        wired: &Wired<K, A, L>,
        emit: Emit,
        value: SharedSerde<A>,
    ) -> Self {
        let early = match emit {
            Emit::Early(fire) => Some((fire, wired.add_early_store(name))),
            Emit::Updates | Emit::Finals => None,
        };
        // A window leaves once, so with final results all inputs have to agree when.
        let several = wired.input_count() > 1 && emit == Emit::Updates;
        Self {
            operator: name.to_owned(),
            finals: emit != Emit::Updates,
            early,
            key: Arc::clone(&wired.key),
            value,
            updates: Outlet::new(),
            changes: Outlet::new(),
            late: Outlet::new(),
            kept_ms: 0,
            inputs: if several { wired.input_count() } else { 0 },
        }
    }

    /// The windows never close, so there are no final results.
    pub(crate) fn endless(self) -> Self {
        Self {
            finals: false,
            ..self
        }
    }

    /// Keeps the rows of closed windows for `kept_ms` more, for the operator alone.
    pub(crate) fn keeping(self, kept_ms: i64) -> Self {
        Self { kept_ms, ..self }
    }

    /// The streams and the table of the aggregation, whose keys are written by `windowed_key`. `closes_after_ms`: when
    /// its windows close, as [`KTable`] has it.
    pub(crate) fn outputs<S: WindowRows>(
        &self,
        wired: &Wired<K, A, L>,
        windowed_key: SharedSerde<Windowed<K>>,
        closes_after_ms: Option<i64>,
    ) -> Outputs<K, A, L> {
        let (plan, node, store) = (&wired.plan, wired.node, wired.store);
        let (name, key, value) = (
            self.operator.clone(),
            Arc::clone(&self.key),
            Arc::clone(&self.value),
        );
        let kept_ms = self.kept_ms;
        let view = View::new(vec![store], move |instantiation| {
            Ok(Rows {
                closed: closed(instantiation, &name, kept_ms),
                store: S::of(instantiation, store)?,
                encoding: Encoding::new(&name, Arc::clone(&key), Arc::clone(&value)),
            })
        });
        let (updates, late) = (Arc::clone(&self.updates), Arc::clone(&self.late));
        let (key, value) = (Some(Arc::clone(&self.key)), Some(Arc::clone(&self.value)));
        let windowed_key = Some(windowed_key);
        Outputs {
            updates: KStream::new(
                Rc::clone(plan),
                node,
                updates,
                windowed_key.clone(),
                value.clone(),
            ),
            table: KTable {
                plan: Rc::clone(plan),
                node,
                outlet: Arc::clone(&self.changes),
                view: Some(view),
                key: windowed_key,
                value,
                old_values: OldValues::default(),
                closes_after_ms,
            },
            late: KStream::new(Rc::clone(plan), node, late, key, None),
        }
    }

    /// The aggregation in a task, as it was when the task last committed. `open_from` gives, for a stream time, the least
    /// place that is open then.
    pub(crate) fn open<S: WindowRows>(
        &self,
        instantiation: &mut Instantiation<'_>,
        store: StoreId,
        windows: impl Closing,
    ) -> Result<Windowing<K, A, L, S>> {
        let time = OperatorTime::new(instantiation.times, &self.operator);
        let store = S::of(instantiation, store)?;
        let closed = closed(instantiation, &self.operator, self.kept_ms);
        let mut open_from = match self.inputs {
            0 => windows.open_from(time.now()),
            _ => windows.kept_from(time.now()),
        };
        if let Some(closed) = &closed {
            open_from = open_from.max(closed.get());
            closed.set(open_from.max(NO_TIME));
        }
        let mut finals = None;
        if self.finals {
            let restored = Finals::restore(instantiation, &self.operator, open_from);
            open_from = restored.emitted();
            finals = Some(restored);
        }
        // What had expired before a restart stays so.
        let kept_from = open_from.saturating_sub(self.kept_ms);
        store.borrow_mut().restore_horizon(kept_from);
        if let Some(finals) = &mut finals {
            store.borrow().each(&mut |place, key| {
                if place.0 >= open_from {
                    finals.add(place, key);
                }
            })?;
        }
        let restore = |early| Early::restore(instantiation, &self.operator, early, open_from);
        let early = self.early.map(restore).transpose()?;
        let time_of = |input: usize| {
            OperatorTime::new(instantiation.times, &format!("{}.{input}", self.operator))
        };
        let inputs = (0..self.inputs).map(time_of).collect();
        Ok(Windowing {
            store,
            time,
            inputs,
            closed,
            kept_ms: self.kept_ms,
            finals,
            early,
            encoding: Encoding::new(
                &self.operator,
                Arc::clone(&self.key),
                Arc::clone(&self.value),
            ),
            updates: self.updates.instantiate(instantiation)?,
            changes: self.changes.instantiate(instantiation)?,
            late: LateBranch::new(&self.operator, self.late.instantiate(instantiation)?),
        })
    }
}

/// How far the windows of `operator` have closed, where that is not what its store shows.
fn closed(
    instantiation: &Instantiation<'_>,
    operator: &str,
    kept_ms: i64,
) -> Option<Rc<Cell<Timestamp>>> {
    (kept_ms > 0).then(|| instantiation.times.cell(&format!("{operator}.closed")))
}

/// How windows close as time goes on. An order of places is one of time.
pub(crate) trait Closing: Copy {
    /// The least place of a window that is open at `time`.
    fn open_from(self, time: Timestamp) -> Timestamp;

    /// Start and end of the window at `place`.
    fn bounds(self, place: Place) -> (Timestamp, Timestamp);

    /// The least place that is kept at `time` where each input has a time of its own.
    fn kept_from(self, time: Timestamp) -> Timestamp {
        self.open_from(time)
    }
}

/// What a record finds when it arrives.
pub(crate) struct Arrival {
    /// The time by which it is late.
    pub time: Timestamp,
    /// The least place that is open for it.
    pub open_from: Timestamp,
    /// Whether the time of all inputs moved forward.
    pub moved: bool,
}

/// A windowed aggregation in a task, but for its windows.
pub(crate) struct Windowing<K, A, L, S> {
    pub(crate) store: Rc<RefCell<S>>,
    /// The largest timestamp of all inputs.
    pub(crate) time: OperatorTime,
    /// The time of each input, where they do not share one.
    inputs: Vec<OperatorTime>,
    /// How far windows have closed, where their rows are kept for longer: for `kept_ms`.
    closed: Option<Rc<Cell<Timestamp>>>,
    kept_ms: i64,
    /// Where windows are emitted as they close.
    pub(crate) finals: Option<Finals>,
    /// Where they are emitted before that, too.
    pub(crate) early: Option<Early<S>>,
    pub(crate) encoding: Encoding<K, A>,
    updates: Fanout<Windowed<K>, A>,
    changes: Fanout<Windowed<K>, Change<A>>,
    pub(crate) late: LateBranch<K, L>,
}

/// A new value of a window.
pub(crate) struct Update<K, A> {
    pub key: Windowed<K>,
    /// Nothing where the window is no more.
    pub new: Option<A>,
    pub old: Option<A>,
    /// Whether the window was not there before.
    pub is_new: bool,
    pub timestamp: Timestamp,
    pub headers: Headers,
}

impl<K: Data, A: Data, L: Data, S: WindowRows> Windowing<K, A, L, S> {
    /// Takes notice of a record at `timestamp` of one of the inputs.
    pub(crate) fn arrive(
        &self,
        context: &Context<'_>,
        input: usize,
        timestamp: Timestamp,
        windows: impl Closing,
    ) -> Arrival {
        let moved = self.time.observe(timestamp, context);
        let (time, open_from) = match self.inputs.get(input) {
            Some(own) => {
                own.observe(timestamp, context);
                (own.now(), windows.open_from(own.now()))
            }
            None => (self.time.now(), self.open_from(windows)),
        };
        Arrival {
            time,
            open_from,
            moved,
        }
    }

    /// The least place that is open by the time of all inputs.
    pub(crate) fn open_from(&self, windows: impl Closing) -> Timestamp {
        self.still_open_from(windows.open_from(self.time.now()))
    }

    /// The least place that is open: by time, `open_from` on, but nothing that was closed before.
    pub(crate) fn still_open_from(&self, open_from: Timestamp) -> Timestamp {
        let emitted = self.finals.as_ref().map_or(Timestamp::MIN, Finals::emitted);
        let closed = self.closed.as_ref().map_or(Timestamp::MIN, |c| c.get());
        open_from.max(emitted).max(closed)
    }

    /// Whether somebody reads changes, and so old values.
    pub(crate) fn has_table(&self) -> bool {
        !self.changes.is_empty()
    }

    pub(crate) fn forward(&mut self, context: &mut Context<'_>, update: Update<K, A>) -> Result {
        let Update {
            key,
            new,
            old,
            timestamp,
            headers,
            ..
        } = update;
        let change = |new, key, headers| Record {
            key,
            value: Change { new, old },
            timestamp,
            headers,
        };
        if self.updates.is_empty() {
            return self.changes.forward(context, change(new, key, headers));
        }
        if self.has_table() {
            let change = change(new.clone(), key.clone(), headers.clone());
            self.changes.forward(context, change)?;
        }
        let Some(value) = new else {
            return Ok(());
        };
        let update = Record {
            key,
            value,
            timestamp,
            headers,
        };
        self.updates.forward(context, update)
    }

    /// Closes what time has passed: emits and expires it.
    pub(crate) fn close_passed(
        &mut self,
        context: &mut Context<'_>,
        windows: impl Closing,
    ) -> Result {
        let open_from = match self.inputs.is_empty() {
            true => self.open_from(windows),
            false => windows.kept_from(self.time.now()),
        };
        let bounds = |place| windows.bounds(place);
        self.emit_closed(context, open_from, bounds)?;
        self.emit_due(context, bounds)?;
        self.expire_before(open_from);
        Ok(())
    }

    /// Time has moved without a record.
    pub(crate) fn advance(
        &mut self,
        context: &mut Context<'_>,
        time: Timestamp,
        windows: impl Closing,
    ) -> Result {
        match self.time.observe(time, context) {
            true => self.close_passed(context, windows),
            false => Ok(()),
        }
    }

    /// Expires what lies before `open_from`.
    pub(crate) fn expire_before(&mut self, open_from: Timestamp) {
        if let Some(closed) = &self.closed {
            closed.set(open_from);
        }
        if let Some(early) = &self.early {
            early.expire_before(open_from);
        }
        let kept_from = open_from.saturating_sub(self.kept_ms);
        self.store.borrow_mut().expire_before(kept_from);
    }

    /// Emits an update of the window at hand, whose key is in the buffer and whose row is in the store, or has it wait
    /// until the window closes.
    pub(crate) fn updated(&mut self, context: &mut Context<'_>, update: Update<K, A>) -> Result {
        if self.emits_updates() {
            return self.forward(context, update);
        }
        let Windowed { start, end, .. } = update.key;
        let place = S::place(start, end);
        let key = &self.encoding.key_buffer;
        if let Some(finals) = &mut self.finals
            && update.is_new
        {
            finals.add(place, key);
        }
        if let Some(early) = &mut self.early
            && early.note(key, place, self.time.now())?
        {
            let key = key.clone();
            self.emit_early(context, &key, place, (start, end))?;
        }
        Ok(())
    }

    /// Whether each update is emitted.
    pub(crate) fn emits_updates(&self) -> bool {
        self.finals.is_none() && self.early.is_none()
    }

    /// Emits what windows hold that have waited for as long as they may.
    fn emit_due(
        &mut self,
        context: &mut Context<'_>,
        window: impl Fn(Place) -> (Timestamp, Timestamp),
    ) -> Result {
        let now = self.time.now();
        while let Some((place, key)) = self.early.as_ref().and_then(|early| early.next_due(now)) {
            self.emit_early(context, &key, place, window(place))?;
        }
        Ok(())
    }

    /// Emits what a window holds before it closes.
    fn emit_early(
        &mut self,
        context: &mut Context<'_>,
        key: &[u8],
        place: Place,
        window: (Timestamp, Timestamp),
    ) -> Result {
        let row = self.store.borrow().row(key, place)?;
        let row = row.expect("an open window is in the store");
        let early = self.early.as_mut();
        let before = early.map(|early| early.fired(key, place, &row.value));
        let before = before.transpose()?.unwrap_or_default();
        self.emit_row(context, key, window, &row, before)
    }

    /// Emits a row in place of what stands of it, and takes back what stands of windows that went into it.
    fn emit_row(
        &mut self,
        context: &mut Context<'_>,
        key: &[u8],
        (start, end): (Timestamp, Timestamp),
        row: &Stamped,
        before: Said,
    ) -> Result {
        let key = self.encoding.decode_key(key)?;
        // Nobody else asks what stood before.
        let Said { absorbed, result } = match self.has_table() {
            true => before,
            false => Said::default(),
        };
        for ((end, start), result) in absorbed {
            let key = key.clone();
            let taken_back = Update {
                key: Windowed { key, start, end },
                new: None,
                old: Some(self.encoding.decode_value(&result)?),
                is_new: false,
                timestamp: end,
                headers: Headers::new(),
            };
            self.forward(context, taken_back)?;
        }
        let update = Update {
            key: Windowed { key, start, end },
            new: Some(self.encoding.decode(row)?),
            old: result
                .map(|result| self.encoding.decode_value(&result))
                .transpose()?,
            is_new: false,
            timestamp: row.timestamp,
            headers: Headers::new(),
        };
        self.forward(context, update)
    }

    fn emit_closed(
        &mut self,
        context: &mut Context<'_>,
        open_from: Timestamp,
        window: impl Fn(Place) -> (Timestamp, Timestamp),
    ) -> Result {
        let Some(finals) = &mut self.finals else {
            return Ok(());
        };
        for (place, key) in finals.take_closed(open_from) {
            let row = self.store.borrow().row(&key, place)?;
            let row = row.expect("an open window is in the store");
            let early = self.early.as_mut();
            let before = early.map(|early| early.closed(&key, place));
            let before = before.transpose()?.unwrap_or_default();
            self.emit_row(context, &key, window(place), &row, before)?;
        }
        Ok(())
    }
}
