//! Click-through attribution: each click is credited to the latest impression before it.
//!
//! A click at `t` is credited to the latest impression of the same user and campaign with `t − window ≤ ts ≤ t`, both ends
//! included; at equal times the greatest impression id wins. An impression may be credited to several clicks.
//!
//! **When it emits.** Each click gives one *final* result, once no impression that could change it can come any more: when
//! the impressions' time, the largest timestamp they have brought so far, is beyond `t + grace`. A click that comes after
//! that is final at once; a quiet click feed delays nothing. At the end of a bounded run the clicks that still wait give a
//! *provisional* result as well, once for each change of it; they stay open, and a later run with more input finalises
//! them.
//!
//! **What is kept.** Touches go when no click can need them: below the smaller of both inputs' times, less grace and
//! window, so neither feed's head start makes the other one late.
//!
//! **Late records.** Lateness is decided where the feeds are read. An impression or click that lies no more than the grace
//! below the largest timestamp before it in its feed is always in time here.

use std::ops::ControlFlow;
use std::time::Duration;

use events::{AttributedClick, Click, Impression};
use processor_core::clock::millis;
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
    let open = builder.key_value_store("attribution-open-clicks", utf8(), json::<OpenClick>());
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

/// A click whose result is not final.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct OpenClick {
    #[serde(flatten)]
    click: Click,
    /// The result that an end of input has made known; the next one repeats nothing.
    #[serde(default, rename = "told", skip_serializing_if = "Option::is_none")]
    provisional: Option<AttributedClick>,
}

/// Keeps the touches of each user and campaign for as long as a click may need them, and each click until it is final.
struct ClickThrough {
    config: Config,
    touches: EventBuffer<String, Touch>,
    /// Clicks by time, then id: the order in which they become final.
    open: KeyValue<String, OpenClick>,
    impressions: Option<ObservedTime>,
    clicks: Option<ObservedTime>,
    /// No open click is older; spares a look into the store for most records. Unknown after a start.
    earliest: Option<i64>,
}

impl ClickThrough {
    fn impressions_time(&self) -> i64 {
        self.impressions.as_ref().map_or(-1, ObservedTime::now)
    }

    fn clicks_time(&self) -> i64 {
        self.clicks.as_ref().map_or(-1, ObservedTime::now)
    }

    /// Clicks before this are final. One at exactly `time − grace` could still meet an impression of its millisecond.
    fn final_before(&self) -> i64 {
        self.impressions_time()
            .saturating_sub(millis(self.config.grace))
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

    fn result(&self, click: &Click) -> Result<AttributedClick> {
        let (impression_ts, impression_id) = self.latest_touch(click)?.unzip();
        Ok(AttributedClick {
            click_id: click.click_id.clone(),
            campaign_id: click.campaign_id.clone(),
            user_id: click.user_id.clone(),
            click_ts: click.ts_ms,
            impression_id,
            impression_ts,
        })
    }

    /// Open clicks before `end`, in order.
    fn open_before(&self, end: Option<i64>) -> Result<Vec<(String, OpenClick)>> {
        let mut clicks = Vec::new();
        let end = end.map(|end| ordered(end, ""));
        self.open.range(None, end.as_ref(), |key, click, _| {
            clicks.push((key, click));
            ControlFlow::Continue(())
        })?;
        Ok(clicks)
    }

    fn take_impression(&mut self, impression: Impression, context: &mut Context<'_, '_>) -> Result {
        let key = touch_key(&impression.user_id, impression.campaign());
        let offset = context.metadata().map_or(0, |metadata| metadata.offset);
        let touch = Touch {
            impression_id: impression.impression_id,
        };
        self.touches
            .append(&key, &touch, impression.ts_ms, offset)?;
        if !observe(self.impressions.as_ref(), impression.ts_ms, context) {
            return Ok(());
        }
        self.finalise(context)?;
        self.expire();
        Ok(())
    }

    fn take_click(&mut self, click: Click, context: &mut Context<'_, '_>) -> Result {
        let moved = observe(self.clicks.as_ref(), click.ts_ms, context);
        if click.ts_ms < self.final_before() {
            context.forward(attribution(self.result(&click)?, Status::Final))?;
        } else {
            let (key, ts_ms) = (ordered(click.ts_ms, &click.click_id), click.ts_ms);
            let open = OpenClick {
                click,
                provisional: None,
            };
            self.open.put(&key, &open, ts_ms)?;
            self.earliest = self.earliest.map(|earliest| earliest.min(ts_ms));
        }
        if moved {
            self.expire();
        }
        Ok(())
    }

    /// Emits the clicks that nothing can change any more.
    fn finalise(&mut self, context: &mut Context<'_, '_>) -> Result {
        let final_before = self.final_before();
        if self
            .earliest
            .is_some_and(|earliest| earliest >= final_before)
        {
            return Ok(());
        }
        for (key, OpenClick { click, .. }) in self.open_before(Some(final_before))? {
            context.forward(attribution(self.result(&click)?, Status::Final))?;
            self.open.delete(&key, click.ts_ms)?;
        }
        self.earliest = self.first_open()?;
        Ok(())
    }

    /// Lets go of touches that no click can need any more.
    fn expire(&mut self) {
        let time = self.impressions_time().min(self.clicks_time());
        let kept = millis(self.config.grace).saturating_add(millis(self.config.click_window));
        self.touches.expire_before(time.saturating_sub(kept));
    }

    /// Time of the first open click, or the end of time.
    fn first_open(&self) -> Result<Option<i64>> {
        let mut first = Some(i64::MAX);
        self.open.range(None, None, |_, open, _| {
            first = Some(open.click.ts_ms);
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

    fn process(&mut self, record: Record<String, Event>, context: &mut Context<'_, '_>) -> Result {
        match record.value {
            Event::Impression(impression) => self.take_impression(impression, context),
            Event::Click(click) => self.take_click(click, context),
        }
    }

    fn punctuate(&mut self, _: Punctuated, context: &mut Context<'_, '_>) -> Result {
        for (key, mut open) in self.open_before(None)? {
            let result = self.result(&open.click)?;
            if open.provisional.as_ref() == Some(&result) {
                continue;
            }
            context.forward(attribution(result.clone(), Status::Provisional))?;
            open.provisional = Some(result);
            self.open.put(&key, &open, open.click.ts_ms)?;
        }
        Ok(())
    }
}

type Context<'a, 'c> = ProcessorContext<'a, 'c, String, Attribution>;

fn attribution(click: AttributedClick, status: Status) -> Record<String, Attribution> {
    let (key, timestamp) = (click.click_id.clone(), click.click_ts);
    Record::new(key, Attribution { status, click }, timestamp)
}

fn observe(time: Option<&ObservedTime>, timestamp: i64, context: &Context<'_, '_>) -> bool {
    time.is_some_and(|time| context.observe(time, timestamp))
}

/// Ids may contain anything, so their border is marked by the length of the first.
fn touch_key(user: &str, campaign: &str) -> String {
    format!("{}:{user}{campaign}", user.len())
}

/// A key that sorts by time, then id.
fn ordered(timestamp: i64, id: &str) -> String {
    format!("{:016x}{id}", timestamp.max(0))
}
