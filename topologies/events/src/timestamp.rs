//! Event times of many spellings, to epoch milliseconds.
//!
//! Accepted are ISO 8601 with a zone, and epoch seconds, milliseconds or microseconds: the unit is the one that puts the
//! number between the years 2000 and 2100, and at most one does. Everything else is refused, never guessed. Fractions of
//! a millisecond are cut.

/// 2000-01-01T00:00:00Z in epoch milliseconds.
pub const EARLIEST_MS: i64 = 946_684_800_000;
/// 2100-01-01T00:00:00Z in epoch milliseconds; the first that is out of range.
pub const END_MS: i64 = 4_102_444_800_000;

/// Why a text is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// It is neither ISO 8601 with a zone nor a whole number.
    #[error("'{0}' is neither ISO 8601 with a time zone nor an epoch number")]
    Invalid(String),
    /// It lies outside the years 2000 to 2100.
    #[error("'{0}' lies outside the years 2000 to 2100 in seconds, milliseconds and microseconds")]
    OutOfRange(String),
}

impl TimestampError {
    /// Name of the broken rule.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "timestamp_invalid",
            Self::OutOfRange(_) => "timestamp_out_of_range",
        }
    }
}

/// Epoch milliseconds of `text`.
///
/// # Errors
/// When it is no time, or none between 2000 and 2100.
///
/// ```
/// use events::timestamp::parse;
/// assert_eq!(parse("2024-01-01T01:00:00+01:00"), Ok(1_704_067_200_000));
/// assert_eq!(parse("1704067200"), Ok(1_704_067_200_000));
/// assert!(parse("2024-01-01T00:00:00").is_err());
/// ```
pub fn parse(text: &str) -> Result<i64, TimestampError> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i64>() {
        return from_integer(number);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return Err(TimestampError::OutOfRange(shortened(text)));
    }
    let instant: jiff::Timestamp = match text.parse() {
        Ok(instant) => instant,
        Err(_) if is_far_away(text) => return Err(TimestampError::OutOfRange(shortened(text))),
        Err(_) => return Err(TimestampError::Invalid(shortened(text))),
    };
    let ms = instant.as_millisecond();
    if (EARLIEST_MS..END_MS).contains(&ms) {
        Ok(ms)
    } else {
        Err(TimestampError::OutOfRange(shortened(text)))
    }
}

/// Epoch milliseconds of a number of seconds, milliseconds or microseconds.
///
/// # Errors
/// When no unit puts it between 2000 and 2100.
pub fn from_integer(number: i64) -> Result<i64, TimestampError> {
    let in_unit = [
        number.checked_mul(1_000),
        Some(number),
        Some(number.div_euclid(1_000)),
    ];
    in_unit
        .into_iter()
        .flatten()
        .find(|ms| (EARLIEST_MS..END_MS).contains(ms))
        .ok_or_else(|| TimestampError::OutOfRange(number.to_string()))
}

/// A year of more than four digits, which ISO 8601 writes with a sign and some sources without.
fn is_far_away(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    let year = digits.bytes().take_while(u8::is_ascii_digit).count();
    year > 4 && digits[year..].starts_with('-')
}

fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn iso_needs_a_zone() {
        assert_eq!(parse("2024-01-01T00:00:00Z"), Ok(1_704_067_200_000));
        assert_eq!(parse("2024-01-01T00:00:00.123456Z"), Ok(1_704_067_200_123));
        assert_eq!(
            parse("2024-01-01T00:00:00"),
            Err(TimestampError::Invalid("2024-01-01T00:00:00".into()))
        );
        assert!(parse("yesterday").is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn years_out_of_range_are_refused_and_never_panic() {
        for text in [
            "50000-01-01T00:00:00Z",
            "+050000-01-01T00:00:00Z",
            "1999-12-31T23:59:59.999Z",
            "2100-01-01T00:00:00Z",
            "99999999999999999999",
            "12",
            "946684799",
            "-5",
        ] {
            assert_eq!(
                parse(text).unwrap_err().rule(),
                "timestamp_out_of_range",
                "{text}"
            );
        }
        assert_eq!(parse("2099-12-31T23:59:59.999Z"), Ok(END_MS - 1));
        assert_eq!(parse("946684800"), Ok(EARLIEST_MS));
    }

    proptest! {
        #[test]
        fn every_unit_gives_the_same_time(seconds in EARLIEST_MS / 1_000..END_MS / 1_000) {
            let ms = seconds * 1_000;
            prop_assert_eq!(from_integer(seconds), Ok(ms));
            prop_assert_eq!(from_integer(ms), Ok(ms));
            prop_assert_eq!(from_integer(ms * 1_000 + 999), Ok(ms));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn no_number_panics(number in any::<i64>()) {
            let _ = from_integer(number);
        }
    }
}
