//! From named texts to typed events: the contract of each feed, whatever format it came in.

use std::borrow::Cow;

use crate::identity::derive;
use crate::timestamp;
use crate::{Click, Conversion, Feed, Impression};

use super::{LandingRecord, Rejection};

/// The value of a field as the source has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Text<'a> {
    /// Nothing, or a spelling of nothing.
    Absent,
    /// A text, or a number as text.
    Given(Cow<'a, str>),
    /// Something that is neither, such as a list.
    Wrong,
}

impl<'a> Text<'a> {
    /// A text as it stands; empty, `null` and `NULL` are nothing.
    pub(super) fn given(text: impl Into<Cow<'a, str>>) -> Self {
        let text = text.into();
        if matches!(&*text, "" | "null" | "NULL") {
            Self::Absent
        } else {
            Self::Given(text)
        }
    }
}

const IMPRESSION: [&str; 13] = [
    "creative_id",
    "user_id",
    "timestamp",
    "website",
    "impression_id",
    "campaign_id",
    "cost_micros",
    "auction_id",
    "exchange",
    "publisher",
    "ip",
    "user_agent",
    "country",
];
const CLICK: [&str; 9] = [
    "timestamp",
    "user_id",
    "campaign_id",
    "click_id",
    "creative_id",
    "impression_id",
    "website",
    "ip",
    "user_agent",
];
const CONVERSION: [&str; 7] = [
    "timestamp",
    "user_id",
    "campaign_id",
    "conversion_type",
    "conversion_id",
    "value_micros",
    "currency",
];

/// Most fields of any feed.
pub(super) const MAX_FIELDS: usize = 13;

/// Names of a feed's fields, the required ones first.
pub(super) fn names(feed: Feed) -> &'static [&'static str] {
    match feed {
        Feed::Impressions => &IMPRESSION,
        Feed::Clicks => &CLICK,
        Feed::Conversions => &CONVERSION,
        Feed::BidRequests => &[],
    }
}

/// How many of [`names`] are required.
pub(super) fn required(feed: Feed) -> usize {
    match feed {
        Feed::Impressions | Feed::Conversions => 4,
        Feed::Clicks => 3,
        Feed::BidRequests => 0,
    }
}

/// The fields of one record, in the order of [`names`].
pub(super) struct Fields<'a> {
    feed: Feed,
    values: [Text<'a>; MAX_FIELDS],
}

impl<'a> Fields<'a> {
    pub(super) fn new(feed: Feed) -> Self {
        Self {
            feed,
            values: [const { Text::Absent }; MAX_FIELDS],
        }
    }

    /// Sets the field with this place in [`names`].
    pub(super) fn set(&mut self, index: usize, value: Text<'a>) {
        self.values[index] = value;
    }

    /// The event, or the first rule that it breaks.
    pub(super) fn into_record(mut self) -> Result<LandingRecord, Rejection> {
        match self.feed {
            Feed::Impressions => self.impression().map(LandingRecord::Impression),
            Feed::Clicks => self.click().map(LandingRecord::Click),
            Feed::Conversions => self.conversion().map(LandingRecord::Conversion),
            Feed::BidRequests => Err(Rejection::new("wrong_format", "bid requests are Avro")),
        }
    }

    fn impression(&mut self) -> Result<Impression, Rejection> {
        let creative_id = self.required(0)?;
        let user_id = self.required(1)?;
        let ts_ms = self.time(2)?;
        let website = self.required(3)?;
        let impression_id = self.optional(4)?;
        let campaign_id = self.optional(5)?;
        let cost_micros = self.integer(6)?.unwrap_or(0);
        if cost_micros < 0 {
            let reason = format!("cost_micros is {cost_micros}; a cost is not negative");
            return Err(Rejection::of_field("bad_value", "cost_micros", reason));
        }
        let impression_id = impression_id.unwrap_or_else(|| {
            derive(
                "impressions",
                &[&ts_ms.to_string(), &user_id, &creative_id, &website],
            )
        });
        Ok(Impression {
            impression_id,
            creative_id,
            campaign_id,
            user_id,
            ts_ms,
            website,
            cost_micros,
            auction_id: self.optional(7)?,
            exchange: self.optional(8)?,
            publisher: self.optional(9)?,
            ip: self.optional(10)?,
            user_agent: self.optional(11)?,
            country: self.optional(12)?,
        })
    }

    fn click(&mut self) -> Result<Click, Rejection> {
        let ts_ms = self.time(0)?;
        let user_id = self.required(1)?;
        let campaign_id = self.required(2)?;
        let click_id = self.optional(3)?;
        let creative_id = self.optional(4)?;
        let impression_id = self.optional(5)?;
        let website = self.optional(6)?;
        let click_id = click_id.unwrap_or_else(|| {
            let website = website.as_deref().unwrap_or_default();
            derive(
                "clicks",
                &[&ts_ms.to_string(), &user_id, &campaign_id, website],
            )
        });
        Ok(Click {
            click_id,
            campaign_id,
            user_id,
            ts_ms,
            creative_id,
            impression_id,
            website,
            ip: self.optional(7)?,
            user_agent: self.optional(8)?,
        })
    }

    fn conversion(&mut self) -> Result<Conversion, Rejection> {
        let ts_ms = self.time(0)?;
        let user_id = self.required(1)?;
        let campaign_id = self.required(2)?;
        let conversion_type = self.required(3)?;
        let conversion_id = self.optional(4)?;
        let value_micros = self.integer(5)?.unwrap_or(0);
        let conversion_id = conversion_id.unwrap_or_else(|| {
            derive(
                "conversions",
                &[&ts_ms.to_string(), &user_id, &campaign_id, &conversion_type],
            )
        });
        Ok(Conversion {
            conversion_id,
            user_id,
            campaign_id,
            ts_ms,
            conversion_type,
            value_micros,
            currency: self.optional(6)?,
        })
    }

    fn name(&self, index: usize) -> &'static str {
        names(self.feed)[index]
    }

    fn optional(&mut self, index: usize) -> Result<Option<String>, Rejection> {
        match std::mem::replace(&mut self.values[index], Text::Absent) {
            Text::Absent => Ok(None),
            Text::Given(text) => Ok(Some(text.into_owned())),
            Text::Wrong => {
                let name = self.name(index);
                let reason = format!("{name} is neither a text nor a whole number");
                Err(Rejection::of_field("bad_value", name, reason))
            }
        }
    }

    fn required(&mut self, index: usize) -> Result<String, Rejection> {
        let name = self.name(index);
        self.optional(index)?.ok_or_else(|| {
            Rejection::of_field(
                "missing_field",
                name,
                format!("the required field {name} is missing"),
            )
        })
    }

    fn integer(&mut self, index: usize) -> Result<Option<i64>, Rejection> {
        let name = self.name(index);
        let Some(text) = self.optional(index)? else {
            return Ok(None);
        };
        text.trim().parse().map(Some).map_err(|_| {
            Rejection::of_field(
                "bad_value",
                name,
                format!("{name} '{text}' is not a whole number"),
            )
        })
    }

    fn time(&mut self, index: usize) -> Result<i64, Rejection> {
        let name = self.name(index);
        let text = self.required(index)?;
        timestamp::parse(&text)
            .map_err(|error| Rejection::of_field(error.rule(), name, format!("{name} {error}")))
    }
}
