//! AdvertiseX: the ad-tech data platform, one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    advertisex::cli::main()
}
