//! Numbers that follow from a seed: SplitMix64.

/// A stream of numbers; the same seed gives the same ones on every machine.
#[derive(Debug, Clone)]
pub struct Draw(u64);

/// What is drawn of a seed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// Input and faults.
    Case,
    /// How long the log waits.
    Patience,
    /// What is hard without a fault, and who has which turn.
    Course,
    /// When transactions are looked at.
    Audits,
}

impl Draw {
    /// The numbers of `seed`.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// The numbers of `seed` for one of several things, none of which follow from those for another.
    pub(super) fn of_seed_for(seed: u64, purpose: Purpose) -> Self {
        let mut all = Self::of(seed);
        for _ in 0..purpose as u8 {
            all.number();
        }
        all.fork()
    }

    /// Another stream that follows from this one.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.number())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        self.number() % bound
    }

    /// An index of a slice of `length`, which must not be 0.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("an index fits")
    }

    /// One of `choices`, which must not be empty.
    pub fn of_these<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// Whether one of so many chances came true.
    pub fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_for_one_thing_say_nothing_of_those_for_another() {
        let choices = |seed| {
            let of = |purpose| Draw::of_seed_for(seed, purpose).below(4);
            (
                of(Purpose::Patience),
                of(Purpose::Course),
                of(Purpose::Audits),
            )
        };
        let seen: std::collections::BTreeSet<_> = (0..2_000).map(choices).collect();
        assert_eq!(seen.len(), 64, "all combinations");
    }

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        // The first three of seed 1234567 as published with the algorithm.
        let mut draw = Draw::of(1_234_567);
        let numbers = [draw.number(), draw.number(), draw.number()];
        assert_eq!(
            numbers,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }
}
