//! Random topologies give, record by record, what Kafka Streams gives. Needs Java, its compiler and Python.
//!
//! The same cases every time; `cargo xtask conformance` tries others.

use conformance::case::Store;
use conformance::differential::{FAMILIES, Report, compare, generated, parse, results};
use conformance::run::{Interruption, run, run_interrupted};
use xtask::oracle::{self, Draw};

const EXAMPLES: &str = include_str!("../conformance/examples.jsonl");
const EXPECTED: &str = include_str!("../conformance/examples.expected.jsonl");
const BETTER: &str = include_str!("../conformance/examples.better.jsonl");

fn agree(report: &Report) {
    let shown: Vec<String> = report
        .differences
        .iter()
        .take(3)
        .map(|difference| {
            format!(
                "{}: {}\n{}",
                difference.name, difference.what, difference.case
            )
        })
        .collect();
    assert!(shown.is_empty(), "\n{report}\n{}", shown.join("\n\n"));
    assert!(report.total().agreed > 0, "nothing was compared");
}

fn drawn(seed: u64, cases: usize, store: Store) -> Report {
    let draw = Draw {
        seed,
        cases,
        families: FAMILIES.map(str::to_owned).to_vec(),
        store: store.of_kafka_streams(),
    };
    let report = generated(&draw, store).unwrap_or_else(|error| panic!("{error:#}"));
    for family in FAMILIES {
        let agreed = report.families.get(family).map_or(0, |count| count.agreed);
        assert!(
            agreed > 0 || !report.differences.is_empty(),
            "no case of '{family}' was compared"
        );
    }
    report
}

#[test]
fn random_topologies_in_memory_give_what_kafka_streams_gives() {
    agree(&drawn(20_261, 3_000, Store::Memory));
}

#[test]
fn random_topologies_on_sled_give_what_kafka_streams_gives_on_rocksdb() {
    agree(&drawn(20_262, 500, Store::Sled));
}

#[test]
fn the_examples_give_what_kafka_streams_gives() {
    let cases: Vec<_> = EXAMPLES
        .lines()
        .map(|line| parse(line).unwrap())
        .filter(|(_, case)| case.class.is_none())
        .collect();
    let report = compare(&cases, Store::Memory).unwrap_or_else(|error| panic!("{error:#}"));
    agree(&report);
}

/// But for processors of user code, which count in memory.
#[test]
fn restarts_and_crashes_in_the_middle_change_no_result() {
    let families = FAMILIES.iter().filter(|family| **family != "punctuate");
    let draw = Draw {
        seed: 20_263,
        cases: 110,
        families: families.map(|family| (*family).to_owned()).collect(),
        store: "memory",
    };
    let drawn = draw.generate().unwrap_or_else(|error| panic!("{error:#}"));
    for (number, (line, case)) in drawn.lines().map(|line| parse(line).unwrap()).enumerate() {
        let store = if number % 4 == 0 {
            Store::Sled
        } else {
            Store::Memory
        };
        let interrupted = run_interrupted(&case, store, |step| match (step + number) % 6 {
            0 => Interruption::Restart,
            3 => Interruption::Crash,
            _ => Interruption::None,
        });
        let expected = run(&case, Store::Memory).unwrap();
        assert_eq!(interrupted.unwrap(), expected, "{line}");
    }
}

#[test]
fn the_oracle_answers_the_examples_as_they_are_written_down() {
    let answers = oracle::answers(EXAMPLES).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(results(&answers).unwrap(), results(EXPECTED).unwrap());
}

#[test]
fn where_kafka_streams_is_known_to_be_wrong_we_give_what_is_written_down_as_better() {
    let better = results(BETTER).unwrap();
    for (_, case) in EXAMPLES.lines().map(|line| parse(line).unwrap()) {
        if case.class.is_none() {
            continue;
        }
        let expected = better.iter().find(|better| better.name == case.name);
        let expected = expected.unwrap_or_else(|| panic!("what is better for {}?", case.name));
        assert_eq!(run(&case, case.store).unwrap(), *expected);
    }
}
