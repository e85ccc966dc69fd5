//! Attribution on the test driver, case by case and against a plain model.

mod conversions;

use std::collections::BTreeMap;
use std::time::Duration;

use attribution::{ATTRIBUTED_CLICKS, Attribution, CLICKS, Config, IMPRESSIONS, Status, topology};
use events::{Click, Impression};
use processor_core::StreamsConfig;
use processor_core::serde::{Json, Utf8, json, utf8};
use processor_core::testing::{TestInput, TestOutput, TopologyTestDriver};
use proptest::prelude::*;

/// 2024-01-01T00:00:00Z.
const START: i64 = 1_704_067_200_000;
const WINDOW_MS: i64 = 30_000;
const GRACE_MS: i64 = 5_000;

struct Bench {
    driver: TopologyTestDriver,
    impressions: TestInput<String, Impression>,
    clicks: TestInput<String, Click>,
    results: TestOutput<String, Attribution>,
}

impl Bench {
    fn new(partitions: i32) -> Self {
        let config = Config {
            click_window: Duration::from_millis(WINDOW_MS.unsigned_abs()),
            grace: Duration::from_millis(GRACE_MS.unsigned_abs()),
            ..Config::default()
        };
        let topology = topology(&config).unwrap();
        let driver =
            TopologyTestDriver::with(topology, StreamsConfig::new("test"), partitions).unwrap();
        let (key, results): (Utf8, Json<Attribution>) = (utf8(), json());
        Self {
            impressions: driver.input(IMPRESSIONS, utf8(), json::<Impression>()),
            clicks: driver.input(CLICKS, utf8(), json::<Click>()),
            results: driver.output(ATTRIBUTED_CLICKS, key, results),
            driver,
        }
    }

    fn impression(&mut self, user: &str, campaign: &str, id: &str, at: i64) {
        let impression = Impression {
            impression_id: id.to_owned(),
            campaign_id: Some(campaign.to_owned()),
            user_id: user.to_owned(),
            ts_ms: START + at,
            ..Impression::default()
        };
        self.impressions
            .pipe(&mut self.driver, user.to_owned(), impression, START + at);
    }

    fn click(&mut self, user: &str, campaign: &str, id: &str, at: i64) {
        let click = Click {
            click_id: id.to_owned(),
            campaign_id: campaign.to_owned(),
            user_id: user.to_owned(),
            ts_ms: START + at,
            ..Click::default()
        };
        self.clicks
            .pipe(&mut self.driver, user.to_owned(), click, START + at);
    }

    /// Results since the last call: click, credited impression, whether final.
    fn results(&mut self) -> Vec<(String, Option<String>, Status)> {
        let results = self.results.read_key_values(&mut self.driver);
        let short = |(_, result): (String, Attribution)| {
            (
                result.click.click_id,
                result.click.impression_id,
                result.status,
            )
        };
        results.into_iter().map(short).collect()
    }
}

fn credited(click: &str, impression: &str, status: Status) -> (String, Option<String>, Status) {
    (click.to_owned(), Some(impression.to_owned()), status)
}

fn uncredited(click: &str, status: Status) -> (String, Option<String>, Status) {
    (click.to_owned(), None, status)
}

#[test]
fn a_click_is_credited_to_the_latest_impression_before_it_once_its_grace_is_over() {
    let mut bench = Bench::new(1);
    bench.impression("u", "c", "i1", 0);
    bench.impression("u", "c", "i2", 1_000);
    bench.impression("u", "other", "i3", 1_500);
    bench.impression("other", "c", "i4", 1_600);
    bench.click("u", "c", "k", 2_000);
    bench.impression("u", "c", "after the click", 2_001);
    assert_eq!(bench.results(), []);
    bench.impression("x", "c", "tick", 2_000 + GRACE_MS);
    assert_eq!(
        bench.results(),
        [],
        "an impression at the click's time could still come"
    );
    bench.impression("x", "c", "tick", 2_001 + GRACE_MS);
    assert_eq!(bench.results(), [credited("k", "i2", Status::Final)]);
}

#[test]
fn both_ends_of_the_window_are_included() {
    let mut bench = Bench::new(1);
    bench.impression("u", "c", "first", 0);
    bench.click("u", "c", "at the end", WINDOW_MS);
    bench.click("u", "c", "beyond the end", WINDOW_MS + 1);
    bench.impression("v", "c", "same time", WINDOW_MS + 1);
    bench.click("v", "c", "at the start", WINDOW_MS + 1);
    bench.impression("x", "c", "tick", 2 * WINDOW_MS);
    let mut results = bench.results();
    results.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        results,
        [
            credited("at the end", "first", Status::Final),
            credited("at the start", "same time", Status::Final),
            uncredited("beyond the end", Status::Final),
        ]
    );
}

#[test]
fn at_equal_times_the_greatest_impression_id_is_credited_and_it_may_be_credited_again() {
    let mut bench = Bench::new(1);
    for id in ["b", "c", "a"] {
        bench.impression("u", "c", id, 0);
    }
    bench.click("u", "c", "k1", 10);
    bench.click("u", "c", "k2", 20);
    bench.impression("x", "c", "tick", WINDOW_MS);
    assert_eq!(
        bench.results(),
        [
            credited("k1", "c", Status::Final),
            credited("k2", "c", Status::Final)
        ]
    );
}

#[test]
fn an_impression_that_comes_after_its_click_within_the_grace_is_credited() {
    let mut bench = Bench::new(1);
    bench.impression("u", "c", "early", 0);
    bench.click("u", "c", "k", 4_000);
    bench.impression("x", "c", "ahead", 8_000);
    bench.impression("u", "c", "disordered", 3_000);
    bench.impression("x", "c", "tick", 60_000);
    assert_eq!(
        bench.results(),
        [credited("k", "disordered", Status::Final)]
    );
}

#[test]
fn clicks_that_lag_far_behind_the_impressions_lose_no_touch() {
    let mut bench = Bench::new(1);
    for minute in 0..100 {
        bench.impression("u", "c", &format!("i{minute:03}"), minute * 60_000);
    }
    bench.click("u", "c", "k", 60_010);
    assert_eq!(bench.results(), [credited("k", "i001", Status::Final)]);
}

#[test]
fn quiet_clicks_hold_no_result_back() {
    let mut bench = Bench::new(1);
    bench.impression("u", "c", "i", 0);
    bench.click("u", "c", "k", 10);
    for minute in 1..3 {
        bench.impression("x", "c", "later", minute * 60_000);
    }
    assert_eq!(bench.results(), [credited("k", "i", Status::Final)]);
}

#[test]
fn an_end_of_input_makes_a_provisional_result_known_once_and_more_input_finalises_it() {
    let mut bench = Bench::new(1);
    bench.impression("u", "c", "i1", 0);
    bench.click("u", "c", "k", 1_000);
    bench.driver.end_of_input();
    assert_eq!(bench.results(), [credited("k", "i1", Status::Provisional)]);
    bench.driver.end_of_input();
    assert_eq!(bench.results(), [], "nothing has changed");
    bench.impression("u", "c", "i2", 500);
    bench.driver.end_of_input();
    assert_eq!(bench.results(), [credited("k", "i2", Status::Provisional)]);
    bench.impression("u", "c", "i3", 60_000);
    assert_eq!(bench.results(), [credited("k", "i2", Status::Final)]);
}

/// An event of the property: user, campaign, time, and whether it is a click.
#[derive(Debug, Clone)]
struct Event {
    user: u8,
    campaign: u8,
    at: i64,
    click: bool,
}

/// Events of each feed in an order that is off by no more than the grace.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (0..3_u8, 0..2_u8, 0..120_000_i64, 0..GRACE_MS, any::<bool>());
    prop::collection::vec(event, 1..60).prop_map(|mut drawn| {
        drawn.sort_by_key(|(_, _, at, delay, _)| at + delay);
        let event = |(user, campaign, at, _, click)| Event {
            user,
            campaign,
            at,
            click,
        };
        drawn.into_iter().map(event).collect()
    })
}

fn expected(events: &[Event]) -> BTreeMap<String, Option<String>> {
    let clicks = events.iter().enumerate().filter(|(_, event)| event.click);
    clicks
        .map(|(number, click)| {
            let eligible = events.iter().enumerate().filter(|(_, event)| {
                !event.click
                    && (event.user, event.campaign) == (click.user, click.campaign)
                    && (click.at - WINDOW_MS..=click.at).contains(&event.at)
            });
            let best = eligible
                .map(|(n, event)| (event.at, format!("i{n:03}")))
                .max();
            (format!("k{number:03}"), best.map(|(_, id)| id))
        })
        .collect()
}

fn actual(
    events: &[Event],
    partitions: i32,
    clicks_first: bool,
) -> BTreeMap<String, Option<String>> {
    let mut bench = Bench::new(partitions);
    let mut order: Vec<(usize, &Event)> = events.iter().enumerate().collect();
    if clicks_first {
        // Stable: each feed keeps its own order, but one is read before the other.
        order.sort_by_key(|(_, event)| !event.click);
    }
    for (number, event) in order {
        let (user, campaign) = (format!("u{}", event.user), format!("c{}", event.campaign));
        if event.click {
            bench.click(&user, &campaign, &format!("k{number:03}"), event.at);
        } else {
            bench.impression(&user, &campaign, &format!("i{number:03}"), event.at);
        }
    }
    bench.driver.end_of_input();
    let mut results: BTreeMap<String, (Option<String>, Status)> = BTreeMap::new();
    for (click, impression, status) in bench.results() {
        let before = results.insert(click.clone(), (impression, status));
        assert!(
            before.is_none_or(|(_, before)| before == Status::Provisional),
            "{click} was final already"
        );
    }
    let impression = |(click, (impression, _))| (click, impression);
    results.into_iter().map(impression).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn results_are_those_of_the_definition_whichever_feed_is_read_first(
        events in events(),
        partitions in 1..3_i32,
    ) {
        let expected = expected(&events);
        prop_assert_eq!(&actual(&events, partitions, false), &expected);
        prop_assert_eq!(&actual(&events, partitions, true), &expected);
    }
}
