//! Chains of descriptors, and the addresses that they may name.

use super::Machine;
use super::attack::Attack;
use crate::virtio::queue;
use gmem_wire::layout::{MMIO_END, MMIO_START, VIRTIO_START};

pub(super) const NEXT: u16 = queue::NEXT;
pub(super) const WRITE: u16 = queue::WRITE;
pub(super) const INDIRECT: u16 = 4;
/// Descriptors in one request, at most.
pub(super) const MOST: usize = 8;

/// A descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

/// A few descriptors.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chain {
    pub(super) descriptors: [Descriptor; MOST],
    pub(super) len: usize,
}

impl Chain {
    /// Adds a descriptor, if there is room.
    pub(super) fn push(&mut self, address: u64, len: u32, writable: bool) {
        if let Some(place) = self.descriptors.get_mut(self.len) {
            let flags = u16::from(writable) * WRITE;
            *place = Descriptor {
                address,
                len,
                flags,
                next: 0,
            };
            self.len += 1;
        }
    }

    /// Links the descriptors, which lie one after the other from `slot` on.
    pub(super) fn link(&mut self, slot: u16) {
        let count = self.len;
        for (index, descriptor) in self.used().iter_mut().enumerate() {
            descriptor.next = slot + index as u16 + 1;
            if index + 1 < count {
                descriptor.flags |= NEXT;
            }
        }
    }

    pub(super) fn used(&mut self) -> &mut [Descriptor] {
        &mut self.descriptors[..self.len]
    }
}

impl<M: Machine> Attack<'_, '_, M> {
    /// Somewhere in the target zone, where any length ends in it, or beyond RAM; or in memory that may be plugged in, or
    /// be unplugged at this moment.
    pub(super) fn target(&mut self, align: u64) -> u64 {
        let room = self.pluggable.end - self.pluggable.start;
        if room > 0 && self.chance(8) {
            return self.pluggable.start + self.random.below(room) / align * align;
        }
        self.zone(align)
    }

    /// Somewhere in the target zone.
    pub(super) fn zone(&mut self, align: u64) -> u64 {
        let zone = self.arena.target();
        let len = zone.end - zone.start;
        let offset = match self.random.below(8) {
            // Close to the end.
            0 => len - 1 - self.random.below(4096),
            _ => self.random.below(len),
        };
        zone.start + offset / align * align
    }

    /// Somewhere that a device may read: where its bytes are obeyed, it is the list of pages, or of commands, alone.
    pub(super) fn source(&mut self) -> u64 {
        match self.kind.unit() {
            Some(_) => self.arena.numbers(self.cpu),
            None => self.target(1),
        }
    }

    /// Where no memory is, plugged in or not.
    pub(super) fn nowhere(&mut self) -> u64 {
        let end = self.arena.end();
        let any = self.random.bits();
        match self.random.below(10) {
            0 => end,
            1 => end + any % (1 << 28),
            2 => MMIO_START + any % 64,
            3 => VIRTIO_START + any % 0x2000,
            4 => MMIO_END - 1 - any % 64,
            5 => u64::MAX - any % 64,
            6 => u64::MAX - any % (1 << 20),
            7 => (1 << 63) + any % (1 << 20),
            8 => (1 << 47) + any % (1 << 20),
            _ => any | 1 << 45,
        }
    }

    /// The same, or memory that may not be plugged in: devices may write there, and nothing there is obeyed.
    pub(super) fn elsewhere(&mut self) -> u64 {
        match self.random.below(4) {
            0 => MMIO_END + self.random.below(1 << 31),
            _ => self.nowhere(),
        }
    }
}
