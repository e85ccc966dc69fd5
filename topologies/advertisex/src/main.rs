//! AdvertiseX: the ad-tech data platform, one binary.

use std::process::ExitCode;

/// sled allocates for every row it touches: a third less CPU time than with the system's allocator (`demo`, 300,000
/// impressions).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    advertisex::cli::main()
}
