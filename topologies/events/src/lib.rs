//! AdvertiseX events: their types, the landing formats they come in, and a generator of synthetic ones.
//!
//! Everything here is synchronous and knows no log: bytes in, typed records or rejections out.
//!
//! - [`Impression`], [`Click`], [`Conversion`], [`BidRequest`]: what happened. Event times are epoch milliseconds, money is
//!   integer micros.
//! - [`landing`]: files of a landing directory, record by record.
//! - [`timestamp`], [`identity`]: the rules that make records of different sources comparable.
//! - [`mod@reference`]: the results that a landing directory must give, by a plain in-memory model; for tests.
//! - [`generator`]: seeded synthetic landing directories with their truth.

mod bid_request;
mod dimension;
mod event;
mod feed;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod generator;
pub mod identity;
pub mod landing;
pub mod reference;
mod results;
pub mod timestamp;

pub use bid_request::{
    App, BID_REQUEST_SCHEMA, BidRequest, Device, Geo, Imp, ImpKind, Regs, Site, User,
};
pub use dimension::{Campaign, Creative};
pub use event::{Click, Conversion, Impression};
pub use feed::Feed;
pub use results::{AttributedClick, AttributedConversion, CampaignMinute, TouchCredit, TouchKind};
