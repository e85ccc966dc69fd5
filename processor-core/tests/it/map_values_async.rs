//! Values replaced by what somebody outside answers: several calls at once, results in order.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use processor_core::dsl::{AsyncCalls, Consumed, KStream, Produced, StreamsBuilder, TimeWindows};
use processor_core::error::Result;
use processor_core::log::Header;
use processor_core::processor::{Processor, ProcessorContext, Punctuated, Punctuation, Setup};
use processor_core::serde::{int64, utf8, windowed};
use processor_core::testing::TopologyTestDriver;
use processor_core::{OnBadRecord, Record, StreamsConfig, Topology};

use crate::support::driver::{driver, numbers, pairs, text, topology};
use crate::support::world::World;

/// What tests and calls tell each other: signals by name, that are given once and stay.
#[derive(Default, Clone)]
struct Signals(Arc<Mutex<(HashSet<String>, Vec<Waker>)>>);

impl Signals {
    fn give(&self, signal: impl Into<String>) {
        let mut signals = self.0.lock().unwrap();
        signals.0.insert(signal.into());
        signals.1.drain(..).for_each(Waker::wake);
    }

    async fn wait_for(&self, signal: impl Into<String>) {
        let signal = signal.into();
        poll_fn(|context| {
            let mut signals = self.0.lock().unwrap();
            if signals.0.contains(&signal) {
                return Poll::Ready(());
            }
            signals.1.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

fn texts() -> Consumed<String, String> {
    Consumed::new(utf8(), utf8())
}

fn out() -> Produced<String, String> {
    Produced::new(utf8(), utf8())
}

type Texts = KStream<String, String>;

/// What comes out for these values, which are all there at the start.
fn outcome(values: &[&str], describe: impl FnOnce(Texts)) -> Vec<String> {
    let world = World::new(&[("in", 1), ("out", 1)]);
    for (value, time) in values.iter().zip(0..) {
        world.write("in", 0, Some("k"), Some(value), time);
    }
    let topology = topology(|builder| describe(builder.stream("in", texts())));
    let mut streams = world.streams(&topology, StreamsConfig::new("app"));
    streams.run_to_end().unwrap();
    world.read_values("out")
}

#[test]
fn results_leave_in_the_order_of_the_records_whatever_the_order_of_the_answers() {
    let signals = Signals::default();
    let values = ["0", "1", "2", "3"];
    let out = outcome(&values, move |stream| {
        let answered =
            stream.map_values_async("ask", AsyncCalls::at_once(4), move |_, value: String| {
                let signals = signals.clone();
                async move {
                    // Each waits until the one behind it has its answer.
                    let number: u32 = value.parse().unwrap();
                    if number < 3 {
                        signals.wait_for(format!("{}", number + 1)).await;
                    }
                    signals.give(value.clone());
                    Ok::<_, String>(format!("answer {value}"))
                }
            });
        answered.to_with("out", out());
    });
    assert_eq!(out, ["answer 0", "answer 1", "answer 2", "answer 3"]);
}

#[test]
fn as_many_calls_run_at_once_as_are_allowed_and_no_more() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, highest) = (Arc::clone(&running), Arc::clone(&most));
    let signals = Signals::default();
    let values = ["0", "1", "2", "3", "4", "5", "6", "7", "8"];
    let out = outcome(&values, move |stream| {
        let answered =
            stream.map_values_async("ask", AsyncCalls::at_once(3), move |_, value: String| {
                let (now, highest, signals) =
                    (Arc::clone(&now), Arc::clone(&highest), signals.clone());
                async move {
                    let running = now.fetch_add(1, Ordering::SeqCst) + 1;
                    highest.fetch_max(running, Ordering::SeqCst);
                    signals.give(format!("{value} runs"));
                    // Answers only when the third at its side runs, so three must run at once.
                    let number: u32 = value.parse().unwrap();
                    signals
                        .wait_for(format!("{} runs", number / 3 * 3 + 2))
                        .await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok::<_, String>(value)
                }
            });
        answered.to_with("out", out());
    });
    assert_eq!(out, values);
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert_eq!(running.load(Ordering::SeqCst), 0);
}

#[test]
fn key_timestamp_and_headers_stay_with_the_record() {
    let mut driver = driver(|builder| {
        let stream = builder.stream("in", numbers());
        let doubled = stream.map_values_async(
            "double",
            AsyncCalls::at_once(2),
            |_, value: i64| async move { Ok::<_, String>(value * 2) },
        );
        doubled.to_with("out", Produced::new(utf8(), int64()));
    });
    let record = Record {
        headers: vec![Header::new("trace", "7")],
        ..Record::new(text("a"), 21, 99)
    };
    let input = driver.input("in", utf8(), int64());
    input.pipe_record(&mut driver, &record);
    let output = driver.output("out", utf8(), int64());
    assert_eq!(output.read(&mut driver), [record.with_value(42)]);
}

#[test]
fn the_key_stays_where_it_is_so_nothing_is_repartitioned() {
    let topology = topology(|builder| {
        let stream = builder.stream("in", numbers());
        let same =
            stream.map_values_async("ask", AsyncCalls::at_once(2), |_, value: i64| async move {
                Ok::<_, String>(value)
            });
        let same = same.with_serdes(utf8(), int64());
        same.group_by_key().count("counts").to_stream().to("out");
    });
    assert!(!topology.describe().contains("-repartition"), "{topology}");
}

/// Fails until it was tried often enough: value `n` succeeds at attempt `n`.
fn stubborn(calls: AsyncCalls, tried: Arc<AtomicI64>) -> Topology {
    topology(|builder| {
        let stream = builder.stream("in", numbers());
        let answered = stream.map_values_async("ask", calls, move |_, value: i64| {
            let attempt = tried.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                match attempt < value {
                    true => Err(format!("busy at attempt {attempt}")),
                    false => Ok(attempt),
                }
            }
        });
        answered.to_with("out", Produced::new(utf8(), int64()));
    })
}

#[test]
fn a_call_that_fails_is_tried_again_as_often_as_it_may_be() {
    let calls = AsyncCalls::at_once(1).retries(3, Duration::from_millis(1));
    let tried = Arc::new(AtomicI64::new(0));
    let mut driver = TopologyTestDriver::new(stubborn(calls, Arc::clone(&tried))).unwrap();
    let input = driver.input("in", utf8(), int64());
    input.pipe(&mut driver, text("a"), 4, 0);
    let output = driver.output("out", utf8(), int64());
    assert_eq!(output.read_key_values(&mut driver), pairs(&[("a", 4)]));

    tried.store(0, Ordering::SeqCst);
    let error = input.try_pipe(&mut driver, &text("a"), &5, 1).unwrap_err();
    let error = error.to_string();
    let reason = "ask: busy at attempt 4, at the last of 4 attempts";
    assert!(error.contains("in-0 at offset 1"), "{error}");
    assert!(error.contains(reason), "{error}");
}

#[test]
fn a_call_that_never_answers_is_given_up_and_its_record_handled() {
    let topology = topology(|builder| {
        let calls = AsyncCalls::at_once(4).timeout(Duration::from_millis(5));
        let stream = builder.stream("in", texts());
        let answered = stream.map_values_async("ask", calls, |_, value: String| async move {
            if value == "hangs" {
                std::future::pending::<()>().await;
            }
            Ok::<_, String>(value)
        });
        answered.to_with("out", out());
    });
    let world = World::new(&[("in", 1), ("out", 1), ("dead", 1)]);
    for value in ["a", "hangs", "b", "c", "hangs", "d"] {
        world.write("in", 0, Some("k"), Some(value), 0);
    }
    let config = StreamsConfig {
        on_processing_error: OnBadRecord::DeadLetter,
        dead_letter_topic: Some(text("dead")),
        ..StreamsConfig::new("app")
    };
    let mut streams = world.streams(&topology, config);
    streams.run_to_end().unwrap();
    assert_eq!(world.read_values("out"), ["a", "b", "c", "d"]);
    // Each dead letter is that of the record that failed, whichever was at hand when that came out.
    let dead = world.read("dead");
    let header = |record: &processor_core::log::ConsumerRecord, name: &str| {
        let header = Header::last(&record.headers, name).unwrap();
        String::from_utf8(header.value.as_deref().unwrap().to_vec()).unwrap()
    };
    let offsets: Vec<String> = dead
        .iter()
        .map(|record| header(record, "__streams.errors.offset"))
        .collect();
    assert_eq!(offsets, ["1", "4"]);
    let message = header(&dead[0], "__streams.errors.message");
    assert_eq!(message, "ask: no answer within 5 ms");
}

#[test]
fn a_call_that_panics_fails_its_record() {
    let mut driver = driver(|builder| {
        let stream = builder.stream("in", numbers());
        let answered =
            stream.map_values_async("ask", AsyncCalls::at_once(1), |_, value: i64| async move {
                assert!(value > 0, "as it was told");
                Ok::<_, String>(value)
            });
        answered.to_with("out", Produced::new(utf8(), int64()));
    });
    let input = driver.input("in", utf8(), int64());
    let error = input.try_pipe(&mut driver, &text("a"), &0, 0).unwrap_err();
    assert!(
        error.to_string().contains("ask: its call panicked"),
        "{error}"
    );
}

#[test]
fn a_failure_below_is_one_of_the_record_whose_answer_it_was() {
    let topology = topology(|builder| {
        let stream = builder.stream("in", texts());
        let same = stream.map_values_async(
            "ask",
            AsyncCalls::at_once(4),
            |_, value: String| async move { Ok::<_, String>(value) },
        );
        let process = || Refusing;
        let processed = same.process("refuse", (), move |()| process());
        processed.to_with("out", out());
    });
    let world = World::new(&[("in", 1), ("out", 1)]);
    for value in ["a", "refuse", "b", "c"] {
        world.write("in", 0, Some("k"), Some(value), 0);
    }
    let config = StreamsConfig {
        on_processing_error: OnBadRecord::Skip,
        ..StreamsConfig::new("app")
    };
    let mut streams = world.streams(&topology, config);
    streams.run_to_end().unwrap();
    assert_eq!(world.read_values("out"), ["a@0", "b@2", "c@3"]);
}

/// Fails at `refuse`; adds the offset to the others.
struct Refusing;

impl Processor<String, String> for Refusing {
    type KOut = String;
    type VOut = String;

    fn process(
        &mut self,
        record: Record<String, String>,
        context: &mut ProcessorContext<'_, '_, String, String>,
    ) -> Result {
        let offset = context.metadata().map_or(-1, |metadata| metadata.offset);
        match record.value.as_str() {
            "refuse" => Err(processor_core::error::Fault::user(
                "refuse",
                "as it was told",
            )),
            value => {
                let value = format!("{value}@{offset}");
                context.forward(record.with_value(value))
            }
        }
    }
}

#[test]
fn after_a_crash_in_the_middle_every_record_has_its_result_once() {
    let signals = Signals::default();
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, wait) = (Arc::clone(&asked), signals.clone());
    let topology = topology(|builder| {
        let calls = AsyncCalls::at_once(8).timeout(Duration::from_millis(20));
        let stream = builder.stream("in", texts());
        let answered = stream.map_values_async("ask", calls, move |_, value: String| {
            let wait = wait.clone();
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                if value == "c" {
                    wait.wait_for("repaired").await;
                }
                Ok::<_, String>(value)
            }
        });
        answered.to_with("out", out());
    });
    let world = World::new(&[("in", 1), ("out", 1)]);
    for value in ["a", "b", "c", "d"] {
        world.write("in", 0, Some("k"), Some(value), 0);
    }
    let mut streams = world.streams(&topology, StreamsConfig::new("app"));
    // The calls of d and those before c are answered, and nothing of that is seen.
    assert!(streams.run_to_end().is_err());
    drop(streams);
    assert_eq!(world.read_values("out"), [""; 0]);
    signals.give("repaired");
    let mut streams = world.streams(&topology, StreamsConfig::new("app"));
    streams.run_to_end().unwrap();
    assert_eq!(world.read_values("out"), ["a", "b", "c", "d"]);
    assert_eq!(asked.load(Ordering::SeqCst), 8);
}

#[test]
fn two_in_a_row_are_emptied_in_order_before_a_commit() {
    let ask = |stream: &Texts, name: &str, mark: &'static str| {
        let calls = AsyncCalls::at_once(3);
        let asked = stream.map_values_async(name, calls, move |_, value: String| async move {
            Ok::<_, String>(format!("{value}{mark}"))
        });
        asked.with_serdes(utf8(), utf8())
    };
    let out = outcome(&["a", "b", "c", "d", "e"], move |stream| {
        ask(&ask(&stream, "first", "1"), "second", "2").to("out");
    });
    assert_eq!(out, ["a12", "b12", "c12", "d12", "e12"]);
}

#[test]
fn windows_below_close_as_if_every_answer_had_been_there_at_once() {
    let describe = |at_once: Option<usize>| {
        move |builder: &StreamsBuilder| {
            let stream = builder.stream("in", texts());
            let asked = match at_once {
                None => stream,
                Some(limit) => {
                    let calls = AsyncCalls::at_once(limit);
                    let asked =
                        stream.map_values_async("ask", calls, |_, value: String| async move {
                            Ok::<_, String>(value)
                        });
                    asked.with_serdes(utf8(), utf8())
                }
            };
            let windows = TimeWindows::tumbling(Duration::from_millis(10)).grace(Duration::ZERO);
            let counts = asked
                .group_by_key()
                .windowed_by(windows)
                .emit_final()
                .count("counts");
            counts.to_stream().to("out");
            counts
                .late()
                .map_values(|_, late| late.value)
                .to_with("late", out());
        }
    };
    let run = |at_once| {
        let world = World::new(&[("in", 1), ("out", 1), ("late", 1)]);
        for (value, time) in [
            ("a", 3),
            ("b", 12),
            ("c", 9),
            ("d", 19),
            ("e", 40),
            ("f", 11),
            ("g", 60),
        ] {
            world.write("in", 0, Some("k"), Some(value), time);
        }
        let topology = topology(describe(at_once));
        let mut streams = world.streams(&topology, StreamsConfig::new("app"));
        streams.run_to_end().unwrap();
        let counts = world.read("out").into_iter();
        let counts: Vec<_> = counts.map(|r| (r.key, r.value, r.timestamp)).collect();
        (counts, world.read_values("late"))
    };
    let plain = run(None);
    assert_eq!(plain.1, ["c", "f"]);
    for limit in [1, 2, 7] {
        assert_eq!(run(Some(limit)), plain, "{limit} at once");
    }
    let _ = windowed(utf8(), 10);
}

/// Forwards each record's value, and the stream time at each punctuation.
struct Ticking;

impl Processor<String, String> for Ticking {
    type KOut = String;
    type VOut = String;

    fn init(&mut self, setup: &mut Setup<'_, '_>) -> Result {
        setup.schedule(Punctuation::StreamTime(Duration::from_millis(10)));
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<String, String>,
        context: &mut ProcessorContext<'_, '_, String, String>,
    ) -> Result {
        assert_eq!(
            context.stream_time(),
            record.timestamp,
            "as the record found it"
        );
        context.forward(record)
    }

    fn punctuate(
        &mut self,
        punctuated: Punctuated,
        context: &mut ProcessorContext<'_, '_, String, String>,
    ) -> Result {
        let value = format!("at {}", punctuated.time);
        context.forward(Record::new(text("k"), value, punctuated.time))
    }
}

#[test]
fn a_stream_time_punctuation_below_comes_behind_the_record_that_moved_time() {
    let world = World::new(&[("in", 1), ("out", 1)]);
    for (value, time) in [("a", 0), ("b", 4), ("c", 10), ("d", 13), ("e", 35)] {
        world.write("in", 0, Some("k"), Some(value), time);
    }
    let topology = topology(|builder| {
        let stream = builder.stream("in", texts());
        let asked = stream.map_values_async(
            "ask",
            AsyncCalls::at_once(4),
            |_, value: String| async move { Ok::<_, String>(value) },
        );
        asked
            .process("tick", (), |()| Ticking)
            .to_with("out", out());
    });
    let mut streams = world.streams(&topology, StreamsConfig::new("app"));
    streams.run_to_end().unwrap();
    let expected = ["a", "at 0", "b", "c", "at 10", "d", "e", "at 35"];
    assert_eq!(world.read_values("out"), expected);
}

#[test]
fn calls_without_room_or_time_are_refused() {
    for (calls, reason) in [
        (AsyncCalls::at_once(0), "'ask' makes no calls at once"),
        (
            AsyncCalls::at_once(1).timeout(Duration::ZERO),
            "'ask' gives its calls no time",
        ),
    ] {
        let builder = StreamsBuilder::new("under-test");
        let stream = builder.stream("in", numbers());
        stream.map_values_async("ask", calls, |_, value: i64| async move {
            Ok::<_, String>(value)
        });
        let Err(error) = builder.build() else {
            panic!("it was built");
        };
        assert!(error.to_string().contains(reason), "{error}");
    }
}
