//! Many instances of a topology under faults that a seed draws, in virtual time: does it still compute the same, once?
//!
//! [`Simulation`] runs the real stream threads, tasks, stores and commits of several instances over one embedded log. One
//! thread runs at a time, and which one is drawn at every call that leaves an instance: so a seed gives the same run on
//! every machine. Processes die at any step of a commit, stand still for longer than their session, lose their disk or the
//! end of it; the log refuses, answers late, or carries a request out that nobody waits for any more ([`Fault`]).
//!
//! What is committed in the end is compared with what one undisturbed instance gives. Under way and in the end each
//! transaction has to be there as a whole or not at all (`transactions.rs`), and what is left on disks has to be what
//! changelogs say (`stores.rs`). A seed that fails is shrunk: faults and input that do not matter are left out.
//!
//! ```
//! use processor_core::dsl::{Consumed, StreamsBuilder};
//! use processor_core::serde::{int64, utf8};
//! use processor_core::testing::simulation::{Faults, Simulation, same_order_per_key};
//!
//! fn counts() -> processor_core::Topology {
//!     let builder = StreamsBuilder::new("counts");
//!     builder
//!         .stream("words", Consumed::new(utf8(), int64()))
//!         .group_by_key()
//!         .count("count")
//!         .to_stream()
//!         .to("counts");
//!     builder.build().unwrap()
//! }
//!
//! Simulation::of(counts)
//!     .partitions(2)
//!     .instances(2)
//!     .input("words", utf8(), int64(), |draw| {
//!         let mut words = Vec::new();
//!         for time in 0..20 {
//!             words.push((format!("word-{}", draw.below(4)), 1, time));
//!         }
//!         words
//!     })
//!     .faults(Faults::all())
//!     .seeds(0..3)
//!     .check(same_order_per_key())
//!     .run()
//!     .unwrap();
//! ```

mod baton;
mod buggy;
mod client;
mod conductor;
mod disk;
mod draw;
mod fault;
mod outputs;
mod pressure;
mod process;
mod run;
mod shrink;
mod stores;
mod transactions;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub use draw::Draw;
use draw::Purpose;
pub use fault::{Call, Fate, Fault, Faults, Planned, Side};
pub use outputs::{
    Check, OutputRecord, Outputs, each_at_least_once, no_contradiction, same_as_sequential,
    same_last_per_key, same_order_per_key, same_rows,
};

use bytes::Bytes;

use crate::config::StreamsConfig;
use crate::log::Timestamp;
use crate::mutant::Mutant;
use crate::partitioner::partition_for;
use crate::serde::Serde;
use crate::topology::Topology;

/// Steps within which faults are due; a run without any takes some hundreds.
const FAULT_STEPS: u64 = 600;

type DrawInput = Box<dyn Fn(&mut Draw, i32) -> Vec<InputRecord> + Send + Sync>;

/// Who makes the records of a topic.
struct Input {
    topic: Arc<str>,
    draw: DrawInput,
}

/// A record of an input topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InputRecord {
    topic: Arc<str>,
    partition: i32,
    key: Option<Bytes>,
    value: Option<Bytes>,
    timestamp: Timestamp,
}

/// What all runs have in common.
pub(crate) struct Setup {
    topology: Box<dyn Fn() -> Topology + Send + Sync>,
    config: StreamsConfig,
    partitions: i32,
    instances: usize,
    mutant: Option<Mutant>,
}

/// See the [module](self).
pub struct Simulation {
    setup: Setup,
    inputs: Vec<Input>,
    faults: Faults,
    seeds: Range<u64>,
    check: Check,
}

impl Simulation {
    /// Of the topology that `topology` makes: two instances, four partitions, all faults, seeds 0 to 99, and each record as
    /// often as in a sequential run.
    pub fn of(topology: impl Fn() -> Topology + Send + Sync + 'static) -> Self {
        let mut config = StreamsConfig::new("simulated");
        // As long as it takes, so that the order of co-partitioned inputs does not depend on who stood still.
        config.max_task_idle = Duration::from_secs(365 * 24 * 60 * 60);
        config.apply_interval = Duration::from_millis(50);
        config.windowed_changelog_additional_retention = None;
        Self {
            setup: Setup {
                topology: Box::new(topology),
                config,
                partitions: 4,
                instances: 2,
                mutant: None,
            },
            inputs: Vec::new(),
            faults: Faults::all(),
            seeds: 0..100,
            check: same_as_sequential(),
        }
    }

    /// Partitions of every topic of the user.
    #[must_use]
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.setup.partitions = partitions;
        self
    }

    /// Instances of the application, each with one stream thread.
    #[must_use]
    pub fn instances(mut self, instances: usize) -> Self {
        self.setup.instances = instances.max(1);
        self
    }

    /// Settings of the application. Times of commits and the transaction timeout are the simulation's own.
    #[must_use]
    pub fn config(mut self, change: impl FnOnce(&mut StreamsConfig)) -> Self {
        change(&mut self.setup.config);
        self
    }

    /// The input of `topic`: drawn anew for each seed, written in this order. Each record goes to the partition of its key.
    /// Each topic that the topology reads and does not write itself needs one.
    ///
    /// # Panics
    /// While it runs, when a record cannot be encoded.
    #[must_use]
    pub fn input<K: 'static, V: 'static>(
        mut self,
        topic: &str,
        key: impl Serde<K> + 'static,
        value: impl Serde<V> + 'static,
        records: impl Fn(&mut Draw) -> Vec<(K, V, Timestamp)> + Send + Sync + 'static,
    ) -> Self {
        let topic: Arc<str> = topic.into();
        let of_topic = Arc::clone(&topic);
        let draw: DrawInput = Box::new(move |draw, partitions| {
            let encoded = records(draw).into_iter().map(|(k, v, timestamp)| {
                let (mut key_bytes, mut value_bytes) = (Vec::new(), Vec::new());
                let unfit = |error| -> ! { panic!("a record for {topic}: {error}") };
                let null = (key.is_null(&k), value.is_null(&v));
                key.serialize(&k, &mut key_bytes)
                    .unwrap_or_else(|e| unfit(e));
                value
                    .serialize(&v, &mut value_bytes)
                    .unwrap_or_else(|e| unfit(e));
                let partition = match null.0 {
                    true => 0,
                    false => partition_for(key.partition_bytes(&key_bytes), partitions),
                };
                InputRecord {
                    topic: Arc::clone(&topic),
                    partition,
                    key: (!null.0).then(|| key_bytes.into()),
                    value: (!null.1).then(|| value_bytes.into()),
                    timestamp,
                }
            });
            encoded.collect()
        });
        let topic = of_topic;
        self.inputs.push(Input { topic, draw });
        self
    }

    /// Gives the instances a deliberate bug, to see whether it is found.
    #[doc(hidden)]
    #[must_use]
    pub fn mutant(mut self, mutant: Mutant) -> Self {
        self.setup.mutant = Some(mutant);
        self
    }

    /// What may go wrong.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// The seeds to run.
    #[must_use]
    pub fn seeds(mut self, seeds: Range<u64>) -> Self {
        self.seeds = seeds;
        self
    }

    /// When a result is right.
    #[must_use]
    pub fn check(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    /// Runs all seeds up to the first that fails.
    ///
    /// # Errors
    /// The first failing seed, shrunk. A topic that is read and has no [input](Self::input) fails the first.
    pub fn run(&self) -> Result<Summary, Box<Violation>> {
        let mut summary = Summary::default();
        for seed in self.seeds.clone() {
            summary.add(self.run_seed(seed)?);
        }
        Ok(summary)
    }

    /// Runs one seed.
    ///
    /// # Errors
    /// When it fails: what is left of it after shrinking.
    pub fn run_seed(&self, seed: u64) -> Result<Summary, Box<Violation>> {
        if let Some(topic) = self.topic_without_input() {
            return Err(Box::new(Violation::before_the_run(seed, &topic)));
        }
        let case = self.draw(seed);
        match self.attempt(seed, &case) {
            Ok(summary) => Ok(summary),
            Err(failed) => Err(Box::new(shrink::shrink(self, seed, case, failed))),
        }
    }

    /// What is wrong with the result of a seed, without shrinking it.
    #[doc(hidden)]
    #[must_use]
    pub fn find_violation(&self, seed: u64) -> Option<String> {
        let case = self.draw(seed);
        self.attempt(seed, &case).err().map(|failed| failed.why)
    }

    /// Nothing comes out of nothing, so a run without input would compare nothing with nothing.
    fn topic_without_input(&self) -> Option<String> {
        let topology = (self.setup.topology)();
        let written = topology.output_topics();
        let has_input = |topic: &String| {
            written.contains(topic) || self.inputs.iter().any(|input| *input.topic == **topic)
        };
        let mut read = topology.input_topics().into_iter();
        read.find(|topic| !has_input(topic))
    }

    fn draw(&self, seed: u64) -> Case {
        let mut draw = Draw::of_seed_for(seed, Purpose::Case);
        let partitions = self.setup.partitions;
        let mut inputs: Vec<InputRecord> = self
            .inputs
            .iter()
            .flat_map(|input| (input.draw)(&mut draw, partitions))
            .collect();
        // Topics are fed side by side.
        inputs.sort_by_key(|record| record.timestamp);
        let Setup {
            config, instances, ..
        } = &self.setup;
        let faults = &self.faults;
        let faults = faults.draw(&mut draw, config.guarantee, *instances, FAULT_STEPS);
        Case { inputs, faults }
    }

    fn attempt(&self, seed: u64, case: &Case) -> Result<Summary, run::Failed> {
        let refused = |why: String| run::Failed {
            why,
            story: Vec::new(),
        };
        let expected = run::sequential(&self.setup, &case.inputs)
            .map_err(|error| refused(format!("the undisturbed run fails: {error}")))?;
        let finished = run::disturbed(&self.setup, seed, &case.inputs, &case.faults)?;
        (self.check)(&expected, &finished.outputs).map_err(|why| run::Failed {
            why,
            story: finished.story,
        })?;
        Ok(Summary {
            seeds: 1,
            steps: finished.steps,
            records: expected.topics.values().map(|r| r.len() as u64).sum(),
            faults: finished.counts.faults,
            crashes: finished.counts.crashes,
            restores_broken_off: finished.counts.restores_broken_off,
            copies_handed_over: finished.counts.copies_handed_over,
        })
    }
}

/// The input and the faults of a seed.
#[derive(Debug, Clone)]
struct Case {
    inputs: Vec<InputRecord>,
    faults: Vec<Planned>,
}

/// What was run, and what was done to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Seeds without a violation.
    pub seeds: u64,
    /// Turns that were given to instances.
    pub steps: u64,
    /// Records in the output topics.
    pub records: u64,
    /// Faults that came to pass, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Where instances died: at which call, on which side of it.
    pub crashes: BTreeMap<(Call, Side), u64>,
    /// Restores of tasks that were given up before their end, because their partitions were taken away.
    pub restores_broken_off: u64,
    /// Standby copies of tasks that were closed because the group gave the task to their instance.
    pub copies_handed_over: u64,
}

impl Summary {
    /// Adds another's counts.
    pub fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.records += other.records;
        self.restores_broken_off += other.restores_broken_off;
        self.copies_handed_over += other.copies_handed_over;
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (point, count) in other.crashes {
            *self.crashes.entry(point).or_default() += count;
        }
    }
}

/// A seed whose result is wrong.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// What is wrong.
    pub why: String,
    /// The faults that are needed for it.
    pub faults: Vec<Planned>,
    /// How much of the input is needed for it.
    pub inputs: usize,
    /// What happened, in order.
    pub story: Vec<String>,
}

impl Violation {
    /// Of a simulation that nothing is to be learnt from.
    fn before_the_run(seed: u64, topic: &str) -> Self {
        Self {
            seed,
            why: format!(
                "topic '{topic}' is read and has no input; say what comes there with `.input(\"{topic}\", …)`"
            ),
            faults: Vec::new(),
            inputs: 0,
            story: Vec::new(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.why)?;
        writeln!(
            f,
            "with {} input records and {} faults:",
            self.inputs,
            self.faults.len()
        )?;
        for planned in &self.faults {
            writeln!(f, "  {planned}")?;
        }
        writeln!(f, "what happened:")?;
        for line in &self.story {
            writeln!(f, "  {line}")?;
        }
        // A test says which seeds it runs, so it is where this one is run alone.
        write!(f, "to see it again: .seeds({0}..{0} + 1)", self.seed)
    }
}

impl std::error::Error for Violation {}
