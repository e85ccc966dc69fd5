//! Which fault strikes whom, and when: a pure function of the seed.
//!
//! Kinds are dealt from a shuffled deck, so that each comes as often as the deck says, whatever the seed. An instance has one
//! fault at a time; instances and the broker may have theirs at once.

use std::collections::BTreeMap;

use processor_core::testing::simulation::Draw;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL; a new process under the same name, on the same state.
    Kill,
    /// SIGSTOP for longer than the session timeout, then SIGCONT: the group has gone on without it.
    Pause,
    /// SIGSTOP for longer than the broker keeps a transaction open.
    LongPause,
    /// A paused instance gets a successor with its name, then wakes up: one of them must end.
    Twin,
    /// SIGKILL of the broker, and a start on the same data.
    Broker,
    /// Connections of an instance are reset, new ones refused.
    Cut,
    /// Connections of an instance are taken and stay, and nothing passes; what was sent arrives late.
    BlackHole,
    /// Writes to the state directory fail.
    FullDisk,
    /// SIGKILL, and bytes of the stores are flipped or cut off.
    Corrupt,
    /// SIGKILL, and the state directory is deleted.
    Delete,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Kill,
        Self::Pause,
        Self::LongPause,
        Self::Twin,
        Self::Broker,
        Self::Cut,
        Self::BlackHole,
        Self::FullDisk,
        Self::Corrupt,
        Self::Delete,
    ];

    /// As reports call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::LongPause => "long_pause",
            Self::Twin => "twin",
            Self::Broker => "broker",
            Self::Cut => "cut",
            Self::BlackHole => "black_hole",
            Self::FullDisk => "full_disk",
            Self::Corrupt => "corrupt",
            Self::Delete => "delete",
        }
    }

    /// How long it lasts, in ms: from, and by how much more at most.
    fn lasts_ms(self) -> (u64, u64) {
        match self {
            Self::Kill => (200, 2_800),
            // The session timeout is 6 s.
            Self::Pause => (7_000, 4_000),
            // The broker looks every 10 s for transactions older than 30 s.
            Self::LongPause => (42_000, 5_000),
            Self::Twin => (3_000, 7_000),
            Self::Broker => (300, 4_000),
            Self::Cut => (500, 8_000),
            Self::BlackHole => (1_000, 14_000),
            // Stores are written every 10 s.
            Self::FullDisk => (12_000, 4_000),
            Self::Corrupt | Self::Delete => (200, 1_800),
        }
    }
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// Which instance; behind them all, the broker.
    pub victim: usize,
    /// From the start of the load, in ms.
    pub begin_ms: u64,
    /// From the start of the load, in ms.
    pub end_ms: u64,
}

/// A deck: how often each kind comes in so many faults.
const DECK: [(Kind, usize); 10] = [
    (Kind::Kill, 7),
    (Kind::Pause, 3),
    (Kind::LongPause, 1),
    (Kind::Twin, 1),
    (Kind::Broker, 1),
    (Kind::Cut, 3),
    (Kind::BlackHole, 2),
    (Kind::FullDisk, 1),
    (Kind::Corrupt, 2),
    (Kind::Delete, 1),
];

/// An instance is left alone for so long after a fault, to start again.
const REST_MS: u64 = 4_000;
/// So is the broker.
const BROKER_REST_MS: u64 = 8_000;

/// The faults of `seed` that begin and end within `total_ms`, one about every `pace_ms`, ordered by their begin.
#[must_use]
pub fn schedule(seed: u64, total_ms: u64, pace_ms: u64, instances: usize) -> Vec<Fault> {
    let mut draw = Draw::of(seed);
    // When each instance, and behind them the broker, may have the next one.
    let mut free_ms = vec![0; instances + 1];
    let mut faults = Vec::new();
    let mut deck = Vec::new();
    let mut at_ms = pace_ms / 2;
    while at_ms < total_ms {
        if deck.is_empty() {
            deck = shuffled(&mut draw);
        }
        let idle: Vec<usize> = (0..instances).filter(|i| free_ms[*i] <= at_ms).collect();
        let card = deck.iter().position(|kind| {
            let (least_ms, more_ms) = kind.lasts_ms();
            let is_over_in_time = at_ms + least_ms + more_ms <= total_ms;
            is_over_in_time
                && match kind {
                    Kind::Broker => free_ms[instances] <= at_ms,
                    _ => !idle.is_empty(),
                }
        });
        let Some(card) = card else {
            let next = free_ms.iter().filter(|free_ms| **free_ms > at_ms).min();
            at_ms = next.copied().unwrap_or_else(|| {
                // Nobody is busy, so the cards that are left last too long by now.
                deck.clear();
                at_ms + pace_ms / 2 + 1
            });
            continue;
        };
        let kind: Kind = deck.remove(card);
        let (place, rest_ms) = match kind {
            Kind::Broker => (instances, BROKER_REST_MS),
            _ => (*draw.of_these(&idle), REST_MS),
        };
        let (least_ms, more_ms) = kind.lasts_ms();
        let end_ms = at_ms + least_ms + draw.below(more_ms + 1);
        faults.push(Fault {
            kind,
            victim: place,
            begin_ms: at_ms,
            end_ms,
        });
        free_ms[place] = end_ms + rest_ms;
        at_ms += pace_ms / 2 + draw.below(pace_ms + 1);
    }
    faults
}

/// How often each kind came, those that did not included.
pub type Counts = BTreeMap<&'static str, u64>;

/// How often each kind comes among `faults`.
#[must_use]
pub fn counts(faults: &[Fault]) -> Counts {
    let times = |kind| faults.iter().filter(|fault| fault.kind == kind).count() as u64;
    Kind::ALL
        .iter()
        .map(|kind| (kind.name(), times(*kind)))
        .collect()
}

/// What half an hour of faults is to have at least, in all and of each kind.
const ENOUGH: u64 = 200;
const ENOUGH_OF_A_KIND: u64 = 5;
const HALF_AN_HOUR_MS: u64 = 30 * 60 * 1_000;

/// What `counts` lacks of the faults that `total_ms` are to have: those of half an hour, in proportion for less.
#[must_use]
pub fn shortages(counts: &Counts, total_ms: u64) -> Vec<String> {
    let due = |in_half_an_hour| in_half_an_hour * total_ms.min(HALF_AN_HOUR_MS) / HALF_AN_HOUR_MS;
    let mut shortages = Vec::new();
    let mut require = |what: &str, times: u64, due: u64| {
        if times < due {
            shortages.push(format!(
                "{what} struck {times} times in {} s, and {due} times are the least",
                total_ms / 1_000
            ));
        }
    };
    require("a fault", counts.values().sum(), due(ENOUGH));
    for kind in Kind::ALL {
        let times = counts.get(kind.name()).copied().unwrap_or_default();
        require(kind.name(), times, due(ENOUGH_OF_A_KIND));
    }
    shortages
}

fn shuffled(draw: &mut Draw) -> Vec<Kind> {
    let mut cards: Vec<Kind> = DECK
        .iter()
        .flat_map(|(kind, times)| std::iter::repeat_n(*kind, *times))
        .collect();
    for i in (1..cards.len()).rev() {
        cards.swap(i, draw.index(i + 1));
    }
    cards
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: u64 = 60_000;

    #[test]
    fn there_are_faults_enough_and_all_end_in_time_whatever_the_seed() {
        for minutes in [1, 2, 3, 10, 30, 45] {
            let total_ms = minutes * MINUTE_MS;
            for seed in 0..100 {
                let faults = schedule(seed, total_ms, 7_000, 3);
                let lacking = shortages(&counts(&faults), total_ms);
                assert_eq!(lacking, [""; 0], "seed {seed}, {minutes} minutes");
                assert!(faults.iter().all(|fault| fault.end_ms <= total_ms));
            }
        }
    }

    #[test]
    fn half_an_hour_is_short_of_faults_below_200_and_of_a_kind_below_5() {
        let mut enough: Counts = Kind::ALL.iter().map(|kind| (kind.name(), 20)).collect();
        assert_eq!(shortages(&enough, HALF_AN_HOUR_MS), [""; 0]);
        enough.insert("twin", 5);
        enough.insert("kill", 35);
        assert_eq!(shortages(&enough, 2 * HALF_AN_HOUR_MS), [""; 0]);
        enough.insert("twin", 4);
        assert_eq!(
            shortages(&enough, HALF_AN_HOUR_MS),
            [
                "a fault struck 199 times in 1800 s, and 200 times are the least",
                "twin struck 4 times in 1800 s, and 5 times are the least"
            ]
        );
    }

    #[test]
    fn a_shorter_run_is_to_have_its_part_of_the_faults() {
        let of_each = |times| Kind::ALL.iter().map(|kind| (kind.name(), times)).collect();
        assert_eq!(shortages(&of_each(2), 3 * MINUTE_MS), [""; 0], "20 of 20");
        assert_eq!(shortages(&of_each(1), 3 * MINUTE_MS).len(), 1);
        assert_eq!(shortages(&of_each(1), 12 * MINUTE_MS).len(), 11);
        assert_eq!(shortages(&counts(&[]), 5_000), [""; 0]);
    }

    #[test]
    fn each_instance_and_the_broker_have_one_fault_at_a_time() {
        let faults = schedule(3, HALF_AN_HOUR_MS, 3_000, 3);
        for victim in 0..4 {
            let of_one: Vec<_> = faults
                .iter()
                .filter(|fault| fault.victim == victim)
                .collect();
            assert!(of_one.is_sorted_by(|a, b| a.end_ms < b.begin_ms));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_faults_and_another_does_not() {
        let of = |seed| schedule(seed, HALF_AN_HOUR_MS, 7_000, 3);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
