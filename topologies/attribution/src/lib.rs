//! Click-through attribution.
