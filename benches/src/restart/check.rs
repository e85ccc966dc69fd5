//! Whether the results are right: each user's count goes up, never back and never twice, and ends at what the input says; or
//! each user has every pair of its impressions once.

use anyhow::{Context as _, Result, bail};
use processor_core::log::{ConsumerRecord, Log};
use xxhash_rust::xxh3::xxh3_64;

use crate::event::Impression;
use crate::reading::read_committed;

use super::input::{IMPRESSIONS, Users, key};
use super::kind::Kind;

/// Compares the committed records of `output` with the input; the number of results.
pub(super) fn check(log: &dyn Log, kind: Kind, users: Users, output: &str) -> Result<u64> {
    match kind {
        Kind::Table => check_counts(log, users, output),
        Kind::Join => check_pairs(log, users, output),
    }
}

fn check_counts(log: &dyn Log, users: Users, output: &str) -> Result<u64> {
    let mut results = Results::of(users);
    let mut count = 0;
    read_committed(log, &[output], |record| {
        count += 1;
        results.add(record)
    })?;
    let mut impressions = vec![0; results.last.len()];
    read_committed(log, &[IMPRESSIONS], |record| {
        impressions[user(users, record)?] += 1;
        Ok(())
    })?;
    results.compare(&impressions)?;
    Ok(count)
}

fn check_pairs(log: &dyn Log, users: Users, output: &str) -> Result<u64> {
    let all = usize::try_from(users.count)?;
    let mut found = vec![Pairs::default(); all];
    let mut count = 0;
    read_committed(log, &[output], |record| {
        count += 1;
        found[user(users, record)?].add(record.value.as_deref().unwrap_or_default());
        Ok(())
    })?;
    let mut ids = vec![Vec::new(); all];
    read_committed(log, &[IMPRESSIONS], |record| {
        let value = record.value.as_deref().unwrap_or_default();
        let impression: Impression = serde_json::from_slice(value)?;
        ids[user(users, record)?].push(impression.impression_id.into_boxed_str());
        Ok(())
    })?;
    let expected: Vec<Pairs> = ids.iter().map(|ids| Pairs::of(ids)).collect();
    let differs = |user: &usize| found[*user] != expected[*user];
    let wrong: Vec<usize> = (0..all).filter(differs).collect();
    let Some(&first) = wrong.first() else {
        return Ok(count);
    };
    let pairs = |of: &[Pairs]| of.iter().map(|pairs| pairs.count).sum::<u64>();
    bail!(
        "{} has {} impressions, so {} pairs; there are {}, or others. {} users are wrong; in all there are {} pairs, and should be {}",
        key(first as u64),
        ids[first].len(),
        expected[first].count,
        found[first].count,
        wrong.len(),
        pairs(&found),
        pairs(&expected)
    )
}

/// Pairs of a user's impressions, in whatever order they came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pairs {
    count: u64,
    /// Sum of their hashes.
    sum: u64,
}

impl Pairs {
    fn of(ids: &[Box<str>]) -> Self {
        let mut pairs = Self::default();
        for left in ids {
            for right in ids {
                pairs.add(format!("{left} {right}").as_bytes());
            }
        }
        pairs
    }

    fn add(&mut self, pair: &[u8]) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(xxh3_64(pair));
    }
}

/// The last count of each user.
struct Results {
    users: Users,
    last: Vec<u32>,
}

impl Results {
    fn of(users: Users) -> Self {
        let last = vec![0; usize::try_from(users.count).unwrap_or(usize::MAX)];
        Self { users, last }
    }

    fn add(&mut self, record: &ConsumerRecord) -> Result<()> {
        let text = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
        let count: u32 = text
            .parse()
            .with_context(|| format!("offset {} is no count: '{text}'", record.offset))?;
        let user = user(self.users, record)?;
        let last = &mut self.last[user];
        if count <= *last {
            bail!(
                "the count of {} goes from {last} to {count} at offset {}",
                key(user as u64),
                record.offset
            );
        }
        *last = count;
        Ok(())
    }

    fn compare(&self, impressions: &[u32]) -> Result<()> {
        let wrong = self.last.iter().zip(impressions).enumerate();
        let mut wrong = wrong.filter(|(_, (last, expected))| last != expected);
        match wrong.next() {
            None => Ok(()),
            Some((user, (last, expected))) => bail!(
                "{} has {expected} impressions and was counted {last} times; {} users are wrong",
                key(user as u64),
                wrong.count() + 1
            ),
        }
    }
}

fn user(users: Users, record: &ConsumerRecord) -> Result<usize> {
    let key = record.key.as_deref().unwrap_or_default();
    let number = users.number(key).with_context(|| {
        format!(
            "offset {} has a key that nobody sent: '{}'",
            record.offset,
            String::from_utf8_lossy(key)
        )
    })?;
    Ok(usize::try_from(number)?)
}

#[cfg(test)]
mod tests {
    use processor_core::log::Headers;

    use super::*;

    fn results(counts: &[(u64, &str)]) -> Result<Results> {
        let mut results = Results::of(Users { count: 2 });
        for (user, count) in counts {
            results.add(&ConsumerRecord {
                offset: 0,
                timestamp: 0,
                key: Some(key(*user).into()),
                value: Some((*count).to_owned().into()),
                headers: Headers::new(),
            })?;
        }
        Ok(results)
    }

    #[test]
    fn counts_that_end_where_the_input_does_are_right_with_and_without_each_step() {
        let results = results(&[(0, "1"), (1, "1"), (0, "3")]).unwrap();
        results.compare(&[3, 1]).unwrap();
        let error = results.compare(&[3, 2]).unwrap_err().to_string();
        assert!(
            error.contains("user-00000001 has 2 impressions and was counted 1"),
            "{error}"
        );
    }

    #[test]
    fn pairs_are_the_same_in_any_order_and_differ_where_one_is_missing_double_or_another() {
        let pairs = |texts: &[&str]| {
            let mut pairs = Pairs::default();
            texts.iter().for_each(|text| pairs.add(text.as_bytes()));
            pairs
        };
        let expected = Pairs::of(&["a".into(), "b".into()]);
        assert_eq!(pairs(&["b a", "a a", "b b", "a b"]), expected);
        for wrong in [
            &["a a", "a b", "b b"][..],
            &["a a", "a b", "a b", "b b"],
            &["a a", "a b", "b a", "b b", "b b"],
        ] {
            assert_ne!(pairs(wrong), expected, "{wrong:?}");
        }
    }

    #[test]
    fn a_count_that_comes_twice_or_goes_back_is_wrong() {
        assert!(results(&[(0, "1"), (0, "1")]).is_err());
        assert!(results(&[(0, "2"), (0, "1")]).is_err());
        assert!(results(&[(0, "many")]).is_err());
        assert!(results(&[(2, "1")]).is_err());
    }
}
