//! What the tests share.

pub mod driver;
pub mod world;
