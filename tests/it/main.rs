//! End-to-end tests against real components.

mod bad_input;
mod conformance;
mod groups;
mod kills;
mod log_contract;
mod reset;
mod schema_registry;
