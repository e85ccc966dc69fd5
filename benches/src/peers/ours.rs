//! The workloads on our framework, written as one of its users would: its DSL, its defaults, stores on disk.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use processor_core::dsl::{Consumed, Grouped, JoinWindows, KStream, Produced, TimeWindows};
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::serde::{json, utf8};
use processor_core::{Streams, StreamsBuilder, StreamsConfig, Topology};

use super::arguments::Job;
use super::workload::{CLICKS, IMPRESSIONS, Workload};
use crate::event::{Click, Impression, Pair};
use crate::stopwatch::pause;
use crate::termination::Termination;

const COUNT_WINDOW: Duration = Duration::from_secs(60);
const JOIN_WINDOW: Duration = Duration::from_secs(30 * 60);
const GRACE: Duration = Duration::from_secs(5 * 60);

/// Works `job` off until SIGTERM, or until a stream thread fails.
pub(super) fn run(job: &Job) -> Result<()> {
    let termination = Termination::watch()?;
    let log = KafkaLog::new(KafkaOptions::new(&job.bootstrap))?;
    // The defaults are those of the bench: exactly once, a commit every 100 ms, one thread.
    let config = StreamsConfig::new(&job.application_id).state_dir(&job.state_dir);
    let mut streams = Streams::new(topology(job.workload, &job.output)?, config, Arc::new(log))?;
    streams.start();
    while !termination.asked() && !streams.stopped() {
        pause(Duration::from_millis(20));
    }
    Ok(streams.close()?)
}

fn topology(workload: Workload, output: &str) -> Result<Topology> {
    let builder = StreamsBuilder::new(workload.name());
    let impressions = builder.stream(IMPRESSIONS, Consumed::new(utf8(), json::<Impression>()));
    match workload {
        Workload::Pass => impressions
            .filter(|_, impression| impression.cost_micros % 2 == 0)
            .to(output),
        Workload::Count => impressions
            .group_by_key()
            .windowed_by(TimeWindows::tumbling(COUNT_WINDOW).grace(GRACE))
            .count("per-minute")
            .to_stream()
            .map(|user, count| (format!("{}@{}", user.key, user.start), count.to_string()))
            .to_with(output, Produced::new(utf8(), utf8())),
        Workload::Join => {
            join(&builder, &impressions).to_with(output, Produced::new(utf8(), json::<Pair>()))
        }
        Workload::JoinCount => join(&builder, &impressions)
            .group_by(
                |_, pair| pair.campaign_id.clone(),
                Grouped::by(utf8()).value(json::<Pair>()),
            )
            .count("per-campaign")
            .to_stream()
            .map_values(|_, count| count.unwrap_or_default().to_string())
            .to_with(output, Produced::new(utf8(), utf8())),
    }
    Ok(builder.build()?)
}

fn join(
    builder: &StreamsBuilder,
    impressions: &KStream<String, Impression>,
) -> KStream<String, Pair> {
    let clicks = builder.stream(CLICKS, Consumed::new(utf8(), json::<Click>()));
    let windows = JoinWindows::of(JOIN_WINDOW).grace(GRACE);
    let pairs = impressions.join(
        "impression-click",
        &clicks,
        windows,
        |_, impression, click| Pair::of(impression, click),
    );
    KStream::clone(&pairs)
}

#[cfg(test)]
mod tests {
    use processor_core::testing::TopologyTestDriver;

    use super::*;

    fn driver(workload: Workload) -> TopologyTestDriver {
        TopologyTestDriver::new(topology(workload, "out").unwrap()).unwrap()
    }

    fn impression(id: &str, timestamp: i64, cost_micros: i64) -> Impression {
        Impression {
            impression_id: id.to_owned(),
            creative_id: "creative".to_owned(),
            campaign_id: "shown".to_owned(),
            user_id: "u".to_owned(),
            timestamp,
            website: "site".to_owned(),
            cost_micros,
        }
    }

    fn pipe_impressions(driver: &mut TopologyTestDriver, impressions: &[Impression]) {
        let input = driver.input(IMPRESSIONS, utf8(), json::<Impression>());
        for impression in impressions {
            let time = impression.timestamp;
            input.pipe(driver, "u".to_owned(), impression.clone(), time);
        }
    }

    fn pipe_click(driver: &mut TopologyTestDriver, timestamp: i64) {
        let input = driver.input(CLICKS, utf8(), json::<Click>());
        let click = Click {
            click_id: "c".to_owned(),
            campaign_id: "clicked".to_owned(),
            user_id: "u".to_owned(),
            timestamp,
        };
        input.pipe(driver, "u".to_owned(), click, timestamp);
    }

    fn text(driver: &mut TopologyTestDriver) -> Vec<(String, String)> {
        driver.output("out", utf8(), utf8()).read_key_values(driver)
    }

    #[test]
    fn pass_keeps_even_prices_as_they_are() {
        let mut driver = driver(Workload::Pass);
        let (odd, even) = (impression("a", 0, 3), impression("b", 1, 4));
        pipe_impressions(&mut driver, &[odd, even.clone()]);
        let output = driver.output("out", utf8(), json::<Impression>());
        assert_eq!(
            output.read_key_values(&mut driver),
            [("u".to_owned(), even)]
        );
    }

    #[test]
    fn count_counts_per_user_and_minute() {
        let mut driver = driver(Workload::Count);
        let at = |time| impression("i", time, 1);
        pipe_impressions(&mut driver, &[at(60_000), at(119_999), at(120_000)]);
        let expected = [("u@60000", "1"), ("u@60000", "2"), ("u@120000", "1")];
        let expected = expected.map(|(key, count)| (key.to_owned(), count.to_owned()));
        assert_eq!(text(&mut driver), expected);
    }

    #[test]
    fn join_pairs_what_is_half_an_hour_apart_and_takes_campaign_and_time_of_the_click() {
        let half_an_hour = 30 * 60 * 1_000;
        let mut driver = driver(Workload::Join);
        pipe_impressions(
            &mut driver,
            &[impression("far", 0, 1), impression("near", 1, 1)],
        );
        pipe_click(&mut driver, half_an_hour + 1);
        let output = driver.output("out", utf8(), json::<Pair>());
        let expected = Pair {
            impression_id: "near".to_owned(),
            click_id: "c".to_owned(),
            campaign_id: "clicked".to_owned(),
            timestamp: half_an_hour + 1,
        };
        assert_eq!(
            output.read_key_values(&mut driver),
            [("u".to_owned(), expected)]
        );
    }

    #[test]
    fn join_count_counts_pairs_per_campaign_of_the_click() {
        let mut driver = driver(Workload::JoinCount);
        pipe_impressions(&mut driver, &[impression("a", 0, 1), impression("b", 1, 1)]);
        pipe_click(&mut driver, 2);
        let expected = [("clicked", "1"), ("clicked", "2")];
        let expected = expected.map(|(key, count)| (key.to_owned(), count.to_owned()));
        assert_eq!(text(&mut driver), expected);
    }
}
