//! What the tests share.

pub mod driver;
pub mod faulty_log;
pub mod restore_log;
pub mod windows;
pub mod world;
