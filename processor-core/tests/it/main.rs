//! The DSL and the runtime from the outside: topologies on the test driver and on the embedded log.

mod grouped;
mod stateless;
mod stream_join;
mod support;
mod windowed;
