//! What a topology has written, and how two such results are compared.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use crate::log::Timestamp;

/// A committed record of an output topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutputRecord {
    /// Key bytes.
    pub key: Option<Bytes>,
    /// Value bytes.
    pub value: Option<Bytes>,
    /// Timestamp in epoch milliseconds.
    pub timestamp: Timestamp,
}

impl fmt::Display for OutputRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |bytes: &Option<Bytes>| match bytes {
            None => "null".to_owned(),
            Some(bytes) => bytes.escape_ascii().to_string(),
        };
        write!(
            f,
            "{} = {} at {}",
            part(&self.key),
            part(&self.value),
            self.timestamp
        )
    }
}

/// The committed records of all output topics, partition by partition, each in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outputs {
    /// By topic.
    pub topics: BTreeMap<String, Vec<OutputRecord>>,
}

/// Compares what came of a disturbed run with what an undisturbed one gives: the first difference, if there is one.
pub type Check = fn(expected: &Outputs, actual: &Outputs) -> Result<(), String>;

/// Each record as often as in the sequential run, in whatever order.
///
/// For topologies whose results do not depend on how partitions interleave: one sub-topology, or commutative results
/// behind a repartition topic.
#[must_use]
pub fn same_as_sequential() -> Check {
    |expected, actual| {
        same(expected, actual, |records| {
            let mut records = records.to_vec();
            records.sort();
            records
        })
    }
}

/// The same records for each key, in the same order: for topologies that do not repartition.
#[must_use]
pub fn same_order_per_key() -> Check {
    |expected, actual| {
        same(expected, actual, |records| {
            let mut records = records.to_vec();
            records.sort_by(|a, b| a.key.cmp(&b.key));
            records
        })
    }
}

/// The same last record for each key, whatever came before: for topologies whose results on the way depend on how
/// partitions interleave.
#[must_use]
pub fn same_last_per_key() -> Check {
    |expected, actual| {
        same(expected, actual, |records| {
            let last: BTreeMap<_, _> = records
                .iter()
                .map(|record| (record.key.clone(), record.clone()))
                .collect();
            last.into_values().collect()
        })
    }
}

/// The same last value for each key, where a delete is as good as no record, and timestamps do not count: for tables
/// whose rows come together from several partitions.
#[must_use]
pub fn same_rows() -> Check {
    |expected, actual| {
        same(expected, actual, |records| {
            let last: BTreeMap<_, _> = records
                .iter()
                .map(|record| (record.key.clone(), record.value.clone()))
                .collect();
            last.into_iter()
                .filter(|(_, value)| value.is_some())
                .map(|(key, value)| OutputRecord {
                    key,
                    value,
                    timestamp: 0,
                })
                .collect()
        })
    }
}

/// Each record at least as often as in the sequential run, and none that is not there: for topologies without state that
/// run with [`Guarantee::AtLeastOnce`](crate::Guarantee::AtLeastOnce).
#[must_use]
pub fn each_at_least_once() -> Check {
    |expected, actual| {
        for (topic, expected) in &expected.topics {
            let actual = actual.topics.get(topic).map_or(&[][..], Vec::as_slice);
            let (expected, actual) = (counted(expected), counted(actual));
            for (record, times) in &expected {
                let seen = actual.get(record).copied().unwrap_or(0);
                if seen < *times {
                    return Err(format!("{topic}: {record} came {seen} times, not {times}"));
                }
            }
            if let Some(foreign) = actual.keys().find(|record| !expected.contains_key(*record)) {
                return Err(format!("{topic}: {foreign} should not be there"));
            }
        }
        Ok(())
    }
}

fn counted(records: &[OutputRecord]) -> BTreeMap<&OutputRecord, u64> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record).or_default() += 1;
    }
    counts
}

/// Each record at most once, and none that contradicts the sequential run: for final results behind a repartition topic,
/// of which the last may still be open in one of the two runs.
#[must_use]
pub fn no_contradiction() -> Check {
    |expected, actual| {
        for (topic, expected) in &expected.topics {
            let actual = actual.topics.get(topic).map_or(&[][..], Vec::as_slice);
            let by_key = |records: &[OutputRecord]| -> BTreeMap<_, _> {
                let keyed = records
                    .iter()
                    .map(|record| (record.key.clone(), record.clone()));
                keyed.collect()
            };
            let (of_expected, of_actual) = (by_key(expected), by_key(actual));
            if of_actual.len() < actual.len() {
                return Err(format!("{topic}: a final result came twice"));
            }
            for (key, actual) in of_actual {
                if let Some(expected) = of_expected.get(&key).filter(|e| **e != actual) {
                    return Err(format!("{topic}: {actual} instead of {expected}"));
                }
            }
        }
        Ok(())
    }
}

fn same(
    expected: &Outputs,
    actual: &Outputs,
    view: impl Fn(&[OutputRecord]) -> Vec<OutputRecord>,
) -> Result<(), String> {
    for (topic, expected) in &expected.topics {
        let actual = actual.topics.get(topic).map_or(&[][..], Vec::as_slice);
        let (expected, actual) = (view(expected), view(actual));
        let longest = expected.len().max(actual.len());
        let differs = (0..longest).find(|&at| expected.get(at) != actual.get(at));
        if let Some(at) = differs {
            let shown = |record: Option<&OutputRecord>| {
                record.map_or("nothing more".to_owned(), ToString::to_string)
            };
            return Err(format!(
                "{topic}: {} records instead of {}; the first difference: {} instead of {}",
                actual.len(),
                expected.len(),
                shown(actual.get(at)),
                shown(expected.get(at))
            ));
        }
    }
    Ok(())
}
