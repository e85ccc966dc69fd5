//! Campaign minutes on the test driver, against a plain count.

use std::collections::BTreeMap;
use std::time::Duration;

use campaign_metrics::{CAMPAIGN_MINUTES, CLICKS, Config, IMPRESSIONS, topology};
use events::{CampaignMinute, Click, Impression};
use processor_core::StreamsConfig;
use processor_core::serde::{json, utf8};
use processor_core::testing::TopologyTestDriver;
use proptest::prelude::*;

/// 2024-01-01T00:00:00Z.
const START: i64 = 1_704_067_200_000;
const GRACE_MS: i64 = 5_000;

/// User, campaign, time, cost; clicks have no cost.
type Event = (u8, u8, i64, Option<i64>);
type Minutes = BTreeMap<(String, i64), CampaignMinute>;

fn expected(events: &[Event]) -> Minutes {
    let mut minutes = Minutes::new();
    for (_, campaign, at, cost) in events {
        let (campaign_id, minute_start_ms) = (format!("c{campaign}"), START + at / 60_000 * 60_000);
        let row = minutes
            .entry((campaign_id.clone(), minute_start_ms))
            .or_insert(CampaignMinute {
                campaign_id,
                minute_start_ms,
                ..CampaignMinute::default()
            });
        match cost {
            Some(cost) => {
                row.impressions += 1;
                row.spend_micros += cost;
            }
            None => row.clicks += 1,
        }
    }
    minutes
}

fn actual(events: &[Event], partitions: i32) -> Minutes {
    let config = Config {
        grace: Duration::from_millis(GRACE_MS.unsigned_abs()),
    };
    let topology = topology(&config).unwrap();
    let mut driver =
        TopologyTestDriver::with(topology, StreamsConfig::new("test"), partitions).unwrap();
    let impressions = driver.input(IMPRESSIONS, utf8(), json::<Impression>());
    let clicks = driver.input(CLICKS, utf8(), json::<Click>());
    for (user, campaign, at, cost) in events {
        let (user_id, campaign_id, ts_ms) =
            (format!("u{user}"), format!("c{campaign}"), START + at);
        match *cost {
            Some(cost_micros) => {
                let impression = Impression {
                    campaign_id: Some(campaign_id),
                    user_id: user_id.clone(),
                    ts_ms,
                    cost_micros,
                    ..Impression::default()
                };
                impressions.pipe(&mut driver, user_id, impression, ts_ms);
            }
            None => {
                let click = Click {
                    campaign_id,
                    user_id: user_id.clone(),
                    ts_ms,
                    ..Click::default()
                };
                clicks.pipe(&mut driver, user_id, click, ts_ms);
            }
        }
    }
    let output = driver.output(CAMPAIGN_MINUTES, utf8(), json::<CampaignMinute>());
    let mut minutes = Minutes::new();
    for (key, row) in output.read_key_values(&mut driver) {
        assert_eq!(key, format!("{}@{}", row.campaign_id, row.minute_start_ms));
        minutes.insert((row.campaign_id.clone(), row.minute_start_ms), row);
    }
    minutes
}

#[test]
fn impressions_clicks_and_spend_are_counted_per_campaign_and_minute() {
    let events = [
        (1, 1, 0, Some(70)),
        (2, 1, 59_999, Some(30)),
        (1, 1, 60_000, Some(5)),
        (1, 2, 10, Some(1)),
        (1, 1, 2_000, None),
    ];
    assert_eq!(actual(&events, 1), expected(&events));
    assert_eq!(
        expected(&events)[&("c1".to_owned(), START)].spend_micros,
        100
    );
}

#[test]
fn a_partition_that_is_far_ahead_makes_no_record_of_another_one_late() {
    // One user's partition runs an hour ahead of the other's: every record is in time in its feed's partition, and the
    // repartition by campaign mixes them.
    let mut events: Vec<Event> = (0..60)
        .map(|minute| (1, 1, minute * 60_000, Some(10)))
        .collect();
    events.extend((0..60).map(|minute| (2, 1, minute * 60_000, Some(10))));
    for partitions in [1, 2, 4] {
        if partitions == 1 {
            continue; // Both users share a partition there, and the second's records really are late.
        }
        assert_eq!(
            actual(&events, partitions),
            expected(&events),
            "{partitions} partitions"
        );
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let cost = prop_oneof![3 => (0..100_i64).prop_map(Some), 1 => Just(None)];
    let event = (0..4_u8, 0..3_u8, 0..600_000_i64, 0..GRACE_MS, cost);
    prop::collection::vec(event, 1..80).prop_map(|mut drawn| {
        drawn.sort_by_key(|(_, _, at, delay, _)| at + delay);
        let event = |(user, campaign, at, _, cost)| (user, campaign, at, cost);
        drawn.into_iter().map(event).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_record_within_the_grace_is_lost_to_the_repartition(events in events(), partitions in 1..4_i32) {
        prop_assert_eq!(actual(&events, partitions), expected(&events));
    }
}
