//! The feeds of a landing directory.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of event, and the directory its files land in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feed {
    /// Avro object containers.
    BidRequests,
    /// CSV.
    Clicks,
    /// CSV.
    Conversions,
    /// Newline-delimited JSON, or one JSON array.
    Impressions,
}

impl Feed {
    /// All feeds, in the byte order of their directories.
    pub const ALL: [Self; 4] = [
        Self::BidRequests,
        Self::Clicks,
        Self::Conversions,
        Self::Impressions,
    ];

    /// Name of the feed and of its directory.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BidRequests => "bid_requests",
            Self::Clicks => "clicks",
            Self::Conversions => "conversions",
            Self::Impressions => "impressions",
        }
    }

    /// Suffix of the feed's files, without a compression suffix.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::BidRequests => ".avro",
            Self::Clicks | Self::Conversions => ".csv",
            Self::Impressions => ".json",
        }
    }

    /// The feed of a path relative to the landing directory, such as `clicks/2024-01-01.csv.gz`; `None` when its
    /// directory or suffix fits none.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        let (directory, file) = path.split_once('/')?;
        let file = file
            .strip_suffix(".gz")
            .or_else(|| file.strip_suffix(".zst"))
            .unwrap_or(file);
        let feed = Self::ALL
            .into_iter()
            .find(|feed| feed.name() == directory)?;
        file.ends_with(feed.suffix()).then_some(feed)
    }
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_and_the_suffix_make_the_feed() {
        assert_eq!(Feed::of_path("clicks/a.csv"), Some(Feed::Clicks));
        assert_eq!(
            Feed::of_path("impressions/2024/01.json.zst"),
            Some(Feed::Impressions)
        );
        assert_eq!(
            Feed::of_path("bid_requests/a.avro.gz"),
            Some(Feed::BidRequests)
        );
        assert_eq!(Feed::of_path("clicks/a.json"), None);
        assert_eq!(Feed::of_path("dims/creatives.csv"), None);
        assert_eq!(Feed::of_path("clicks.csv"), None);
    }
}
