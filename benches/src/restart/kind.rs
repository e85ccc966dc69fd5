//! What kind of state is restored.

use std::fmt;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::event::Impression;

use super::ours::Profile;

/// The state of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// An aggregate: a profile of each user.
    Table,
    /// The buffers of a join of the impressions with themselves, a day wide: every impression, on both sides.
    Join,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Join => "join",
        }
    }

    /// What a user takes in stores after the first impression: keys and values, in bytes.
    pub fn bytes_of(self, impression: &Impression) -> Result<u64> {
        let (value, sides) = match self {
            Self::Table => {
                let profile = Profile::default().and(impression.clone());
                (serde_json::to_vec(&profile), 1)
            }
            Self::Join => (serde_json::to_vec(impression), 2),
        };
        let value = value.context("it is always JSON")?;
        Ok(sides * u64::try_from(impression.user_id.len() + value.len())?)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
