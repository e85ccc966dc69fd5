//! A processor in a task: user code, and what has to happen around it.
//!
//! ```text
//!  record        ─▶ expiry of stores moves on ─▶ process ─▶ event timers that are due ─▶ some expired entries are deleted
//!  time alone    ─▶ the same without a record, where inputs are idle or a bound rises
//!  in each round ─▶ schedules that are due, wall-clock timers that are due
//! ```
//!
//! Where an operator above holds records back, the task may be ahead of what has come here. Schedules of stream time then go
//! by the time that the records bring, and fire right behind the record.

use std::cell::RefCell;
use std::rc::Rc;

use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::record::{Data, Record};

use super::expiring::Expiring;
use super::schedule::Schedules;
use super::store::Attachment;
use super::times::{NO_TIME, OperatorTime};
use super::{
    Context, Fanout, Instantiation, Process, Processor, ProcessorContext, Setup, Timers, Wake, Work,
};

/// See the [module](self).
pub(crate) struct ProcessorNode<K, V, P: Processor<K, V>> {
    name: String,
    processor: P,
    schedules: Schedules,
    timers: Option<KeyTimers<K>>,
    expiring: Vec<Expiring>,
    /// Where records are held back above: the stream time that the last one came with.
    held_back: Option<Timestamp>,
    /// Set by a record and at the start, cleared when `resume` reports that nothing is left.
    work: Work,
    children: Fanout<P::KOut, P::VOut>,
}

/// The timers of a processor, and the event time they go by.
struct KeyTimers<K> {
    timers: Timers<K>,
    time: OperatorTime,
}

impl<K: Data, V: Data, P: Processor<K, V>> ProcessorNode<K, V, P> {
    /// Initialises `processor` and registers it for wake-ups. `attached` came with its stores.
    pub(crate) fn create(
        name: &str,
        mut processor: P,
        attached: Vec<Attachment>,
        children: Fanout<P::KOut, P::VOut>,
        instantiation: &mut Instantiation<'_>,
    ) -> Result<Rc<RefCell<Self>>> {
        let mut timers = None;
        let mut expiring = Vec::new();
        for attachment in attached {
            match attachment {
                Attachment::Timers(any) => {
                    let opened = any.downcast::<Timers<K>>().map_err(|_| {
                        Fault::user(
                            name,
                            "its timers have keys of another type than its records",
                        )
                    })?;
                    let time = format!("{}.timers", opened.name());
                    timers = Some(KeyTimers {
                        timers: *opened,
                        time: OperatorTime::new(instantiation.times, &time),
                    });
                }
                Attachment::Expiring(store) => {
                    expiring.push(Expiring::start(store, instantiation.times));
                }
            }
        }
        let mut schedules = Schedules::default();
        processor.init(&mut Setup {
            name,
            instantiation,
            schedules: &mut schedules,
        })?;
        let node = Rc::new(RefCell::new(Self {
            name: name.to_owned(),
            processor,
            schedules,
            timers,
            expiring,
            held_back: instantiation.deferred.then_some(NO_TIME),
            work: Work::More,
            children,
        }));
        instantiation
            .wakes
            .push(Rc::clone(&node) as Rc<RefCell<dyn Wake>>);
        Ok(node)
    }

    /// Runs user code at the wall-clock time of the context.
    fn run<R>(
        &mut self,
        context: &mut Context<'_>,
        call: impl FnOnce(&mut P, &mut ProcessorContext<'_, '_, P::KOut, P::VOut>) -> R,
    ) -> R {
        for store in &mut self.expiring {
            store.observe_wall(context.wall_ms);
        }
        let mut context = ProcessorContext {
            context,
            children: &mut self.children,
            schedules: &mut self.schedules,
        };
        call(&mut self.processor, &mut context)
    }

    fn fire_schedules(&mut self, context: &mut Context<'_>, stream_time: Timestamp) -> Result {
        let mut last = None;
        while let Some(due) = self.schedules.next_due(last, stream_time, context.wall_ms) {
            last = Some(due.id);
            self.run(context, |processor, context| {
                processor.punctuate(due, context)
            })?;
        }
        Ok(())
    }

    fn look_after_stores(&mut self) -> Result {
        self.expiring.iter_mut().try_for_each(Expiring::look_after)
    }

    fn fire_event_timers(&mut self, context: &mut Context<'_>) -> Result {
        while let Some(KeyTimers { timers, time }) = &self.timers
            && let Some(fired) = timers.due_event(time.now())?
        {
            self.run(context, |processor, context| {
                processor.on_timer(fired, context)
            })?;
        }
        Ok(())
    }

    fn fire_wall_timers(&mut self, context: &mut Context<'_>) -> Result {
        let now = context.wall_ms;
        while let Some(KeyTimers { timers, .. }) = &self.timers
            && let Some(fired) = timers.due_wall(now)?
        {
            self.run(context, |processor, context| {
                processor.on_timer(fired, context)
            })?;
        }
        Ok(())
    }
}

impl<K: Data, V: Data, P: Processor<K, V>> Process<K, V> for ProcessorNode<K, V, P> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        self.work = Work::More;
        for store in &mut self.expiring {
            store.observe(record.timestamp, context);
        }
        if let Some(KeyTimers { time, .. }) = &self.timers {
            time.observe(record.timestamp, context);
        }
        self.run(context, |processor, context| {
            processor.process(record, context)
        })?;
        self.fire_event_timers(context)?;
        if let Some(time) = &mut self.held_back {
            *time = context.stream_time.max(*time);
            let time = *time;
            self.fire_schedules(context, time)?;
        }
        self.look_after_stores()
    }
}

impl<K: Data, V: Data, P: Processor<K, V>> Wake for ProcessorNode<K, V, P> {
    fn punctuate(&mut self, context: &mut Context<'_>) -> Result {
        let stream_time = self.held_back.unwrap_or(context.stream_time);
        self.fire_schedules(context, stream_time)?;
        self.fire_wall_timers(context)?;
        // A callback may have set some whose time has come already.
        self.fire_event_timers(context)?;
        self.look_after_stores()
    }

    fn end_of_input(&mut self, context: &mut Context<'_>) -> Result {
        let mut last = None;
        while let Some(due) = self.schedules.next_end_of_input(last, context.stream_time) {
            tracing::debug!(processor = %self.name, "end of input");
            last = Some(due.id);
            self.run(context, |processor, context| {
                processor.punctuate(due, context)
            })?;
        }
        Ok(())
    }

    fn advance(&mut self, context: &mut Context<'_>, time: Timestamp) -> Result {
        for store in &mut self.expiring {
            store.observe(time, context);
        }
        if let Some(timers) = &self.timers {
            timers.time.observe(time, context);
        }
        self.fire_event_timers(context)?;
        self.look_after_stores()
    }

    fn has_work(&self) -> bool {
        self.work == Work::More
    }

    fn resume(&mut self, context: &mut Context<'_>) -> Result<Work> {
        if self.work == Work::More {
            self.work = self.run(context, |processor, context| processor.resume(context))?;
            self.fire_event_timers(context)?;
            self.look_after_stores()?;
        }
        Ok(self.work)
    }
}
