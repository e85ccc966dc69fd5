//! The times of a task as the metadata of its committed offsets, of which Kafka keeps 4,096 bytes.
//!
//! ```text
//! 1|count=ldu1qgw0,join=ldu1qfz3,app-by-campaign-repartition#=ldu1qgw0.0.3k..1a2
//! ```
//! Numbers are base 36. The times of the tasks that write a repartition topic stand in one group: the largest, then for
//! each task, from 0, how far it lies behind; nothing for a task that is not known yet. So a hundred upstream tasks take
//! some hundred bytes.
//!
//! What does not fit is left out, the upstream times first: without them a restarted task waits until it has heard from
//! each upstream task again before it closes a window, which delays results and makes none wrong.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::log::Timestamp;

const VERSION: &str = "1|";
/// Some room is left below Kafka's `offset.metadata.max.bytes`.
const MAX_BYTES: usize = 4_000;

/// The text of `times`, as many as fit.
pub(crate) fn encode(times: &BTreeMap<String, Timestamp>) -> String {
    let mut own = Vec::new();
    let mut upstream: BTreeMap<&str, Vec<Option<Timestamp>>> = BTreeMap::new();
    for (name, &time) in times {
        match upstream_task(name) {
            Some((topic, task)) => {
                let group = upstream.entry(topic).or_default();
                group.resize(group.len().max(task + 1), None);
                group[task] = Some(time);
            }
            None => own.push(format!("{name}={}", base36(time))),
        }
    }
    let groups = upstream.iter().map(|(topic, times)| group(topic, times));
    let mut text = String::from(VERSION);
    for entry in own.into_iter().chain(groups) {
        if text.len() + entry.len() + 1 > MAX_BYTES {
            tracing::debug!(entry = %&entry[..entry.len().min(80)], "a time does not fit into the offset metadata");
            continue;
        }
        if text.len() > VERSION.len() {
            text.push(',');
        }
        text.push_str(&entry);
    }
    text
}

/// Reads what [`encode`] wrote. Foreign metadata (another engine's, an older group's) gives no times.
pub(crate) fn decode(text: &str) -> BTreeMap<String, Timestamp> {
    let mut times = BTreeMap::new();
    let Some(list) = text.strip_prefix(VERSION) else {
        return times;
    };
    for (name, value) in list.split(',').filter_map(|entry| entry.split_once('=')) {
        match name.strip_suffix('#') {
            None => times.extend(number(value).map(|time| (name.to_owned(), time))),
            Some(topic) => {
                let mut parts = value.split('.');
                let Some(largest) = parts.next().and_then(number) else {
                    continue;
                };
                for (task, behind) in parts.enumerate() {
                    let time = number(behind).and_then(|behind| largest.checked_sub(behind));
                    times.extend(time.map(|time| (upstream_name(topic, task), time)));
                }
            }
        }
    }
    times
}

/// Name of the time of an upstream task.
pub(crate) fn upstream_name(topic: &str, task: impl std::fmt::Display) -> String {
    format!("{topic}#{task}")
}

fn upstream_task(name: &str) -> Option<(&str, usize)> {
    let (topic, task) = name.rsplit_once('#')?;
    // Only as `upstream_name` writes it, or another name would come back.
    let number: usize = task.parse().ok().filter(|task| *task < 100_000)?;
    (number.to_string() == task).then_some((topic, number))
}

fn group(topic: &str, times: &[Option<Timestamp>]) -> String {
    let largest = times.iter().flatten().copied().max().unwrap_or_default();
    let mut text = format!("{topic}#={}", base36(largest));
    for time in times {
        // A time that lies further back than there are numbers is left out.
        let behind = time.and_then(|time| largest.checked_sub(time)).map(base36);
        let _ = write!(text, ".{}", behind.unwrap_or_default());
    }
    text
}

fn number(text: &str) -> Option<i64> {
    i64::from_str_radix(text, 36).ok()
}

fn base36(number: i64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut left = number.unsigned_abs();
    let mut digits = Vec::new();
    loop {
        digits.push(char::from(DIGITS[usize::try_from(left % 36).unwrap_or(0)]));
        left /= 36;
        if left == 0 {
            break;
        }
    }
    if number < 0 {
        digits.push('-');
    }
    digits.into_iter().rev().collect()
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_any(text: &str) {
    let times = decode(text);
    let written = encode(&times);
    assert!(written.len() < 4_096, "Kafka keeps no more");
    // What does not fit is left out, and nothing is made up.
    for (name, time) in decode(&written) {
        assert_eq!(times.get(&name), Some(&time), "{name}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = 1_704_067_200_000;

    fn upstream(topic: &str, tasks: usize) -> BTreeMap<String, Timestamp> {
        let time = |task: usize| {
            let behind = i64::try_from(task * 7_919 % 600_000).unwrap();
            (upstream_name(topic, task), NOW - behind)
        };
        (0..tasks).map(time).collect()
    }

    #[test]
    fn times_survive_the_round_trip() {
        let mut times = upstream("app-by-campaign-repartition", 3);
        times.insert("count".to_owned(), 17);
        times.insert("join".to_owned(), NOW);
        // A task that has not been heard of.
        times.insert(upstream_name("app-by-campaign-repartition", 9), NOW - 5);
        assert_eq!(decode(&encode(&times)), times);
        assert_eq!(decode(&encode(&BTreeMap::new())), BTreeMap::new());
    }

    #[test]
    fn hundreds_of_upstream_tasks_fit() {
        let mut times = upstream("advertisex-campaign-minute-impressions-repartition", 300);
        times.extend(upstream(
            "advertisex-campaign-minute-clicks-repartition",
            300,
        ));
        times.insert("campaign-minute-impressions".to_owned(), NOW);
        let text = encode(&times);
        assert!(text.len() < 4_096, "{} bytes", text.len());
        assert_eq!(decode(&text), times);
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_the_operators_own_times_stay() {
        let mut times = upstream("topic", 5_000);
        times.insert("count".to_owned(), NOW);
        let text = encode(&times);
        assert!(text.len() < 4_096, "{} bytes", text.len());
        assert_eq!(decode(&text), BTreeMap::from([("count".to_owned(), NOW)]));
    }

    #[test]
    fn no_other_name_or_time_comes_back_than_was_written() {
        // Names as no operator and no upstream task has them, and times further apart than a number tells.
        for name in ["topic#007", "topic#+7", "topic#100000", "topic#x", "a#b#3"] {
            let times = BTreeMap::from([(name.to_owned(), 5)]);
            assert_eq!(decode(&encode(&times)), times, "{name}");
        }
        let apart = BTreeMap::from([
            (upstream_name("topic", 0), Timestamp::MAX),
            (upstream_name("topic", 1), -2),
        ]);
        let decoded = decode(&encode(&apart));
        assert_eq!(decoded.get("topic#0"), Some(&Timestamp::MAX));
        assert_eq!(decoded.get("topic#1"), None, "left out");
    }

    #[test]
    fn foreign_metadata_gives_no_times() {
        for text in ["AgAAAY", "", "1|", "1|a", "1|a=!", "1|t#=", "1|t#=x.-.!"] {
            assert!(decode(text).is_empty(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn numbers_survive(number_in in any::<i64>().prop_filter("has no absolute value", |n| *n != i64::MIN)) {
            prop_assert_eq!(number(&base36(number_in)), Some(number_in));
        }

        #[test]
        fn no_text_panics(text in "(1\\|)?[a-z0-9=.,#-]{0,60}") {
            check_any(&text);
        }
    }
}
