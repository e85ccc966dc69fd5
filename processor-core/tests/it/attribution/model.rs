//! What conversions must be credited with, worked out with lists of everything and nothing else. It shares no code with the
//! operator.

use super::random::{Happening, Input, TICK_MS};

/// How a conversion is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    Last,
    First,
    Linear,
    /// Half for each tick.
    Decay,
    /// Percent of the first and the last one.
    Position(u8, u8),
}

/// `(stream, touch, micros)` by time, and how many touches were cut off.
pub type Credits = (Vec<(String, String, i64)>, usize);

/// The credits of `conversion` among everything that happened.
pub fn expected(
    conversion: &Happening,
    all: &[Happening],
    sharing: Sharing,
    max_path: usize,
    cross_campaign: bool,
) -> Credits {
    let eligible = |touch: &&Happening| match touch.input.window() {
        Some((before, _)) => {
            touch.user == conversion.user
                && (cross_campaign || touch.campaign == conversion.campaign)
                && conversion.time - before <= touch.time
                && touch.time <= conversion.time
        }
        None => false,
    };
    let eligible: Vec<&Happening> = all.iter().filter(eligible).collect();
    let precedence = |touch: &Happening| touch.input.window().map(|(_, precedence)| precedence);
    let best = eligible.iter().map(|touch| precedence(touch)).max();
    let mut path: Vec<&Happening> = eligible
        .into_iter()
        .filter(|touch| Some(precedence(touch)) == best)
        .collect();
    path.sort_by_key(|touch| (touch.time, touch.id.clone()));
    let mut cut = 0;
    match sharing {
        Sharing::Last => path = path.split_off(path.len().saturating_sub(1)),
        Sharing::First => path.truncate(1),
        _ => {
            cut = path.len().saturating_sub(max_path);
            path = path.split_off(cut);
        }
    }
    let times: Vec<i64> = path.iter().map(|touch| touch.time).collect();
    let micros = divide(
        conversion.value,
        &fractions(sharing, conversion.time, &times),
    );
    let credit = |(touch, micros): (&&Happening, i64)| {
        let stream = match touch.input {
            Input::Purchases => unreachable!("it has no window"),
            Input::Clicks => "clicks",
            Input::Views => "views",
            Input::Visits => "visits",
        };
        (stream.to_owned(), touch.id.clone(), micros)
    };
    (path.iter().zip(micros).map(credit).collect(), cut)
}

/// Numerators over their common sum.
fn fractions(sharing: Sharing, conversion: i64, times: &[i64]) -> Vec<i128> {
    let n = times.len() as i128;
    match sharing {
        Sharing::Last | Sharing::First | Sharing::Linear => vec![1; times.len()],
        Sharing::Decay => {
            let ticks: Vec<i64> = times.iter().map(|t| (conversion - t) / TICK_MS).collect();
            let most = ticks.iter().max().copied().unwrap_or(0);
            ticks.iter().map(|k| 1 << (most - k)).collect()
        }
        Sharing::Position(first, last) => {
            let (first, last) = (i128::from(first), i128::from(last));
            (0..n)
                .map(|i| match (n, i) {
                    (1, _) => 1,
                    (2, _) if first + last == 0 => 1,
                    (2, 0) => first,
                    (2, _) => last,
                    (_, 0) => first * (n - 2),
                    (_, i) if i == n - 1 => last * (n - 2),
                    _ => 100 - first - last,
                })
                .collect()
        }
    }
}

/// Gives each its whole part, then unit by unit to whoever misses most.
fn divide(value: i64, fractions: &[i128]) -> Vec<i64> {
    let (sum, amount) = (fractions.iter().sum::<i128>(), i128::from(value.abs()));
    let mut parts: Vec<i128> = fractions.iter().map(|f| amount * f / sum).collect();
    while !parts.is_empty() && parts.iter().sum::<i128>() < amount {
        let misses = |i: &usize| amount * fractions[*i] - parts[*i] * sum;
        let most = (0..parts.len()).map(|i| misses(&i)).max();
        let who = (0..parts.len()).find(|i| Some(misses(i)) == most);
        parts[who.unwrap()] += 1;
    }
    let part = |part: i128| i64::try_from(part).unwrap() * value.signum();
    parts.into_iter().map(part).collect()
}
