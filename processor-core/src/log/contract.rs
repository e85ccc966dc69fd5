//! What every log must do, as a suite of functions over [`Log`](super::Log).
