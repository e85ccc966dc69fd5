//! `cargo xtask bench peers`: see `benches/README.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bench_suite::peers::main()
}
