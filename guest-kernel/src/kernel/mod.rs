//! The machine, as the image sees it.

pub mod console;
pub mod cpu;
mod mmio;
pub mod probes;
pub mod sync;

use core::fmt;
use guest_kernel::work::Machine;

/// The bare machine beneath the workloads.
pub struct Bare<'a> {
    /// Of the CPUs that work.
    pub barrier: &'a sync::Barrier,
    /// How many they are.
    pub cpus: usize,
    /// Virtio devices.
    pub devices: usize,
}

impl Machine for Bare<'_> {
    fn barrier(&self) {
        self.barrier.wait(self.cpus);
    }

    fn line(&self, text: fmt::Arguments<'_>) {
        console::print!("{text}\n");
    }

    fn nap(&self, tens_us: u8) {
        cpu::out8(gmem_wire::port::NAP, tens_us);
    }

    fn devices(&self) -> usize {
        self.devices
    }

    fn read_device(&self, device: usize, offset: u64, width: u8) -> u64 {
        mmio::read(device, offset, width)
    }

    fn write_device(&self, device: usize, offset: u64, width: u8, value: u64) {
        mmio::write(device, offset, width, value);
    }
}
