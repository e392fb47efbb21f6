//! A driver of virtio-xpu.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gmem_devices::virtio::fuzz::xpu(bytes));
