//! Operators whose inputs have a time each.
//!
//! One time for all inputs would be that of the fastest, and make the records of a slower one late. With a time for each, a
//! record is late by that of its own input, and the slowest one holds back what needs all of them instead. An input that is
//! idle, as its source says, holds nothing back: its time goes with that of the furthest one, for good, so a record that
//! comes later is late by what has been decided without it.

use std::cell::RefCell;
use std::rc::Rc;

use crate::error::Result;
use crate::log::Timestamp;
use crate::processor::{Context, Instantiation, OperatorTime, Wake};

/// How late a record may be, and how far an input may lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lateness {
    pub(crate) grace_ms: i64,
    pub(crate) max_lag_ms: Option<i64>,
}

impl Lateness {
    pub(crate) fn with_grace(grace_ms: i64) -> Self {
        Self {
            grace_ms,
            max_lag_ms: None,
        }
    }

    pub(crate) fn max_lag(self, max_lag_ms: i64) -> Self {
        Self {
            max_lag_ms: Some(max_lag_ms),
            ..self
        }
    }

    /// The time that counts for an input that has come to `own`, when the furthest one has come to `furthest`.
    fn time(self, own: Timestamp, furthest: Timestamp) -> Timestamp {
        match self.max_lag_ms {
            Some(lag_ms) => own.max(furthest.saturating_sub(lag_ms)),
            None => own,
        }
    }

    /// The least timestamp that is in time on an input at `time`.
    fn in_time_from(self, time: Timestamp) -> Timestamp {
        time.saturating_sub(self.grace_ms)
    }
}

/// The times of an operator's inputs in a task.
pub(crate) struct InputTimes {
    lateness: Lateness,
    inputs: Vec<InputTime>,
}

struct InputTime {
    time: OperatorTime,
    is_idle: bool,
}

impl InputTimes {
    /// Those of the operator's inputs, by number, as they were when the task last committed.
    pub(crate) fn restore<'n>(
        instantiation: &mut Instantiation<'_>,
        operator: &str,
        lateness: Lateness,
        names: impl Iterator<Item = &'n str>,
    ) -> Self {
        let input = |name| InputTime {
            time: OperatorTime::new(instantiation.times, &format!("{operator}.{name}")),
            is_idle: false,
        };
        Self {
            lateness,
            inputs: names.map(input).collect(),
        }
    }

    /// Takes notice of a record of `input`; whether a time moved.
    pub(crate) fn observe(
        &mut self,
        input: usize,
        timestamp: Timestamp,
        context: &Context<'_>,
    ) -> bool {
        self.inputs[input].is_idle = false;
        let moved = self.inputs[input].time.observe(timestamp, context);
        moved && {
            self.let_idle_follow();
            true
        }
    }

    /// Time of `input` has moved without a record, or what holds it back has.
    fn advance(&mut self, input: usize, time: Timestamp, context: &Context<'_>) -> bool {
        let moved = self.inputs[input].time.observe(time, context);
        self.let_idle_follow() || moved
    }

    /// Has the idle inputs go with the furthest one; whether that moved any.
    fn let_idle_follow(&mut self) -> bool {
        let furthest = self.furthest();
        let idle = self.inputs.iter().filter(|input| input.is_idle);
        let moved = idle.map(|input| input.time.reach(furthest));
        moved.fold(false, |any, moved| any | moved)
    }

    fn furthest(&self) -> Timestamp {
        let times = self.inputs.iter().map(|input| input.time.now());
        times.max().unwrap_or(Timestamp::MIN)
    }

    /// How far `input` has come.
    pub(crate) fn time_of(&self, input: usize) -> Timestamp {
        let own = self.inputs[input].time.now();
        self.lateness.time(own, self.furthest())
    }

    /// The least timestamp that is in time on `input`.
    pub(crate) fn in_time_from(&self, input: usize) -> Timestamp {
        self.lateness.in_time_from(self.time_of(input))
    }

    /// The least timestamp that is in time on any input.
    pub(crate) fn all_in_time_from(&self) -> Timestamp {
        let inputs = 0..self.inputs.len();
        let times = inputs.map(|input| self.in_time_from(input));
        times.min().unwrap_or(Timestamp::MAX)
    }
}

/// A node whose inputs have a time each.
pub(crate) trait TimedInputs {
    fn times(&mut self) -> &mut InputTimes;

    /// The time of some input has moved: emits what is final now, and lets go of what nothing can need any more.
    fn move_on(&mut self, context: &mut Context<'_>) -> Result;
}

/// Tells a node of one input's time where it moves without a record.
struct InputClock<N> {
    node: Rc<RefCell<N>>,
    input: usize,
}

/// Has `node` be told when time moves on `input`, which is the one that is being made.
pub(crate) fn wake_by_input<N: TimedInputs + 'static>(
    instantiation: &mut Instantiation<'_>,
    node: &Rc<RefCell<N>>,
    input: usize,
) {
    let node = Rc::clone(node);
    let clock = Rc::new(RefCell::new(InputClock { node, input }));
    instantiation.wakes.push(clock as Rc<RefCell<dyn Wake>>);
}

impl<N: TimedInputs> Wake for InputClock<N> {
    fn advance(&mut self, context: &mut Context<'_>, time: Timestamp) -> Result {
        let mut node = self.node.borrow_mut();
        match node.times().advance(self.input, time, context) {
            true => node.move_on(context),
            false => Ok(()),
        }
    }

    fn idle(&mut self, context: &mut Context<'_>, idle: Option<Timestamp>) -> Result {
        self.node.borrow_mut().times().inputs[self.input].is_idle = idle.is_some();
        idle.map_or(Ok(()), |time| self.advance(context, time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_lags_counts_as_so_far_behind_the_furthest_and_no_further() {
        let lateness = Lateness::with_grace(5);
        assert_eq!(lateness.time(10, 1_000), 10);
        let lateness = lateness.max_lag(100);
        assert_eq!(lateness.time(10, 1_000), 900);
        assert_eq!(lateness.time(901, 1_000), 901);
        assert_eq!(lateness.in_time_from(900), 895);
    }
}
