//! Queues that are where no queue should be.

use super::Machine;
use super::attack::Attack;
use super::chain::{Chain, Descriptor};
use super::score::Score;

impl<M: Machine> Attack<'_, '_, M> {
    /// Puts parts of a queue where no RAM is, or half of them. Only a table stays at its place, if it is to be in RAM:
    /// what is in it is obeyed.
    pub(super) fn wicked_queue(&mut self, number: usize) {
        let size = u64::from(self.queues[number].size);
        let end = self.arena.end();
        for _ in 0..1 + self.random.below(2) {
            let nowhere = self.nowhere();
            let inside = self.target(4);
            let neighbour = self.random.below(end) & !1;
            let any = self.random.below(16);
            let places = &mut self.queues[number].places;
            match self.random.below(10) {
                0 => places.table = nowhere & !15,
                1 => places.table = nowhere,
                // The last descriptor is beyond the end.
                2 => places.table = end - 16 * (size - 1),
                3 => places.avail = nowhere & !1,
                4 => places.avail = end - 2 * size,
                // A device may read all memory.
                5 => places.avail = neighbour,
                6 => places.used = nowhere & !3,
                7 => places.used = end - 8 * size,
                8 => places.used = inside,
                // Not aligned: refused, so that it stays where a reset has put it, or half of it does.
                _ => places.avail = inside + any,
            }
        }
    }

    /// The device writes its used ring over what it reads: over the available ring, or over its descriptors.
    ///
    /// In the second case addresses come about that nobody wrote. An element of the ring is the head of a request and
    /// how many bytes were written. With the ring at the table, or 8 bytes after, an address is made of a length (low)
    /// and a head (high), or of a length alone if the head was not written yet. So heads are from 2 on here, and the
    /// descriptors beneath have addresses beyond RAM in their high halves: whatever is written so far, the address is
    /// beyond RAM, and beyond what may be plugged in, up to 4 GiB of it: it may be taken for a table's.
    pub(super) fn overlaid_queue(&mut self, number: usize) {
        let over_table = self.chance(60) && self.queues[number].size >= 8;
        let later = 8 * self.random.below(2);
        let size = self.queues[number].size;
        let places = &mut self.queues[number].places;
        places.used = match over_table {
            true => places.table + later,
            false => places.avail,
        };
        let places = *places;
        // The ring covers half of the table, and a few bytes.
        let beneath = u16::from(over_table) * (size / 2 + 2);
        for slot in 0..size {
            let mut chain = Chain::default();
            if slot >= beneath {
                chain = self.request(number);
            }
            // One descriptor each; some lead into those beneath the ring.
            let first = chain.used().first().copied().unwrap_or_default();
            let descriptor = Descriptor {
                address: match slot < beneath {
                    true => 1 << 40 | self.random.bits() << 4,
                    false => first.address,
                },
                len: first.len,
                flags: first.flags | u16::from(self.random.below(4) == 0),
                next: self.random.below(size.into()) as u16,
            };
            self.put(places.table + 16 * u64::from(slot), descriptor);
        }
        for at in 0..u64::from(size) {
            let head = 2 + self.random.below(u64::from(size.max(3)) - 2) as u16;
            self.arena.put16(places.avail + 4 + 2 * at, head);
        }
    }

    /// Makes what lies in overlaid queues available, piece by piece.
    pub(super) fn stir(&mut self, score: &mut Score) {
        let mut index = [0u16; super::arena::QUEUES];
        for _ in 0..1 + self.random.below(24) {
            score.attacks += 1;
            let number = self.random.below(self.kind.queues() as u64) as usize;
            let size = self.queues[number].size;
            index[number] = index[number].wrapping_add(1 + self.random.below(size.into()) as u16);
            let avail = self.queues[number].places.avail;
            self.arena.put16(avail + 2, index[number]);
            self.registers.notify(number as u32);
            if self.chance(30) {
                self.pause(100);
            }
        }
        self.pause(500);
    }
}
