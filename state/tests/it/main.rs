//! The stores as their users see them: against a model, killed, and over damaged files.

mod crash;
mod directory;
mod engines;
mod expiring;
mod full_disk;
mod marker;
mod model;
mod quarantine;
mod subject;
mod versioned;
