//! The whole platform as one topology.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use processor_core::{StreamsBuilder, Topology, TopologyError};

/// How the platform works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The landing directory.
    pub landing: PathBuf,
    /// How long before a click an impression may be to be credited with it.
    pub click_window: Duration,
    /// How far below the largest timestamp before it in its feed a record may be.
    pub grace: Duration,
}

impl Config {
    fn ingest(&self) -> ingest::Config {
        ingest::Config {
            landing: self.landing.clone(),
            grace: self.grace,
        }
    }

    fn attribution(&self) -> attribution::Config {
        attribution::Config {
            click_window: self.click_window,
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
    /// Clicks to the impressions they are credited to.
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

/// The topology of `part`.
///
/// # Errors
/// Never with these parts; the builder checks names and serdes.
pub fn topology(part: Part, config: &Config) -> Result<Topology, TopologyError> {
    match part {
        Part::All => all(config),
        Part::Ingest => ingest::topology(&config.ingest()),
        Part::Attribution => attribution::topology(&config.attribution()),
        Part::Metrics => campaign_metrics::topology(&config.metrics()),
    }
}

fn all(config: &Config) -> Result<Topology, TopologyError> {
    let builder = StreamsBuilder::new("advertisex");
    ingest::ingest(&builder, &config.ingest());
    let impressions = ingest::impressions(&builder);
    let clicks = ingest::clicks(&builder);
    attribution::attribute(&builder, &impressions, &clicks, &config.attribution());
    campaign_metrics::measure(&builder, &impressions, &clicks, &config.metrics());
    builder.build()
}
