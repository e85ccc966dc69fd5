//! End-to-end tests against real components.

mod log_contract;
