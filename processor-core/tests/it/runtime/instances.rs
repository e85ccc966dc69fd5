//! Several instances of one application: they share the work, and hand it over with its state.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use processor_core::clock::{Clock as _, ManualClock};
use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
use processor_core::log::embedded::{EmbeddedLog, Options};
use processor_core::log::{ErrorClass, Log as _, NewTopic, TopicPartition};
use processor_core::serde::{nullable, utf8};
use processor_core::{Streams, StreamsConfig};

use super::{
    OUTPUTS, PARTS, RECORDS, Results, config, feed, int64_as_text, results, topics, topology,
    undisturbed,
};
use crate::support::faulty_log::{Call, Fault, FaultyLog, Script, Silence};
use crate::support::world::World;

fn named(instance: &str) -> StreamsConfig {
    StreamsConfig {
        instance: Some(instance.to_owned()),
        ..config()
    }
}

/// A round of each, until nobody has anything to do for a while.
fn take_turns(instances: &mut [&mut Streams]) {
    let mut quiet = 0;
    let mut before = 0;
    while quiet < 20 {
        for streams in instances.iter_mut() {
            streams.run_to_end_with(&mut |_| false).unwrap();
        }
        let taken = instances
            .iter()
            .map(|streams| streams.records_taken())
            .sum();
        quiet = if taken == before { quiet + 1 } else { 0 };
        before = taken;
    }
}

/// Without what is said at the end of input, which these tests never reach.
fn without_totals(mut results: Results) -> Results {
    results.remove("totals");
    results
}

#[test]
fn two_instances_share_the_partitions_and_each_result_comes_once() {
    let world = World::new(&topics());
    let mut one = world.streams(&topology(), named("one"));
    let mut two = world.streams(&topology(), named("two"));
    take_turns(&mut [&mut one, &mut two]);
    for part in 0..PARTS {
        feed(&world, part, RECORDS);
        take_turns(&mut [&mut one, &mut two]);
    }
    assert!(one.records_taken() > 0, "the first one had nothing to do");
    assert!(two.records_taken() > 0, "the second one had nothing to do");
    assert_eq!(
        without_totals(results(&world)),
        without_totals(undisturbed())
    );
}

#[test]
fn an_instance_that_joins_or_leaves_takes_tasks_over_with_their_state() {
    let world = World::new(&topics());
    let mut one = world.streams(&topology(), named("one"));
    feed(&world, 0, RECORDS);
    take_turns(&mut [&mut one]);
    let mut two = world.streams(&topology(), named("two"));
    feed(&world, 1, RECORDS);
    take_turns(&mut [&mut one, &mut two]);
    assert!(two.records_taken() > 0, "the second one had nothing to do");
    one.close().unwrap();
    feed(&world, 2, RECORDS);
    take_turns(&mut [&mut two]);
    assert_eq!(
        without_totals(results(&world)),
        without_totals(undisturbed())
    );
}

#[test]
fn an_instance_that_dies_leaves_its_tasks_to_the_others_and_its_open_transaction_to_nobody() {
    let world = World::new(&topics());
    // It commits only when it has nothing else to do, so it dies with work done and not committed.
    let slow = StreamsConfig {
        commit_interval: Duration::from_secs(1_000),
        ..named("one")
    };
    let mut one = world.streams(&topology(), slow);
    let mut two = world.streams(&topology(), named("two"));
    for part in 0..PARTS {
        feed(&world, part, RECORDS);
        if part == 1 {
            take_turns(&mut [&mut two]);
        } else {
            take_turns(&mut [&mut one, &mut two]);
        }
        if part == 0 {
            drop(one);
            one = world.streams(&topology(), named("one"));
        }
    }
    assert_eq!(
        without_totals(results(&world)),
        without_totals(undisturbed())
    );
    let _: [&str; 5] = OUTPUTS;
}

#[test]
fn an_instance_that_was_away_for_too_long_lost_its_tasks_and_comes_back_as_a_new_one() {
    let world = World::new(&topics());
    let mut one = world.streams(&topology(), named("one"));
    let mut two = world.streams(&topology(), named("two"));
    take_turns(&mut [&mut one, &mut two]);
    for part in 0..PARTS {
        feed(&world, part, RECORDS);
        // One round, and then it does not come back for a session.
        one.run_to_end_with(&mut |_| false).unwrap();
        for _ in 0..5 {
            world.clock.advance(Duration::from_secs(25));
            two.run_to_end_with(&mut |_| false).unwrap();
        }
        take_turns(&mut [&mut two]);
        take_turns(&mut [&mut one, &mut two]);
    }
    assert_eq!(
        without_totals(results(&world)),
        without_totals(undisturbed())
    );
}

/// The first instance works on a log that fails at call `at`, while another one joins and leaves. Whether it failed.
fn rebalance_with(fault: Fault, at: usize) -> (bool, Results) {
    let world = World::new(&topics());
    let script = Script::new(fault, at);
    let log = FaultyLog::of(&world, &script);
    // Commits only when it has to, so that a rebalance finds something to commit.
    let config = StreamsConfig {
        commit_interval: Duration::from_secs(1_000),
        ..named("one")
    };
    let mut one = world.streams_on(log, &topology(), config);
    feed(&world, 0, RECORDS);
    let mut two = world.streams(&topology(), named("two"));
    let mut rounds = 0;
    // The other one joins when some of the input is processed and not committed.
    one.run_to_end_with(&mut |_| {
        rounds += 1;
        if rounds == 4 {
            two.run_to_end_with(&mut |_| false).unwrap();
        }
        rounds < 10
    })
    .unwrap();
    feed(&world, 1, RECORDS);
    take_turns(&mut [&mut one, &mut two]);
    two.close().unwrap();
    feed(&world, 2, RECORDS);
    take_turns(&mut [&mut one]);
    (script.struck(), results(&world))
}

#[test]
fn a_failure_in_a_rebalance_neither_blocks_the_group_nor_changes_a_result() {
    let expected = without_totals(undisturbed());
    let commit = &[Call::Begin, Call::BeginCommit, Call::PollCommit];
    let reads = &[
        Call::Assign,
        Call::Release,
        Call::Committed,
        Call::Positions,
    ];
    for (class, calls, step) in [
        (ErrorClass::Abortable, &commit[..], 1),
        (ErrorClass::Retriable, &reads[..], 5),
    ] {
        let fault = Fault {
            class,
            calls,
            done: false,
        };
        for at in (0..).step_by(step) {
            let (struck, results) = rebalance_with(fault, at);
            assert_eq!(without_totals(results), expected, "call {at} of {fault:?}");
            if !struck {
                break;
            }
        }
    }
}

/// Members that do not poll for a while are not taken for dead, as where the client speaks to the group beside them.
fn patient_world() -> World {
    let clock = ManualClock::default();
    let options = Options {
        clock: Arc::new(clock.clone()),
        session_timeout: Duration::from_secs(1_000_000),
        ..Options::default()
    };
    let log = EmbeddedLog::in_memory_with_options(options);
    let new_topics = topics().into_iter();
    let new_topics: Vec<_> = new_topics.map(|(name, n)| NewTopic::new(name, n)).collect();
    log.create_topics(&new_topics).unwrap();
    World { log, clock }
}

#[test]
fn a_commit_that_gets_no_answer_keeps_the_group_waiting_for_a_minute_and_changes_no_result() {
    for commits in [false, true] {
        let world = patient_world();
        let script = Script::counting(&[]);
        let log = FaultyLog::of(&world, &script);
        // Commits only when it has to, so that a rebalance finds something to commit.
        let config = StreamsConfig {
            commit_interval: Duration::from_secs(100_000),
            ..named("one")
        };
        let mut one = world.streams_on(log, &topology(), config);
        feed(&world, 0, RECORDS);
        let mut two = world.streams(&topology(), named("two"));
        let (mut rounds, mut began_ms, mut silence) = (0, 0, None);
        one.run_to_end_with(&mut |_| {
            rounds += 1;
            if rounds == 4 {
                two.run_to_end_with(&mut |_| false).unwrap();
                began_ms = world.clock.now_ms();
                script.set_silence(Some(Silence {
                    clock: world.clock.clone(),
                    commits,
                    released_ms: None,
                }));
            } else if silence.is_none() && world.clock.now_ms() > began_ms {
                silence = script.set_silence(None);
            }
            rounds < 10
        })
        .unwrap();
        let released_ms = silence.and_then(|silence| silence.released_ms);
        let waited_ms = released_ms.expect("it gives its partitions up") - began_ms;
        assert!(
            (60_000..=60_100).contains(&waited_ms),
            "the group waited for {waited_ms} ms"
        );
        assert!(
            world.clock.now_ms() >= began_ms + 120_000,
            "the repair comes behind it"
        );
        feed(&world, 1, RECORDS);
        take_turns(&mut [&mut one, &mut two]);
        assert!(two.records_taken() > 0, "the second one had nothing to do");
        feed(&world, 2, RECORDS);
        take_turns(&mut [&mut one, &mut two]);
        assert_eq!(
            without_totals(results(&world)),
            without_totals(undisturbed()),
            "the commit was done: {commits}"
        );
    }
}

#[test]
fn threads_of_one_instance_share_the_work() {
    let world = World::new(&topics());
    let config = StreamsConfig {
        threads: 2,
        ..named("one")
    };
    // Real threads, so the results are waited for; how long that may take is no part of the test.
    let log = Arc::new(world.log.clone());
    let mut streams = Streams::new(topology(), config, log).unwrap();
    for part in 0..PARTS {
        feed(&world, part, RECORDS);
    }
    streams.start();
    close_when_done(streams, &world);
    let (counts, expected) = (results(&world), undisturbed());
    for topic in ["counts", "by-value", "windows"] {
        assert_eq!(counts[topic], expected[topic], "{topic}");
    }
}

#[test]
fn a_task_waits_ten_minutes_for_an_input_that_the_group_does_not_give_and_says_which() {
    let world = patient_world();
    let script = Script::counting(&[]);
    script.withhold(Some(TopicPartition::new("right", 1)));
    let log = FaultyLog::of(&world, &script);
    let mut streams = world.streams_on(log, &topology(), named("one"));
    feed(&world, 0, RECORDS);
    let error = streams.run_to_end_with(&mut |_| {
        world.clock.advance(Duration::from_secs(1));
        assert!(world.clock.now_ms() < 700_000, "it waits for ever");
        true
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("right-1 is missing for 10 min"), "{error}");
    assert!(error.contains("use the range assignor"), "{error}");
    assert!(world.clock.now_ms() >= 600_000, "it has waited too short");
}

#[test]
fn an_input_that_comes_while_a_transaction_is_open_changes_no_result() {
    let world = patient_world();
    let script = Script::counting(&[Call::Begin]);
    let late = TopicPartition::new("right", 1);
    script.withhold(Some(late.clone()));
    let log = FaultyLog::of(&world, &script);
    let config = StreamsConfig {
        commit_interval: Duration::from_secs(1_000),
        transaction_timeout: Duration::from_secs(1_000_000),
        ..named("one")
    };
    for part in 0..PARTS {
        feed(&world, part, RECORDS);
    }
    let of_late_task = |topic| world.read_partition(topic, late.partition).len();
    let (all, of_late_task) = (
        (PARTS * RECORDS) as usize,
        of_late_task("left") + of_late_task("right"),
    );
    assert!(of_late_task > 0 && of_late_task < all);
    // A real thread, so everything is waited for; how long that may take is no part of the test.
    let mut streams = world.streams_on(log, &topology(), config);
    streams.start();
    let deadline = processor_core::clock::Deadline::after(Duration::from_secs(60));
    let wait_for_records = |taken: usize| {
        while streams.records_taken() < taken as u64 {
            assert!(!deadline.passed() && !streams.stopped());
            std::thread::yield_now();
        }
        assert_eq!(streams.records_taken(), taken as u64);
    };
    wait_for_records(all - of_late_task);
    assert_eq!(script.calls(), 1, "a transaction is open");
    script.withhold(None);
    wait_for_records(all);
    assert_eq!(script.calls(), 1, "it is the same one");
    // Once: a clock that runs ahead of a thread puts it out of its group. What is behind the repartitions is committed last.
    world.clock.advance(Duration::from_secs(1_000));
    close_when_done(streams, &world);
    let (counts, expected) = (results(&world), undisturbed());
    for topic in ["counts", "by-value", "windows"] {
        assert_eq!(counts[topic], expected[topic], "{topic}");
    }
}

/// Else it would write what it still has to write over that of the thread that came after it.
#[test]
fn a_thread_that_is_put_out_of_the_group_keeps_its_stores_until_it_knows() {
    let world = World::new(&[("words", 2), ("counts", 2)]);
    let gate = Arc::new((Mutex::new(Gate::Open), Condvar::new()));
    let builder = StreamsBuilder::new("gated");
    let at_gate = Arc::clone(&gate);
    builder
        .stream("words", Consumed::new(utf8(), utf8()))
        .peek(move |_, value| {
            let (state, changed) = &*at_gate;
            let mut state = state.lock().unwrap();
            if value == "wait" && *state == Gate::Open {
                *state = Gate::Closed;
                changed.notify_all();
                drop(changed.wait_while(state, |state| *state == Gate::Closed));
            }
        })
        .group_by_key()
        .count("count")
        .to_stream()
        .to_with("counts", Produced::new(utf8(), nullable(int64_as_text())));
    let topology = builder.build().unwrap();
    let config = StreamsConfig {
        threads: 2,
        // So that there is something left to write.
        apply_interval: Duration::from_secs(60 * 60),
        ..config()
    };
    // By a clock of their own: the log's moves when it is told to.
    let mut streams = Streams::new(topology, config, Arc::new(world.log.clone())).unwrap();
    let counts = |key: &str| {
        let rows = world.read_sorted("counts").into_iter();
        rows.filter(|row| row.starts_with(key)).count()
    };
    let feed_and_wait = |partition, key| {
        let before = counts(key);
        world.write("words", partition, Some(key), Some("word"), 0);
        wait_for(|| counts(key) > before);
    };
    streams.start();
    for _ in 0..3 {
        feed_and_wait(0, "a");
    }
    world.write("words", 0, Some("a"), Some("wait"), 0);
    let (state, changed) = &*gate;
    drop(changed.wait_while(state.lock().unwrap(), |state| *state == Gate::Open));

    // The group gives everything to the other thread, which runs what is its own already.
    world.clock.advance(Duration::from_secs(120));
    for _ in 0..20 {
        feed_and_wait(1, "b");
    }
    assert_eq!(counts("a"), 3, "the stores are still open elsewhere");

    *state.lock().unwrap() = Gate::Passed;
    changed.notify_all();
    wait_for(|| counts("a") == 4);
    feed_and_wait(0, "a");
    streams.close().unwrap();
    let of_a = (1..=5).map(|n| format!("a={n}"));
    let of_b = (1..=20).map(|n| format!("b={n}"));
    let mut expected: Vec<String> = of_a.chain(of_b).collect();
    expected.sort();
    assert_eq!(world.read_sorted("counts"), expected);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Closed,
    /// Nobody waits there any more.
    Passed,
}

/// Waits for real threads; how long that may take is no part of the test.
fn wait_for(mut is_so: impl FnMut() -> bool) {
    let deadline = processor_core::clock::Deadline::after(Duration::from_secs(60));
    while !is_so() {
        assert!(!deadline.passed(), "it does not come to be so");
        std::thread::yield_now();
    }
}

/// Waits until real threads have taken all that was fed, and closes the application.
fn close_when_done(streams: Streams, world: &World) {
    // Each record is read once at its source, and those of "right" once more behind each of the two repartitions.
    let all = (PARTS * RECORDS) as usize + 2 * world.read("right").len();
    let deadline = processor_core::clock::Deadline::after(Duration::from_secs(60));
    while streams.records_taken() < all as u64 {
        assert!(
            !deadline.passed() && !streams.stopped(),
            "{}",
            streams.records_taken()
        );
        std::thread::yield_now();
    }
    streams.close().unwrap();
}

#[test]
fn a_log_that_is_away_while_a_thread_starts_ends_no_instance() {
    let world = World::new(&topics());
    for part in 0..PARTS {
        feed(&world, part, RECORDS);
    }
    let of = |calls| Fault {
        class: ErrorClass::Retriable,
        calls,
        done: false,
    };
    // The thread has a producer, which says that the log is busy, and then cannot make its other clients.
    let script = Script::with_aftermath(of(&[Call::Init]), 0, of(&[Call::MakeClient]), 3);
    let log = FaultyLog {
        inner: world.log.clone(),
        script: Arc::clone(&script),
        max_poll_records: 50,
    };
    let mut streams = Streams::new(topology(), named("one"), Arc::new(log)).unwrap();
    streams.start();
    close_when_done(streams, &world);
    assert!(script.struck());
    let (counts, expected) = (results(&world), undisturbed());
    for topic in ["counts", "by-value", "windows"] {
        assert_eq!(counts[topic], expected[topic], "{topic}");
    }
}
