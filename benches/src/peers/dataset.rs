//! The data set: visits of users to websites, in time order, the same for the same seed.
//!
//! A visit is one impression, or two in one case of three; one impression in five is clicked within half a minute. There
//! are 10,000 impressions a minute of event time and a million users, so that a click meets about two impressions within
//! the 30 minutes of the join.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use processor_core::log::{Log, NewTopic, ProducerConfig, ProducerRecord};
use processor_core::partitioner::partition_for;
use serde::Serialize;

use super::workload::{CLICKS, IMPRESSIONS};
use crate::arena::PATIENCE;
use crate::event::{Click, Impression};
use crate::random::Random;

/// 2026-01-01T00:00:00Z.
const START_MS: i64 = 1_767_225_600_000;
/// Visits begin 8 ms apart on average; at 4/3 impressions a visit that is one every 6 ms.
const LONGEST_GAP_MS: i64 = 16;
const USERS: i64 = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Impression(Impression),
    Click(Click),
}

impl Event {
    pub fn time(&self) -> i64 {
        match self {
            Self::Impression(impression) => impression.timestamp,
            Self::Click(click) => click.timestamp,
        }
    }

    fn user(&self) -> &str {
        match self {
            Self::Impression(impression) => &impression.user_id,
            Self::Click(click) => &click.user_id,
        }
    }

    fn topic(&self) -> &'static str {
        match self {
            Self::Impression(_) => IMPRESSIONS,
            Self::Click(_) => CLICKS,
        }
    }
}

/// `impressions` impressions and their clicks, ordered by time.
pub(super) fn events(seed: u64, impressions: u64) -> Events {
    Events {
        random: Random::with_seed(seed),
        clock_ms: START_MS,
        impressions_left: impressions,
        planned: BTreeMap::new(),
        count: 0,
    }
}

pub(super) struct Events {
    random: Random,
    /// When the next visit begins.
    clock_ms: i64,
    impressions_left: u64,
    /// What begun visits still bring, by time and order of planning.
    planned: BTreeMap<(i64, u64), Event>,
    count: u64,
}

impl Events {
    fn plan_visit(&mut self) {
        let user_id = format!("user-{:07}", self.random.between(0, USERS - 1));
        let mut time = self.clock_ms;
        self.plan_impression(&user_id, time);
        if self.random.once_in(3) && self.impressions_left > 0 {
            time += self.random.between(5_000, 40_000);
            self.plan_impression(&user_id, time);
        }
        self.clock_ms += self.random.between(0, LONGEST_GAP_MS);
    }

    fn plan_impression(&mut self, user_id: &str, timestamp: i64) {
        self.impressions_left -= 1;
        let random = &mut self.random;
        let impression = Impression::drawn(random, user_id, timestamp);
        let click = random.once_in(5).then(|| Click {
            click_id: format!("{:016x}", random.next()),
            campaign_id: impression.campaign_id.clone(),
            user_id: user_id.to_owned(),
            timestamp: timestamp + random.between(1_000, 30_000),
        });
        self.plan(Event::Impression(impression));
        if let Some(click) = click {
            self.plan(Event::Click(click));
        }
    }

    fn plan(&mut self, event: Event) {
        self.planned.insert((event.time(), self.count), event);
        self.count += 1;
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        // A visit that has not begun cannot bring anything earlier than its beginning.
        while self.impressions_left > 0
            && self
                .planned
                .first_key_value()
                .is_none_or(|((time, _), _)| *time > self.clock_ms)
        {
            self.plan_visit();
        }
        self.planned.pop_first().map(|(_, event)| event)
    }
}

/// Makes the input topics and fills them; the number of records written.
pub(super) fn load(log: &dyn Log, partitions: i32, events: Events) -> Result<u64> {
    log.create_topics(&[
        NewTopic::new(IMPRESSIONS, partitions),
        NewTopic::new(CLICKS, partitions),
    ])?;
    let mut producer = log.producer(ProducerConfig::default())?;
    let mut written = 0;
    let mut json = Vec::new();
    for event in events {
        json.clear();
        match &event {
            Event::Impression(impression) => encode(impression, &mut json)?,
            Event::Click(click) => encode(click, &mut json)?,
        }
        let key = event.user().as_bytes();
        producer.send(ProducerRecord {
            topic: event.topic(),
            partition: partition_for(key, partitions),
            timestamp: event.time(),
            key: Some(key),
            value: Some(&json),
            headers: &[],
        })?;
        written += 1;
    }
    producer.flush(PATIENCE)?;
    Ok(written)
}

fn encode(event: &impl Serialize, into: &mut Vec<u8>) -> Result<()> {
    serde_json::to_writer(into, event).context("an event is always JSON")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_events_and_another_seed_others() {
        let of = |seed| events(seed, 500).collect::<Vec<_>>();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn events_are_in_time_order_and_as_many_as_asked_for() {
        let all: Vec<Event> = events(1, 20_000).collect();
        assert!(all.is_sorted_by_key(Event::time));
        let impressions = all
            .iter()
            .filter(|event| matches!(event, Event::Impression(_)))
            .count();
        assert_eq!(impressions, 20_000);
        assert!((3_700..4_300).contains(&(all.len() - impressions)));
    }

    #[test]
    fn a_click_meets_between_one_and_three_impressions_of_its_user_on_average() {
        let half_an_hour = 30 * 60 * 1_000;
        let mut impressions: HashMap<String, Vec<i64>> = HashMap::new();
        let mut clicks = Vec::new();
        for event in events(1, 200_000) {
            match event {
                Event::Impression(i) => impressions.entry(i.user_id).or_default().push(i.timestamp),
                Event::Click(click) => clicks.push(click),
            }
        }
        let near = |click: &Click| {
            let times = &impressions[&click.user_id];
            let near = times
                .iter()
                .filter(|time| time.abs_diff(click.timestamp) <= half_an_hour);
            near.count()
        };
        let pairs: usize = clicks.iter().map(near).sum();
        assert!(
            (clicks.len()..3 * clicks.len()).contains(&pairs),
            "{pairs} pairs of {} clicks",
            clicks.len()
        );
    }
}
