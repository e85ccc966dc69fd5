//! Real time, for waiting on real processes. The only module of this crate that asks the operating system for it.
#![expect(
    clippy::disallowed_methods,
    reason = "xtask waits for other processes; there is no virtual time to take"
)]

use std::time::{Duration, Instant};

/// Measures from its start.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts to measure.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Asks `done` every 20 ms until it has an answer or `patience` is over.
pub fn wait_for<T>(patience: Duration, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    let watch = Stopwatch::start();
    loop {
        if let Some(answer) = done() {
            return Some(answer);
        }
        if watch.elapsed() >= patience {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_asks_at_least_once_and_gives_up() {
        assert_eq!(wait_for(Duration::ZERO, || Some(1)), Some(1));
        assert_eq!(wait_for::<()>(Duration::ZERO, || None), None);
    }
}
