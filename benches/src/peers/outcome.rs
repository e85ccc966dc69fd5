//! What a contestant wrote, in a form that compares: a sorted list of digests, 16 bytes a record.
//!
//! A digest is over the key and the value; JSON is written anew first, so that order of fields and spacing do not
//! matter. Where caches decide how many updates there are, only the last value of each key counts.

use std::collections::HashMap;

use anyhow::{Context, Result};
use processor_core::log::{ConsumerRecord, Log};
use rustc_hash::FxHashMap;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use super::workload::Equal;
use crate::reading::read_committed;

/// Sorted digests; two of them are equal when the contestants wrote the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome(Vec<u128>);

/// A record that one outcome has more often than the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Difference {
    Missing(u128),
    Surplus(u128),
}

impl Outcome {
    /// Of the committed records of `topics`.
    pub fn read(log: &dyn Log, topics: &[&str], equal: Equal) -> Result<Self> {
        let mut collected = Collected::new(equal);
        read_committed(log, topics, |record| collected.add(record))
            .with_context(|| format!("cannot read {}", topics.join(" and ")))?;
        Ok(collected.outcome())
    }

    /// Records, or keys where only the last value of each counts.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The first difference to what was `expected`.
    pub fn first_difference(&self, expected: &Self) -> Option<Difference> {
        let (mut ours, mut theirs) = (self.0.iter().peekable(), expected.0.iter().peekable());
        loop {
            match (ours.peek().copied(), theirs.peek().copied()) {
                (None, None) => return None,
                (Some(a), Some(b)) if a == b => {
                    ours.next();
                    theirs.next();
                }
                (Some(a), Some(b)) if a < b => return Some(Difference::Surplus(*a)),
                (Some(a), None) => return Some(Difference::Surplus(*a)),
                (_, Some(b)) => return Some(Difference::Missing(*b)),
            }
        }
    }
}

/// The key and value with `digest` in `topics`, to be shown to a person.
pub(super) fn example(
    log: &dyn Log,
    topics: &[&str],
    equal: Equal,
    digest: u128,
) -> Result<Option<String>> {
    let mut found = None;
    read_committed(log, topics, |record| {
        if found.is_none() && self::digest(record, equal)? == digest {
            found = Some(format!(
                "{} = {}",
                shown(record.key.as_deref()),
                shown(record.value.as_deref())
            ));
        }
        Ok(())
    })?;
    Ok(found)
}

fn shown(bytes: Option<&[u8]>) -> String {
    bytes.map_or_else(
        || "null".to_owned(),
        |bytes| String::from_utf8_lossy(bytes).into_owned(),
    )
}

enum Collected {
    Records(Vec<u128>),
    /// Digest of the last record by digest of the key.
    LastOfKeys(FxHashMap<u128, u128>),
}

impl Collected {
    fn new(equal: Equal) -> Self {
        match equal {
            Equal::Records => Self::Records(Vec::new()),
            Equal::LastOfKeys => Self::LastOfKeys(HashMap::default()),
        }
    }

    fn add(&mut self, record: &ConsumerRecord) -> Result<()> {
        match self {
            Self::Records(digests) => digests.push(digest(record, Equal::Records)?),
            Self::LastOfKeys(last) => {
                let key = xxh3_128(record.key.as_deref().unwrap_or_default());
                last.insert(key, digest(record, Equal::LastOfKeys)?);
            }
        }
        Ok(())
    }

    fn outcome(self) -> Outcome {
        let mut digests = match self {
            Self::Records(digests) => digests,
            Self::LastOfKeys(last) => last.into_values().collect(),
        };
        digests.sort_unstable();
        Outcome(digests)
    }
}

fn digest(record: &ConsumerRecord, equal: Equal) -> Result<u128> {
    let value = record.value.as_deref().unwrap_or_default();
    let normal = match equal {
        Equal::Records => normal_json(value).with_context(|| {
            format!(
                "offset {} is not JSON: {}",
                record.offset,
                shown(record.value.as_deref())
            )
        })?,
        Equal::LastOfKeys => value.to_vec(),
    };
    let key = record.key.as_deref().unwrap_or_default();
    let mut bytes = key.len().to_le_bytes().to_vec();
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(&normal);
    Ok(xxh3_128(&bytes))
}

/// The same JSON with the fields of objects in alphabetical order and no spaces.
fn normal_json(json: &[u8]) -> Result<Vec<u8>> {
    let value: Value = serde_json::from_slice(json)?;
    Ok(serde_json::to_vec(&value)?)
}

#[cfg(test)]
mod tests {
    use processor_core::log::Headers;

    use super::*;

    fn record(key: &str, value: &str) -> ConsumerRecord {
        ConsumerRecord {
            offset: 0,
            timestamp: 0,
            key: Some(key.to_owned().into()),
            value: Some(value.to_owned().into()),
            headers: Headers::new(),
        }
    }

    fn outcome(equal: Equal, records: &[(&str, &str)]) -> Outcome {
        let mut collected = Collected::new(equal);
        for (key, value) in records {
            collected.add(&record(key, value)).unwrap();
        }
        collected.outcome()
    }

    #[test]
    fn order_of_records_and_fields_and_spacing_do_not_matter() {
        let one = [("k", r#"{"a":1,"b":"x"}"#), ("l", "{}")];
        let other = [("l", " { } "), ("k", r#"{"b": "x", "a": 1}"#)];
        assert_eq!(
            outcome(Equal::Records, &one),
            outcome(Equal::Records, &other)
        );
    }

    #[test]
    fn one_record_twice_is_not_the_record_once() {
        let once = outcome(Equal::Records, &[("k", "1"), ("l", "2")]);
        let twice = outcome(Equal::Records, &[("k", "1"), ("l", "2"), ("k", "1")]);
        let extra = digest(&record("k", "1"), Equal::Records).unwrap();
        assert_eq!(
            twice.first_difference(&once),
            Some(Difference::Surplus(extra))
        );
        assert_eq!(
            once.first_difference(&twice),
            Some(Difference::Missing(extra))
        );
        assert_eq!(once.first_difference(&once), None);
    }

    #[test]
    fn a_key_and_a_value_do_not_run_into_each_other() {
        let digest = |key, value| digest(&record(key, value), Equal::LastOfKeys).unwrap();
        assert_ne!(digest("ab", "c"), digest("a", "bc"));
    }

    #[test]
    fn of_a_counted_key_only_the_last_value_counts() {
        let all = [("k", "1"), ("l", "1"), ("k", "2")];
        let cached = [("k", "2"), ("l", "1")];
        let last = Equal::LastOfKeys;
        assert_eq!(outcome(last, &all), outcome(last, &cached));
        assert_ne!(
            outcome(last, &all),
            outcome(last, &[("k", "1"), ("l", "1")])
        );
    }
}
