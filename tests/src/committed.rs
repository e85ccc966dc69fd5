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

    /// Records of `other` that are missing here, and records that are here too often or not there at all.
    #[must_use]
    pub fn difference(&self, other: &Self) -> (u64, u64) {
        let more = |a: &Self, b: &Self| {
            let extra = |(key, count): (&u128, &u64)| {
                count.saturating_sub(b.counts.get(key).copied().unwrap_or(0))
            };
            a.counts.iter().map(extra).sum()
        };
        (more(other, self), more(self, other))
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
        let (missing, surplus) = found.difference(expected);
        if (missing, surplus) != (0, 0) {
            write!(wrong, " {topic}: {missing} missing, {surplus} too many;")?;
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
    fn a_repeated_record_is_too_many_and_a_lost_one_missing() {
        let expected = multiset(&[1, 2, 2, 3]);
        assert_eq!(multiset(&[3, 2, 1, 2]).difference(&expected), (0, 0));
        assert_eq!(multiset(&[1, 2, 2, 3, 3]).difference(&expected), (0, 1));
        assert_eq!(multiset(&[1, 2, 4]).difference(&expected), (2, 1));
        assert!(same(&[("t", expected)], &[("t", multiset(&[1]))]).is_err());
    }
}
