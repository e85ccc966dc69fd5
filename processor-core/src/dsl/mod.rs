//! The typed language of topologies: streams, tables, groups, windows and joins.
//!
//! Every handle is typed by its key and value; operators with state take a name, and from it come the names of stores,
//! changelogs and repartition topics, so a topology keeps its state when operators are added around it.

mod aggregation;
mod attribution;
mod buffered;
mod builder;
mod changed;
mod cogroup;
mod count_windows;
mod deduplicate;
mod early;
mod encoding;
mod finals;
mod foreign_key_join;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod grace_join;
mod grouped;
mod grouped_table;
mod headers;
mod join_all;
mod late;
mod lateness;
mod lineage;
mod map_values_async;
mod merge;
mod old_values;
mod options;
mod outlet;
mod panes;
mod print;
mod read_back;
mod repartition;
mod session;
mod sink;
mod sliding;
mod split;
mod stateless;
mod stream;
mod stream_join;
mod stream_table_join;
mod suppress;
mod table;
mod table_join;
mod table_values;
mod time_windows;
mod timestamp_extractor;
mod to_table;
mod transform_values;
mod unlimited;
mod versioned_table;
mod view;
mod window_aggregate;
mod window_rows;
mod windowed;
mod windowing;
mod windows;

pub use crate::task::FutureBound;
pub use attribution::{
    Attributed, Attribution, AttributionRules, AttributionStatus, AttributionWithoutGrace,
    Conversion, Credit, Model, Revisions, Touch, TouchWindow,
};
pub use builder::StreamsBuilder;
pub use cogroup::{CogroupedStream, SessionCogroup, WindowedCogroup};
pub use count_windows::{CountWindowedStream, CountWindows};
pub use deduplicate::{Deduplicated, Duplicate};
pub use early::EarlyFire;
pub use grace_join::JoinedAsOf;
pub use grouped::{Grouped, KGroupedStream};
pub use grouped_table::KGroupedTable;
pub use join_all::{JoinAllWindow, JoinAllWithoutGrace, JoinSides, JoinedAll};
pub use late::Late;
pub use lineage::{Lineage, MergeWith, Partitioned, Rekeyed};
pub use map_values_async::AsyncCalls;
pub(crate) use options::InputTime;
pub use options::{Consumed, Produced, Route};
pub(crate) use repartition::{Keyless, repartition_once};
pub use session::{SessionTable, SessionWindowedStream, SessionWindows, SessionsWithoutGrace};
pub use sliding::{SlidingWindows, SlidingWithoutGrace};
pub use split::Split;
pub use stream::KStream;
pub use stream_join::{JoinWindows, JoinWithoutGrace, Joined};
pub use suppress::{Buffer, WhenFull};
pub use table::{GlobalTable, KTable};
pub use time_windows::{TimeWindows, WithoutGrace};
pub(crate) use timestamp_extractor::Extracted;
pub use timestamp_extractor::TimestampExtractor;
pub use unlimited::UnlimitedWindows;
pub use versioned_table::VersionedTable;
pub use windowed::{TimeWindowedStream, WindowedTable};
pub use windows::Windows;
