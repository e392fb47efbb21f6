//! A split queue (virtio 1.2, 2.7), as a driver uses it that follows the rules.

use crate::extent::Extent;

/// Flag of a descriptor: another one follows.
pub const NEXT: u16 = 1;
/// Flag of a descriptor: the device writes there.
pub const WRITE: u16 = 2;

/// A buffer: address, bytes, and whether the device writes it.
pub type Buffer = (u64, u32, bool);

/// Where a queue's parts are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places {
    /// Table of descriptors.
    pub table: u64,
    /// Ring of what the driver offers.
    pub avail: u64,
    /// Ring of what the device has done.
    pub used: u64,
}

/// A queue, and how far it got.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    places: Places,
    size: u16,
    offered: u16,
    taken: u16,
}

impl Queue {
    /// A queue of `size` descriptors, a power of two.
    pub const fn new(places: Places, size: u16) -> Self {
        Self {
            places,
            size,
            offered: 0,
            taken: 0,
        }
    }

    /// Where it is.
    pub fn places(&self) -> Places {
        self.places
    }

    /// How many descriptors it has.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Nothing was offered, and nothing done. The device must have been reset.
    pub fn forget(&mut self, ram: &Extent<'_>) {
        (self.offered, self.taken) = (0, 0);
        ram.put64(self.places.avail, 0);
        ram.put64(self.places.used, 0);
    }

    /// Puts a request into descriptors from `slot` on, and offers it; the device is not notified.
    pub fn offer(&mut self, ram: &Extent<'_>, slot: u16, buffers: &[Buffer]) {
        for (index, (address, len, writable)) in (slot..).zip(buffers) {
            let last = usize::from(index - slot) + 1 == buffers.len();
            let flags = u16::from(!last) * NEXT + u16::from(*writable) * WRITE;
            let at = self.places.table + 16 * u64::from(index);
            ram.put64(at, *address);
            let rest = u64::from(*len) | u64::from(flags) << 32 | u64::from(index + 1) << 48;
            ram.put64(at + 8, rest);
        }
        let head = self.places.avail + 4 + 2 * u64::from(self.offered % self.size);
        ram.put16(head, slot);
        self.offered = self.offered.wrapping_add(1);
        ram.put16(self.places.avail + 2, self.offered);
    }

    /// The next answer, if it is there: its request's first descriptor, and how many bytes were written.
    pub fn answer(&mut self, ram: &Extent<'_>) -> Option<(u32, u32)> {
        if ram.get16(self.places.used + 2) == self.taken {
            return None;
        }
        let element = self.places.used + 4 + 8 * u64::from(self.taken % self.size);
        self.taken = self.taken.wrapping_add(1);
        Some((ram.get32(element), ram.get32(element + 4)))
    }
}
