//! One budget for the memory of a process, and what is decided by it.
//!
//! | share, in 32nds | with stores | without |
//! |---|--:|--:|
//! | page cache of the stores, if they are on disk | 8 | |
//! | committed changes that the stores on disk do not have yet; with standby copies 5 | 6 | |
//! | standby copies, if there are any: half for what is fetched ahead, half for changes that are not on disk yet | 1 | |
//! | changes that are not committed | 4 | 4 |
//! | records that were read and wait for their turn | 4 | 7 |
//! | records that the client fetches ahead | 3 | 6 |
//! | the same for restores, and for global tables | 1 | 1 |
//! | records on their way to the log | 3 | 8 |
//! | records that wait for a commit in flight | 1 | 4 |
//! | left for what is not counted | 2 | 2 |
//!
//! The cache is one for the process, standby copies included, and so is their share; every other share is divided evenly
//! among the stream threads. What is counted is bytes of keys, values and headers and an overhead for each entry. Not
//! counted, and beside the budget: the program itself and its stacks, global tables, stores without a state directory, the
//! embedded log in memory, and what processors of the user and operators keep outside of stores (see `docs/memory.md` of
//! the repository).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::StreamsConfig;

/// The least budget for each stream thread: below that the shares are smaller than what a client fetches or sends at once.
const LEAST_BYTES_A_THREAD: u64 = 32 << 20;

/// What the stores of an application mean for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stores {
    /// There are none.
    None,
    /// They are in memory, and beside the budget.
    InMemory,
    /// They are on disk, with a page cache.
    OnDisk,
}

/// How the budget of a process is divided; all in bytes. [`StreamsConfig`] says how to overrule a share.
///
/// ```
/// use processor_core::{MemoryPlan, Stores};
///
/// let plan = MemoryPlan::of(512 << 20, 2, Stores::OnDisk).unwrap();
/// assert_eq!(plan.cache_bytes, 128 << 20);
/// assert_eq!(plan.dirty_bytes, 32 << 20); // of each thread
/// assert!(plan.total_bytes(2) <= 512 << 20);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Page cache of the stores of all threads.
    pub cache_bytes: u64,
    /// Of a thread: what is changed and sent before a commit comes early.
    pub commit_bytes: usize,
    /// Of a thread: changes of stores that are not committed, those of a commit in flight included. When they are more,
    /// the thread waits for the commit.
    pub dirty_bytes: usize,
    /// Of a thread: committed changes before they are written to the stores.
    pub settled_bytes: usize,
    /// Of a thread: records that wait for their turn, over all its partitions. A partition with more than its part of it
    /// is paused.
    pub queue_bytes: usize,
    /// Of a thread: records that the client of the group fetches ahead.
    pub fetch_bytes: usize,
    /// Of a thread: the same for the client that restores, and for the one that reads global tables.
    pub side_fetch_bytes: usize,
    /// Of a thread: records that are sent and not acknowledged.
    pub send_bytes: usize,
    /// Of a thread: records that wait for a commit in flight.
    pub waiting_bytes: usize,
    /// Of the process: what standby copies fetch ahead and have not written down, each half of it.
    pub standby_bytes: usize,
}

impl MemoryPlan {
    /// Divides `budget_bytes` for `threads` stream threads.
    ///
    /// # Errors
    /// The least budget that is enough, when this one is not.
    pub fn of(budget_bytes: u64, threads: usize, stores: Stores) -> Result<Self, u64> {
        let threads = threads.max(1) as u64;
        let least = LEAST_BYTES_A_THREAD.saturating_mul(threads);
        if budget_bytes < least {
            return Err(least);
        }
        let share = |parts: u64| budget_bytes / 32 * parts;
        let each = |parts: u64| usize::try_from(share(parts) / threads).unwrap_or(usize::MAX);
        let has_stores = stores != Stores::None;
        let part = |with: u64, without: u64| each(if has_stores { with } else { without });
        let dirty_bytes = each(4);
        Ok(Self {
            cache_bytes: match stores {
                Stores::OnDisk => share(8),
                Stores::None | Stores::InMemory => 0,
            },
            commit_bytes: dirty_bytes / 2,
            dirty_bytes,
            settled_bytes: part(6, 0),
            queue_bytes: part(4, 7),
            fetch_bytes: part(3, 6),
            side_fetch_bytes: each(1),
            send_bytes: part(3, 8),
            waiting_bytes: part(1, 4),
            standby_bytes: 0,
        })
    }

    /// The same with [standby copies](crate::Standby), whose share comes out of that of committed changes.
    #[must_use]
    pub fn with_standby(mut self, threads: usize) -> Self {
        let sixth = self.settled_bytes / 6;
        self.settled_bytes -= sixth;
        self.standby_bytes = sixth * threads.max(1);
        self
    }

    /// The plan of an application, with the shares that its settings overrule.
    ///
    /// # Errors
    /// As for [`of`](Self::of).
    pub(crate) fn for_config(config: &StreamsConfig, stores: Stores) -> Result<Self, u64> {
        let mut plan = Self::of(config.memory_bytes, config.threads, stores)?;
        if config.standby.is_some() {
            plan = plan.with_standby(config.threads);
        }
        if let Some(bytes) = config.commit_bytes {
            plan.commit_bytes = bytes;
            plan.dirty_bytes = bytes.saturating_mul(2).max(plan.dirty_bytes);
        }
        plan.settled_bytes = config.apply_bytes.unwrap_or(plan.settled_bytes);
        plan.cache_bytes = config.state_cache_bytes.unwrap_or(plan.cache_bytes);
        Ok(plan)
    }

    /// All shares together.
    #[must_use]
    pub fn total_bytes(&self, threads: usize) -> u64 {
        let of_thread = [
            self.dirty_bytes,
            self.settled_bytes,
            self.queue_bytes,
            self.fetch_bytes,
            self.side_fetch_bytes,
            self.send_bytes,
            self.waiting_bytes,
        ];
        let each: u64 = of_thread.iter().map(|bytes| *bytes as u64).sum();
        self.cache_bytes + self.standby_bytes as u64 + each * threads.max(1) as u64
    }

    /// How many bytes a thread may change and send until it commits, or, if a commit is in flight, until it has to wait
    /// for that. Nothing when it is there already.
    pub(crate) fn room(&self, held: &Held, committing: bool) -> Option<usize> {
        if committing {
            let dirty = self.dirty_bytes.checked_sub(held.dirty)?;
            Some(dirty.min(self.waiting_bytes.checked_sub(held.waiting)?))
        } else {
            self.commit_bytes.checked_sub(held.dirty + held.sent)
        }
    }

    /// Whether settled changes are to be written to the stores.
    pub(crate) fn apply_due(&self, settled: usize) -> bool {
        settled >= self.settled_bytes
    }

    /// Bytes that may wait for their turn in one of `partitions`.
    pub(crate) fn queue_limit(&self, partitions: usize) -> usize {
        self.queue_bytes / partitions.max(1)
    }
}

/// What a thread holds that is counted; all in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Changes of stores that are not committed.
    pub dirty: usize,
    /// Committed changes that the stores do not have yet.
    pub settled: usize,
    /// What was sent since the last commit began. The client has it, and may have passed it on.
    pub sent: usize,
    /// What waits for a commit in flight.
    pub waiting: usize,
    /// What waits for its turn.
    pub queued: usize,
}

impl Held {
    /// Here and now, what the client has not included.
    pub(crate) fn total(&self) -> usize {
        self.dirty + self.settled + self.waiting + self.queued
    }
}

/// What all threads of a process hold, as they said last.
#[derive(Debug, Default)]
pub(crate) struct HeldByAll {
    bytes: AtomicUsize,
    peak: AtomicUsize,
}

impl HeldByAll {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The most that they held.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

/// A thread's part of it, which goes with the thread.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<HeldByAll>,
    bytes: usize,
}

impl Share {
    pub(crate) fn none(of: Arc<HeldByAll>) -> Self {
        Self { of, bytes: 0 }
    }

    pub(crate) fn set(&mut self, bytes: usize) {
        // Where it becomes less, this is two's complement, and wraps as the addition does.
        let change = bytes.wrapping_sub(std::mem::replace(&mut self.bytes, bytes));
        let before = self.of.bytes.fetch_add(change, Ordering::Relaxed);
        let now = before.wrapping_add(change);
        self.of.peak.fetch_max(now, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_shares_never_exceed_the_budget_and_grow_with_it() {
        for stores in [Stores::None, Stores::InMemory, Stores::OnDisk] {
            for threads in [1, 2, 3, 7, 16] {
                let least = LEAST_BYTES_A_THREAD * threads as u64;
                let mut before = 0;
                for budget in [least, least + 12_345, 2 * least, 64 * least] {
                    let plan = MemoryPlan::of(budget, threads, stores).unwrap();
                    let total = plan.total_bytes(threads);
                    let with_standby = plan.with_standby(threads);
                    assert_eq!(with_standby.total_bytes(threads), total);
                    assert_eq!(with_standby.standby_bytes > 0, stores != Stores::None);
                    assert!(total <= budget, "{stores:?} {threads} {budget}: {total}");
                    assert!(
                        total * 10 > budget * 6,
                        "{stores:?} {threads} {budget}: {total}"
                    );
                    assert!(total >= before);
                    before = total;
                }
            }
        }
    }

    #[test]
    fn the_default_of_one_thread_is_what_was_measured() {
        let plan = MemoryPlan::for_config(&StreamsConfig::new("app"), Stores::OnDisk).unwrap();
        let mib = |bytes: usize| bytes as u64 / MIB;
        assert_eq!(plan.cache_bytes, 128 * MIB);
        assert_eq!((mib(plan.commit_bytes), mib(plan.dirty_bytes)), (32, 64));
        assert_eq!((mib(plan.settled_bytes), mib(plan.queue_bytes)), (96, 64));
        assert_eq!(
            (mib(plan.fetch_bytes), mib(plan.side_fetch_bytes)),
            (48, 16)
        );
        assert_eq!((mib(plan.send_bytes), mib(plan.waiting_bytes)), (48, 16));
    }

    #[test]
    fn too_little_says_how_much_is_enough() {
        assert_eq!(MemoryPlan::of(64 * MIB, 3, Stores::OnDisk), Err(96 * MIB));
        assert!(MemoryPlan::of(96 * MIB, 3, Stores::OnDisk).is_ok());
    }

    #[test]
    fn shares_of_threads_add_up_and_go_with_them() {
        let all = Arc::new(HeldByAll::default());
        let mut first = Share::none(Arc::clone(&all));
        let mut second = Share::none(Arc::clone(&all));
        first.set(100);
        second.set(50);
        first.set(10);
        assert_eq!((all.bytes(), all.peak()), (60, 150));
        drop(first);
        assert_eq!((all.bytes(), all.peak()), (50, 150));
    }

    #[test]
    fn settings_overrule_shares() {
        let config = StreamsConfig {
            commit_bytes: Some(1),
            apply_bytes: Some(0),
            state_cache_bytes: Some(3 * MIB),
            ..StreamsConfig::new("app")
        };
        let plan = MemoryPlan::for_config(&config, Stores::OnDisk).unwrap();
        assert_eq!((plan.commit_bytes, plan.settled_bytes), (1, 0));
        assert_eq!(plan.cache_bytes, 3 * MIB);
        assert!(plan.apply_due(0));
    }

    #[test]
    fn a_thread_goes_on_during_a_commit_until_either_share_is_full() {
        let plan = MemoryPlan::of(32 * MIB, 1, Stores::OnDisk).unwrap();
        let held = Held {
            dirty: plan.commit_bytes,
            sent: 1,
            ..Held::default()
        };
        assert_eq!(plan.room(&held, false), None);
        assert!(plan.room(&held, true).is_some());
        let held = Held {
            dirty: plan.commit_bytes - 10,
            sent: 4,
            ..Held::default()
        };
        assert_eq!(plan.room(&held, false), Some(6));
        let held = Held {
            dirty: plan.dirty_bytes + 1,
            ..Held::default()
        };
        assert_eq!(plan.room(&held, true), None);
        let held = Held {
            waiting: plan.waiting_bytes - 3,
            ..Held::default()
        };
        assert_eq!(plan.room(&held, true), Some(3));
    }
}
