//! Replacing values by what somebody outside answers, without waiting for one answer at a time.
//!
//! ```text
//!  records ─▶ up to `concurrency` calls at once, on the executor of the thread ─▶ results, in the order of the records
//! ```
//!
//! A record waits here with its headers, its place and the times that it came with; so what comes of it below, and what is
//! late there, is the same as if its answer had been there at once, whatever the order and the speed of the answers.
//!
//! **Exactly once.** Nothing waits across a commit: before one begins, and before time moves without a record, all answers
//! are waited for. What the commit waits for at most is the time that calls may take: see [`AsyncCalls`]. After a failure
//! calls that are under way are dropped and their records read again, so the outside may be asked again; it is asked for a
//! value, not told to do something.
//!
//! A stream-time punctuation of a processor below fires behind the record that moved time as it comes out here.

use std::collections::VecDeque;
use std::error::Error;
use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::{Context, Fanout, Process, Wake, Work};
use crate::record::{Data, Record};
use crate::runtime::{Call, Executor};
use crate::topology::NodeKind;

use super::outlet::Outlet;
use super::{KStream, Lineage};

/// Pauses between attempts grow up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// What a call that is over by its own clock may take longer, on an executor that has much to do.
const SLACK: Duration = Duration::from_secs(10);

/// How calls to the outside are made.
///
/// A call takes at most `timeout` for each attempt, and the pauses between attempts. A commit waits for the calls that are
/// under way, so all of that together should stay well below
/// [`transaction_timeout`](crate::StreamsConfig::transaction_timeout).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsyncCalls {
    concurrency: usize,
    timeout: Duration,
    retries: u32,
    first_pause: Duration,
}

impl AsyncCalls {
    /// Up to `limit` calls at once in each task, each with 5 s to answer and no second attempt.
    #[must_use]
    pub fn at_once(limit: usize) -> Self {
        Self {
            concurrency: limit,
            timeout: Duration::from_secs(5),
            retries: 0,
            first_pause: Duration::ZERO,
        }
    }

    /// How long one attempt may take, by the real clock.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Up to `retries` further attempts after one that fails or takes too long: the second after `first_pause`, each
    /// further one after twice as long, but never more than 5 s.
    #[must_use]
    pub fn retries(self, retries: u32, first_pause: Duration) -> Self {
        Self {
            retries,
            first_pause,
            ..self
        }
    }

    fn pause(self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        self.first_pause.saturating_mul(factor).min(LONGEST_PAUSE)
    }

    /// The longest that a call takes with all its attempts.
    fn longest(self) -> Duration {
        let attempts = self.timeout.saturating_mul(self.retries.saturating_add(1));
        let pauses = (0..self.retries.min(64)).map(|attempt| self.pause(attempt));
        let more = LONGEST_PAUSE.saturating_mul(self.retries.saturating_sub(64));
        attempts
            .saturating_add(pauses.sum::<Duration>())
            .saturating_add(more)
    }

    fn problem(self) -> Option<&'static str> {
        if self.concurrency == 0 {
            Some("makes no calls at once; allow one or more")
        } else if self.timeout.is_zero() {
            Some("gives its calls no time; set a timeout of more than nothing")
        } else {
            None
        }
    }
}

impl<K: Data + Send, V: Data + Send, L: Lineage> KStream<K, V, L> {
    /// Replaces each value by what `call` answers, several at once; the key and its partition stay.
    ///
    /// Results leave in the order of the records, with their timestamps and headers, at the latest when their transaction
    /// commits. A record waits for room where `calls` allows no more at once, and with it the task. Null keys and values are
    /// given to `call` like any others. No record is late here, and nothing is stored.
    ///
    /// Calls run on one thread in the background for each stream thread, a Tokio runtime: what they use may need more of
    /// Tokio's features than this crate does, and they must not block.
    ///
    /// What leaves here and what other branches of the same stream send meanwhile have no fixed order between them.
    ///
    /// Kafka Streams has no such operator; it is what Flink calls asynchronous I/O, with ordered results.
    ///
    /// # Errors
    /// [`build`](crate::dsl::StreamsBuilder::build) refuses `calls` without concurrency or time. A call that fails, panics
    /// or takes too long, at its last attempt, fails its record:
    /// [`on_processing_error`](crate::StreamsConfig::on_processing_error) decides.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use processor_core::dsl::{AsyncCalls, Consumed, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # async fn population(city: &str) -> Result<i64, Infallible> { Ok(city.len() as i64) }
    /// # let builder = StreamsBuilder::new("cities");
    /// # let visits = builder.stream("visits", Consumed::new(utf8(), utf8()));
    /// let enriched = visits.map_values_async(
    ///     "population",
    ///     AsyncCalls::at_once(16),
    ///     |_, city: String| async move { population(&city).await },
    /// );
    /// enriched.to_with("populations", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let visits = driver.input("visits", utf8(), utf8());
    /// visits.pipe(&mut driver, "ann".to_owned(), "Rome".to_owned(), 0);
    /// let populations = driver.output("populations", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(populations, [("ann".to_owned(), 4)]);
    /// ```
    pub fn map_values_async<V2, E, F>(
        &self,
        name: &str,
        calls: AsyncCalls,
        call: impl Fn(K, V) -> F + Send + Sync + 'static,
    ) -> KStream<K, V2, L>
    where
        V2: Data + Send,
        E: Into<Box<dyn Error + Send + Sync>>,
        F: Future<Output = std::result::Result<V2, E>> + Send + 'static,
    {
        let outlet = Outlet::<K, V2>::new();
        let node = {
            let mut plan = self.plan.borrow_mut();
            if let Some(problem) = calls.problem() {
                plan.problems.push(format!("'{name}' {problem}"));
            }
            let kind = NodeKind::Operator("map values async");
            plan.add_node(name.to_owned(), kind, vec![self.node], vec![])
        };
        let (below, name, call) = (Arc::clone(&outlet), name.to_owned(), Arc::new(call));
        self.outlet.attach(move |instantiation| {
            let executor = instantiation.executor.get()?;
            let deferred = std::mem::replace(&mut instantiation.deferred, true);
            let children = below.instantiate(instantiation);
            instantiation.deferred = deferred;
            Ok(instantiation.woken(MapAsync {
                operator: name.clone(),
                calls,
                call: Arc::clone(&call),
                executor,
                waiting: VecDeque::new(),
                children: children?,
            }))
        });
        KStream::new(Rc::clone(&self.plan), node, outlet, self.key.clone(), None)
    }
}

type Answer<V> = std::result::Result<V, Box<dyn Error + Send + Sync>>;

/// The operator in a task.
struct MapAsync<K, V2, F> {
    operator: String,
    calls: AsyncCalls,
    call: Arc<F>,
    executor: Rc<Executor>,
    /// In the order of the records.
    waiting: VecDeque<Waiting<K, V2>>,
    children: Fanout<K, V2>,
}

/// A record whose answer is under way, and the task as it was at it.
struct Waiting<K, V2> {
    record: Record<K, ()>,
    topic: Option<Arc<str>>,
    offset: i64,
    stream_time: Timestamp,
    time_bound: Timestamp,
    answer: mpsc::Receiver<Answer<V2>>,
    /// Ends the call when it is dropped.
    _call: Call,
}

impl<K: Data, V2: Data, F> MapAsync<K, V2, F> {
    /// Forwards the results that are there, as far as those before them are.
    fn forward_ready(&mut self, context: &mut Context<'_>) -> Result {
        while let Some(first) = self.waiting.front() {
            let answer = match first.answer.try_recv() {
                Ok(answer) => answer,
                Err(mpsc::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::TryRecvError::Disconnected) => Err("its call panicked".into()),
            };
            self.forward_first(context, answer)?;
        }
        Ok(())
    }

    /// Waits for the first result and forwards it.
    fn await_first(&mut self, context: &mut Context<'_>) -> Result {
        let Some(first) = self.waiting.front() else {
            return Ok(());
        };
        let limit = self.calls.longest().saturating_add(SLACK);
        let answer = first.answer.recv_timeout(limit).unwrap_or_else(|error| {
            Err(match error {
                mpsc::RecvTimeoutError::Disconnected => "its call panicked".into(),
                mpsc::RecvTimeoutError::Timeout => "the calls block their executor".into(),
            })
        });
        self.forward_first(context, answer)
    }

    fn await_all(&mut self, context: &mut Context<'_>) -> Result {
        while !self.waiting.is_empty() {
            self.await_first(context)?;
        }
        Ok(())
    }

    /// Goes on with the first record as if its answer had been there at once.
    fn forward_first(&mut self, context: &mut Context<'_>, answer: Answer<V2>) -> Result {
        let Some(first) = self.waiting.pop_front() else {
            return Ok(());
        };
        let mut context = Context {
            topic: first.topic.as_ref(),
            offset: first.offset,
            stream_time: first.stream_time,
            time_bound: first.time_bound,
            as_read: None,
            task: context.task,
            wall_ms: context.wall_ms,
            out: &mut *context.out,
        };
        let forwarded = match answer {
            Ok(value) => {
                let record = first.record.with_value(value);
                self.children.forward(&mut context, record)
            }
            Err(error) => Err(Fault::user(&self.operator, error)),
        };
        forwarded.map_err(|fault| match context.metadata() {
            Some(place) => fault.at(place),
            None => fault,
        })
    }
}

impl<K, V, V2, E, F, C> Process<K, V> for MapAsync<K, V2, C>
where
    K: Data + Send,
    V: Data + Send,
    V2: Data + Send,
    E: Into<Box<dyn Error + Send + Sync>>,
    F: Future<Output = std::result::Result<V2, E>> + Send + 'static,
    C: Fn(K, V) -> F + Send + Sync + 'static,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        self.forward_ready(context)?;
        while self.waiting.len() >= self.calls.concurrency {
            self.await_first(context)?;
        }
        let (record, value) = record.take_value();
        let (send, answer) = mpsc::sync_channel(1);
        let (calls, call, key) = (self.calls, Arc::clone(&self.call), record.key.clone());
        let call = self.executor.spawn(async move {
            // Nobody listens any more where the task is gone.
            let _ = send.send(attempts(calls, &*call, key, value).await);
        });
        self.waiting.push_back(Waiting {
            record,
            topic: context.topic.cloned(),
            offset: context.offset,
            stream_time: context.stream_time,
            time_bound: context.time_bound,
            answer,
            _call: call,
        });
        Ok(())
    }
}

impl<K: Data, V2: Data, C> Wake for MapAsync<K, V2, C> {
    fn punctuate(&mut self, context: &mut Context<'_>) -> Result {
        self.forward_ready(context)
    }

    fn end_of_input(&mut self, context: &mut Context<'_>) -> Result {
        self.await_all(context)
    }

    /// What waits came before this time, so it goes first.
    fn advance(&mut self, context: &mut Context<'_>, _: Timestamp) -> Result {
        self.await_all(context)
    }

    fn idle(&mut self, context: &mut Context<'_>, _: Option<Timestamp>) -> Result {
        self.await_all(context)
    }

    fn resume(&mut self, context: &mut Context<'_>) -> Result<Work> {
        self.forward_ready(context)?;
        Ok(Work::Done)
    }

    fn before_commit(&mut self, context: &mut Context<'_>) -> Result {
        self.await_all(context)
    }
}

/// The answer of the first attempt that has one, else what became of the last.
async fn attempts<K: Clone, V: Clone, V2, E, F>(
    calls: AsyncCalls,
    call: &impl Fn(K, V) -> F,
    key: K,
    value: V,
) -> Answer<V2>
where
    E: Into<Box<dyn Error + Send + Sync>>,
    F: Future<Output = std::result::Result<V2, E>>,
{
    let mut attempt = 0;
    loop {
        let answered = call(key.clone(), value.clone());
        let answer: Answer<V2> = match tokio::time::timeout(calls.timeout, answered).await {
            Ok(answer) => answer.map_err(Into::into),
            Err(_) => Err(format!("no answer within {} ms", calls.timeout.as_millis()).into()),
        };
        let error = match answer {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if attempt == calls.retries {
            return Err(match attempt {
                0 => error,
                _ => format!("{error}, at the last of {} attempts", attempt + 1).into(),
            });
        }
        tokio::time::sleep(calls.pause(attempt)).await;
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let calls = AsyncCalls::at_once(1).retries(5, Duration::from_millis(1_000));
        let pauses: Vec<u128> = (0..5)
            .map(|attempt| calls.pause(attempt).as_millis())
            .collect();
        assert_eq!(pauses, [1_000, 2_000, 4_000, 5_000, 5_000]);
        assert_eq!(calls.pause(40), LONGEST_PAUSE);
    }

    #[test]
    fn the_longest_that_a_call_takes_is_that_of_all_attempts_and_pauses() {
        let calls = AsyncCalls::at_once(1)
            .timeout(Duration::from_secs(2))
            .retries(2, Duration::from_secs(1));
        assert_eq!(calls.longest(), Duration::from_secs(2 + 1 + 2 + 2 + 2));
        let for_ever = calls.retries(u32::MAX, Duration::from_secs(1));
        assert!(for_ever.longest() > Duration::from_secs(1_000_000));
    }
}
