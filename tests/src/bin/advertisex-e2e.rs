//! The `advertisex` binary, built where the end-to-end tests can start and kill it.

use std::process::ExitCode;

fn main() -> ExitCode {
    advertisex::cli::main()
}
