//! Random touches and conversions in random disorder within the grace: whatever the order, the rules and the interruptions,
//! the final results are the model's.

use std::collections::BTreeMap;
use std::time::Duration;

use processor_core::StreamsConfig;
use processor_core::dsl::{AttributionRules, AttributionStatus, Model, Revisions};
use processor_core::serde::{json, utf8};
use processor_core::testing::TopologyTestDriver;
use proptest::prelude::*;

use super::model::{Credits, Sharing, expected};
use super::{Bench, Event, GRACE_MS, describe, ms};
use crate::support::driver::topology;

pub const TICK_MS: i64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    Purchases,
    Clicks,
    Views,
    Visits,
}

/// Name, window and precedence of the touch streams: two of them of one precedence.
const STREAMS: [(&str, i64, u8); 3] = [("clicks", 200, 2), ("views", 90, 1), ("visits", 140, 1)];

impl Input {
    fn topic(self) -> &'static str {
        ["purchases", "clicks", "views", "visits"][self as usize]
    }

    /// Window and precedence of a touch stream.
    pub fn window(self) -> Option<(i64, u8)> {
        let (_, window, precedence) = STREAMS[(self as usize).checked_sub(1)?];
        Some((window, precedence))
    }
}

#[derive(Debug, Clone)]
pub struct Happening {
    pub input: Input,
    pub user: u8,
    pub campaign: u8,
    pub time: i64,
    pub id: String,
    pub value: i64,
    /// How much later it comes; less than the grace. A second number for a second order.
    delays: (i64, i64),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let input = prop_oneof![
        2 => Just(Input::Purchases),
        2 => Just(Input::Clicks),
        3 => Just(Input::Views),
        2 => Just(Input::Visits),
    ];
    let delay = || 0..=GRACE_MS / TICK_MS;
    let one = (
        input,
        0..2_u8,
        0..2_u8,
        0..60_i64,
        -2_000..5_000_i64,
        delay(),
        delay(),
    );
    prop::collection::vec(one, 1..70).prop_map(|drawn| {
        let happening = |(n, (input, user, campaign, tick, value, a, b))| Happening {
            input,
            user,
            campaign,
            time: tick * TICK_MS,
            // Unique, and in another order than they come.
            id: format!("{:02}", n * 37 % 101),
            value,
            delays: (a * TICK_MS, b * TICK_MS),
        };
        (0..).zip(drawn).map(happening).collect()
    })
}

/// In which order the inputs are read.
#[derive(Debug, Clone, Copy)]
enum Order {
    Together,
    /// One after the other, this one first.
    First(Input),
}

fn order() -> impl Strategy<Value = Order> {
    let inputs = [Input::Purchases, Input::Clicks, Input::Views, Input::Visits];
    prop_oneof![
        Just(Order::Together),
        prop::sample::select(inputs.to_vec()).prop_map(Order::First),
    ]
}

/// Each input within its grace: by the time of arrival.
fn arranged(happenings: &[Happening], order: Order, second: bool) -> Vec<Happening> {
    let mut arranged = happenings.to_vec();
    arranged.sort_by_key(|h| h.time + if second { h.delays.1 } else { h.delays.0 });
    if let Order::First(input) = order {
        arranged.sort_by_key(|h| (h.input != input, h.input));
    }
    arranged
}

#[derive(Debug, Clone, Copy)]
enum Interruption {
    None,
    Restart,
    Crash,
    Flush,
    EndOfInput,
}

fn interruptions() -> impl Strategy<Value = Vec<Interruption>> {
    let one = prop_oneof![
        24 => Just(Interruption::None),
        1 => Just(Interruption::Restart),
        1 => Just(Interruption::Crash),
        2 => Just(Interruption::Flush),
        1 => Just(Interruption::EndOfInput),
    ];
    prop::collection::vec(one, 70)
}

#[derive(Debug, Clone, Copy)]
struct Setting {
    sharing: Sharing,
    max_path: usize,
    cross_campaign: bool,
    revisions: Revisions,
}

impl Setting {
    fn rules(self) -> AttributionRules {
        let model = match self.sharing {
            Sharing::Last => Model::Last,
            Sharing::First => Model::First,
            Sharing::Linear => Model::Linear,
            Sharing::Decay => Model::TimeDecay {
                half_life: ms(TICK_MS),
            },
            Sharing::Position(first_percent, last_percent) => Model::Position {
                first_percent,
                last_percent,
            },
        };
        let rules = AttributionRules::of(model).grace(ms(GRACE_MS));
        let rules = rules.max_path(self.max_path).revisions(self.revisions);
        match self.cross_campaign {
            true => rules.cross_campaign(),
            false => rules,
        }
    }

    fn expected(self, happenings: &[Happening]) -> BTreeMap<String, Credits> {
        let purchases = happenings.iter().filter(|h| h.input == Input::Purchases);
        purchases
            .map(|purchase| {
                let (max, cross) = (self.max_path, self.cross_campaign);
                let credits = expected(purchase, happenings, self.sharing, max, cross);
                (purchase.id.clone(), credits)
            })
            .collect()
    }
}

fn setting() -> impl Strategy<Value = Setting> {
    let sharing = prop_oneof![
        Just(Sharing::Last),
        Just(Sharing::First),
        Just(Sharing::Linear),
        Just(Sharing::Decay),
        (0..=50_u8, 0..=50_u8).prop_map(|(first, last)| Sharing::Position(first, last)),
    ];
    let revisions = prop_oneof![
        2 => Just(Revisions::Every),
        1 => Just(Revisions::Final),
        1 => Just(Revisions::FinalAndEndOfInput),
    ];
    let all = (sharing, 1..6_usize, any::<bool>(), revisions);
    all.prop_map(|(sharing, max_path, cross_campaign, revisions)| Setting {
        sharing,
        max_path,
        cross_campaign,
        revisions,
    })
}

/// Every result of every purchase, in order; checked for what must hold of any sequence.
fn run(
    setting: Setting,
    arranged: &[Happening],
    config: StreamsConfig,
    interruptions: &[Interruption],
) -> BTreeMap<String, Credits> {
    let topology = topology(describe(setting.rules(), &STREAMS));
    let mut bench = Bench(TopologyTestDriver::with(topology, config, 1).unwrap());
    for (h, interruption) in arranged.iter().zip(interruptions) {
        let event = Event {
            id: h.id.clone(),
            campaign: h.campaign.to_string(),
            value: h.value,
        };
        let input = bench.0.input(h.input.topic(), utf8(), json());
        input.pipe(&mut bench.0, h.user.to_string(), event, h.time);
        match interruption {
            Interruption::None => {}
            Interruption::Restart => bench.0.restart().unwrap(),
            Interruption::Crash => bench.0.crash().unwrap(),
            // Long enough for the stores to be written.
            Interruption::Flush => bench.0.advance_wall_clock(Duration::from_secs(3)),
            Interruption::EndOfInput => bench.0.end_of_input(),
        }
    }
    bench.tick(&["clicks", "views", "visits"], 100_000);
    for (name, ..) in STREAMS {
        assert!(bench.late(&format!("late-{name}")).is_empty());
    }
    assert!(bench.late("late-purchases").is_empty());

    let mut sequences: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (id, result) in bench.results() {
        sequences.entry(id).or_default().push(result);
    }
    let mut finals = BTreeMap::new();
    for (id, results) in sequences {
        let mut said: Vec<Credits> = Vec::new();
        for (n, result) in results.iter().enumerate() {
            assert_eq!(result.revision as usize, n + 1, "{id}");
            let last = n + 1 == results.len();
            let status = match (n, last) {
                (_, true) => AttributionStatus::Final,
                (0, false) => AttributionStatus::Provisional,
                (_, false) => AttributionStatus::Revised,
            };
            assert_eq!(result.status, status, "{id}");
            let micros = result.credits.iter().map(|c| c.credit_micros).sum::<i64>();
            let shares = result
                .credits
                .iter()
                .map(|c| c.share_millionths)
                .sum::<i64>();
            if !result.credits.is_empty() {
                assert_eq!(
                    (micros, shares),
                    (result.conversion.value, 1_000_000),
                    "{id}"
                );
            }
            let credits = result.credits.iter();
            let credits = credits.map(|c| (c.stream.clone(), c.touch_id.clone(), c.credit_micros));
            said.push((credits.collect(), result.truncated));
        }
        let (last, before) = said.split_last().unwrap();
        let repeats = before.windows(2).any(|pair| pair[0] == pair[1]);
        assert!(!repeats, "{id} is told twice: {before:?}");
        // With every revision, the final result says what the last one before it said.
        if setting.revisions == Revisions::Every && !before.is_empty() {
            assert_eq!(before.last(), Some(last), "{id}");
        }
        if setting.revisions == Revisions::Final {
            assert!(before.is_empty(), "{id}");
        }
        finals.insert(id, last.clone());
    }
    finals
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn final_results_are_the_model_s_in_whatever_order_inputs_come(
        setting in setting(),
        happenings in happenings(),
        order in order(),
        interruptions in interruptions(),
    ) {
        let expected = setting.expected(&happenings);
        let config = || StreamsConfig::new("app");
        let first = arranged(&happenings, order, false);
        prop_assert_eq!(&run(setting, &first, config(), &interruptions), &expected);
        let second = arranged(&happenings, Order::Together, true);
        prop_assert_eq!(&run(setting, &second, config(), &[Interruption::None; 70]), &expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn so_they_are_on_sled(
        setting in setting(),
        happenings in happenings(),
        order in order(),
        interruptions in interruptions(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let config = StreamsConfig::new("app").state_dir(directory.path());
        let arranged = arranged(&happenings, order, false);
        let found = run(setting, &arranged, config, &interruptions);
        prop_assert_eq!(found, setting.expected(&happenings));
    }
}
