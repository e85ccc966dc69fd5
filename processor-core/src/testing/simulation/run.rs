//! One run: instances, faults and clock, in an order that follows from a seed.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::clock::Clock as _;
use crate::config::{Guarantee, StreamsConfig};
use crate::log::embedded::{Audit, EmbeddedLog, Options};
use crate::log::{Log as _, LogError, NewTopic, ProducerConfig, ProducerRecord, read_to_end};
use crate::runtime::{Streams, StreamsError};
use crate::topology::Topology;

use super::conductor::Conductor;
use super::draw::{Draw, Purpose};
use super::fault::Planned;
use super::outputs::{OutputRecord, Outputs};
use super::world::{Counts, WallClock, World};
use super::{InputRecord, Setup};
use super::{stores, transactions};

/// A wall clock of 2024, far from 0 on either side.
pub(super) const START_MS: i64 = 1_704_067_200_000;

/// How long the log waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a member that does not poll.
    pub session: Duration,
    /// For the end of a transaction.
    pub transaction: Duration,
}

/// Who takes over meets transactions that are over, or ones that are open.
pub(super) const PATIENCE: [Patience; 2] = [
    Patience {
        session: Duration::from_secs(30),
        transaction: Duration::from_secs(10),
    },
    Patience {
        session: Duration::from_secs(10),
        transaction: Duration::from_secs(30),
    },
];

/// What came of a run.
pub(super) struct Finished {
    pub outputs: Outputs,
    pub counts: Counts,
    pub steps: u64,
    pub story: Vec<String>,
}

/// A run that came to no good end, and what happened until then.
pub(super) struct Failed {
    pub why: String,
    pub story: Vec<String>,
}

/// What an undisturbed instance, alone, makes of the input.
pub(super) fn sequential(setup: &Setup, inputs: &[InputRecord]) -> Result<Outputs, StreamsError> {
    let clock = WallClock::at(START_MS);
    let log = log(&clock, PATIENCE[0]);
    let topology = (setup.topology)();
    create_topics(setup, &topology, &log)?;
    feed(&log, inputs)?;
    let mut config = setup.config.clone();
    config.instance = Some("alone".to_owned());
    config.standby = None;
    let mut streams = Streams::with_clock(
        topology.clone(),
        config,
        Arc::new(log.clone()),
        Arc::new(clock),
    )?;
    streams.drain()?;
    streams.close()?;
    Ok(outputs(&topology, &log)?)
}

pub(super) fn log(clock: &WallClock, patience: Patience) -> EmbeddedLog {
    EmbeddedLog::in_memory_with_options(Options {
        clock: Arc::new(clock.clone()),
        session_timeout: patience.session,
        transaction_timeout: patience.transaction,
        ..Options::default()
    })
}

fn create_topics(
    setup: &Setup,
    topology: &Topology,
    log: &EmbeddedLog,
) -> Result<(), StreamsError> {
    let topics: Vec<NewTopic> = topology
        .input_topics()
        .into_iter()
        .chain(topology.output_topics())
        .map(|topic| topology.new_topic(topic, setup.partitions))
        .collect();
    Ok(log.create_topics(&topics)?)
}

/// Writes `inputs` to their topics.
pub(super) fn feed(log: &EmbeddedLog, inputs: &[InputRecord]) -> Result<(), StreamsError> {
    let mut producer = log.producer(ProducerConfig::default())?;
    for record in inputs {
        producer.send(ProducerRecord {
            topic: &record.topic,
            partition: record.partition,
            timestamp: record.timestamp,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &[],
        })?;
    }
    Ok(producer.flush(Duration::ZERO)?)
}

/// What is committed in the topics that the topology writes.
fn outputs(topology: &Topology, log: &EmbeddedLog) -> Result<Outputs, LogError> {
    let mut outputs = Outputs::default();
    for topic in topology.output_topics() {
        let mut records = Vec::new();
        read_to_end(log, &topic, &mut |record| {
            records.push(OutputRecord {
                key: record.key,
                value: record.value,
                timestamp: record.timestamp,
            });
            Ok(())
        })?;
        outputs.topics.insert(topic, records);
    }
    Ok(outputs)
}

/// Runs `inputs`, in two parts, through several instances while `faults` come to pass. Between the parts some instances
/// lose their disk, so that what was restored from changelogs has to be as good as what was kept.
pub(super) fn disturbed(
    setup: &Setup,
    seed: u64,
    inputs: &[InputRecord],
    faults: &[Planned],
) -> Result<Finished, Failed> {
    let clock = WallClock::at(START_MS);
    let patience = *Draw::of_seed_for(seed, Purpose::Patience).of_these(&PATIENCE);
    let log = log(&clock, patience);
    let topology = (setup.topology)();
    let world = World::new(2 * setup.instances, log.clone(), clock, setup.mutant);
    let world = Arc::new(world);
    let cannot = |error: StreamsError| Failed {
        why: format!("the topology cannot be run: {error}"),
        story: Vec::new(),
    };
    create_topics(setup, &topology, &log).map_err(cannot)?;
    let result = thread::scope(|scope| {
        let mut conductor = Conductor::new(
            setup,
            topology.clone(),
            Arc::clone(&world),
            scope,
            seed,
            patience,
        );
        let result = conductor.conduct(inputs, faults);
        // Whoever is left must not wait for a turn that never comes.
        let dismissed = conductor.dismiss();
        let Conductor {
            step, config, left, ..
        } = conductor;
        result.and(dismissed).map(|()| (step, config, left))
    });
    let mut state = world.state();
    let story = std::mem::take(&mut state.story);
    let counts = state.counts.clone();
    drop(state);
    let judged = result.and_then(|(steps, config, left)| {
        let outputs = outputs(&topology, &log).map_err(|error| error.to_string())?;
        if config.guarantee == Guarantee::ExactlyOnce {
            let audit = all_decided(&world, &config, patience)?;
            world.state().ledger.check(&audit)?;
            transactions::check_visible(&log, &audit)?;
            stores::check(&topology, &config, &world, &left)?;
        }
        Ok((steps, outputs))
    });
    match judged {
        Err(why) => Err(Failed { why, story }),
        Ok((steps, outputs)) => Ok(Finished {
            outputs,
            counts,
            steps,
            story,
        }),
    }
}

/// Lets everything come that is on its way, and the log give up whom nobody hears of any more.
fn all_decided(world: &World, config: &StreamsConfig, patience: Patience) -> Result<Audit, String> {
    world.log.hold_markers(false, &mut |_| false);
    let longest = patience.session.max(patience.transaction);
    world.clock.pass(longest + Duration::from_secs(1));
    // The log notices that time has passed when somebody asks it for something.
    let noticed = world.log.create_topics(&[]);
    noticed.map_err(|error| error.to_string())?;
    let audit = world.log.audit(&config.application_id);
    audit.ok_or_else(|| "the log cannot be looked at".to_owned())
}
