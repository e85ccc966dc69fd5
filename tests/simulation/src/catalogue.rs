//! The topologies that are simulated: each kind of state, of time and of topic that the runtime has to get through a fault.

use std::sync::Arc;
use std::time::Duration;

use attribution::ConversionRules;
use events::generator::{GeneratorConfig, generate};
use events::landing::ListedFile;
use events::{Click, Conversion, Creative, Impression};
use ingest::LandingObject;
use processor_core::dsl::{
    Consumed, Grouped, JoinWindows, KStream, Model, Produced, SessionWindows, StreamsBuilder,
    TimeWindows,
};
use processor_core::log::embedded::EmbeddedLog;
use processor_core::serde::registry::{TopicRegistry, TopicRegistryOptions};
use processor_core::serde::{int64, json, nullable, utf8};
use processor_core::testing::simulation::{
    Draw, Faults, Simulation, each_at_least_once, no_contradiction, same_as_sequential,
    same_last_per_key, same_order_per_key, same_rows,
};
use processor_core::{Guarantee, Standby};

/// A topology with its input and the check that fits it.
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    make: fn() -> Simulation,
}

impl Entry {
    /// The simulation, with all faults that its topology is to stand.
    #[must_use]
    pub fn simulation(&self) -> Simulation {
        (self.make)().partitions(3).instances(3)
    }
}

/// All of them.
pub const ALL: [Entry; 15] = [
    Entry {
        name: "count",
        make: count,
    },
    Entry {
        name: "sum behind a repartition topic",
        make: repartitioned_sum,
    },
    Entry {
        name: "left join of streams",
        make: left_join,
    },
    Entry {
        name: "final windows",
        make: final_windows,
    },
    Entry {
        name: "final windows behind a repartition topic",
        make: repartitioned_windows,
    },
    Entry {
        name: "final sessions",
        make: final_sessions,
    },
    Entry {
        name: "join of tables",
        make: table_join,
    },
    Entry {
        name: "foreign-key join",
        make: foreign_key_join,
    },
    Entry {
        name: "regrouped table",
        make: regrouped_table,
    },
    Entry {
        name: "attribution",
        make: attribution,
    },
    Entry {
        name: "campaign metrics",
        make: campaign_metrics,
    },
    Entry {
        name: "ingest",
        make: ingest,
    },
    Entry {
        name: "repartition, at least once",
        make: repartitioned_at_least_once,
    },
    Entry {
        name: "join of tables, at least once",
        make: table_join_at_least_once,
    },
    Entry {
        name: "join of tables without changelogs",
        make: table_join_read_back,
    },
];

/// The topology of a seed: they take turns.
#[must_use]
pub fn of_seed(seed: u64) -> &'static Entry {
    let turn = seed % ALL.len() as u64;
    &ALL[usize::try_from(turn).expect("a turn is an index")]
}

/// A simulation of what `build` puts together.
fn built(build: fn(&StreamsBuilder)) -> Simulation {
    Simulation::of(move || {
        let builder = StreamsBuilder::new("simulated");
        build(&builder);
        builder.build().unwrap_or_else(|error| panic!("{error}"))
    })
}

fn numbers(builder: &StreamsBuilder, topic: &str) -> KStream<String, i64> {
    builder.stream(topic, Consumed::new(utf8(), int64()))
}

/// Between 20 and 80 records of seven keys, in order of time.
fn draw_numbers(draw: &mut Draw) -> Vec<(String, i64, i64)> {
    let count = 20 + draw.below(60);
    let mut time = 0;
    (0..count)
        .map(|_| {
            time += number(draw, 4);
            (key(draw), number(draw, 1_000), time)
        })
        .collect()
}

/// The same with every fourth value a delete.
fn draw_rows(draw: &mut Draw) -> Vec<(String, Option<i64>, i64)> {
    draw_numbers(draw)
        .into_iter()
        .map(|(key, value, time)| (key, (!draw.one_in(4)).then_some(value), time))
        .collect()
}

fn key(draw: &mut Draw) -> String {
    format!("k{}", draw.below(7))
}

fn number(draw: &mut Draw, bound: u64) -> i64 {
    i64::try_from(draw.below(bound)).expect("a small number")
}

const TEN_MS: Duration = Duration::from_millis(10);
const FIVE_MS: Duration = Duration::from_millis(5);

fn count() -> Simulation {
    built(|builder| {
        numbers(builder, "in")
            .group_by_key()
            .count("count")
            .to_stream()
            .to("out");
    })
    .config(|config| {
        config.static_membership = true;
        config.standby = Some(Standby::among(3));
    })
    .input("in", utf8(), int64(), draw_numbers)
    .check(same_order_per_key())
}

fn repartitioned_sum() -> Simulation {
    // The sums on the way depend on how the partitions interleave.
    built(|builder| {
        numbers(builder, "in")
            .group_by(|_, number| format!("g{}", number % 5), Grouped::by(utf8()))
            .aggregate("sum", int64(), || 0, |_, value, sum| sum + value)
            .to_stream()
            .to("out");
    })
    .input("in", utf8(), int64(), draw_numbers)
    .check(same_last_per_key())
}

fn left_join() -> Simulation {
    built(|builder| {
        let windows = JoinWindows::of(TEN_MS).grace(FIVE_MS);
        let other = numbers(builder, "other");
        numbers(builder, "in")
            .left_join("join", &other, windows, |_, left, right| {
                left * 1_000 + right.unwrap_or(-1)
            })
            .to_with("out", Produced::new(utf8(), int64()));
    })
    .input("in", utf8(), int64(), draw_numbers)
    .input("other", utf8(), int64(), draw_numbers)
    .check(same_as_sequential())
}

fn final_windows() -> Simulation {
    built(|builder| {
        numbers(builder, "in")
            .group_by_key()
            .windowed_by(TimeWindows::tumbling(TEN_MS).grace(FIVE_MS))
            .emit_final()
            .count("count")
            .to_stream()
            .to("out");
    })
    .input("in", utf8(), int64(), draw_numbers)
    .check(same_order_per_key())
}

fn repartitioned_windows() -> Simulation {
    built(|builder| {
        numbers(builder, "in")
            .group_by(|_, number| format!("g{}", number % 5), Grouped::by(utf8()))
            .windowed_by(TimeWindows::tumbling(TEN_MS).grace(Duration::ZERO))
            .emit_final()
            .count("count")
            .to_stream()
            .to("out");
    })
    .input("in", utf8(), int64(), draw_numbers)
    .check(no_contradiction())
}

fn final_sessions() -> Simulation {
    built(|builder| {
        numbers(builder, "in")
            .group_by_key()
            .windowed_by_session(SessionWindows::gap(FIVE_MS).grace(FIVE_MS))
            .emit_final()
            .count("count")
            .to_stream()
            .to("out");
    })
    .input("in", utf8(), int64(), draw_numbers)
    .check(same_order_per_key())
}

fn table_join() -> Simulation {
    built(outer_join_of_tables)
        .input("in", utf8(), nullable(int64()), draw_rows)
        .input("other", utf8(), nullable(int64()), draw_rows)
        .check(same_as_sequential())
}

fn table_join_read_back() -> Simulation {
    let topology = || {
        let builder = StreamsBuilder::new("simulated").optimize();
        outer_join_of_tables(&builder);
        builder.build().unwrap_or_else(|error| panic!("{error}"))
    };
    Simulation::of(topology)
        .input("in", utf8(), nullable(int64()), draw_rows)
        .input("other", utf8(), nullable(int64()), draw_rows)
        .check(same_as_sequential())
}

fn outer_join_of_tables(builder: &StreamsBuilder) {
    let left = builder.table("in", "left", Consumed::new(utf8(), int64()));
    let right = builder.table("other", "right", Consumed::new(utf8(), int64()));
    left.outer_join("join", &right, |_, left, right| {
        left.unwrap_or(-1) * 1_000 + right.unwrap_or(-1)
    })
    .to_stream()
    .to_with("out", Produced::new(utf8(), nullable(int64())));
}

/// What a process writes that does not know yet that it has been replaced stays written, so here processes only die.
fn table_join_at_least_once() -> Simulation {
    table_join()
        .config(|config| config.guarantee = Guarantee::AtLeastOnce)
        .faults(Faults::crashes())
        .check(same_rows())
}

fn repartitioned_at_least_once() -> Simulation {
    built(|builder| {
        numbers(builder, "in")
            .select_key(|_, number| format!("g{}", number % 5))
            .repartition("by-group", utf8(), int64(), None)
            .to_with("out", Produced::new(utf8(), int64()));
    })
    .input("in", utf8(), int64(), draw_numbers)
    .config(|config| config.guarantee = Guarantee::AtLeastOnce)
    .check(each_at_least_once())
}

fn foreign_key_join() -> Simulation {
    // When an answer meets its row depends on how the partitions interleave.
    built(|builder| {
        let left = builder.table("in", "left", Consumed::new(utf8(), int64()));
        let right = builder.table("other", "right", Consumed::new(utf8(), int64()));
        let foreign_key = |_: &String, number: &i64| Some(format!("k{}", number % 7));
        left.left_join_foreign_key("join", &right, int64(), foreign_key, |_, left, right| {
            left * 1_000 + right.unwrap_or(-1)
        })
        .to_stream()
        .to("out");
    })
    .input("in", utf8(), nullable(int64()), draw_rows)
    .input("other", utf8(), nullable(int64()), draw_rows)
    .check(same_rows())
}

fn regrouped_table() -> Simulation {
    built(|builder| {
        builder
            .table("in", "rows", Consumed::new(utf8(), int64()))
            .group_by(
                |_, number| (format!("g{}", number % 5), *number),
                Grouped::by(utf8()).value(int64()),
            )
            .aggregate(
                "sum",
                int64(),
                || 0,
                |_, v, sum| sum + v,
                |_, v, sum| sum - v,
            )
            .to_stream()
            .to("out");
    })
    .input("in", utf8(), nullable(int64()), draw_rows)
    .check(same_rows())
}

fn attribution() -> Simulation {
    let topology = || {
        let config = attribution::Config {
            click_window: Duration::from_millis(20),
            conversions: ConversionRules {
                click_window: Duration::from_millis(40),
                view_window: Duration::from_millis(10),
                model: Model::Linear,
            },
            grace: FIVE_MS,
        };
        attribution::topology(&config).unwrap_or_else(|error| panic!("{error}"))
    };
    let impressions = |draw: &mut Draw| draw_impressions(draw, (30, 4));
    let clicks = |draw: &mut Draw| draw_clicks(draw, (20, 5));
    let conversions = |draw: &mut Draw| {
        draw_events(draw, (10, 10), |count, user_id, campaign_id, ts_ms| {
            Conversion {
                conversion_id: format!("v{count}"),
                campaign_id,
                user_id,
                ts_ms,
                value_micros: 100,
                ..Conversion::default()
            }
        })
    };
    Simulation::of(topology)
        .input("impressions", utf8(), json(), impressions)
        .input("clicks", utf8(), json(), clicks)
        .input("conversions", utf8(), json(), conversions)
        .check(same_as_sequential())
}

fn campaign_metrics() -> Simulation {
    let topology = || {
        let config = campaign_metrics::Config {
            grace: Duration::from_secs(5),
        };
        campaign_metrics::topology(&config).unwrap_or_else(|error| panic!("{error}"))
    };
    let impressions = |draw: &mut Draw| draw_impressions(draw, (40, 9_000));
    let clicks = |draw: &mut Draw| draw_clicks(draw, (20, 18_000));
    // Which side updates a row last, and so when, depends on how the partitions interleave.
    Simulation::of(topology)
        .input("impressions", utf8(), json(), impressions)
        .input("clicks", utf8(), json(), clicks)
        .check(same_rows())
}

/// Files of all feeds, with repeats, records that break the contract and late ones;
/// announced in their order, some twice. Nobody knows the creatives, so impressions are quarantined.
fn ingest() -> Simulation {
    let landing = Arc::new(tempfile::tempdir().expect("a temporary directory can be made"));
    let generated = GeneratorConfig {
        impressions: 120,
        users: 10,
        click_rate: 0.4,
        conversion_rate: 0.3,
        bid_requests: 30,
        files_per_feed: 3,
        duplicate_rate: 0.1,
        malformed_rate: 0.1,
        late_rate: 0.1,
        ..GeneratorConfig::default()
    };
    generate(landing.path(), &generated).expect("a temporary directory can be written");
    let listing = events::landing::list(landing.path()).expect("it was written above");
    let object = |file: ListedFile| LandingObject {
        etag: events::landing::etag(landing.path(), &file.path),
        feed: file.feed,
        path: file.path,
        bytes: file.bytes,
        modified_ms: 0,
    };
    let objects: Vec<LandingObject> = listing.files.into_iter().map(object).collect();
    let announcements = move |draw: &mut Draw| {
        let mut announced = Vec::new();
        for (object, time) in objects.iter().zip(0..) {
            for _ in 0..=u8::from(draw.one_in(3)) {
                announced.push((object.feed.name().to_owned(), object.clone(), time));
            }
        }
        announced
    };
    let topology = move || {
        let config = ingest::Config {
            landing: landing.path().to_owned(),
            grace: Duration::from_secs(300),
            id_ttl: ingest::ID_TTL,
        };
        let registry_log = Arc::new(EmbeddedLog::in_memory());
        let registry = TopicRegistry::open(registry_log, &TopicRegistryOptions::default())
            .expect("a log in memory takes a registry");
        ingest::topology(&config, ingest::bid_requests(Arc::new(registry)))
            .unwrap_or_else(|error| panic!("{error}"))
    };
    Simulation::of(topology)
        .input(ingest::CREATIVES, utf8(), json::<Creative>(), |_| {
            Vec::new()
        })
        .input(ingest::OBJECTS, utf8(), json(), announcements)
        .check(same_order_per_key())
}

fn draw_impressions(draw: &mut Draw, how_many: (u64, u64)) -> Vec<(String, Impression, i64)> {
    draw_events(draw, how_many, |count, user_id, campaign_id, ts_ms| {
        Impression {
            impression_id: format!("i{count}"),
            campaign_id: Some(campaign_id),
            user_id,
            ts_ms,
            cost_micros: 7,
            ..Impression::default()
        }
    })
}

fn draw_clicks(draw: &mut Draw, how_many: (u64, u64)) -> Vec<(String, Click, i64)> {
    draw_events(draw, how_many, |count, user_id, campaign_id, ts_ms| Click {
        click_id: format!("c{count}"),
        campaign_id,
        user_id,
        ts_ms,
        ..Click::default()
    })
}

/// At least `least` events of four users and two campaigns, less than `gap_ms` apart, as `make` makes them of their number,
/// user, campaign and time; by user.
fn draw_events<E>(
    draw: &mut Draw,
    (least, gap_ms): (u64, u64),
    make: impl Fn(u64, String, String, i64) -> E,
) -> Vec<(String, E, i64)> {
    let mut time = 0;
    (0..least + draw.below(least))
        .map(|count| {
            time += number(draw, gap_ms);
            let (user, campaign) = (draw.below(4), draw.below(2));
            let user = format!("u{user}");
            let event = make(count, user.clone(), format!("c{campaign}"), time);
            (user, event, time)
        })
        .collect()
}
