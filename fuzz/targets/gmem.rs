//! A driver of virtio-gmem.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gmem_devices::virtio::fuzz::gmem(bytes));
