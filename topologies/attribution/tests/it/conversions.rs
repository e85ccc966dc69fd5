//! Conversions: which touches of a user and campaign share them. The operator has tests of its own.

use std::time::Duration;

use attribution::{
    ATTRIBUTED_CONVERSIONS, CLICKS, CONVERSIONS, Config, ConversionAttribution, ConversionRules,
    IMPRESSIONS, Status, topology,
};
use events::{Click, Conversion, Impression};
use processor_core::dsl::Model;
use processor_core::serde::{json, utf8};
use processor_core::testing::TopologyTestDriver;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// 2024-01-01T00:00:00Z.
const START: i64 = 1_704_067_200_000;

fn driver(model: Model) -> TopologyTestDriver {
    let conversions = ConversionRules {
        model,
        ..ConversionRules::default()
    };
    let config = Config {
        conversions,
        grace: Duration::from_secs(60),
        ..Config::default()
    };
    TopologyTestDriver::new(topology(&config).unwrap()).unwrap()
}

fn impression(driver: &mut TopologyTestDriver, user: &str, id: &str, at: i64) {
    let impression = Impression {
        impression_id: id.to_owned(),
        campaign_id: Some("c".to_owned()),
        user_id: user.to_owned(),
        ts_ms: START + at,
        ..Impression::default()
    };
    let input = driver.input(IMPRESSIONS, utf8(), json());
    input.pipe(driver, user.to_owned(), impression, START + at);
}

fn click(driver: &mut TopologyTestDriver, user: &str, id: &str, at: i64) {
    let click = Click {
        click_id: id.to_owned(),
        campaign_id: "c".to_owned(),
        user_id: user.to_owned(),
        ts_ms: START + at,
        ..Click::default()
    };
    let input = driver.input(CLICKS, utf8(), json());
    input.pipe(driver, user.to_owned(), click, START + at);
}

fn conversion(driver: &mut TopologyTestDriver, id: &str, value_micros: i64, at: i64) {
    let conversion = Conversion {
        conversion_id: id.to_owned(),
        campaign_id: "c".to_owned(),
        user_id: "u".to_owned(),
        ts_ms: START + at,
        conversion_type: "purchase".to_owned(),
        value_micros,
        ..Conversion::default()
    };
    let input = driver.input(CONVERSIONS, utf8(), json());
    input.pipe(driver, "u".to_owned(), conversion, START + at);
}

/// Results as `conversion status: touch=micros …`.
fn told(driver: &mut TopologyTestDriver) -> Vec<String> {
    let out = driver.output(
        ATTRIBUTED_CONVERSIONS,
        utf8(),
        json::<ConversionAttribution>(),
    );
    let results = out.read_key_values(driver).into_iter();
    let result = |(key, result): (String, ConversionAttribution)| {
        assert_eq!(key, result.conversion.conversion_id);
        let credits = result.conversion.credits.iter();
        let credits: String = credits
            .map(|c| format!(" {:?} {}={}", c.touch, c.touch_id, c.credit_micros))
            .collect();
        let status = match result.status {
            Status::Provisional => "so far",
            Status::Final => "final",
        };
        format!("{key} {status}:{credits}")
    };
    results.map(result).collect()
}

#[test]
fn a_click_of_seven_days_beats_a_view_of_one() {
    let mut driver = driver(Model::Last);
    click(&mut driver, "u", "k", 0);
    impression(&mut driver, "u", "i", 6 * DAY_MS);
    conversion(&mut driver, "within both", 5, 7 * DAY_MS);
    conversion(&mut driver, "beyond both", 5, 7 * DAY_MS + 1);
    impression(&mut driver, "u", "j", 7 * DAY_MS);
    conversion(&mut driver, "after a view", 5, 7 * DAY_MS + 1);
    impression(&mut driver, "other", "tick", 30 * DAY_MS);
    click(&mut driver, "other", "tick", 30 * DAY_MS);
    assert_eq!(
        told(&mut driver),
        [
            "within both final: Click k=5",
            "after a view final: Impression j=5",
            "beyond both final: Impression j=5"
        ]
    );
}

#[test]
fn several_clicks_share_the_value_and_a_refund_takes_it_back() {
    let mut driver = driver(Model::Linear);
    for n in 0..3 {
        click(&mut driver, "u", &format!("k{n}"), n * MINUTE_MS);
    }
    conversion(&mut driver, "bought", 100, 5 * MINUTE_MS);
    conversion(&mut driver, "returned", -100, 5 * MINUTE_MS);
    driver.end_of_input();
    let expected = [
        "bought so far: Click k0=34 Click k1=33 Click k2=33",
        "returned so far: Click k0=-34 Click k1=-33 Click k2=-33",
    ];
    assert_eq!(told(&mut driver), expected);
    click(&mut driver, "other", "tick", DAY_MS);
    let expected = expected.map(|told| told.replace("so far", "final"));
    assert_eq!(told(&mut driver), expected);
}
