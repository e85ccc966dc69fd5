//! Who has the stores of a task open: the stream threads come first, and a standby copy gives way.
//!
//! ```text
//!  free ──follow──▶ followed ──claim──▶ followed and claimed ──let_go──▶ claimed
//!   ▲                  │ let_go                                            │ unclaim
//!   └──────────────────┴───────────────────────────────────────────────────┘
//! ```
//!
//! A stream thread claims a task when the group gives it, and opens its stores once nobody follows it and no other thread of
//! this process has it still; until then the task waits like any that does not run yet, and the thread does not.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::record::TaskId;

use super::stream_thread::Shared;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct TaskOwners(Mutex<Owned>);

#[derive(Debug, Default)]
struct Owned {
    /// By task and stream thread: one that lost a task may say so after another one got it.
    claimed: BTreeSet<(TaskId, usize)>,
    followed: BTreeSet<TaskId>,
}

impl Owned {
    /// The threads that have claimed `id`.
    fn claims(&self, id: TaskId) -> impl Iterator<Item = usize> + '_ {
        let claims = self.claimed.range((id, 0)..=(id, usize::MAX));
        claims.map(|(_, thread)| *thread)
    }

    fn is_claimed(&self, id: TaskId) -> bool {
        self.claims(id).next().is_some()
    }
}

impl TaskOwners {
    fn lock(&self) -> MutexGuard<'_, Owned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self, id: TaskId, thread: usize) {
        self.lock().claimed.insert((id, thread));
    }

    fn unclaim(&self, id: TaskId, thread: usize) {
        self.lock().claimed.remove(&(id, thread));
    }

    fn unclaim_all(&self, thread: usize) {
        self.lock().claimed.retain(|(_, by)| *by != thread);
    }

    /// Whether `thread` may open the stores of `id`: no copy of it is open, and no other thread has claimed it. One that was
    /// put out of its group does not know yet that its tasks are gone, and would write over what comes after it.
    pub(crate) fn is_free_for(&self, id: TaskId, thread: usize) -> bool {
        let owned = self.lock();
        !owned.followed.contains(&id) && owned.claims(id).all(|by| by == thread)
    }

    /// Those of `ids` that nobody has; they are followed from now on.
    pub(crate) fn follow(&self, ids: &BTreeSet<TaskId>) -> BTreeSet<TaskId> {
        let mut owned = self.lock();
        let free = |id: &&TaskId| !owned.followed.contains(id) && !owned.is_claimed(**id);
        let free: BTreeSet<TaskId> = ids.iter().filter(free).copied().collect();
        owned.followed.extend(&free);
        free
    }

    /// What is followed and was claimed since.
    pub(crate) fn wanted(&self) -> BTreeSet<TaskId> {
        let owned = self.lock();
        let wanted = owned.followed.iter().filter(|id| owned.is_claimed(**id));
        wanted.copied().collect()
    }

    /// Nothing of `ids` is open as a copy any more.
    pub(crate) fn let_go(&self, ids: &BTreeSet<TaskId>) {
        self.lock().followed.retain(|id| !ids.contains(id));
    }

    /// No copy is open any more.
    pub(crate) fn let_all_go(&self) {
        self.lock().followed.clear();
    }
}

/// The claims of a stream thread, which end with it.
pub(crate) struct Claims {
    shared: Arc<Shared>,
    thread: usize,
}

impl Claims {
    pub(crate) fn of(shared: Arc<Shared>, thread: usize) -> Self {
        Self { shared, thread }
    }

    /// The group gave `id` to the thread.
    pub(crate) fn claim(&self, id: TaskId) {
        self.shared.owners.claim(id, self.thread);
    }

    /// The thread has nothing of `id` open any more.
    pub(crate) fn unclaim(&self, id: TaskId) {
        self.shared.owners.unclaim(id, self.thread);
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        self.shared.owners.unclaim_all(self.thread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(partition: i32) -> TaskId {
        TaskId {
            subtopology: 0,
            partition,
        }
    }

    #[test]
    fn a_copy_gives_way_and_comes_back() {
        let (owners, both) = (TaskOwners::default(), BTreeSet::from([task(0), task(1)]));
        owners.claim(task(0), 3);
        assert_eq!(owners.follow(&both), BTreeSet::from([task(1)]));
        assert!(owners.follow(&both).is_empty(), "both are somebody's");
        owners.claim(task(1), 3);
        assert!(owners.is_free_for(task(0), 3) && !owners.is_free_for(task(1), 3));
        assert_eq!(owners.wanted(), BTreeSet::from([task(1)]));
        owners.let_go(&owners.wanted());
        assert!(owners.is_free_for(task(1), 3) && owners.follow(&both).is_empty());
        owners.unclaim(task(1), 3);
        assert_eq!(owners.follow(&both), BTreeSet::from([task(1)]));
    }

    #[test]
    fn a_thread_that_lost_a_task_does_not_give_away_that_of_another() {
        let (owners, one) = (TaskOwners::default(), BTreeSet::from([task(7)]));
        owners.claim(task(7), 0);
        owners.claim(task(7), 1);
        assert!(
            !owners.is_free_for(task(7), 1),
            "the first one still has it"
        );
        owners.unclaim_all(0);
        assert!(owners.is_free_for(task(7), 1));
        assert!(owners.follow(&one).is_empty());
        owners.unclaim_all(1);
        assert_eq!(owners.follow(&one), one);
    }
}
