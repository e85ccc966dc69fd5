//! An application: a topology on a log.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use state::{Backend, Database, DatabaseOptions, MemoryDatabase, StateDirectory};

use crate::clock::{Clock, Deadline, SystemClock, elapsed_ms};
use crate::config::StreamsConfig;
use crate::log::Log;
use crate::topology::Topology;

use super::kept_plan::{Gate, Passed, encoded};
use super::memory::{MemoryPlan, Stores};
use super::restore_thread::RestoreBy;
use super::restores::{RestoreProgress, Restores, Told};
use super::standby::Copies;
use super::stream_thread::{PATIENCE, PAUSE, Pace, Round, Shared, StreamThread, may_pass};
use super::streams_error::StreamsError;
use super::tailer::{self, Tailer};
use super::task_owners::TaskOwners;
use super::topic_lookup::TopicLookup;
use super::topics::{self, TopicPartitions};

/// A running application. Stop it with [`close`](Self::close); a [`run_to_end`](Self::run_to_end) is driven by its caller.
///
/// ```
/// use processor_core::dsl::{Consumed, StreamsBuilder};
/// use processor_core::log::{Log, NewTopic, embedded::EmbeddedLog};
/// use processor_core::serde::{int64, utf8};
/// use processor_core::{Streams, StreamsConfig};
/// use std::sync::Arc;
///
/// let builder = StreamsBuilder::new("evens");
/// let numbers = builder.stream("numbers", Consumed::new(utf8(), int64()));
/// numbers.filter(|_, number| number % 2 == 0).to("evens");
///
/// let log = EmbeddedLog::in_memory();
/// log.create_topics(&[NewTopic::new("numbers", 2), NewTopic::new("evens", 2)]).unwrap();
/// let config = StreamsConfig::new("evens-app");
/// let mut streams = Streams::new(builder.build().unwrap(), config, Arc::new(log)).unwrap();
/// let summary = streams.run_to_end().unwrap();
/// assert_eq!(summary.records, 0);
/// ```
pub struct Streams {
    shared: Arc<Shared>,
    /// Holds the lock of the state directory for as long as the application lives.
    _directory: Option<StateDirectory>,
    taken: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), StreamsError>>>,
    /// It keeps the standby copies.
    tailer: Option<JoinHandle<()>>,
    inline: Option<StreamThread>,
}

/// What a bounded run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunSummary {
    /// Records taken from topics of the user and internal ones.
    pub records: u64,
}

impl Streams {
    /// Prepares `topology` on `log`: opens the state directory, checks the topics and makes the internal ones.
    ///
    /// The plan of the topology is compared with the one of the last run that committed anything, which is kept on
    /// `<application id>-plan` and in the state directory; see [`plan::diff`](crate::plan::diff) for what changes are safe.
    ///
    /// # Errors
    /// [`StreamsError::UnsafeChanges`] when state or records under way do not fit the topology any more.
    /// When the state directory is in use or belongs to another application, a topic is missing or the one for dead
    /// letters not set, partition counts do not fit, or the log does not answer.
    pub fn new(
        topology: Topology,
        config: StreamsConfig,
        log: Arc<dyn Log>,
    ) -> Result<Self, StreamsError> {
        Self::with_clock(topology, config, log, Arc::new(SystemClock))
    }

    /// Like [`new`](Self::new), with a clock of the caller's.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_clock(
        topology: Topology,
        config: StreamsConfig,
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StreamsError> {
        if config.standby.is_some() && config.state_dir.is_none() {
            let reason = "set `state_dir`: copies are kept on disk".to_owned();
            return Err(StreamsError::Standby { reason });
        }
        let memory = memory_plan(&topology, &config)?;
        let options = DatabaseOptions {
            cache_bytes: memory.cache_bytes,
        };
        let mut directory = match &config.state_dir {
            None => None,
            Some(path) => Some(StateDirectory::open(path, &config.application_id)?),
        };
        // Stores may take a while to open, and so may the questions to the log.
        let (database, checked) = std::thread::scope(|scope| {
            let opening = directory.as_mut().map(|directory| {
                scope.spawn(|| open_database(directory, config.backend, &options, &*clock))
            });
            let checked = Checked::against(&topology, &config, &*log, &*clock);
            let database = match opening {
                None => Ok(Arc::new(MemoryDatabase::default()) as Arc<dyn Database>),
                Some(opening) => opening
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            };
            (database, checked)
        });
        let mut streams = Self::of(topology, config, memory, log, clock, database?, checked?)?;
        streams._directory = directory;
        Ok(streams)
    }

    /// Like [`with_clock`](Self::with_clock), with stores in `database`, whatever the state directory of `config` says.
    pub(crate) fn on(
        topology: Topology,
        config: StreamsConfig,
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
        database: Arc<dyn Database>,
    ) -> Result<Self, StreamsError> {
        let memory = memory_plan(&topology, &config)?;
        let checked = Checked::against(&topology, &config, &*log, &*clock)?;
        Self::of(topology, config, memory, log, clock, database, checked)
    }

    fn of(
        topology: Topology,
        config: StreamsConfig,
        memory: MemoryPlan,
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
        database: Arc<dyn Database>,
        checked: Checked,
    ) -> Result<Self, StreamsError> {
        let Checked { passed, partitions } = checked;
        let instance = match (&config.instance, &config.state_dir) {
            (Some(instance), _) => instance.clone(),
            (None, Some(path)) => kept_instance(path, &*clock)?,
            (None, None) => made_up_instance(&*clock),
        };
        let copies = Copies::of(&topology, &config, &partitions);
        let copies = copies.map_err(|reason| StreamsError::Standby { reason })?;
        let shared = Shared {
            topology,
            config,
            lookup: Arc::new(TopicLookup::new(Arc::clone(&log))),
            log,
            clock,
            database,
            partitions,
            resets: passed.kept.resets.clone(),
            new_plan: passed.changed.then(|| encoded(&passed.kept).into()),
            instance,
            memory,
            held: Arc::default(),
            restores: Restores::new(Told::Restores),
            copies,
            standbys: Restores::new(Told::Copies),
            owners: TaskOwners::default(),
            stop: Arc::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            _directory: None,
            taken: Arc::default(),
            threads: Vec::new(),
            tailer: None,
            inline: None,
        })
    }

    /// Starts the stream threads; returns at once.
    pub fn start(&mut self) {
        for index in 0..self.shared.config.threads.max(1) {
            let shared = Arc::clone(&self.shared);
            let taken = Arc::clone(&self.taken);
            let thread = std::thread::Builder::new().name(format!("stream-thread-{index}"));
            let handle = thread.spawn(move || {
                let result = run_thread(&shared, index, &taken);
                if let Err(error) = &result {
                    tracing::error!(thread = index, %error, "a stream thread stopped");
                    mark_if_damaged(&shared, error);
                    // The others would go on without this thread's share; a person or an orchestrator restarts us.
                    shared.stop.store(true, Ordering::SeqCst);
                }
                result
            });
            self.threads
                .push(handle.expect("the operating system can start a thread"));
        }
        let tailer = Tailer::new(&self.shared);
        self.tailer = tailer.map(tailer::start);
    }

    /// Whether a thread has stopped, by [`close`](Self::close) or by a failure.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.shared.is_stopping()
    }

    /// A flag that stops the application when it is set, for signal handlers.
    #[must_use]
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shared.stop)
    }

    /// Records taken so far.
    #[must_use]
    pub fn records_taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Changelog records read so far to bring stores up to date.
    #[must_use]
    pub fn records_restored(&self) -> u64 {
        self.shared.restores.records()
    }

    /// Their keys and values, in bytes.
    #[must_use]
    pub fn bytes_restored(&self) -> u64 {
        self.shared.restores.bytes()
    }

    /// Memory that changes and records held as of the last round of each thread, in bytes: what
    /// [`memory_bytes`](StreamsConfig::memory_bytes) bounds, but for the page cache of the stores and the queues of the
    /// clients, which the clients and the stores keep to their shares themselves.
    #[must_use]
    pub fn memory_held(&self) -> usize {
        self.shared.held.bytes()
    }

    /// The most of [`memory_held`](Self::memory_held) since this was made.
    #[must_use]
    pub fn memory_peak(&self) -> usize {
        self.shared.held.peak()
    }

    /// The stores that are being restored now, and how far each has come. Their tasks run when all of their stores are
    /// there; other tasks run meanwhile.
    #[must_use]
    pub fn restores(&self) -> Vec<RestoreProgress> {
        self.shared.restores.under_way()
    }

    /// The [standby copies](crate::Standby) that are kept now, and how far each has come.
    #[must_use]
    pub fn standbys(&self) -> Vec<RestoreProgress> {
        self.shared.standbys.under_way()
    }

    /// How many restores of tasks were given up before their end.
    pub(crate) fn restores_broken_off(&self) -> u64 {
        self.shared.restores.count_broken_off()
    }

    /// How many standby copies of tasks were closed, since their tasks came here or the application ended.
    pub(crate) fn copies_handed_over(&self) -> u64 {
        self.shared.standbys.count_broken_off()
    }

    /// Stops the threads, each after a last commit, and waits for them.
    ///
    /// # Errors
    /// What stopped the first thread that failed.
    pub fn close(mut self) -> Result<(), StreamsError> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut first = Ok(());
        for (index, thread) in self.threads.drain(..).enumerate() {
            let result = thread.join().unwrap_or(Err(StreamsError::Panicked(index)));
            first = first.and(result);
        }
        if let Some(tailer) = self.tailer.take() {
            // A panic has been printed by the thread itself, and costs no more than the copies.
            let _ = tailer.join();
        }
        if let Some(inline) = self.inline.take() {
            first = first.and(inline.close().map_err(Into::into));
        }
        first
    }

    /// Reads all there is, on the caller's thread and in one deterministic order, and returns when everything is
    /// processed and committed. Then every sub-topology in order is told that this was the
    /// [end of input](crate::processor::Punctuation::EndOfInput). May be called again when there is more.
    ///
    /// # Errors
    /// What stopped processing.
    pub fn run_to_end(&mut self) -> Result<RunSummary, StreamsError> {
        self.run_to_end_with(&mut |_| true)
    }

    /// Like [`run_to_end`](Self::run_to_end); `progress` is called after each round with the records taken so far and
    /// stops the run, after a commit, by returning false.
    ///
    /// # Errors
    /// As for [`run_to_end`](Self::run_to_end).
    pub fn run_to_end_with(
        &mut self,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<RunSummary, StreamsError> {
        let ranks = thread_ranks(&self.shared.topology);
        let (records, taken) = self.on_inline(|thread| {
            let before = thread.taken();
            let mut drained = drain(thread, progress)?;
            // Again after a rewind, which forgets it.
            while drained && thread.decide_held() {
                drained = drain(thread, progress)?;
            }
            if drained {
                for rank in ranks {
                    if !finish(thread, rank, progress)? {
                        break;
                    }
                }
            }
            thread.commit_or_rewind()?;
            Ok((thread.taken() - before, thread.taken()))
        })?;
        self.taken.store(taken, Ordering::Relaxed);
        Ok(RunSummary { records })
    }

    /// Reads and processes all there is now, without an end of input. For the test driver.
    pub(crate) fn drain(&mut self) -> Result<(), StreamsError> {
        self.on_inline(|thread| drain(thread, &mut |_| true).map(|_| ()))
    }

    /// Runs `work` on the caller's thread. After a failure what it has not committed is given up, so that the next call,
    /// like a restart, reads it again.
    fn on_inline<T>(
        &mut self,
        work: impl FnOnce(&mut StreamThread) -> Result<T, StreamsError>,
    ) -> Result<T, StreamsError> {
        let result = work(self.inline()?);
        if let Err(error) = &result {
            mark_if_damaged(&self.shared, error);
            if let Some(failed) = self.inline.take() {
                failed.abandon();
            }
        }
        result
    }

    pub(crate) fn inline(&mut self) -> Result<&mut StreamThread, StreamsError> {
        if self.inline.is_none() {
            self.inline = Some(StreamThread::start(
                Arc::clone(&self.shared),
                0,
                RestoreBy::StreamThread,
            )?);
        }
        Ok(self.inline.as_mut().expect("made above"))
    }
}

fn memory_plan(topology: &Topology, config: &StreamsConfig) -> Result<MemoryPlan, StreamsError> {
    let has_stores = topology.subtopologies.iter().any(|s| !s.stores.is_empty());
    let stores = match (has_stores, &config.state_dir) {
        (false, _) => Stores::None,
        (true, None) => Stores::InMemory,
        (true, Some(_)) => Stores::OnDisk,
    };
    MemoryPlan::for_config(config, stores).map_err(|least| StreamsError::TooLittleMemory {
        memory_bytes: config.memory_bytes,
        threads: config.threads,
        least,
    })
}

fn mark_if_damaged(shared: &Shared, error: &StreamsError) {
    if let StreamsError::Processing(fault) = error
        && let Some(error) = fault.state_error()
    {
        shared.mark_if_damaged(error);
    }
}

/// That the topology fits what is on the log.
struct Checked {
    passed: Passed,
    partitions: TopicPartitions,
}

impl Checked {
    /// Compares, resets what may be reset, and makes the internal topics.
    fn against(
        topology: &Topology,
        config: &StreamsConfig,
        log: &dyn Log,
        clock: &dyn Clock,
    ) -> Result<Self, StreamsError> {
        let prepared = topics::prepare(topology, config, log)?;
        let plan = prepared.plan_of(topology, config);
        let passed = Gate { log, config, clock }.pass(&plan)?;
        let partitions = prepared.make_topics(topology, config, log)?;
        tracing::info!("topics checked");
        Ok(Self { passed, partitions })
    }
}

fn open_database(
    directory: &mut StateDirectory,
    backend: Backend,
    options: &DatabaseOptions,
    clock: &dyn Clock,
) -> Result<Arc<dyn Database>, StreamsError> {
    let began_ms = clock.now_ms();
    let database = directory.open_database(backend, options)?;
    let open_ms = elapsed_ms(began_ms, clock.now_ms());
    tracing::info!(path = %directory.path().display(), %backend, open_ms, "state opened");
    Ok(database)
}

fn thread_ranks(topology: &Topology) -> std::ops::RangeInclusive<usize> {
    0..=topology
        .subtopologies
        .iter()
        .map(|s| s.rank)
        .max()
        .unwrap_or(0)
}

/// Rounds until there is nothing left to do; false when `progress` stopped it.
fn drain(
    thread: &mut StreamThread,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<bool, StreamsError> {
    thread.forget_ends();
    loop {
        let round = thread.round(Duration::ZERO, Pace::Eager)?;
        if !progress(thread.taken()) {
            return Ok(false);
        }
        if round == Round::Idle && thread.has_tasks() && thread.quiescent()? {
            return Ok(true);
        }
    }
}

/// Tells the sub-topologies of `rank` of the end of input, until what they have to say is committed; false when
/// `progress` stopped it.
fn finish(
    thread: &mut StreamThread,
    rank: usize,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<bool, StreamsError> {
    let mut goals = BTreeMap::new();
    loop {
        let rewinds = thread.rewinds();
        thread.end_of_input(rank, &mut goals)?;
        if !drain(thread, progress)? {
            return Ok(false);
        }
        if thread.rewinds() == rewinds {
            return Ok(true);
        }
    }
}

/// Starts a thread; a log that goes away meanwhile is waited for, as it is later.
fn started(shared: &Arc<Shared>, index: usize) -> Result<StreamThread, StreamsError> {
    let deadline = Deadline::after(PATIENCE);
    loop {
        match StreamThread::start(Arc::clone(shared), index, RestoreBy::OwnThread) {
            Err(fault) if may_pass(&fault) && !deadline.passed() && !shared.is_stopping() => {
                tracing::warn!(thread = index, %fault, "a stream thread does not start; trying again");
                shared.clock.pass(PAUSE);
            }
            started => return Ok(started?),
        }
    }
}

fn run_thread(shared: &Arc<Shared>, index: usize, taken: &AtomicU64) -> Result<(), StreamsError> {
    let wait = shared
        .config
        .commit_interval
        .min(Duration::from_millis(100));
    let mut thread = started(shared, index)?;
    let mut counted = 0;
    while !shared.is_stopping() {
        // The others are told before the clients of this thread are closed, which may take a while.
        let round = thread.round(wait, Pace::Interval);
        round.inspect_err(|_| shared.stop.store(true, Ordering::SeqCst))?;
        taken.fetch_add(thread.taken() - counted, Ordering::Relaxed);
        counted = thread.taken();
    }
    Ok(thread.close()?)
}

/// The instance name kept under the state directory; made up at the first start.
fn kept_instance(directory: &std::path::Path, clock: &dyn Clock) -> Result<String, StreamsError> {
    let path = directory.join("instance");
    let failed = |source| StreamsError::Directory {
        path: path.clone(),
        source,
    };
    match std::fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => Ok(name.trim().to_owned()),
        Ok(_) => write_instance(&path, clock).map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_instance(&path, clock).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn write_instance(path: &std::path::Path, clock: &dyn Clock) -> std::io::Result<String> {
    let name = made_up_instance(clock);
    let beside = path.with_extension("new");
    std::fs::write(&beside, &name)?;
    std::fs::rename(&beside, path)?;
    Ok(name)
}

fn made_up_instance(clock: &dyn Clock) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    // In containers every process is number 1, and several start in one millisecond: this is of the operating system.
    let random = RandomState::new().build_hasher().finish();
    let seed = format!("{}:{}:{count}:{random}", std::process::id(), clock.now_ms());
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(seed.as_bytes()))
}
