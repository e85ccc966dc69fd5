//! Whole runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use advertisex::SCHEMAS;
use attribution::ConversionRules;
use events::TouchKind;
use events::generator::{GeneratorConfig, generate};
use events::reference::{Definitions, Sharing, Truth, evaluate};
use processor_core::dsl::Model;
use processor_core::log::embedded::EmbeddedLog;
use processor_core::log::{Log, read_to_end};
use processor_core::serde::Serde as _;
use processor_core::serde::registry::{TopicRegistry, TopicRegistryOptions};
use serde_json::{Value, json};

use crate::support::{buckets, demo, lines, put, run};

const FILES: [&str; 5] = [
    "attributed_clicks.jsonl",
    "attributed_conversions.jsonl",
    "campaign_minutes.jsonl",
    "buckets.json",
    "quarantine.jsonl",
];

fn contents(out: &Path) -> Vec<String> {
    FILES
        .map(|file| fs::read_to_string(out.join(file)).unwrap())
        .into()
}

fn assert_is_the_truth(out: &Path, truth: &Truth) {
    let clicks: Vec<Value> = truth
        .attributed_clicks
        .iter()
        .map(|click| {
            json!({
                "click_id": click.click_id,
                "campaign_id": click.campaign_id,
                "click_ts": click.click_ts,
                "impression_id": click.impression_id,
                "impression_ts": click.impression_ts,
            })
        })
        .collect();
    assert_eq!(lines(out, "attributed_clicks.jsonl"), clicks);
    let conversions: Vec<Value> = truth
        .attributed_conversions
        .iter()
        .map(|conversion| {
            let mut row = serde_json::to_value(conversion).unwrap();
            row.as_object_mut().unwrap().remove("user_id");
            row
        })
        .collect();
    assert_eq!(lines(out, "attributed_conversions.jsonl"), conversions);
    let minutes: Vec<Value> = truth
        .campaign_minutes
        .iter()
        .map(|minute| serde_json::to_value(minute).unwrap())
        .collect();
    assert_eq!(lines(out, "campaign_minutes.jsonl"), minutes);
    let text = fs::read_to_string(out.join("buckets.json")).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found, json!({ "files": truth.files }));
}

fn dirty(seed: u64) -> GeneratorConfig {
    GeneratorConfig {
        seed,
        impressions: 4_000,
        users: 300,
        click_rate: 0.1,
        bid_requests: 50,
        duplicate_rate: 0.02,
        malformed_rate: 0.02,
        late_rate: 0.01,
        disorder_ms: 60_000,
        ..GeneratorConfig::default()
    }
}

#[test]
fn dirty_synthetic_input_gives_the_results_of_the_definitions() {
    for seed in [1, 2] {
        let directory = tempfile::tempdir().unwrap();
        let landing = directory.path().join("landing");
        let truth = generate(&landing, &dirty(seed)).unwrap();
        let out = directory.path().join("out");
        run(&demo(&landing, &out)).unwrap();
        assert_is_the_truth(&out, &truth);
    }
}

/// More conversions of each user and campaign than usual, and views that nobody clicked on.
fn converting(seed: u64) -> GeneratorConfig {
    GeneratorConfig {
        users: 40,
        campaigns: 3,
        conversion_rate: 0.5,
        // Over an hour.
        per_second: 1,
        ..dirty(seed)
    }
}

#[test]
fn conversions_are_shared_among_clicks_or_else_views_as_the_definitions_say() {
    for (model, sharing) in [
        (Model::Last, Sharing::Last),
        (Model::First, Sharing::First),
        (Model::Linear, Sharing::Linear),
        (Model::POSITION, Sharing::Position),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let landing = directory.path().join("landing");
        let definitions = Definitions {
            // So short that some conversions have no click.
            conversion_click_window_ms: 60_000,
            conversion_view_window_ms: 600_000,
            sharing,
            ..Definitions::default()
        };
        let config = GeneratorConfig {
            definitions,
            ..converting(6)
        };
        let truth = generate(&landing, &config).unwrap();
        let first = |touch| {
            let credited = truth.attributed_conversions.iter();
            credited
                .filter(|c| {
                    c.credits
                        .first()
                        .is_some_and(|credit| credit.touch == touch)
                })
                .count()
        };
        assert!(first(TouchKind::Click) > 10 && first(TouchKind::Impression) > 10);
        let out = directory.path().join("out");
        let mut demo = demo(&landing, &out);
        demo.conversions = ConversionRules {
            click_window: Duration::from_secs(60),
            view_window: Duration::from_secs(600),
            model,
        };
        run(&demo).unwrap();
        assert_is_the_truth(&out, &truth);
    }
}

#[test]
fn the_shipped_sample_gives_the_results_of_the_definitions_and_says_what_is_not_real() {
    let sample =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../samples/open-bandit/landing");
    let directory = tempfile::tempdir().unwrap();
    let printed = run(&demo(&sample, directory.path())).unwrap();
    assert!(
        printed.contains("Not in the log, so made here"),
        "{printed}"
    );
    let truth = evaluate(&sample, &Definitions::default()).unwrap();
    assert_eq!(truth.attributed_clicks.len(), 287);
    assert_is_the_truth(directory.path(), &truth);
}

#[test]
fn a_second_run_changes_nothing_and_new_files_continue() {
    let directory = tempfile::tempdir().unwrap();
    let (landing, out) = (
        directory.path().join("landing"),
        directory.path().join("out"),
    );
    generate(&landing, &dirty(3)).unwrap();
    run(&demo(&landing, &out)).unwrap();
    let first = contents(&out);
    run(&demo(&landing, &out)).unwrap();
    assert_eq!(contents(&out), first);

    // After the generated files in byte order, so the feed is read in the same order as from scratch.
    put(
        &landing,
        "impressions/zz.json",
        "{\"impression_id\":\"new\",\"creative_id\":\"cr-0-0\",\"user_id\":\"new user\",\"timestamp\":\"2024-01-03T00:00:00Z\",\"website\":\"w\"}\n",
    );
    put(
        &landing,
        "clicks/zz.csv",
        "timestamp,user_id,campaign_id,click_id\n2024-01-03T00:00:01Z,new user,c-0,new\n",
    );
    run(&demo(&landing, &out)).unwrap();
    assert_is_the_truth(&out, &evaluate(&landing, &Definitions::default()).unwrap());
}

#[test]
fn a_run_that_is_stopped_and_started_again_ends_as_an_undisturbed_one() {
    let directory = tempfile::tempdir().unwrap();
    let (landing, out) = (
        directory.path().join("landing"),
        directory.path().join("out"),
    );
    let truth = generate(&landing, &dirty(4)).unwrap();
    // Already set: the run stops after its first round, as often as it is started.
    let stop = AtomicBool::new(true);
    for _ in 0..3 {
        demo(&landing, &out)
            .run(&stop, &mut |_| panic!("the end was not reached"))
            .unwrap();
    }
    stop.store(false, Ordering::SeqCst);
    run(&demo(&landing, &out)).unwrap();
    assert_is_the_truth(&out, &truth);
}

#[test]
fn state_of_another_input_or_rule_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let landings = ["a", "b"].map(|name| directory.path().join(name));
    for landing in &landings {
        put(landing, "clicks/a.csv", "timestamp,user_id,campaign_id\n");
    }
    run(&demo(&landings[0], &out)).unwrap();
    let error = run(&demo(&landings[1], &out)).unwrap_err().to_string();
    assert!(error.contains("belongs to landing directory"), "{error}");
    let mut other_grace = demo(&landings[0], &out);
    other_grace.grace = std::time::Duration::from_secs(1);
    assert!(run(&other_grace).is_err());
    assert_eq!(buckets(&out, "clicks/a.csv"), ([0; 5], None));
}

#[test]
fn bid_requests_go_on_as_avro_with_their_schema_in_the_registry() {
    let directory = tempfile::tempdir().unwrap();
    let (landing, out) = (
        directory.path().join("landing"),
        directory.path().join("out"),
    );
    generate(&landing, &dirty(5)).unwrap();
    run(&demo(&landing, &out)).unwrap();

    let log = Arc::new(EmbeddedLog::open(&out.join("state/log")).unwrap());
    let options = TopicRegistryOptions {
        topic: SCHEMAS.to_owned(),
        ..TopicRegistryOptions::default()
    };
    let registry = TopicRegistry::open(Arc::clone(&log) as Arc<dyn Log>, &options).unwrap();
    let serde = ingest::bid_requests(Arc::new(registry));
    assert_eq!(serde.register().unwrap().0, 1, "it is there already");
    let mut ids = Vec::new();
    read_to_end(&*log, ingest::BID_REQUESTS, &mut |record| {
        let value = record.value.unwrap();
        assert_eq!(value[..5], [0, 0, 0, 0, 1], "magic byte and schema id");
        ids.push(serde.deserialize(&value).unwrap().id);
        Ok(())
    })
    .unwrap();
    ids.sort();
    let expected: Vec<String> = (0..50).map(|n| format!("b{n:09}")).collect();
    assert_eq!(ids, expected);
}
