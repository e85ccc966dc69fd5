//! Attribution: which impression a click came of, and which clicks and impressions a conversion.
//!
//! Both are the operator [`attribute`](processor_core::dsl::KStream::attribute) with rules of their own: clicks are credited
//! to [impressions](attribute_clicks), conversions to [clicks or else impressions](attribute_conversions). Its page says when
//! results are final and what is kept.
//!
//! **When it emits.** Each click and conversion gives one *final* result, once no touch that could change it can come any
//! more. At the end of a bounded run those that still wait give a *provisional* result as well, once for each change of it;
//! they stay open, and a later run with more input finalises them.
//!
//! **Late records.** Lateness is decided where the feeds are read. A record that lies no more than the grace below the
//! largest timestamp before it in its feed is always in time here.

mod click_through;
mod conversions;

use std::time::Duration;

use processor_core::dsl::{AttributionStatus, Consumed, Model, StreamsBuilder};
use processor_core::serde::{json, utf8};
use processor_core::{Topology, TopologyError};
use serde::{Deserialize, Serialize};

pub use click_through::{ATTRIBUTED_CLICKS, Attribution, attribute_clicks};
pub use conversions::{ATTRIBUTED_CONVERSIONS, ConversionAttribution, attribute_conversions};

/// Topic of valid impressions, keyed by user id, JSON [`Impression`](events::Impression)s.
pub const IMPRESSIONS: &str = "impressions";
/// Topic of valid clicks, keyed by user id, JSON [`Click`](events::Click)s.
pub const CLICKS: &str = "clicks";
/// Topic of valid conversions, keyed by user id, JSON [`Conversion`](events::Conversion)s.
pub const CONVERSIONS: &str = "conversions";

/// How clicks and conversions are attributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How long before a click an impression may be to be credited with it.
    pub click_window: Duration,
    /// How conversions are attributed.
    pub conversions: ConversionRules,
    /// How far below the largest timestamp before it in its feed a record may be.
    pub grace: Duration,
}

/// How conversions are attributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConversionRules {
    /// How long before a conversion a click may be to be credited with it.
    pub click_window: Duration,
    /// How long before a conversion an impression may be to be credited with it, where there is no such click.
    pub view_window: Duration,
    /// How several touches share a conversion.
    pub model: Model,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for ConversionRules {
    fn default() -> Self {
        Self {
            click_window: 7 * DAY,
            view_window: DAY,
            model: Model::Last,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            click_window: Duration::from_secs(30 * 60),
            conversions: ConversionRules::default(),
            grace: Duration::from_secs(5 * 60),
        }
    }
}

/// Whether a result can still change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As things stood when a bounded run ended; a later result for the same click or conversion replaces it.
    Provisional,
    /// Will not change.
    Final,
}

impl From<AttributionStatus> for Status {
    fn from(status: AttributionStatus) -> Self {
        match status {
            AttributionStatus::Provisional | AttributionStatus::Revised => Self::Provisional,
            AttributionStatus::Final => Self::Final,
        }
    }
}

/// The attribution topology on its own: [`IMPRESSIONS`], [`CLICKS`] and [`CONVERSIONS`] to [`ATTRIBUTED_CLICKS`] and
/// [`ATTRIBUTED_CONVERSIONS`].
///
/// # Errors
/// When the model of conversions makes no sense.
pub fn topology(config: &Config) -> Result<Topology, TopologyError> {
    let builder = StreamsBuilder::new("attribution");
    let impressions = builder.stream(IMPRESSIONS, Consumed::new(utf8(), json()));
    let clicks = builder.stream(CLICKS, Consumed::new(utf8(), json()));
    let conversions = builder.stream(CONVERSIONS, Consumed::new(utf8(), json()));
    attribute_clicks(&impressions, &clicks, config);
    attribute_conversions(&impressions, &clicks, &conversions, config);
    builder.build()
}
