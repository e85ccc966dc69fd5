//! Which records of a key belong together: choices of one record from each side that all lie within the window of each
//! other. Pure, over times alone.

use crate::log::Timestamp;

/// A record of one key: its side and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub side: usize,
    pub timestamp: Timestamp,
}

/// For each side the number of the chosen row, if any.
pub(super) type Choice = Vec<Option<usize>>;

/// All choices of a row from each side that has `latest`, the last of `rows`. Side by side, in the order of the rows.
pub(super) fn complete_with_last(rows: &[Row], sides: usize, window_ms: i64) -> Vec<Choice> {
    let Some((last, others)) = rows.split_last() else {
        return Vec::new();
    };
    let mut candidates = by_side(others, sides, |_| true);
    candidates[last.side] = vec![others.len()];
    let mut found = Vec::new();
    if candidates.iter().all(|rows| !rows.is_empty()) {
        choose(rows, &candidates, window_ms, &mut Choice::new(), &mut found);
    }
    found
}

/// All choices whose earliest row has the time `earliest`, and to which no further row could be added. `rows` are in order of
/// time, and reach from the window before `earliest` to the window after it.
///
/// A side without a row in the window after the earliest one is left out. If it has one before, that one might be added:
/// then what is found here is part of what was found with that one as the earliest.
pub(super) fn largest_from(
    rows: &[Row],
    sides: usize,
    window_ms: i64,
    earliest: Timestamp,
) -> Vec<Choice> {
    let mut found = Vec::new();
    for (number, first) in rows.iter().enumerate() {
        if first.timestamp != earliest {
            continue;
        }
        // Of rows at one time those that come first are earlier.
        let until = earliest.saturating_add(window_ms);
        let mut candidates = by_side(rows, sides, |n| n > number && rows[n].timestamp <= until);
        candidates[first.side] = vec![number];
        let mut choices = Vec::new();
        choose(
            rows,
            &candidates,
            window_ms,
            &mut Choice::new(),
            &mut choices,
        );
        let largest = choices.into_iter().filter(|choice| {
            let from = latest(rows, choice).saturating_sub(window_ms);
            let may_be_added = |row: &Row| choice[row.side].is_none() && row.timestamp >= from;
            !rows[..number].iter().any(may_be_added)
        });
        found.extend(largest);
    }
    found
}

/// The greatest time of the chosen rows.
pub(super) fn latest(rows: &[Row], choice: &[Option<usize>]) -> Timestamp {
    let chosen = choice
        .iter()
        .flatten()
        .map(|number| rows[*number].timestamp);
    chosen.max().unwrap_or(Timestamp::MIN)
}

/// Numbers of the rows of each side for which `keep` holds.
fn by_side(rows: &[Row], sides: usize, keep: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
    let mut by_side = vec![Vec::new(); sides];
    for (number, row) in rows.iter().enumerate() {
        if keep(number) {
            by_side[row.side].push(number);
        }
    }
    by_side
}

/// Completes `choice` with a candidate of each side that is left, or none where it has none, as long as all lie within the
/// window of each other.
fn choose(
    rows: &[Row],
    candidates: &[Vec<usize>],
    window_ms: i64,
    choice: &mut Choice,
    found: &mut Vec<Choice>,
) {
    let Some(of_side) = candidates.get(choice.len()) else {
        found.push(choice.clone());
        return;
    };
    if of_side.is_empty() {
        choice.push(None);
        choose(rows, candidates, window_ms, choice, found);
        choice.pop();
    }
    for &number in of_side {
        let fits = |other: &usize| {
            rows[*other].timestamp.abs_diff(rows[number].timestamp) <= window_ms.unsigned_abs()
        };
        if choice.iter().flatten().all(fits) {
            choice.push(Some(number));
            choose(rows, candidates, window_ms, choice, found);
            choice.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(usize, Timestamp)]) -> Vec<Row> {
        let row = |&(side, timestamp): &(usize, Timestamp)| Row { side, timestamp };
        rows.iter().map(row).collect()
    }

    #[test]
    fn a_choice_is_complete_when_all_sides_lie_within_the_window_of_each_other() {
        // Both of side 0 are within 10 of 1's and 2's, but 0 and 11 are not of each other.
        let all = rows(&[(0, 0), (0, 5), (1, 11), (2, 10)]);
        assert_eq!(
            complete_with_last(&all, 3, 10),
            [vec![Some(1), Some(2), Some(3)]]
        );
        assert_eq!(complete_with_last(&all, 3, 11).len(), 2);
        assert!(complete_with_last(&all[..3], 3, 100).is_empty());
        assert!(complete_with_last(&[], 3, 100).is_empty());
    }

    #[test]
    fn a_choice_that_could_be_larger_is_not_found() {
        let all = rows(&[(0, 0), (1, 5), (2, 12)]);
        let from = |earliest| largest_from(&all, 3, 10, earliest);
        assert_eq!(from(0), [vec![Some(0), Some(1), None]]);
        // The one at 12 is within 10 of the one at 5, which has another partner that is not within 10 of 12.
        assert_eq!(from(5), [vec![None, Some(1), Some(2)]]);
        // Alone it would be less than that.
        assert!(from(12).is_empty());
    }

    #[test]
    fn rows_at_one_time_are_found_once() {
        let all = rows(&[(0, 5), (1, 5), (0, 5)]);
        let found = largest_from(&all, 2, 0, 5);
        assert_eq!(found, [vec![Some(0), Some(1)], vec![Some(2), Some(1)]]);
    }
}
