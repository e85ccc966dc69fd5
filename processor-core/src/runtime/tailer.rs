//! Warm copies of the [tasks of another instance](super::standby): follows their changelogs for as long as no stream thread
//! of this process wants the tasks.
//!
//! A copy is a restore without an end, so the [`Restorer`] does the work: read committed, from the marker on, written down
//! with a marker when there is much and every [`apply_interval`](crate::StreamsConfig::apply_interval). A stream thread that
//! gets a task [claims](super::task_owners) it; what is followed of it is written down and closed, and the task opens like any
//! other.
//!
//! Nothing that fails here fails anything else. The copies are closed, their markers say how far they have come, and at the
//! next interval they are opened again. What the storage engine calls damaged is set aside at the next start.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{elapsed_ms, millis};
use crate::error::{Fault, Result};
use crate::mutant::{self, Mutant};
use crate::record::TaskId;

use super::restore::Restorer;
use super::stream_thread::Shared;
use super::{Share, standby::Copies};

/// How long a step waits for changes, and how long a claim may wait.
const STEP_WAIT: Duration = Duration::from_millis(50);

/// See the [module](self).
pub(crate) struct Tailer {
    shared: Arc<Shared>,
    tasks: BTreeSet<TaskId>,
    restorer: Restorer,
    /// When everything was last written down, or failed.
    looked_ms: i64,
    /// It waits for the next interval.
    failed: bool,
    /// What the copies hold in memory, for those who ask the application.
    share: Share,
}

impl Tailer {
    /// `None` where there is nothing to keep.
    pub(crate) fn new(shared: &Arc<Shared>) -> Option<Self> {
        let Copies { tasks, stores } = shared.copies.clone();
        if tasks.is_empty() {
            return None;
        }
        tracing::info!(?tasks, "copies of these tasks are kept");
        Some(Self {
            tasks,
            restorer: Restorer::following(Arc::clone(shared), stores),
            looked_ms: shared.clock.now_ms(),
            failed: false,
            share: Share::none(Arc::clone(&shared.held)),
            shared: Arc::clone(shared),
        })
    }

    /// Gives up what is wanted, takes up what is free, and waits up to `wait` for changes. Whether there was anything to
    /// wait for.
    pub(crate) fn step(&mut self, wait: Duration) -> bool {
        let wanted = self.shared.owners.wanted();
        self.give_up(&wanted);
        if let Err(fault) = self.try_step(wait) {
            self.fail(&fault);
        }
        self.share.set(self.restorer.settled_bytes());
        !self.restorer.is_idle()
    }

    fn try_step(&mut self, wait: Duration) -> Result {
        let now_ms = self.shared.clock.now_ms();
        let interval_ms = millis(self.shared.config.apply_interval);
        let is_due = elapsed_ms(self.looked_ms, now_ms) >= interval_ms;
        if is_due {
            self.looked_ms = now_ms;
            self.failed = false;
            self.restorer.look()?;
        }
        if !self.failed {
            for id in self.shared.owners.follow(&self.tasks) {
                self.restorer.begin(id, &[])?;
            }
        }
        self.restorer.step(wait).map(|_| ())
    }

    fn give_up(&mut self, ids: &BTreeSet<TaskId>) {
        if !ids.is_empty() {
            if !mutant::is(Mutant::CopyGoesOn) {
                self.restorer.cancel(ids);
            }
            self.shared.owners.let_go(ids);
        }
    }

    fn fail(&mut self, fault: &Fault) {
        match fault.state_error() {
            None => {
                tracing::warn!(%fault, "standby copies wait for a while; their markers say how far they are")
            }
            Some(error) => {
                tracing::error!(%fault, "standby copies cannot be written; trying again after a while");
                self.shared.mark_if_damaged(error);
            }
        }
        self.failed = true;
        self.restorer.reset();
        self.shared.owners.let_all_go();
    }

    /// Writes the copies down and closes them.
    pub(crate) fn close(mut self) {
        self.give_up(&self.tasks.clone());
        if let Err(error) = self.shared.database.sync() {
            tracing::warn!(%error, "standby copies may be older at the next start");
        }
    }
}

/// Lets everything go, however a thread ends.
impl Drop for Tailer {
    fn drop(&mut self) {
        self.restorer.reset();
        self.shared.owners.let_all_go();
    }
}

/// Steps `tailer` on a thread of its own until the application stops.
pub(crate) fn start(mut tailer: Tailer) -> JoinHandle<()> {
    let thread = std::thread::Builder::new().name("standby-thread".to_owned());
    let handle = thread.spawn(move || {
        while !tailer.shared.is_stopping() {
            if !tailer.step(STEP_WAIT) {
                tailer.shared.clock.pass(STEP_WAIT);
            }
        }
        tailer.close();
    });
    handle.expect("the operating system can start a thread")
}
