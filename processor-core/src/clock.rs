//! The only door to the operating system's time.
//!
//! Everything that needs the time takes a [`Clock`]. Production passes [`SystemClock`]; the harness and
//! the tests pass a [`ManualClock`], which moves only when told.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Wall-clock time in milliseconds since the epoch.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    fn now_ms(&self) -> i64;

    /// Lets `duration` pass: the system clock sleeps, a manual clock moves forward.
    fn pass(&self, duration: Duration);
}

/// A duration as times count it: in whole milliseconds, of which there are never more than fit.
#[must_use]
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Milliseconds from `since_ms` to `now_ms`. A clock that was set back meanwhile tells nothing about it, so everything
/// that waits for an interval is due then, instead of after as long as the clock was set back.
pub(crate) fn elapsed_ms(since_ms: i64, now_ms: i64) -> i64 {
    if now_ms < since_ms {
        i64::MAX
    } else {
        now_ms.saturating_sub(since_ms)
    }
}

/// The operating system's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

#[expect(
    clippy::disallowed_methods,
    reason = "this is the module the others go through"
)]
impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
    }

    fn pass(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// A clock that goes on where it was when the one below it is set back: for what is due after a time, such as the end of
/// a session.
pub(crate) struct SteadyClock {
    below: Arc<dyn Clock>,
    /// The last time below, and what is added to it.
    last: Mutex<(i64, i64)>,
}

impl SteadyClock {
    pub(crate) fn over(below: Arc<dyn Clock>) -> Self {
        let last = Mutex::new((below.now_ms(), 0));
        Self { below, last }
    }
}

impl Clock for SteadyClock {
    fn now_ms(&self) -> i64 {
        let now = self.below.now_ms();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, ahead) = *last;
        let ahead = ahead.saturating_add(before.saturating_sub(now).max(0));
        *last = (now, ahead);
        now.saturating_add(ahead)
    }

    fn pass(&self, duration: Duration) {
        self.below.pass(duration);
    }
}

/// A point in monotonic time, to bound how long an operation may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(std::time::Instant);

#[expect(
    clippy::disallowed_methods,
    reason = "this is the module the others go through"
)]
impl Deadline {
    /// The instant `timeout` from now.
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        let now = std::time::Instant::now();
        // A timeout past what the clock can say is as good as for ever.
        let for_ever = Duration::from_secs(100 * 365 * 24 * 60 * 60);
        Self(now.checked_add(timeout).unwrap_or(now + for_ever))
    }

    /// What is left until the deadline; zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(std::time::Instant::now())
    }

    /// Whether the deadline has passed.
    #[must_use]
    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }
}

/// A clock that moves only when told. Clones share the same time.
#[derive(Debug, Default, Clone)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that stands at `now_ms`.
    #[must_use]
    pub fn at(now_ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(now_ms)))
    }

    /// Moves the clock forward by `duration`.
    pub fn advance(&self, duration: Duration) {
        self.0.fetch_add(millis(duration), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn pass(&self, duration: Duration) {
        self.advance(duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_clock_goes_on_where_it_was_when_the_clock_is_set_back() {
        let below = ManualClock::at(1_000);
        let steady = SteadyClock::over(Arc::new(below.clone()));
        let set = |now_ms: i64| {
            below.0.store(now_ms, Ordering::SeqCst);
            steady.now_ms()
        };
        assert_eq!(
            [set(1_500), set(200), set(300), set(100)],
            [1_500, 1_500, 1_600, 1_600]
        );
    }
}
