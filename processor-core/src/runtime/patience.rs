//! How long something may go on failing.

use std::time::Duration;

use crate::clock::Deadline;

/// For a failure that comes again and again, though each time something was done about it.
///
/// ```text
///  fails ─── fails ─ fails ──────── fails   given up: it has failed for as long as it may
///  fails ─ fails ──────────────────── fails a new one: for a long time it did not
///  fails ─── fails ─ renewed ────── fails   a new one
/// ```
#[derive(Debug, Default)]
pub(crate) struct Patience(Option<Failing>);

#[derive(Debug, Clone, Copy)]
struct Failing {
    until: Deadline,
    forgotten: Deadline,
}

impl Patience {
    /// It failed. Whether it has done so for `limit` by now, without `quiet` in between.
    pub(crate) fn is_over(&mut self, limit: Duration, quiet: Duration) -> bool {
        let until = match self.0 {
            Some(failing) if !failing.forgotten.passed() => failing.until,
            _ => Deadline::after(limit),
        };
        let forgotten = Deadline::after(quiet);
        self.0 = Some(Failing { until, forgotten });
        until.passed()
    }

    /// Whether it has failed since it was renewed.
    pub(crate) fn is_strained(&self) -> bool {
        self.0.is_some()
    }

    /// It went well.
    pub(crate) fn renew(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    #[test]
    fn it_is_over_when_it_has_failed_for_so_long_and_not_after_it_went_well() {
        let mut patience = Patience::default();
        assert!(!patience.is_over(LONG, LONG) && patience.is_strained());
        assert!(!patience.is_over(LONG, LONG));
        patience.renew();
        assert!(!patience.is_strained());
        assert!(patience.is_over(Duration::ZERO, LONG));
        // The limit is that of the first failure.
        assert!(patience.is_over(LONG, LONG));
        patience.renew();
        assert!(!patience.is_over(LONG, LONG));
    }

    #[test]
    fn what_lies_far_back_does_not_count() {
        let mut patience = Patience::default();
        assert!(patience.is_over(Duration::ZERO, Duration::ZERO));
        assert!(!patience.is_over(LONG, LONG));
    }
}
