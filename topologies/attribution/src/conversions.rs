//! Conversions credited to clicks, or else to views.
//!
//! Eligible are the clicks of the same user and campaign within the click window before a conversion; if there are none, the
//! impressions within the view window. Both ends of a window are included. The model shares the conversion among them, in
//! micros that add up to its value. The value may be 0 or, for a refund, negative.

use events::{AttributedConversion, Click, Conversion, Impression, TouchCredit, TouchKind};
use processor_core::dsl::{
    self, Attributed, AttributionRules, Credit, KStream, Produced, Revisions, Touch, TouchWindow,
};
use processor_core::serde::{json, unit, utf8};
use serde::{Deserialize, Serialize};

use crate::{Config, Status};

/// Topic of results, keyed by conversion id, JSON [`ConversionAttribution`]s.
pub const ATTRIBUTED_CONVERSIONS: &str = "attributed-conversions";

const CLICKS: &str = "clicks";
const IMPRESSIONS: &str = "impressions";

/// A conversion with the touches that share it, as it goes to [`ATTRIBUTED_CONVERSIONS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversionAttribution {
    /// Whether it can still change.
    pub status: Status,
    /// 1 for the first result of a conversion; the greatest one counts.
    pub revision: u32,
    /// The result.
    #[serde(flatten)]
    pub conversion: AttributedConversion,
}

/// Adds the attribution of conversions to a topology; all streams are keyed by user id.
pub fn attribute_conversions(
    impressions: &KStream<String, Impression>,
    clicks: &KStream<String, Click>,
    conversions: &KStream<String, Conversion>,
    config: &Config,
) {
    let rules = AttributionRules::of(config.conversions.model)
        .grace(config.grace)
        .revisions(Revisions::FinalAndEndOfInput);
    let attribution = conversions.attribute("conversion-credit", rules, unit(), |_, conversion| {
        dsl::Conversion::new(&conversion.conversion_id)
            .campaign(&conversion.campaign_id)
            .value_micros(conversion.value_micros)
    });
    let window = TouchWindow::of(config.conversions.click_window).precedence(2);
    attribution.touches(CLICKS, clicks, window, |_, click| {
        Touch::new(click.click_id, ()).campaign(click.campaign_id)
    });
    let window = TouchWindow::of(config.conversions.view_window).precedence(1);
    attribution.touches(IMPRESSIONS, impressions, window, |_, impression| {
        let campaign = impression.campaign().to_owned();
        Touch::new(impression.impression_id, ()).campaign(campaign)
    });
    attribution
        .results()
        .map_values(|_, result| ConversionAttribution::of(result))
        .to_with(ATTRIBUTED_CONVERSIONS, Produced::new(utf8(), json()));
}

impl ConversionAttribution {
    fn of(attributed: Attributed<Conversion, ()>) -> Self {
        let credit = |credit: Credit<()>| TouchCredit {
            touch: match credit.stream.as_str() {
                CLICKS => TouchKind::Click,
                _ => TouchKind::Impression,
            },
            touch_id: credit.touch_id,
            touch_ts: credit.timestamp,
            credit_micros: credit.credit_micros,
        };
        let conversion = attributed.conversion;
        Self {
            status: attributed.status.into(),
            revision: attributed.revision,
            conversion: AttributedConversion {
                conversion_id: conversion.conversion_id,
                campaign_id: conversion.campaign_id,
                user_id: conversion.user_id,
                conversion_type: conversion.conversion_type,
                conversion_ts: conversion.ts_ms,
                value_micros: conversion.value_micros,
                currency: conversion.currency,
                credits: attributed.credits.into_iter().map(credit).collect(),
                truncated: attributed.truncated,
            },
        }
    }
}
