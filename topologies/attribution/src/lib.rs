//! Click-through attribution: each click is credited to the latest impression before it.
//!
//! A click at `t` is credited to the latest impression of the same user and campaign with `t − window ≤ ts ≤ t`, both ends
//! included; at equal times the greatest impression id wins. An impression may be credited to several clicks.
//!
//! **When it emits.** Each click gives one *final* result, once no impression that could change it can come any more: when
//! the time of *both* inputs is beyond `t + grace`. The time of an input is the largest timestamp it has brought so far,
//! and the operator's time is the smaller of the two, so neither feed's head start makes the other one late. At the end of
//! a bounded run the clicks that still wait give a *provisional* result as well; they stay open, and a later run with more
//! input finalises them.
//!
//! **Late records.** Lateness is decided where the feeds are read. An impression or click that lies no more than the grace
//! below the largest timestamp before it in its feed is always in time here.

use std::ops::ControlFlow;
use std::time::Duration;

use events::{AttributedClick, Click, Impression};
use processor_core::dsl::{Consumed, KStream, Produced, StreamsBuilder};
use processor_core::error::Result;
use processor_core::processor::{
    EventBuffer, KeyValue, ObservedTime, Processor, ProcessorContext, Punctuated, Punctuation,
    Setup,
};
use processor_core::serde::{json, utf8};
use processor_core::{Record, Topology, TopologyError};
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
    attribute(&builder, &impressions, &clicks, config);
    builder.build()
}

/// Adds attribution to a topology; both streams are keyed by user id.
pub fn attribute(
    builder: &StreamsBuilder,
    impressions: &KStream<String, Impression>,
    clicks: &KStream<String, Click>,
    config: &Config,
) {
    let config = *config;
    let touches = builder.event_buffer(
        "attribution-touches",
        utf8(),
        json::<Touch>(),
        config.click_window + config.grace,
    );
    let open = builder.key_value_store("attribution-open-clicks", utf8(), json::<Click>());
    let impressions = impressions.map_values(|_, impression| Event::Impression(impression));
    let clicks = clicks.map_values(|_, click| Event::Click(click));
    impressions
        .merge(&clicks)
        .process("attribution", (touches, open), move |(touches, open)| {
            ClickThrough {
                config,
                touches,
                open,
                impressions: None,
                clicks: None,
                earliest: None,
            }
        })
        .to_with(ATTRIBUTED_CLICKS, Produced::new(utf8(), json()));
}

/// What the processor takes, in the order of time.
#[derive(Debug, Clone)]
enum Event {
    Impression(Impression),
    Click(Click),
}

/// What is kept of an impression.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Touch {
    #[serde(rename = "i")]
    impression_id: String,
}

/// Keeps the touches of each user and campaign for as long as a click may need them, and each click until it is final.
struct ClickThrough {
    config: Config,
    touches: EventBuffer<String, Touch>,
    /// Clicks by time, then id: the order in which they become final.
    open: KeyValue<String, Click>,
    impressions: Option<ObservedTime>,
    clicks: Option<ObservedTime>,
    /// No open click is older; spares a look into the store for most records. Unknown after a start.
    earliest: Option<i64>,
}

impl ClickThrough {
    /// The smaller of the inputs' times; −1 until both have brought a record.
    fn time(&self) -> i64 {
        let time =
            |observed: &Option<ObservedTime>| observed.as_ref().map_or(-1, ObservedTime::now);
        time(&self.impressions).min(time(&self.clicks))
    }

    fn latest_touch(&self, click: &Click) -> Result<Option<(i64, String)>> {
        let mut latest: Option<(i64, String)> = None;
        let from = click.ts_ms.saturating_sub(millis(self.config.click_window));
        let key = touch_key(&click.user_id, &click.campaign_id);
        self.touches
            .fetch(&key, from, click.ts_ms, |timestamp, touch| {
                latest = latest.take().max(Some((timestamp, touch.impression_id)));
                ControlFlow::Continue(())
            })?;
        Ok(latest)
    }

    fn result(&self, click: &Click, status: Status) -> Result<Record<String, Attribution>> {
        let (impression_ts, impression_id) = self.latest_touch(click)?.unzip();
        let result = AttributedClick {
            click_id: click.click_id.clone(),
            campaign_id: click.campaign_id.clone(),
            user_id: click.user_id.clone(),
            click_ts: click.ts_ms,
            impression_id,
            impression_ts,
        };
        let attribution = Attribution {
            status,
            click: result,
        };
        Ok(Record::new(
            click.click_id.clone(),
            attribution,
            click.ts_ms,
        ))
    }

    /// Open clicks before `end`, in order.
    fn open_before(&self, end: Option<i64>) -> Result<Vec<(String, Click)>> {
        let mut clicks = Vec::new();
        let end = end.map(|end| ordered(end, ""));
        self.open.range(None, end.as_ref(), |key, click, _| {
            clicks.push((key, click));
            ControlFlow::Continue(())
        })?;
        Ok(clicks)
    }

    /// Emits the clicks that nothing can change any more, and lets go of touches that no click can need any more.
    fn move_time(
        &mut self,
        time: i64,
        context: &mut ProcessorContext<'_, '_, String, Attribution>,
    ) -> Result {
        let grace = millis(self.config.grace);
        // A click at exactly `time - grace` could still meet an impression of the same millisecond.
        let final_before = time.saturating_sub(grace);
        if self.earliest.is_none_or(|earliest| earliest < final_before) {
            for (key, click) in self.open_before(Some(final_before))? {
                context.forward(self.result(&click, Status::Final)?)?;
                self.open.delete(&key, click.ts_ms)?;
            }
            self.earliest = self.first_open()?;
        }
        self.touches
            .expire_before(final_before.saturating_sub(millis(self.config.click_window)));
        Ok(())
    }

    fn first_open(&self) -> Result<Option<i64>> {
        let mut first = Some(i64::MAX);
        self.open.range(None, None, |_, click, _| {
            first = Some(click.ts_ms);
            ControlFlow::Break(())
        })?;
        Ok(first)
    }
}

impl Processor<String, Event> for ClickThrough {
    type KOut = String;
    type VOut = Attribution;

    fn init(&mut self, setup: &mut Setup<'_, '_>) -> Result {
        self.impressions = Some(setup.observed_time("impressions"));
        self.clicks = Some(setup.observed_time("clicks"));
        setup.schedule(Punctuation::EndOfInput);
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<String, Event>,
        context: &mut ProcessorContext<'_, '_, String, Attribution>,
    ) -> Result {
        let before = self.time();
        match record.value {
            Event::Impression(impression) => {
                observe(self.impressions.as_ref(), impression.ts_ms, context);
                let key = touch_key(&impression.user_id, impression.campaign());
                let offset = context.metadata().map_or(0, |metadata| metadata.offset);
                let touch = Touch {
                    impression_id: impression.impression_id,
                };
                self.touches
                    .append(&key, &touch, impression.ts_ms, offset)?;
            }
            Event::Click(click) => {
                observe(self.clicks.as_ref(), click.ts_ms, context);
                self.open
                    .put(&ordered(click.ts_ms, &click.click_id), &click, click.ts_ms)?;
                self.earliest = self.earliest.map(|earliest| earliest.min(click.ts_ms));
            }
        }
        let time = self.time();
        if time > before {
            self.move_time(time, context)?;
        }
        Ok(())
    }

    fn punctuate(
        &mut self,
        _: Punctuated,
        context: &mut ProcessorContext<'_, '_, String, Attribution>,
    ) -> Result {
        for (_, click) in self.open_before(None)? {
            context.forward(self.result(&click, Status::Provisional)?)?;
        }
        Ok(())
    }
}

fn observe(
    time: Option<&ObservedTime>,
    timestamp: i64,
    context: &ProcessorContext<'_, '_, String, Attribution>,
) {
    if let Some(time) = time {
        context.observe(time, timestamp);
    }
}

/// Ids may contain anything, so their border is marked by the length of the first.
fn touch_key(user: &str, campaign: &str) -> String {
    format!("{}:{user}{campaign}", user.len())
}

/// A key that sorts by time, then id.
fn ordered(timestamp: i64, id: &str) -> String {
    format!("{:016x}{id}", timestamp.max(0))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
