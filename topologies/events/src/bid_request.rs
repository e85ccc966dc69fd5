//! Bid requests: a subset of OpenRTB 2.6.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The Avro schema of [`BidRequest`], as exchanges write it.
pub const BID_REQUEST_SCHEMA: &str = include_str!("bid_request.avsc");

/// An exchange asks for bids on one or more impressions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BidRequest {
    /// Id of the auction.
    pub id: String,
    /// When, in epoch milliseconds.
    pub ts: i64,
    /// Exchange that asks.
    pub exchange: String,
    /// Auction type: 1 first price, 2 second price.
    #[serde(default = "second_price")]
    pub at: i32,
    /// Longest time to answer, in ms.
    #[serde(default)]
    pub tmax: Option<i32>,
    /// 1 when nothing is billed.
    #[serde(default)]
    pub test: i32,
    /// Allowed currencies, ISO 4217.
    #[serde(default)]
    pub cur: Vec<String>,
    /// What is on offer.
    #[serde(default)]
    pub imp: Vec<Imp>,
    /// The website, unless it is an app.
    #[serde(default)]
    pub site: Option<Site>,
    /// The app, unless it is a website.
    #[serde(default)]
    pub app: Option<App>,
    /// The user's device.
    #[serde(default)]
    pub device: Option<Device>,
    /// The user.
    #[serde(default)]
    pub user: Option<User>,
    /// Regulations that apply.
    #[serde(default)]
    pub regs: Option<Regs>,
    /// Ad targeting criteria.
    #[serde(default)]
    pub targeting: BTreeMap<String, String>,
}

fn second_price() -> i32 {
    2
}

impl BidRequest {
    /// The user, where the exchange names one.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.user.as_ref()?.id.as_deref()
    }
}

/// Kind of an impression on offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ImpKind {
    /// A still.
    Banner,
    /// Moving pictures.
    Video,
    /// Sound.
    Audio,
    /// In the form of its surroundings.
    Native,
    /// Anything else.
    #[default]
    Unknown,
}

/// An impression on offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are OpenRTB's, by OpenRTB's names")]
pub struct Imp {
    pub id: String,
    #[serde(default)]
    pub kind: ImpKind,
    #[serde(default)]
    pub w: Option<i32>,
    #[serde(default)]
    pub h: Option<i32>,
    #[serde(default)]
    pub tagid: Option<String>,
    #[serde(default)]
    pub bidfloor_micros_cpm: i64,
    #[serde(default)]
    pub bidfloorcur: String,
    #[serde(default)]
    pub secure: Option<i32>,
}

/// A website.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are OpenRTB's, by OpenRTB's names")]
pub struct Site {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub domain: Option<String>,
    #[serde(default)]
    pub page: Option<String>,
    #[serde(default)]
    pub cat: Vec<String>,
    #[serde(default)]
    pub publisher_id: Option<String>,
}

/// An app.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are OpenRTB's, by OpenRTB's names")]
pub struct App {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub bundle: Option<String>,
    #[serde(default)]
    pub publisher_id: Option<String>,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are OpenRTB's, by OpenRTB's names")]
pub struct Device {
    #[serde(default)]
    pub ua: Option<String>,
    #[serde(default)]
    pub ip: Option<String>,
    #[serde(default)]
    pub ifa: Option<String>,
    #[serde(default)]
    pub devicetype: Option<i32>,
    #[serde(default)]
    pub os: Option<String>,
    #[serde(default)]
    pub os_ver: Option<String>,
    #[serde(default)]
    pub lmt: Option<i32>,
    #[serde(default)]
    pub geo: Option<Geo>,
}

/// A place.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are OpenRTB's, by OpenRTB's names")]
pub struct Geo {
    #[serde(default)]
    pub country: Option<String>,
    #[serde(default)]
    pub region: Option<String>,
    #[serde(default)]
    pub city: Option<String>,
    #[serde(default)]
    pub lat: Option<f64>,
    #[serde(default)]
    pub lon: Option<f64>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are OpenRTB's, by OpenRTB's names")]
pub struct User {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub buyeruid: Option<String>,
    #[serde(default)]
    pub segments: Vec<String>,
    #[serde(default)]
    pub consent: Option<String>,
}

/// Regulations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are OpenRTB's, by OpenRTB's names")]
pub struct Regs {
    #[serde(default)]
    pub coppa: Option<i32>,
    #[serde(default)]
    pub gdpr: Option<i32>,
    #[serde(default)]
    pub gpp: Option<String>,
}
