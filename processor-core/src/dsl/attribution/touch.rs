//! A touch: what the user says of it, and how it is kept.

use super::rules::Campaigns;

/// A touch as the operator sees it: what a function makes of a record of a touch stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch<T> {
    /// Its id: of touches at one time the one with the greater id is the later one.
    pub id: String,
    /// Its campaign; empty where there are none.
    pub campaign: String,
    /// What to keep of it for the result. It is kept for every touch of the window, so it should be small.
    pub value: T,
}

impl<T> Touch<T> {
    /// A touch that belongs to no campaign.
    pub fn new(id: impl Into<String>, value: T) -> Self {
        Self {
            id: id.into(),
            campaign: String::new(),
            value,
        }
    }

    /// The same touch, of a campaign.
    #[must_use]
    pub fn campaign(self, campaign: impl Into<String>) -> Self {
        Self {
            campaign: campaign.into(),
            ..self
        }
    }
}

/// A conversion as the operator sees it: what a function says of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversion {
    /// Its id: the key of its results.
    pub id: String,
    /// Its campaign; empty where there are none.
    pub campaign: String,
    /// What is shared among the touches, in micros of a currency. Negative for a refund.
    pub value_micros: i64,
}

impl Conversion {
    /// A conversion without a campaign or a value.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            campaign: String::new(),
            value_micros: 0,
        }
    }

    /// The same conversion, of a campaign.
    #[must_use]
    pub fn campaign(self, campaign: impl Into<String>) -> Self {
        Self {
            campaign: campaign.into(),
            ..self
        }
    }

    /// The same conversion with a value.
    #[must_use]
    pub fn value_micros(self, value_micros: i64) -> Self {
        Self {
            value_micros,
            ..self
        }
    }
}

/// Makes of the bytes of a record's key, which are in `key`, the key under which touches and conversions meet:
/// `length of the key (4, big endian) ‖ key ‖ campaign`, or the key alone where campaigns do not matter. Keys may contain
/// anything, so their border is marked.
pub(super) fn meeting_key(key: &mut Vec<u8>, campaign: &str, campaigns: Campaigns) {
    if campaigns == Campaigns::Same {
        let length = u32::try_from(key.len()).expect("a Kafka record is smaller than 4 GiB");
        key.splice(..0, length.to_be_bytes());
        key.extend_from_slice(campaign.as_bytes());
    }
}

/// The campaign in a meeting key, where there is one.
pub(super) fn campaign_of(meeting_key: &[u8], campaigns: Campaigns) -> Option<&str> {
    match campaigns {
        Campaigns::Same => std::str::from_utf8(take(meeting_key)?.1).ok(),
        Campaigns::Any => None,
    }
}

/// A touch in its store:
///
/// ```text
/// length of the id (4, big endian) ‖ id ‖ length of the campaign (4) ‖ campaign ‖ value
/// ```
/// The campaign stands there only where those of touch and conversion may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TouchRow<'a> {
    pub id: &'a str,
    pub campaign: &'a str,
    pub value: &'a [u8],
}

impl<'a> TouchRow<'a> {
    /// Appends what stands before the value.
    pub(super) fn encode_head(id: &str, campaign: &str, campaigns: Campaigns, into: &mut Vec<u8>) {
        put(id.as_bytes(), into);
        put(
            match campaigns {
                Campaigns::Same => b"",
                Campaigns::Any => campaign.as_bytes(),
            },
            into,
        );
    }

    /// The row of these bytes; `None` when they are not one.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (id, rest) = take(bytes)?;
        let (campaign, value) = take(rest)?;
        Some(Self {
            id: std::str::from_utf8(id).ok()?,
            campaign: std::str::from_utf8(campaign).ok()?,
            value,
        })
    }
}

/// Appends bytes with their length before them.
pub(super) fn put(bytes: &[u8], into: &mut Vec<u8>) {
    let length = u32::try_from(bytes.len()).expect("a Kafka record is smaller than 4 GiB");
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(bytes);
}

/// What [`put`] appended, and the rest.
pub(super) fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &[u8]) {
    if let Some(row) = TouchRow::decode(bytes) {
        let mut written = Vec::new();
        TouchRow::encode_head(row.id, row.campaign, Campaigns::Any, &mut written);
        written.extend_from_slice(row.value);
        assert_eq!(written, bytes);
    }
    if let Some(campaign) = campaign_of(bytes, Campaigns::Same) {
        let (key, _) = take(bytes).expect("the campaign was behind it");
        let mut written = key.to_vec();
        meeting_key(&mut written, campaign, Campaigns::Same);
        assert_eq!(written, bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(key: &str, campaign: &str, campaigns: Campaigns) -> Vec<u8> {
        let mut bytes = key.as_bytes().to_vec();
        meeting_key(&mut bytes, campaign, campaigns);
        bytes
    }

    #[test]
    fn no_two_keys_and_campaigns_look_alike() {
        assert_ne!(
            key("ab", "c", Campaigns::Same),
            key("a", "bc", Campaigns::Same)
        );
        assert_eq!(key("ab", "c", Campaigns::Any), b"ab");
        let both = key("ab", "c", Campaigns::Same);
        assert_eq!(campaign_of(&both, Campaigns::Same), Some("c"));
        assert_eq!(campaign_of(b"ab", Campaigns::Any), None);
    }

    proptest! {
        #[test]
        fn rows_survive(id in ".{0,9}", campaign in ".{0,9}", value in prop::collection::vec(any::<u8>(), 0..9)) {
            for (campaigns, kept) in [(Campaigns::Any, campaign.as_str()), (Campaigns::Same, "")] {
                let mut bytes = Vec::new();
                TouchRow::encode_head(&id, &campaign, campaigns, &mut bytes);
                bytes.extend_from_slice(&value);
                let row = TouchRow { id: &id, campaign: kept, value: &value };
                prop_assert_eq!(TouchRow::decode(&bytes), Some(row));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            check_any(&bytes);
        }
    }
}
