//! What makes a run hard though nothing goes wrong in it: little comes at a time, and nothing is answered at once.

use std::time::Duration;

use crate::config::StreamsConfig;
use crate::runtime::Standby;

use super::draw::Draw;

/// See the [module](self). The same for all instances of a run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pressure {
    /// An instance is interrupted at one of so many calls.
    pub yields_one_in: u64,
    /// A request that nobody waits for arrives at one of so many steps.
    pub arrives_one_in: u64,
    /// Records that a poll of the group's consumer brings at most; 0 for all there are.
    pub poll_records: usize,
    /// How often a commit is asked for at most until it is answered: what is sent meanwhile waits.
    pub commit_polls: u64,
    commit_interval: Duration,
    apply_bytes: usize,
    buffered_records: usize,
    static_membership: bool,
    standby: bool,
}

impl Pressure {
    pub(super) fn of_run(draw: &mut Draw) -> Self {
        Self {
            // Some runs apply each commit, some nearly none.
            apply_bytes: *draw.of_these(&[0, 0, 200, 1 << 20]),
            commit_interval: Duration::from_millis(*draw.of_these(&[1, 20, 100])),
            arrives_one_in: *draw.of_these(&[30, 300]),
            yields_one_in: *draw.of_these(&[1, 2, 5, 20]),
            poll_records: *draw.of_these(&[1, 3, 0]),
            commit_polls: *draw.of_these(&[0, 2, 8]),
            // Below that many a queue is resumed, and above it is paused.
            buffered_records: *draw.of_these(&[0, 2, 1_000]),
            // Whoever comes back gets back what its disk has. Some topologies want it in each run.
            static_membership: draw.one_in(2),
            // Where members are static.
            standby: draw.one_in(2),
        }
    }

    /// What of it is a matter of settings, of each of so many instances.
    pub(super) fn set(self, config: &mut StreamsConfig, instances: usize) {
        config.apply_bytes = Some(self.apply_bytes);
        config.commit_interval = self.commit_interval;
        config.buffered_records_per_partition = self.buffered_records;
        config.static_membership |= self.static_membership;
        if self.standby && config.static_membership && config.standby.is_none() {
            let instances = u32::try_from(instances).expect("a number of instances");
            config.standby = Some(Standby::among(instances));
        }
    }
}
