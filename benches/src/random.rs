//! Numbers that look random and are the same for the same seed: SplitMix64.

use processor_core::testing::simulation::Draw;

#[derive(Debug, Clone)]
pub(crate) struct Random(Draw);

impl Random {
    pub fn with_seed(seed: u64) -> Self {
        Self(Draw::of(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0.number()
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let width = u128::from(low.abs_diff(high)) + 1;
        let offset = (u128::from(self.next()) * width) >> 64;
        low + i64::try_from(offset)
            .expect("not beyond the distance of two i64s that a caller writes")
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: i64) -> bool {
        self.between(1, n) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_published_numbers_of_splitmix64() {
        let mut random = Random::with_seed(1_234_567);
        let first: Vec<u64> = (0..2).map(|_| random.next()).collect();
        assert_eq!(
            first,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]
        );
    }

    #[test]
    fn numbers_reach_both_ends_and_nothing_beyond() {
        let mut random = Random::with_seed(7);
        let seen: std::collections::BTreeSet<i64> =
            (0..1_000).map(|_| random.between(-1, 2)).collect();
        assert_eq!(seen, (-1..=2).collect());
    }
}
