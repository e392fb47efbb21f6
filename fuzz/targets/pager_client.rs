//! A server of the pager.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gmem_core::pager::fuzz::client(bytes));
