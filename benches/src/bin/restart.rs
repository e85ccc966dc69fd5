//! `cargo xtask bench restart`: see `benches/README.md`.

use std::process::ExitCode;

/// As in the `advertisex` binary: sled allocates for every row it touches.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bench_suite::restart::main()
}
