//! `cargo run --release -p bench-suite --bin memory`: see `benches/README.md`.

use std::process::ExitCode;

/// As in the `advertisex` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bench_suite::memory::main()
}
