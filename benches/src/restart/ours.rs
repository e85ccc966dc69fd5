//! The application on our framework: a profile of each user, the number and the last of its impressions; or all pairs of a
//! user's impressions.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use processor_core::dsl::{Consumed, JoinWindows, KStream, Partitioned, Produced};
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::serde::{json, utf8};
use processor_core::{Streams, StreamsBuilder, StreamsConfig, Topology};
use serde::{Deserialize, Serialize};

use crate::event::Impression;
use crate::stopwatch::pause;
use crate::termination::Termination;

use super::arguments::Job;
use super::input::IMPRESSIONS;
use super::kind::Kind;

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
    let mut streams = Streams::new(topology(job.kind, &job.output)?, config, Arc::new(log))?;
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

/// Between two impressions that are a pair: longer than the input.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn topology(kind: Kind, output: &str) -> Result<Topology> {
    let builder = StreamsBuilder::new("restart");
    let impressions = builder.stream(IMPRESSIONS, Consumed::new(utf8(), json::<Impression>()));
    match kind {
        Kind::Table => counts(&impressions),
        Kind::Join => pairs(&impressions),
    }
    .to_with(output, Produced::new(utf8(), utf8()));
    Ok(builder.build()?)
}

type Texts = KStream<String, String, Partitioned>;

fn counts(impressions: &KStream<String, Impression, Partitioned>) -> Texts {
    impressions
        .group_by_key()
        .aggregate(
            "profiles",
            json::<Profile>(),
            Profile::default,
            |_, impression, profile| profile.and(impression),
        )
        .to_stream()
        .map_values(|_, profile| profile.map_or(0, |profile| profile.impressions).to_string())
}

fn pairs(impressions: &KStream<String, Impression, Partitioned>) -> Texts {
    let day = JoinWindows::of(DAY).grace(Duration::ZERO);
    let pairs = impressions.join("pairs", impressions, day, |_, left, right| {
        format!("{} {}", left.impression_id, right.impression_id)
    });
    (*pairs).clone()
}

#[cfg(test)]
mod tests {
    use processor_core::testing::TopologyTestDriver;

    use crate::random::Random;

    use super::*;

    #[test]
    fn impressions_are_counted_per_user() {
        let topology = topology(Kind::Table, "out").unwrap();
        let mut driver = TopologyTestDriver::new(topology).unwrap();
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

    #[test]
    fn impressions_of_a_user_are_paired_in_both_orders_and_each_with_itself() {
        let topology = topology(Kind::Join, "out").unwrap();
        let mut driver = TopologyTestDriver::new(topology).unwrap();
        let input = driver.input(IMPRESSIONS, utf8(), json::<Impression>());
        for (user, id) in [("a", "1"), ("b", "2"), ("a", "3")] {
            let mut impression = Impression::drawn(&mut Random::with_seed(1), user, 0);
            impression.impression_id = id.to_owned();
            input.pipe(&mut driver, user.to_owned(), impression, 0);
        }
        let output = driver.output("out", utf8(), utf8());
        let mut pairs = output.read_key_values(&mut driver);
        pairs.sort();
        let expected = [
            ("a", "1 1"),
            ("a", "1 3"),
            ("a", "3 1"),
            ("a", "3 3"),
            ("b", "2 2"),
        ];
        assert_eq!(
            pairs,
            expected.map(|(key, pair)| (key.to_owned(), pair.to_owned()))
        );
    }
}
