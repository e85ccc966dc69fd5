//! The processor API: user code with stores, timers and full control over what is forwarded.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::clock::millis;
use crate::error::Result;
use crate::log::Timestamp;
use crate::record::{Data, Record, RecordMetadata, TaskId};

use super::times::{NO_TIME, ObservedTime, OperatorTime, TASK_TIME};
use super::{Context, Fanout, Instantiation, Process};

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

/// When a punctuation is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Punctuation {
    /// At every multiple of the interval in stream time, first at the first record. However many are due, it fires
    /// once, with the current stream time.
    StreamTime(Duration),
    /// At every multiple of the interval in wall-clock time, first after one interval. Fires once, with the time now.
    WallClock(Duration),
    /// When a bounded run has read all there is. What is forwarded then stands for "if nothing more came": state
    /// must stay as it is, since a later run goes on with more input.
    EndOfInput,
}

/// A punctuation that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Punctuated {
    /// Which schedule.
    pub schedule: Punctuation,
    /// Stream time or wall-clock time at the moment of firing, in epoch milliseconds.
    pub time: Timestamp,
}

/// What a processor may ask for before its first record.
pub struct Setup<'a, 'b> {
    pub(super) name: &'a str,
    pub(super) instantiation: &'a mut Instantiation<'b>,
    pub(super) schedules: &'a mut Vec<Schedule>,
}

impl Setup<'_, '_> {
    /// Asks for a punctuation; a processor may have several.
    pub fn schedule(&mut self, punctuation: Punctuation) {
        let stream_time = self.instantiation.times.cell(TASK_TIME).get();
        self.schedules
            .push(Schedule::starting_at(punctuation, stream_time));
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
}

impl<K: Data, V: Data> ProcessorContext<'_, '_, K, V> {
    /// Pushes a record to the children.
    ///
    /// # Errors
    /// What the children return.
    pub fn forward(&mut self, record: Record<K, V>) -> Result {
        self.children.forward(self.context, record)
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

pub(crate) struct Schedule {
    punctuation: Punctuation,
    next: Option<Timestamp>,
}

impl Schedule {
    /// A schedule of a task that starts, or starts again, at `stream_time`: it has fired for all that lies before.
    fn starting_at(punctuation: Punctuation, stream_time: Timestamp) -> Self {
        let next = match punctuation {
            Punctuation::StreamTime(interval) if stream_time != NO_TIME => {
                let interval_ms = millis(interval).max(1);
                Some((stream_time / interval_ms + 1).saturating_mul(interval_ms))
            }
            _ => None,
        };
        Self { punctuation, next }
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

/// A processor in a task.
pub(crate) struct ProcessorNode<K, V, P: Processor<K, V>> {
    name: String,
    processor: P,
    schedules: Vec<Schedule>,
    /// Set by a record and at the start, cleared when `resume` reports that nothing is left.
    work: Work,
    children: Fanout<P::KOut, P::VOut>,
}

impl<K: Data, V: Data, P: Processor<K, V>> ProcessorNode<K, V, P> {
    /// Initialises `processor` and registers it for wake-ups.
    pub(crate) fn create(
        name: &str,
        mut processor: P,
        children: Fanout<P::KOut, P::VOut>,
        instantiation: &mut Instantiation<'_>,
    ) -> Result<Rc<RefCell<Self>>> {
        let mut schedules = Vec::new();
        let mut setup = Setup {
            name,
            instantiation,
            schedules: &mut schedules,
        };
        processor.init(&mut setup)?;
        let node = Rc::new(RefCell::new(Self {
            name: name.to_owned(),
            processor,
            schedules,
            work: Work::More,
            children,
        }));
        instantiation
            .wakes
            .push(Rc::clone(&node) as Rc<RefCell<dyn Wake>>);
        Ok(node)
    }
}

impl<K: Data, V: Data, P: Processor<K, V>> Process<K, V> for ProcessorNode<K, V, P> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        self.work = Work::More;
        let mut context = ProcessorContext {
            context,
            children: &mut self.children,
        };
        self.processor.process(record, &mut context)
    }
}

impl<K: Data, V: Data, P: Processor<K, V>> Wake for ProcessorNode<K, V, P> {
    fn punctuate(&mut self, context: &mut Context<'_>) -> Result {
        for schedule in &mut self.schedules {
            let Some(time) = due(schedule, context.stream_time, context.wall_ms) else {
                continue;
            };
            let punctuated = Punctuated {
                schedule: schedule.punctuation,
                time,
            };
            let mut context = ProcessorContext {
                context,
                children: &mut self.children,
            };
            self.processor.punctuate(punctuated, &mut context)?;
        }
        Ok(())
    }

    fn end_of_input(&mut self, context: &mut Context<'_>) -> Result {
        if !self
            .schedules
            .iter()
            .any(|s| s.punctuation == Punctuation::EndOfInput)
        {
            return Ok(());
        }
        tracing::debug!(processor = %self.name, "end of input");
        let punctuated = Punctuated {
            schedule: Punctuation::EndOfInput,
            time: context.stream_time,
        };
        let mut context = ProcessorContext {
            context,
            children: &mut self.children,
        };
        self.processor.punctuate(punctuated, &mut context)
    }

    fn has_work(&self) -> bool {
        self.work == Work::More
    }

    fn resume(&mut self, context: &mut Context<'_>) -> Result<Work> {
        if self.work == Work::More {
            let mut context = ProcessorContext {
                context,
                children: &mut self.children,
            };
            self.work = self.processor.resume(&mut context)?;
        }
        Ok(self.work)
    }
}

/// The time a schedule fires with, if it is due; moves it to the next multiple of its interval.
fn due(schedule: &mut Schedule, stream_time: Timestamp, wall_ms: i64) -> Option<Timestamp> {
    let (interval, now, first) = match schedule.punctuation {
        Punctuation::StreamTime(interval) if stream_time >= 0 => (interval, stream_time, 0),
        Punctuation::WallClock(interval) => (interval, wall_ms, wall_ms + millis(interval).max(1)),
        Punctuation::StreamTime(_) | Punctuation::EndOfInput => return None,
    };
    let interval_ms = millis(interval).max(1);
    let next = *schedule.next.get_or_insert(first);
    if now < next {
        return None;
    }
    schedule.next = Some(next + ((now - next) / interval_ms + 1) * interval_ms);
    Some(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(punctuation: Punctuation, times: &[(Timestamp, i64)]) -> Vec<Option<Timestamp>> {
        let mut schedule = Schedule {
            punctuation,
            next: None,
        };
        times
            .iter()
            .map(|&(stream, wall)| due(&mut schedule, stream, wall))
            .collect()
    }

    #[test]
    fn stream_time_fires_at_the_first_record_and_then_on_its_grid_once() {
        let every_10 = Punctuation::StreamTime(Duration::from_millis(10));
        let fired = fired(
            every_10,
            &[(-1, 0), (3, 0), (9, 0), (10, 0), (47, 0), (49, 0), (50, 0)],
        );
        assert_eq!(
            fired,
            [None, Some(3), None, Some(10), Some(47), None, Some(50)]
        );
    }

    #[test]
    fn a_schedule_that_starts_again_goes_on_where_it_was() {
        let every_10 = Punctuation::StreamTime(Duration::from_millis(10));
        for (stream_time, next) in [
            (NO_TIME, None),
            (0, Some(10)),
            (9, Some(10)),
            (10, Some(20)),
        ] {
            assert_eq!(Schedule::starting_at(every_10, stream_time).next, next);
        }
        let wall = Punctuation::WallClock(Duration::from_millis(10));
        assert_eq!(Schedule::starting_at(wall, 9).next, None);
    }

    #[test]
    fn wall_clock_fires_after_one_interval_and_once_after_a_gap() {
        let every_10 = Punctuation::WallClock(Duration::from_millis(10));
        let fired = fired(
            every_10,
            &[(-1, 5), (-1, 14), (-1, 15), (-1, 48), (-1, 54), (-1, 55)],
        );
        assert_eq!(fired, [None, None, Some(15), Some(48), None, Some(55)]);
    }
}
