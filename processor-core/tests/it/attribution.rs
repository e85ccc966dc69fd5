//! Conversions credited to touches: by hand at the borders, and against a model on random input.

mod model;
mod random;

use std::ops::{Bound, ControlFlow};
use std::time::Duration;

use processor_core::StreamsConfig;
use processor_core::dsl::{
    Attributed, Attribution, AttributionRules, Consumed, Conversion, KStream, Lineage, Model,
    Produced, Revisions, StreamsBuilder, Touch, TouchWindow,
};
use processor_core::serde::{int64, json, nullable, utf8};
use processor_core::testing::TopologyTestDriver;
use serde::{Deserialize, Serialize};
use state::{Database, DatabaseOptions, Direction, SledDatabase};

use crate::support::driver::{driver, text, topology};
use crate::windowed::LateText;

const GRACE_MS: i64 = 50;

/// A record of any input; the value of a touch is what is kept of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Event {
    id: String,
    campaign: String,
    value: i64,
}

type Events = KStream<String, Event>;

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn rules(model: Model) -> AttributionRules {
    AttributionRules::of(model).grace(ms(GRACE_MS))
}

/// Touch streams as most tests have them: clicks within 700 ms beat views within 100 ms.
const STREAMS: [(&str, i64, u8); 2] = [("clicks", 700, 2), ("views", 100, 1)];

fn events(builder: &StreamsBuilder, topic: &str) -> Events {
    builder.stream(topic, Consumed::new(utf8(), json()))
}

fn attribute<L: Lineage>(
    purchases: &KStream<String, Event, L>,
    rules: AttributionRules,
) -> Attribution<String, Event, i64> {
    let attribution = purchases.attribute("credit", rules, int64(), |_, purchase| {
        Conversion::new(&purchase.id)
            .campaign(&purchase.campaign)
            .value_micros(purchase.value)
    });
    let results = attribution.results();
    results.to_with("out", Produced::new(utf8(), json()));
    let late = attribution
        .late()
        .map_values(|_, late| late_number(late, |purchase| purchase.value));
    late.to_with("late-purchases", Produced::new(utf8(), LateText));
    attribution
}

fn late_number(
    late: processor_core::dsl::Late<Event>,
    number: impl Fn(Event) -> i64,
) -> processor_core::dsl::Late<i64> {
    processor_core::dsl::Late {
        value: number(late.value),
        window_start: late.window_start,
        window_end: late.window_end,
        stream_time: late.stream_time,
    }
}

fn touches<L: Lineage>(
    attribution: &Attribution<String, Event, i64>,
    name: &str,
    stream: &KStream<String, Event, L>,
    window: TouchWindow,
) {
    attribution
        .touches(name, stream, window, |_, event| {
            Touch::new(event.id, event.value).campaign(event.campaign)
        })
        .map_values(|_, late| late_number(late, |touch| touch.value))
        .to_with(&format!("late-{name}"), Produced::new(utf8(), LateText));
}

/// Purchases credited to the touches of these streams: name, window and precedence.
fn describe(rules: AttributionRules, streams: &[(&str, i64, u8)]) -> impl Fn(&StreamsBuilder) {
    let streams: Vec<(String, i64, u8)> =
        streams.iter().map(|(n, w, p)| (text(n), *w, *p)).collect();
    move |builder| {
        let attribution = attribute(&events(builder, "purchases"), rules);
        for (name, window, precedence) in &streams {
            let window = TouchWindow::of(ms(*window)).precedence(*precedence);
            touches(&attribution, name, &events(builder, name), window);
        }
    }
}

struct Bench(TopologyTestDriver);

impl Bench {
    fn new(rules: AttributionRules) -> Self {
        Self::with(rules, &STREAMS)
    }

    fn with(rules: AttributionRules, streams: &[(&str, i64, u8)]) -> Self {
        let topology = topology(describe(rules, streams));
        Self(TopologyTestDriver::new(topology).unwrap())
    }

    /// Pipes a record of ann's in campaign `c`.
    fn pipe(&mut self, topic: &str, id: &str, time: i64) {
        self.pipe_of(topic, "ann", "c", id, time);
    }

    fn pipe_of(&mut self, topic: &str, user: &str, campaign: &str, id: &str, time: i64) {
        let event = Event {
            id: text(id),
            campaign: text(campaign),
            value: 100,
        };
        let input = self.0.input(topic, utf8(), json());
        input.pipe(&mut self.0, text(user), event, time);
    }

    /// A record of nobody's on each of these topics, which moves their times.
    fn tick(&mut self, topics: &[&str], time: i64) {
        for topic in topics {
            self.pipe_of(topic, "nobody", "none", "tick", time);
        }
    }

    fn results(&mut self) -> Vec<(String, Attributed<Event, i64>)> {
        let out = self.0.output("out", utf8(), json());
        let results = out.read_key_values(&mut self.0);
        results.into_iter().filter(|(id, _)| id != "tick").collect()
    }

    /// Results as `purchase status revision: touch=credit …`, in short.
    fn told(&mut self) -> Vec<String> {
        self.results().iter().map(|(id, r)| shown(id, r)).collect()
    }

    fn late(&mut self, topic: &str) -> Vec<String> {
        let records = self.0.output(topic, utf8(), utf8()).read(&mut self.0);
        records.into_iter().map(|r| r.value).collect()
    }
}

fn shown(id: &str, result: &Attributed<Event, i64>) -> String {
    let credit =
        |c: &processor_core::dsl::Credit<i64>| format!(" {}={}", c.touch_id, c.credit_micros);
    let credits: String = result.credits.iter().map(credit).collect();
    let status = format!("{:?}", result.status);
    format!("{id} {} {}:{credits}", &status[..1], result.revision)
}

// --- what is eligible ---

#[test]
fn both_ends_of_a_window_are_included_and_each_stream_has_its_own() {
    let finals = rules(Model::Linear).revisions(Revisions::Final);
    let mut bench = Bench::with(finals, &[("clicks", 700, 0), ("views", 100, 0)]);
    for (topic, id, time) in [
        ("clicks", "too early", 299),
        ("clicks", "first click", 300),
        ("views", "too early a view", 899),
        ("views", "first view", 900),
        ("clicks", "last click", 1_000),
        ("views", "last view", 1_000),
        ("purchases", "p", 1_000),
        ("views", "after it", 1_001),
    ] {
        bench.pipe(topic, id, time);
    }
    bench.tick(&["clicks", "views"], 5_000);
    assert_eq!(
        bench.told(),
        ["p F 1: first click=25 first view=25 last click=25 last view=25"]
    );
}

#[test]
fn other_keys_and_campaigns_do_not_count_unless_campaigns_do_not_matter() {
    let run = |rules: AttributionRules| {
        let mut bench = Bench::new(rules.revisions(Revisions::Final));
        bench.pipe_of("clicks", "bob", "c", "bob's", 10);
        bench.pipe_of("clicks", "ann", "d", "other campaign", 20);
        bench.pipe_of("clicks", "ann", "c", "same campaign", 15);
        bench.pipe("purchases", "p", 30);
        bench.tick(&["clicks", "views"], 5_000);
        let (_, result) = bench.results().pop().unwrap();
        let credit = &result.credits[0];
        (
            credit.touch_id.clone(),
            credit.campaign.clone(),
            credit.stream.clone(),
        )
    };
    let credited = |a, b| (text(a), text(b), text("clicks"));
    assert_eq!(run(rules(Model::Last)), credited("same campaign", "c"));
    assert_eq!(
        run(rules(Model::Last).cross_campaign()),
        credited("other campaign", "d")
    );
}

#[test]
fn any_eligible_click_beats_every_view() {
    let mut bench = Bench::new(rules(Model::Last).revisions(Revisions::Final));
    bench.pipe("clicks", "click", 1_000);
    bench.pipe("views", "view", 1_690);
    bench.pipe("purchases", "click in reach", 1_700);
    bench.pipe("purchases", "click out of reach", 1_701);
    bench.tick(&["clicks", "views"], 5_000);
    assert_eq!(
        bench.told(),
        [
            "click in reach F 1: click=100",
            "click out of reach F 1: view=100"
        ]
    );
}

#[test]
fn last_non_direct_is_last_with_direct_visits_of_a_lower_precedence() {
    let streams = [("clicks", 700, 1), ("direct", 700, 0)];
    let mut bench = Bench::with(rules(Model::Last).revisions(Revisions::Final), &streams);
    bench.pipe("clicks", "ad", 10);
    bench.pipe("direct", "typed", 20);
    bench.pipe("purchases", "p", 30);
    bench.pipe_of("direct", "bob", "c", "typed too", 35);
    bench.pipe_of("purchases", "bob", "c", "q", 40);
    bench.tick(&["clicks", "direct"], 5_000);
    assert_eq!(bench.told(), ["p F 1: ad=100", "q F 1: typed too=100"]);
}

#[test]
fn at_equal_times_the_greater_id_is_the_later_touch_also_of_two_streams() {
    let streams = [("clicks", 700, 0), ("views", 700, 0)];
    for (model, credited) in [(Model::Last, "d"), (Model::First, "a")] {
        let mut bench = Bench::with(rules(model).revisions(Revisions::Final), &streams);
        for (topic, id) in [
            ("views", "b"),
            ("clicks", "d"),
            ("clicks", "a"),
            ("views", "c"),
        ] {
            bench.pipe(topic, id, 10);
        }
        bench.pipe("purchases", "p", 20);
        bench.tick(&["clicks", "views"], 5_000);
        assert_eq!(bench.told(), [format!("p F 1: {credited}=100")]);
    }
}

#[test]
fn a_long_path_is_cut_to_its_latest_touches_and_the_result_says_by_how_many() {
    let run = |model| {
        let rules = rules(model).max_path(3).revisions(Revisions::Final);
        let mut bench = Bench::new(rules);
        for n in 0..5 {
            bench.pipe("clicks", &format!("c{n}"), n);
        }
        bench.pipe("purchases", "p", 10);
        bench.tick(&["clicks"], 5_000);
        let (_, result) = bench.results().pop().unwrap();
        (shown("p", &result), result.truncated)
    };
    let cut = (text("p F 1: c2=34 c3=33 c4=33"), 2);
    assert_eq!(run(Model::Linear), cut);
    // One touch is all that the first and the last touch model look at.
    assert_eq!(run(Model::First), (text("p F 1: c0=100"), 0));
    assert_eq!(run(Model::Last), (text("p F 1: c4=100"), 0));
}

#[test]
fn what_is_kept_of_a_touch_and_the_conversion_itself_are_in_the_result() {
    let mut bench = Bench::new(rules(Model::Last));
    bench.pipe("clicks", "click", 1_000);
    bench.pipe("purchases", "p", 1_010);
    let (key, result) = bench.results().pop().unwrap();
    assert_eq!(key, "p");
    assert_eq!(
        (result.conversion.id.as_str(), result.conversion.value),
        ("p", 100)
    );
    let credit = &result.credits[0];
    assert_eq!((credit.value, credit.timestamp), (100, 1_000));
    assert_eq!(
        (credit.credit_micros, credit.share_millionths),
        (100, 1_000_000)
    );
}

// --- when results leave ---

#[test]
fn a_conversion_is_final_when_every_touch_stream_is_beyond_it_by_the_grace() {
    let mut bench = Bench::new(rules(Model::Last));
    bench.pipe("purchases", "p", 1_000);
    assert_eq!(bench.told(), ["p P 1:"]);
    bench.tick(&["clicks"], 9_000);
    // A view of its own millisecond could still come.
    bench.tick(&["views"], 1_000 + GRACE_MS);
    assert_eq!(bench.told(), Vec::<String>::new());
    bench.tick(&["views"], 1_001 + GRACE_MS);
    assert_eq!(bench.told(), ["p F 2:"]);
}

#[test]
fn a_conversion_credited_to_a_click_does_not_wait_for_views() {
    let mut bench = Bench::new(rules(Model::Last));
    bench.pipe("clicks", "click", 990);
    bench.pipe("purchases", "p", 1_000);
    bench.tick(&["clicks"], 9_000);
    assert_eq!(bench.told(), ["p P 1: click=100", "p F 2: click=100"]);
    // Credited to a view, it waits for clicks as well.
    bench.pipe("views", "view", 9_000);
    bench.pipe("purchases", "q", 9_000);
    bench.tick(&["views"], 20_000);
    assert_eq!(bench.told(), ["q P 1: view=100"]);
    bench.tick(&["clicks"], 20_000);
    assert_eq!(bench.told(), ["q F 2: view=100"]);
}

#[test]
fn a_conversion_that_comes_when_it_is_final_has_one_result() {
    let mut bench = Bench::new(rules(Model::Last));
    bench.pipe("clicks", "click", 990);
    bench.tick(&["clicks", "views"], 9_000);
    bench.pipe("purchases", "p", 1_000);
    assert_eq!(bench.told(), ["p F 1: click=100"]);
}

#[test]
fn each_touch_that_changes_a_result_revises_it_and_no_other_does() {
    let mut bench = Bench::new(rules(Model::Last));
    bench.pipe("purchases", "p", 1_000);
    bench.pipe("views", "v1", 960);
    bench.pipe("views", "older", 955);
    bench.pipe("clicks", "c1", 960);
    bench.pipe("views", "too late to matter", 999);
    bench.pipe("clicks", "c2", 1_000);
    bench.tick(&["clicks"], 9_000);
    assert_eq!(
        bench.told(),
        [
            "p P 1:",
            "p R 2: v1=100",
            "p R 3: c1=100",
            "p R 4: c2=100",
            "p F 5: c2=100"
        ]
    );
}

#[test]
fn what_becomes_final_at_a_record_leaves_by_time_then_id() {
    let mut bench = Bench::new(rules(Model::Last).revisions(Revisions::Final));
    bench.pipe("clicks", "click", 100);
    // Of both precedences, so from two places of the store.
    bench.pipe("purchases", "b", 103);
    bench.pipe_of("purchases", "bob", "c", "c", 101);
    bench.pipe_of("purchases", "bob", "c", "a", 103);
    bench.pipe("purchases", "d", 102);
    bench.tick(&["views"], 9_000);
    bench.tick(&["clicks"], 9_000);
    assert_eq!(
        bench.told(),
        ["c F 1:", "d F 1: click=100", "a F 1:", "b F 1: click=100"]
    );
}

#[test]
fn the_end_of_a_bounded_run_tells_each_change_once_and_finals_follow() {
    let rules = rules(Model::Last).revisions(Revisions::FinalAndEndOfInput);
    let mut bench = Bench::new(rules);
    bench.pipe("purchases", "p", 1_000);
    bench.0.end_of_input();
    bench.0.end_of_input();
    assert_eq!(bench.told(), ["p P 1:"]);
    bench.pipe("views", "v", 960);
    bench.pipe("clicks", "c", 960);
    bench.0.restart().unwrap();
    bench.0.end_of_input();
    assert_eq!(bench.told(), ["p R 2: c=100"]);
    bench.tick(&["clicks"], 9_000);
    assert_eq!(bench.told(), ["p F 3: c=100"]);
}

#[test]
fn a_conversion_that_comes_again_while_it_is_open_takes_the_place_of_the_first() {
    for revisions in [Revisions::Every, Revisions::Final] {
        let mut bench = Bench::new(rules(Model::Last).revisions(revisions));
        bench.pipe_of("clicks", "ann", "d", "click on d", 900);
        bench.pipe_of("purchases", "ann", "c", "p", 1_000);
        bench.pipe_of("purchases", "ann", "d", "p", 1_000);
        bench.pipe_of("clicks", "ann", "c", "click on c", 970);
        bench.tick(&["clicks"], 9_000);
        let expected: &[&str] = match revisions {
            Revisions::Every => &["p P 1:", "p R 2: click on d=100", "p F 3: click on d=100"],
            _ => &["p F 1: click on d=100"],
        };
        assert_eq!(bench.told(), expected);
    }
}

// --- time and lateness ---

#[test]
fn a_touch_is_late_when_it_lies_more_than_the_grace_below_the_time_of_its_own_stream() {
    let mut bench = Bench::new(rules(Model::Last));
    bench.pipe("purchases", "p", 1_000);
    bench.tick(&["clicks"], 1_000);
    bench.tick(&["views"], 9_000);
    bench.pipe("clicks", "in time", 1_000 - GRACE_MS);
    bench.pipe("clicks", "late", 999 - GRACE_MS);
    assert_eq!(bench.told(), ["p P 1:", "p R 2: in time=100"]);
    assert_eq!(bench.late("late-clicks"), ["100 for [949, 1649) at 1000"]);
    bench.pipe("views", "late view", 8_949);
    assert_eq!(bench.late("late-views"), ["100 for [8949, 9049) at 9000"]);
}

#[test]
fn a_conversion_is_late_by_the_time_of_conversions_and_not_by_that_of_touches() {
    let mut bench = Bench::new(rules(Model::Last).revisions(Revisions::Final));
    bench.pipe("clicks", "click", 900);
    bench.tick(&["clicks", "views"], 100_000);
    bench.pipe("purchases", "p", 1_000);
    bench.pipe("purchases", "q", 1_000 - GRACE_MS);
    bench.pipe("purchases", "late", 999 - GRACE_MS);
    assert_eq!(bench.told(), ["p F 1: click=100", "q F 1: click=100"]);
    assert_eq!(bench.late("late-purchases"), ["100 for [249, 949) at 1000"]);
}

#[test]
fn an_input_far_behind_loses_nothing_whichever_it_is() {
    // An hour of touches before the first purchase, then an hour of purchases before the first touch.
    let mut bench = Bench::new(rules(Model::Last).revisions(Revisions::Final));
    for minute in 0..60 {
        bench.pipe("clicks", &format!("c{minute}"), minute * 60_000);
    }
    bench.tick(&["views"], 9_000_000);
    bench.pipe("purchases", "p", 60_500);
    assert_eq!(bench.told(), ["p F 1: c1=100"]);
    for minute in 61..120 {
        bench.pipe("purchases", &format!("p{minute}"), minute * 60_000 + 500);
    }
    for minute in 61..120 {
        bench.pipe("clicks", &format!("c{minute}"), minute * 60_000);
    }
    bench.tick(&["clicks"], 9_000_000);
    let expected = (61..120).map(|n| format!("p{n} F 1: c{n}=100"));
    assert_eq!(bench.told(), expected.collect::<Vec<_>>());
}

#[test]
fn an_input_that_lags_is_waited_for_up_to_its_limit() {
    let run = |rules: AttributionRules| {
        let mut bench = Bench::new(rules.revisions(Revisions::Final));
        bench.pipe("clicks", "click", 10);
        bench.pipe("purchases", "p", 1_000);
        bench.pipe("views", "far ahead", 2_000);
        let told = bench.told();
        bench.pipe("clicks", "woken", 1_449);
        (told, bench.late("late-clicks"))
    };
    assert_eq!(run(rules(Model::Last)), (vec![], vec![]));
    // Its time is 2,000 − 500.
    let (told, late) = run(rules(Model::Last).max_lag(ms(500)));
    assert_eq!(told, ["p F 1:"]);
    assert_eq!(late, ["100 for [1449, 2149) at 1500"]);
}

#[test]
fn an_input_that_is_idle_goes_with_the_furthest_one_and_what_it_brings_later_may_be_late() {
    let mut bench = Bench(driver(|builder| {
        let attribution = attribute(&events(builder, "purchases"), rules(Model::Last));
        let idle = Consumed::new(utf8(), json()).idle_after(Duration::from_secs(30));
        let [(clicks, ..), (views, ..)] = STREAMS;
        let window = TouchWindow::of(ms(700));
        touches(&attribution, clicks, &events(builder, clicks), window);
        touches(&attribution, views, &builder.stream(views, idle), window);
    }));
    bench.pipe("purchases", "p", 1_000);
    bench.tick(&["clicks"], 2_000);
    assert_eq!(bench.told(), ["p P 1:"]);
    bench.0.advance_wall_clock(Duration::from_secs(30));
    assert_eq!(bench.told(), ["p F 2:"]);
    bench.0.restart().unwrap();
    bench.pipe("views", "late", 1_949);
    assert_eq!(bench.late("late-views"), ["100 for [1949, 2649) at 2000"]);
    // It is not idle any more, so it is waited for.
    bench.pipe("purchases", "q", 2_000);
    bench.tick(&["clicks"], 3_000);
    assert_eq!(bench.told(), ["q P 1:"]);
}

#[test]
fn without_touch_streams_conversions_are_final_at_once_and_credited_to_nobody() {
    let mut bench = Bench::with(rules(Model::Last), &[]);
    bench.pipe("purchases", "p", 1_000);
    assert_eq!(bench.told(), ["p F 1:"]);
}

// --- what survives ---

#[test]
fn touches_open_conversions_revisions_and_times_survive_restarts_and_crashes() {
    type Interrupt = fn(&mut TopologyTestDriver);
    let interrupts: [Interrupt; 2] = [|d| d.restart().unwrap(), |d| d.crash().unwrap()];
    for interrupt in interrupts {
        let mut bench = Bench::new(rules(Model::Linear));
        bench.pipe("clicks", "c1", 900);
        interrupt(&mut bench.0);
        bench.pipe("purchases", "p", 1_000);
        interrupt(&mut bench.0);
        bench.pipe("clicks", "c2", 960);
        bench.tick(&["clicks"], 1_000);
        interrupt(&mut bench.0);
        bench.pipe("clicks", "late", 949);
        bench.tick(&["clicks"], 1_051);
        assert_eq!(
            bench.told(),
            ["p P 1: c1=100", "p R 2: c1=50 c2=50", "p F 3: c1=50 c2=50"]
        );
        assert_eq!(bench.late("late-clicks"), ["100 for [949, 1649) at 1000"]);
        // It is not final a second time.
        interrupt(&mut bench.0);
        bench.tick(&["clicks", "views"], 9_000);
        assert_eq!(bench.told(), Vec::<String>::new());
    }
}

#[test]
fn touches_that_nothing_can_need_are_let_go_and_others_are_kept() {
    // A click a minute, and a segment of the store for each of them; purchases keep up, or stop after the first.
    let segments = |purchases: usize| {
        let directory = tempfile::tempdir().unwrap();
        let config = StreamsConfig::new("app").state_dir(directory.path());
        let topology = topology(describe(rules(Model::Last), &STREAMS));
        let mut bench = Bench(TopologyTestDriver::with(topology, config, 1).unwrap());
        for minute in 0..30 {
            for topic in ["clicks", "views", "purchases"] {
                if topic != "purchases" || minute < purchases {
                    let time = 60_000 * i64::try_from(minute).unwrap();
                    bench.pipe(topic, &format!("{topic}{minute}"), time);
                }
            }
        }
        // Long enough for the stores to be written.
        bench.0.advance_wall_clock(Duration::from_secs(11));
        drop(bench);
        let stores = directory.path().join("stores");
        let database = SledDatabase::open(&stores, &DatabaseOptions::default()).unwrap();
        let tree = database.tree("credit-clicks-touches/0").unwrap();
        let mut rows = 0;
        let all = (Bound::Unbounded, Bound::Unbounded);
        tree.scan(all.0, all.1, Direction::Forward, &mut |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        rows
    };
    assert_eq!(segments(1), 30, "purchases of any later time may come");
    assert!(segments(30) <= 2);
}

// --- keys and nulls ---

#[test]
fn streams_whose_key_has_changed_are_repartitioned_each_under_its_name() {
    let topology = topology(|builder| {
        let by_user = |topic| {
            let events = events(builder, topic).select_key(|key, _| text(&key[..3]));
            events.with_serdes(utf8(), json())
        };
        let attribution = attribute(&by_user("purchases"), rules(Model::Last));
        let window = TouchWindow::of(ms(700));
        touches(&attribution, "clicks", &by_user("clicks"), window);
    });
    let description = topology.describe();
    for topic in [
        "credit-conversions-repartition",
        "credit-clicks-repartition",
    ] {
        assert!(description.contains(topic), "{description}");
    }
    let config = StreamsConfig::new("app");
    let mut bench = Bench(TopologyTestDriver::with(topology, config, 1).unwrap());
    bench.pipe_of("clicks", "ann at work", "c", "click", 900);
    bench.pipe_of("purchases", "ann at home", "c", "p", 1_000);
    bench.pipe_of("clicks", "nobody", "c", "tick", 9_000);
    assert_eq!(bench.told(), ["p P 1: click=100", "p F 2: click=100"]);
}

#[test]
fn records_without_a_key_or_a_value_are_dropped_and_move_no_time() {
    let topology = topology(|builder| {
        let numbers = |topic| {
            let consumed = Consumed::new(nullable(utf8()), nullable(int64()));
            builder.stream(topic, consumed)
        };
        let finals = rules(Model::Last).revisions(Revisions::Final);
        let attribution = numbers("purchases").attribute("credit", finals, int64(), |_, value| {
            Conversion::new(value.unwrap().to_string())
        });
        let window = TouchWindow::of(ms(700));
        attribution.touches("clicks", &numbers("clicks"), window, |_, value| {
            Touch::new(value.unwrap().to_string(), 0)
        });
        let ids = attribution.results().map_values(|_, result| {
            let credits = result.credits.into_iter().map(|credit| credit.touch_id);
            credits.collect::<Vec<_>>().join(" ")
        });
        ids.to_with("out", Produced::new(utf8(), utf8()));
    });
    let mut driver = TopologyTestDriver::new(topology).unwrap();
    let some = || Some(text("ann"));
    for (topic, key, value, time) in [
        ("clicks", some(), Some(1), 10),
        ("clicks", some(), None, 9_000),
        ("clicks", None, Some(2), 9_000),
        ("purchases", None, Some(3), 9_000),
        ("purchases", some(), None, 9_000),
        ("purchases", some(), Some(4), 20),
        ("clicks", some(), Some(5), 71),
    ] {
        let input = driver.input(topic, nullable(utf8()), nullable(int64()));
        input.pipe(&mut driver, key, value, time);
    }
    let out = driver.output("out", utf8(), utf8());
    assert_eq!(out.read_key_values(&mut driver), [(text("4"), text("1"))]);
}

// --- what is refused ---

#[test]
fn rules_that_make_no_sense_and_missing_serdes_are_refused_by_name() {
    let refused = |describe: &dyn Fn(&StreamsBuilder)| {
        let builder = StreamsBuilder::new("under-test");
        describe(&builder);
        match builder.build() {
            Ok(topology) => panic!("it was not refused: {topology}"),
            Err(error) => error.to_string(),
        }
    };
    let no_half_life = Model::TimeDecay {
        half_life: Duration::ZERO,
    };
    let error = refused(&describe(rules(no_half_life), &STREAMS));
    assert!(
        error.contains("attribution 'credit': a half-life"),
        "{error}"
    );
    let error = refused(&describe(rules(Model::Last).max_path(0), &STREAMS));
    assert!(error.contains("max_path must be 1 at least"), "{error}");
    let error = refused(&describe(rules(Model::Last), &[STREAMS[0], STREAMS[0]]));
    assert!(
        error.contains("store 'credit-clicks-touches' is used twice"),
        "{error}"
    );
    let error = refused(&|builder| {
        let numbers = events(builder, "purchases").map_values(|_, purchase| purchase.value);
        numbers.attribute("credit", rules(Model::Last), int64(), |_, value| {
            Conversion::new(value.to_string())
        });
    });
    assert!(
        error.contains("attribution 'credit' needs serdes"),
        "{error}"
    );
}
