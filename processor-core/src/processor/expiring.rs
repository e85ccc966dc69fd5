//! Entries that live for some time: what time it is for a store, and when what has expired is deleted.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use state::KeyValueStore;

use crate::clock::millis;
use crate::error::Result;
use crate::log::Timestamp;

use super::Context;
use super::times::{NO_TIME, OperatorTime, TaskTimes};

/// Records and puts between two rounds of deletion.
const SWEEP_EVERY: u64 = 16;
/// Entries that a round looks at for each of them: more than come, so that no backlog stays.
const SWEEP_EACH: u64 = 4;

/// How long entries of a store live: an entry is gone at the time it was put plus this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl {
    clock: Clock,
    ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    Records,
    Puts,
    Wall,
}

impl Ttl {
    /// By the time of events: an entry was put at the timestamp it is put with, and it is as late as the largest timestamp
    /// of the records that reached a processor that uses the store; the record at hand counts. Behind a repartition topic
    /// it is the slowest upstream task's time. This time survives restarts. What is put with a timestamp that has expired
    /// already is not there at all, nor what it replaced.
    #[must_use]
    pub fn event_time(ttl: Duration) -> Self {
        Self::by(Clock::Records, ttl)
    }

    /// The same where the records of the processor are not the events, as for one that is told of files and reads them: it
    /// is as late as the largest timestamp that an entry of the store was put with.
    #[must_use]
    pub fn event_time_of_puts(ttl: Duration) -> Self {
        Self::by(Clock::Puts, ttl)
    }

    /// By the wall clock. The timestamp of an entry is then the wall-clock time at which it was put.
    #[must_use]
    pub fn wall_clock(ttl: Duration) -> Self {
        Self::by(Clock::Wall, ttl)
    }

    fn by(clock: Clock, ttl: Duration) -> Self {
        Self {
            clock,
            ms: millis(ttl),
        }
    }

    /// The oldest timestamp that is there at `now`.
    fn oldest(self, now: Timestamp) -> Timestamp {
        now.saturating_sub(self.ms).saturating_add(1)
    }

    /// The time at which `oldest` is the oldest timestamp that is there.
    fn now(self, oldest: Timestamp) -> Timestamp {
        oldest.saturating_sub(1).saturating_add(self.ms)
    }
}

/// A store whose entries expire, shared by who writes it and the node that tells it the time.
#[derive(Clone)]
pub(crate) struct ExpiringStore {
    name: String,
    store: Rc<RefCell<KeyValueStore>>,
    ttl: Ttl,
    wall: Rc<Cell<Timestamp>>,
}

impl ExpiringStore {
    pub(crate) fn new(name: &str, store: Rc<RefCell<KeyValueStore>>, ttl: Ttl) -> Self {
        Self {
            name: name.to_owned(),
            store,
            ttl,
            wall: Rc::new(Cell::new(0)),
        }
    }

    /// The timestamp of an entry that is put with `timestamp` now.
    pub(crate) fn put_at(&self, timestamp: Timestamp) -> Timestamp {
        match self.ttl.clock {
            Clock::Records => timestamp,
            Clock::Wall => self.wall.get(),
            Clock::Puts => {
                self.expire(timestamp);
                timestamp
            }
        }
    }

    fn expire(&self, now: Timestamp) {
        let oldest = self.ttl.oldest(now);
        self.store.borrow_mut().expire_before(oldest);
    }
}

/// An expiring store as its node sees it, which tells it the time and has old entries deleted.
pub(crate) struct Expiring {
    store: ExpiringStore,
    time: OperatorTime,
    /// Records and puts when old entries were last deleted, and since.
    swept: u64,
    records: u64,
}

impl Expiring {
    /// Goes on at the time that was restored: what had expired before a restart stays so.
    pub(crate) fn start(store: ExpiringStore, times: &mut TaskTimes) -> Self {
        let time = OperatorTime::new(times, &format!("{}.ttl", store.name));
        if time.now() != NO_TIME {
            let oldest = store.ttl.oldest(time.now());
            store.store.borrow_mut().restore_horizon(oldest);
        }
        Self {
            store,
            time,
            swept: 0,
            records: 0,
        }
    }

    /// Takes notice of a record at `timestamp`.
    pub(crate) fn observe(&mut self, timestamp: Timestamp, context: &Context<'_>) {
        self.records += 1;
        if self.store.ttl.clock == Clock::Records && self.time.observe(timestamp, context) {
            self.store.expire(self.time.now());
        }
    }

    /// Takes notice of the wall clock.
    pub(crate) fn observe_wall(&mut self, wall_ms: i64) {
        if self.store.ttl.clock == Clock::Wall && self.store.wall.get() != wall_ms {
            self.store.wall.set(wall_ms);
            self.store.expire(wall_ms);
        }
    }

    /// The time of events now; −1 before the first.
    pub(crate) fn now(&self) -> Timestamp {
        self.time.now()
    }

    /// After the store was used: keeps the time it has come to, and deletes some of what has expired now and then.
    pub(crate) fn look_after(&mut self) -> Result {
        let mut store = self.store.store.borrow_mut();
        if self.store.ttl.clock == Clock::Puts && store.puts() > 0 {
            self.time.reach(self.store.ttl.now(store.horizon()));
        }
        let steps = self.records + store.puts() - self.swept;
        if steps >= SWEEP_EVERY {
            self.swept += steps;
            let limit = usize::try_from(steps * SWEEP_EACH).unwrap_or(usize::MAX);
            store.sweep(limit)?;
        }
        Ok(())
    }
}
