#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shim::fuzz::log_uri(bytes));
