//! Attribution models: how the touches on the path to a conversion share it. All of it in whole numbers, so that every
//! machine divides alike.

use std::time::Duration;

use crate::clock::millis;
use crate::log::Timestamp;

/// How the touches before a conversion share it, in the order of their times.
///
/// | model | share of each of `n` touches |
/// |---|---|
/// | `Last`, `First` | all to that one |
/// | `Linear` | 1/n |
/// | `TimeDecay` | 2^(−Δt / half-life), divided by the sum; Δt is the time from the touch to the conversion |
/// | `Position` | so many percent to the first and to the last, the rest in equal parts to those between |
///
/// *Last non-direct* is `Last` with direct visits as touches of a lower
/// [precedence](super::TouchWindow::precedence): they count only where there is nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// The latest touch.
    Last,
    /// The earliest touch.
    First,
    /// All touches alike.
    Linear,
    /// The later, the more.
    TimeDecay {
        /// After this time a touch is worth half as much. More than 0.
        half_life: Duration,
    },
    /// First and last touch more than those between. One touch takes all; two share in proportion to the two percentages.
    Position {
        /// Share of the first touch.
        first_percent: u8,
        /// Share of the last touch; both together 100 at most.
        last_percent: u8,
    },
}

/// Weight of a touch at the time of the latest one, in a model that decays.
const ONE: u64 = 1 << 62;

impl Model {
    /// First and last touch 40 % each, those between 20 %: the usual position-based ("U-shaped") model.
    pub const POSITION: Self = Self::Position {
        first_percent: 40,
        last_percent: 40,
    };

    /// What is wrong with it.
    pub(super) fn problem(self) -> Option<String> {
        match self {
            Self::TimeDecay { half_life } if millis(half_life) == 0 => {
                Some("a half-life must be a millisecond at least".to_owned())
            }
            Self::Position {
                first_percent,
                last_percent,
            } if u16::from(first_percent) + u16::from(last_percent) > 100 => Some(format!(
                "the first touch cannot have {first_percent} % and the last one {last_percent} %; together they may have \
                 100 % at most"
            )),
            _ => None,
        }
    }

    /// The weights of touches at these times, ascending, before a conversion.
    pub(super) fn weights(self, touches: &[Timestamp]) -> Vec<u64> {
        let n = touches.len();
        let only = |at: usize| (0..n).map(|i| u64::from(i == at)).collect();
        match self {
            Self::Last => only(n.saturating_sub(1)),
            Self::First => only(0),
            Self::Linear => vec![1; n],
            Self::TimeDecay { half_life } => {
                // The time from the latest touch to the conversion is a factor of all weights, so it can be left out.
                let latest = touches.last().copied().unwrap_or_default();
                let before = |touch: &Timestamp| latest.saturating_sub(*touch);
                let half_life_ms = millis(half_life).max(1).unsigned_abs();
                touches
                    .iter()
                    .map(|touch| halved(before(touch).unsigned_abs(), half_life_ms))
                    .collect()
            }
            Self::Position {
                first_percent,
                last_percent,
            } => by_position(n, first_percent.into(), last_percent.into()),
        }
    }
}

fn by_position(n: usize, first: u64, last: u64) -> Vec<u64> {
    match n {
        0 => Vec::new(),
        1 => vec![1],
        2 => vec![first, last],
        _ => {
            let between = n as u64 - 2;
            let mut weights = vec![100_u64.saturating_sub(first + last); n];
            weights[0] = first * between;
            weights[n - 1] = last * between;
            weights
        }
    }
}

/// `ROOTS[i]` is 2^(−2^−(i+1)): √½, its root, and so on.
const ROOTS: [u64; 62] = {
    let mut roots = [0; 62];
    let mut last = ONE >> 1;
    let mut i = 0;
    while i < roots.len() {
        // The root of a fraction in units of 2^−62 is the root of the number times 2^31.
        last = ((last as u128) << 62).isqrt() as u64;
        roots[i] = last;
        i += 1;
    }
    roots
};

/// 2^(−elapsed / half-life), in units of [`ONE`].
///
/// The whole half-lives are a shift. The binary digits of what is left over say which roots of ½ to multiply.
fn halved(elapsed: u64, half_life: u64) -> u64 {
    let (whole, rest) = (elapsed / half_life, elapsed % half_life);
    if whole > 62 {
        return 0;
    }
    let fraction = (u128::from(rest) << 62) / u128::from(half_life);
    let mut weight = ONE;
    for (i, root) in ROOTS.iter().enumerate() {
        if fraction >> (61 - i) & 1 == 1 {
            let product = u128::from(weight) * u128::from(*root);
            weight = u64::try_from(product >> 62).expect("both factors are 1 at most");
        }
    }
    weight >> whole
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::credit::apportion;
    use super::*;

    fn credits(model: Model, touches: &[Timestamp]) -> Vec<i64> {
        apportion(1_000, &model.weights(touches))
    }

    fn decay(half_life_ms: u64) -> Model {
        Model::TimeDecay {
            half_life: Duration::from_millis(half_life_ms),
        }
    }

    #[test]
    fn models_share_as_their_formulas_say() {
        let touches = [0, 10, 20, 30];
        assert_eq!(credits(Model::Last, &touches), [0, 0, 0, 1_000]);
        assert_eq!(credits(Model::First, &touches), [1_000, 0, 0, 0]);
        assert_eq!(credits(Model::Linear, &touches), [250; 4]);
        assert_eq!(credits(Model::POSITION, &touches), [400, 100, 100, 400]);
        // 1/8, 1/4, 1/2 and 1 of 15/8.
        assert_eq!(credits(decay(10), &touches), [67, 133, 267, 533]);
        for model in [Model::Last, Model::First, Model::Linear, decay(10)] {
            assert!(credits(model, &[]).is_empty());
            assert_eq!(credits(model, &[7]), [1_000]);
        }
    }

    #[test]
    fn positions_of_one_and_two_touches_have_rules_of_their_own() {
        assert!(credits(Model::POSITION, &[]).is_empty());
        assert_eq!(credits(Model::POSITION, &[0]), [1_000]);
        assert_eq!(credits(Model::POSITION, &[0, 1]), [500, 500]);
        assert_eq!(credits(Model::POSITION, &[0, 1, 2]), [400, 200, 400]);
        let position = |first_percent, last_percent| Model::Position {
            first_percent,
            last_percent,
        };
        assert_eq!(credits(position(30, 10), &[0, 1]), [750, 250]);
        assert_eq!(credits(position(0, 0), &[0, 1]), [500, 500]);
        assert_eq!(credits(position(0, 0), &[0, 1, 2]), [0, 1_000, 0]);
        assert_eq!(credits(position(60, 40), &[0, 1, 2]), [600, 0, 400]);
        assert!(position(60, 41).problem().is_some());
        assert_eq!(position(60, 40).problem(), None);
        assert!(decay(0).problem().is_some());
    }

    #[test]
    fn each_root_is_the_root_of_the_one_before() {
        let mut square = ONE >> 1;
        for root in ROOTS {
            let squared = ((u128::from(root) * u128::from(root)) >> 62) as u64;
            assert!(squared.abs_diff(square) <= 2, "{root}");
            square = root;
        }
    }

    proptest! {
        #[test]
        fn decay_is_the_power_that_it_should_be(elapsed in 0..100_000_u64, half_life in 1..100_000_u64) {
            let expected = (-(elapsed as f64) / half_life as f64).exp2();
            let actual = halved(elapsed, half_life) as f64 / ONE as f64;
            prop_assert!((actual - expected).abs() < 1e-14, "{actual} {expected}");
        }

        #[test]
        fn whole_half_lives_are_exact(halvings in 0..63_u64, half_life in 1..1_000_000_u64) {
            prop_assert_eq!(halved(halvings * half_life, half_life), ONE >> halvings);
        }
    }
}
