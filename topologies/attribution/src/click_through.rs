//! Clicks credited to impressions.
//!
//! A click at `t` is credited to the latest impression of the same user and campaign with `t − window ≤ ts ≤ t`, both ends
//! included; at equal times the greatest impression id wins. An impression may be credited to several clicks.

use events::{AttributedClick, Click, Impression};
use processor_core::dsl::{
    Attributed, AttributionRules, Conversion, KStream, Model, Produced, Revisions, Touch,
    TouchWindow,
};
use processor_core::serde::{json, unit, utf8};
use serde::{Deserialize, Serialize};

use crate::{Config, Status};

/// Topic of results, keyed by click id, JSON [`Attribution`]s.
pub const ATTRIBUTED_CLICKS: &str = "attributed-clicks";

/// A click with its credited impression, as it goes to [`ATTRIBUTED_CLICKS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribution {
    /// Whether it can still change.
    pub status: Status,
    /// The result.
    #[serde(flatten)]
    pub click: AttributedClick,
}

/// Adds click-through attribution to a topology; both streams are keyed by user id.
pub fn attribute_clicks(
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
            status: status.into(),
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
