//! The machine, as the image sees it.

pub mod console;
pub mod cpu;
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
}

impl Machine for Bare<'_> {
    fn barrier(&self) {
        self.barrier.wait(self.cpus);
    }

    fn line(&self, text: fmt::Arguments<'_>) {
        console::print!("{text}\n");
    }
}
