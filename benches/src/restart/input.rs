//! The input: first one impression of each user, so that each has a row of state, then impressions of any of them at a steady
//! rate, for as long as the bench likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use processor_core::clock::{Clock as _, SystemClock};
use processor_core::log::kafka::KafkaLog;
use processor_core::log::{Log as _, NewTopic, Producer, ProducerConfig, ProducerRecord};
use processor_core::partitioner::partition_for;

use crate::arena::PATIENCE;
use crate::event::Impression;
use crate::random::Random;
use crate::stopwatch::{Stopwatch, pause};
use crate::termination::Termination;

use super::kind::Kind;

pub(super) const IMPRESSIONS: &str = "bench-restart-impressions";

/// How long before now the input begins, by its timestamps: so that a millisecond a record is not in the future. A fixed time
/// in the past would not do, since brokers delete the changelogs of joins by the timestamps of their records.
const BEHIND_MS: i64 = 2 * 60 * 60 * 1_000;
/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(5);
/// A prime larger than any number of users: its multiples visit them all, in no order that a store could profit from.
const STRIDE: u64 = 2_654_435_761;

/// Those whose impressions are the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Users {
    pub count: u64,
}

impl Users {
    /// As many as have `state_bytes` of keys and values.
    pub fn with_state_of(kind: Kind, state_bytes: u64) -> Result<Self> {
        const SAMPLE: u64 = 1_000;
        let mut random = Random::with_seed(0);
        let mut bytes = 0;
        for user in 0..SAMPLE {
            let timestamp = SystemClock.now_ms();
            bytes += kind.bytes_of(&impression(&mut random, user, timestamp))?;
        }
        Ok(Self {
            count: (state_bytes * SAMPLE / bytes).max(1),
        })
    }

    /// The number of the user with this key.
    pub fn number(self, key: &[u8]) -> Option<u64> {
        let digits = std::str::from_utf8(key).ok()?.strip_prefix("user-")?;
        digits.parse().ok().filter(|number| *number < self.count)
    }
}

pub(super) fn key(user: u64) -> String {
    format!("user-{user:08}")
}

fn impression(random: &mut Random, user: u64, timestamp: i64) -> Impression {
    Impression::drawn(random, &key(user), timestamp)
}

/// Makes the topic and sends one impression of each user; the bytes of state that they come to.
pub(super) fn fill(
    log: &KafkaLog,
    kind: Kind,
    users: Users,
    seed: u64,
    partitions: i32,
    termination: &Termination,
) -> Result<u64> {
    log.create_topics(&[NewTopic::new(IMPRESSIONS, partitions)])?;
    let mut sender = Sender::new(log, seed, partitions)?;
    let mut bytes = 0;
    for n in 0..users.count {
        termination.check()?;
        let impression = sender.draw(n.wrapping_mul(STRIDE) % users.count);
        bytes += kind.bytes_of(&impression)?;
        sender.send(&impression)?;
    }
    sender.producer.flush(PATIENCE)?;
    Ok(bytes)
}

struct Sender {
    producer: Box<dyn Producer>,
    random: Random,
    partitions: i32,
    timestamp: i64,
    json: Vec<u8>,
}

impl Sender {
    fn new(log: &KafkaLog, seed: u64, partitions: i32) -> Result<Self> {
        Ok(Self {
            producer: log.producer(ProducerConfig::default())?,
            random: Random::with_seed(seed),
            partitions,
            timestamp: SystemClock.now_ms() - BEHIND_MS,
            json: Vec::new(),
        })
    }

    fn draw(&mut self, user: u64) -> Impression {
        self.timestamp += 1;
        impression(&mut self.random, user, self.timestamp)
    }

    fn send(&mut self, impression: &Impression) -> Result<()> {
        self.json.clear();
        serde_json::to_writer(&mut self.json, impression)
            .context("an impression is always JSON")?;
        let key = impression.user_id.as_bytes();
        self.producer.send(ProducerRecord {
            topic: IMPRESSIONS,
            partition: partition_for(key, self.partitions),
            timestamp: impression.timestamp,
            key: Some(key),
            value: Some(&self.json),
            headers: &[],
        })?;
        Ok(())
    }
}

/// Impressions that keep coming, from a thread of their own, until they are stopped or dropped.
pub(super) struct Flow {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flow {
    /// `rate` records a second, of any of `users`.
    pub fn start(
        log: &KafkaLog,
        users: Users,
        rate: u64,
        seed: u64,
        partitions: i32,
    ) -> Result<Self> {
        let mut sender = Sender::new(log, seed, partitions)?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("input".to_owned());
        let thread = thread.spawn(move || {
            let last = i64::try_from(users.count)? - 1;
            let watch = Stopwatch::start();
            let mut sent = 0;
            while !asked.load(Ordering::SeqCst) {
                let due = u128::from(rate) * watch.elapsed().as_millis() / 1_000;
                while sent < due {
                    let user = u64::try_from(sender.random.between(0, last))?;
                    let impression = sender.draw(user);
                    sender.send(&impression)?;
                    sent += 1;
                }
                pause(TICK);
            }
            Ok(sender.producer.flush(PATIENCE)?)
        });
        Ok(Self {
            stop,
            thread: Some(thread.context("cannot start a thread")?),
        })
    }

    /// Returns when everything that was sent is in the log.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        match self.thread.take() {
            None => Ok(()),
            Some(thread) => thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("the thread of the input panicked"))),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("the input failed: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_fill_visits_every_user_once() {
        for count in [1, 2, 997, 10_000] {
            let visited: BTreeSet<u64> = (0..count).map(|n| n * STRIDE % count).collect();
            assert_eq!(visited.len() as u64, count);
        }
    }

    #[test]
    fn there_are_as_many_users_as_have_the_state_that_was_asked_for() {
        for kind in [Kind::Table, Kind::Join] {
            let users = Users::with_state_of(kind, 1_000_000).unwrap();
            let mut random = Random::with_seed(9);
            let now_ms = SystemClock.now_ms();
            let mut bytes_of = |user| {
                let impression = impression(&mut random, user, now_ms);
                kind.bytes_of(&impression).unwrap()
            };
            let bytes: u64 = (0..users.count).map(&mut bytes_of).sum();
            assert!((980_000..1_020_000).contains(&bytes), "{kind}: {bytes}");
        }
    }

    #[test]
    fn a_key_is_that_of_its_user_and_of_no_stranger() {
        let users = Users { count: 20 };
        assert_eq!(users.number(key(7).as_bytes()), Some(7));
        assert_eq!(users.number(key(20).as_bytes()), None);
        assert_eq!(users.number(b"campaign-7"), None);
    }
}
