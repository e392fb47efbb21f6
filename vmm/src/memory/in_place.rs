//! Guest memory as accelerators use it in place.

use std::sync::atomic::{AtomicU64, Ordering};

use gmem_devices::accel::HostMemory;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileMemory};

use super::ram::GuestRam;

/// The engine lets accelerators reach only pages that are there and not protected, and takes them back before they leave:
/// no access waits.
impl HostMemory for GuestRam {
    fn read(&self, address: u64, into: &mut [u8]) {
        // Only RAM is ever mapped; a unit with damaged tables reads what it had.
        let _ = GuestRam::read(self, address, into);
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        let _ = GuestRam::write(self, address, bytes);
    }

    fn atomic_add(&self, address: u64, value: u64) -> u64 {
        let word = self
            .view()
            .get_slice(GuestAddress(address), size_of::<u64>());
        let added = word.ok().and_then(|word| {
            let word = word.get_atomic_ref::<AtomicU64>(0).ok()?;
            Some(word.fetch_add(value, Ordering::SeqCst))
        });
        added.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
