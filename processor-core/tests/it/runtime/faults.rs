//! The log fails at every call there is, one after the other, in every way it may.

use processor_core::log::ErrorClass;
use processor_core::{Guarantee, StreamsConfig, StreamsError};

use super::{
    OUTPUTS, PARTS, RECORDS, Results, config, difference, feed, results, topics, topology,
    undisturbed,
};
use crate::support::faulty_log::{Call, Fault, FaultyLog, Script};
use crate::support::world::World;

const EVERYTHING: &[Call] = &[
    Call::MakeClient,
    Call::Poll,
    Call::Positions,
    Call::Assign,
    Call::Committed,
    Call::Init,
    Call::Begin,
    Call::Send,
    Call::BeginCommit,
    Call::PollCommit,
];

/// Runs with the fault at call number `at`; a run that fails is followed by a restart, as an orchestrator would do it.
/// Whether the fault struck at all.
fn run(fault: Fault, at: usize, config: &StreamsConfig) -> (bool, Results) {
    let world = World::new(&topics());
    let script = Script::new(fault, at);
    let log = || FaultyLog::of(&world, &script);
    let start = || world.streams_on(log(), &topology(), config.clone());
    let mut streams = start();
    let mut restarts = 0;
    for part in 0..PARTS {
        feed(&world, part, RECORDS);
        while let Err(error) = streams.run_to_end() {
            restarts += 1;
            assert!(
                restarts < 3,
                "call {at} of {fault:?}: it never recovers: {error}"
            );
            drop(streams);
            streams = start();
        }
    }
    drop(streams);
    (script.struck(), results(&world))
}

/// Every `step`th call that the fault may strike, one run each.
fn at_calls(
    fault: Fault,
    step: usize,
    config: &StreamsConfig,
    mut check: impl FnMut(usize, Results),
) {
    let mut at = 0;
    loop {
        let (struck, results) = run(fault, at, config);
        check(at, results);
        if !struck {
            break;
        }
        at += step;
    }
    assert!(at > 5 * step, "{fault:?} struck at {at} calls only");
}

fn exactly_once(class: ErrorClass, calls: &'static [Call], done: bool, step: usize) {
    let expected = undisturbed();
    let fault = Fault { class, calls, done };
    at_calls(fault, step, &config(), |at, results| {
        assert_eq!(
            difference(&results, &expected),
            [""; 0],
            "call {at} of {fault:?}"
        );
    });
}

#[test]
fn a_passing_fault_at_any_call_changes_no_result() {
    exactly_once(ErrorClass::Retriable, EVERYTHING, false, 5);
}

#[test]
fn a_transaction_that_has_to_be_aborted_anywhere_changes_no_result() {
    let ends = &[Call::Begin, Call::BeginCommit, Call::PollCommit];
    exactly_once(ErrorClass::Abortable, ends, false, 1);
    exactly_once(ErrorClass::Abortable, &[Call::Send], false, 4);
    exactly_once(ErrorClass::Abortable, &[Call::BeginCommit], true, 1);
}

#[test]
fn a_commit_of_which_nobody_knows_the_outcome_changes_no_result() {
    exactly_once(ErrorClass::Uncertain, &[Call::PollCommit], false, 1);
    exactly_once(ErrorClass::Uncertain, &[Call::PollCommit], true, 1);
}

/// The log is away for longer: after the fault some calls fail that are made to repair it.
fn away(class: ErrorClass, calls: &'static [Call], repairs: &'static [Call], times: usize) {
    let expected = undisturbed();
    let fault = |class, calls| Fault {
        class,
        calls,
        done: false,
    };
    for at in 0..12 {
        let world = World::new(&topics());
        let after = fault(ErrorClass::Retriable, repairs);
        let script = Script::with_aftermath(fault(class, calls), at, after, times);
        let log = FaultyLog::of(&world, &script);
        let mut streams = world.streams_on(log, &topology(), config());
        for part in 0..PARTS {
            feed(&world, part, RECORDS);
            streams.run_to_end().unwrap_or_else(|error| {
                panic!("call {at} of {calls:?}, then {repairs:?}: it ended with {error}")
            });
        }
        assert!(script.struck());
        drop(streams);
        assert_eq!(
            difference(&results(&world), &expected),
            [""; 0],
            "call {at}"
        );
    }
}

#[test]
fn a_log_that_is_away_while_a_producer_is_replaced_ends_no_instance() {
    // The new producer cannot be made at first, or not initialised: the old one must not be used again.
    let repairs = &[Call::MakeClient];
    away(ErrorClass::Uncertain, &[Call::PollCommit], repairs, 3);
    away(ErrorClass::Uncertain, &[Call::PollCommit], &[Call::Init], 2);
}

#[test]
fn a_log_that_is_away_while_tasks_are_made_again_ends_no_instance() {
    let repairs = &[Call::Committed, Call::Positions, Call::Assign];
    away(ErrorClass::Abortable, &[Call::PollCommit], repairs, 5);
}

#[test]
fn a_process_that_dies_at_any_call_changes_no_result() {
    let expected = undisturbed();
    let ends = &[Call::BeginCommit, Call::PollCommit, Call::Assign];
    for (calls, done, step) in [(EVERYTHING, false, 7), (&ends[..], true, 1)] {
        let fault = Fault {
            class: ErrorClass::Fatal,
            calls,
            done,
        };
        at_calls(fault, step, &config(), |at, mut results| {
            // A run that died while it told of the end of input is followed by one that tells of it again.
            let said = results.insert("totals", expected["totals"].clone());
            assert_eq!(
                difference(&results, &expected),
                [""; 0],
                "call {at} of {fault:?}"
            );
            let said = said.unwrap();
            for total in &expected["totals"] {
                assert!(said.contains(total), "call {at} of {fault:?}: no {total}");
            }
        });
    }
}

#[test]
fn at_least_once_loses_nothing_at_any_call() {
    let config = StreamsConfig {
        guarantee: Guarantee::AtLeastOnce,
        ..config()
    };
    let expected = undisturbed();
    let calls = &[
        Call::Send,
        Call::Poll,
        Call::BeginCommit,
        Call::PollCommit,
        Call::CommitOffsets,
    ];
    for (class, done) in [(ErrorClass::Abortable, false), (ErrorClass::Fatal, false)] {
        let fault = Fault { class, calls, done };
        at_calls(fault, 5, &config, |at, results| {
            // Every pair of records that belongs together is there, if need be more than once.
            for pair in &expected["pairs"] {
                if !pair.contains("=-+") && !pair.ends_with("+-") {
                    assert!(
                        results["pairs"].contains(pair),
                        "call {at} of {fault:?}: no {pair}"
                    );
                }
            }
            // Counts never fall short: the last of each key is at least the true one.
            for topic in ["counts", "by-value", "windows"] {
                let (last, least) = (largest(&results[topic]), largest(&expected[topic]));
                for (key, count) in least {
                    let got = last.get(&key).copied().unwrap_or(0);
                    assert!(
                        got >= count,
                        "call {at} of {fault:?}: {topic} {key}: {got} < {count}"
                    );
                }
            }
        });
    }
}

fn largest(rows: &[String]) -> std::collections::BTreeMap<String, i64> {
    let mut largest = std::collections::BTreeMap::new();
    for row in rows {
        let (key, count) = row.split_once('=').unwrap();
        let count: i64 = count.parse().unwrap();
        let known = largest.entry(key.to_owned()).or_insert(count);
        *known = count.max(*known);
    }
    largest
}

#[test]
fn a_fenced_instance_stops_and_takes_nothing_over() {
    let world = World::new(&topics());
    let mut first = world.streams(&topology(), config());
    feed(&world, 0, RECORDS);
    first.run_to_end().unwrap();
    // A second instance under the same name takes the first one's identity.
    let mut second = world.streams(&topology(), config());
    feed(&world, 1, RECORDS);
    let stops = |streams: &mut processor_core::Streams| loop {
        match streams.run_to_end_with(&mut |_| false) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    // Both want partitions, so they take turns until the first one has to commit.
    second.run_to_end_with(&mut |_| false).unwrap();
    let error = stops(&mut first);
    let StreamsError::Processing(fault) = &error else {
        panic!("{error}");
    };
    assert_eq!(
        fault.log_error().unwrap().class,
        ErrorClass::Fenced,
        "{error}"
    );
    drop(first);
    second.run_to_end().unwrap();
    feed(&world, 2, RECORDS);
    second.run_to_end().unwrap();
    let expected = undisturbed();
    for topic in OUTPUTS.iter().filter(|topic| **topic != "totals") {
        assert_eq!(results(&world)[topic], expected[topic], "{topic}");
    }
}
