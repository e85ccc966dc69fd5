//! Whether somebody below a table reads the old values of its changes.
//!
//! As in Kafka Streams, whoever needs them asks while the topology is built, and the question travels up to the tables
//! that the asked one derives from. Nobody works out an old value that was not asked for, and a filter that was asked
//! keeps quiet about a row that it refused before and refuses again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The question, as one table keeps it.
#[derive(Clone, Default)]
pub(crate) struct OldValues(Arc<Asked>);

#[derive(Default)]
struct Asked {
    asked: AtomicBool,
    /// Of the tables this one derives from.
    above: Vec<OldValues>,
}

impl OldValues {
    /// Of a table that derives from others.
    pub(crate) fn derived(above: Vec<OldValues>) -> Self {
        Self(Arc::new(Asked {
            asked: AtomicBool::new(false),
            above,
        }))
    }

    pub(crate) fn ask(&self) {
        self.0.asked.store(true, Ordering::Relaxed);
        for above in &self.0.above {
            above.ask();
        }
    }

    /// Asked once the topology is complete, that is while a task is made.
    pub(crate) fn asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_reaches_the_tables_above_and_not_those_beside() {
        let (top, beside) = (OldValues::default(), OldValues::default());
        let filtered = OldValues::derived(vec![top.clone()]);
        let other = OldValues::derived(vec![top.clone()]);
        filtered.ask();
        assert!(filtered.asked() && top.asked());
        assert!(!other.asked() && !beside.asked());
    }
}
