//! Real time that has passed.

use std::time::Duration;

use processor_core::clock::{Clock as _, Deadline, SystemClock};

const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Measures from its start, up to a day.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Deadline);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Deadline::after(LONGEST))
    }

    pub fn elapsed(self) -> Duration {
        LONGEST.saturating_sub(self.0.remaining())
    }
}

/// Lets `duration` pass.
pub(crate) fn pause(duration: Duration) {
    SystemClock.pass(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_only_goes_forward() {
        let watch = Stopwatch::start();
        let first = watch.elapsed();
        assert!(watch.elapsed() >= first);
        assert!(watch.elapsed() < LONGEST);
    }
}
