//! End-to-end tests against real components.

mod access;
mod bad_input;
mod broker_away;
mod chaos;
mod conformance;
mod groups;
mod kills;
mod log_contract;
mod producer_faults;
mod reset;
mod schema_registry;
mod standby;
mod verify;
