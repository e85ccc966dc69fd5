//! What the repository needs around its code: a real Kafka broker and a real schema registry on this machine, the Kafka
//! Streams peer of the benchmarks, and the checks that CI runs.
//!
//! `cargo xtask` is the command line over this library. End-to-end tests and benchmarks use it directly:
//!
//! ```no_run
//! use xtask::broker::{Broker, Options};
//!
//! # fn main() -> anyhow::Result<()> {
//! let dir = std::env::temp_dir().join("my-test");
//! let mut broker = Broker::start(&dir, &Options::default())?;
//! println!("{}", broker.bootstrap()); // 127.0.0.1:…, ready for clients
//! broker.kill()?; // as kill -9 does
//! broker.restart()?; // same data, same ports
//! # Ok(())
//! # } // dropping the broker kills it
//! ```
//!
//! Nothing here is needed to build or to run the product. Linux only: processes are identified through `/proc`.

pub mod broker;
pub mod checks;
pub mod jars;
mod javac;
pub mod leashed;
pub mod local;
pub mod oracle;
pub mod peers;
pub mod port;
pub mod process;
pub mod registry;
pub mod repo;
pub mod stopwatch;
mod tally;
