//! Drivers of accelerators (virtio-xpu) and of the memory system's door (virtio-gmem).

pub mod calls;
pub mod gmem;
pub mod stream;
pub mod xpu;

use crate::virtio::registers::{DEVICE_ID, MAGIC, MAGIC_VALUE, Registers};
use crate::work::Machine;
use gmem_wire::layout::VIRTIO_DEVICES;

/// How long a device may take for one request, microseconds.
pub const PATIENCE_US: u64 = 60_000_000;

/// Which of the microVM's virtio devices these drivers are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    numbers: [usize; VIRTIO_DEVICES],
    count: usize,
    /// Number of the virtio-gmem, if there is one.
    pub gmem: Option<usize>,
}

impl Present {
    /// Looks at all devices.
    pub fn find<M: Machine>(machine: &M) -> Self {
        let mut present = Self::default();
        for number in 0..machine.devices().min(VIRTIO_DEVICES) {
            let registers = Registers::new(machine, number);
            if registers.read(MAGIC) != MAGIC_VALUE {
                continue;
            }
            match registers.read(DEVICE_ID) {
                gmem_wire::xpu::ID => {
                    present.numbers[present.count] = number;
                    present.count += 1;
                }
                gmem_wire::gmem::ID => present.gmem = present.gmem.or(Some(number)),
                _ => {}
            }
        }
        present
    }

    /// Numbers of the accelerators, as devices.
    pub fn accelerators(&self) -> &[usize] {
        &self.numbers[..self.count]
    }
}
