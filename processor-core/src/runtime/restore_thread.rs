//! Who steps a [`Restorer`]: a thread of its own, beside the stream thread, or the stream thread itself between its rounds,
//! where the same input has to give the same run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Fault, Result};
use crate::log::{Offset, TopicPartition};
use crate::mutant::{self, Mutant};
use crate::record::TaskId;

use super::restore::{RestoredTask, Restorer};
use super::stream_thread::Shared;

/// How long a step waits for changes; a request waits as long.
const STEP_WAIT: Duration = Duration::from_millis(10);
/// How long the stream thread waits itself where there was nothing to do for its restores.
const PAUSE: Duration = Duration::from_millis(5);

/// Who steps the restores of a stream thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestoreBy {
    /// A thread of their own.
    OwnThread,
    /// The stream thread, one step a round.
    StreamThread,
}

/// The restores of a stream thread.
pub(crate) struct Restoration {
    restorer: SteppedBy,
    /// Restored, and not asked for yet.
    restored: Vec<RestoredTask>,
}

enum SteppedBy {
    OwnThread(RestoreThread),
    StreamThread(Restorer),
}

impl Restoration {
    pub(crate) fn new(shared: &Arc<Shared>, index: usize, by: RestoreBy) -> Self {
        let restorer = Restorer::new(Arc::clone(shared));
        let restorer = match by {
            RestoreBy::OwnThread => SteppedBy::OwnThread(RestoreThread::start(restorer, index)),
            RestoreBy::StreamThread => SteppedBy::StreamThread(restorer),
        };
        Self {
            restorer,
            restored: Vec::new(),
        }
    }

    /// Begins to restore `id`. The committed offsets of its inputs have been read: `inputs` is where it goes on.
    pub(crate) fn begin(&mut self, id: TaskId, inputs: Inputs) -> Result {
        match &mut self.restorer {
            SteppedBy::OwnThread(thread) => thread.ask(Request::Begin(id, inputs)),
            SteppedBy::StreamThread(restorer) => restorer
                .begin(id, &inputs)
                .inspect_err(|_| restorer.reset()),
        }
    }

    /// The tasks that were restored since. After an error all that were not are to be [cancelled](Self::cancel) and begun
    /// again.
    pub(crate) fn poll(&mut self, shared: &Shared) -> Result<Vec<RestoredTask>> {
        match &mut self.restorer {
            SteppedBy::OwnThread(thread) => {
                thread.collect(&mut self.restored);
                thread.failed.take().map_or(Ok(()), Err)?;
                Ok(std::mem::take(&mut self.restored))
            }
            SteppedBy::StreamThread(restorer) if restorer.is_idle() => {
                Ok(std::mem::take(&mut self.restored))
            }
            SteppedBy::StreamThread(restorer) => {
                let stepped = restorer.step(STEP_WAIT).inspect_err(|_| restorer.reset())?;
                if !stepped.moved {
                    shared.clock.pass(PAUSE);
                }
                // What is done is handed over a round later, as by a thread: its task may be taken away before.
                Ok(std::mem::replace(&mut self.restored, stepped.restored))
            }
        }
    }

    /// Gives `ids` up; when this returns nothing of them is open any more. What was restored of them is kept.
    pub(crate) fn cancel(&mut self, ids: &BTreeSet<TaskId>) {
        match &mut self.restorer {
            SteppedBy::OwnThread(thread) => {
                thread.cancel(ids);
                thread.collect(&mut self.restored);
            }
            SteppedBy::StreamThread(restorer) => restorer.cancel(ids),
        }
        if !mutant::is(Mutant::RestoredKeptOnRevoke) {
            self.restored.retain(|task| !ids.contains(&task.id));
        }
    }
}

/// Offsets at which a task goes on.
type Inputs = Vec<(TopicPartition, Offset)>;

enum Request {
    Begin(TaskId, Inputs),
    /// Answered when it is done.
    Cancel(BTreeSet<TaskId>, Sender<()>),
}

type Answer = Result<Vec<RestoredTask>>;

/// A restorer on a thread of its own. It ends when this is dropped, which waits for the step that is under way.
struct RestoreThread {
    /// There until the drop.
    requests: Option<Sender<Request>>,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<()>>,
    failed: Option<Fault>,
}

impl RestoreThread {
    fn start(restorer: Restorer, index: usize) -> Self {
        let (requests, asked) = channel();
        let (answer, answers) = channel();
        let thread = std::thread::Builder::new().name(format!("restore-thread-{index}"));
        let thread = thread.spawn(move || run(restorer, &asked, &answer));
        Self {
            requests: Some(requests),
            answers,
            thread: Some(thread.expect("the operating system can start a thread")),
            failed: None,
        }
    }

    fn ask(&self, request: Request) -> Result {
        let requests = self.requests.as_ref().expect("there until the drop");
        requests.send(request).map_err(|_| gone())
    }

    fn cancel(&self, ids: &BTreeSet<TaskId>) {
        let (done, is_done) = channel();
        if self.ask(Request::Cancel(ids.clone(), done)).is_ok() {
            // An error says that the thread is gone, and everything it had open with it.
            let _: Result<(), RecvError> = is_done.recv();
        }
    }

    /// Takes in what the thread has said.
    fn collect(&mut self, all: &mut Vec<RestoredTask>) {
        loop {
            match self.answers.try_recv() {
                Ok(Ok(restored)) => all.extend(restored),
                Ok(Err(fault)) => self.failed = Some(fault),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.failed.get_or_insert_with(gone);
                    return;
                }
            }
        }
    }
}

impl Drop for RestoreThread {
    fn drop(&mut self) {
        self.requests = None;
        // A panic has been printed by the thread itself.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn gone() -> Fault {
    Fault::user(
        "restore",
        "the restore thread panicked; see what it printed",
    )
}

fn run(mut restorer: Restorer, requests: &Receiver<Request>, answers: &Sender<Answer>) {
    loop {
        let request = match restorer.is_idle() {
            true => requests.recv().map_err(|_| TryRecvError::Disconnected),
            false => requests.try_recv(),
        };
        let answer = match request {
            Ok(Request::Begin(id, inputs)) => restorer.begin(id, &inputs).map(|()| Vec::new()),
            Ok(Request::Cancel(ids, done)) => {
                restorer.cancel(&ids);
                let _ = done.send(());
                Ok(Vec::new())
            }
            Err(TryRecvError::Empty) => restorer.step(STEP_WAIT).map(|stepped| stepped.restored),
            Err(TryRecvError::Disconnected) => return,
        };
        if answer.is_err() {
            restorer.reset();
        }
        if !matches!(&answer, Ok(restored) if restored.is_empty()) && answers.send(answer).is_err()
        {
            return;
        }
    }
}
