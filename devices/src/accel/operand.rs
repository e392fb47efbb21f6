//! Where the operands of a chunk lie: in the accelerator's own memory, or in the guest's, over the link.

use std::cell::Cell;

use gmem_core::hnode::local::LocalMemory as Hbm;
use gmem_core::page::PageNo;

use super::mmu::{Aperture, Target};
use super::work;

/// The guest's memory, as an accelerator reaches it in place.
///
/// Only pages that are mapped so are accessed, within one page at a time, and while they are they do not leave: no
/// access waits for a page.
pub trait HostMemory: Send + Sync {
    /// Reads from a guest-physical address on.
    fn read(&self, address: u64, into: &mut [u8]);

    /// Writes from a guest-physical address on.
    fn write(&self, address: u64, bytes: &[u8]);

    /// Adds to the word of 8 bytes at a guest-physical address, a multiple of 8, as a locked instruction of a vCPU does;
    /// returns what was there.
    fn atomic_add(&self, address: u64, value: u64) -> u64;
}

/// The most operands that a chunk has.
pub(super) const OPERANDS: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Place {
    /// Byte offset in the accelerator's memory.
    Local(usize),
    /// Guest-physical address.
    Host(u64),
}

/// An operand's part of a page, in reach for as long as its chunk lasts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand {
    place: Place,
    /// Which of the chunk's it is.
    number: usize,
}

impl Operand {
    /// The start of the accelerator's memory, until it is known where it lies.
    pub(super) const START: Self = Self {
        place: Place::Local(0),
        number: 0,
    };
}

/// All that a chunk may access.
pub(super) struct Reachable<'a> {
    memory: &'a Hbm,
    host: Option<&'a dyn HostMemory>,
    /// Bytes of each operand that crossed the link.
    crossed: [Cell<u64>; OPERANDS],
    /// Bytes accessed in the accelerator's own memory.
    used: Cell<usize>,
}

impl<'a> Reachable<'a> {
    pub(super) fn new(memory: &'a Hbm, host: Option<&'a dyn HostMemory>) -> Self {
        Self {
            memory,
            host,
            crossed: Default::default(),
            used: Cell::new(0),
        }
    }

    /// The chunk's operand `number`, `offset` bytes from the start of `page`, which `target` says lies there; `None` if
    /// that is out of reach.
    pub(super) fn operand(
        &self,
        number: usize,
        page: PageNo,
        target: Target,
        offset: usize,
    ) -> Option<Operand> {
        let place = match target.aperture {
            Aperture::Local => Place::Local(target.address as usize + offset),
            // Damaged tables may say anything; the address is the page's own.
            Aperture::System if target.address == page.address() && self.host.is_some() => {
                Place::Host(target.address + offset as u64)
            }
            Aperture::System | Aperture::Peer(_) => return None,
        };
        Some(Operand { place, number })
    }

    pub(super) fn read(&self, from: Operand, into: &mut [u8]) {
        match (from.place, self.host) {
            (Place::Local(at), _) => {
                self.memory.read(at, into);
                self.use_up(into.len());
            }
            (Place::Host(at), Some(host)) => {
                host.read(at, into);
                self.cross(from, into.len());
            }
            (Place::Host(_), None) => {}
        }
    }

    pub(super) fn write(&self, to: Operand, bytes: &[u8]) {
        match (to.place, self.host) {
            (Place::Local(at), _) => {
                self.memory.write(at, bytes);
                self.use_up(bytes.len());
            }
            (Place::Host(at), Some(host)) => {
                host.write(at, bytes);
                self.cross(to, bytes.len());
            }
            (Place::Host(_), None) => {}
        }
    }

    /// Adds to a word; returns what was there.
    pub(super) fn atomic_add(&self, at: Operand, value: u64) -> u64 {
        match (at.place, self.host) {
            (Place::Local(at), _) => {
                self.use_up(size_of::<u64>());
                work::atomic_add(self.memory.word(at), value)
            }
            (Place::Host(address), Some(host)) => {
                self.cross(at, size_of::<u64>());
                host.atomic_add(address, value)
            }
            (Place::Host(_), None) => 0,
        }
    }

    /// Bytes of each operand that crossed the link.
    pub(super) fn crossed(&self) -> [u64; OPERANDS] {
        self.crossed.each_ref().map(Cell::get)
    }

    /// Bytes accessed in the accelerator's own memory.
    pub(super) fn used(&self) -> usize {
        self.used.get()
    }

    fn use_up(&self, bytes: usize) {
        self.used.set(self.used.get() + bytes);
    }

    fn cross(&self, operand: Operand, bytes: usize) {
        let crossed = &self.crossed[operand.number];
        crossed.set(crossed.get() + bytes as u64);
    }
}
