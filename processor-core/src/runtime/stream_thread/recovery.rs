//! What becomes of a failure: what an abort and a rewind can repair is repaired, the rest stops the thread.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::{Clock, Deadline, SystemClock};
use crate::error::{Fault, FaultKind, Result};
use crate::log::ErrorClass;
use crate::mutant::{self, Mutant};
use crate::record::TaskId;
use crate::task::is_not_ready;

use super::{LOG_TIMEOUT, NOT_READY_PAUSE, StreamThread, producer, task_of};

/// How long the log may be away before a thread gives up: as long as the group waits for a member that does not poll.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// After so long without a failure the next one is another one.
const QUIET: Duration = Duration::from_secs(2 * 60);
/// Between two attempts to repair.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

impl StreamThread {
    /// Repairs what an abort and a rewind can repair, and passes the rest on. A repair may fail and be repaired in turn, or
    /// succeed and be of no use since the same comes again: for as long as the log may be away without a commit, and not
    /// after the application was told to stop.
    pub(super) fn recover(&mut self, mut fault: Fault) -> Result {
        loop {
            if may_pass(&fault) {
                if self.repair_patience.is_strained() {
                    if self.shared.is_stopping() {
                        return self.give_up(fault);
                    }
                    self.shared.clock.pass(PAUSE);
                }
                if self.repair_patience.is_over(PATIENCE, QUIET) {
                    return self.give_up(fault);
                }
            }
            fault = match self.undo(fault).and_then(|()| self.reopen_tasks()) {
                Err(again) if may_pass(&again) => again,
                done => return done,
            };
        }
    }

    /// Aborts what is open now instead of making readers wait for the log to time it out.
    fn give_up(&mut self, fault: Fault) -> Result {
        let _ = self.out.abort(Duration::from_secs(5));
        Err(fault)
    }

    /// Takes back what is not committed, if `fault` is one after which processing can go on.
    ///
    /// # Errors
    /// `fault` itself if it is not.
    pub(super) fn undo(&mut self, fault: Fault) -> Result {
        if self.may_become_ready(&fault) {
            tracing::warn!(thread = self.index, %fault, "a serde is not ready; the transaction is aborted and its input read again");
            self.committing = None;
            self.abort_open()?;
            // Real time, whatever the clock is: something outside is being waited for.
            SystemClock.pass(NOT_READY_PAUSE);
            return Ok(());
        }
        if let Some(pause) = self.failed.try_again(&fault, &self.handlers) {
            tracing::warn!(thread = self.index, %fault, ?pause, "the transaction is aborted and its input read again");
            self.shared.clock.pass(pause);
            return self.undo_failed();
        }
        if let Some((record, verdict)) = self.handlers.of_failed(&fault)
            && self.failed.add(&record, verdict)
        {
            tracing::warn!(thread = self.index, %fault, "the transaction is aborted and its input read again without this record");
            return self.undo_failed();
        }
        self.committing = None;
        let class = fault.log_error().map(|error| error.class);
        match class {
            Some(ErrorClass::Abortable | ErrorClass::Retriable) => {
                tracing::warn!(thread = self.index, %fault, "the transaction is aborted and its input read again");
                self.abort_open()?;
                // What will never be taken fails like this as well, and a question about a topic that is gone.
                self.check_topics_exist()
            }
            Some(ErrorClass::Fenced) if mutant::is(Mutant::FencedGoesOn) => self.replace_producer(),
            Some(ErrorClass::Uncertain) => {
                tracing::warn!(thread = self.index, %fault, "the outcome of the transaction is uncertain; a new producer settles it");
                self.replace_producer()
            }
            // NOTE: it waited for a commit in flight, so its input is not known. If it is rejected again, it is.
            Some(ErrorClass::Rejected)
                if self.handlers.tolerate_rejection()
                    && !self.in_step
                    && matches!(fault.kind(), FaultKind::Log(_)) =>
            {
                tracing::warn!(thread = self.index, %fault, "the transaction is aborted and its input read again, without overlap");
                self.in_step = true;
                self.abort_open()
            }
            Some(ErrorClass::Fenced | ErrorClass::Fatal | ErrorClass::Rejected) | None => {
                // A topic that may not be described is not listed either.
                let is_refused = fault.to_string().contains("authorization failed");
                let stopped = self.give_up(fault);
                if class == Some(ErrorClass::Fatal) && !is_refused {
                    // It may be because of that, and does not say what to do.
                    self.check_topics_exist()?;
                }
                stopped
            }
        }
    }

    /// Takes back what is not committed, because of a record that will be tried again or passed over.
    pub(super) fn undo_failed(&mut self) -> Result {
        // What is in flight is older than the record, and would be lost for nothing: with a record that fails in each
        // interval, there would be no progress.
        if let Err(fault) = self.await_commit() {
            return self.undo(fault);
        }
        self.in_step = false;
        self.abort_open()
    }

    /// Aborts the open transaction; if that does not work, a new producer does it. But not where this one was fenced:
    /// a new one would fence its successor in turn.
    pub(super) fn abort_open(&mut self) -> Result {
        if self.unsettled {
            return self.replace_producer();
        }
        match self.out.abort(LOG_TIMEOUT) {
            Err(fault) if fault.log_error().map(|e| e.class) != Some(ErrorClass::Fenced) => {
                tracing::warn!(thread = self.index, %fault, "the abort failed; a new producer settles it");
                self.replace_producer()
            }
            result => result,
        }
    }

    /// Whether `fault` is that of a serde that was not ready, and has not been so for too long. Sources wait before they
    /// take a record; this is for stored values and for results, which come up in the middle of one.
    pub(super) fn may_become_ready(&mut self, fault: &Fault) -> bool {
        if !is_not_ready(fault) {
            return false;
        }
        let message = fault.to_string();
        match &self.unready {
            Some((known, deadline)) if *known == message => !deadline.passed(),
            _ => {
                let deadline = Deadline::after(self.shared.config.max_decode_wait);
                self.unready = Some((message, deadline));
                true
            }
        }
    }

    /// A new producer with the same transactional id settles what the old one left open.
    pub(super) fn replace_producer(&mut self) -> Result {
        // Until there is one: the old one may not be used again, whatever is tried meanwhile.
        self.unsettled = true;
        self.out = producer(&self.shared, self.index)?;
        self.unsettled = false;
        Ok(())
    }

    /// Makes all tasks again from what is committed and reads their input again from there.
    pub(super) fn reopen_tasks(&mut self) -> Result {
        self.rewinds += 1;
        for (_, mut task) in std::mem::take(&mut self.tasks) {
            if mutant::is(Mutant::RewindKeepsState) {
                task.settle_uncommitted()?;
            }
            task.apply(&*self.shared.database)?;
        }
        self.ends.forget_all();
        self.waiting_since.clear();
        // By what the group gave, since a failure may have come before all tasks were made.
        let ids: BTreeSet<TaskId> = self
            .assigned
            .iter()
            .filter_map(|partition| task_of(&self.shared, partition))
            .filter(|id| !self.opening.contains_key(id))
            .collect();
        self.begin_opening(&ids)
    }
}

/// Whether it is worth trying again: what a repair meets, as well as what it repairs.
pub(crate) fn may_pass(fault: &Fault) -> bool {
    match fault.log_error().map(|error| error.class) {
        Some(ErrorClass::Retriable | ErrorClass::Abortable | ErrorClass::Uncertain) => true,
        Some(ErrorClass::Rejected | ErrorClass::Fenced | ErrorClass::Fatal) | None => false,
    }
}
