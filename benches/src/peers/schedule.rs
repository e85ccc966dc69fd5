//! Who is next.
//!
//! Rounds alternate, so that what the machine does beside us does not hit one contestant alone; and each round begins with
//! another one, so that nobody always comes after the same.

use super::contestant::Contestant;

/// The order of `contestants` in round `round`, counted from 0.
pub(super) fn order(contestants: &[Contestant], round: u32) -> Vec<Contestant> {
    let mut order = contestants.to_vec();
    if !order.is_empty() {
        let shift = usize::try_from(round).unwrap_or(0) % order.len();
        order.rotate_left(shift);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::super::contestant::Cache;
    use super::*;

    #[test]
    fn everybody_is_first_in_some_round() {
        let all = [
            Contestant::Ours,
            Contestant::KafkaStreams(Cache::Default),
            Contestant::Raw,
        ];
        let first: Vec<Contestant> = (0..3).map(|round| order(&all, round)[0]).collect();
        assert_eq!(first, all);
        assert_eq!(order(&all, 3), all);
    }
}
