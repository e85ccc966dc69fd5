//! The `advertisex` binary, built where the end-to-end tests can start and kill it.

use std::process::ExitCode;

/// sled allocates for every row it touches: a third less CPU time than with the system's allocator (`demo`, 300,000
/// impressions).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    advertisex::cli::main()
}
