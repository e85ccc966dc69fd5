//! Runs a case on the test driver.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};

use processor_core::testing::{TestOutput, TopologyTestDriver};
use processor_core::{StreamsConfig, StreamsError, Topology};

use crate::case::{Case, CaseResult, Outcome, Output, Step, Store};
use crate::functions::{Key, Number};
use crate::interpreter::{build, dynamic_topics, key_serde, value_serde};

/// Runs `case` with its state in `store`, whatever the case says. A topology that fails is a result like any other.
///
/// # Errors
/// When there is no temporary directory.
pub fn run(case: &Case, store: Store) -> Result<CaseResult> {
    run_interrupted(case, store, |_| Interruption::None)
}

/// What happens after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// Nothing.
    None,
    /// The application stops in good order and starts again.
    Restart,
    /// The application is killed and starts again.
    Crash,
}

/// Like [`run`], with what `after` says happening after the step of that index.
///
/// # Errors
/// As [`run`].
pub fn run_interrupted(
    case: &Case,
    store: Store,
    after: impl Fn(usize) -> Interruption,
) -> Result<CaseResult> {
    let outcome = match build(case) {
        Ok(topology) => {
            let mut config = StreamsConfig::new("conformance");
            // Every commit goes through to the backend; by default changes wait in memory for two seconds.
            config.apply_bytes = Some(0);
            let directory = match store {
                Store::Memory => None,
                Store::Sled => Some(tempfile::tempdir().context("cannot keep state")?),
            };
            if let Some(directory) = &directory {
                config = config.state_dir(directory.path());
            }
            let chosen = dynamic_topics(&case.topology);
            match started(topology, config, &chosen) {
                Ok(driver) => drive(driver, &chosen, &case.input, after),
                Err(_) => failed(),
            }
        }
        Err(_) => Outcome::Error("IllegalArgumentException".to_owned()),
    };
    Ok(CaseResult {
        name: case.name.clone(),
        outcome,
    })
}

fn failed() -> Outcome {
    Outcome::Error("StreamsException".to_owned())
}

/// A driver with the topics that records may choose.
fn started(
    topology: Topology,
    config: StreamsConfig,
    chosen: &BTreeSet<String>,
) -> Result<TopologyTestDriver, StreamsError> {
    let driver = TopologyTestDriver::with(topology, config, 1)?;
    chosen
        .iter()
        .try_for_each(|topic| driver.create_topic(topic))?;
    Ok(driver)
}

/// Takes the steps one by one and drains all output topics, in the order of their names, after each.
fn drive(
    mut driver: TopologyTestDriver,
    chosen: &BTreeSet<String>,
    steps: &[Step],
    interruption: impl Fn(usize) -> Interruption,
) -> Outcome {
    let mut names: BTreeSet<String> = driver.topology().output_topics().into_iter().collect();
    names.extend(chosen.iter().cloned());
    let outputs: Vec<(String, TestOutput<Key, Number>)> = names
        .into_iter()
        .map(|name| {
            let output = driver.output(&name, key_serde(), value_serde());
            (name, output)
        })
        .collect();
    let mut out = Vec::new();
    for (after, step) in steps.iter().enumerate() {
        match step {
            Step::Advance { advance_wall_ms } => {
                driver.advance_wall_clock(Duration::from_millis(*advance_wall_ms));
            }
            Step::Record {
                topic,
                key,
                value,
                ts,
            } => {
                let input = driver.input(topic, key_serde(), value_serde());
                if input.try_pipe(&mut driver, key, value, *ts).is_err() {
                    return failed();
                }
            }
        }
        for (topic, output) in &outputs {
            out.extend(output.read(&mut driver).into_iter().map(|record| Output {
                after,
                topic: topic.clone(),
                key: record.key,
                value: record.value,
                ts: record.timestamp,
            }));
        }
        let started = match interruption(after) {
            Interruption::None => Ok(()),
            Interruption::Restart => driver.restart(),
            Interruption::Crash => driver.crash(),
        };
        if started.is_err() {
            return failed();
        }
    }
    Outcome::Output(out)
}
