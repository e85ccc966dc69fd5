//! Random events in random disorder: whatever the store, the commits and the interruptions, the join gives what the
//! model gives.

use processor_core::StreamsConfig;
use processor_core::serde::{int64, utf8};
use processor_core::testing::TopologyTestDriver;
use proptest::prelude::*;

use super::model::{Event, Outcome, Windows, expected};
use super::{Kind, Side, describe, late, read, windows};
use crate::support::driver::topology;

#[derive(Debug, Clone, Copy)]
enum Interruption {
    None,
    Restart,
    Crash,
    Flush,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    // Time goes on by a little with each record, and each record may be behind it.
    let one = (
        any::<bool>(),
        0..3_u8,
        0..6_i64,
        prop_oneof![3 => Just(0), 2 => 0..40_i64],
    );
    prop::collection::vec(one, 1..70).prop_map(|steps| {
        let mut time = 0;
        let event = |(value, (left, key, step, behind)): (i64, (bool, u8, i64, i64))| {
            time += step;
            Event {
                side: if left { Side::Left } else { Side::Right },
                key,
                timestamp: (time - behind).max(0),
                value,
            }
        };
        (0..).zip(steps).map(event).collect()
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Inner), Just(Kind::Left), Just(Kind::Outer)]
}

fn window() -> impl Strategy<Value = Windows> {
    (0..12_i64, 0..12_i64, 0..15_i64).prop_map(|(before, after, grace)| Windows {
        before,
        after,
        grace,
    })
}

fn interruptions() -> impl Strategy<Value = Vec<Interruption>> {
    let one = prop_oneof![
        20 => Just(Interruption::None),
        1 => Just(Interruption::Restart),
        1 => Just(Interruption::Crash),
        2 => Just(Interruption::Flush),
    ];
    prop::collection::vec(one, 70)
}

fn run(
    kind: Kind,
    w: Windows,
    events: &[Event],
    config: StreamsConfig,
    interruptions: &[Interruption],
) -> Outcome {
    let windows = windows(w.before, w.after, w.grace);
    let topology = topology(|builder| describe(builder, kind, windows));
    let mut driver = TopologyTestDriver::with(topology, config, 1).unwrap();
    let (left, right) = (
        driver.input("left", utf8(), int64()),
        driver.input("right", utf8(), int64()),
    );
    for (event, interruption) in events.iter().zip(interruptions) {
        let topic = match event.side {
            Side::Left => &left,
            Side::Right => &right,
        };
        topic.pipe(
            &mut driver,
            event.key.to_string(),
            event.value,
            event.timestamp,
        );
        match interruption {
            Interruption::None => {}
            Interruption::Restart => driver.restart().unwrap(),
            Interruption::Crash => driver.crash().unwrap(),
            // Long enough for the stores to be written.
            Interruption::Flush => driver.advance_wall_clock(std::time::Duration::from_secs(3)),
        }
    }
    let number = |text: String| text.split(' ').next().and_then(|n| n.parse().ok());
    let mut late = |topic: &str| {
        late(&mut driver, topic)
            .into_iter()
            .filter_map(number)
            .collect()
    };
    Outcome {
        late_left: late("late-left"),
        late_right: late("late-right"),
        results: read(&mut driver),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_join_in_memory_gives_what_the_model_gives(
        kind in kind(), w in window(), events in events(), interruptions in interruptions(),
    ) {
        let config = StreamsConfig::new("app");
        let outcome = run(kind, w, &events, config, &interruptions);
        prop_assert_eq!(outcome, expected(kind, w, &events));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_join_on_sled_gives_what_the_model_gives(
        kind in kind(), w in window(), events in events(), interruptions in interruptions(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let config = StreamsConfig::new("app").state_dir(directory.path());
        let outcome = run(kind, w, &events, config, &interruptions);
        prop_assert_eq!(outcome, expected(kind, w, &events));
    }
}
