//! The application on our framework: a profile of each user, the number and the last of its impressions.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use processor_core::dsl::{Consumed, Produced};
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::serde::{json, utf8};
use processor_core::{Streams, StreamsBuilder, StreamsConfig, Topology};
use serde::{Deserialize, Serialize};

use crate::event::Impression;
use crate::stopwatch::pause;
use crate::termination::Termination;

use super::arguments::Job;
use super::input::IMPRESSIONS;

/// A row of state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Profile {
    pub impressions: u64,
    pub last: Option<Impression>,
}

impl Profile {
    pub fn and(self, impression: Impression) -> Self {
        Self {
            impressions: self.impressions + 1,
            last: Some(impression),
        }
    }
}

/// Runs until SIGTERM, or until a stream thread fails. What happens is written to standard error, in seconds since the start.
pub(super) fn run(job: &Job) -> Result<()> {
    tracing_subscriber::fmt()
        .with_timer(tracing_subscriber::fmt::time::uptime())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let termination = Termination::watch()?;
    let log = KafkaLog::new(KafkaOptions::new(&job.bootstrap))?;
    let mut config = StreamsConfig::new(&job.application_id)
        .state_dir(&job.state_dir)
        .backend(job.backend);
    config.instance = Some("0".to_owned());
    config.static_membership = true;
    let mut streams = Streams::new(topology(&job.output)?, config, Arc::new(log))?;
    streams.start();
    let mut restored = None;
    while !termination.asked() && !streams.stopped() {
        pause(Duration::from_millis(20));
        let now = streams.bytes_restored();
        if restored != Some(now) {
            let records = streams.records_restored();
            tracing::info!(records_restored = records, bytes_restored = now, "so far");
            restored = Some(now);
        }
    }
    Ok(streams.close()?)
}

fn topology(output: &str) -> Result<Topology> {
    let builder = StreamsBuilder::new("restart");
    builder
        .stream(IMPRESSIONS, Consumed::new(utf8(), json::<Impression>()))
        .group_by_key()
        .aggregate(
            "profiles",
            json::<Profile>(),
            Profile::default,
            |_, impression, profile| profile.and(impression),
        )
        .to_stream()
        .map_values(|_, profile| profile.map_or(0, |profile| profile.impressions).to_string())
        .to_with(output, Produced::new(utf8(), utf8()));
    Ok(builder.build()?)
}

#[cfg(test)]
mod tests {
    use processor_core::testing::TopologyTestDriver;

    use crate::random::Random;

    use super::*;

    #[test]
    fn impressions_are_counted_per_user() {
        let mut driver = TopologyTestDriver::new(topology("out").unwrap()).unwrap();
        let input = driver.input(IMPRESSIONS, utf8(), json::<Impression>());
        let mut random = Random::with_seed(1);
        for user in ["a", "b", "a"] {
            let impression = Impression::drawn(&mut random, user, 0);
            input.pipe(&mut driver, user.to_owned(), impression, 0);
        }
        let output = driver.output("out", utf8(), utf8());
        let expected = [("a", "1"), ("b", "1"), ("a", "2")];
        let expected = expected.map(|(key, count)| (key.to_owned(), count.to_owned()));
        assert_eq!(output.read_key_values(&mut driver), expected);
    }
}
