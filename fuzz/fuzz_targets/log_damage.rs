#![no_main]

use fuzz as _;

libfuzzer_sys::fuzz_target!(|data: &[u8]| processor_core::fuzzing::log_damage(data));
