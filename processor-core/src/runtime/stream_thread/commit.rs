//! The commit of a stream thread: seal, hand over, settle, apply.

use std::time::Duration;

use crate::clock::{elapsed_ms, millis};
use crate::config::Guarantee;
use crate::error::Result;
use crate::log::{CommittedOffset, ErrorClass, LogError, TopicPartition};
use crate::mutant::{self, Mutant};
use crate::processor::time_metadata;
use crate::runtime::kept_plan::{KEY, keep_in_directory, plan_topic};
use crate::task::StreamTask;

use super::{COMMIT_BUDGET, Pace, Round, StreamThread};

/// How often stores are synced to disk.
const SYNC_INTERVAL_MS: i64 = 2_000;

impl StreamThread {
    pub(super) fn commit_due(&self, pace: Pace, round: Round) -> bool {
        if self.out.committing() {
            return false;
        }
        let interval_ms = millis(self.shared.config.commit_interval);
        let since_ms = elapsed_ms(self.last_commit_ms, self.shared.clock.now_ms());
        since_ms >= interval_ms
            || self.shared.memory.room(&self.held(), false).is_none()
            || (pace == Pace::Eager && round == Round::Idle)
            || self.out.commit_requested()
            || self.tasks.values().any(StreamTask::wants_commit)
    }

    pub(super) fn needs_commit(&self) -> bool {
        let mut position =
            |partition: &TopicPartition| self.consumer.position(partition).ok().flatten();
        self.tasks
            .values()
            .any(|task| task.needs_commit(&mut position))
    }

    /// Seals all tasks and hands their progress to the log. Whether there was anything to commit.
    pub(super) fn begin_commit(&mut self) -> Result<bool> {
        self.last_commit_ms = self.shared.clock.now_ms();
        if !self.needs_commit() {
            self.out.forget_commit_request();
            return Ok(false);
        }
        let wall_ms = self.last_commit_ms;
        if let Some(plan) = &self.new_plan {
            let topic = plan_topic(&self.shared.config.application_id);
            self.out
                .send(&topic, 0, wall_ms, Some(KEY), Some(plan), &[])?;
        }
        let mut offsets = Vec::new();
        let Self {
            consumer,
            out,
            tasks,
            ..
        } = self;
        for task in tasks.values_mut() {
            let mut position =
                |partition: &TopicPartition| consumer.position(partition).ok().flatten();
            let (inputs, stream_times) = task.seal(wall_ms, out, &mut position)?;
            let metadata = time_metadata::encode(&stream_times);
            offsets.extend(inputs.into_iter().map(|(partition, offset)| {
                (
                    partition,
                    CommittedOffset {
                        offset,
                        metadata: metadata.clone(),
                    },
                )
            }));
        }
        // IMPORTANT: asked for here, on the polling thread, right before its use: a member that lost its partitions
        // since must not be able to commit them.
        let group = self.consumer.group_metadata()?;
        if mutant::is(Mutant::OffsetsBeforeFlush)
            && self.shared.config.guarantee == Guarantee::AtLeastOnce
        {
            self.consumer.commit(&offsets)?;
        }
        self.out.begin_commit(offsets.clone(), Some(group))?;
        self.committing = Some(offsets);
        if mutant::is(Mutant::SettledBeforeCommit) {
            for task in self.tasks.values_mut() {
                task.settle_uncommitted()?;
            }
        }
        Ok(true)
    }

    pub(super) fn poll_commit(&mut self, timeout: Duration) -> Result<Round> {
        if !self.out.committing() {
            return Ok(Round::Idle);
        }
        let Some(next_offsets) = self.out.poll_commit(timeout)? else {
            return Ok(Round::Idle);
        };
        self.repair_patience.renew();
        self.unready = None;
        // Repartition topics have grown.
        self.ends.forget_all();
        let mut offsets = self.committing.take().unwrap_or_default();
        if self.shared.config.guarantee == Guarantee::AtLeastOnce {
            if mutant::is(Mutant::OffsetsOfTheAnswer) {
                for (partition, committed) in &mut offsets {
                    let position = self.consumer.position(partition)?;
                    committed.offset = position.unwrap_or(committed.offset);
                }
            }
            self.consumer.commit(&offsets)?;
        }
        for task in self.tasks.values_mut() {
            task.settle(&next_offsets);
            if mutant::is(Mutant::OpenSettled) {
                task.settle_uncommitted()?;
            }
        }
        if let Some(plan) = self.new_plan.take() {
            keep_in_directory(self.shared.config.state_dir.as_deref(), &plan);
        }
        self.failed.forget_committed(&offsets);
        self.note_held();
        // What was settled takes the place of what is about to change.
        self.apply_if_due()?;
        Ok(Round::Worked)
    }

    /// Commits everything; after a failure that a rewind can repair, what was not committed is read again later.
    pub(crate) fn commit_or_rewind(&mut self) -> Result {
        self.commit_now().or_else(|fault| self.recover(fault))
    }

    /// Commits everything and waits for it, within one budget.
    pub(super) fn commit_now(&mut self) -> Result {
        let began_ms = self.shared.clock.now_ms();
        self.await_commit_since(began_ms)?;
        if self.begin_commit()? {
            self.await_commit_since(began_ms)?;
        }
        Ok(())
    }

    pub(super) fn await_commit(&mut self) -> Result {
        self.await_commit_since(self.shared.clock.now_ms())
    }

    fn await_commit_since(&mut self, began_ms: i64) -> Result {
        while self.out.committing() {
            self.poll_commit(Duration::from_millis(100))?;
            if self.out.committing() && self.budget_is_over(began_ms) {
                return Err(LogError::new(
                    ErrorClass::Uncertain,
                    format!(
                        "a commit got no answer within {} s",
                        COMMIT_BUDGET.as_secs()
                    ),
                )
                .into());
            }
        }
        Ok(())
    }

    /// Whether what began then has used up the budget of a commit.
    pub(super) fn budget_is_over(&self, began_ms: i64) -> bool {
        elapsed_ms(began_ms, self.shared.clock.now_ms()) >= millis(COMMIT_BUDGET)
    }

    /// Writes settled changes to the stores when there are many or they are old.
    pub(super) fn apply_if_due(&mut self) -> Result {
        let now = self.shared.clock.now_ms();
        let bytes: usize = self.tasks.values().map(StreamTask::settled_bytes).sum();
        let age_ms = elapsed_ms(self.last_apply_ms, now);
        if !self.shared.memory.apply_due(bytes)
            && age_ms < millis(self.shared.config.apply_interval)
        {
            return Ok(());
        }
        self.last_apply_ms = now;
        for task in self.tasks.values_mut() {
            task.apply(&*self.shared.database)?;
        }
        if elapsed_ms(self.last_sync_ms, now) >= SYNC_INTERVAL_MS {
            self.last_sync_ms = now;
            self.shared.database.sync()?;
        }
        Ok(())
    }
}
