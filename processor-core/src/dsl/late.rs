//! Records that come too late for their window: a stream of their own where somebody reads it, else counted.

use crate::error::Result;
use crate::log::Timestamp;
use crate::processor::{Context, Fanout};
use crate::record::{Data, Record};

/// A record that came after its window had closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late<V> {
    /// The record's value.
    pub value: V,
    /// Start of the window it was meant for, in epoch milliseconds.
    pub window_start: Timestamp,
    /// End of that window.
    pub window_end: Timestamp,
    /// The operator's stream time when it came.
    pub stream_time: Timestamp,
}

/// The late branch of an aggregation in a task.
pub(crate) struct LateBranch<K, L> {
    operator: String,
    children: Fanout<K, Late<L>>,
}

impl<K: Data, L: Data> LateBranch<K, L> {
    pub(crate) fn new(operator: &str, children: Fanout<K, Late<L>>) -> Self {
        Self {
            operator: operator.to_owned(),
            children,
        }
    }

    /// Nobody reads the branch.
    fn drop(
        &self,
        context: &mut Context<'_>,
        timestamp: Timestamp,
        (from, to): (Timestamp, Timestamp),
        stream_time: Timestamp,
    ) -> Result {
        let operator = &self.operator;
        let why = || {
            format!(
                "a record of {timestamp} is too late for operator '{operator}' and its window from {from} to {to}: \
                 stream time is {stream_time}"
            )
        };
        if !context.keep_late(why)? {
            metrics::counter!("dropped-records", "reason" => "late").increment(1);
            tracing::debug!(%operator, timestamp, from, stream_time, "a late record is dropped; take the late branch to keep it");
        }
        Ok(())
    }

    /// Forwards a record that was meant for `window`, from its start to its end, as what `show` makes of its value.
    pub(crate) fn take<V>(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, V>,
        show: impl FnOnce(&K, V) -> L,
        window: (Timestamp, Timestamp),
        stream_time: Timestamp,
    ) -> Result {
        let (window_start, window_end) = window;
        if self.children.is_empty() {
            return self.drop(context, record.timestamp, window, stream_time);
        }
        let late = record.map_value(|key, value| Late {
            value: show(key, value),
            window_start,
            window_end,
            stream_time,
        });
        self.children.forward(context, late)
    }
}
