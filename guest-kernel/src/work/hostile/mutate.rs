//! What is done to requests.

use super::Machine;
use super::arena::{INDIRECT_SIZE, NOWHERE, NUMBERS_SIZE};
use super::attack::Attack;
use super::chain::{Chain, Descriptor, INDIRECT, MOST, NEXT, WRITE};

/// Kinds of mutations.
const MUTATIONS: u64 = 14;
/// More than the whole arena.
const HUGE: u64 = 8 << 20;

impl<M: Machine> Attack<'_, '_, M> {
    /// Does something to a linked chain of a queue of `size` descriptors.
    pub(super) fn mutate(&mut self, chain: &mut Chain, slot: u16, size: u16) {
        let at = self.random.below(chain.len.max(1) as u64) as usize;
        let any = self.random.bits();
        let mutation = self.random.below(MUTATIONS);
        let (nowhere, elsewhere) = (self.nowhere(), self.elsewhere());
        let before = chain.used().get(at).copied().unwrap_or_default();
        let Some(it) = chain.used().get_mut(at) else {
            return;
        };
        match mutation {
            // A loop, or a way into another request.
            0 => {
                it.flags |= NEXT;
                it.next = slot + any as u16 % (at as u16 + 1);
            }
            1 => {
                it.flags |= NEXT;
                it.next = [size, size.wrapping_add(1), u16::MAX, 0x8000][any as usize % 4];
            }
            2 => {
                it.flags |= NEXT;
                it.next = any as u16 % size.max(1);
            }
            3 | 4 if it.flags & INDIRECT != 0 => it.address = nowhere,
            3 | 4 => it.address = elsewhere,
            5 => it.len = 0,
            6 => it.len = (HUGE + any % (u64::from(u32::MAX) - HUGE)) as u32,
            7 => it.len = u32::MAX - any as u32 % 2,
            8 => it.len = any as u32 % 600,
            9 => self.turn(chain, at, before),
            // Any flags: what would be a table of descriptors must not be where devices write.
            10 => {
                it.flags = any as u16;
                if it.flags & INDIRECT != 0 {
                    it.address = nowhere;
                } else {
                    self.turn(chain, at, before);
                }
            }
            11 => chain.len -= 1,
            12 => {
                let other = any as usize % chain.len;
                chain.used().swap(at, other);
            }
            _ => self.hide(chain, slot),
        }
    }

    /// A buffer changes its direction, and with it the place that it may have.
    fn turn(&mut self, chain: &mut Chain, at: usize, before: Descriptor) {
        let source = self.source();
        let target = self.target(1);
        let flags = chain.used()[at].flags;
        let flags = match flags == before.flags {
            true => flags ^ WRITE,
            false => flags,
        };
        let descriptor = &mut chain.used()[at];
        if flags & INDIRECT != 0 {
            return;
        }
        descriptor.flags = flags;
        match flags & WRITE {
            0 => {
                descriptor.address = source;
                if self.kind.unit().is_some() {
                    descriptor.len %= 4096;
                }
            }
            _ => descriptor.address = target,
        }
    }

    /// Puts the chain into an indirect table, in a right way or a wrong one.
    fn hide(&mut self, chain: &mut Chain, slot: u16) {
        let Some(table) = self.indirect_table(MOST as u64) else {
            return;
        };
        let mut hidden = *chain;
        hidden.link(0);
        let wrong = self.random.below(12);
        let any = self.random.bits();
        if wrong == 0 {
            // A table in the table.
            let place = any as usize % hidden.len.max(1);
            if let Some(it) = hidden.used().get_mut(place) {
                it.flags |= INDIRECT;
                it.address = table;
                it.len = 16 * MOST as u32;
            }
        }
        let count = hidden.len;
        for (index, descriptor) in (0..).zip(hidden.used().iter()) {
            self.put(table + 16 * index, *descriptor);
        }
        let nowhere = self.nowhere();
        let area = self.arena.indirect(self.cpu);
        let (address, len) = match wrong {
            1 => (nowhere, 16 * count as u32),
            2 => (table, 0),
            3 => (table, 16 * count as u32 - 1 - any as u32 % 15),
            // More than can be numbered.
            4 => (table, !15),
            5 => (table, 16 << 16),
            // All that was ever hidden: more than one request may have.
            6 => (area, INDIRECT_SIZE as u32),
            7 => (nowhere, !15),
            _ => (table, 16 * count as u32),
        };
        let flags = match wrong {
            8 => INDIRECT | NEXT,
            9 => INDIRECT | WRITE,
            _ => INDIRECT,
        };
        *chain = Chain::default();
        chain.len = 1;
        chain.descriptors[0] = Descriptor {
            address,
            len,
            flags,
            next: slot,
        };
    }

    /// Room for an indirect table that was not used since the last reset.
    pub(super) fn indirect_table(&mut self, descriptors: u64) -> Option<u64> {
        let offset = self.indirect_used;
        let end = offset + 16 * descriptors;
        (end <= INDIRECT_SIZE).then(|| {
            self.indirect_used = end;
            self.arena.indirect(self.cpu) + offset
        })
    }

    /// A request of many descriptors: one loop through a whole indirect table.
    pub(super) fn long_request(&mut self) -> Option<Chain> {
        let count = [300, 1024, 1025, 2000][self.random.below(4) as usize];
        let table = self.indirect_table(count)?;
        let endless = self.random.below(2) == 0;
        let writable = self.random.below(2) == 0;
        for index in 0..count {
            let address = match writable {
                true => self.target(1),
                false => self.source(),
            };
            let last = index + 1 == count;
            let next = if last { 0 } else { index as u16 + 1 };
            let descriptor = Descriptor {
                address,
                len: 1 + self.random.below(512) as u32,
                flags: u16::from(writable) * WRITE + u16::from(!last || endless) * NEXT,
                next,
            };
            self.put(table + 16 * index, descriptor);
        }
        let mut chain = Chain::default();
        chain.push(table, 16 * count as u32, false);
        chain.used()[0].flags = INDIRECT;
        Some(chain)
    }

    /// Writes a descriptor.
    pub(super) fn put(&self, at: u64, descriptor: Descriptor) {
        let Descriptor {
            mut address,
            mut len,
            flags,
            next,
        } = descriptor;
        if let Some(unit) = self.kind.unit()
            && flags & (WRITE | INDIRECT) == 0
        {
            // Such a device reads a request's buffers as one. Behind one of another length, the numbers of pages, or the
            // addresses in a command, would be made of two halves, and be any.
            len &= !(unit - 1);
            let numbers = self.arena.numbers(self.cpu);
            if !(numbers..numbers + NUMBERS_SIZE).contains(&address) {
                address |= NOWHERE;
            }
        }
        self.arena.put64(at, address);
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.arena.put64(at + 8, rest);
    }
}
