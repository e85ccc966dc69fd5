//! The executor of a stream thread: where futures of operators run, so that the thread does not have to wait for each.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

use crate::error::{Fault, Result};

/// A Tokio runtime of one worker thread. Dropping it ends that thread and drops what runs there.
pub(crate) struct Executor {
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl Executor {
    fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("stream-executor")
            .enable_all()
            .build()
            .map_err(|error| Fault::user("executor", error))?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    /// Runs `future` in the background, until the call that comes back is dropped.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> Call {
        let runtime = self.runtime.as_ref().expect("it is there until the drop");
        Call(runtime.spawn(future).abort_handle())
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Without waiting for futures that block, which they must not.
            runtime.shutdown_background();
        }
    }
}

/// A future that runs in the background.
pub(crate) struct Call(AbortHandle);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The executor of a stream thread, started when the first operator asks for it.
#[derive(Default)]
pub(crate) struct LazyExecutor(RefCell<Option<Rc<Executor>>>);

impl LazyExecutor {
    pub(crate) fn get(&self) -> Result<Rc<Executor>> {
        let mut started = self.0.borrow_mut();
        if started.is_none() {
            *started = Some(Rc::new(Executor::start()?));
        }
        Ok(Rc::clone(started.as_ref().expect("started above")))
    }
}
