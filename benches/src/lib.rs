//! Benchmarks of the framework and its peers.
