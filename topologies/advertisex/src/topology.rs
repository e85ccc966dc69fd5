//! The whole platform as one topology.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use attribution::ConversionRules;
use clap::ValueEnum;
use events::BidRequest;
use processor_core::log::Log;
use processor_core::serde::RegisteredAvro;
use processor_core::serde::registry::{TopicRegistry, TopicRegistryOptions};
use processor_core::{StreamsBuilder, Topology, TopologyError};

/// Topic of the schema registry; not `_schemas`, which a registry server on the same cluster would take for its own.
pub const SCHEMAS: &str = "advertisex-schemas";

/// How the platform works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The landing directory.
    pub landing: PathBuf,
    /// How long before a click an impression may be to be credited with it.
    pub click_window: Duration,
    /// How conversions are attributed.
    pub conversions: ConversionRules,
    /// How far below the largest timestamp before it in its feed a record may be.
    pub grace: Duration,
    /// How long the ids of records are remembered: see [`ingest::Config::id_ttl`].
    pub id_ttl: Duration,
    /// Copies of topics that are created.
    pub replication: i32,
}

impl Config {
    fn ingest(&self) -> ingest::Config {
        ingest::Config {
            landing: self.landing.clone(),
            grace: self.grace,
            id_ttl: self.id_ttl,
        }
    }

    fn attribution(&self) -> attribution::Config {
        attribution::Config {
            click_window: self.click_window,
            conversions: self.conversions,
            grace: self.grace,
        }
    }

    fn metrics(&self) -> campaign_metrics::Config {
        campaign_metrics::Config { grace: self.grace }
    }
}

/// Which part of the platform runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Everything, in one topology.
    All,
    /// Landing files to topics.
    Ingest,
    /// Clicks and conversions to what they are credited to.
    Attribution,
    /// Campaigns per minute.
    Metrics,
}

impl Part {
    /// Consumer group of its own: the parts do not share one.
    #[must_use]
    pub fn application_id(self) -> &'static str {
        match self {
            Self::All => "advertisex",
            Self::Ingest => "advertisex-ingest",
            Self::Attribution => "advertisex-attribution",
            Self::Metrics => "advertisex-metrics",
        }
    }

    /// Whether it reads the landing directory.
    #[must_use]
    pub fn ingests(self) -> bool {
        matches!(self, Self::All | Self::Ingest)
    }
}

/// The topology of `part`. Parts that ingest keep the schema of bid requests in a registry on a topic of `log`, and
/// register it here.
///
/// # Errors
/// When that topic cannot be made or read, or holds a schema that this one is not compatible with.
pub fn topology(part: Part, config: &Config, log: Arc<dyn Log>) -> anyhow::Result<Topology> {
    Ok(match part {
        Part::All => all(config, bid_requests(config, log)?)?,
        Part::Ingest => ingest::topology(&config.ingest(), bid_requests(config, log)?)?,
        Part::Attribution => attribution::topology(&config.attribution())?,
        Part::Metrics => campaign_metrics::topology(&config.metrics())?,
    })
}

fn bid_requests(config: &Config, log: Arc<dyn Log>) -> anyhow::Result<RegisteredAvro<BidRequest>> {
    let options = TopicRegistryOptions {
        topic: SCHEMAS.to_owned(),
        replication: config.replication,
        ..TopicRegistryOptions::default()
    };
    let registry = TopicRegistry::open(log, &options).context("cannot open the schema registry")?;
    let serde = ingest::bid_requests(Arc::new(registry));
    serde
        .register()
        .context("cannot register the schema of bid requests")?;
    Ok(serde)
}

fn all(
    config: &Config,
    bid_requests: RegisteredAvro<BidRequest>,
) -> Result<Topology, TopologyError> {
    let builder = StreamsBuilder::new("advertisex");
    ingest::ingest(&builder, &config.ingest(), bid_requests);
    let impressions = ingest::impressions(&builder);
    let clicks = ingest::clicks(&builder);
    let conversions = ingest::conversions(&builder);
    attribution::attribute_clicks(&impressions, &clicks, &config.attribution());
    attribution::attribute_conversions(&impressions, &clicks, &conversions, &config.attribution());
    campaign_metrics::measure(&builder, &impressions, &clicks, &config.metrics());
    builder.build()
}
