//! Small runs of the benches on a real broker, so that they do not rot.

mod restart;
