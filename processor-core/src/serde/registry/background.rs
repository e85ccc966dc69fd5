//! The thread that talks to a registry, so that nobody who looks a schema up has to wait.
//!
//! ```text
//!            lookup                  Found ──▶ Known
//!   (absent) ──────▶ Pending ──fetch─┤
//!      ▲                ▲            ├ Missing ──▶ Unknown ──after a while──▶ (absent)
//!      └────────────────│────────────┼──────────────────────┘
//!                       └──pause─────┘ Later
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Lookup, SchemaId};
use crate::clock::Deadline;
use crate::serde::AvroSchema;

/// Pauses between attempts to reach a registry grow from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long it is believed that a schema does not exist.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);

/// Where schemas come from. Used by one thread, and may block it.
pub(super) trait Source: Send + 'static {
    /// Asks for the schema of `id`.
    fn fetch(&mut self, id: SchemaId) -> Fetched;
}

/// What a source said.
pub(super) enum Fetched {
    /// Here it is.
    Found(AvroSchema),
    /// There is none, for this reason.
    Missing(String),
    /// No answer, for this reason: try again.
    Later(String),
}

/// A source, its thread, and the schemas that came from it. Dropping it ends the thread and waits for that.
pub(super) struct Background<S> {
    entries: Arc<Entries>,
    jobs: Option<mpsc::Sender<Job<S>>>,
    thread: Option<JoinHandle<()>>,
}

type Entries = Mutex<HashMap<SchemaId, Entry>>;

enum Entry {
    Known(AvroSchema),
    Pending,
    Unknown { reason: String, until: Deadline },
}

enum Job<S> {
    Fetch(SchemaId),
    Call(Box<dyn FnOnce(&mut S) + Send>),
}

impl<S: Source> Background<S> {
    /// Starts the thread.
    pub(super) fn start(source: S) -> std::io::Result<Self> {
        let entries = Arc::<Entries>::default();
        let (jobs, receiver) = mpsc::channel();
        let worker = Worker {
            source,
            entries: Arc::clone(&entries),
            retries: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("schema-registry".to_owned());
        let thread = thread.spawn(move || worker.run(&receiver))?;
        Ok(Self {
            entries,
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// The schema of `id`, if it is here; otherwise it is asked for. Never blocks.
    pub(super) fn lookup(&self, id: SchemaId) -> Lookup {
        let mut entries = lock(&self.entries);
        match entries.get(&id) {
            Some(Entry::Known(schema)) => return Lookup::Known(*schema),
            Some(Entry::Pending) => return Lookup::Pending,
            Some(Entry::Unknown { reason, until }) if !until.passed() => {
                return Lookup::Unknown(reason.clone());
            }
            Some(Entry::Unknown { .. }) | None => {}
        }
        let jobs = self.jobs.as_ref();
        match jobs.is_some_and(|jobs| jobs.send(Job::Fetch(id)).is_ok()) {
            true => {
                entries.insert(id, Entry::Pending);
                Lookup::Pending
            }
            false => Lookup::Unknown("its client has stopped".to_owned()),
        }
    }

    /// Takes in a schema that came another way.
    pub(super) fn learn(&self, id: SchemaId, schema: AvroSchema) {
        lock(&self.entries).insert(id, Entry::Known(schema));
    }

    /// Runs `call` on the thread and waits for what it returns; `None` when the thread has ended.
    pub(super) fn call<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut S) -> R + Send + 'static,
    ) -> Option<R> {
        let (reply, answer) = mpsc::sync_channel(1);
        let job = Box::new(move |source: &mut S| {
            // Nobody listens any more only if the caller's thread was killed.
            let _ = reply.send(call(source));
        });
        self.jobs.as_ref()?.send(Job::Call(job)).ok()?;
        answer.recv().ok()
    }
}

impl<S> Drop for Background<S> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed, and turned into unknown schemas.
            let _ = thread.join();
        }
    }
}

fn lock(entries: &Entries) -> MutexGuard<'_, HashMap<SchemaId, Entry>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker<S> {
    source: S,
    entries: Arc<Entries>,
    retries: Vec<Retry>,
}

struct Retry {
    id: SchemaId,
    due: Deadline,
    pause: Duration,
}

impl<S: Source> Worker<S> {
    fn run(mut self, jobs: &mpsc::Receiver<Job<S>>) {
        loop {
            let wait = self.retries.iter().map(|retry| retry.due.remaining()).min();
            let job = match wait {
                None => jobs
                    .recv()
                    .map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(wait) => jobs.recv_timeout(wait),
            };
            match job {
                Ok(Job::Fetch(id)) => self.fetch(id, FIRST_PAUSE),
                Ok(Job::Call(call)) => call(&mut self.source),
                Err(mpsc::RecvTimeoutError::Timeout) => self.retry(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn retry(&mut self) {
        let due: Vec<_> = self
            .retries
            .extract_if(.., |retry| retry.due.passed())
            .collect();
        for Retry { id, pause, .. } in due {
            self.fetch(id, pause);
        }
    }

    fn fetch(&mut self, id: SchemaId, pause: Duration) {
        let entry = match self.source.fetch(id) {
            Fetched::Found(schema) => Entry::Known(schema),
            Fetched::Missing(reason) => {
                let until = Deadline::after(UNKNOWN_FOR);
                Entry::Unknown { reason, until }
            }
            Fetched::Later(reason) => {
                tracing::warn!(schema = %id, %reason, "a schema cannot be fetched yet; trying again");
                let due = Deadline::after(pause);
                let pause = (2 * pause).min(LONGEST_PAUSE);
                self.retries.push(Retry { id, due, pause });
                return;
            }
        };
        let mut entries = lock(&self.entries);
        // It may have been learnt meanwhile, and what is known stays known.
        if !matches!(entries.get(&id), Some(Entry::Known(_))) {
            entries.insert(id, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as it is told, one answer for each question.
    struct Scripted {
        questions: mpsc::Sender<SchemaId>,
        answers: mpsc::Receiver<Fetched>,
    }

    impl Source for Scripted {
        fn fetch(&mut self, id: SchemaId) -> Fetched {
            self.questions.send(id).unwrap();
            self.answers.recv().unwrap()
        }
    }

    fn scripted() -> (
        Background<Scripted>,
        mpsc::Receiver<SchemaId>,
        mpsc::Sender<Fetched>,
    ) {
        let (questions, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let source = Scripted { questions, answers };
        (Background::start(source).unwrap(), asked, answer)
    }

    fn schema() -> AvroSchema {
        AvroSchema::parse(r#""string""#).unwrap()
    }

    /// The calls are made in order, so when this one is done the fetches before it are.
    fn after_all_before(background: &Background<Scripted>) {
        background.call(|_| ()).unwrap();
    }

    #[test]
    fn a_schema_is_asked_for_once_and_pending_until_it_comes() {
        let (background, asked, answer) = scripted();
        for _ in 0..3 {
            assert_eq!(background.lookup(SchemaId(7)), Lookup::Pending);
        }
        assert_eq!(asked.recv().unwrap(), SchemaId(7));
        answer.send(Fetched::Found(schema())).unwrap();
        after_all_before(&background);
        assert_eq!(background.lookup(SchemaId(7)), Lookup::Known(schema()));
        assert!(asked.try_recv().is_err());
    }

    #[test]
    fn a_source_that_does_not_answer_is_asked_again_and_the_schema_stays_pending() {
        let (background, asked, answer) = scripted();
        assert_eq!(background.lookup(SchemaId(7)), Lookup::Pending);
        asked.recv().unwrap();
        answer.send(Fetched::Later("down".to_owned())).unwrap();
        asked.recv().unwrap();
        assert_eq!(background.lookup(SchemaId(7)), Lookup::Pending);
        answer.send(Fetched::Found(schema())).unwrap();
        after_all_before(&background);
        assert_eq!(background.lookup(SchemaId(7)), Lookup::Known(schema()));
    }

    #[test]
    fn a_schema_that_does_not_exist_is_unknown_with_the_reason() {
        let (background, asked, answer) = scripted();
        answer
            .send(Fetched::Missing("never heard of it".to_owned()))
            .unwrap();
        assert_eq!(background.lookup(SchemaId(7)), Lookup::Pending);
        asked.recv().unwrap();
        after_all_before(&background);
        let unknown = Lookup::Unknown("never heard of it".to_owned());
        assert_eq!(background.lookup(SchemaId(7)), unknown);
    }

    #[test]
    fn what_is_learnt_is_not_asked_for() {
        let (background, asked, _answer) = scripted();
        background.learn(SchemaId(1), schema());
        assert_eq!(background.lookup(SchemaId(1)), Lookup::Known(schema()));
        assert!(asked.try_recv().is_err());
    }

    #[test]
    fn a_client_that_has_stopped_makes_schemas_unknown_and_not_pending_for_ever() {
        let (background, _asked, answer) = scripted();
        drop(answer);
        // The script has no answer, so the thread panics.
        assert_eq!(background.lookup(SchemaId(1)), Lookup::Pending);
        assert!(background.call(|_| ()).is_none());
        assert!(matches!(background.lookup(SchemaId(2)), Lookup::Unknown(_)));
    }
}
