//! Results of sessions before they close: what merges takes back what was said.

use std::collections::BTreeMap;
use std::time::Duration;

use processor_core::dsl::{EarlyFire, Grouped, SessionWindows, StreamsBuilder};
use processor_core::serde::{int64, nullable, utf8};
use proptest::prelude::*;

use crate::support::driver::{driver, numbers, text};
use crate::support::windows::{SessionRow, pipe, read_sessions, session_rows};

const GAP_MS: i64 = 10;

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn sums(grace_ms: i64, fire: EarlyFire) -> impl FnOnce(&StreamsBuilder) {
    move |builder| {
        let windows = SessionWindows::gap(ms(GAP_MS)).grace(ms(grace_ms));
        let grouped = builder.stream("in", numbers()).group_by_key();
        let sums = grouped.windowed_by_session(windows).emit_early(fire);
        let sums = sums.reduce("sums", |a, b| a + b);
        sums.to_stream().to("out");
        let all = Grouped::by(utf8()).value(int64());
        sums.table()
            .group_by(|_, sum| (text("all"), *sum), all)
            .reduce("all", |a, b| a + b, |a, b| a - b)
            .to_stream()
            .to("all");
    }
}

#[test]
fn what_was_said_of_a_session_stands_until_the_one_that_it_went_into_gives_a_result() {
    let mut driver = driver(sums(100, EarlyFire::every_records(2)));
    pipe(&mut driver, &[("a", 1, 0), ("a", 2, 8)]);
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[("a", 0, 8, Some(3))])
    );
    pipe(&mut driver, &[("a", 4, 12)]);
    driver.crash().unwrap();
    assert_eq!(read_sessions(&mut driver), []);
    pipe(&mut driver, &[("a", 8, 13)]);
    let grown = [("a", 0, 8, None), ("a", 0, 13, Some(15))];
    assert_eq!(read_sessions(&mut driver), session_rows(&grown));
}

#[test]
fn a_session_of_several_takes_back_all_of_them_by_time_and_counts_their_records_together() {
    let mut driver = driver(sums(100, EarlyFire::every_records(2)));
    pipe(
        &mut driver,
        &[("a", 1, 40), ("a", 2, 41), ("a", 4, 20), ("a", 8, 21)],
    );
    read_sessions(&mut driver);
    driver.restart().unwrap();
    // One record more in each, and one that joins them: the second is enough for a result.
    pipe(&mut driver, &[("a", 16, 42), ("a", 32, 31)]);
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[
            ("a", 20, 21, None),
            ("a", 40, 41, None),
            ("a", 20, 42, Some(63))
        ])
    );
}

#[test]
fn a_result_of_the_same_bounds_takes_the_place_of_the_one_before() {
    let mut driver = driver(sums(100, EarlyFire::every_records(1)));
    pipe(
        &mut driver,
        &[("a", 1, 5), ("a", 2, 5), ("a", 4, 9), ("a", 8, 7)],
    );
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[
            ("a", 5, 5, Some(1)),
            ("a", 5, 5, Some(3)),
            ("a", 5, 5, None),
            ("a", 5, 9, Some(7)),
            ("a", 5, 9, Some(15)),
        ])
    );
}

#[test]
fn a_session_is_due_when_the_first_of_its_parts_was_and_the_final_result_takes_back_the_rest() {
    let mut driver = driver(sums(0, EarlyFire::every(ms(6))));
    // Due at 6, and with what joins it as well.
    pipe(&mut driver, &[("a", 1, 0), ("a", 2, 5), ("x", 4, 6)]);
    let first = read_sessions(&mut driver);
    assert_eq!(first, session_rows(&[("a", 0, 5, Some(3))]));
    // x was due at 12. What a has to say since 13 closes with it.
    pipe(&mut driver, &[("a", 8, 13), ("y", 16, 16)]);
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[("x", 6, 6, Some(4))])
    );
    driver.crash().unwrap();
    pipe(&mut driver, &[("y", 32, 18)]);
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[("x", 6, 6, Some(4))]),
        "the final result of x"
    );
    pipe(&mut driver, &[("z", 64, 40)]);
    assert_eq!(
        read_sessions(&mut driver),
        session_rows(&[
            ("a", 0, 5, None),
            ("a", 0, 13, Some(11)),
            ("y", 16, 18, Some(48)),
        ])
    );
}

#[test]
fn results_that_can_never_come_are_refused() {
    let builder = StreamsBuilder::new("under-test");
    sums(0, EarlyFire::every_records(0))(&builder);
    let error = builder.build().err().unwrap().to_string();
    assert!(error.contains("'sums': early results"), "{error}");
}

/// A session as the model has it.
#[derive(Debug, Clone, Default)]
struct Open {
    value: i64,
    records: u64,
    due: Option<i64>,
    /// What stands, by bounds.
    said: Vec<(i64, i64)>,
}

/// By end, then start, then key.
type Sessions = BTreeMap<(i64, i64, String), Open>;

fn say(rows: &mut Vec<SessionRow>, (end, start, key): &(i64, i64, String), session: &mut Open) {
    session.said.retain(|said| *said != (*end, *start));
    session.said.sort_unstable();
    for (end, start) in session.said.drain(..) {
        rows.push((key.clone(), start, end, None));
    }
    rows.push((key.clone(), *start, *end, Some(session.value)));
    session.said.push((*end, *start));
    (session.records, session.due) = (0, None);
}

/// What must come out, worked out session by session from the definition.
fn model(
    input: &[(&str, i64)],
    grace_ms: i64,
    (limit, every_ms): (Option<u64>, Option<i64>),
) -> Vec<SessionRow> {
    let mut open = Sessions::new();
    let (mut time, mut rows) = (-1, Vec::new());
    for (i, &(key, timestamp)) in (0..).zip(input) {
        let moves = timestamp > time;
        time = time.max(timestamp);
        let is_closed = |end: i64| end + GAP_MS + grace_ms < time;
        let belongs = |(end, start, of): &(i64, i64, String)| {
            of == key
                && *end >= timestamp - GAP_MS
                && *start <= timestamp + GAP_MS
                && !is_closed(*end)
        };
        let found: Vec<_> = open.keys().filter(|id| belongs(id)).cloned().collect();
        if !found.is_empty() || !is_closed(timestamp) {
            let (mut start, mut end) = (timestamp, timestamp);
            let mut whole = Open {
                value: 1 << i,
                ..Open::default()
            };
            for id in found {
                let part = open.remove(&id).unwrap();
                (end, start) = (end.max(id.0), start.min(id.1));
                whole.value += part.value;
                whole.records += part.records;
                whole.due = whole.due.into_iter().chain(part.due).min();
                whole.said.extend(part.said);
            }
            whole.records += 1;
            let id = (end, start, text(key));
            if limit.is_some_and(|limit| whole.records >= limit) {
                say(&mut rows, &id, &mut whole);
            } else if whole.due.is_none() {
                whole.due = every_ms.map(|every_ms| time + every_ms);
            }
            open.insert(id, whole);
        }
        if !moves {
            continue;
        }
        open.retain(|id, session| {
            if is_closed(id.0) {
                say(&mut rows, id, session);
            }
            !is_closed(id.0)
        });
        let due = |(id, session): (&(i64, i64, String), &Open)| Some((session.due?, id.clone()));
        let mut due: Vec<_> = open.iter().filter_map(due).collect();
        due.sort_unstable();
        for (_, id) in due.into_iter().filter(|(due, _)| *due <= time) {
            say(&mut rows, &id, open.get_mut(&id).unwrap());
        }
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_out_early_and_at_last_is_what_the_model_says_and_no_record_stands_twice(
        input in prop::collection::vec(
            (prop::sample::select(&["a", "ab", "b"][..]), 0..120_i64),
            1..50,
        ),
        grace_ms in 0..30_i64,
        limit in prop::option::of(1..5_u64),
        every_ms in 1..30_i64,
        by_time in any::<bool>(),
        stops in prop::collection::btree_map(0..50_usize, any::<bool>(), 0..4),
    ) {
        let (fire, every_ms) = match limit {
            Some(records) if by_time => {
                (EarlyFire::every_records(records).or_every(ms(every_ms)), Some(every_ms))
            }
            Some(records) => (EarlyFire::every_records(records), None),
            None => (EarlyFire::every(ms(every_ms)), Some(every_ms)),
        };
        let mut driver = driver(sums(grace_ms, fire));
        let topic = driver.input("in", utf8(), int64());
        for (i, (key, timestamp)) in input.iter().enumerate() {
            topic.pipe(&mut driver, text(key), 1 << i, *timestamp);
            match stops.get(&i) {
                Some(true) => driver.crash().unwrap(),
                Some(false) => driver.restart().unwrap(),
                None => {}
            }
        }
        let results = read_sessions(&mut driver);
        prop_assert_eq!(&results, &model(&input, grace_ms, (limit, every_ms)));
        // Each record is a bit, so the results that stand must have none in common.
        let mut standing: BTreeMap<(String, i64, i64), i64> = BTreeMap::new();
        for (key, start, end, value) in results {
            match value {
                Some(value) => standing.insert((key, start, end), value),
                None => standing.remove(&(key, start, end)),
            };
            let all = standing.values().fold(0, |all, value| {
                assert_eq!(all & value, 0, "{standing:?}");
                all | value
            });
            assert!(all < 1 << input.len());
        }
        // And a table that adds them up has them all.
        let all = driver.output("all", utf8(), nullable(int64()));
        let last = all.read_key_values(&mut driver).pop().and_then(|(_, sum)| sum);
        prop_assert_eq!(last.unwrap_or(0), standing.values().sum::<i64>());
    }
}
