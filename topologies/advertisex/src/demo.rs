//! The platform on the embedded log: reads a landing directory to its end, writes result files, and watches for more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use attribution::ConversionRules;
use processor_core::clock::{Clock, SystemClock};
use processor_core::log::embedded::EmbeddedLog;
use processor_core::{Backend, Streams, StreamsConfig};
use state::StateDirectory;

use crate::progress::Progress;
use crate::results::Results;
use crate::summary::summary;
use crate::{Config, Part, topics, topology};

/// Partitions of every topic: more than one, so that records really move between tasks.
const PARTITIONS: i32 = 2;
/// How often a watched directory is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How soon a stop is noticed while nothing happens.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// Where the shipped sample is in the repository.
const SAMPLE: &str = "samples/open-bandit/landing";
/// What must be said wherever results of the sample are shown.
const SAMPLE_NOTICE: &str = "\
input: the Open Bandit click log by ZOZO, Inc. (CC BY 4.0), see samples/open-bandit/README.md. Impressions and clicks are
real. Not in the log, so made here: user = hash of its user features; creative = item; campaign = its campaign and policy;
click time = impression time + a seeded log-normal delay (median 8 s, 99 % within 10 min); cost = a seeded auction.";

/// What a demo does.
#[derive(Debug, Clone)]
pub struct Demo {
    /// The landing directory; the shipped sample when there is none.
    pub input: Option<PathBuf>,
    /// Where result files go.
    pub out: PathBuf,
    /// Where the log and the stores are; inside `out` when there is none.
    pub state: Option<PathBuf>,
    /// What keeps the stores there.
    pub backend: Backend,
    /// Returns at the end of the input instead of watching for more.
    pub once: bool,
    /// Memory in bytes: [`StreamsConfig::memory_bytes`].
    pub memory_bytes: u64,
    /// How long before a click an impression may be to be credited with it.
    pub click_window: Duration,
    /// How conversions are attributed.
    pub conversions: ConversionRules,
    /// How far below the largest timestamp before it in its feed a record may be.
    pub grace: Duration,
    /// How long the ids of records are remembered, in event time, to notice those that come again.
    pub id_ttl: Duration,
}

impl Demo {
    /// Runs until the end of the input, or until `stop` is set. Prints a summary to standard output each time the end is
    /// reached; `print` takes it.
    ///
    /// # Errors
    /// When the input or the state directory cannot be used, or processing stops.
    pub fn run(&self, stop: &AtomicBool, print: &mut dyn FnMut(&str)) -> Result<()> {
        let (input, is_sample) = self.landing()?;
        std::fs::create_dir_all(&self.out).with_context(|| {
            format!("cannot create the output directory {}", self.out.display())
        })?;
        let state = self.state.clone().unwrap_or_else(|| self.out.join("state"));
        let mut directory = StateDirectory::open(&state, "advertisex")?;
        directory.belongs_to(&self.identity(&input))?;

        let log = EmbeddedLog::open(&state.join("log"))
            .with_context(|| format!("cannot open the log in {}", state.display()))?;
        topics::create(&log, PARTITIONS, 1)?;
        for (path, reason) in ingest::announce(&log, &input)?.ignored {
            eprintln!("ignored: {path}: {reason}");
        }
        let config = Config {
            landing: input.clone(),
            click_window: self.click_window,
            conversions: self.conversions,
            grace: self.grace,
            id_ttl: self.id_ttl,
            replication: 1,
        };
        let mut streams_config = StreamsConfig::new("advertisex")
            .state_dir(state.join("streams"))
            .backend(self.backend);
        // Events may be years old; their changelogs must not expire before they are read.
        streams_config.windowed_changelog_additional_retention = None;
        streams_config.memory_bytes = self.memory_bytes;
        let topology = topology(Part::All, &config, Arc::new(log.clone()))?;
        let mut streams = Streams::new(topology, streams_config, Arc::new(log.clone()))?;

        loop {
            let mut progress = Progress::new(&log, &SystemClock)?;
            let (mut last, mut unsaid) = (0, Ok(()));
            streams.run_to_end_with(&mut |records| {
                last = records;
                unsaid = progress.tick(records);
                unsaid.is_ok() && !stop.load(Ordering::SeqCst)
            })?;
            unsaid?;
            progress.done(last)?;
            let results = Results::read(&log)?;
            results.write(&self.out)?;
            if stop.load(Ordering::SeqCst) {
                eprintln!("stopped before the end of the input; run again to go on");
                break;
            }
            print(&summary(&results, &self.out));
            if is_sample {
                print(SAMPLE_NOTICE);
            }
            if self.once || !self.more(&log, &input, stop)? {
                break;
            }
        }
        streams.close()?;
        Ok(())
    }

    /// Waits for new files; false when `stop` came first.
    fn more(&self, log: &EmbeddedLog, input: &Path, stop: &AtomicBool) -> Result<bool> {
        eprintln!("watching {} for new files; Ctrl-C ends", input.display());
        let mut waited = Duration::ZERO;
        while !stop.load(Ordering::SeqCst) {
            SystemClock.pass(STOP_INTERVAL);
            waited += STOP_INTERVAL;
            if waited >= LOOK_INTERVAL {
                waited = Duration::ZERO;
                let announced = ingest::announce(log, input)?;
                if !announced.files.is_empty() {
                    eprintln!("new: {}", announced.files.join(", "));
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The landing directory, and whether it is the shipped sample.
    fn landing(&self) -> Result<(PathBuf, bool)> {
        let sample = sample();
        let Some(input) = self.input.as_ref().or(sample.as_ref()) else {
            bail!("the shipped sample is not here; name a landing directory with --input DIR");
        };
        if !input.is_dir() {
            bail!(
                "the landing directory {} does not exist or is no directory; name one with --input DIR",
                input.display()
            );
        }
        let input = input
            .canonicalize()
            .with_context(|| format!("cannot read the landing directory {}", input.display()))?;
        let is_sample = sample
            .and_then(|sample| sample.canonicalize().ok())
            .is_some_and(|sample| sample == input);
        Ok((input, is_sample))
    }

    /// What the state depends on.
    fn identity(&self, input: &Path) -> String {
        let conversions = &self.conversions;
        format!(
            "landing directory {} with a click window of {} ms, conversions by {:?} over {} ms of clicks and {} ms of views, \
             and a grace of {} ms",
            input.display(),
            self.click_window.as_millis(),
            conversions.model,
            conversions.click_window.as_millis(),
            conversions.view_window.as_millis(),
            self.grace.as_millis()
        )
    }
}

/// The shipped sample: below the working directory, or in the repository this was built from.
pub(crate) fn sample() -> Option<PathBuf> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(SAMPLE);
    [PathBuf::from(SAMPLE), built_from]
        .into_iter()
        .find(|path| path.is_dir())
}
