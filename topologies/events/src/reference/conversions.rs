//! What conversions are credited to, by the definitions.

use std::collections::HashMap;

use crate::{AttributedConversion, Click, Conversion, Impression, TouchCredit, TouchKind};

use super::Definitions;

/// Touches that share a conversion; more are cut off at the early end.
const MAX_TOUCHES: usize = 50;

/// How touches share a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// The latest has all of it.
    Last,
    /// The earliest has.
    First,
    /// All have the same.
    Linear,
    /// 40 % for the first and the last, the same of the rest for those between; half and half for two.
    Position,
}

/// A touch: when, its id, and what it is.
type Touch<'a> = (i64, &'a str, TouchKind);
/// By user and campaign.
type Touches<'a> = HashMap<(&'a str, &'a str), Vec<Touch<'a>>>;

pub(super) fn attribute(
    impressions: &[Impression],
    clicks: &[Click],
    conversions: &[Conversion],
    definitions: &Definitions,
) -> Vec<AttributedConversion> {
    let mut clicks_of: Touches<'_> = HashMap::new();
    for click in clicks {
        let touch = (click.ts_ms, click.click_id.as_str(), TouchKind::Click);
        let pair = (click.user_id.as_str(), click.campaign_id.as_str());
        clicks_of.entry(pair).or_default().push(touch);
    }
    let mut views_of: Touches<'_> = HashMap::new();
    for view in impressions {
        let touch = (
            view.ts_ms,
            view.impression_id.as_str(),
            TouchKind::Impression,
        );
        let pair = (view.user_id.as_str(), view.campaign());
        views_of.entry(pair).or_default().push(touch);
    }
    let mut results: Vec<AttributedConversion> = conversions
        .iter()
        .map(|conversion| {
            let mut touches = within(
                &clicks_of,
                conversion,
                definitions.conversion_click_window_ms,
            );
            if touches.is_empty() {
                touches = within(&views_of, conversion, definitions.conversion_view_window_ms);
            }
            touches.sort_by_key(|(ts, id, _)| (*ts, *id));
            let truncated = match definitions.sharing {
                Sharing::Last => {
                    touches.drain(..touches.len().saturating_sub(1));
                    0
                }
                Sharing::First => {
                    touches.truncate(1);
                    0
                }
                Sharing::Linear | Sharing::Position => touches
                    .drain(..touches.len().saturating_sub(MAX_TOUCHES))
                    .len(),
            };
            let parts = parts(definitions.sharing, touches.len());
            let credits = divide(conversion.value_micros, &parts);
            let credit = |((touch_ts, id, touch), credit_micros): (Touch<'_>, i64)| TouchCredit {
                touch,
                touch_id: id.to_owned(),
                touch_ts,
                credit_micros,
            };
            AttributedConversion {
                credits: touches.into_iter().zip(credits).map(credit).collect(),
                truncated,
                conversion_id: conversion.conversion_id.clone(),
                campaign_id: conversion.campaign_id.clone(),
                user_id: conversion.user_id.clone(),
                conversion_type: conversion.conversion_type.clone(),
                conversion_ts: conversion.ts_ms,
                value_micros: conversion.value_micros,
                currency: conversion.currency.clone(),
            }
        })
        .collect();
    results.sort_by(|a, b| a.conversion_id.cmp(&b.conversion_id));
    results
}

/// The touches of the conversion's user and campaign within `window_ms` before it.
fn within<'a>(touches: &Touches<'a>, conversion: &'a Conversion, window_ms: i64) -> Vec<Touch<'a>> {
    let pair = (conversion.user_id.as_str(), conversion.campaign_id.as_str());
    let own = touches.get(&pair).into_iter().flatten();
    own.filter(|(ts, ..)| (conversion.ts_ms - window_ms..=conversion.ts_ms).contains(ts))
        .copied()
        .collect()
}

/// The shares of `n` touches, of their sum.
fn parts(sharing: Sharing, n: usize) -> Vec<i128> {
    match (sharing, n) {
        (Sharing::Position, 3..) => {
            let between = n as i128 - 2;
            let mut parts = vec![20; n];
            parts[0] = 40 * between;
            parts[n - 1] = 40 * between;
            parts
        }
        _ => vec![1; n],
    }
}

/// Whole micros that add up to `value`: rounded down, then one more for those that lost most, the earlier first.
fn divide(value: i64, parts: &[i128]) -> Vec<i64> {
    let (sum, amount) = (parts.iter().sum::<i128>(), i128::from(value).abs());
    let mut whole: Vec<i128> = parts.iter().map(|part| amount * part / sum).collect();
    let mut left = amount - whole.iter().sum::<i128>();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|&i| (-(amount * parts[i] % sum), i));
    for i in order {
        if left > 0 {
            whole[i] += 1;
            left -= 1;
        }
    }
    let signed = |micros: i128| i64::try_from(micros * i128::from(value.signum())).unwrap_or(0);
    whole.into_iter().map(signed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_the_first_of_equal_ones_is_rounded_up() {
        let shared = |sharing, n| divide(100, &parts(sharing, n));
        assert_eq!(shared(Sharing::Linear, 3), [34, 33, 33]);
        assert_eq!(shared(Sharing::Position, 1), [100]);
        assert_eq!(shared(Sharing::Position, 2), [50, 50]);
        assert_eq!(shared(Sharing::Position, 4), [40, 10, 10, 40]);
        assert_eq!(divide(-100, &[1, 1, 1]), [-34, -33, -33]);
        assert!(divide(100, &[]).is_empty());
    }
}
