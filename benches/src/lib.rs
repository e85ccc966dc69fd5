//! Benchmarks of the framework and its peers. `README.md` says what is measured, how, and what came out.

pub mod memory;
pub mod peers;
pub mod restart;

mod arena;
mod child;
mod event;
mod lag;
mod random;
mod reading;
mod stopwatch;
mod termination;
mod usage;
