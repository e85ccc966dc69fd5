//! How late a record may be where each input has a time of its own.
//!
//! One time for all inputs would be that of the fastest, and make the records of a slower one late. With a time for each,
//! the slowest holds back what needs all of them instead.

use crate::log::Timestamp;

/// The grace of an operator, and how long it waits for an input that has gone quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lateness {
    pub(crate) grace_ms: i64,
    pub(crate) idle_after_ms: Option<i64>,
}

impl Lateness {
    pub(crate) fn with_grace(grace_ms: i64) -> Self {
        Self {
            grace_ms,
            idle_after_ms: None,
        }
    }

    /// The time that counts for an input that has come to `own`, when the furthest one has come to `furthest`.
    pub(crate) fn time(self, own: Timestamp, furthest: Timestamp) -> Timestamp {
        match self.idle_after_ms {
            Some(idle_ms) => own.max(furthest.saturating_sub(idle_ms)),
            None => own,
        }
    }

    /// The least timestamp that is in time on an input at `time`.
    pub(crate) fn in_time_from(self, time: Timestamp) -> Timestamp {
        time.saturating_sub(self.grace_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_input_counts_as_so_far_behind_the_furthest_and_no_further() {
        let mut lateness = Lateness::with_grace(5);
        assert_eq!(lateness.time(10, 1_000), 10);
        lateness.idle_after_ms = Some(100);
        assert_eq!(lateness.time(10, 1_000), 900);
        assert_eq!(lateness.time(901, 1_000), 901);
        assert_eq!(lateness.in_time_from(900), 895);
    }
}
