//! What the contestants do: see `benches/peers/kafka-streams/README.md` for the semantics.

use std::fmt;

use clap::ValueEnum;

pub(super) const IMPRESSIONS: &str = "bench-impressions";
pub(super) const CLICKS: &str = "bench-clicks";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Workload {
    /// Impressions with an even price, decoded and encoded again
    Pass,
    /// Impressions per user and minute
    Count,
    /// Impressions and clicks of one user at most 30 minutes apart
    Join,
    /// The join, counted per campaign behind a repartition topic
    JoinCount,
}

/// What has to be equal between contestants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Equal {
    /// Every record, in any order; values are JSON.
    Records,
    /// The last value of each key: how many updates lead to it depends on caches. Values are text.
    LastOfKeys,
}

impl Workload {
    pub const ALL: [Self; 4] = [Self::Pass, Self::Count, Self::Join, Self::JoinCount];

    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Count => "count",
            Self::Join => "join",
            Self::JoinCount => "join_count",
        }
    }

    pub fn inputs(self) -> &'static [&'static str] {
        match self {
            Self::Pass | Self::Count => &[IMPRESSIONS],
            Self::Join | Self::JoinCount => &[IMPRESSIONS, CLICKS],
        }
    }

    pub fn equal(self) -> Equal {
        match self {
            Self::Pass | Self::Join => Equal::Records,
            Self::Count | Self::JoinCount => Equal::LastOfKeys,
        }
    }

    /// Whether Kafka Streams keeps state for it, and so a cache.
    pub fn has_state(self) -> bool {
        self != Self::Pass
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_takes_the_names_that_the_peer_takes() {
        for workload in Workload::ALL {
            assert_eq!(Workload::from_str(workload.name(), false), Ok(workload));
        }
    }
}
