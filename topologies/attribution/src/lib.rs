//! Click-through attribution: each click is credited to the latest impression before it.
//!
//! A click at `t` is credited to the latest impression of the same user and campaign with `t − window ≤ ts ≤ t`, both ends
//! included; at equal times the greatest impression id wins. An impression may be credited to several clicks. This is the
//! operator [`attribute`](KStream::attribute) with clicks as conversions and impressions as touches: its page says when
//! results are final and what is kept.
//!
//! **When it emits.** Each click gives one *final* result, once no impression that could change it can come any more. At the
//! end of a bounded run the clicks that still wait give a *provisional* result as well, once for each change of it; they
//! stay open, and a later run with more input finalises them.
//!
//! **Late records.** Lateness is decided where the feeds are read. An impression or click that lies no more than the grace
//! below the largest timestamp before it in its feed is always in time here.

use std::time::Duration;

use events::{AttributedClick, Click, Impression};
use processor_core::dsl::{
    Attributed, AttributionRules, AttributionStatus, Consumed, Conversion, KStream, Model,
    Produced, Revisions, StreamsBuilder, Touch, TouchWindow,
};
use processor_core::serde::{json, unit, utf8};
use processor_core::{Topology, TopologyError};
use serde::{Deserialize, Serialize};

/// Topic of valid impressions, keyed by user id, JSON [`Impression`]s.
pub const IMPRESSIONS: &str = "impressions";
/// Topic of valid clicks, keyed by user id, JSON [`Click`]s.
pub const CLICKS: &str = "clicks";
/// Topic of results, keyed by click id, JSON [`Attribution`]s.
pub const ATTRIBUTED_CLICKS: &str = "attributed-clicks";

/// How clicks are attributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How long before a click an impression may be to be credited with it.
    pub click_window: Duration,
    /// How far below the largest timestamp before it in its feed a record may be.
    pub grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            click_window: Duration::from_secs(30 * 60),
            grace: Duration::from_secs(5 * 60),
        }
    }
}

/// Whether a result can still change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As things stood when a bounded run ended; a later result for the same click replaces it.
    Provisional,
    /// Will not change.
    Final,
}

/// A click with its credited impression, as it goes to [`ATTRIBUTED_CLICKS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribution {
    /// Whether it can still change.
    pub status: Status,
    /// The result.
    #[serde(flatten)]
    pub click: AttributedClick,
}

/// The attribution topology on its own: [`IMPRESSIONS`] and [`CLICKS`] to [`ATTRIBUTED_CLICKS`].
///
/// # Errors
/// Never with this configuration; the builder checks names and serdes.
pub fn topology(config: &Config) -> Result<Topology, TopologyError> {
    let builder = StreamsBuilder::new("attribution");
    let impressions = builder.stream(IMPRESSIONS, Consumed::new(utf8(), json()));
    let clicks = builder.stream(CLICKS, Consumed::new(utf8(), json()));
    attribute(&impressions, &clicks, config);
    builder.build()
}

/// Adds attribution to a topology; both streams are keyed by user id.
pub fn attribute(
    impressions: &KStream<String, Impression>,
    clicks: &KStream<String, Click>,
    config: &Config,
) {
    let rules = AttributionRules::of(Model::Last)
        .grace(config.grace)
        .revisions(Revisions::FinalAndEndOfInput);
    let attribution = clicks.attribute("click-through", rules, unit(), |_, click| {
        Conversion::new(&click.click_id).campaign(&click.campaign_id)
    });
    let window = TouchWindow::of(config.click_window);
    attribution.touches("impressions", impressions, window, |_, impression| {
        let campaign = impression.campaign().to_owned();
        Touch::new(impression.impression_id, ()).campaign(campaign)
    });
    attribution
        .results()
        .map_values(|_, result| Attribution::of(result))
        .to_with(ATTRIBUTED_CLICKS, Produced::new(utf8(), json()));
}

impl Attribution {
    fn of(attributed: Attributed<Click, ()>) -> Self {
        let Attributed {
            status,
            conversion: click,
            mut credits,
            ..
        } = attributed;
        let impression = credits.pop();
        Self {
            status: match status {
                AttributionStatus::Provisional | AttributionStatus::Revised => Status::Provisional,
                AttributionStatus::Final => Status::Final,
            },
            click: AttributedClick {
                click_id: click.click_id,
                campaign_id: click.campaign_id,
                user_id: click.user_id,
                click_ts: click.ts_ms,
                impression_ts: impression.as_ref().map(|touch| touch.timestamp),
                impression_id: impression.map(|touch| touch.touch_id),
            },
        }
    }
}
