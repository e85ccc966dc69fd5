//! The platform from landing files to result files, on the embedded log.

mod bad_input;
mod demo;
mod support;
mod verify;
