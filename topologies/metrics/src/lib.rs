//! Campaign metrics per minute of event time: impressions, clicks and spend.
//!
//! Impressions and clicks are counted in windows of their own and brought together per campaign and minute afterwards.
//! One window over both would take the faster feed's time for both and lose the slower one's records. Each update of
//! either side emits the row anew; the last row of a campaign and minute is its value.
//!
//! **Late records.** Lateness is decided where the feeds are read. Behind the repartition by campaign time is the minimum
//! over the tasks that read users, so a record that was in time there is in time here.

use std::ops::ControlFlow;
use std::time::Duration;

use events::{CampaignMinute, Click, Impression};
use processor_core::clock::millis;
use processor_core::dsl::{Consumed, Grouped, KStream, Produced, StreamsBuilder, TimeWindows};
use processor_core::error::Result;
use processor_core::processor::{
    KeyValue, ObservedTime, Processor, ProcessorContext, Punctuated, Punctuation, Setup,
};
use processor_core::serde::{int64, json, utf8};
use processor_core::{Record, Topology, TopologyError, Windowed};
use serde::{Deserialize, Serialize};

/// Topic of valid impressions, keyed by user id.
pub const IMPRESSIONS: &str = "impressions";
/// Topic of valid clicks, keyed by user id.
pub const CLICKS: &str = "clicks";
/// Topic of results, keyed by `campaign@minute start`, JSON [`CampaignMinute`]s; the last one of a key counts.
pub const CAMPAIGN_MINUTES: &str = "campaign-minutes";

const MINUTE: Duration = Duration::from_secs(60);

/// How metrics are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How far below the largest timestamp before it in its feed a record may be.
    pub grace: Duration,
}

/// The metrics topology on its own: [`IMPRESSIONS`] and [`CLICKS`] to [`CAMPAIGN_MINUTES`].
///
/// # Errors
/// Never with this configuration; the builder checks names and serdes.
pub fn topology(config: &Config) -> Result<Topology, TopologyError> {
    let builder = StreamsBuilder::new("campaign-metrics");
    let impressions = builder.stream(IMPRESSIONS, Consumed::new(utf8(), json()));
    let clicks = builder.stream(CLICKS, Consumed::new(utf8(), json()));
    measure(&builder, &impressions, &clicks, config);
    builder.build()
}

/// Adds the metrics to a topology; both streams are keyed by user id.
pub fn measure(
    builder: &StreamsBuilder,
    impressions: &KStream<String, Impression>,
    clicks: &KStream<String, Click>,
    config: &Config,
) {
    let minutes = TimeWindows::tumbling(MINUTE).grace(config.grace);
    let shown = impressions
        .map_values(|_, impression| Shown {
            campaign_id: impression.campaign().to_owned(),
            cost_micros: impression.cost_micros,
        })
        .group_by(
            |_, shown| shown.campaign_id.clone(),
            Grouped::by(utf8()).value(json()),
        )
        .windowed_by(minutes)
        .aggregate(
            "campaign-minute-impressions",
            json(),
            Spend::default,
            |_, shown, spend| spend.plus(shown.cost_micros),
        )
        .to_stream()
        .map_values(|_, spend| Part::Impressions(spend));
    let clicked = clicks
        .map_values(|_, click| click.campaign_id)
        .group_by(
            |_, campaign| campaign.clone(),
            Grouped::by(utf8()).value(utf8()),
        )
        .windowed_by(minutes)
        .aggregate(
            "campaign-minute-clicks",
            int64(),
            || 0,
            |_, _, clicks| clicks + 1,
        )
        .to_stream()
        .map_values(|_, clicks| Part::Clicks(clicks));

    let rows = builder.key_value_store("campaign-minutes", utf8(), json::<CampaignMinute>());
    let grace_ms = millis(config.grace);
    shown
        .merge(&clicked)
        .process("campaign-minutes-join", rows, move |rows| Rows {
            rows,
            grace_ms,
            impressions: None,
            clicks: None,
        })
        .to_with(CAMPAIGN_MINUTES, Produced::new(utf8(), json()));
}

/// What the metrics need of an impression.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Shown {
    #[serde(rename = "c")]
    campaign_id: String,
    #[serde(rename = "m")]
    cost_micros: i64,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Spend {
    impressions: i64,
    spend_micros: i64,
}

impl Spend {
    fn plus(self, cost_micros: i64) -> Self {
        Self {
            impressions: self.impressions + 1,
            spend_micros: self.spend_micros.saturating_add(cost_micros),
        }
    }
}

/// An update of one side of a row.
#[derive(Debug, Clone, Copy)]
enum Part {
    Impressions(Spend),
    Clicks(i64),
}

/// Brings both sides of a campaign and minute together, for as long as either can still change.
struct Rows {
    rows: KeyValue<String, CampaignMinute>,
    grace_ms: i64,
    impressions: Option<ObservedTime>,
    clicks: Option<ObservedTime>,
}

impl Processor<Windowed<String>, Part> for Rows {
    type KOut = String;
    type VOut = CampaignMinute;

    fn init(&mut self, setup: &mut Setup<'_, '_>) -> Result {
        self.impressions = Some(setup.observed_time("impressions"));
        self.clicks = Some(setup.observed_time("clicks"));
        setup.schedule(Punctuation::StreamTime(MINUTE));
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<Windowed<String>, Part>,
        context: &mut ProcessorContext<'_, '_, String, CampaignMinute>,
    ) -> Result {
        let Windowed {
            key: campaign_id,
            start,
            ..
        } = record.key;
        let key = format!("{:016x}{campaign_id}", start.max(0));
        let mut row = self.rows.get(&key)?.unwrap_or_else(|| CampaignMinute {
            campaign_id: campaign_id.clone(),
            minute_start_ms: start,
            ..CampaignMinute::default()
        });
        let time = match record.value {
            Part::Impressions(Spend {
                impressions,
                spend_micros,
            }) => {
                row.impressions = impressions;
                row.spend_micros = spend_micros;
                &self.impressions
            }
            Part::Clicks(clicks) => {
                row.clicks = clicks;
                &self.clicks
            }
        };
        if let Some(time) = time {
            context.observe(time, start);
        }
        self.rows.put(&key, &row, record.timestamp)?;
        context.forward(Record::new(
            format!("{campaign_id}@{start}"),
            row,
            record.timestamp,
        ))
    }

    /// Forgets the rows whose windows are closed on both sides.
    fn punctuate(
        &mut self,
        _: Punctuated,
        _: &mut ProcessorContext<'_, '_, String, CampaignMinute>,
    ) -> Result {
        let time =
            |observed: &Option<ObservedTime>| observed.as_ref().map_or(-1, ObservedTime::now);
        let time = time(&self.impressions).min(time(&self.clicks));
        // A side's window closes when its time, at least the start of its latest window, has passed end and grace.
        let closed_before = time - self.grace_ms - millis(MINUTE);
        if closed_before <= 0 {
            return Ok(());
        }
        let mut closed = Vec::new();
        let end = format!("{closed_before:016x}");
        self.rows.range(None, Some(&end), |key, row, _| {
            closed.push((key, row.minute_start_ms));
            ControlFlow::Continue(())
        })?;
        for (key, start) in closed {
            self.rows.delete(&key, start)?;
        }
        Ok(())
    }
}
