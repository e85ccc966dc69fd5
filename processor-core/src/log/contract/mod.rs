//! What every log must do, as a suite of functions over [`Log`].
//!
//! A test binary that brings its own log runs each of [`all`] by name, with a prefix that makes the names of topics,
//! groups and transactional ids unique on that log. Real brokers are slow and answer late: every expectation that
//! needs time is polled for, up to [`PATIENCE`]. Offsets are judged relative to each other, because logs differ in how many
//! control records they write. A broken expectation panics and says which.

mod clients;
mod groups;
mod reading;
mod topics;
mod transactions;

use super::Log;

pub use clients::PATIENCE;
pub use reading::a_position_before_the_head_goes_where_the_reset_says;

/// A case: its name, and the function that panics when the log breaks the promise.
pub type Case = (&'static str, fn(&dyn Log, &str));

/// All cases.
#[must_use]
pub fn all() -> &'static [Case] {
    macro_rules! cases {
        ($($module:ident: $($case:ident),+;)+) => {
            &[$($((stringify!($case), $module::$case as fn(&dyn Log, &str))),+),+]
        };
    }
    cases! {
        topics:
            topics_are_created_once,
            another_partition_count_is_refused,
            deleted_topics_are_gone;
        reading:
            records_come_back_as_they_were_sent,
            partitions_are_kept_apart,
            a_reader_can_start_anywhere,
            reset_decides_where_a_new_reader_starts,
            seek_reads_again,
            paused_partitions_are_silent,
            a_pause_ends_where_a_partition_is_released,
            a_partition_that_is_assigned_again_is_read_from_there,
            released_partitions_are_silent,
            a_poll_returns_no_more_than_asked,
            oversized_records_are_rejected;
        transactions:
            open_transactions_are_hidden_until_they_commit,
            aborted_records_are_never_seen,
            a_tail_of_control_records_leaves_no_lag,
            uncommitted_readers_see_everything,
            ends_differ_while_a_transaction_is_open,
            a_newer_producer_fences_the_older,
            init_settles_what_the_predecessor_left_open,
            acknowledged_offsets_are_those_read_back,
            an_empty_transaction_commits,
            a_transaction_spans_partitions,
            a_producer_without_transactions_appends,
            a_commit_without_transactions_says_how_far_it_came,
            the_wrong_order_of_calls_is_refused;
        groups:
            offsets_appear_with_their_transaction,
            aborted_offsets_are_gone,
            metadata_of_four_kilobytes_comes_back,
            offsets_are_committed_without_a_transaction,
            a_lone_member_gets_everything,
            a_member_takes_its_partitions_in_parts,
            co_partitioned_topics_go_together,
            nothing_is_lost_or_doubled_from_one_member_to_two_and_back,
            stale_group_metadata_is_refused,
            an_aborted_batch_is_read_again,
            a_static_member_comes_back_to_its_partitions,
            a_second_static_member_fences_the_first,
            a_group_resumes_where_it_committed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::NewTopic;
    use crate::log::embedded::EmbeddedLog;

    #[test]
    fn the_embedded_log_in_memory_passes() {
        let log = EmbeddedLog::in_memory();
        for (name, case) in all() {
            case(&log, &format!("memory-{name}"));
        }
    }

    #[test]
    fn the_embedded_log_in_files_passes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = EmbeddedLog::open(dir.path()).expect("an empty directory opens");
        for (name, case) in all() {
            case(&log, &format!("files-{name}"));
        }
    }

    #[test]
    fn the_embedded_log_resets_a_position_before_its_head() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let logs = [
            EmbeddedLog::in_memory(),
            EmbeddedLog::open(dir.path()).expect("an empty directory opens"),
        ];
        for log in logs {
            // Records of this suite are from 1970.
            let topic = NewTopic {
                retention_ms: Some(1),
                ..NewTopic::new("cut-t", 1)
            };
            log.create_topics(&[topic]).expect("a new topic");
            let cut = |_: &_| log.clean().expect("it is cleaned");
            a_position_before_the_head_goes_where_the_reset_says(&log, "cut", &cut);
        }
    }
}
