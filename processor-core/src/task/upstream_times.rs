//! How far the tasks that write a repartition topic have come, as their headers tell.

use std::cell::Cell;
use std::rc::Rc;

use crate::log::Timestamp;
use crate::processor::time_metadata::upstream_name;
use crate::processor::{Instantiation, NO_TIME};

use super::TimeHeader;
use super::idle::IDLE;

/// What is known of the upstream tasks. It survives with the times of the reading task.
pub(crate) struct UpstreamTimes {
    tasks: Vec<Upstream>,
    bound: Timestamp,
}

struct Upstream {
    time: Rc<Cell<Timestamp>>,
    idle: Rc<Cell<Timestamp>>,
    /// Records and markers of it that were read and not taken yet.
    waiting: usize,
}

impl Upstream {
    fn is_idle(&self) -> bool {
        self.idle.get() == IDLE
    }
}

impl UpstreamTimes {
    pub(crate) fn new(topic: &str, tasks: i32, instantiation: &mut Instantiation<'_>) -> Self {
        let times = &mut *instantiation.times;
        let tasks = (0..tasks)
            .map(|task| Upstream {
                time: times.cell(&upstream_name(topic, task)),
                idle: times.cell(&upstream_name(&format!("{topic}~"), task)),
                waiting: 0,
            })
            .collect();
        Self::of(tasks)
    }

    fn of(tasks: Vec<Upstream>) -> Self {
        let bound = bound(&tasks);
        Self { tasks, bound }
    }

    /// Something of upstream task `task` waits.
    pub(crate) fn add_waiting(&mut self, task: i32) {
        if let Some(upstream) = self.task_mut(task) {
            upstream.waiting += 1;
        }
    }

    fn task_mut(&mut self, task: i32) -> Option<&mut Upstream> {
        usize::try_from(task)
            .ok()
            .and_then(|task| self.tasks.get_mut(task))
    }

    /// The least time of a task that something is still to come from: what waits, or, unless `all_read`, what nobody has read
    /// yet. Nothing older is to come from here, but for what is out of order in its own partition.
    pub(crate) fn to_come_from(&self, all_read: bool) -> Timestamp {
        let to_come = |upstream: &&Upstream| upstream.waiting > 0 || !all_read;
        let tasks = self.tasks.iter().filter(to_come);
        let times = tasks.map(|upstream| upstream.time.get());
        times.min().unwrap_or(Timestamp::MAX)
    }

    /// Takes notice of what a record or a marker says, which waits no longer; whether the bound moved, or a task came to be idle or ceased to be.
    pub(crate) fn observe(&mut self, header: TimeHeader) -> bool {
        let Some(upstream) = self.task_mut(header.task) else {
            return false;
        };
        upstream.waiting = upstream.waiting.saturating_sub(1);
        let (before, was_idle) = (upstream.time.get(), upstream.is_idle());
        let is_idle = header.kind.is_idle();
        upstream.time.set(header.time.max(before));
        upstream.idle.set(if is_idle { IDLE } else { NO_TIME });
        let later = header.time > before;
        if is_idle != was_idle || later && (is_idle || before == self.bound) {
            let bound = bound(&self.tasks);
            let moved = bound != self.bound;
            self.bound = bound;
            return moved || is_idle != was_idle;
        }
        false
    }

    /// The minimum over the tasks that are not idle; when all are, the maximum over all, since nobody has to be waited for.
    pub(crate) fn bound(&self) -> Timestamp {
        self.bound
    }

    /// The largest time, if all tasks are idle.
    pub(crate) fn idle(&self) -> Option<Timestamp> {
        let all = !self.tasks.is_empty() && self.tasks.iter().all(Upstream::is_idle);
        all.then_some(self.bound)
    }
}

fn bound(tasks: &[Upstream]) -> Timestamp {
    let time = |upstream: &Upstream| upstream.time.get();
    let active = tasks.iter().filter(|upstream| !upstream.is_idle());
    active
        .map(time)
        .min()
        .or_else(|| tasks.iter().map(time).max())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::TimeKind;
    use super::*;

    fn of_two() -> UpstreamTimes {
        let none = || Rc::new(Cell::new(NO_TIME));
        let task = |_| Upstream {
            time: none(),
            idle: none(),
            waiting: 0,
        };
        UpstreamTimes::of((0..2).map(task).collect())
    }

    fn says(times: &mut UpstreamTimes, task: i32, time: Timestamp, kind: TimeKind) -> bool {
        times.observe(TimeHeader { task, time, kind })
    }

    #[test]
    fn an_idle_task_is_left_out_of_the_minimum_until_it_sends_again() {
        let mut times = of_two();
        assert!(!says(&mut times, 0, 500, TimeKind::Record));
        assert_eq!(times.bound(), NO_TIME);
        assert!(says(&mut times, 1, NO_TIME, TimeKind::Idle));
        assert_eq!((times.bound(), times.idle()), (500, None));
        assert!(!says(&mut times, 1, NO_TIME, TimeKind::Idle));
        assert!(says(&mut times, 0, 700, TimeKind::Marker));
        assert_eq!(times.bound(), 700);
        assert!(says(&mut times, 1, 20, TimeKind::Record));
        assert_eq!(times.bound(), 20);
    }

    #[test]
    fn when_all_are_idle_the_largest_time_counts() {
        let mut times = of_two();
        says(&mut times, 0, 500, TimeKind::Idle);
        assert!(says(&mut times, 1, 300, TimeKind::Idle));
        assert_eq!(times.idle(), Some(500));
        assert!(says(&mut times, 1, 900, TimeKind::Idle));
        assert_eq!((times.bound(), times.idle()), (900, Some(900)));
    }

    #[test]
    fn only_a_task_that_something_is_to_come_from_has_to_be_waited_for() {
        let mut times = of_two();
        times.add_waiting(0);
        times.add_waiting(0);
        // Of the second one there may be something that was not read yet.
        assert_eq!(times.to_come_from(false), NO_TIME);
        says(&mut times, 0, 500, TimeKind::Record);
        assert_eq!(times.to_come_from(true), 500);
        times.add_waiting(1);
        assert_eq!(times.to_come_from(true), NO_TIME);
        says(&mut times, 1, 70, TimeKind::Record);
        says(&mut times, 0, 600, TimeKind::Record);
        assert_eq!(times.to_come_from(true), Timestamp::MAX);
        assert_eq!(times.to_come_from(false), 70);
    }

    #[test]
    fn a_task_that_is_not_known_says_nothing() {
        let mut times = of_two();
        for task in [-1, 2] {
            assert!(!says(&mut times, task, 9, TimeKind::Idle));
        }
        assert_eq!((times.bound(), times.idle()), (NO_TIME, None));
    }
}
