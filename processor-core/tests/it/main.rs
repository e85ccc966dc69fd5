//! The DSL and the runtime from the outside: topologies on the test driver and on the embedded log.

mod attribution;
mod dead_letter;
mod foreign_key_join;
mod grouped;
mod grouped_table;
mod idle;
mod plan;
mod process;
mod repartition_time;
mod runtime;
mod session;
mod simulation;
mod sinks;
mod sliding;
mod stateless;
mod stream_join;
mod support;
mod suppress;
mod table;
mod table_join;
mod table_values;
mod time_windows;
mod timestamps;
mod topology;
mod unlimited;
mod windowed;
