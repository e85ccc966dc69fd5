//! The processor API: user code with stores, timers and full control over what is forwarded.

use crate::error::Result;
use crate::log::Timestamp;
use crate::record::{Data, Record, RecordMetadata, TaskId};

use super::schedule::Schedules;
use super::times::{ObservedTime, OperatorTime, TASK_TIME};
use super::{Context, Fanout, Fired, Instantiation, Punctuated, Punctuation, ScheduleId};

/// User code in the middle of a topology. One instance per task, so `&mut self` is its own.
///
/// After a failed transaction the instance is dropped and made again; what must survive belongs into stores and
/// [observed times](Setup::observed_time).
///
/// ```
/// # use processor_core::processor::{Processor, ProcessorContext};
/// # use processor_core::{Record, error::Result};
/// struct Deduplicate { last: Option<u64> }
///
/// impl Processor<String, u64> for Deduplicate {
///     type KOut = String;
///     type VOut = u64;
///     fn process(
///         &mut self,
///         record: Record<String, u64>,
///         context: &mut ProcessorContext<'_, '_, String, u64>,
///     ) -> Result {
///         if self.last.replace(record.value) == Some(record.value) {
///             return Ok(());
///         }
///         context.forward(record)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not process records with a key `{K}` and a value `{V}`",
    label = "this stream has keys `{K}` and values `{V}`",
    note = "a processor implements `Processor<key, value>` for the types of the stream it is attached to; \
            `map_values` or `map` gives a stream other types"
)]
pub trait Processor<K, V>: 'static {
    /// Key type of what it forwards.
    type KOut: Data;
    /// Value type of what it forwards.
    type VOut: Data;

    /// Called once before the first record, when the stores are restored: schedules punctuators and takes observed
    /// times.
    fn init(&mut self, setup: &mut Setup<'_, '_>) -> Result {
        let _ = setup;
        Ok(())
    }

    /// Takes one record.
    ///
    /// # Errors
    /// Any error stops the task, unless [`on_processing_error`](crate::StreamsConfig::on_processing_error) has the record
    /// passed over.
    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, '_, Self::KOut, Self::VOut>,
    ) -> Result;

    /// A scheduled punctuation is due.
    ///
    /// # Errors
    /// Any error stops the task.
    fn punctuate(
        &mut self,
        punctuated: Punctuated,
        context: &mut ProcessorContext<'_, '_, Self::KOut, Self::VOut>,
    ) -> Result {
        let _ = (punctuated, context);
        Ok(())
    }

    /// A [timer](super::Timers) fires: once, in order of the times they were set for, then of the bytes of their keys. An
    /// event timer fires after the record that moved time, and before the next one.
    ///
    /// # Errors
    /// An error of an event timer is one of the record that moved time; one of a wall-clock timer stops the task.
    fn on_timer(
        &mut self,
        timer: Fired<K>,
        context: &mut ProcessorContext<'_, '_, Self::KOut, Self::VOut>,
    ) -> Result {
        let _ = (timer, context);
        Ok(())
    }

    /// Goes on with work that is larger than one record, in portions, so that it spans many commits. Called in every
    /// round until it returns [`Work::Done`]; called again after the next record or restart.
    ///
    /// # Errors
    /// Any error stops the task.
    fn resume(
        &mut self,
        context: &mut ProcessorContext<'_, '_, Self::KOut, Self::VOut>,
    ) -> Result<Work> {
        let _ = context;
        Ok(Work::Done)
    }
}

/// Whether [`Processor::resume`] has more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Nothing is left.
    Done,
    /// Call again.
    More,
}

/// What a processor may ask for before its first record.
pub struct Setup<'a, 'b> {
    pub(super) name: &'a str,
    pub(super) instantiation: &'a mut Instantiation<'b>,
    pub(super) schedules: &'a mut Schedules,
}

impl Setup<'_, '_> {
    /// Asks for a punctuation; a processor may have several. A task that starts again goes on where it was: it has fired
    /// for all stream time that lies before.
    pub fn schedule(&mut self, punctuation: Punctuation) -> ScheduleId {
        let stream_time = self.instantiation.times.cell(TASK_TIME).get();
        self.schedules.add_at_start(punctuation, stream_time)
    }

    /// A stream time of this processor's own, for instance one per input, that is committed with the task's offsets
    /// and restored with them.
    pub fn observed_time(&mut self, name: &str) -> ObservedTime {
        let name = format!("{}.{name}", self.name);
        ObservedTime(OperatorTime::new(self.instantiation.times, &name))
    }

    /// The task this instance belongs to.
    #[must_use]
    pub fn task(&self) -> TaskId {
        self.instantiation.task
    }
}

/// What a processor may do while it runs.
pub struct ProcessorContext<'a, 'c, K, V> {
    pub(super) context: &'a mut Context<'c>,
    pub(super) children: &'a mut Fanout<K, V>,
    pub(super) schedules: &'a mut Schedules,
}

impl<K: Data, V: Data> ProcessorContext<'_, '_, K, V> {
    /// Pushes a record to the children.
    ///
    /// # Errors
    /// What the children return.
    pub fn forward(&mut self, record: Record<K, V>) -> Result {
        self.children.forward(self.context, record)
    }

    /// Asks for a punctuation from now on: it fires for the instants that lie ahead. It is not kept over a restart; what
    /// must be there again belongs into [`init`](Processor::init), or is a [timer](super::Timers).
    pub fn schedule(&mut self, punctuation: Punctuation) -> ScheduleId {
        let (stream_time, wall_ms) = (self.context.stream_time, self.context.wall_ms);
        self.schedules.add_now(punctuation, stream_time, wall_ms)
    }

    /// Ends a schedule; whether it was there. It fires no more, not even where it is due already.
    pub fn cancel(&mut self, schedule: ScheduleId) -> bool {
        self.schedules.cancel(schedule)
    }

    /// Asks for a commit as soon as this record or callback is done with, rather than when the commit interval is over.
    /// It commits what the whole thread has done, and waits for a commit that is in flight.
    pub fn commit(&mut self) {
        self.context.out.request_commit();
    }

    /// Largest timestamp of the records this task has taken so far, in epoch milliseconds; −1 before the first.
    #[must_use]
    pub fn stream_time(&self) -> Timestamp {
        self.context.stream_time
    }

    /// Wall-clock time in epoch milliseconds.
    #[must_use]
    pub fn wall_ms(&self) -> i64 {
        self.context.wall_ms
    }

    /// Moves `time` forward to `timestamp` if that is later; whether it was. Behind a repartition topic never beyond
    /// the time of the slowest task that writes it.
    pub fn observe(&self, time: &ObservedTime, timestamp: Timestamp) -> bool {
        time.0.observe(timestamp, self.context)
    }

    /// The task.
    #[must_use]
    pub fn task(&self) -> TaskId {
        self.context.task
    }

    /// Where the record at hand was read; `None` in a punctuation.
    #[must_use]
    pub fn metadata(&self) -> Option<RecordMetadata> {
        self.context.metadata()
    }
}

/// What the task calls a node for besides records; a node takes part in what it overrides.
pub(crate) trait Wake {
    /// Fires what is due at the context's stream and wall-clock time.
    fn punctuate(&mut self, context: &mut Context<'_>) -> Result {
        let _ = context;
        Ok(())
    }

    /// Fires [`Punctuation::EndOfInput`].
    fn end_of_input(&mut self, context: &mut Context<'_>) -> Result {
        let _ = context;
        Ok(())
    }

    /// Time has moved without a record: takes notice of `time`, and of what the context's bound allows now.
    fn advance(&mut self, context: &mut Context<'_>, time: Timestamp) -> Result {
        let _ = (context, time);
        Ok(())
    }

    /// Whether all inputs above are idle has changed, or how far time has come while they are, which is −1 if it stands.
    fn idle(&mut self, context: &mut Context<'_>, idle: Option<Timestamp>) -> Result {
        idle.map_or(Ok(()), |time| self.advance(context, time))
    }

    /// Whether [`resume`](Self::resume) would do anything.
    fn has_work(&self) -> bool {
        false
    }

    /// Goes on with work larger than a record.
    fn resume(&mut self, context: &mut Context<'_>) -> Result<Work> {
        let _ = context;
        Ok(Work::Done)
    }

    /// The last chance to send before the open transaction commits.
    fn before_commit(&mut self, context: &mut Context<'_>) -> Result {
        let _ = context;
        Ok(())
    }
}
