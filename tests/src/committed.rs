//! What has been committed to topics, as multisets that can be compared.

use std::collections::HashMap;
use std::fmt::Write as _;

use anyhow::{Result, bail};
use processor_core::log::{Log, read_to_end};
use xxhash_rust::xxh3::Xxh3;

/// The committed records of a topic, each by a hash of its key, value and timestamp, with how often it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Multiset {
    counts: HashMap<u128, u64>,
    records: u64,
}

impl Multiset {
    /// Reads `topic` to its end, read committed.
    ///
    /// # Errors
    /// When the log does not answer.
    pub fn of(log: &dyn Log, topic: &str) -> Result<Self> {
        let mut multiset = Self::default();
        read_to_end(log, topic, &mut |record| {
            let mut hash = Xxh3::new();
            for part in [&record.key, &record.value] {
                let bytes = part.as_deref().unwrap_or_default();
                hash.update(&[u8::from(part.is_some())]);
                hash.update(&(bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            }
            hash.update(&record.timestamp.to_le_bytes());
            *multiset.counts.entry(hash.digest128()).or_default() += 1;
            multiset.records += 1;
            Ok(())
        })?;
        Ok(multiset)
    }

    /// Records, repeated ones included.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// What is wrong here if `expected` is right.
    #[must_use]
    pub fn difference(&self, expected: &Self) -> Difference {
        let mut difference = Difference::default();
        for (record, times) in &expected.counts {
            let found = self.counts.get(record).copied().unwrap_or(0);
            difference.lost += times.saturating_sub(found);
            difference.duplicated += found.saturating_sub(*times);
        }
        for (record, times) in &self.counts {
            if !expected.counts.contains_key(record) {
                difference.wrong += times;
            }
        }
        difference
    }
}

/// In what committed records differ from those that are expected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// Records that are missing.
    pub lost: u64,
    /// Records that are there more often than they should be.
    pub duplicated: u64,
    /// Records that should not be there at all.
    pub wrong: u64,
}

impl Difference {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl std::ops::AddAssign for Difference {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.wrong += other.wrong;
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            lost,
            duplicated,
            wrong,
        } = self;
        write!(f, "{lost} lost, {duplicated} duplicated, {wrong} wrong")
    }
}

/// Reads several topics.
///
/// # Errors
/// As for [`Multiset::of`].
pub fn multisets(log: &dyn Log, topics: &[&'static str]) -> Result<Vec<(&'static str, Multiset)>> {
    let read = |topic: &&'static str| Ok((*topic, Multiset::of(log, topic)?));
    topics.iter().map(read).collect()
}

/// Passes when all topics hold the same.
///
/// # Errors
/// Says for each topic that differs how many records are missing and how many are too many.
pub fn same(expected: &[(&str, Multiset)], found: &[(&str, Multiset)]) -> Result<()> {
    let mut wrong = String::new();
    for ((topic, expected), (_, found)) in expected.iter().zip(found) {
        let difference = found.difference(expected);
        if !difference.is_none() {
            write!(wrong, " {topic}: {difference};")?;
        }
    }
    if !wrong.is_empty() {
        bail!("committed results differ from the undisturbed run:{wrong}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn multiset(keys: &[u128]) -> Multiset {
        let mut multiset = Multiset::default();
        for key in keys {
            *multiset.counts.entry(*key).or_default() += 1;
            multiset.records += 1;
        }
        multiset
    }

    #[test]
    fn a_record_is_lost_duplicated_or_wrong() {
        let expected = multiset(&[1, 2, 2, 3]);
        let of = |records: &[u128]| {
            let difference = multiset(records).difference(&expected);
            (difference.lost, difference.duplicated, difference.wrong)
        };
        assert_eq!(of(&[3, 2, 1, 2]), (0, 0, 0));
        assert_eq!(of(&[1, 2, 2, 3, 3]), (0, 1, 0));
        assert_eq!(of(&[1, 2, 4]), (2, 0, 1));
        assert!(same(&[("t", expected)], &[("t", multiset(&[1]))]).is_err());
    }
}
